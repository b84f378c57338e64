"""One listener: whatever is served, however it is reached, the same is asked of who calls, and nobody is in the way."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from extproc.errors import InvalidInput, Refused
from extproc.net import followed_files
from extproc.net.admin import AdminServer
from extproc.net.endpoints import UnixEndpoint, allow_descriptors
from extproc.net.guarded import STRANGERS
from extproc.net.listening import Listening
from extproc.serve.worker.grpc_server import GrpcServer
from extproc.serve.worker.http_server import HttpServer
from extproc.serve.worker_config import WorkerConfig
from tests.support.certificates import identity
from tests.support.listeners import ADDRESSES, AUTHORITY, SERVICES, TOKEN, Served
from tests.support.process import wait_for
from tests.support.stripping import Stripping

EVERYWHERE = list(product(SERVICES, ADDRESSES))
OVER_TCP = [(service, address) for service, address in EVERYWHERE if address != "unix"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with ExitStack() as stack:
        yield lambda service, address, **how: stack.enter_context(Served(service, address, tmp_path, **how))


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """One in which a socket's path is no longer than it may be."""
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at whenever somebody needs what they say."""
    monkeypatch.setattr(followed_files, "CHECK_SECONDS", 0)


# -- who calls


@pytest.mark.parametrize(("service", "address"), EVERYWHERE)
def test_who_shows_a_token_is_known_and_a_wrong_one_is_nobodys(
    serve: Callable[..., Served], service: str, address: str
) -> None:
    served = serve(service, address)
    assert served.ask() == "answered"
    assert served.ask(token="x" * 40) == "refused"
    # The system says who is at the other end of a socket of theirs.
    assert served.ask(token=None) == ("answered" if address == "unix" else "refused")
    assert served.ask() == "answered"


@pytest.mark.parametrize("service", SERVICES)
def test_who_has_a_certificate_of_the_authority_is_known_and_nobody_else(
    serve: Callable[..., Served], service: str
) -> None:
    served = serve(service, "tls", tokens=False, client_ca=True)
    assert served.ask(None, identity("bob", AUTHORITY)) == "answered"
    assert served.ask(None, identity("bob", identity("another authority"))) == "closed"
    assert served.ask(None) == "closed"
    assert served.ask(None, identity("bob", AUTHORITY)) == "answered"


def test_who_acts_is_who_calls_whatever_way_they_come(serve: Callable[..., Served], tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "3").mkdir()
    by_token, by_socket = serve("control", "tcp"), Served("control", "unix", tmp_path / "2")
    by_certificate = Served("control", "tls", tmp_path / "3", tokens=False, client_ca=True)
    with by_socket, by_certificate:
        by_token.ask()
        by_socket.ask(None)
        by_certificate.ask(None, identity("bob", AUTHORITY))
    assert by_token.actors == [("alice", ("deployers", "oncall"))]
    assert by_socket.actors[0].name == pwd.getpwuid(os.getuid()).pw_name
    assert by_certificate.actors == [("certificate:bob", ())]


def test_a_call_that_ends_badly_says_what_to_show(serve: Callable[..., Served]) -> None:
    with closing(serve("control", "tls").remote(token=None)) as nobody, pytest.raises(Refused) as refused:
        nobody.rollouts()
    assert refused.value.code == "unauthorized"
    assert "token" in str(refused.value)


@pytest.mark.parametrize("service", ["admin", "feedback"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_pages_are_for_who_calls_them_by_their_name(serve: Callable[..., Served], service: str, address: str) -> None:
    served = serve(service, address)
    port = f":{served.listener.endpoint.target.rpartition(':')[2]}" if address != "unix" else ""
    for name in ("localhost", f"localhost{port}", f"127.0.0.1{port}", f"[::1]{port}", "dropout.example:1", "LOCALHOST"):
        assert served.ask(host=name) == "answered", name
    for name in (
        "evil.example",
        f"evil.example{port}",
        "localhost:1",
        "localhost.evil.example",
        "",
        "a b",
        "::1",
        "[::1",
    ):
        assert served.ask(host=name) == "421", name
    assert b"host_unknown" in served.get(host="evil.example")[1]
    with served.connect() as connection:
        connection.sendall(b"GET /page HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 421 ")


def test_probes_are_answered_without_a_token_by_their_name_alone(serve: Callable[..., Served]) -> None:
    served = serve("admin", "tcp")
    assert served.get(None, path="/healthz") == (200, b"ok\n")
    assert served.get(None, path="/page")[0] == 401
    assert served.get(None, path="/healthz", host="evil.example")[0] == 421


# -- what changes


@pytest.mark.parametrize("service", SERVICES)
def test_certificates_are_read_again_when_they_change_and_half_ones_are_not_used(
    serve: Callable[..., Served], fresh: None, tmp_path: Path, service: str
) -> None:
    del fresh
    served = serve(service, "tls", tokens=False, client_ca=True)
    bob, another = identity("bob", AUTHORITY), identity("another authority")
    mallory = identity("mallory", another)
    assert served.served_name() == "first"
    (tmp_path / "tls.crt").write_bytes(b"half a file")
    assert served.served_name() == "first"
    identity("second", AUTHORITY).write(tmp_path)
    assert served.served_name() == "second"
    authority = (tmp_path / "ca.crt").read_bytes()
    served.listening.tls.client_ca.write_bytes(another.pem)
    assert served.ask(None, bob) == "closed"
    served.listening.tls.client_ca.write_bytes(authority)
    assert served.ask(None, bob) == "answered"
    assert served.ask(None, mallory) == "closed"


@pytest.mark.parametrize("service", SERVICES)
def test_tokens_are_read_again_when_they_change_and_a_bad_file_is_not_used(
    serve: Callable[..., Served], fresh: None, tmp_path: Path, service: str
) -> None:
    del fresh
    served = serve(service, "tcp")
    (tmp_path / "tokens").write_text(f"# both, for a while\n{TOKEN} alice\n\n{'u' * 40} bob\n")
    assert [served.ask(token) for token in (TOKEN, "u" * 40)] == ["answered"] * 2
    (tmp_path / "tokens").write_text("short\n")
    assert served.ask() == "answered"
    (tmp_path / "tokens").write_text(f"{'u' * 40} bob\n")
    assert [served.ask(token) for token in (TOKEN, "u" * 40)] == ["refused", "answered"]


# -- who is in the way


class Pages:
    """Those of ``--admin``, as a server of a worker is started and stopped."""

    def __init__(self, path: Path) -> None:
        self._listener = AdminServer(Listening(UnixEndpoint(path), "--admin"), {}).listener

    async def start(self) -> None:
        await self._listener.start(first=False)  # who is first sees beforehand that nothing is in the way

    async def stop(self, grace: float) -> None:
        await self._listener.end(grace)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def put_in_the_way(path: Path) -> None:
    (path / "something").mkdir(parents=True)


def unix_sockets() -> str:
    return Path("/proc/self/net/unix").read_text()


SERVERS: dict[str, Callable[[Path], Any]] = {
    "grpc": lambda path: GrpcServer(WorkerConfig(0, "", "", unix=str(path)), Stripping(), lambda fault: None),
    "http": lambda path: HttpServer(WorkerConfig(0, "", "", unix=str(path)), Stripping(), lambda fault: None),
    "pages": Pages,
}


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS)
async def test_a_server_that_cannot_take_its_place_says_so_and_leaves_nothing_once_it_is_stopped(
    make: Callable[[Path], Any], short_folder: Path
) -> None:
    """Its name was free when it was looked at, and is somebody else's when the server is bound and would take it."""
    put_in_the_way(short_folder / "s")
    tasks, server = asyncio.all_tasks(), make(short_folder / "s")
    with pytest.raises(InvalidInput) as refused:
        await server.start()
    assert [fault.code for fault in refused.value.faults] == ["address_invalid"]
    await server.stop(0)
    assert names_in(short_folder) == ["s"]
    assert asyncio.all_tasks() == tasks
    assert str(short_folder) not in unix_sockets(), "nobody listens at its hidden name"


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS)
async def test_a_server_that_was_never_started_can_be_stopped(make: Callable[[Path], Any], short_folder: Path) -> None:
    await make(short_folder / "s").stop(0)
    assert names_in(short_folder) == []


