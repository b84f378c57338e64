"""What ``dropout controller`` is told, parsed: light to import, for ``serve`` checks the same flags."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput
from extproc.serve.endpoints import TcpEndpoint, UnixEndpoint, parse_host_port, worker_endpoints

DEFAULT_LISTEN: Final = "unix:/run/dropout/control.sock"
FEEDBACK_FLAG: Final = "--feedback-listen"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, parsed. ``pipe`` is the socket of the supervisor that started this process."""

    store: str
    listen: UnixEndpoint
    envoys: Sequence[tuple[str, int]]
    feedback: TcpEndpoint | None
    policies: Path | None
    admin: TcpEndpoint | None
    pipe: int | None


def control_endpoint(address: str, flag: str) -> UnixEndpoint:
    """The socket of the control API.

    Raises:
        InvalidInput: ``address_invalid`` for what is no Unix socket, ``socket_path_too_long``.
    """
    endpoint = worker_endpoints(address, 1)[0] if address.startswith("unix:") else None
    if not isinstance(endpoint, UnixEndpoint):
        raise InvalidInput.of("address_invalid", f"{address!r} is not unix:PATH: callers are known by it.", field=flag)
    return endpoint


def feedback_endpoint(address: str, *, allow_insecure: bool) -> TcpEndpoint:
    """Where labels are taken, ``HOST:PORT``.

    Raises:
        InvalidInput: ``address_invalid``; ``insecure_listen`` where other machines could listen in.
    """
    endpoint = TcpEndpoint(*parse_host_port(address, FEEDBACK_FLAG))
    if not endpoint.loopback and not allow_insecure:
        message = f"{endpoint.target} can be reached from other machines, and tokens would come to it in plain text: "
        message += "say --insecure if something protects it."
        raise InvalidInput.of("insecure_listen", message, field=FEEDBACK_FLAG)
    return endpoint


def actor() -> str:
    """Who a controller is, in history."""
    return f"controller@{socket.gethostname()}"
