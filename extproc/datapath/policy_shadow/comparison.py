"""What the policy shadow makes of a decision that it is shown: the same facts, other policies, and what differs.

The input is built as it is for the policies that decide, by what the shadow's rule reads of the same request, and the
decision is made by the same ``decide`` on both verdicts. A difference is what ``replay --against`` calls one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import orjson

from extproc.datapath.comparing import Examples, PolicyChange, change_between
from extproc.datapath.decide import decide
from extproc.datapath.logged import compile_plan
from extproc.datapath.model import Facts, PolicyVerdict, Request
from extproc.datapath.policy_input import build_input, paths_of
from extproc.datapath.policy_shadow.shown import ShownDecision, ShownPlan
from extproc.datapath.ports import DecisionRecord, EmbeddedEngine, InputReads
from extproc.errors import DropoutError
from extproc.names import POLICY_UNHEARD_REASONS, Reason
from extproc.snapshot.model import CompiledRollout

MAX_PLANS: Final = 20_000
"""Plans that are known at a time; who names another one tells it again."""

MAX_CHANGES: Final = 100
"""Ways in which decisions change that are counted one by one, with examples."""

_NO_ANSWER: Final = POLICY_UNHEARD_REASONS | {Reason.POLICY_QUARANTINED}


class UnplannedError(Exception):
    """A decision names a plan that is not known here."""


class ComparedDecision(NamedTuple):
    """What became of a decision. ``shadow`` is the decision as it would be, with the facts that it is made from.

    ``change`` is None where it comes to the same; ``shadow`` is None where nothing can be said.
    """

    live: DecisionRecord
    verdict: PolicyVerdict
    shadow: DecisionRecord | None = None
    change: PolicyChange | None = None

    @property
    def outcome(self) -> str:
        """``same``, ``different``, or ``incomparable``: one of both said nothing about the request."""
        return "incomparable" if self.shadow is None else "same" if self.change is None else "different"


class PolicyShadow:
    """Compares what ``engine`` says with what was decided. Nothing is kept of a decision but examples of ids.

    ``changes`` are the ways in which decisions change, and how often.
    """

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine
        self._plans: dict[str, CompiledRollout] = {}
        self.changes: dict[PolicyChange, Examples] = {}

    @property
    def revision(self) -> str:
        """The fingerprint of the policies."""
        return self._engine.revision

    def reads(self, path: str) -> InputReads:
        """The parts of the input that the rule at ``path`` can read."""
        return self._engine.reads(path)

    def swap(self, engine: EmbeddedEngine) -> None:
        """Compare with other policies from now on, which changed nothing yet."""
        self._engine, self.changes = engine, {}

    def retain(self, rollouts: Collection[str]) -> None:
        """Forget what is known of rollouts that are not among ``rollouts``."""
        self._plans = {name: plan for name, plan in self._plans.items() if plan.key in rollouts}
        self.changes = {change: found for change, found in self.changes.items() if change.rollout in rollouts}

    def learn(self, told: ShownPlan) -> None:
        """Know a rollout; the one that is known for longest makes room. What cannot be compiled stays unknown."""
        if told.name not in self._plans:
            if len(self._plans) >= MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            try:
                self._plans[told.name] = compile_plan(told.key, orjson.loads(told.plan))
            except (DropoutError, ValueError, KeyError, TypeError):  # of another version of ours, perhaps
                self._plans.pop(told.name, None)

    def compare(self, shown: ShownDecision) -> ComparedDecision:
        """Decide once more, with the other policies. Raises ``UnplannedError``."""
        compiled = self._plans.get(shown.plan)
        if compiled is None or compiled.policy is None:
            raise UnplannedError
        live = self._live(shown, compiled)
        use, request = compiled.policy, live.request
        reads = paths_of(use.reads) if use.reads is not None else self._engine.reads(use.path)
        document = build_input(request, compiled, shown.unit, shown.features, shown.at, reads)
        verdict = self._engine.evaluate(use.path, document)
        if shown.verdict.fault in _NO_ANSWER or verdict.fault in _NO_ANSWER:
            return ComparedDecision(live, verdict)
        facts = Facts(shown.unit, shown.buckets, shown.features, verdict, document, shown.too_large, shown.log_full)
        after = decide(compiled, shown.overlay, facts, revision=shown.revision, policy_revision=self._engine.revision)
        after.decision_id = shown.decision_id
        change = change_between(live.decision, after)
        if change is not None:
            self._count(change, shown.decision_id)
        return ComparedDecision(live, verdict, DecisionRecord(after, request, facts, compiled, shown.overlay), change)

    @staticmethod
    def _live(shown: ShownDecision, compiled: CompiledRollout) -> DecisionRecord:
        """The decision that was made, made again: the same facts give the same one."""
        request = Request(
            shown.method, shown.path, shown.host, shown.scheme, shown.headers, attributes=shown.attributes
        )
        facts = Facts(shown.unit, shown.buckets, shown.features, shown.verdict, None, shown.too_large, shown.log_full)
        before = decide(compiled, shown.overlay, facts, revision=shown.revision, policy_revision=shown.policy_revision)
        before.decision_id = shown.decision_id
        return DecisionRecord(before, request, facts, compiled, shown.overlay)

    def _count(self, change: PolicyChange, decision_id: str) -> None:
        found = self.changes.get(change)
        if found is None:
            if len(self.changes) >= MAX_CHANGES:
                return
            found = self.changes[change] = Examples()
        found.add(decision_id)
