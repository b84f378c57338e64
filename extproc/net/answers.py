"""What an answer over HTTP looks like when it is a refusal."""

from __future__ import annotations

import orjson


def fault_body(code: str, message: str) -> bytes:
    """The body of a refusal."""
    return orjson.dumps({"code": code, "message": message})
