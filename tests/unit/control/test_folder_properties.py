"""Whatever is done to a folder of documents: what is back in time never was away, and nothing is read half."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extproc.control.absence import Grace
from extproc.control.folder import LARGE_BYTES, FollowedFolder
from extproc.testing.memory_store import MemoryStore
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, document

GRACE = Grace(one=10, many=300)
NAMES = ("a", "b", "c")
LARGE = ("b", "c")
"""Those whose files are taken by themselves."""

POLL = 0.2

LAST = "log"
"""The field that is written last: half of an edit is a document without it."""

some = st.sets(st.sampled_from(NAMES), min_size=1)


class AnySchedule(RuleBasedStateMachine):
    """Edits by all the ways that there are, at any time. Every file is back before its time is up."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.directory = Path(self.place.name, "rollouts")
        self.directory.mkdir()
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.folder = FollowedFolder(self.store, self.directory, self.clock, GRACE)
        self.bodies: dict[str, dict[str, Any]] = {}
        self.good: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        self.since: float | None = None
        self.written = 0
        for name in NAMES:
            self.write(name)
        self.folder.sync()

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.cleanup()

    def file(self, name: str) -> Path:
        return self.directory / f"{name}.yaml"

    def text(self, name: str) -> str:
        """Another version of a document; the first half of the text is a document as well."""
        self.written += 1
        spec = {**CANARY, "match": [{"path": {"value": f"/{name}"}}], "seed": "s" * self.written}
        whole = yaml.safe_dump(document({**spec, LAST: {"headers": ["x-region"]}}, name), sort_keys=False)
        self.good[name].append(yaml.safe_load(whole))
        return whole + "#" * LARGE_BYTES if name in LARGE else whole

    def write(self, name: str) -> None:
        self.file(name).write_text(self.text(name))

    def poll(self) -> None:
        self.clock.advance(POLL)
        if self.folder.changed():
            report = self.folder.sync()
            assert report.deleted == ()

    def away(self) -> None:
        """Something left; the schedule sees to it that all is back in time."""
        if self.since is None:
            self.since = self.clock.monotonic()

    # -- what people and programs do

    @rule(names=some)
    def save_in_place(self, names: set[str]) -> None:
        whole = {}
        for name in names:
            whole[name] = self.text(name)
            self.file(name).write_text(whole[name].partition(f"  {LAST}:")[0])
        self.poll()
        for name in names:
            self.file(name).write_text(whole[name])

    @rule(names=some, between=st.integers(0, 2))
    def rename_and_write(self, names: set[str], between: int) -> None:
        for name in names:
            if self.file(name).exists():
                self.file(name).rename(self.file(name).with_suffix(".yaml~"))
        self.away()
        for _ in range(between):
            self.poll()
        for name in names:
            self.write(name)

    @rule(names=some)
    def replace(self, names: set[str]) -> None:
        for name in names:
            new = self.directory / f".{name}.new"
            new.write_text(self.text(name))
            new.replace(self.file(name))

    @rule(names=some)
    def unlink(self, names: set[str]) -> None:
        for name in names:
            self.file(name).unlink(missing_ok=True)
        self.away()

    @rule(between=st.integers(0, 3))
    def swap_the_folder(self, between: int) -> None:
        """A checkout elsewhere that takes the folder's place, or a volume that comes back."""
        self.directory.rename(self.directory.with_name("before"))
        self.away()
        for _ in range(between):
            self.poll()
        self.directory.with_name("before").rename(self.directory)

    @rule(between=st.integers(0, 3))
    def empty_and_fill(self, between: int) -> None:
        """A volume that is not mounted for a moment leaves an empty folder."""
        kept = self.directory.with_name("kept")
        self.directory.rename(kept)
        self.directory.mkdir()
        self.away()
        for _ in range(between):
            self.poll()
        self.directory.rmdir()
        kept.rename(self.directory)

    @rule(looks=st.integers(1, 10))
    def wait(self, looks: int) -> None:
        for _ in range(looks):
            self.poll()

    @precondition(lambda self: self.since is not None)
    @rule()
    def all_is_back(self) -> None:
        for name in NAMES:
            if not self.file(name).exists():
                self.write(name)
        for _ in range(2 + len(LARGE)):
            self.poll()
        self.since = None
        for name in NAMES:
            row = self.store.get("payments", name)
            assert row is not None
            assert row.document == self.good[name][-1]
        assert self.folder.missing == 0

    # -- what holds

    @invariant()
    def everything_is_back_in_time(self) -> None:
        if getattr(self, "since", None) is not None and self.clock.monotonic() - self.since > GRACE.one / 2:
            self.all_is_back()

    @invariant()
    def the_last_good_decides(self) -> None:
        if hasattr(self, "store"):
            rows = self.store.documents().rollouts
            assert [row.name for row in rows] == list(NAMES)
            assert all(row.document in self.good[row.name] for row in rows)


class TestAFewSchedules(AnySchedule.TestCase):
    settings = settings(max_examples=3, stateful_step_count=10, deadline=None)


@pytest.mark.slow
class TestManySchedules(AnySchedule.TestCase):
    settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
