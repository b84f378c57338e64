"""What ``dropout controller`` is told, parsed: light to import, for ``serve`` checks the same flags."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from extproc.net.listening import Listening
from extproc.run.serve_options import PolicyOptions
from extproc.state import StateFolder

if TYPE_CHECKING:
    from extproc.control.analysis.ports import MetricProvider

DEFAULT_LISTEN: Final = "unix:/run/dropout/control.sock"


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """The command line, parsed. ``pipe`` is the socket of the supervisor that started this process.

    ``metrics`` are the metric servers, by their names.
    """

    store: str
    state: StateFolder
    listen: Listening
    envoys: Sequence[tuple[str, int]]
    envoy_dir: Path | None
    feedback: Listening | None
    metrics: Mapping[str, MetricProvider]
    policies: PolicyOptions
    admin: Listening | None
    pipe: int | None


def actor() -> str:
    """Who a controller is, in history."""
    return f"controller@{socket.gethostname()}"
