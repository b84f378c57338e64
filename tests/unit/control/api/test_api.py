"""The control API on its socket: who may, who did, and how errors come back."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc._gen.dropout.v1 import control_pb2 as pb
from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.actions import Abort, Adopt, Kill, Promote, Retry, SetWeight, Undo
from extproc.control.api import client, service
from extproc.control.api.client import RemoteControl
from extproc.control.api.codec import MAX_FAULTS_BYTES, from_rollout, status_code, to_error, to_rollout, to_trailer
from extproc.control.api.server import ControlServer
from extproc.control.api.service import SERVICE
from extproc.errors import DropoutError, Fault, InvalidInput, Refused, Unreachable
from extproc.net.endpoints import UnixEndpoint
from extproc.net.listening import Listening
from extproc.net.relay import PREFACE
from extproc.store.records import StoredRollout, Write
from extproc.store.status import STATUS_FIELDS, Status
from tests.support.clock import FakeClock
from tests.support.control import ServedControl
from tests.support.damage import damage
from tests.support.hearing import Observers
from tests.support.paths import ROOT
from tests.support.rollouts import CANARY, document

KEY = ("payments", "fraud-detector")


def put(store: SqliteStore, name: str = "fraud-detector", **status: Any) -> None:
    standing = Status(**{"stable": "3", "canary": "4", **status})
    store.write([Write("payments", name, None, document(CANARY, name), standing)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "dropout.db", create=True)
    put(store)
    yield store
    store.close()


@pytest.fixture
def served(store: SqliteStore, tmp_path: Path) -> Iterator[ServedControl]:
    with ServedControl(tmp_path / "dropout.db", tmp_path / "run" / "c.sock") as served:
        yield served


@pytest.fixture
def remote(served: ServedControl) -> Iterator[RemoteControl]:
    remote = RemoteControl(served.target)
    yield remote
    remote.close()


# -- messages


def test_every_field_of_a_status_is_in_the_message_and_none_else() -> None:
    written = {field.name.removesuffix("_json") for field in pb.Status.DESCRIPTOR.fields}
    assert written == set(STATUS_FIELDS)


names = st.text(min_size=1, max_size=8)
statuses = st.builds(
    Status,
    stable=names,
    canary=st.none() | names,
    weight=st.integers(0, 10000),
    previous_weight=st.integers(0, 10000),
    effective_at=st.floats(0, 1e12),
    drawn=st.integers(0, 10000),
    shadow=st.integers(0, 10000),
    step=st.integers(0, 1000),
    step_at=st.floats(0, 1e12),
    attempt=st.integers(1, 2**31),
    epoch=st.integers(1, 2**40),
    previous_epoch=st.integers(1, 2**40),
    phase=names,
    reason=names,
    message=st.text(),
    killed=st.booleans(),
    aborted=st.lists(names).map(tuple),
    tripped=st.lists(names).map(tuple),
    spec_stable=st.text(),
    ranges_key=st.text(),
    steps_key=st.text(),
    conditions=st.lists(st.dictionaries(names, st.text())).map(tuple),
    analysis=st.dictionaries(names, st.integers(-9, 9) | st.floats(-9, 9) | st.text() | st.none()),
    kills=st.lists(names).map(tuple),
    restored=st.lists(names).map(tuple),
    numbers=st.dictionaries(names, st.integers(0, 2**32 - 1)),
    lifted=st.dictionaries(names, st.floats(0, 1e12)),
    without=st.lists(names).map(tuple),
    previous=st.just({}) | st.just({"stable": "3", "at": 12.5, "attempt": 2}),
)


@given(statuses, st.none() | names, st.booleans())
def test_a_rollout_comes_back_from_its_message_as_it_was(status: Status, source: str | None, deleted: bool) -> None:
    row = StoredRollout("payments", "a", {"spec": {"coverage": 20, "x": 1.5}}, status, 2**50, source, deleted)
    assert from_rollout(pb.Rollout.FromString(to_rollout(row).SerializeToString())) == row


def test_a_list_carries_of_the_documents_what_it_shows() -> None:
    variants = [{"name": "a", "version": "4", "weight": 50}]
    for spec, listed in (
        ({"model": "m", "variants": variants}, {"spec": {"variants": variants}}),
        ({"model": "m"}, {}),
    ):
        row = StoredRollout("payments", "a", {"spec": spec}, Status("3"), 1)
        assert from_rollout(to_rollout(row, listed=True)).document == listed


@pytest.mark.parametrize(
    ("details", "told"),
    [
        (
            "failed to connect to all addresses; last error: FAILED_PRECONDITION: unix:/run/c.sock: connect failed: "
            "addr: unix:/run/c.sock error: No such file or directory",
            "at unix:/run/c.sock: No such file or directory",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote "
            "host: Connection refused",
            "at ipv4:127.0.0.1:9: Connection refused",
        ),
        ("something new", "there: something new"),
    ],
)
def test_where_nobody_listens_it_is_told_where_why_and_what_to_do(details: str, told: str) -> None:
    (fault,) = to_error(grpc.StatusCode.UNAVAILABLE, details, ()).faults
    assert (fault.code, fault.field) == ("control_unreachable", "--control")
    assert fault.message == f"no controller answers {told}; start one there, or name the store itself by --store"


@pytest.mark.parametrize("kind", [InvalidInput, Refused, Unreachable])
@pytest.mark.parametrize("code", ["not_aborted", "store_locked", "weight_invalid"])
def test_an_error_comes_back_as_it_was(kind: type[DropoutError], code: str) -> None:
    error = kind([Fault(code, "a sentence with ü", field="x"), Fault("other", "another", "file", 3)])
    back = to_error(status_code(error), str(error), to_trailer(error))
    assert (type(back), back.faults) == (kind, error.faults)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput.of("not_found", "x"), grpc.StatusCode.NOT_FOUND),
        (Refused.of("conflict", "x"), grpc.StatusCode.ABORTED),
        (Refused.of("control_denied", "x"), grpc.StatusCode.PERMISSION_DENIED),
        (Refused.of("unauthorized", "x"), grpc.StatusCode.UNAUTHENTICATED),
    ],
)
def test_what_grpc_has_a_status_for_has_that_status(error: DropoutError, status: grpc.StatusCode) -> None:
    assert status_code(error) == status
    assert type(to_error(status, "", to_trailer(error))) is type(error)


def test_faults_that_a_trailer_cannot_carry_are_left_out_and_the_kind_stays() -> None:
    error = Refused.of("not_aborted", "x" * MAX_FAULTS_BYTES)
    assert to_trailer(error) == ()


# -- calls


def test_what_is_done_remotely_is_what_is_done_on_the_store(remote: RemoteControl, store: SqliteStore) -> None:
    result = remote.act(SetWeight(*KEY, 1250))
    assert (result.result, result.message) == ("configured", "weight 0 to 12.5")
    assert result.row == store.get(*KEY) == remote.get(*KEY)
    assert remote.act(SetWeight(*KEY, 1250)).result == "unchanged"
    assert list(remote.history(*KEY, 10)) == list(store.history(*KEY, 10))
    (listed,) = remote.rollouts().rollouts
    assert listed.status == result.row.status


def test_a_rollout_that_cannot_be_read_is_listed_with_why(
    remote: RemoteControl, store: SqliteStore, tmp_path: Path
) -> None:
    damage(tmp_path / "dropout.db", "fraud-detector")
    listed = remote.rollouts()
    assert listed.rollouts == []
    assert listed.unreadable == store.documents().unreadable
    assert [row.fault.code for row in listed.unreadable] == ["store_corrupt"]


def test_every_action_has_a_call_of_its_name(remote: RemoteControl) -> None:
    remote.act(Abort(*KEY))
    remote.act(Retry(*KEY))
    with pytest.raises(InvalidInput, match="no observer on box ever reported"):
        remote.act(Promote(*KEY, full=True, without=("box",)))
    assert remote.act(Promote(*KEY, full=True)).row.status.stable == "4"
    assert remote.act(Undo(*KEY)).row.status.stable == "3"
    remote.act(Kill(*KEY))
    assert remote.act(Adopt(*KEY)).row.status.killed


def test_refusals_keep_their_kind_and_code(remote: RemoteControl) -> None:
    with pytest.raises(InvalidInput) as missing:
        remote.get("payments", "nothing")
    with pytest.raises(Refused) as refused:
        remote.act(Retry(*KEY))
    assert (missing.value.code, refused.value.code) == ("not_found", "not_aborted")
    assert missing.value.exit_code == 2
    assert refused.value.exit_code == 1


def test_a_store_that_is_gone_is_unreachable_and_one_that_comes_back_is_used(
    remote: RemoteControl, tmp_path: Path
) -> None:
    (tmp_path / "dropout.db").rename(tmp_path / "away.db")
    with pytest.raises(Unreachable) as gone:
        remote.get(*KEY)
    assert gone.value.code == "store_unreachable"
    (tmp_path / "away.db").rename(tmp_path / "dropout.db")
    assert remote.get(*KEY).name == "fraud-detector"


def test_a_watch_gives_the_state_then_every_change_and_ends_with_the_deletion(
    remote: RemoteControl, store: SqliteStore
) -> None:
    rows = remote.watch(*KEY)
    before = next(rows)
    remote.act(SetWeight(*KEY, 500))
    assert (before.status.weight, next(rows).status.weight) == (0, 500)
    row = store.get(*KEY)
    assert row is not None
    store.write([Write(*KEY, row.resource_version, delete=True)])
    assert [row.deleted for row in rows] == [True]


def test_a_watch_ends_when_its_time_is_up(remote: RemoteControl) -> None:
    remote.get(*KEY)  # connects, which a busy machine takes longer for than the watch may last
    assert [row.status.weight for row in remote.watch(*KEY, 2)] == [0]


def test_a_watch_of_what_is_not_there_is_not_found(remote: RemoteControl) -> None:
    with pytest.raises(InvalidInput) as missing:
        next(remote.watch("payments", "nothing"))
    assert missing.value.code == "not_found"


def test_watches_are_limited(remote: RemoteControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_WATCHES", 1)
    first = remote.watch(*KEY)
    next(first)
    with pytest.raises(Unreachable) as refused:
        next(remote.watch(*KEY))
    assert "there are 1 watches already" in str(refused.value)


def test_no_controller_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as away:
        RemoteControl(f"unix:{tmp_path}/nobody.sock").rollouts()
    assert (away.value.code, away.value.exit_code) == ("control_unreachable", 3)


@pytest.mark.parametrize(
    "target",
    [
        *("", "unix:", "127.0.0.1:80", "/run/x.sock", "https://", "https:127.0.0.1:80", "https://127.0.0.1"),
        *("https://127.0.0.1:80/path", "http://example.org:80", "dns:127.0.0.1:80"),
    ],
)
def test_an_address_that_is_none_or_not_safe_is_refused(target: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        RemoteControl(target)
    assert refused.value.code == "control_invalid"


def test_a_controller_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", -0.5)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        deaf.listen()
        with pytest.raises(Unreachable) as silent:
            RemoteControl(f"unix:{tmp_path}/deaf.sock").rollouts()
    assert silent.value.code == "control_timeout"


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\xff"])
def test_bytes_that_are_no_message_are_refused(served: ServedControl, data: bytes) -> None:
    with grpc.insecure_channel(served.target) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/Get")(data, timeout=60)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_weight_beyond_all_buckets_and_a_message_beyond_all_measure_are_refused(
    served: ServedControl, remote: RemoteControl
) -> None:
    with pytest.raises(InvalidInput) as refused:
        remote.act(SetWeight(*KEY, 10001))
    assert refused.value.code == "weight_invalid"
    request = pb.RolloutName(name="x" * 100_000).SerializeToString()
    with grpc.insecure_channel(served.target) as channel, pytest.raises(grpc.RpcError) as too_large:
        channel.unary_unary(f"/{SERVICE}/Get")(request, timeout=60)
    assert too_large.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


# -- who waits for whom


class Waiting:
    """A promotion that waits for a silent observer for as long as the block lasts."""

    def __init__(self, folder: Path) -> None:
        clock, self.begun, self.over = FakeClock(), Event(), Event()
        observers = Observers(clock, "a")

        def wait(_seconds: float) -> None:
            self.begun.set()
            assert self.over.wait(60)
            observers.report("a")

        socket_path = folder / "run" / "c.sock"
        self.served = ServedControl(folder / "dropout.db", socket_path, hearing=observers.hearing(), wait=wait)
        self.promotion = Thread(target=self._promote)

    def __enter__(self) -> RemoteControl:
        self.served.__enter__()
        self.promotion.start()
        assert self.begun.wait(60)
        return RemoteControl(self.served.target)

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.promotion.join(60)
        self.served.__exit__(None, None, None)

    def _promote(self) -> None:
        remote = RemoteControl(self.served.target)
        with suppress(DropoutError):
            remote.act(Promote(*KEY, full=True))
        remote.close()


def test_whoever_looks_or_takes_away_waits_for_nobody_who_gives_more(store: SqliteStore, tmp_path: Path) -> None:
    with Waiting(tmp_path) as remote:
        assert remote.get(*KEY).status.stable == "3"
        assert len(remote.rollouts().rollouts) == 1
        assert next(remote.watch(*KEY)).status.stable == "3"
        assert remote.kill(*KEY).kills
        assert remote.act(Abort(*KEY)).row.status.aborted == ("4",)
        remote.close()
    row = store.get(*KEY)
    assert row is not None
    assert (row.status.stable, row.status.killed) == ("3", True)


# -- the socket, and who is at its other end


def test_the_socket_is_its_owners_alone_and_the_only_one(served: ServedControl) -> None:
    folder = served.endpoint.path.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(served.endpoint.path.stat().st_mode) == 0o600
    # gRPC's own socket has no name: nobody can walk around the one where callers are asked who they are.
    assert [path.name for path in folder.iterdir()] == ["c.sock"]


def test_the_actor_is_the_user_that_the_system_names(
    remote: RemoteControl, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    remote.act(Kill(*KEY))
    assert store.history(*KEY)[-1].actor == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_who_was_let_in_acts_in_their_own_name(store: SqliteStore, tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom extproc.control.api.client import RemoteControl\n"
        "from extproc.control.actions import Kill\nos.setgid(65534)\nos.setuid(65534)\n"
        f"RemoteControl(sys.argv[1]).act(Kill(*{KEY!r}))\n"
    )
    with TemporaryDirectory(prefix="dropout-") as name:
        Path(name).chmod(0o711)
        with ServedControl(tmp_path / "dropout.db", Path(name) / "c.sock") as served:
            served.endpoint.path.chmod(0o666)
            environment = {**os.environ, "USER": "root", "LOGNAME": "root", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-c", script, served.target]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert store.history(*KEY)[-1].actor == pwd.getpwuid(65534).pw_name


def test_a_caller_that_did_not_come_through_the_socket_is_nobody(served: ServedControl) -> None:
    """Even with this process's own descriptor of gRPC's socket, and with a name that looks like one of ours."""
    assert served._server is not None
    hidden = f"/proc/self/fd/{served._server._server._relay.hidden}"
    with grpc.insecure_channel(f"unix:{hidden}") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/List")(b"", timeout=60)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_second_server_on_the_same_socket_is_refused(served: ServedControl, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused, ServedControl(tmp_path / "dropout.db", served.endpoint.path):
        pass
    assert refused.value.code == "address_in_use"
    assert RemoteControl(served.target).rollouts().rollouts


def test_a_socket_that_nobody_listens_on_any_more_is_replaced(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "run" / "c.sock"))
    with ServedControl(tmp_path / "dropout.db", tmp_path / "run" / "c.sock") as served:
        assert RemoteControl(served.target).rollouts().rollouts
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_others_can_write_to_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with (
        pytest.raises(InvalidInput) as refused,
        ServedControl(tmp_path / "dropout.db", tmp_path / "run" / "c.sock"),
    ):
        pass
    assert refused.value.code == "socket_folder_open"


@pytest.mark.parametrize("taken", ["the socket", "its folder", "its mode"])
def test_a_socket_that_somebody_takes_away_is_there_again_and_open_connections_go_on(
    served: ServedControl, remote: RemoteControl, taken: str
) -> None:
    path = served.endpoint.path
    assert remote.rollouts().rollouts
    if taken == "its mode":
        path.chmod(0o666)
    else:
        path.unlink()
    if taken == "its folder":
        path.parent.rmdir()
    assert served.check() == ""
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    again = RemoteControl(served.target)
    assert again.rollouts().rollouts
    again.close()
    assert remote.rollouts().rollouts


def test_a_socket_of_somebody_else_is_left_alone_and_said_once(
    served: ServedControl, caplog: pytest.LogCaptureFixture
) -> None:
    path = served.endpoint.path
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert served.check() == served.check() == f"something else listens on {path}"
    assert [record.message for record in caplog.records] == [
        f"listen at {served.target}: nobody finds it: something else listens on {path}"
    ]
    assert served.check() == ""  # it answers no more
    again = RemoteControl(served.target)
    assert again.rollouts().rollouts
    again.close()


async def test_a_server_that_stops_leaves_no_connection_behind(tmp_path: Path) -> None:
    listening = Listening(UnixEndpoint(tmp_path / "run" / "c.sock"), "--listen")
    server = ControlServer(listening, lambda who, lane: pytest.fail(f"{who} asked for {lane}"))
    await server.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "run" / "c.sock")
    writer.write(PREFACE)
    await reader.readexactly(1)  # gRPC's greeting: the connection is relayed
    await server.stop(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await reader.read()  # to its end
    writer.close()
