"""What workers and the observer are told to do: known to the supervisor, which loads none of what they load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from extproc.net.endpoints import FolderLock, TcpEndpoint, UnixEndpoint
from extproc.net.listening import ACCESS_LOG, Listening
from extproc.net.tls import TlsFiles

GRPC: Final = "grpc"
HTTP: Final = "http"
TRANSPORTS: Final = (GRPC, HTTP)
"""How Envoy may ask."""

DROP: Final = "drop"
WAIT: Final = "wait"
STABLE: Final = "stable"
WHEN_FULL: Final = (DROP, WAIT, STABLE)
"""What may become of decisions that find the decision log full."""


@dataclass(frozen=True, slots=True)
class ShownShare:
    """The share of decisions, in hundredths of a percent, that a worker sends to the socket ``fd``, which it has."""

    fd: int
    share: int


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker is told to serve; travels as JSON. Paths are absolute or relative to the supervisor's folder.

    ``state`` is the prefix of the ``StateFolder``; ``log_full`` says what becomes of decisions for whose events there
    is no room; ``memory`` are the bytes that it may hold, 0 for no limit.
    ``policy_shadow`` is what of its decisions it shows to other policies, None where there are none.
    """

    index: int
    store: str
    state: str
    unix: str | None = None
    lock: str | None = None
    host: str | None = None
    port: int = 0
    features: str | None = None
    policy_engine: str | None = None
    sinks: Sequence[str] = ()
    log_full: str = DROP
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    drain_timeout: float = 10.0
    decision_deadline: float = 4.0
    observed: bool = False
    memory: int = 0
    policy_shadow: ShownShare | None = None

    @property
    def inherited(self) -> Sequence[int]:
        """The descriptors that it has from the start."""
        return () if self.policy_shadow is None else (self.policy_shadow.fd,)

    @property
    def endpoint(self) -> UnixEndpoint | TcpEndpoint:
        """Where to listen."""
        return _endpoint(self.unix, self.host, self.port)

    @property
    def tls(self) -> TlsFiles | None:
        """The certificates to serve with."""
        return _tls(self.tls_certificate, self.tls_key, self.tls_client_ca)


@dataclass(frozen=True, slots=True)
class ObserverConfig:
    """What the observer is told; travels as JSON. Paths and ``state`` as in ``WorkerConfig``."""

    store: str
    state: str
    unix: str | None = None
    host: str | None = None
    port: int = 0
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    tokens: str | None = None
    open_to_all: bool = False

    @property
    def endpoint(self) -> UnixEndpoint | TcpEndpoint:
        """Where Envoy sends its access log."""
        return _endpoint(self.unix, self.host, self.port)

    @property
    def listening(self) -> Listening:
        """How it is taken there."""
        return Listening(
            self.endpoint,
            ACCESS_LOG.flag,
            tls=_tls(self.tls_certificate, self.tls_key, self.tls_client_ca),
            tokens=Path(self.tokens) if self.tokens is not None else None,
            open_to_all=self.open_to_all,
        )


@dataclass(frozen=True, slots=True)
class PolicyShadowConfig:
    """What the policy shadow is told; travels as JSON. ``state``, ``sinks`` and ``memory`` as in ``WorkerConfig``."""

    state: str
    sinks: Sequence[str]
    memory: int
    policy_engine: str | None = None


@dataclass(frozen=True, slots=True)
class ObserverPlan:
    """What is to observe. ``lock`` is that of its socket, None for a port."""

    config: ObserverConfig
    command: Sequence[str]
    lock: FolderLock | None = None


@dataclass(frozen=True, slots=True)
class PolicyShadowPlan:
    """Which policies decisions are compared with, and for which ``share`` of them, in hundredths of a percent.

    Decisions are read from the socket ``shown``.
    """

    share: int
    shown: int
    config: PolicyShadowConfig
    command: Sequence[str]


@dataclass(frozen=True, slots=True)
class SafetyPlan:
    """Where kills and trips of this host are kept, and the folder of the sockets that take kills."""

    file: Path
    sockets: Path


def as_config(endpoint: UnixEndpoint | TcpEndpoint) -> dict[str, Any]:
    """``endpoint`` as the arguments of either config; see ``of_tls``."""
    if isinstance(endpoint, UnixEndpoint):
        return {"unix": str(endpoint.path)}
    return {"host": endpoint.host, "port": endpoint.port}


def of_tls(tls: TlsFiles | None) -> dict[str, Any]:
    """``tls`` as the arguments of either config."""
    if tls is None:
        return {}
    authority = str(tls.client_ca) if tls.client_ca is not None else None
    return {"tls_certificate": str(tls.certificate), "tls_key": str(tls.key), "tls_client_ca": authority}


def _tls(certificate: str | None, key: str | None, client_ca: str | None) -> TlsFiles | None:
    if certificate is None or key is None:
        return None
    return TlsFiles(Path(certificate), Path(key), Path(client_ca) if client_ca else None)


def _endpoint(unix: str | None, host: str | None, port: int) -> UnixEndpoint | TcpEndpoint:
    if unix is not None:
        return UnixEndpoint(Path(unix))
    assert host is not None
    return TcpEndpoint(host, port)
