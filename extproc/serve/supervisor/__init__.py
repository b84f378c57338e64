"""The supervisor of ``dropout serve``: it starts workers, gives them what they serve, watches and replaces them."""
