"""Kills and trips between hosts and the store: in whatever order, what stands is what nobody ended by its id."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.access import DirectControl
from extproc.control.acting import act
from extproc.control.actions import Apply, Kill, Restore
from extproc.control.emergency import Emergency
from extproc.control.result import ActionResult
from extproc.errors import InvalidInput, Unreachable
from extproc.resources.loading import load_valid
from extproc.run.safety import StoreRegister
from extproc.serve.hosts import Answers
from extproc.serve.supervisor import safety as module
from extproc.serve.supervisor.safety import HostSafety
from extproc.serve.supervisor.safety_file import SafetyFile
from extproc.serve.supervisor.safety_store import SafetyStoreKeeper
from extproc.snapshot.held import HeldKill, HeldTrip
from extproc.snapshot.trips import LocalTrip
from extproc.state import StateFolder
from extproc.store.status import Status
from tests.support.rollouts import CANARY, EXPERIMENT, document

NAME = ("payments", "fraud-detector")
KEY = "/".join(NAME)
TRIP = LocalTrip(KEY, "4", 1, at=1e9, why="10 requests in a row failed")


class Environment:
    """A store that can be away, a ``serve`` on its host that can be away, and an operator."""

    def __init__(self, folder: Path, spec: dict[str, object] = CANARY) -> None:
        self.url = f"sqlite:{folder / 'dropout.db'}"
        self.folder = folder
        self.spec = spec
        self.store_is_away = self.serve_is_away = False
        self.register = StoreRegister(self.url, StateFolder.of(self.url, None).safety)
        self.emergency = Emergency(self._act, self, "alice", SystemClock())
        self.make_store()
        self.restart()

    def make_store(self) -> None:
        """A store, a new one if there was one, with the rollout in it."""
        for file in self.folder.glob("dropout.db*"):
            if file.suffix != ".safety":
                file.unlink()
        (file := self.folder / "rollout.yaml").write_bytes(orjson.dumps(document(self.spec)))
        store = open_store(self.url, create=True)
        act(store, "alice", Apply(load_valid([file])), SystemClock())
        store.close()

    def restart(self) -> None:
        """Another ``serve`` in the place of the one that there was, which was killed."""
        self.file = SafetyFile(StateFolder.of(self.url, None).safety, lambda _line: None)
        nothing = lambda *_: None  # noqa: E731
        self.safety = HostSafety(self.file, changed=nothing, adopted=nothing, warn=nothing)
        asyncio.run(self.safety.load())

    def turn(self) -> None:
        """The file is written, and the store is told if it is there."""
        asyncio.run(self.safety._keep())
        if not self.store_is_away:
            asyncio.run(SafetyStoreKeeper(self.safety, self.register).tell())
            asyncio.run(self.safety._keep())

    def _act(self, action: Kill | Restore) -> ActionResult:
        if self.store_is_away:
            raise Unreachable.of("store_locked", "locked")
        store = open_store(self.url)
        try:
            return DirectControl(store, "alice", SystemClock()).act(action)
        finally:
            store.close()

    @property
    def status(self) -> Status:
        store = open_store(self.url)
        row = store.get(*NAME)
        store.close()
        assert row is not None
        return row.status

    # -- the hosts, as the operator's command asks them

    def kill(self, kill: HeldKill) -> Answers:
        if self.serve_is_away:
            return Answers()
        held, _ = asyncio.run(self.safety.kill(kill))
        asyncio.run(self.safety._keep())
        return Answers(1, 0, 1, (held,))

    def kills(self, rollout: str) -> Answers:
        return Answers() if self.serve_is_away else Answers(1, 0, 1, tuple(self.safety.kills(rollout)))

    def restore(self, rollout: str, kills: tuple[str, ...], actor: str, at: float, *, stored: bool) -> Answers:
        if self.serve_is_away:
            return Answers()
        ended = asyncio.run(self.safety.end_kills(rollout, kills, actor, at))
        asyncio.run(self.safety._keep())
        return Answers(1, 0, 1, (), tuple(ended))


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEEP_SECONDS", 0.0)
        yield


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


STEPS = st.tuples(st.sampled_from(["kill", "restore", "turn", "restart"]), st.booleans(), st.booleans())


@given(st.lists(STEPS, max_size=8))
@settings(max_examples=60, deadline=None)
def test_in_whatever_order_the_kills_that_stand_are_those_that_no_restore_named(
    steps: list[tuple[str, bool, bool]],
) -> None:
    standing: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(Path(folder))
        for step, environment.store_is_away, environment.serve_is_away in steps:
            if step in ("turn", "restart"):
                getattr(environment, step)()
                continue
            try:
                named = set(getattr(environment.emergency, step)(*NAME).kills)
            except Unreachable:
                continue
            standing = standing | named if step == "kill" else standing - named
        environment.store_is_away = environment.serve_is_away = False
        environment.turn()
        environment.turn()
        assert set(environment.status.kills) == standing
        assert environment.status.killed == bool(standing)
        assert {kill.id for kill in environment.safety.kills(KEY)} <= standing
        assert not environment.safety.waiting


def test_a_kill_enters_a_store_that_was_made_anew_as_what_it_was(environment: Environment) -> None:
    (kill,) = environment.emergency.kill(*NAME).kills
    environment.turn()
    environment.make_store()
    assert not environment.status.killed
    environment.turn()
    assert environment.status.kills == (kill,)
    store = open_store(environment.url)
    entry = store.history(*NAME)[-1]
    store.close()
    assert (entry.actor, entry.action) == ("alice", "kill")
    assert entry.at == environment.safety.kills(KEY)[0].at


def test_a_kill_of_a_rollout_that_is_not_there_is_kept_until_it_comes(environment: Environment) -> None:
    environment.store_is_away = True
    environment.emergency.kill("payments", "to-come")
    environment.store_is_away = False
    environment.turn()
    assert environment.safety.killed == ["payments/to-come"]
    assert environment.safety.waiting


def test_with_the_store_there_its_word_counts(environment: Environment) -> None:
    with pytest.raises(InvalidInput):
        environment.emergency.kill("payments", "nobody")
    assert environment.safety.killed == []


def test_whoever_leads_tells_first_what_this_host_took_away(environment: Environment) -> None:
    environment.safety.observed([TRIP], [])
    environment.store_is_away = True
    environment.turn()
    assert environment.register.tell_first()
    assert environment.status.tripped == ("4",)


def test_a_trip_is_written_once_and_goes_when_its_attempt_is_over(environment: Environment) -> None:
    environment.safety.observed([TRIP], [])
    environment.turn()
    assert environment.status.tripped == ("4",)
    assert environment.safety._held == {(KEY, "4"): HeldTrip(TRIP, stored=True)}
    environment.safety.observed([], [])
    environment.turn()
    assert environment.file.read() == {}


def test_two_serves_of_one_store_hold_the_same(environment: Environment) -> None:
    adopted: list[LocalTrip] = []
    nothing = lambda *_: None  # noqa: E731
    file = SafetyFile(StateFolder.of(environment.url, None).safety, nothing)
    other = HostSafety(file, changed=nothing, adopted=adopted.extend, warn=nothing)
    environment.safety.observed([TRIP], [])
    (kill,) = environment.kill(HeldKill("0123456789abcdef", KEY, "alice", 1e9)).kills
    asyncio.run(other._keep())
    assert (adopted, other.trips, other.killed) == ([TRIP], [TRIP], [KEY])
    asyncio.run(other.end_kills(KEY, [kill.id], "bob", 2e9))
    asyncio.run(other._keep())
    environment.turn()
    assert environment.safety.killed == []
    assert environment.status.restored == (kill.id,)


def test_a_lift_reaches_the_store_though_the_trip_never_did(tmp_path: Path) -> None:
    environment = Environment(tmp_path, EXPERIMENT)
    environment.safety.observed([TRIP], [])
    environment.safety.observed([], [TRIP._replace(at=TRIP.at + 30)])
    environment.restart()
    environment.safety.observed([TRIP], [])
    environment.safety.observed([], [TRIP._replace(at=TRIP.at + 30)])
    environment.turn()
    assert (environment.status.tripped, dict(environment.status.lifted)) == ((), {"4": TRIP.at + 30})
    assert environment.file.read() == {}
