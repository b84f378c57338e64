"""What Envoys know of clusters, from their admin endpoints: asked in the background, so that nobody waits for one."""

from __future__ import annotations

import http.client
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

POLL_SECONDS: Final = 1.0
"""How often each Envoy is asked; less often where its answer takes long, so that it has other things to do, too."""

DEADLINE_SECONDS: Final = 2.0
"""What a whole answer may take."""

STALE_SECONDS: Final = 60.0
"""An answer older than this says nothing any more, and a larger one takes no longer than this between two polls."""

MAX_BYTES: Final = 256 * 1024 * 1024
"""What an answer may have: that of Envoy about ten thousand clusters has tens of megabytes."""

UNANSWERED: Final = (OSError, http.client.HTTPException, ValueError, TypeError, KeyError, AttributeError)
"""What asking and reading the answer raise: there is none, or none that can be read. See ``why_unanswered``."""

_MOST_SHOWN: Final = 40
"""Of an answer that is no Envoy's."""

_CLUSTERS: Final = "/clusters?format=json"
_CHUNK: Final = 1 << 20
_SHARE: Final = 0.1
_FAILED: Final = ("failed_active_health_check", "failed_outlier_check", "pending_active_hc", "pending_dynamic_removal")
_TAKES_REQUESTS: Final = (None, "UNKNOWN", "HEALTHY", "DEGRADED")


class ForeignAnswerError(ValueError):
    """What no admin endpoint of Envoy answers; its text says what it was."""


class Asking(ABC):
    """Has each of the Envoys at ``addresses`` (host, port) asked again and again, on a thread of its own."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self._asked = [threading.Event() for _ in addresses]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(*address, asked), name="envoy-admin", daemon=True)
            for address, asked in zip(addresses, self._asked, strict=True)
        ]

    def start(self) -> None:
        """Begin to ask, if nobody did; done when each has answered, or had the time for it."""
        for thread in self._threads:
            if thread.ident is None:
                thread.start()
        until = time.monotonic() + DEADLINE_SECONDS
        for asked in self._asked:
            asked.wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Ask no more."""
        self._stopping.set()

    @abstractmethod
    def ask(self, host: str, port: int) -> None:
        """Ask one, and keep what it says, or that it says nothing; never raises."""

    def _follow(self, host: str, port: int, asked: threading.Event) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self.ask(host, port)
            asked.set()
            self._stopping.wait(max(POLL_SECONDS, (time.monotonic() - began) / _SHARE))


@dataclass(slots=True)
class _Answer:
    """What one Envoy said last, and when: by cluster what is wrong with it; or why it said nothing."""

    clusters: Mapping[str, str] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)
    fault: str = ""
    """In a sentence, with the address."""


class EnvoyClusters(Asking):
    """``control.readiness.Clusters`` of the Envoys whose admin endpoints (host, port) are ``addresses``."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self._answers = {
            f"{host}:{port}": _Answer(fault=f"Envoy at {host}:{port} was not asked yet") for host, port in addresses
        }
        super().__init__(addresses)

    def unready(self, cluster: str) -> str:
        """Why ``cluster`` cannot take more requests, by the first Envoy that says so; empty if none does."""
        for address, answer in self._answers.items():
            if answer.fault or time.monotonic() - answer.at > STALE_SECONDS:
                return answer.fault or f"Envoy at {address} does not answer"
            wrong = answer.clusters.get(cluster, "is not known")
            if wrong:
                return f"cluster {cluster} {wrong}, says Envoy at {address}"
        return ""

    def ask(self, host: str, port: int) -> None:
        """See ``Asking``."""
        address = f"{host}:{port}"
        try:
            self._answers[address] = _Answer(dict(_clusters(fetch(host, port, _CLUSTERS))))
        except UNANSWERED as error:
            self._answers[address] = _Answer(fault=why_unanswered(address, error))


def ask_clusters(addresses: Sequence[tuple[str, int]]) -> Mapping[str, Mapping[str, str]]:
    """By the address of each Envoy that answers, what is wrong with each cluster that it knows; blocks for that."""
    answers: dict[str, Mapping[str, str]] = {}
    for host, port in addresses:
        with suppress(*UNANSWERED):
            answers[f"{host}:{port}"] = dict(_clusters(fetch(host, port, _CLUSTERS)))
    return answers


def is_silent(error: Exception) -> bool:
    """Whether nobody answered, by the ``error`` of ``UNANSWERED``; else somebody did who is no Envoy."""
    return isinstance(error, (OSError, http.client.IncompleteRead))


def why_unanswered(address: str, error: Exception) -> str:
    """What is wrong at ``address``, by the ``error`` of ``UNANSWERED``."""
    if is_silent(error):
        return f"Envoy at {address} does not answer"
    if isinstance(error, http.client.HTTPException):
        what = "something else than HTTP"
    else:
        what = str(error) if isinstance(error, ForeignAnswerError) else "something else than was asked for"
    return f"Envoy at {address} is none: it answers with {what}, as no admin endpoint of Envoy does"


def fetch(host: str, port: int, path: str, most: int = MAX_BYTES) -> Any:
    """The JSON at ``path``, of ``most`` bytes, within the deadline however slowly it comes. Raises ``UNANSWERED``."""
    until = time.monotonic() + DEADLINE_SECONDS
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ForeignAnswerError(f"status {answer.status}")
        body = bytearray()
        while chunk := answer.read1(_CHUNK):
            body += chunk
            if time.monotonic() > until or len(body) > most:
                raise TimeoutError
        if answer.length:  # its end never came
            raise http.client.IncompleteRead(bytes(body), answer.length)
    finally:
        connection.close()
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        shown = ascii(body[:_MOST_SHOWN].decode(errors="replace"))
        raise ForeignAnswerError(f"{shown}{'...' if len(body) > _MOST_SHOWN else ''}") from None


def _clusters(page: Any) -> Iterator[tuple[str, str]]:
    """Each cluster, and what is wrong with it; empty if it can take requests."""
    for cluster in page["cluster_statuses"]:
        hosts: Sequence[Mapping[str, Any]] = cluster.get("host_statuses", ())
        if not hosts:
            yield cluster["name"], "has no endpoint"
        else:
            yield cluster["name"], "" if any(map(_takes_requests, hosts)) else "has no healthy endpoint"


def _takes_requests(host: Mapping[str, Any]) -> bool:
    health = host.get("health_status", {})
    return health.get("eds_health_status") in _TAKES_REQUESTS and not any(health.get(flag) for flag in _FAILED)
