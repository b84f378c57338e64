"""The command line: flags, and what commands print."""
