"""A real receiver of OpenTelemetry's protocol, which keeps what it got."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.http import ask
from tests.support.process import Process, found, in_venv


class Otlp(Process):
    """It takes OTLP over HTTP and over gRPC, and tells what came."""

    name = "ddapm-test-agent"
    count_of_ports = 3

    @property
    def http(self) -> str:
        """Where it takes OTLP over HTTP: ``/v1/traces``, ``/v1/metrics`` and ``/v1/logs`` below it."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def grpc(self) -> str:
        """Where it takes OTLP over gRPC, as gRPC takes the address."""
        return f"127.0.0.1:{self.ports[1]}"

    def command(self) -> Sequence[str | Path]:
        http, grpc, agent = self.ports
        return [
            found(self.name, "make systems", in_venv("otlp", f"bin/{self.name}")),
            *("--otlp-http-port", str(http)),
            *("--otlp-grpc-port", str(grpc)),
            *("--port", str(agent)),
            *("--log-level", "WARNING"),
        ]

    def ready(self) -> bool:
        return self.received("traces") == []

    def received(self, signal: str) -> list[Any]:
        """The requests since the last ``clear``, of ``traces``, ``metrics`` or ``logs``.

        What came as JSON is as it came; of what came as protobuf the fields have their names of there, with _.
        """
        requests: list[Any] = ask(f"{self.http}/test/session/{signal}")
        return requests

    def spans(self) -> list[dict[str, Any]]:
        """Every span that was received."""
        return [
            span
            for request in self.received("traces")
            for resource in _either(request, "resourceSpans", "resource_spans")
            for scope in _either(resource, "scopeSpans", "scope_spans")
            for span in scope.get("spans", [])
        ]

    def clear(self) -> None:
        """Forget what came."""
        ask(f"{self.http}/test/session/clear")


def _either(document: dict[str, Any], *names: str) -> list[Any]:
    return next((document[name] for name in names if name in document), [])
