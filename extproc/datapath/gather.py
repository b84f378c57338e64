"""Everything that a decision needs to know: the unit and its buckets, the features, the policy's word.

The only step of the request path that may wait: for a feature that is not in the cache, and for a policy engine that is
asked over the network. With everything at hand the coroutine runs through without giving up the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any, Protocol

from extproc.clock import Clock
from extproc.datapath.model import NO_FEATURES, Facts, Features, PolicyVerdict, Request, Unit
from extproc.datapath.policy_input import build_input, paths_of
from extproc.datapath.ports import InputReads
from extproc.datapath.unit import draw, entity_of, unit_of
from extproc.decision_id import Nonce
from extproc.names import Reason
from extproc.snapshot.model import CompiledRollout, FeatureNeed, PolicyUse


class FeatureSource(Protocol):
    """Where features are found: a cache before a store."""

    def cached(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features | None:
        """What ``need`` names, if it is at hand."""
        ...

    async def fetch(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features:
        """What ``need`` names, waited for no longer than it says. Never raises."""
        ...


class PolicySource(Protocol):
    """Where verdicts are found: policies of this process, or ``RemotePolicies`` before an engine that is asked."""

    @property
    def revision(self) -> str:
        """Of the policies and their data, as far as it is known."""
        ...

    def known(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict | None:
        """The verdict of the rule at ``path`` if no one must be waited for. Never raises."""
        ...

    async def fetch(self, use: PolicyUse, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """The verdict on ``document``, waited for at most ``within`` seconds. Never raises."""
        ...

    def reads(self, path: str) -> InputReads:
        """The parts of the input that the rule at ``path`` is given."""
        ...

    def can_deny(self, path: str) -> bool:
        """Whether the rule at ``path`` can deny."""
        ...

    def has(self, path: str) -> bool:
        """Whether ``path`` may have a value."""
        ...


class Gatherer:
    """Gathers the facts of one request at a time."""

    def __init__(self, features: FeatureSource | None, clock: Clock, deadline: float) -> None:
        self._features = features
        self._clock = clock
        self._deadline = deadline

    async def gather(
        self,
        compiled: CompiledRollout,
        request: Request,
        nonce: Nonce,
        engine: PolicySource | None,
        timings: dict[str, float],
    ) -> Facts:
        """The facts about ``request`` for ``compiled``. Never raises for anything that a request can contain.

        ``timings`` collects the microseconds that each step took.
        """
        unit = unit_of(compiled.unit, request, nonce)
        features = NO_FEATURES
        if compiled.features is not None:
            start = perf_counter_ns()
            features = await self._read_features(compiled.features, request)
            timings["features"] = (perf_counter_ns() - start) / 1000
        buckets = draw(compiled, unit)
        if compiled.policy is None:
            return Facts(unit, buckets, features, too_large=request.too_large)
        start = perf_counter_ns()
        verdict, document = self._known(engine, compiled.policy, compiled, request, unit, features)
        if verdict is None and engine is not None and document is not None:
            left = self._deadline - timings.get("features", 0.0) / 1e6
            verdict = await engine.fetch(compiled.policy, document, min(compiled.policy.timeout, left))
        timings["policy"] = (perf_counter_ns() - start) / 1000
        return Facts(unit, buckets, features, verdict, document, too_large=request.too_large)

    async def _read_features(self, need: FeatureNeed, request: Request) -> Features:
        entity = entity_of(need.entity, request)
        if isinstance(entity, Reason):
            return Features(fault=entity)
        if self._features is None:
            return _FEATURES_MISSING
        return self._features.cached(need, entity) or await self._features.fetch(need, entity)

    def _known(
        self,
        engine: PolicySource | None,
        use: PolicyUse,
        compiled: CompiledRollout,
        request: Request,
        unit: Unit,
        features: Features,
    ) -> tuple[PolicyVerdict | None, dict[str, object] | None]:
        """The verdict, None when somebody must be waited for; and the input, None when it cannot be built."""
        if engine is None:
            return _NO_POLICIES, None
        try:
            reads = engine.reads(use.path) if use.reads is None else paths_of(use.reads)
            document = build_input(request, compiled, unit, features, self._clock.now(), reads)
        except Exception as error:  # onError is for this too: what a policy would have denied is not let through
            message = f"the input cannot be built: {type(error).__name__}"
            allow = not engine.can_deny(use.path)
            return PolicyVerdict(allow=allow, fault=Reason.POLICY_ERROR, message=message), None
        return engine.known(use.path, document), document


_FEATURES_MISSING = Features(fault=Reason.FEATURE_MISSING)
_NO_POLICIES = PolicyVerdict(fault=Reason.POLICY_ERROR, message="no policies are loaded")
