"""The address that Envoy sends its access log to, checked before it is taken, and what the observer is told."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.errors import InvalidInput
from extproc.net.endpoints import FolderLock, TcpEndpoint, UnixEndpoint, prepare_folder, probe_tcp, probe_unix
from extproc.net.listening import ACCESS_LOG, Listening
from extproc.serve.worker_config import ObserverConfig, as_config, of_tls
from extproc.state import StateFolder


def take_observer(listening: Listening, workers: Sequence[UnixEndpoint | TcpEndpoint]) -> FolderLock | None:
    """See that the endpoint is free, and ours from now on; the lock of a Unix socket.

    Raises:
        InvalidInput: as for workers; ``address_in_use`` also where one of ``workers`` listens; ``address_invalid`` for
            port 0, which Envoy would not know.
    """
    endpoint, flag = listening.endpoint, ACCESS_LOG.flag
    if endpoint in workers:
        raise InvalidInput.of("address_in_use", f"a worker listens on {endpoint.target}", field=flag)
    if isinstance(endpoint, TcpEndpoint):
        if endpoint.port == 0:
            raise InvalidInput.of("address_invalid", f"{endpoint.target!r} has no port", field=flag)
        probe_tcp(endpoint, flag)
        return None
    prepare_folder(endpoint.path.parent, flag)
    lock = FolderLock([endpoint], endpoint.path.name, flag)
    probe_unix(endpoint, lock.take(), flag)
    return lock


def observer_config(listening: Listening, store: str, state: StateFolder) -> ObserverConfig:
    """What the observer is told."""
    return ObserverConfig(
        store=store,
        state=state.prefix,
        tokens=str(listening.tokens) if listening.tokens is not None else None,
        open_to_all=listening.open_to_all,
        **as_config(listening.endpoint),
        **of_tls(listening.tls),
    )
