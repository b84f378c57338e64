"""The Open Policy Agent as a server that is asked."""
