"""A real Prometheus and a real Alertmanager."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    """It scrapes ``targets``, addresses of which each has a page /metrics, and tells ``alertmanager`` of ``rules``."""

    name = "prometheus"

    def __init__(
        self, *targets: str, rules: Sequence[Mapping[str, Any]] = (), alertmanager: Alertmanager | None = None
    ) -> None:
        super().__init__()
        self._targets = targets
        self._rules = rules
        self._alertmanager = alertmanager

    def configuration(self) -> Mapping[str, Any]:
        """One job with all targets, one file with all rules."""
        told = [] if self._alertmanager is None else [f"127.0.0.1:{self._alertmanager.port}"]
        return {
            "global": {"scrape_interval": OFTEN, "scrape_timeout": OFTEN, "evaluation_interval": OFTEN},
            "scrape_configs": [{"job_name": "tests", "static_configs": [{"targets": [*self._targets]}]}],
            "rule_files": ["rules.yml"],
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
