"""A real Prometheus and a real Alertmanager."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

from tests.support.http import ask
from tests.support.process import Process, found

OFTEN = "200ms"
"""How often targets are scraped and rules evaluated. The first time is about five seconds after the start."""


class _Monitoring(Process):
    """What both have in common: a configuration in a file, YAML of which JSON is a part, and a page that says ready."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def configuration(self) -> Mapping[str, Any]:
        """What stands in its file."""
        raise NotImplementedError

    def prepare(self) -> None:
        (self.folder / "config.yml").write_text(json.dumps(self.configuration()))

    def command(self) -> Sequence[str | Path]:
        return [
            found(self.name, "make systems"),
            f"--config.file={self.folder}/config.yml",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def ready(self) -> bool:
        ask(f"{self.url}/-/ready")
        return True


class Alertmanager(_Monitoring):
    """It posts every alert to ``webhook`` at once."""

    name = "prometheus-alertmanager"

    def __init__(self, webhook: str) -> None:
        super().__init__()
        self._webhook = webhook

    def configuration(self) -> Mapping[str, Any]:
        """All alerts go the one way."""
        return {
            "route": {"receiver": "webhook", "group_wait": "0s", "group_interval": "1s"},
            "receivers": [{"name": "webhook", "webhook_configs": [{"url": self._webhook}]}],
        }

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), f"--storage.path={self.folder}", "--cluster.listen-address="]


class Prometheus(_Monitoring):
    """It scrapes ``targets``, addresses with a path or else a page /metrics, and tells ``alertmanager`` of ``rules``.

    Rules in a ``rule_file`` it evaluates too.
    """

    name = "prometheus"

    def __init__(
        self,
        *targets: str,
        rules: Sequence[Mapping[str, Any]] = (),
        rule_file: Path | None = None,
        alertmanager: Alertmanager | None = None,
    ) -> None:
        super().__init__()
        self._targets = targets
        self._rules = rules
        self._rule_files = ["rules.yml", *([str(rule_file)] if rule_file is not None else [])]
        self._alertmanager = alertmanager

    def configuration(self) -> Mapping[str, Any]:
        """A job for each target."""
        told = [] if self._alertmanager is None else [f"127.0.0.1:{self._alertmanager.port}"]
        return {
            "global": {"scrape_interval": OFTEN, "scrape_timeout": OFTEN, "evaluation_interval": OFTEN},
            "scrape_configs": [_job(*target.partition("/")) for target in self._targets],
            "rule_files": self._rule_files,
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": told}]}]},
        }

    def prepare(self) -> None:
        super().prepare()
        groups = [{"name": "tests", "rules": [*self._rules]}]
        (self.folder / "rules.yml").write_text(json.dumps({"groups": groups}))

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), f"--storage.tsdb.path={self.folder}/data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of every series that the expression gives now."""
        result = ask(f"{self.url}/api/v1/query?{urlencode({'query': expression})}")["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]


def _job(address: str, _slash: str, path: str) -> Mapping[str, Any]:
    return {
        "job_name": address,
        "metrics_path": f"/{path or 'metrics'}",
        "static_configs": [{"targets": [address]}],
    }


class Page:
    """A page /metrics that says ``text``."""

    def __init__(self, text: str) -> None:
        content = text.encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A scrape that takes too long is ended by whoever scrapes."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Nobody is there any more."""
        self._server.shutdown()
        self._server.server_close()


HOSTILE = ('"', "'", "\\", '"} or vector(9) #', "a.b", "axb", ".*", "a|b", "\u00fc\u2028", "{{args.x}}", "$1", "`")
"""Texts that would be something else than text in PromQL, or in a regular expression."""


class ScrapingPrometheus(Prometheus):
    """One that has scraped a page: ``errors`` by version, and ``odd``, whose label ``is`` is each of ``HOSTILE``."""

    def __init__(self) -> None:
        lines = ['errors{version="3"} 0.25', 'errors{version="4"} 0.75']
        for number, text in enumerate(HOSTILE):
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'odd{{is="{quoted}"}} {number}')
        self.page = Page("\n".join([*lines, ""]))
        super().__init__(self.page.address)

    def ready(self) -> bool:
        return super().ready() and len(self.query("odd")) == len(HOSTILE)

    def close(self) -> None:
        super().close()
        self.page.close()
