"""JSON over HTTP, to servers that tests start."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def ask(url: str, body: Any = None, *, method: str | None = None, content_type: str = "application/json") -> Any:
    """What the server answers: parsed if it is JSON, else its text.

    With a ``body``, text as it is or anything else as JSON, it is a POST unless told otherwise.

    Raises:
        OSError: when nobody answers, or with an error's status.
    """
    data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
    request = urllib.request.Request(url, data, {"content-type": content_type}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    try:
        return json.loads(text)
    except ValueError:
        return text
