"""A server that others tell things."""

from __future__ import annotations

import json
from queue import Queue
from typing import Any

from tests.support.local_http import LocalHttpServer, QuietHandler


class Webhook(LocalHttpServer):
    """It takes what is posted, anywhere, as JSON; ``posted`` has it in its order."""

    def __init__(self) -> None:
        self.posted: Queue[Any] = Queue()
        posted = self.posted

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802  # http.server's name
                posted.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

        super().__init__(Handler)
        self.url = f"http://{self.address}/"
