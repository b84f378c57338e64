"""Whatever is done to a store, in whatever order: it holds what a dict would, and who follows it sees the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from extproc.adapters.sqlite.store import SqliteStore
from extproc.errors import Refused
from extproc.store.ports import RolloutStore
from extproc.store.records import Lease, StoredRollout, TemplateWrite, Write
from extproc.store.status import NO_STOPS, Status, Stops
from extproc.testing.clock import FakeClock
from extproc.testing.memory_store import MemoryPlace, MemoryStore

NAMES = st.sampled_from("abc")
STATUSES = st.builds(
    Status,
    stable=st.sampled_from("12"),
    weight=st.integers(0, 10_000),
    epoch=st.integers(1, 3),
    killed=st.booleans(),
    aborted=st.sampled_from([(), ("2",), ("2", "3")]),
    unknown=st.sampled_from([{}, {"later": 1}]),
)
DOCUMENTS = st.none() | st.fixed_dictionaries({"n": st.integers(0, 9)})
Known = dict[str, tuple[dict[str, Any], Status]]


def plain(status: Status) -> Status:
    """A status without what the store draws."""
    return replace(status, numbers={})


def known(rows: Any) -> Known:
    return {row.name: (dict(row.document), plain(row.status)) for row in rows}


class StoreMachine(RuleBasedStateMachine):
    """One process that writes, one that follows."""

    open: Callable[[Path, FakeClock], tuple[RolloutStore, RolloutStore]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.store, self.other = type(self).open(Path(self.folder.name), self.clock)
        self.rows: Known = {}
        self.at: dict[str, int] = {}
        self.last: dict[str, Status] = {}
        self.templates: dict[str, dict[str, Any]] = {}
        self.followed: Known = {}
        self.since = 0
        self.lease: Lease | None = None

    def teardown(self) -> None:
        self.store.close()
        self.other.close()
        self.folder.cleanup()

    @rule(
        names=st.lists(NAMES, min_size=1, max_size=3, unique=True),
        status=STATUSES,
        document=DOCUMENTS,
        delete=st.booleans(),
        late=st.booleans(),
        template=st.none() | st.tuples(NAMES, DOCUMENTS),
    )
    def write(
        self,
        names: list[str],
        status: Status,
        document: dict[str, Any] | None,
        delete: bool,
        late: bool,
        template: tuple[str, dict[str, Any] | None] | None,
    ) -> None:
        writes = [self.one(name, status, document, delete=delete) for name in names]
        if late:
            writes[-1] = replace(writes[-1], expect=(writes[-1].expect or 0) + 1)
        templates = [TemplateWrite("d", *template)] if template is not None else []
        if late:
            with pytest.raises(Refused, match="conflict"):
                self.store.write(writes, templates=templates)
            return
        rows = self.store.write(writes, templates=templates)
        for name, write, row in zip(names, writes, rows, strict=True):
            self.note(name, write, row)
        for each in templates:
            self.templates.pop(each.name, None)
            if each.document is not None:
                self.templates[each.name] = dict(each.document)

    def one(self, name: str, status: Status, document: dict[str, Any] | None, *, delete: bool) -> Write:
        if name not in self.rows:
            return Write("d", name, None, document or {}, status)
        if delete:
            return Write("d", name, self.at[name], delete=True)
        return Write("d", name, self.at[name], document, status)

    def note(self, name: str, write: Write, row: StoredRollout) -> None:
        assert row.resource_version > self.at.get(name, 0)
        if write.delete:
            del self.rows[name]
        else:
            before = self.rows.get(name, ({}, None))[0]
            assert write.status is not None
            self.rows[name] = (dict(before if write.document is None else write.document), write.status)
            self.last[name] = write.status
        self.at[name] = row.resource_version

    @rule()
    def follow(self) -> None:
        changes = self.other.changes(self.since)
        if changes is not None:
            self.followed = {} if changes.complete else self.followed
            for row in changes.rollouts:
                assert isinstance(row, StoredRollout)
                assert changes.complete or row.resource_version > self.since
                self.followed.pop(row.name, None)
                self.followed |= {} if row.deleted else known([row])
            self.since = changes.revision
        assert self.followed == self.rows
        assert self.other.changes(self.since) is None

    @rule()
    def look_without_taking(self) -> None:
        changes = self.other.changes(self.since)
        if changes is not None:
            next(changes.rollouts, None)

    @rule(holder=st.sampled_from(["one", "two"]), seconds=st.sampled_from([1.0, 5.0]))
    def lead(self, holder: str, seconds: float) -> None:
        now = self.clock.monotonic()
        free = self.lease is None or self.lease.holder == holder or self.lease.expires_at <= now
        lease = self.store.acquire(holder, seconds)
        assert (lease is not None) == free
        if lease is not None:
            assert lease.expires_at == now + seconds
            self.lease = lease

    @rule()
    def release(self) -> None:
        if self.lease is not None:
            self.other.release(self.lease)
            self.lease = None

    @rule(seconds=st.sampled_from([0.5, 3.0]), set_back=st.sampled_from([0.0, 100.0]))
    def wait(self, seconds: float, set_back: float) -> None:
        self.clock.advance(seconds)
        self.clock.set_back(set_back)

    @invariant()
    def both_hold_what_was_written(self) -> None:
        for store in (self.store, self.other):
            documents = store.documents()
            assert known(documents.rollouts) == self.rows
            assert {each.name: dict(each.document) for each in documents.templates} == self.templates
            assert store.led() == (self.lease is not None and self.lease.expires_at > self.clock.monotonic())

    @invariant()
    def what_stops_is_known(self) -> None:
        stops = {each.key: each.stops for each in self.other.stops(0).stops}
        wanted = {f"d/{name}": Stops(status.killed, status.aborted) for name, (_, status) in self.rows.items()}
        assert stops == {key: each for key, each in wanted.items() if each != NO_STOPS}

    @invariant()
    def what_was_deleted_is_remembered(self) -> None:
        for name, status in self.last.items():
            tombstone = self.other.tombstone("d", name)
            assert tombstone.last is not None
            assert (plain(tombstone.last), tombstone.aborted) == (status, status.aborted)
            assert tombstone.epoch >= status.epoch


class InAFile(StoreMachine):
    @staticmethod
    def open(folder: Path, clock: FakeClock) -> tuple[RolloutStore, RolloutStore]:
        store = SqliteStore(folder / "dropout.db", create=True, clock=clock)
        return store, SqliteStore(folder / "dropout.db", clock=clock)


class InMemory(StoreMachine):
    @staticmethod
    def open(folder: Path, clock: FakeClock) -> tuple[RolloutStore, RolloutStore]:
        place = MemoryPlace()
        return MemoryStore(place, clock=clock), MemoryStore(place, clock=clock)


@pytest.mark.parametrize(("machine", "examples"), [(InAFile, 15), (InMemory, 60)])
def test_a_store_holds_what_a_dict_would(machine: type[StoreMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
