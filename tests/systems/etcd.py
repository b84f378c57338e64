"""A real etcd, through its gateway that speaks JSON."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.http import ask
from tests.support.process import Process, found

EVERYTHING = {"key": b64encode(b"\0").decode(), "range_end": b64encode(b"\0").decode()}


class Etcd(Process):
    """One member, which waits for no disk."""

    name = "etcd"
    count_of_ports = 2

    @property
    def url(self) -> str:
        """Where clients ask it."""
        return f"http://127.0.0.1:{self.ports[0]}"

    def command(self) -> Sequence[str | Path]:
        peer = f"http://127.0.0.1:{self.ports[1]}"
        return [
            found(self.name, "make systems"),
            *("--data-dir", self.folder / "data"),
            *("--listen-client-urls", self.url),
            *("--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
            *("--log-level", "warn"),
            "--unsafe-no-fsync",
        ]

    def ready(self) -> bool:
        return bool(ask(f"{self.url}/health")["health"] == "true")

    def call(self, path: str, message: dict[str, Any]) -> Any:
        """Its answer at a path of the gateway, as in ``kv/txn``; keys and values are base64 in both."""
        return ask(f"{self.url}/v3/{path}", message)

    def put(self, key: str, value: str) -> int:
        """Write a value; the revision that has it."""
        answer = self.call("kv/put", {"key": _encoded(key), "value": _encoded(value)})
        return int(answer["header"]["revision"])

    def get(self, key: str) -> str | None:
        """The value at a key, if there is one."""
        values = self.call("kv/range", {"key": _encoded(key)}).get("kvs", [])
        return _decoded(values[0]["value"]) if values else None

    @contextmanager
    def watch(self, key: str) -> Iterator[Iterator[tuple[str, str]]]:
        """What is written to ``key`` from now on: pairs of PUT or DELETE and the value."""
        create = json.dumps({"create_request": {"key": _encoded(key)}}).encode()
        with urllib.request.urlopen(f"{self.url}/v3/watch", create, timeout=60) as stream:
            answers = (json.loads(line)["result"] for line in stream)
            assert next(answers)["created"]
            yield (
                (event.get("type", "PUT"), _decoded(event["kv"].get("value", "")))
                for answer in answers
                for event in answer.get("events", [])
            )

    def clear(self) -> None:
        """Forget every key."""
        self.call("kv/deleterange", EVERYTHING)


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return b64decode(text).decode()
