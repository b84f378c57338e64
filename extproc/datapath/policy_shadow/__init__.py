"""A second set of policies beside the one that decides: which decisions it is shown, and what it would make of them."""
