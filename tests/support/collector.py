"""A log service as OPAs have one: takes gzip'd arrays of events, unless it is told to do otherwise."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support.local_http import LocalHttpServer, QuietHandler

TAKEN = 200


class Upload(NamedTuple):
    """One request, as it came; ``texts`` are the events in it, each byte by byte."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def texts(self) -> list[str]:
        """The events as they were written."""
        text, decoder, found = gzip.decompress(self.body).decode(), json.JSONDecoder(), []
        assert (text[0], text[-1]) == ("[", "]")
        at = 1
        while at < len(text) - 1:
            _, end = decoder.raw_decode(text, at)
            found.append(text[at:end])
            at = end + 1
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events."""
        return list(map(json.loads, self.texts))


class Collector(LocalHttpServer):
    """``uploads`` are those that it took. ``answer`` says what an upload gets: a status, or one with headers.

    It may wait in ``answer``: each upload has a thread of its own.
    """

    def __init__(
        self,
        answer: Callable[[Upload], Any] = lambda upload: TAKEN,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.asked: list[Upload] = []
        self.uploads: list[Upload] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802  # http.server's name
                body = self.rfile.read(int(self.headers["content-length"]))
                upload = Upload(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                with collector._lock:
                    collector.asked.append(upload)
                answer = collector.answer(upload)
                if answer is None:  # no answer at all
                    self.close_connection = True
                    return
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                if 200 <= status < 300:
                    with collector._lock:
                        collector.uploads.append(upload)
                self.send_response(status)
                for name, value in {"content-length": "2", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if headers.get("content-length") != "0":
                    self.wfile.write(b"{}")

        super().__init__(Handler, port=port, tls=tls)

    @property
    def texts(self) -> list[str]:
        """All events that it took, as they were written, in their order."""
        return [text for upload in self.uploads for text in upload.texts]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that it took, in their order."""
        return list(map(json.loads, self.texts))
