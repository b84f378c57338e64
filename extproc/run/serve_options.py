"""What ``dropout serve`` is told, parsed. Light to import, because it starts its workers first."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from extproc.net.listening import Listening
from extproc.net.tls import TlsFiles
from extproc.serve.supervisor.children import AuxiliaryCommand
from extproc.state import StateFolder


@dataclass(frozen=True, slots=True)
class PolicyShadowOptions:
    """The folder of ``--policies-shadow``, its share (hundredths of a percent), and where it is shown decisions."""

    folder: Path
    share: int
    writing: socket.socket
    reading: socket.socket


POLICIES: Final = "--policies"
VERIFICATION_KEY: Final = "--verification-key"
STATUS: Final = "--status"


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """Folders, bundles and addresses of bundles; whose signatures are believed; who is told the status of bundles."""

    places: tuple[str, ...]
    keys: tuple[Path, ...] = ()
    scope: str = ""
    status: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses among the places."""
        return tuple(place for place in self.places if place.startswith(("http://", "https://")))


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The command line, parsed; of the flags in its order. ``beside`` is what runs beside the workers."""

    store: str
    state: StateFolder
    policies: PolicyOptions
    transport: str
    admin: Listening
    rollouts: Path | None
    prune: bool
    features: str | None
    policy_engine: str | None
    sinks: tuple[str, ...]
    decision_log_full: str
    envoy_dir: Path | None
    envoy_admin: Sequence[tuple[str, int]]
    access_log: Listening | None
    tls: TlsFiles | None
    drain_timeout: float
    decision_deadline: float
    worker_memory: int
    beside: Sequence[AuxiliaryCommand]
    policy_shadow: PolicyShadowOptions | None = None
