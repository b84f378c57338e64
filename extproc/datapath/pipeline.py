"""One request from end to end: match → gather → decide → mutation, and what is noted about it.

Every transport calls ``Pipeline.process``; there is no other way to a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from time import perf_counter_ns
from typing import Protocol

from extproc.assignment import layer_bucket
from extproc.clock import Clock
from extproc.datapath.decide import decide
from extproc.datapath.gather import FeatureSource, Gatherer, PolicySource
from extproc.datapath.model import Decision, Denial, Facts, Mutation, Request
from extproc.datapath.mutation import TOO_FULL, mutation_for, without_room
from extproc.datapath.ports import DecisionRecord, DecisionSink, LogRoom
from extproc.datapath.streams import may_stream
from extproc.datapath.unit import unit_of
from extproc.decision_id import EXCLUDED_CODE, DecisionIds, Nonce, sealed_code
from extproc.measure import UNIT_GROUPS
from extproc.names import Reason
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Snapshot


class CurrentSnapshot(Protocol):
    """Where the snapshot in force is found; it is swapped in one assignment."""

    current: Snapshot


class CurrentPolicies(Protocol):
    """Where the policies in force are found; they are swapped whole."""

    current: PolicySource | None


class Pipeline:
    """Decides requests from whatever snapshot and policies are in force when they arrive, and tells ``sink``.

    No decision waits longer than ``deadline`` seconds for what is not at hand, nor for ``room`` in the decision log,
    which None is not asked about.
    """

    def __init__(
        self,
        holder: CurrentSnapshot,
        policies: CurrentPolicies,
        features: FeatureSource | None,
        ids: DecisionIds,
        clock: Clock,
        sink: DecisionSink | None = None,
        deadline: float = inf,
        room: LogRoom | None = None,
    ) -> None:
        self._holder = holder
        self._policies = policies
        self._ids = ids
        self._clock = clock
        self._gatherer = Gatherer(features, clock, deadline)
        self._sink = sink
        self._room = room
        self._deadline = deadline

    async def process(self, request: Request) -> Mutation:
        """The reply to one request's headers. Waits only where ``gather`` does."""
        mutation, decided = await self.decide(request)
        if self._sink is not None:
            self._sink.record(decided)
        return mutation

    async def decide(self, request: Request) -> tuple[Mutation, DecisionRecord]:
        """The reply and what is behind it, of which nobody is told."""
        start = perf_counter_ns()
        # Read once: a swap while a feature is awaited must not mix two revisions in one decision.
        snapshot, engine = self._holder.current, self._policies.current
        nonce = self._ids.nonce()
        found = snapshot.find(request.host, request.path, request.headers, request.repeated)
        compiled = select(found, request, nonce)
        timings: dict[str, float] = {"match": (perf_counter_ns() - start) / 1000}
        facts: Facts | None = None
        overlay = NO_OVERLAY
        if compiled is None:
            decision = _no_match(snapshot.revision, TOO_FULL if request.full else None)
            decision.decision_id = self._ids.seal(nonce, 0, EXCLUDED_CODE, 0)
            if self._room is not None:
                await self._may_expose(self._room, start)
        else:
            compiled = compiled.at(self._clock)
            overlay = snapshot.overlay_of(compiled.key)
            facts = await self._gatherer.gather(compiled, request, nonce, engine, timings)
            if self._room is not None and not await self._may_expose(self._room, start):
                facts = facts._replace(log_full=True)
            gathered = perf_counter_ns()
            decision = decide(
                compiled,
                overlay,
                facts,
                revision=snapshot.revision,
                policy_revision=_revision_of(facts, engine),
            )
            if request.full and compiled.denies_unanswered and decision.denial is None:
                decision.denial = TOO_FULL  # there is no room to say more, and without an answer it is denied
            counted = decision.counted_arm
            assert counted is not None
            arm = sealed_code(compiled.arm_codes[counted], stream=may_stream(request))
            decision.decision_id = self._ids.seal(nonce, compiled.number, arm, facts.buckets.quotient % UNIT_GROUPS)
            timings["decide"] = (perf_counter_ns() - gathered) / 1000
        mutation = mutation_for(decision, self._ids.mark)
        if request.full:
            mutation = without_room(mutation, request.headers)
        timings["total"] = (perf_counter_ns() - start) / 1000
        decision.stage_us = timings
        return mutation, DecisionRecord(decision, request, facts, compiled, overlay)

    async def _may_expose(self, room: LogRoom, start: int) -> bool:
        """Whether the decision log has a word against anything but stable, asked last: nothing is waited for behind."""
        return await room.may_expose(self._deadline - (perf_counter_ns() - start) / 1e9)


def select(candidates: Sequence[CompiledRollout], request: Request, nonce: Nonce) -> CompiledRollout | None:
    """The rollout that decides: the only candidate, or in a layer the one in whose range the unit falls.

    A unit in nobody's range, or no unit at all, is left to the first, which gives its control.
    """
    if not candidates:
        return None
    if len(candidates) > 1:
        for compiled in candidates:
            unit = unit_of(compiled.unit, request, nonce)
            if compiled.layer is None or unit.value is None:
                continue
            if layer_bucket(compiled.layer.name, unit.value) in compiled.layer.range:
                return compiled
    return candidates[0]


def _revision_of(facts: Facts, engine: PolicySource | None) -> str:
    """Of the policies that gave the verdict; an engine that is asked may have others by the time it answers."""
    if facts.verdict is not None and facts.verdict.revision is not None:
        return facts.verdict.revision
    return engine.revision if engine is not None else ""


def _no_match(revision: int, denial: Denial | None) -> Decision:
    return Decision(
        revision=revision,
        policy_revision="",
        rollout=None,
        epoch=0,
        arm=None,
        unit=None,
        bucket=None,
        ranges={},
        version=None,
        upstream=None,
        shadow=None,
        reason=Reason.NO_MATCH,
        features={},
        denial=denial,
    )
