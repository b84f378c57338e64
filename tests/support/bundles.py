"""A server of bundles as OPAs have one: ETags, and whatever else it is told to answer; it takes their status, too."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from tests.support.local_http import LocalHttpServer, QuietHandler
from tests.systems.opa import opa


class BundleServer(LocalHttpServer):
    """Answers ``GET`` with ``bundle``, or with ``status`` where that is no 200, after ``hung`` is set; keeps status."""

    def __init__(self, *, port: int = 0) -> None:
        self.bundle = b""
        self.status = 200
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked: list[tuple[str, dict[str, str], int]] = []
        self.reports: list[dict[str, Any]] = []
        server = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802  # the library's name
                server.go_on.wait(60)
                etag = f'"{hashlib.sha256(server.bundle).hexdigest()}"'
                known = self.headers.get("If-None-Match") == etag and server.status == 200
                status = 304 if known else server.status
                server.asked.append((self.path, dict(self.headers), status))
                self._answer(status, b"" if known else server.bundle, etag)

            def do_POST(self) -> None:  # noqa: N802
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.reports.append({"path": self.path, **json.loads(body)})
                self._answer(200, b"{}", "")

            def _answer(self, status: int, body: bytes, etag: str) -> None:
                self.send_response(status)
                if etag:
                    self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler, port=port)

    def offer(self, folder: Path, policy: str, revision: str, *arguments: str) -> None:
        """Have the real OPA build a bundle of ``policy``, and answer with it."""
        source = folder / "bundle-source"
        source.mkdir(exist_ok=True)
        (source / "decision.rego").write_text(policy)
        file = folder / "built.tar.gz"
        built = opa("build", "-b", source, "-r", revision, "-o", file, *arguments)
        assert built.returncode == 0, built.stderr
        self.bundle = file.read_bytes()
