"""Whatever takes a version away, whoever hears of it late: what is counted for a version is what it served."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extproc.adapters.sqlite.store import SqliteStore
from extproc.control import actions
from extproc.control.acting import act
from extproc.control.feedback import Attributed, Attribution
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.model import Request
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.sinks.tally import DecisionTally
from extproc.decision_id import open_id
from extproc.errors import InvalidInput, Refused
from extproc.names import ARM_EXCLUDED, ARM_TAKEN_AWAY
from extproc.resources.loaded import LoadedDocument
from extproc.resources.loading import parse_rollout
from extproc.resources.marked_yaml import YamlNode
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.trips import LocalTrip
from tests.support.clock import FakeClock
from tests.support.ids import ID_KEYS, make_ids
from tests.support.policies import engine_of
from tests.support.rollouts import CANARY, EXPERIMENT, document

NAME = ("payments", "fraud-detector")
KEY = "/".join(NAME)
VARIANTS = [
    {"name": "treatment", "version": "4", "weight": 40},
    {"name": "other", "version": "5", "weight": 40},
    {"name": "control", "version": "3", "weight": 20},
]
POLICY = """
package routing

default decision := {"allow": true}

mode := input.attributes.request.http.headers["x-mode"]

decision := {"allow": false} if mode == "deny"

decision := {"allow": true, "versions": ["3"]} if mode == "narrow"

