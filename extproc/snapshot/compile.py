"""From an accepted document and its status to what requests are decided with."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

import orjson

from extproc.assignment import BUCKETS, BucketRange, canary_range, variant_ranges
from extproc.decision_id import arm_codes
from extproc.resources.loading import parse_rollout, rollout_body
from extproc.resources.rollout import BreakerSpec, FeaturesSpec, PolicySpec, Rollout, RolloutSpec, UnitSpec
from extproc.snapshot.model import (
    ArmRange,
    BreakerLimits,
    CompiledRollout,
    FeatureNeed,
    FeatureView,
    Holdout,
    JoinKey,
    Layer,
    PolicyUse,
    Shadow,
    Timeouts,
    UnitSource,
)
from extproc.store.epochs import number_of
from extproc.store.status import Status

_SHARED_KEPT: Final = 4096
_DENY_ON_ERROR: Final = {None: None, "stable": False, "deny": True}

T = TypeVar("T", bound=Hashable)


def compile_rollout(rollout: Rollout, status: Status, now: float) -> CompiledRollout:
    """Compile ``rollout`` as it stands at ``now`` (Unix seconds): a rise that is not yet due has not happened.

    Raises:
        InvalidInput: when an alias of the shadow resolves to nothing (``alias_unresolved``).
    """
    spec, name, namespace = rollout.spec, rollout.metadata.name, rollout.metadata.namespace
    key = f"{namespace}/{name}"
    status = in_force(status, now)
    canary = status.canary if status.canary != status.stable else None
    shadow = _shadow(spec, status, canary)
    arms = _shared(_arms(spec, status, canary))
    versions = _shared(frozenset({status.stable, *(arm.version for arm in arms)}))
    upstreams = {
        version: spec.upstream.format(model=spec.model, version=version, namespace=namespace, name=name)
        for version in sorted(versions | ({shadow.version} if shadow else set()))
    }
    return CompiledRollout(
        key=key,
        namespace=namespace,
        name=name,
        model=spec.model,
        match=tuple(dict.fromkeys(key for entry in spec.match for key in entry.match_keys())),
        epoch=status.epoch,
        number=number_of(key, status, status.epoch),
        epoch_id=status.epoch_id_at(now),
        attempt=status.attempt,
        unit=_shared(_unit_source(spec.unit)),
        seed=(spec.seed or default_seed(key, status.canary)).encode(),
        stable=_shared(status.stable),
        canary=_shared(canary),
        experiment=spec.is_experiment,
        arms=arms,
        ranges=_ranges(arms),
        versions=versions,
        upstreams=upstreams,
        aborted=_shared(frozenset(status.aborted)),
        arm_codes=_codes(tuple(variant.name for variant in spec.variants)),
        breaker=limits_of(spec.breaker) if spec.breaker else None,
        holdout=Holdout(spec.holdout.name.encode(), spec.holdout.percent) if spec.holdout else None,
        layer=Layer(spec.layer.name.encode(), BucketRange(*spec.layer.range)) if spec.layer else None,
        shadow=shadow,
        features=_shared(_feature_need(spec.features, status.stable, versions)) if spec.features else None,
        policy=_shared(_policy_use(spec.policy)) if spec.policy else None,
        log_headers=_shared(frozenset(spec.log.headers)),
        log_features=_shared(frozenset(spec.log.features)),
        weight=status.weight,
        policy_input={
            "namespace": namespace,
            "name": name,
            "model": spec.model,
            "stable": status.stable,
            "canary": canary,
            "versions": sorted(versions),
        },
        plan=_plan(rollout, status),
        lifted=status.lifted,
        addresses={
            upstream: address
            for version, upstream in upstreams.items()
            if (address := rollout.address_of(version)) is not None
        },
        timeouts=_shared(Timeouts(spec.timeout, spec.idle_timeout)),
    )


def compile_with_less(before: CompiledRollout, status: Status, now: float) -> CompiledRollout:
    """``before``, of an earlier document, as it stands by a ``status`` whose document is not understood.

    What the status takes away, and its stable, hold; nothing that it gives is given: it is the share of a canary that
    is known, and at most as large as it was.
    """
    plan = orjson.loads(before.plan)
    rollout = parse_rollout(rollout_body(before.namespace, before.name, plan["spec"]))
    known = status.canary == plan["status"]["canary"]
    weight = min(status.weight_at(now), before.weight) if known else 0
    less = replace(in_force(status, now), weight=weight, previous_weight=weight)
    compiled = compile_rollout(rollout, less, now)
    return replace(compiled, breaker=before.breaker, addresses=before.addresses, timeouts=before.timeouts)


def compile_stable(rollout: Rollout, status: Status, now: float) -> CompiledRollout:
    """``rollout``, which is understood only in part, as it stands without anything but its stable."""
    return compile_rollout(rollout, replace(in_force(status, now), weight=0, previous_weight=0, drawn=0, shadow=0), now)


def _shared(value: T) -> T:
    """An equal value from before, if there is one.

    The rollouts of one store are much alike. What thousands of them have in common is then read again and again, and
    stays in the processor's caches, where a copy for each would be read anew whenever its rollout is asked for.
    """
    return cast(T, _from_before(value))


@lru_cache(_SHARED_KEPT, typed=True)
def _from_before(value: Hashable) -> Hashable:
    return value


@lru_cache(_SHARED_KEPT)
def _ranges(arms: tuple[ArmRange, ...]) -> Mapping[str, tuple[int, int]]:
    return {arm: (start, end) for arm, _, (start, end) in arms}


@lru_cache(_SHARED_KEPT)
def _codes(variants: tuple[str, ...]) -> Mapping[str, int]:
    return arm_codes(variants)


def in_force(status: Status, now: float) -> Status:
    """The status with the stable, weight and epoch that hold at ``now``, and nothing pending."""
    weight, epoch = status.weight_at(now), status.epoch_at(now)
    return replace(
        status,
        stable=status.stable_at(now),
        previous_stable="",
        weight=weight,
        previous_weight=weight,
        epoch=epoch,
        previous_epoch=epoch,
        effective_at=0.0,
    )


def default_seed(key: str, canary: str | None) -> str:
    """A new cohort for every canary version, so that the same people do not try out each of them."""
    return key if canary is None else f"{key}@{canary}"


def _arms(spec: RolloutSpec, status: Status, canary: str | None) -> tuple[ArmRange, ...]:
    if spec.is_experiment:
        coverage = BUCKETS if spec.coverage is None else spec.coverage
        ranges = variant_ranges([variant.weight for variant in spec.variants], coverage)
        return tuple(
            ArmRange(variant.name, variant.version, owned) for variant, owned in zip(spec.variants, ranges, strict=True)
        )
    if canary is None:
        return ()
    # An abort takes the version away and leaves the arms as they were drawn.
    weight = status.drawn if canary in status.aborted else status.weight
    return (ArmRange("canary", canary, canary_range(weight)),)


def _shadow(spec: RolloutSpec, status: Status, canary: str | None) -> Shadow | None:
    """Copies go where a shadow step says, while one is in force, else where the document says."""
    if canary is not None and status.shadow:
        return Shadow(canary, status.shadow)
    return Shadow(spec.resolve(spec.shadow), spec.shadow.percent) if spec.shadow is not None else None


def limits_of(breaker: BreakerSpec) -> BreakerLimits:
    """The limits of a document's breaker."""
    return BreakerLimits(breaker.window, breaker.min_requests, breaker.error_rate, breaker.consecutive)


