"""The decision itself: pure, synchronous, from facts alone.

Deny first, then narrowing. A policy's deny stands whatever else holds. Every other stage only takes versions away:
the version that the bucket names (or that the policy pins) is served if it remains, else stable; nobody is hashed
again and nothing takes stable away. The reason is the first stage that applied, in a fixed order.
"""

from __future__ import annotations

from extproc.assignment import is_probe
from extproc.datapath.model import Decision, Denial, Facts, PolicyVerdict
from extproc.datapath.verdict import denies
from extproc.names import ARM_CONTROL, ARM_EXCLUDED, Reason
from extproc.snapshot.model import CompiledRollout, Overlay


class _Narrowing:
    """What the stages have taken away so far, and the first reason that applied."""

    __slots__ = ("_removed", "_rollout", "excluded", "reason")

    def __init__(self, compiled: CompiledRollout) -> None:
        self._rollout = compiled
        self._removed: frozenset[str] | None = frozenset()  # None: everything but stable
        self.excluded = False
        self.reason: Reason | None = None

    def all_but_stable(self, reason: Reason, *, excludes: bool = True) -> None:
        """Only stable remains; ``excludes`` when the bucket had no say in it."""
        self._removed = None
        self.applied(reason)
        self.excluded = self.excluded or excludes

    def remove(self, versions: frozenset[str]) -> None:
        """Take versions away; stable stays."""
        if self._removed is not None:
            self._removed |= versions

    def applied(self, reason: Reason) -> None:
        """Remember the first reason that applied."""
        if self.reason is None:
            self.reason = reason

    def remains(self, version: str) -> bool:
        """Whether ``version`` may still be served or mirrored to."""
        return version == self._rollout.stable or (self._removed is not None and version not in self._removed)


def decide(
    compiled: CompiledRollout,
    overlay: Overlay,
    facts: Facts,
    *,
    revision: int = 0,
    policy_revision: str = "",
) -> Decision:
    """Decide one request of ``compiled``. Replaying recorded facts gives the same decision."""
    fallbacks = _fallbacks(facts)
    denial = _denial(compiled, facts.verdict)
    arm, drawn = _drawn(compiled, facts.buckets.unit)
    taken_away = False
    if denial is not None:
        reason, version, shadow = denial[1], None, None
        arm = ARM_EXCLUDED
    else:
        narrowing = _Narrowing(compiled)
        pin = _narrow(narrowing, compiled, overlay, facts, arm)
        tripped = _tripped(compiled, overlay, facts.buckets.unit)
        version, reason = _served(narrowing, compiled, tripped, pin or drawn, pinned=pin is not None)
        if narrowing.excluded:
            arm = ARM_EXCLUDED
        taken_away = arm != ARM_EXCLUDED and version != drawn
        shadow = _shadow(narrowing, compiled, facts, version)
    return Decision(
        revision=revision,
        policy_revision=policy_revision,
        rollout=compiled.key,
        epoch=compiled.epoch,
        arm=arm,
        unit=facts.unit.value,
        bucket=facts.buckets.unit,
        ranges=compiled.ranges,
        version=version,
        upstream=compiled.upstreams[version] if version is not None else None,
        shadow=shadow,
        reason=reason,
        features=facts.features.values,
        fallbacks=fallbacks,
        denial=denial[0] if denial is not None else None,
        taken_away=taken_away,
        features_of=facts.features.of,
    )


def _denial(compiled: CompiledRollout, verdict: PolicyVerdict | None) -> tuple[Denial, Reason] | None:
    if verdict is None or compiled.policy is None or not denies(verdict, compiled.policy.deny_on_error):
        return None
    if verdict.fault is not None:
        return Denial(verdict.http_status, str(verdict.fault)), verdict.fault
    return Denial(verdict.http_status, verdict.reason or Reason.POLICY_DENY, verdict.body), Reason.POLICY_DENY


def _drawn(compiled: CompiledRollout, bucket: int | None) -> tuple[str, str]:
    """The arm that the bucket names and its version; ``excluded`` and stable where it names none."""
    if bucket is None:
        return ARM_EXCLUDED, compiled.stable
    for arm, version, (start, end) in compiled.arms:
        if start <= bucket < end:
            return arm, version
    return (ARM_EXCLUDED if compiled.experiment else ARM_CONTROL), compiled.stable


