"""What workers and the observer are told to do: known to the supervisor, which loads none of what they load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from extproc.serve.endpoints import FolderLock, TcpEndpoint, UnixEndpoint
from extproc.serve.tls import TlsFiles

GRPC: Final = "grpc"
HTTP: Final = "http"
TRANSPORTS: Final = (GRPC, HTTP)
"""How Envoy may ask."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker is told to serve; travels as JSON. Paths are absolute or relative to the supervisor's folder."""

    index: int
    store: str
    unix: str | None = None
    lock: str | None = None
    host: str | None = None
    port: int = 0
    features: str | None = None
    decision_log: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    drain_timeout: float = 10.0
    decision_deadline: float = 4.0
    observed: bool = False

    @property
    def endpoint(self) -> UnixEndpoint | TcpEndpoint:
        """Where to listen."""
        return _endpoint(self.unix, self.host, self.port)

    @property
    def tls(self) -> TlsFiles | None:
        """The certificates to serve with."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(
            Path(self.tls_certificate), Path(self.tls_key), Path(self.tls_client_ca) if self.tls_client_ca else None
        )


@dataclass(frozen=True, slots=True)
class ObserverConfig:
    """What the observer is told; travels as JSON. Paths as in ``WorkerConfig``."""

    store: str
    unix: str | None = None
    host: str | None = None
    port: int = 0

    @property
    def endpoint(self) -> UnixEndpoint | TcpEndpoint:
        """Where Envoy sends its access log."""
        return _endpoint(self.unix, self.host, self.port)


@dataclass(frozen=True, slots=True)
class ObserverPlan:
    """What is to observe. ``lock`` is that of its socket, None for a port."""

    config: ObserverConfig
    command: Sequence[str]
    lock: FolderLock | None = None


@dataclass(frozen=True, slots=True)
class SafetyPlan:
    """Where kills and trips of this host are kept, and the folder of the sockets that take kills."""

    file: Path
    sockets: Path


def as_config(endpoint: UnixEndpoint | TcpEndpoint) -> dict[str, Any]:
    """``endpoint`` as the arguments of either config."""
    if isinstance(endpoint, UnixEndpoint):
        return {"unix": str(endpoint.path)}
    return {"host": endpoint.host, "port": endpoint.port}


def _endpoint(unix: str | None, host: str | None, port: int) -> UnixEndpoint | TcpEndpoint:
    if unix is not None:
        return UnixEndpoint(Path(unix))
    assert host is not None
    return TcpEndpoint(host, port)
