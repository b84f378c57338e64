"""Names of files: any bytes to the system, Unicode to everybody who is told of them."""

from __future__ import annotations


def is_unicode(name: str) -> bool:
    """Whether a name can be written down: in a store, as JSON, for an engine."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
