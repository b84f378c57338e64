"""Servers that are not what a test is asked to take them for."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress

from tests.support.local_http import LocalHttpServer, QuietHandler


class Pretender(LocalHttpServer):
    """Answers every question with ``status`` and ``body``, and notes its headers; ``port`` 0 takes a free one."""

    def __init__(
        self, body: bytes, status: int = 200, *, port: int = 0, tls: ssl.SSLContext | None = None, **headers: str
    ) -> None:
        self.asked: list[Mapping[str, str]] = []
        asked = self.asked

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802  # http.server's name
                asked.append({name.lower(): value for name, value in self.headers.items()})
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                with suppress(ConnectionError):  # who asks has seen enough
                    self.end_headers()
                    self.wfile.write(body)

        super().__init__(Handler, port=port, tls=tls)
