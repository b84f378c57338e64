"""Feature stores that are asked over HTTP, in the words of a template."""
