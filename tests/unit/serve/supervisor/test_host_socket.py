"""The socket of kills: found by its own user, bounded, deaf to nonsense, there again when somebody removed it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from extproc.control.unmet import HostLacks, Lack
from extproc.net.credentials import Peer
from extproc.serve import hosts as client_module
from extproc.serve.hosts import Answers, HostSockets
from extproc.serve.supervisor import host_socket as module
from extproc.serve.supervisor.host_socket import HostSocket
from extproc.serve.supervisor.safety import HostSafety, StoreAnswer
from extproc.serve.supervisor.safety_file import SafetyFile
from extproc.serve.supervisor.safety_store import SafetyStoreKeeper
from extproc.serve.tasks import Tasks
from extproc.snapshot.held import HeldEntry, HeldKill
from tests.support.dropout import wait_for

KEY = "payments/fraud-detector"
LACKS = (Lack("policy_rule_missing", "spec.policy.path", "no policy has it", "routing/nowhere"),)
KILL = HeldKill("0123456789abcdef", KEY, "alice", 1e9)


class NoStore:
    """A store that is away."""

    def tell(self, entries: Sequence[HeldEntry]) -> StoreAnswer:
        return StoreAnswer({})


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ("a-long-name-" * 8) / ("another-" * 8)  # longer than a socket's path may be


@pytest.fixture
async def safety(tmp_path: Path, folder: Path) -> AsyncIterator[HostSafety]:
    """A ``serve`` whose socket is in ``folder``."""
    nothing = lambda *_: None  # noqa: E731
    file = SafetyFile(tmp_path / "safety", nothing)
    safety = HostSafety(file, changed=nothing, adopted=nothing, warn=nothing)
    await safety.load()
    served = HostSocket(folder, safety, lambda: LACKS, nothing)
    store, tasks = SafetyStoreKeeper(safety, NoStore()), Tasks(nothing)
    for work in (safety.run, store.run, served.run):
        tasks.keep(work.__qualname__, work)
    await asyncio.to_thread(wait_for, HostSockets(folder).present, "a socket", 5)
    yield safety
    await tasks.end()
    served.close()
    await safety.close(store.tell)
    assert names(folder) == []


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def ask(folder: Path, line: bytes) -> bytes:
    """What is answered to ``line``, empty when the connection is closed."""
    with module.reachable(folder) as name:
        (found,) = names(folder)
        reader, writer = await asyncio.open_unix_connection(f"{name}/{found}")
    try:
        writer.write(line)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_it_takes_kills_tells_them_and_ends_them(safety: HostSafety, folder: Path) -> None:
    hosts = HostSockets(folder)
    assert await asyncio.to_thread(hosts.kill, KILL) == Answers(1, 0, 1, (KILL,))
    assert safety.killed == [KEY]
    assert (await asyncio.to_thread(hosts.kills, KEY)).kills == (KILL,)
    ended = await asyncio.to_thread(hosts.restore, KEY, (KILL.id,), "bob", 2e9, stored=False)
    assert (ended.ended, safety.killed) == ((KILL.id,), [])
    assert (await asyncio.to_thread(hosts.kills, KEY)).kills == ()


async def test_it_says_what_it_lacks_and_one_that_cannot_yet_or_of_an_earlier_version_says_nothing_false(
    safety: HostSafety, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unmet() -> HostLacks | None:
        return (await asyncio.to_thread(HostSockets(folder).unmet))[names(folder)[0]]

    assert await unmet() == HostLacks(socket.gethostname(), LACKS)
    monkeypatch.setattr(f"{__name__}.LACKS", None)
    assert await unmet() is None
    monkeypatch.setattr(module, "_read", msgspec.json.Decoder(module.KillHere | module.KillsHere).decode)
    assert await unmet() == HostLacks("", ())


async def test_it_is_its_owners_alone(safety: HostSafety, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = names(folder)
    assert (mode(folder), mode(folder / found)) == (0o700, 0o600)
    monkeypatch.setattr(module, "peer_of", lambda _socket: Peer(os.geteuid() + 1, 1))
    assert await asyncio.to_thread(HostSockets(folder).kill, KILL) == Answers(silent=1)
    assert safety.killed == []


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\n",
        b"[]\n",
        b'{"do": "kill"}\n',
        b'{"do": "dance", "rollout": "a/b"}\n',
        b'{"do": "kill", "rollout": "a/b", "id": "", "actor": "x", "at": 1}\n',
        b'{"do": "kill", "rollout": "a/b", "id": "x", "actor": "x", "at": 1e300}\n',
        b'{"do": "restore", "rollout": "a/b", "kills": 7, "actor": "x", "at": 1}\n',
        b'{"do": "kills", "rollout": "\xff"}\n',
        b'{"do": "kills", "rollout": "a/b", "more": ' + b"[" * 16_000 + b"\n",
        b"x" * 100_000,
    ],
)
async def test_nonsense_kills_nothing_and_is_no_traceback(
    safety: HostSafety, folder: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await ask(folder, line)
    assert answer == b"" or answer.startswith(b'{"error":')
    assert safety.killed == []
    assert caplog.records == []


async def test_a_serve_that_tells_more_of_a_kill_is_understood(
    safety: HostSafety, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"kills": [[*KILL, {"more": 1}]], "kept": True}
    monkeypatch.setattr(client_module, "_answer", lambda _path, _line: told)
    assert HostSockets(folder).kills(KEY) == Answers(1, 0, 1, (KILL,))


async def test_those_that_say_nothing_hold_nobody_up(
    safety: HostSafety, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    idle = [socket.socket(socket.AF_UNIX) for _ in range(module.MAX_CONNECTIONS + 5)]
    with module.reachable(folder) as name:
        (found,) = names(folder)
        for one in idle:
            one.setblocking(False)
            one.connect(f"{name}/{found}")
    await asyncio.to_thread(wait_for, lambda: HostSockets(folder).kill(KILL).reached, "an answer", 5)
    for one in idle:
        one.close()


async def test_one_that_was_removed_is_made_again_and_what_is_left_of_others_goes(
    safety: HostSafety, folder: Path
) -> None:
    (found,) = names(folder)
    with module.reachable(folder) as name, socket.socket(socket.AF_UNIX) as gone:
        gone.bind(f"{name}/gone.sock")
    await asyncio.to_thread((folder / found).unlink)
    await asyncio.to_thread(wait_for, lambda: names(folder) == [found], "the socket alone", 5)
    assert (await asyncio.to_thread(HostSockets(folder).kill, KILL)).reached == 1


async def test_a_state_folder_that_was_taken_away_is_for_its_owner_alone_again(
    safety: HostSafety, folder: Path, tmp_path: Path
) -> None:
    await asyncio.to_thread(folder.parent.rename, tmp_path / "taken away")
    await asyncio.to_thread(wait_for, HostSockets(folder).present, "a socket")
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