decision := {"allow": true, "version": "4"} if mode == "pin"
"""
ENGINE = Embedded(engine_of(POLICY))
versions = st.sampled_from(["3", "4", "5", "6"])


class Counted(RuleBasedStateMachine):
    """One rollout on the real store, a worker that hears of it when it does, and labels of what it decided."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.store = SqliteStore(Path(self.folder.name) / "dropout.db", create=True, clock=self.clock)
        self.holder = SnapshotHolder(self.store, self.clock)
        self.loop = asyncio.new_event_loop()
        policies = SimpleNamespace(current=ENGINE)
        self.pipeline = Pipeline(self.holder, policies, None, make_ids(self.clock), self.clock)
        self.tally = DecisionTally(self.clock)
        self.trips: list[LocalTrip] = []
        self.killed = False
        self.new: list[tuple[DecisionRecord, str]] = []

    def teardown(self) -> None:
        self.loop.close()
        self.store.close()
        self.folder.cleanup()

    @initialize(experiment=st.booleans())
    def begin(self, experiment: bool) -> None:
        policy = {"policy": {"path": "routing/decision"}, "breaker": {}}
        self.spec: dict[str, Any] = (
            {**copy.deepcopy(EXPERIMENT), "variants": copy.deepcopy(VARIANTS)} if experiment else copy.deepcopy(CANARY)
        )
        self.spec |= policy
        self.apply()
        if not experiment:
            self.act(actions.SetWeight(*NAME, 5000))
            self.clock.advance(1)
        self.hear()

    # -- what is done, and heard of or not

    def act(self, action: actions.Action) -> None:
        with suppress(Refused, InvalidInput):
            act(self.store, "alice", action, self.clock)

    def apply(self) -> None:
        body = document(self.spec)
        self.act(actions.Apply([LoadedDocument(parse_rollout(body), YamlNode(body, 1), "r.yaml")]))

    @rule(weight=st.sampled_from([0, 1000, 10_000]))
    def set_weight(self, weight: int) -> None:
        self.act(actions.SetWeight(*NAME, weight))

    @rule(
        kind=st.sampled_from([actions.Abort, actions.Retry, actions.Undo, actions.Adopt, actions.Kill, actions.Restore])
    )
    def command(self, kind: Any) -> None:
        self.act(kind(*NAME))

    @rule()
    def promote(self) -> None:
        self.act(actions.Promote(*NAME, full=True))

    @rule(version=versions, stored=st.booleans())
    def trip(self, version: str, stored: bool) -> None:
        row = self.store.get(*NAME)
        if row is not None:
            at = self.clock.now()
            self.trips.append(LocalTrip(KEY, version, row.status.attempt, at=at))
            self.hold()
            if stored:
                self.act(actions.Trip(*NAME, version, row.status.attempt, "it fails", at))

    @rule()
    def probe(self) -> None:
        self.trips = [trip._replace(probing=True) for trip in self.trips]
        self.hold()

    @rule(version=versions)
    def lift(self, version: str) -> None:
        self.trips = [trip for trip in self.trips if trip.version != version]
        self.hold()
        row = self.store.get(*NAME)
        if row is not None:
            self.act(actions.Lift(*NAME, version, row.status.attempt, self.clock.now()))

    @rule(killed=st.booleans())
    def kill_on_this_host(self, killed: bool) -> None:
        self.killed = killed
        self.hold()

    def hold(self) -> None:
        self.holder.hold(self.trips, frozenset({KEY}) if self.killed else frozenset())

    @rule(version=versions, which=st.integers(0, 2))
    def edit(self, version: str, which: int) -> None:
        if "variants" in self.spec:
            self.spec["variants"][which]["version"] = version
        else:
            self.spec["canary" if which else "stable"] = {"version": version}
        self.apply()

    @rule()
    def delete(self) -> None:
        self.act(actions.Delete(*NAME))

    @rule()
    def apply_again(self) -> None:
        self.apply()

    @rule(seconds=st.sampled_from([0.05, 0.3, 5.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def hear(self) -> None:
        """The worker takes over what is in the store."""
        snapshot = self.holder.refresh()
        if snapshot is not None:
            self.holder._swap(snapshot)

    @rule()
    def hear_of_stops(self) -> None:
        """The worker hears of what stops, while all else is still to be compiled."""
        if self.holder.current.revision:
            found = self.store.stops(self.holder.current.revision)
            self.holder._stop(found.stops)

    # -- what is decided

    @rule(mode=st.sampled_from(["", "", "", "deny", "narrow", "pin"]), first=st.integers(0, 10_000))
    def decide(self, mode: str, first: int) -> None:
        for number in range(8):
            headers = {"x-user-id": f"user-{first + number}".encode(), "x-mode": mode.encode()}
            request = Request("POST", "/v1/models/fraud-detector", "h", "http", headers)
            _, decided = self.loop.run_until_complete(self.pipeline.decide(request))
            self.tally.record(decided)
            rows = self.tally.take().counts
            self.new.append((decided, rows[0][2] if rows else ""))

    def attributed(self) -> Iterator[tuple[DecisionRecord, Attributed, str]]:
        attribution = Attribution(lambda text: open_id(ID_KEYS, text), self.store, 0.0)
        for decided, counted in self.new:
            found = attribution.of(decided.decision.decision_id)
            if decided.rollout is not None:
                assert isinstance(found, Attributed), found
                yield decided, found, counted
        self.new.clear()

    @precondition(lambda self: self.new)
    @invariant()
    def a_label_counts_under_a_version_if_and_only_if_it_served(self) -> None:
        for decided, found, counted in self.attributed():
            decision, arm = decided.decision, found.arm
            assert (found.epoch.epoch, f"{found.epoch.namespace}/{found.epoch.name}") == (decision.epoch, KEY)
            assert arm.version in ("", decision.version), "it counts under a version that did not serve it"
            as_drawn = decision.arm != ARM_EXCLUDED and arm.arm == decision.arm
            served = decision.version == self.drawn(decided)
            assert as_drawn == (decision.arm != ARM_EXCLUDED and served)
            assert (arm.arm == ARM_TAKEN_AWAY) == (decision.arm != ARM_EXCLUDED and not served)
            if as_drawn and not decided.overlay.killed and decision.version not in decided.overlay.tripped:
                assert arm.version == decision.version, "a version served it, and it counts under none"
            if decision.version is not None:
                assert counted == arm.arm, "what the access log tells of it counts elsewhere"

    @staticmethod
    def drawn(decided: DecisionRecord) -> str:
        rollout, decision = decided.rollout, decided.decision
        assert rollout is not None
        return {arm: version for arm, version, _ in rollout.arms}.get(str(decision.arm), rollout.stable)


Counted.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestCounted = Counted.TestCase