def _narrow(narrowing: _Narrowing, compiled: CompiledRollout, overlay: Overlay, facts: Facts, arm: str) -> str | None:
    """Run the stages in their order; what remains is in ``narrowing``. Returns the version that the policy pins."""
    if overlay.killed:
        narrowing.all_but_stable(Reason.KILL_SWITCH, excludes=False)
    if facts.too_large:
        narrowing.all_but_stable(Reason.ATTRIBUTES_TOO_LARGE)
    if facts.log_full:
        narrowing.all_but_stable(Reason.LOG_FULL)
    unit = facts.unit
    if unit.per_request:
        narrowing.excluded = True
    elif unit.fault is not None:
        narrowing.all_but_stable(unit.fault)
    pin = _apply_policy(narrowing, compiled, facts.verdict)
    if facts.features.fault is not None and compiled.features is not None and compiled.features.missing_is_stable:
        narrowing.all_but_stable(facts.features.fault)
    buckets = facts.buckets
    if compiled.holdout is not None and buckets.holdout is not None and buckets.holdout < compiled.holdout.percent:
        narrowing.all_but_stable(Reason.HOLDOUT)
    if compiled.layer is not None and buckets.layer is not None and buckets.layer not in compiled.layer.range:
        narrowing.all_but_stable(Reason.LAYER)
    if buckets.unit is not None and arm == ARM_EXCLUDED:  # a draw that landed outside every variant's range
        narrowing.all_but_stable(Reason.NOT_COVERED)
    return pin


def _apply_policy(narrowing: _Narrowing, compiled: CompiledRollout, verdict: PolicyVerdict | None) -> str | None:
    if verdict is None:
        return None
    if verdict.fault is not None:
        narrowing.all_but_stable(verdict.fault)
    elif verdict.version is not None:
        narrowing.excluded = True
        if verdict.version not in compiled.versions:
            narrowing.all_but_stable(Reason.POLICY_INELIGIBLE)
        else:
            if verdict.version == compiled.stable:
                narrowing.applied(Reason.POLICY_PIN)
            return verdict.version
    elif verdict.versions is not None:
        removed = frozenset(compiled.upstreams) - verdict.versions - {compiled.stable}
        narrowing.remove(removed)
        if not removed.isdisjoint(compiled.versions):
            narrowing.applied(Reason.POLICY_INELIGIBLE)
            narrowing.excluded = True
    return None


def _tripped(compiled: CompiledRollout, overlay: Overlay, bucket: int | None) -> frozenset[str]:
    """The versions that the breaker takes from the unit: of those that are probed it leaves some of their buckets."""
    if not overlay.probing or bucket is None:
        return overlay.tripped
    probed = {version for _, version, owned in compiled.arms if version in overlay.probing and is_probe(bucket, owned)}
    return overlay.tripped - probed


def _served(
    narrowing: _Narrowing, compiled: CompiledRollout, tripped: frozenset[str], wanted: str, *, pinned: bool
) -> tuple[str, Reason]:
    """The version that is served and why: ``wanted`` if it remains, else stable."""
    narrowing.remove(compiled.aborted)
    narrowing.remove(tripped)
    if narrowing.remains(wanted):
        served = wanted
        narrowing.applied(Reason.POLICY_PIN if pinned else Reason.WEIGHT)
    else:
        served = compiled.stable
        narrowing.applied(Reason.VERSION_ABORTED if wanted in compiled.aborted else Reason.BREAKER_OPEN)
    assert narrowing.reason is not None
    return served, narrowing.reason


def _shadow(narrowing: _Narrowing, compiled: CompiledRollout, facts: Facts, served: str) -> str | None:
    """The cluster that gets a copy: never the served version, never one that was taken away."""
    shadow, bucket = compiled.shadow, facts.buckets.shadow
    if shadow is None or bucket is None or bucket >= shadow.percent or shadow.version == served:
        return None
    if (facts.verdict is not None and not facts.verdict.shadow) or not narrowing.remains(shadow.version):
        return None
    return compiled.upstreams[shadow.version]


def _fallbacks(facts: Facts) -> tuple[str, ...]:
    """What could not be had and was made up for, whether or not it changed the outcome."""
    faults = (
        Reason.ATTRIBUTES_TOO_LARGE if facts.too_large else None,
        facts.unit.fault,
        facts.verdict.fault if facts.verdict is not None else None,
        facts.features.fault,
    )
    if faults == _NO_FAULTS:
        return ()
    return tuple([fault.value for fault in faults if fault is not None])


_NO_FAULTS = (None, None, None, None)
