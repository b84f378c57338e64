"""The command line's part in observing: the address that Envoy sends its access log to, checked before it is taken."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from extproc.errors import InvalidInput
from extproc.serve.endpoints import (
    FolderLock,
    TcpEndpoint,
    UnixEndpoint,
    prepare_folder,
    probe_tcp,
    probe_unix,
    single_endpoint,
)
from extproc.serve.tls import insecure
from extproc.serve.worker_config import ObserverConfig, as_config

FLAG: Final = "--access-log-listen"
COMMAND: Final = (sys.executable, "-P", "-m", "extproc.cli.observer")
_ORPHANS_LEAVE_SECONDS: Final = 2.0


def observer_endpoint(address: str, workers: Sequence[UnixEndpoint | TcpEndpoint]) -> UnixEndpoint | TcpEndpoint:
    """Where Envoy is to send its access log.

    Raises:
        InvalidInput: when ``address`` is none, or a worker's.
    """
    endpoint = single_endpoint(address, FLAG)
    if endpoint in workers:
        raise InvalidInput.of("address_in_use", f"A worker listens on {endpoint.target}.", field=FLAG)
    return endpoint


def take_observer(endpoint: UnixEndpoint | TcpEndpoint, *, allow_insecure: bool) -> FolderLock | None:
    """See that the endpoint is free, and ours from now on; the lock of a Unix socket.

    Raises:
        InvalidInput: as for workers.
    """
    if isinstance(endpoint, TcpEndpoint):
        if not endpoint.loopback and not allow_insecure:
            raise insecure(endpoint.target, FLAG)
        probe_tcp(endpoint, _ORPHANS_LEAVE_SECONDS, FLAG)
        return None
    prepare_folder(endpoint.path.parent, FLAG)
    lock = FolderLock([endpoint], endpoint.path.name, FLAG)
    probe_unix(endpoint, lock.take(), FLAG)
    return lock


def observer_config(endpoint: UnixEndpoint | TcpEndpoint, store: str) -> ObserverConfig:
    """What the observer is told."""
    return ObserverConfig(store=store, **as_config(endpoint))
