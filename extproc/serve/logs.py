"""The server's own log: warnings and errors, a line each, on stderr."""

from __future__ import annotations

import logging
import sys


def configure_logging() -> None:
    """The same for the supervisor and everything that it starts."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="dropout: %(message)s")