def crowd(served: Served, number: int, said: bytes, *, encrypted: bool) -> list[socket.socket]:
    """Connections that say as much and no more."""
    held = []
    for _ in range(number):
        connection = served.connect(encrypted=encrypted)
        with suppress(OSError):
            connection.sendall(said)
        held.append(connection)
    return held


@pytest.mark.parametrize(("service", "address"), EVERYWHERE)
def test_a_crowd_that_is_slow_keeps_nobody_out(serve: Callable[..., Served], service: str, address: str) -> None:
    allow_descriptors(8192)
    served = serve(service, address)
    held = crowd(served, 64, b"", encrypted=False)
    held += crowd(served, 64, served.half(), encrypted=True)
    assert served.ask() == "answered"
    held += crowd(served, 1000, b"G", encrypted=False)
    assert served.ask() == "answered"
    assert len(served.listener._room) <= STRANGERS + 2
    if service == "admin":
        assert served.get(None, path="/healthz")[0] == 200
    served.pass_time(11)
    wait_for(lambda: len(served.listener._room) <= 2, "the crowd is sent away")
    for connection in held:
        connection.close()


@pytest.mark.parametrize("address", ADDRESSES)
def test_strangers_do_not_end_the_connection_of_who_is_known(serve: Callable[..., Served], address: str) -> None:
    allow_descriptors(8192)
    served = serve("control", address)
    with closing(served.remote()) as remote:
        remote.rollouts()
        before = set(served._server._server._relay._by_peer)
        held = crowd(served, STRANGERS + 50, b"", encrypted=False)
        wait_for(lambda: len(served.listener._room) == STRANGERS + 1, "all that may, are there")
        remote.rollouts()
        assert set(served._server._server._relay._by_peer) == before
        served.pass_time(3600)  # an hour is no reason to end a connection that is in use now and then
        remote.rollouts()
        assert set(served._server._server._relay._by_peer) == before
    for connection in held:
        connection.close()


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_no_http_2_costs_grpc_nothing(serve: Callable[..., Served], address: str) -> None:
    served = serve("observer", address)
    with served.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert served._server._relay._by_peer == {}


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_a_client_does_not_take_is_not_kept(
    serve: Callable[..., Served], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.listeners.PAGE", b"x" * 20_000_000)
    served = serve("admin", address)
    with served.connect() as connection:
        connection.sendall(f"GET /page HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert connection.recv(1) == b"H"
        served.pass_time(6)
        wait_for(lambda: len(served.listener._room) == 0, "it is ended")
    assert served.ask() == "answered"


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_body_that_does_not_come_is_not_waited_for(serve: Callable[..., Served], address: str) -> None:
    served = serve("feedback", address)
    head = f"POST /v1/feedback HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 1000\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(head.encode())
        assert served.ask() == "answered"
        served.pass_time(11)
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
