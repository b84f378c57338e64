"""OPA's own cases, by the engines that Dropout has."""
