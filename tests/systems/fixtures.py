"""The fixtures of real systems, for every test: a server is started once, and each test finds it empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

import pytest

from tests.support.process import Process
from tests.systems.etcd import Etcd
from tests.systems.opa import Opa
from tests.systems.otlp import Otlp
from tests.systems.postgres import Database, Postgres
from tests.systems.prometheus import ScrapingPrometheus
from tests.systems.resp import Redis, Valkey

System = TypeVar("System")
Server = TypeVar("Server", bound=Process)


@pytest.fixture
def start() -> Iterator[Callable[[AbstractContextManager[System]], System]]:
    """Starts a system that is configured for the test, or a server that the test may break; ended with the test."""
    with ExitStack() as started:
        yield started.enter_context


class Servers:
    """Those that tests share, by their class, each started when it is first asked for."""

    def __init__(self, started: ExitStack) -> None:
        self._started = started
        self._running: dict[type[Process], Process] = {}

    def get(self, kind: type[Server]) -> Server:
        """The one of that class."""
        server = self._running.get(kind)
        if server is None:
            server = self._running[kind] = self._started.enter_context(kind())
        assert isinstance(server, kind)
        return server


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers that tests share."""
    with ExitStack() as started:
        yield Servers(started)


@pytest.fixture
def database(servers: Servers) -> Database:
    """An empty database of PostgreSQL."""
    return servers.get(Postgres).new_database()


@pytest.fixture
def opa(servers: Servers) -> Opa:
    """OPA without a policy."""
    return _emptied(servers.get(Opa))


@pytest.fixture
def redis(servers: Servers) -> Redis:
    """Redis without a key."""
    return _emptied(servers.get(Redis))


@pytest.fixture
def valkey(servers: Servers) -> Valkey:
    """Valkey without a key."""
    return _emptied(servers.get(Valkey))


@pytest.fixture
def etcd(servers: Servers) -> Etcd:
    """etcd without a key."""
    return _emptied(servers.get(Etcd))


@pytest.fixture
def prometheus(servers: Servers) -> ScrapingPrometheus:
    """Prometheus with what its one page says."""
    return servers.get(ScrapingPrometheus)


@pytest.fixture
def otlp(servers: Servers) -> Otlp:
    """A receiver of OTLP to which nothing came yet."""
    return _emptied(servers.get(Otlp))


Emptied = TypeVar("Emptied", Opa, Redis, Valkey, Etcd, Otlp)


def _emptied(server: Emptied) -> Emptied:
    server.clear()
    return server
