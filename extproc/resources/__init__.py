"""The documents that people write, and what is checked before one is accepted."""
