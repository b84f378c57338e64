"""Addresses of workers, the folder of their sockets, and the lock that says whose they are."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.errors import InvalidInput
from extproc.net import endpoints as module
from extproc.net.endpoints import (
    FolderLock,
    TcpEndpoint,
    UnixEndpoint,
    has_successor,
    parse_host_port,
    prepare_folder,
    probe_tcp,
    probe_unix,
    single_endpoint,
    worker_endpoints,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="dr-") as name:
        yield Path(name)


def code_of(error: pytest.ExceptionInfo[InvalidInput]) -> str:
    return error.value.code


def test_workers_count_from_0() -> None:
    assert [endpoint.target for endpoint in worker_endpoints("unix:/run/dropout/worker-{worker}.sock", 2)] == [
        "unix:/run/dropout/worker-0.sock",
        "unix:/run/dropout/worker-1.sock",
    ]
    assert [endpoint.target for endpoint in worker_endpoints("127.0.0.1:9000", 2)] == [
        "127.0.0.1:9000",
        "127.0.0.1:9001",
    ]
    assert [endpoint.target for endpoint in worker_endpoints("[::1]:9000{worker}", 1)] == ["[::1]:9000"]


@pytest.mark.parametrize(
    ("listen", "workers", "code"),
    [
        ("unix:/run/one.sock", 2, "listen_needs_worker"),
        ("unix:", 1, "address_invalid"),
        ("unix:/run/", 1, "address_invalid"),
        ("unix:/" + "x" * 107, 1, "socket_path_too_long"),
        ("localhost", 1, "address_invalid"),
        ("localhost:http", 1, "address_invalid"),
        ("localhost:70000", 1, "address_invalid"),
        ("localhost:65535", 2, "address_invalid"),
    ],
)
def test_what_is_no_address_is_said(listen: str, workers: int, code: str) -> None:
    with pytest.raises(InvalidInput) as error:
        worker_endpoints(listen, workers)
    assert code_of(error) == code


@pytest.mark.parametrize("path", ["/run/w-{worker}.sock", "run/w.sock"])
def test_a_path_alone_is_told_as_the_socket_that_was_meant(path: str) -> None:
    for read in (lambda: worker_endpoints(path, 1), lambda: single_endpoint(path, "--admin")):
        with pytest.raises(InvalidInput, match=re.escape(f"{path!r} is not HOST:PORT; did you mean 'unix:{path}'?")):
            read()


def test_one_worker_needs_no_placeholder() -> None:
    assert [endpoint.target for endpoint in worker_endpoints("unix:/run/one.sock", 1)] == ["unix:/run/one.sock"]


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("db", False)]
)
def test_only_loopback_addresses_are_private(host: str, loopback: bool) -> None:
    assert TcpEndpoint(host, 1).loopback is loopback


def test_ipv6_is_written_in_brackets() -> None:
    assert TcpEndpoint(*parse_host_port("[::1]:80", "--admin")).target == "[::1]:80"


def test_the_folder_is_made_private(folder: Path) -> None:
    prepare_folder(folder / "a" / "b")
    assert stat.S_IMODE((folder / "a" / "b").stat().st_mode) == 0o700


OPEN: dict[str, Callable[[Path], object]] = {
    "anybody can write to it": lambda path: path.chmod(0o1777),
    "a group can": lambda path: (os.chown(path, -1, 1), path.chmod(0o770)),
    "it is another user's": lambda path: os.chown(path, 65534, 65534),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("leave", OPEN.values(), ids=OPEN)
def test_a_folder_that_others_could_put_a_socket_into_is_refused(leave: Callable[[Path], object], folder: Path) -> None:
    leave(folder)
    with pytest.raises(InvalidInput) as error:
        prepare_folder(folder, "--admin")
    (fault,) = error.value.faults
    assert (fault.code, fault.file, fault.field) == ("socket_folder_open", str(folder), "--admin")


def test_a_folder_that_is_open_to_nobody_else_is_taken_as_it_is(folder: Path) -> None:
    folder.chmod(0o755)
    prepare_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_file_is_no_folder(folder: Path) -> None:
    (folder / "file").touch()
    for path in (folder / "file", folder / "file" / "below"):
        with pytest.raises(InvalidInput) as error:
            prepare_folder(path)
        assert code_of(error) == "socket_folder_unusable"


NOTES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1) | st.floats() | st.sampled_from(["1", "w-0.sock", ""]),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.sampled_from(["supervisor", "workers", "sockets"]), parts, min_size=2)
    ),
    max_leaves=8,
)


def lock_of(folder: Path) -> FolderLock:
    return FolderLock([UnixEndpoint(folder / "w-0.sock")], str(folder / "w-{worker}.sock"))


def test_one_supervisor_at_a_time_has_the_sockets(folder: Path) -> None:
    first, second = lock_of(folder), lock_of(folder)
    assert first.take() == frozenset()
    with pytest.raises(InvalidInput) as error:
        second.take()
    assert code_of(error) == "address_in_use"
    first.note([7, 8])
    first.note([9])
    first.release()
    assert second.take() == {9}


def test_a_lock_says_whether_somebody_comes_after_a_dead_supervisor(folder: Path) -> None:
    lock = lock_of(folder)
    assert not has_successor(lock.path, 1, "w-0.sock")
    lock.take()
    assert has_successor(lock.path, 1, "w-0.sock")
    assert not has_successor(lock.path, os.getpid(), "w-0.sock")
    assert not has_successor(lock.path, 1, "w-1.sock")  # it has fewer workers, and leaves this socket alone


@given(st.binary() | NOTES.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 20_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_lock_with_anything_in_it_names_nobody_and_can_be_taken(folder: Path, content: bytes) -> None:
    lock = lock_of(folder)
    lock.path.write_bytes(content)
    assert not has_successor(lock.path, 1, "w-0.sock")
    assert lock.take() <= {-1, 0, 1}
    assert has_successor(lock.path, 1, "w-0.sock")
    lock.release()


def test_the_sockets_go_unless_a_successor_has_them(folder: Path) -> None:
    mine, successor = lock_of(folder), lock_of(folder)
    endpoint = UnixEndpoint(folder / "w-0.sock")
    endpoint.path.touch()
    mine.take()
    mine.release()
    successor.take()
    mine.clean_up([endpoint])
    assert endpoint.path.exists()
    successor.release()
    mine.clean_up([endpoint])
    assert list(folder.iterdir()) == []


def test_a_socket_that_answers_is_in_use_unless_it_is_left_over(folder: Path) -> None:
    endpoint = UnixEndpoint(folder / "w-0.sock")
    probe_unix(endpoint, frozenset())
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(endpoint.path))
        other.listen()
        with pytest.raises(InvalidInput) as error:
            probe_unix(endpoint, frozenset())
        assert code_of(error) == "address_in_use"
        probe_unix(endpoint, frozenset({os.getpid()}))
    probe_unix(endpoint, frozenset())


def test_a_file_in_the_way_is_not_removed(folder: Path) -> None:
    (folder / "w-0.sock").write_text("precious")
    with pytest.raises(InvalidInput) as error:
        probe_unix(UnixEndpoint(folder / "w-0.sock"), frozenset())
    assert code_of(error) == "socket_path_taken"


def test_a_port_in_use_is_refused_and_a_free_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ORPHANS_LEAVE_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InvalidInput) as error:
            probe_tcp(TcpEndpoint("127.0.0.1", port))
    assert code_of(error) == "address_in_use"
    probe_tcp(TcpEndpoint("127.0.0.1", port))


def test_a_host_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(InvalidInput) as error:
        probe_tcp(TcpEndpoint("192.0.2.1", 9))
    assert code_of(error) == "address_invalid"