def _unit_source(unit: UnitSpec) -> UnitSource:
    return UnitSource(unit.header, unit.cookie, unit.missing == "request")


def feature_view(features: FeaturesSpec, name: str) -> FeatureView:
    """What is read of the view ``name``."""
    keys = features.entity.join_keys
    return FeatureView(
        name,
        tuple(features.names),
        tuple(key.name for key in keys),
        tuple(key.name for key in keys if key.type == "integer"),
    )


def _feature_need(features: FeaturesSpec, stable: str, versions: Iterable[str]) -> FeatureNeed:
    """What ``versions`` read, all that may be served, whichever a request gets."""
    views = {each: feature_view(features, features.view_of(each)) for each in sorted({stable, *versions})}
    of_versions = tuple((version, view) for version, view in views.items() if view != views[stable])
    return FeatureNeed(
        entity=tuple(
            JoinKey(UnitSource(key.header, key.cookie), key.type == "integer") for key in features.entity.join_keys
        ),
        view=views[stable],
        max_age=features.max_age,
        timeout=features.timeout,
        missing_is_stable=features.on_missing == "stable",
        others=tuple(dict.fromkeys(view for _, view in of_versions)),
        of_versions=of_versions,
    )


def _policy_use(policy: PolicySpec) -> PolicyUse:
    reads = None if policy.reads is None else tuple(policy.reads)
    on_error = _DENY_ON_ERROR[policy.on_error]
    return PolicyUse(policy.path, on_error, policy.denies_unanswered, policy.timeout, policy.remember or 0.0, reads)


def _plan(rollout: Rollout, status: Status) -> bytes:
    """What a decision can be computed again from: the deciding part of the spec, and the status in force."""
    spec: dict[str, Any] = rollout.spec.model_dump(
        mode="json",
        by_alias=True,
        exclude_unset=True,
        exclude={
            *("steps", "progress_deadline", "progress_deadline_abort", "analysis", "breaker"),
            *("timeout", "idle_timeout", "endpoints"),
        },
    )
    plan = orjson.dumps({"spec": spec, "status": replace(status, message="", conditions=(), analysis={}).as_dict()})
    return bytes(memoryview(plan))  # a copy of its own length: orjson leaves kilobytes of room behind its result
