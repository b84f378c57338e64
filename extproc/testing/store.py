"""The contract of a store of rollouts: what ``store.ports`` promises, as tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from extproc.decision_id import hashed_number
from extproc.errors import Refused, Unreachable
from extproc.store.epoch_records import EpochArm
from extproc.store.history import MOST_ASIDES, MOST_MOVES
from extproc.store.ports import RolloutStore
from extproc.store.records import (
    LONGEST_LEASE_SECONDS,
    Changes,
    HistoryEntry,
    StoredRollout,
    StoredTemplate,
    StoreLimits,
    TemplateWrite,
    Tombstone,
    UnreadableRollout,
    Write,
)
from extproc.store.status import Status, Stops, StopsAt
from extproc.testing.clock import FakeClock

_STATUS: Final = Status(stable="3", canary="4", aborted=("2",), conditions=({"type": "StableDrift", "status": "True"},))
_EVERYTHING: Final = replace(
    _STATUS,
    weight=500,
    previous_weight=100,
    effective_at=1_800_000_000.25,
    message="ü\u2028\n",
    tripped=("5",),
    analysis={"runs": [{"metric": "errors", "values": [0.1, None, True]}]},
    lifted={"a": 1.5},
    previous={"stable": "1", "at": 2.5, "attempt": 3},
    unknown={"of a later version": {"kept": [1, "ü"]}},
)
_DOCUMENT: Final[dict[str, Any]] = {
    "kind": "Rollout",
    "text": "ü\u2028\n",
    "numbers": [0.1, 1 << 53, -1],
    "nothing": None,
    "": {},
}
_YEAR: Final = 366 * 24 * 3600.0
_WRITERS: Final = 3
_EACH: Final = 20


class RolloutStoreContract:
    """What every store does."""

    @cached_property
    def clock(self) -> FakeClock:
        """The test's."""
        return FakeClock()

    @cached_property
    def store(self) -> RolloutStore:
        """The test's, and empty."""
        return self.make(self.clock, StoreLimits())

    @cached_property
    def _others(self) -> list[RolloutStore]:
        return []

    def make(self, clock: FakeClock, limits: StoreLimits) -> RolloutStore:
        """An empty store, at a place of its own; what it says of time is what ``clock`` says."""
        raise NotImplementedError

    def another(self) -> RolloutStore:
        """The store that was made last, as another process has it."""
        raise NotImplementedError

    def damage(self, namespace: str, name: str) -> bool:
        """Make the document of a rollout unreadable, as a change; False where nobody could."""
        raise NotImplementedError

    def replace(self) -> bool:
        """Put an empty store into the place of the one that was made last; False where that cannot be."""
        raise NotImplementedError

    def remove(self) -> bool:
        """Take the store that was made last away; False where that cannot be."""
        raise NotImplementedError

    def teardown_method(self) -> None:
        """Let go of it."""
        for store in (self.store, *self._others):
            store.close()

    # -- what is written

    def test_what_was_written_is_read_back_whatever_is_in_it(self) -> None:
        """Every field, those too that a later version wrote into a status."""
        assert self.store.get("default", "a") is None
        (row,) = self.store.write([Write("default", "a", None, _DOCUMENT, _EVERYTHING, source="/folder/ü.yaml")])
        assert row == StoredRollout("default", "a", _DOCUMENT, row.status, row.resource_version, "/folder/ü.yaml")
        assert replace(row.status, numbers={}) == _EVERYTHING
        for store in (self.store, self._another()):
            assert store.get("default", "a") == row
            assert list(store.documents().rollouts) == [row]
            assert store.get("defaul", "ta") is None

    def test_names_that_differ_are_different_rollouts(self) -> None:
        """Whatever stands in them, and in the order of their names."""
        names = [("a", "b"), ("a", "b.c"), ("a.b", "c"), ("a", "B"), ("ab", ""), ("a", "b" * 253), ("a", "ü")]
        for namespace, name in names:
            self._put(name, namespace, document={"is": [namespace, name]})
        rows = self.store.documents().rollouts
        assert [(row.namespace, row.name) for row in rows] == sorted(names)
        assert all(row.document == {"is": [row.namespace, row.name]} for row in rows)

    def test_a_write_leaves_what_it_does_not_name(self) -> None:
        """A document, a status, a source."""
        (row,) = self.store.write([Write("default", "a", None, {"a": 1}, _STATUS, source="/folder/a.yaml")])
        row = self._change(row, weight=100)
        assert (row.document, row.source, row.status.weight) == ({"a": 1}, "/folder/a.yaml", 100)
        (row,) = self.store.write([Write("default", "a", row.resource_version, {"a": 2})])
        assert (row.document, row.source, row.status.weight) == ({"a": 2}, "/folder/a.yaml", 100)
        assert self.store.get("default", "a") == row

    def test_the_status_is_given_to_the_writer_once_more_at_the_commit(self) -> None:
        """For instants that count from there."""
        (row,) = self.store.write(
            [Write("default", "a", None, {}, _STATUS, at_commit=lambda status: replace(status, step_at=7.5))]
        )
        assert (row.status.step_at, row.status.stable) == (7.5, "3")
        assert self.store.get("default", "a") == row

    def test_a_write_of_a_row_that_is_not_where_it_is_expected_is_a_conflict_and_changes_nothing(self) -> None:
        """Of an old version, of one that exists, of one that was deleted or never was."""
        first = self._put("a")
        row = self._change(first, weight=1)
        assert row.resource_version > first.resource_version
        for expect in (first.resource_version, row.resource_version + 1, None, 0):
            self._refused("conflict", Write("default", "a", expect, {}, _STATUS))
        assert self.store.get("default", "a") == row
        (deleted,) = self.store.write([Write("default", "a", row.resource_version, delete=True)])
        assert deleted.resource_version > row.resource_version
        for expect in (row.resource_version, deleted.resource_version):
            self._refused("conflict", Write("default", "a", expect, {}, _STATUS))
        self._refused("conflict", Write("default", "never", 1, {}, _STATUS))
        assert list(self.store.documents().rollouts) == []
        assert self._put("a").resource_version > deleted.resource_version

    def test_of_several_writes_all_are_done_or_none(self) -> None:
        """Templates, history and the revision, too."""
        self._put("b")
        before = self.store.changes(0)
        entry = _entry("a", "apply")
        writes = [Write("default", name, None, {}, _STATUS, history=[entry]) for name in "ab"]
        with _refusal("conflict"):
            self.store.write(writes, templates=[TemplateWrite("default", "t", {})])
        assert self.store.get("default", "a") is None
        assert self.store.template("default", "t") is None
        assert self.store.history("default", "a") == []
        assert self.store.epochs_of("default", "a") == []
        assert _revision(self.store.changes(0)) == _revision(before)
        rows = self.store.write([Write("default", name, None, {}, _STATUS) for name in "cde"])
        assert [row.name for row in rows] == ["c", "d", "e"]
        assert len({row.resource_version for row in rows}) == 3

    def test_a_write_that_is_tried_again_because_its_answer_was_lost_is_done_once(self) -> None:
        """Whatever came between: the rollout is given as it stands, a deleted one too; one of several is not enough."""
        read, entry = self.store.documents().revision, _entry("a", "apply")
        write = Write("default", "a", None, {}, _STATUS, history=[entry], token="1")
        (row,) = self.store.write([write], documents_at=read)
        after = self._change(row, weight=5)
        since = _revision(self.store.changes(0))
        for store in (self.store, self._another()):
            assert list(store.write([write], documents_at=read)) == [after]
        assert self.store.changes(since) is None
        assert list(self.store.history("default", "a")) == [entry]
        self._refused("conflict", replace(write, token=""))
        with _refusal("conflict"):
            self.store.write([write, replace(write, token="2")])
        delete = Write("default", "a", after.resource_version, delete=True, token="3")
        (deleted,) = self.store.write([delete])
        assert list(self.store.write([delete])) == [deleted]

    def test_what_was_checked_together_is_refused_once_another_document_changed(self) -> None:
        """One that was applied, edited or deleted, a template too; a status is none."""
        changes: list[Callable[[], object]] = [
            lambda: self._put("other"),
            lambda: self._write("other", document={"edited": True}),
            lambda: self._write("other", delete=True),
            lambda: self.store.write([], templates=[TemplateWrite("default", "t", {})]),
            lambda: self.store.write([], templates=[TemplateWrite("default", "t", None)]),
        ]
        for number, change in enumerate(changes):
            read = self.store.documents().revision
            change()
            self._refused("conflict", Write("default", f"r{number}", None, {}, _STATUS), documents_at=read)
            read = self.store.documents().revision
            if self.store.get("default", "other") is not None:
                self._write("other", status=replace(_STATUS, weight=number + 1))
            self.store.write([Write("default", f"r{number}", None, {}, _STATUS)], documents_at=read)

    def test_more_than_the_limits_is_refused_and_what_is_there_can_be_moved_and_deleted(self) -> None:
        """Rollouts that are there, and bytes of documents; what was deleted makes room."""
        self.store.close()
        self.store = self.make(self.clock, StoreLimits(rollouts=2, bytes=1000))
        row, other = self._put("a"), self._put("b")
        since = _revision(self.store.changes(0))
        self._refused("store_limit", Write("default", "c", None, {}, _STATUS))
        large = {"pad": "x" * 1000}
        self._refused("store_limit", Write("default", "a", row.resource_version, large))
        with _refusal("store_limit"):
            self.store.write([], templates=[TemplateWrite("default", "t", large)])
        assert self.store.changes(since) is None
        assert self.store.get("default", "a") == row
        self._change(row, weight=1)
        self.store.write([Write("default", "b", other.resource_version, delete=True)])
        self._put("c")

    def test_writers_at_once_lose_nothing_and_who_follows_misses_nothing(self) -> None:
        """Each counts one up, again after a conflict; a reader sees revisions in their order, whoever commits."""
        self._put("counter", document={"n": 0})
        seen: list[int] = []
        with ThreadPoolExecutor(_WRITERS + 1) as threads:
            counting = [threads.submit(self._count_up) for _ in range(_WRITERS)]
            following = threads.submit(self._follow, seen, lambda: all(each.done() for each in counting))
            for each in (*counting, following):
                each.result()
        row = self.store.get("default", "counter")
        assert row is not None
        assert row.document == {"n": _WRITERS * _EACH}
        assert seen == sorted(seen), "a change may be told twice, an earlier one never after a later one"
        assert seen[-1] == _WRITERS * _EACH

    def _count_up(self) -> None:
        store, done = self.another(), 0
        while done < _EACH:
            row = store.get("default", "counter")
            assert row is not None
            try:
                store.write([Write("default", "counter", row.resource_version, {"n": row.document["n"] + 1})])
            except Refused:
                continue
            except Unreachable as error:
                if error.code != "store_locked":  # one of many may have to wait for longer than it does
                    raise
                continue
            done += 1
        store.close()

    def _follow(self, seen: list[int], is_over: Callable[[], bool]) -> None:
        store, since, over = self.another(), 0, False
        while not over:
            over = is_over()  # and then look once more
            changes = store.changes(since)
            if changes is not None:
                assert changes.revision > since
                found = list(changes.rollouts)
                assert all(row.resource_version > since for row in found)
                seen += [row.document["n"] for row in found if isinstance(row, StoredRollout)]
                since = changes.revision
        store.close()

    # -- what changed

    def test_all_changes_since_nothing_are_everything(self) -> None:
        """Of an empty store, too; without what was deleted."""
        assert _taken(self.store.changes(0)) == []
        a, b, _ = self._put("a"), self._put("b"), self._put("c")
        self._write("c", delete=True)
        changes = self.store.changes(0)
        assert changes is not None
        assert changes.complete
        assert list(changes.rollouts) == [a, b]

    def test_only_what_changed_is_reported_once_and_the_oldest_change_first(self) -> None:
        """By a reader of its own, and nothing at all where nothing changed."""
        reader = self._another()
        rows = [self._put(name) for name in "abc"]
        since = _revision(reader.changes(0))
        assert since >= max(row.resource_version for row in rows)
        assert reader.changes(since) is None
        changed = [self._change(row, weight=5) for row in (rows[2], rows[0])]
        changes = reader.changes(since)
        assert changes is not None
        assert (changes.complete, list(changes.rollouts)) == (False, changed)
        assert reader.changes(changes.revision) is None
        assert reader.changes(changes.revision) is None
        assert reader.changes(since) is not None, "as far as anybody knows they were not taken"

    def test_what_changes_an_analysis_only_is_read_and_not_reported(self) -> None:
        """What was measured and how it is put; it is another resource version, and reported with what routes."""
        row = self._put("a")
        since = _revision(self.store.changes(0))
        for number in range(3):
            before = row
            row = self._change(row, message=f"{number}", analysis={"runs": [number]})
            assert row.resource_version > before.resource_version
            assert self.store.changes(since) is None
        assert list(self.store.stops(since).stops) == []
        self._refused("conflict", Write("default", "a", before.resource_version, status=_STATUS))
        assert self.store.get("default", "a") == row
        assert _taken(self.store.changes(0)) == [row]
        row = self._change(self._change(row, weight=5), message="and measured again")
        assert _taken(self.store.changes(since)) == [row]

    def test_a_delete_is_reported_once_with_the_last_status(self) -> None:
        """However often it was written before, and again when it comes back."""
        row = self._change(self._put("a"), weight=5)
        since = _revision(self.store.changes(0))
        (deleted,) = self.store.write([Write("default", "a", row.resource_version, delete=True)])
        (seen,) = _taken(self.store.changes(since))
        assert seen == deleted
        assert isinstance(seen, StoredRollout)
        assert (seen.deleted, seen.document, seen.status) == (True, {}, row.status)
        assert self.store.changes(deleted.resource_version) is None
        assert _taken(self.store.changes(deleted.resource_version + 1)) == [], "more than there is: everything"
        again = self._put("a")
        assert _taken(self.store.changes(since)) == [again]

    def test_no_delete_is_ever_missed(self) -> None:
        """Who comes back after years hears of it, or is given everything."""
        a, b = self._put("a"), self._put("b")
        since = _revision(self.store.changes(0))
        self.store.write([Write("default", "a", a.resource_version, delete=True)])
        self.clock.advance(10 * _YEAR)
        self.store.write([Write("default", "b", b.resource_version, delete=True)])
        changes = self.store.changes(since)
        assert changes is not None
        assert changes.complete or {row.name for row in changes.rollouts if row.deleted} == {"a", "b"}
        assert self.store.tombstone("default", "a").aborted == ("2",)
        assert self.store.tombstone("default", "b").epoch == 1

    def test_what_stops_is_told_apart_and_while_changes_are_read(self) -> None:
        """Kills, aborts and trips, newer ones than the changes that are being read; of nothing that is gone."""
        since = _revision(self.store.changes(0))
        for name in "abc":
            self._put(name, aborted=())
        gone = self._put("gone", killed=True)
        reader = self._another()
        changes = reader.changes(since)
        assert changes is not None
        next(changes.rollouts)
        self.store.write([Write("default", "gone", gone.resource_version, delete=True)])
        killed = self._write("a", status=replace(_STATUS, aborted=(), killed=True))
        away = self._write("b", status=replace(_STATUS, aborted=("4",), tripped=("5",)))
        found = reader.stops(since)
        assert sorted(found.stops) == [
            StopsAt("default/a", killed.resource_version, Stops(killed=True)),
            StopsAt("default/b", away.resource_version, Stops(aborted=("4",), tripped=("5",))),
        ]
        assert [each.key for each in reader.stops(killed.resource_version).stops] == ["default/b"]
        assert found.revision == away.resource_version
        again = reader.stops(found.revision)
        assert (again.revision, list(again.stops)) == (found.revision, [])
        assert len(list(changes.rollouts)) == 3

    def test_a_row_that_is_damaged_holds_up_nothing_but_itself(self) -> None:
        """It is named, what it stops holds, and a document with a status takes its place, not less."""
        self._put("good")
        row = self._put("bad", aborted=("2",), killed=True)
        since = _revision(self.store.changes(0))
        if not self.damage("default", "bad"):
            return
        (bad,) = self.store.documents().unreadable
        assert isinstance(bad, UnreadableRollout)
        assert (bad.key, bad.fault.code) == ("default/bad", "store_corrupt")
        assert [row.name for row in self.store.documents().rollouts] == ["good"]
        assert _taken(self.store.changes(since)) == [bad]
        assert bad.stops == Stops(killed=True, aborted=("2",))
        assert [each.key for each in self.store.stops(row.resource_version).stops] == ["default/bad"]
        with _unreachable("store_corrupt"):
            self.store.get("default", "bad")
        tombstone = self.store.tombstone("default", "bad")
        assert tombstone == Tombstone(("2",), 1, Status("3", "3", attempt=0, killed=True, spec_stable="3"))
        whole = Write("default", "bad", bad.resource_version, {"a": 1}, _STATUS)
        less = replace(whole, document=None), replace(whole, status=None), replace(whole, document=None, delete=True)
        for part in less:
            with _unreachable("store_corrupt"):
                self.store.write([part])
        self._refused("conflict", replace(whole, expect=row.resource_version - 1))
        (mended,) = self.store.write([whole])
        assert self.store.get("default", "bad") == mended
        assert list(self.store.documents().unreadable) == []

    # -- templates

    def test_a_template_is_read_alone_and_among_the_documents_replaced_and_removed(self) -> None:
        """By namespace and name, in their order."""
        first = [TemplateWrite("b", "health", {"v": 1}, "/f/t.yaml"), TemplateWrite("a", "z", {})]
        self.store.write([], templates=first)
        stored = StoredTemplate("b", "health", {"v": 1}, "/f/t.yaml")
        assert self.store.template("b", "health") == stored
        assert list(self.store.documents().templates) == [StoredTemplate("a", "z", {}), stored]
        assert self.store.template("a", "health") is None
        self.store.write([], templates=[TemplateWrite("b", "health", {"v": 2})])
        assert self.store.template("b", "health") == StoredTemplate("b", "health", {"v": 2})
        self.store.write([], templates=[TemplateWrite("b", "health", None), TemplateWrite("b", "never", None)])
        assert self.store.template("b", "health") is None

    # -- what outlives

    def test_what_a_breaker_and_an_operator_said_outlives_a_delete(self) -> None:
        """Tombstones, the last epoch and the last status."""
        assert self.store.tombstone("default", "a") == Tombstone()
        row = self._put("a", tripped=("4",), attempt=3, killed=True, epoch=7, previous_epoch=7)
        assert self.store.tombstone("default", "a") == Tombstone(("2",), 7, row.status)
        assert list(self.store.deleted()) == []
        (deleted,) = self.store.write([Write("default", "a", row.resource_version, delete=True)])
        assert self.store.tombstone("default", "a") == Tombstone(("2",), 7, row.status)
        assert list(self.store.deleted()) == [deleted]
        back = self._put("a", aborted=(), epoch=8, previous_epoch=8)
        assert self.store.tombstone("default", "a") == Tombstone((), 8, back.status)
        assert list(self.store.deleted()) == []

    def test_an_epoch_is_remembered_with_its_arms_from_when_it_began_to_when_it_ended(self) -> None:
        """A rise begins one at its instant, and what is called off ends when another begins."""
        row = self._put("a")
        began = self.clock.now()
        row = self._change(row, killed=True)
        assert [(one.epoch, one.began, one.until) for one in self.store.epochs_of("default", "a")] == [(1, began, None)]
        self.clock.advance(100)
        rises = self.clock.now() + 0.25
        row = self._change(row, killed=False, weight=500, epoch=3, previous_epoch=2, effective_at=rises)
        found = self.store.epochs_of("default", "a")
        assert [(one.epoch, one.began, one.until) for one in found] == [
            (1, began, began + 100),
            (2, began + 100, rises),
            (3, rises, None),
        ]
        arms = (EpochArm(0, "excluded", ""), EpochArm(1, "control", "3"), EpochArm(2, "canary", "4"))
        assert found[2].arms == (*arms, EpochArm(3, "taken_away", "3"))
        assert self.store.epochs(found[2].number) == [found[2]]
        self.clock.advance(0.125)
        row = self._change(row, weight=0, previous_weight=0, epoch=4, previous_epoch=4, effective_at=0.0)
        now = self.clock.now()
        ends = {one.epoch: one.until for one in self.store.epochs_of("default", "a")}
        assert ends == {1: began + 100, 2: now, 3: now, 4: None}
        self.clock.advance(5)
        self.store.write([Write("default", "a", row.resource_version, delete=True)])
        assert {one.epoch: one.until for one in self.store.epochs_of("default", "a")}[4] == self.clock.now()

    def test_an_epoch_has_a_number_of_its_own_that_the_store_draws(self) -> None:
        """Whatever the writer says, in the status and in the record; none is taken for another rollout's."""
        row = self._put("a", numbers={"1": 5, "9": 9})
        first = row.status.numbers
        assert first.keys() == {"1"}
        row = self._change(row, numbers={}, killed=True)
        assert row.status.numbers == first
        row = self._change(row, epoch=2, previous_epoch=1)
        assert row.status.numbers.items() > first.items()
        others = [self._put(f"r{number}") for number in range(50)]
        numbers = [*row.status.numbers.values(), *(each.status.numbers["1"] for each in others)]
        assert len(set(numbers)) == 52
        assert not {hashed_number(each.key, 1) for each in others} & set(numbers)
        for each in others:
            (record,) = self.store.epochs(each.status.numbers["1"])
            assert (record.name, record.epoch) == (each.name, 1)

    def test_the_number_of_an_epoch_outlives_its_rollout_by_a_year(self) -> None:
        """Labels for its decisions may come as late."""
        row = self._put("a")
        self.store.write([Write("default", "a", row.resource_version, delete=True)])
        self.clock.advance(_YEAR - 60)
        other = self._put("b")
        self.store.write([Write("default", "b", other.resource_version, delete=True)])
        assert [one.epoch for one in self.store.epochs_of("default", "a")] == [1]
        assert [one.name for one in self.store.epochs(row.status.numbers["1"])] == ["a"]
        assert self.store.tombstone("default", "a").epoch == 1

    def test_an_experiments_arms_are_its_variants(self) -> None:
        """By their names, in the order of the document."""
        variants = {"spec": {"variants": [{"name": "a", "version": "8"}, {"name": "control", "version": "7"}]}}
        self.store.write([Write("default", "a", None, variants, Status(stable="7"))])
        (found,) = self.store.epochs_of("default", "a")
        assert found.arms == (
            EpochArm(0, "excluded", ""),
            EpochArm(16, "a", "8"),
            EpochArm(17, "control", "7"),
            EpochArm(3, "taken_away", "7"),
        )

    def test_history_is_given_the_newest_last_and_outlives_the_rollout(self) -> None:
        """As many as are asked for, with all that they say."""
        row = self._put("a", history=[_entry("a", "apply", detail={"weight": 5, "why": "ü"})])
        row = self._change(row, weight=5, history=[_entry("a", "one"), _entry("a", "two")])
        self.store.write([Write("default", "a", row.resource_version, delete=True, history=[_entry("a", "delete")])])
        found = self.store.history("default", "a")
        assert found[0] == _entry("a", "apply", detail={"weight": 5, "why": "ü"})
        assert [entry.action for entry in found] == ["apply", "one", "two", "delete"]
        assert [entry.action for entry in self.store.history("default", "a", 2)] == ["two", "delete"]
        assert list(self.store.history("default", "never")) == []

    def test_what_moved_a_rollout_outlives_what_did_not(self) -> None:
        """What is repeated since the last move is one entry with a count, and of each kind the newest are kept."""
        row = self._put("a", history=[_entry("a", "apply")])
        row = self._change(row, tripped=("4",), history=[_entry("a", "trip")])
        moves = [_entry("a", "set-weight", f"{number}") for number in range(MOST_MOVES + 5)]
        row = self._change(row, weight=700, history=moves)
        paused = {"phase": "Paused", "reason": "paused"}
        for at in (10.0, 11.0, 12.0):
            row = self._change(row, **paused, history=[_entry("a", "pause", at=at, detail={"at": at})])
        told = self.store.history("default", "a", 10_000)
        assert [entry.action for entry in told] == ["apply", "trip", *["set-weight"] * MOST_MOVES, "pause"]
        assert (told[2].message, told[-2].message) == ("5", moves[-1].message)
        assert (told[-1].at, told[-1].count, told[-1].first_at, told[-1].detail) == (12.0, 3, 10.0, {"at": 12.0})
        denied = [_entry("a", "promote", f"denied: {number}") for number in range(MOST_ASIDES + 5)]
        self._change(row, **paused, history=denied)
        actions = [entry.action for entry in self.store.history("default", "a", 10_000)]
        assert actions == ["apply", "trip", *["set-weight"] * MOST_MOVES, *["promote"] * MOST_ASIDES]

    # -- who leads

    def test_one_leads_until_its_lease_runs_out_by_the_time_that_passed(self) -> None:
        """Who goes on keeps the token, each new holder's is larger; a wall clock that is set changes nothing."""
        other = self._another()
        assert not other.led()
        first = self.store.acquire("one", 5)
        assert first is not None
        assert (first.holder, other.led(), other.acquire("two", 60)) == ("one", True, None)
        self.clock.advance(4)
        self.clock.set_back(3600)
        again = self.store.acquire("one", 5)
        assert again is not None
        assert (again.token, again.expires_at - self.clock.monotonic()) == (first.token, 5)
        self.clock.set_back(-7200)
        assert other.acquire("two", 5) is None
        self.clock.advance(5)
        assert not self.store.led()
        second = other.acquire("two", 5)
        assert second is not None
        assert second.token > first.token

    def test_a_lease_holds_against_those_who_would_take_a_shorter_one(self) -> None:
        """It is as long as its holder said."""
        assert self.store.acquire("one", LONGEST_LEASE_SECONDS)
        self.clock.advance(LONGEST_LEASE_SECONDS - 1)
        assert self.store.acquire("two", 5) is None
        self.clock.advance(1)
        assert self.store.acquire("two", 5)

    def test_who_lost_the_lease_writes_nothing_more(self) -> None:
        """However it lost it; one that ran out and that nobody took still holds."""
        first = self.store.acquire("one", 5)
        assert first is not None
        (row,) = self.store.write([Write("default", "a", None, {}, _STATUS)], lease=first)
        self.clock.advance(6)
        (row,) = self.store.write([Write("default", "a", row.resource_version, {"b": 1})], lease=first)
        second = self._another().acquire("two", 5)
        assert second is not None
        self._refused("lease_lost", Write("default", "a", row.resource_version, {"c": 1}), lease=first)
        assert self.store.get("default", "a") == row
        self.store.write([Write("default", "a", row.resource_version, {"c": 1})], lease=second)

    def test_a_released_lease_is_free_at_once_and_only_its_holder_releases_it(self) -> None:
        """And once it is taken over, not even they."""
        first = self.store.acquire("one", 5)
        assert first is not None
        self.store.release(replace(first, token=first.token - 1))
        self.store.release(replace(first, holder="two"))
        assert self.store.led()
        self.store.release(first)
        assert not self.store.led()
        second = self.store.acquire("two", 5)
        assert second is not None
        assert second.token > first.token
        self.store.release(first)
        assert self.store.led()

    # -- another store in its place

    def test_an_empty_store_in_its_place_is_never_taken_for_it(self) -> None:
        """For as long as it holds no rollout, whatever is asked is one fault."""
        self._put("a")
        _taken(self.store.changes(0))
        lease = self.store.acquire("one", 5)
        assert lease is not None
        if not self.replace():
            return
        for _ in range(2):
            for ask in self._questions():
                with _unreachable("store_recreated"):
                    ask()
        new = self._another()
        assert list(new.documents().rollouts) == []
        (there,) = new.write([Write("default", "new", None, {}, _STATUS)])
        (seen,) = _taken(self.store.changes(0))
        assert isinstance(seen, StoredRollout)
        assert (seen.name, seen.document, seen.status) == ("new", {}, there.status)

    def test_a_store_in_its_place_is_turned_to_and_nothing_read_before_is_written_on(self) -> None:
        """Whoever follows is given all of it, until it was taken; what was read of the other is a conflict."""
        row = self._put("a")
        since, documents = _revision(self.store.changes(0)), self.store.documents().revision
        if not self.replace():
            return
        new = self._another()
        (other,) = new.write([Write("default", "a", None, {"new": True}, _STATUS)])
        for _ in range(2):
            changes = None  # who does not take changes drops them before the next
            changes = self.store.changes(since)
            assert changes is not None
            assert changes.complete
        assert changes is not None
        assert [row.document for row in changes.rollouts if isinstance(row, StoredRollout)] == [{"new": True}]
        assert self.store.changes(changes.revision) is None
        for expect in (row.resource_version, None):
            self._refused("conflict", Write("default", "a", expect, {}, _STATUS))
        self._refused("conflict", Write("default", "b", None, {}, _STATUS), documents_at=documents)
        found = self.store.get("default", "a")
        assert found is not None
        assert found.document == other.document
        (after,) = self.store.write(
            [Write("default", "a", found.resource_version, {"mine": 1})], documents_at=self.store.documents().revision
        )
        assert _taken(self.store.changes(changes.revision)) == [after]

    def test_a_store_that_is_gone_is_unreachable_and_nobody_makes_it_anew(self) -> None:
        """For all who ask, with a code and a sentence."""
        self._put("a")
        if not self.remove():
            return
        for ask in self._questions():
            with _unreachable("store_unreachable"):
                ask()
        with _unreachable("store_unreachable"):
            self.another()

    def test_it_closes_twice_and_while_changes_are_read(self) -> None:
        """They are not read to their end then."""
        self._put("a")
        changes = self.store.changes(0)
        assert changes is not None
        next(changes.rollouts)
        self.store.close()
        self.store.close()
        assert self._another().get("default", "a") is not None

    # -- help

    def _questions(self) -> list[Callable[[], object]]:
        store = self.store
        return [
            lambda: store.changes(0),
            lambda: store.changes(1),
            lambda: store.stops(0),
            lambda: store.get("default", "a"),
            store.documents,
            store.deleted,
            lambda: store.template("default", "a"),
            lambda: store.tombstone("default", "a"),
            lambda: store.history("default", "a"),
            lambda: store.epochs(1),
            lambda: store.epochs_of("default", "a"),
            lambda: store.write([Write("default", "b", None, {}, _STATUS)]),
            lambda: store.acquire("one", 5),
            store.led,
        ]

    def _another(self) -> RolloutStore:
        assert self.store is not None  # it is made
        self._others.append(self.another())
        return self._others[-1]

    def _put(
        self,
        name: str,
        namespace: str = "default",
        document: dict[str, Any] | None = None,
        history: list[HistoryEntry] | None = None,
        **changes: Any,
    ) -> StoredRollout:
        (row,) = self.store.write(
            [Write(namespace, name, None, document or {}, replace(_STATUS, **changes), history=history or ())]
        )
        return row

    def _change(self, row: StoredRollout, history: list[HistoryEntry] | None = None, **changes: Any) -> StoredRollout:
        (after,) = self.store.write(
            [
                Write(
                    row.namespace,
                    row.name,
                    row.resource_version,
                    status=replace(row.status, **changes),
                    history=history or (),
                )
            ]
        )
        return after

    def _write(self, name: str, **what: Any) -> StoredRollout:
        row = self.store.get("default", name)
        assert row is not None
        (after,) = self.store.write([Write("default", name, row.resource_version, **what)])
        return after

    def _refused(self, code: str, write: Write, **options: Any) -> None:
        with _refusal(code):
            self.store.write([write], **options)


def _entry(
    name: str, action: str, message: str = "why", at: float = 1.5, detail: dict[str, Any] | None = None
) -> HistoryEntry:
    return HistoryEntry(at, "default", name, "alice", action, message, detail or {})


def _taken(changes: Changes | None) -> list[StoredRollout | UnreadableRollout]:
    assert changes is not None
    return list(changes.rollouts)


def _revision(changes: Changes | None) -> int:
    assert changes is not None
    list(changes.rollouts)
    return changes.revision


@contextmanager
def _refusal(code: str) -> Iterator[None]:
    """What is done within is refused with ``code``."""
    found = ""
    try:
        yield
    except Refused as error:
        found = error.code
    assert found == code


@contextmanager
def _unreachable(code: str) -> Iterator[None]:
    """What is done within finds the store in the state that ``code`` names."""
    found = ""
    try:
        yield
    except Unreachable as error:
        found = error.code
    assert found == code
