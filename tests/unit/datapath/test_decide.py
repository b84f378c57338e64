"""Decide: deny first, then narrowing; arms, reasons and what is mirrored."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.datapath.decide import decide
from extproc.datapath.model import Buckets, Decision, Facts, Features, FeatureValue, PolicyVerdict, Unit
from extproc.names import FEATURE_FAULT_REASONS, Reason
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Overlay
from tests.support.rollouts import canary, experiment

KILLED = Overlay(killed=True)
TRIPPED = Overlay(tripped=frozenset({"4"}))
FEATURES = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]}
POLICY: dict[str, Any] = {"path": "routing/decision", "onError": "stable"}


def facts(bucket: int | None = 0, **changes: Any) -> Facts:
    buckets = Buckets(bucket, changes.pop("holdout", None), changes.pop("layer", None), changes.pop("shadow", None))
    unit = changes.pop("unit", Unit(b"user-1"))
    return Facts(unit, buckets, **changes)


def outcome(decision: Decision) -> tuple[str | None, str | None, str]:
    return decision.version, decision.arm, decision.reason.value


# --- the bucket --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "bucket", "expected"),
    [
        (500, 0, ("4", "canary", "weight")),
        (500, 499, ("4", "canary", "weight")),
        (500, 500, ("3", "control", "weight")),
        (0, 0, ("3", "control", "weight")),
        (10000, 9999, ("4", "canary", "weight")),
    ],
)
def test_the_canary_owns_the_buckets_below_its_weight(weight: int, bucket: int, expected: tuple[str, str, str]) -> None:
    assert outcome(decide(canary(weight), NO_OVERLAY, facts(bucket))) == expected


def test_a_decision_names_what_it_was_made_from() -> None:
    decision = decide(canary(500), NO_OVERLAY, facts(7), revision=9, policy_revision="p")
    assert (decision.revision, decision.policy_revision) == (9, "p")
    assert (decision.rollout, decision.upstream) == ("payments/fraud-detector", "fraud-detector-v4")
    assert (decision.bucket, decision.ranges) == (7, {"canary": (0, 500)})


@pytest.mark.parametrize(
    ("bucket", "expected"),
    [
        (0, ("4", "treatment", "weight")),
        (999, ("4", "treatment", "weight")),
        (1000, ("3", "excluded", "not_covered")),
        (5000, ("3", "control", "weight")),
        (5999, ("3", "control", "weight")),
        (6000, ("3", "excluded", "not_covered")),
    ],
)
def test_units_that_are_not_covered_get_the_control_and_no_arm(bucket: int, expected: tuple[str, str, str]) -> None:
    assert outcome(decide(experiment(coverage=20), NO_OVERLAY, facts(bucket))) == expected


# --- stages that leave the arm standing --------------------------------------------------------------------------


@pytest.mark.parametrize(("bucket", "arm"), [(0, "canary"), (9999, "control")])
def test_a_kill_leaves_stable_and_the_drawn_arm(bucket: int, arm: str) -> None:
    assert outcome(decide(canary(5000), KILLED, facts(bucket))) == ("3", arm, "kill_switch")


@pytest.mark.parametrize(
    ("bucket", "expected"), [(0, ("3", "canary", "breaker_open")), (9999, ("3", "control", "weight"))]
)
def test_a_trip_takes_the_version_from_those_who_drew_it(bucket: int, expected: tuple[str, str, str]) -> None:
    assert outcome(decide(canary(5000), TRIPPED, facts(bucket))) == expected


@pytest.mark.parametrize(
    ("bucket", "expected"), [(0, ("3", "canary", "version_aborted")), (9999, ("3", "control", "weight"))]
)
def test_an_abort_leaves_the_arms_as_they_were_drawn(bucket: int, expected: tuple[str, str, str]) -> None:
    aborted = canary(0, aborted=("4",), drawn=5000)
    assert outcome(decide(aborted, NO_OVERLAY, facts(bucket))) == expected


def test_in_an_experiment_a_kill_leaves_the_last_variant() -> None:
    assert outcome(decide(experiment(), KILLED, facts(0))) == ("3", "treatment", "kill_switch")


# --- stages that exclude -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", [0, 9999])
@pytest.mark.parametrize(
    ("changes", "seen", "reason"),
    [
        ({}, {"too_large": True}, "attributes_too_large"),
        ({}, {"log_full": True}, "log_full"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(versions=frozenset({"3"}))}, "policy_ineligible"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(versions=frozenset())}, "policy_ineligible"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(version="9")}, "policy_ineligible"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(version="3")}, "policy_pin"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(fault=Reason.POLICY_ERROR)}, "policy_error"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(fault=Reason.POLICY_UNDEFINED)}, "policy_undefined"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(fault=Reason.POLICY_INVALID)}, "policy_invalid"),
        ({"policy": POLICY}, {"verdict": PolicyVerdict(fault=Reason.POLICY_QUARANTINED)}, "policy_quarantined"),
        ({"features": FEATURES}, {"features": Features(fault=Reason.FEATURE_MISSING)}, "feature_missing"),
        ({"features": FEATURES}, {"features": Features(fault=Reason.FEATURE_STALE)}, "feature_stale"),
        ({"features": FEATURES}, {"features": Features(fault=Reason.FEATURE_TIMEOUT)}, "feature_timeout"),
        ({"holdout": {"name": "global", "percent": 5}}, {"holdout": 499}, "holdout"),
        ({"layer": {"name": "checkout", "range": [0, 5000]}}, {"layer": 5000}, "layer"),
    ],
)
def test_what_is_decided_without_the_bucket_is_excluded_on_both_sides(
    bucket: int, changes: dict[str, Any], seen: dict[str, Any], reason: str
) -> None:
    decision = decide(canary(5000, **changes), NO_OVERLAY, facts(bucket, **seen))
    assert outcome(decision) == ("3", "excluded", reason)


@pytest.mark.parametrize("reason", [Reason.UNIT_MISSING, Reason.UNIT_AMBIGUOUS])
def test_without_a_unit_stable_serves(reason: Reason) -> None:
    decision = decide(canary(10000), NO_OVERLAY, facts(None, unit=Unit(None, reason)))
    assert outcome(decision) == ("3", "excluded", reason.value)
    assert decision.fallbacks == (reason.value,)


def test_a_draw_for_the_request_decides_but_has_no_arm() -> None:
    unit = Unit(b"request-id", Reason.UNIT_MISSING, per_request=True)
    decision = decide(canary(5000), NO_OVERLAY, facts(0, unit=unit))
    assert outcome(decision) == ("4", "excluded", "weight")
    assert decision.fallbacks == ("unit_missing",)


@pytest.mark.parametrize(("holdout", "layer"), [(500, 0), (9999, 4999)])
def test_units_outside_the_holdout_and_inside_the_layer_are_drawn(holdout: int, layer: int) -> None:
    rollout = canary(
        5000,
        holdout={"name": "global", "percent": 5},
        layer={"name": "checkout", "range": [0, 5000]},
    )
    decision = decide(rollout, NO_OVERLAY, facts(0, holdout=holdout, layer=layer))
    assert outcome(decision) == ("4", "canary", "weight")


@pytest.mark.parametrize("fault", sorted(FEATURE_FAULT_REASONS))
def test_whyever_a_feature_is_not_there_stable_serves_or_the_policy_decides_and_it_is_noted(fault: Reason) -> None:
    found = facts(0, features=Features(fault=fault))
    decision = decide(canary(5000, features={**FEATURES, "onMissing": "policy"}), NO_OVERLAY, found)
    assert (*outcome(decision), *decision.fallbacks) == ("4", "canary", "weight", fault)
    decision = decide(canary(5000, features=FEATURES), NO_OVERLAY, found)
    assert (*outcome(decision), *decision.fallbacks) == ("3", "excluded", fault, fault)


def test_features_are_part_of_the_record() -> None:
    values = {"risk_score": FeatureValue(0.2, 3.0, "cache")}
    decision = decide(canary(features=FEATURES), NO_OVERLAY, facts(0, features=Features(values)))
    assert decision.features == values


# --- the policy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [{"4"}, {"3", "4"}, {"4", "unknown"}])
@pytest.mark.parametrize(("bucket", "served", "arm"), [(0, "4", "canary"), (9999, "3", "control")])
def test_a_policy_that_removes_nothing_leaves_everybody_where_the_bucket_put_them(
    versions: set[str], bucket: int, served: str, arm: str
) -> None:
    verdict = PolicyVerdict(versions=frozenset(versions))
    decision = decide(canary(5000, policy=POLICY), NO_OVERLAY, facts(bucket, verdict=verdict))
    assert outcome(decision) == (served, arm, "weight")


@pytest.mark.parametrize("bucket", [0, 9999])
def test_a_pin_is_served_whatever_the_bucket(bucket: int) -> None:
    verdict = PolicyVerdict(version="4", versions=frozenset({"3"}))
    decision = decide(canary(0, policy=POLICY), NO_OVERLAY, facts(bucket, verdict=verdict))
    assert outcome(decision) == ("4", "excluded", "policy_pin")


@pytest.mark.parametrize(
    ("overlay", "changes", "seen", "reason"),
    [
        (KILLED, {}, {}, "kill_switch"),
        (TRIPPED, {}, {}, "breaker_open"),
        (NO_OVERLAY, {"aborted": ("4",)}, {}, "version_aborted"),
        (NO_OVERLAY, {"holdout": {"name": "global", "percent": 5}}, {"holdout": 0}, "holdout"),
        (NO_OVERLAY, {"features": FEATURES}, {"features": Features(fault=Reason.FEATURE_STALE)}, "feature_stale"),
    ],
)
def test_a_pin_does_not_bring_back_what_another_stage_removed(
    overlay: Overlay, changes: dict[str, Any], seen: dict[str, Any], reason: str
) -> None:
    rollout = canary(5000, policy=POLICY, **changes)
    decision = decide(rollout, overlay, facts(0, verdict=PolicyVerdict(version="4"), **seen))
    assert outcome(decision) == ("3", "excluded", reason)


def test_a_deny_answers_with_the_policys_status_reason_and_body() -> None:
    verdict = PolicyVerdict(allow=False, http_status=451, reason="embargo", body="no")
    decision = decide(canary(5000, policy=POLICY), NO_OVERLAY, facts(0, verdict=verdict))
    assert outcome(decision) == (None, "excluded", "policy_deny")
    assert decision.denial is not None
    assert (decision.denial.http_status, decision.denial.reason, decision.denial.body) == (451, "embargo", "no")


def test_on_error_deny_denies_with_the_faults_name() -> None:
    rollout = canary(5000, policy={"path": "routing/decision", "onError": "deny"})
    decision = decide(rollout, NO_OVERLAY, facts(0, verdict=PolicyVerdict(fault=Reason.POLICY_UNDEFINED)))
    assert decision.reason is Reason.POLICY_UNDEFINED
    assert decision.denial is not None
    assert (decision.denial.http_status, decision.denial.reason) == (403, "policy_undefined")


@pytest.mark.parametrize("fault", [Reason.POLICY_ERROR, Reason.POLICY_INVALID, Reason.POLICY_QUARANTINED])
def test_a_fault_of_a_rule_that_can_deny_is_a_denial_unless_the_document_says_otherwise(fault: Reason) -> None:
    could_deny, could_not = PolicyVerdict(allow=False, fault=fault), PolicyVerdict(fault=fault)
    unsaid, stable = canary(5000, policy={"path": "routing/decision"}), canary(5000, policy=POLICY)
    assert decide(unsaid, NO_OVERLAY, facts(0, verdict=could_deny)).denial is not None
    assert outcome(decide(unsaid, NO_OVERLAY, facts(0, verdict=could_not)))[0] == "3"
    assert outcome(decide(stable, NO_OVERLAY, facts(0, verdict=could_deny)))[0] == "3"


# --- the shadow --------------------------------------------------------------------------------------------------


def shadowed(**seen: Any) -> Decision:
    rollout = canary(5000, shadow={"version": "5", "percent": 50}, policy=POLICY)
    overlay = seen.pop("overlay", NO_OVERLAY)
    return decide(rollout, overlay, facts(seen.pop("bucket", 0), shadow=seen.pop("draw", 0), **seen))


def test_a_drawn_unit_is_mirrored_to_the_shadow() -> None:
    assert shadowed().shadow == "fraud-detector-v5"


@pytest.mark.parametrize(
    "seen",
    [
        {"draw": 5000},
        {"verdict": PolicyVerdict(shadow=False)},
        {"verdict": PolicyVerdict(versions=frozenset({"4"}))},
        {"overlay": KILLED},
        {"overlay": Overlay(tripped=frozenset({"5"}))},
        {"bucket": None, "draw": None, "unit": Unit(None, Reason.UNIT_MISSING)},
    ],
)
def test_nothing_is_mirrored_to_a_removed_version_or_against_the_policys_word(seen: dict[str, Any]) -> None:
    assert shadowed(**seen).shadow is None


def test_taking_the_shadow_away_takes_nobody_out_of_the_comparison() -> None:
    decision = shadowed(verdict=PolicyVerdict(versions=frozenset({"3", "4"})))
    assert outcome(decision) == ("4", "canary", "weight")


def test_nothing_is_mirrored_to_the_served_version() -> None:
    rollout = canary(5000, shadow={"version": "4", "percent": 100})
    assert decide(rollout, NO_OVERLAY, facts(0, shadow=0)).shadow is None
    assert decide(rollout, NO_OVERLAY, facts(9999, shadow=0)).shadow == "fraud-detector-v4"


def test_a_shadow_is_never_served_even_when_a_policy_pins_it() -> None:
    assert shadowed(verdict=PolicyVerdict(version="5")).version == "3"


# --- properties --------------------------------------------------------------------------------------------------

VERSIONS = ["3", "4", "5", "9"]
ROLLOUTS = [
    canary(
        weight,
        policy={"path": "routing/decision", "onError": on_error},
        features=FEATURES,
        holdout={"name": "global", "percent": 5},
        layer={"name": "checkout", "range": [0, 5000]},
        shadow={"version": "5", "percent": 50},
        aborted=aborted,
        drawn=5000,
    )
    for weight in (0, 5000, 10000)
    for on_error in ("stable", "deny", None)
    for aborted in ((), ("4",))
] + [experiment(coverage=50, policy=POLICY)]

buckets = st.none() | st.integers(0, 9999)
verdicts = st.builds(
    PolicyVerdict,
    allow=st.booleans(),
    versions=st.none() | st.frozensets(st.sampled_from(VERSIONS)),
    version=st.none() | st.sampled_from(VERSIONS),
    shadow=st.booleans(),
    fault=st.none()
    | st.sampled_from([Reason.POLICY_ERROR, Reason.POLICY_UNDEFINED, Reason.POLICY_INVALID, Reason.POLICY_QUARANTINED]),
)
units = st.sampled_from(
    [
        Unit(b"user"),
        Unit(None, Reason.UNIT_MISSING),
        Unit(None, Reason.UNIT_AMBIGUOUS),
        Unit(b"request", Reason.UNIT_MISSING, per_request=True),
    ]
)


@st.composite
def all_facts(draw: st.DrawFn) -> Facts:
    unit = draw(units)
    drawn = Buckets() if unit.value is None else Buckets(*(draw(st.integers(0, 9999)) for _ in range(4)))
    features = Features(fault=draw(st.sampled_from([None, Reason.FEATURE_MISSING, Reason.FEATURE_TIMEOUT])))
    return Facts(unit, drawn, features, draw(st.none() | verdicts), None, draw(st.booleans()))


def test_a_probed_version_gets_the_first_five_of_each_hundred_of_its_buckets() -> None:
    overlay = Overlay(tripped=frozenset({"4"}), probing=frozenset({"4"}))
    rollout = experiment(variants=[
        {"name": "treatment", "version": "4", "weight": 12.34}, {"name": "other", "version": "5", "weight": 12.34},
        {"name": "control", "version": "3", "weight": 75.32},
    ])  # fmt: skip
    served = {bucket: outcome(decide(rollout, overlay, facts(bucket))) for bucket in range(10_000)}
    probed = [bucket for bucket, (version, *_) in served.items() if version == "4"]
    assert probed == [bucket for bucket in range(1234) if bucket % 100 < 5]
    assert served[0] == ("4", "treatment", "weight")
    assert served[5] == ("3", "treatment", "breaker_open")
    assert served[1234] == ("5", "other", "weight")


@pytest.mark.parametrize("start", [7, 95, 1234])
def test_a_variant_of_few_buckets_is_probed_too(start: int) -> None:
    overlay = Overlay(tripped=frozenset({"4"}), probing=frozenset({"4"}))
    rollout = experiment(variants=[
        {"name": "first", "version": "5", "weight": start / 100}, {"name": "treatment", "version": "4", "weight": 0.01},
        {"name": "control", "version": "3", "weight": (9999 - start) / 100},
    ])  # fmt: skip
    assert decide(rollout, overlay, facts(start)).version == "4"


def test_a_pin_to_a_probed_version_holds_for_the_units_that_probe_it() -> None:
    overlay = Overlay(tripped=frozenset({"4"}), probing=frozenset({"4"}))
    pinned = PolicyVerdict(version="4")
    assert decide(experiment(policy=POLICY), overlay, facts(0, verdict=pinned)).version == "4"
    assert decide(experiment(policy=POLICY), overlay, facts(50, verdict=pinned)).version == "3"


overlays = st.builds(Overlay, killed=st.booleans(), tripped=st.frozensets(st.sampled_from(VERSIONS)))
rollouts = st.sampled_from(ROLLOUTS)


@given(rollouts, overlays, all_facts())
def test_a_deny_stands_whatever_else_holds(rollout: CompiledRollout, overlay: Overlay, found: Facts) -> None:
    verdict = PolicyVerdict(allow=False)
    denied = Facts(found.unit, found.buckets, found.features, verdict, None, found.too_large)
    decision = decide(rollout, overlay, denied)
    assert decision.denial is not None
    assert (decision.reason, decision.version) == (Reason.POLICY_DENY, None)


@given(rollouts, overlays, all_facts())
def test_an_error_for_the_client_comes_only_from_a_deny_or_on_error_deny(
    rollout: CompiledRollout, overlay: Overlay, found: Facts
) -> None:
    decision = decide(rollout, overlay, found)
    if decision.denial is not None:
        assert found.verdict is not None
        deny_on_error = rollout.policy and rollout.policy.deny_on_error
        assert deny_on_error if found.verdict.fault and deny_on_error is not None else not found.verdict.allow


@given(rollouts, overlays, all_facts())
@settings(max_examples=400)
def test_no_stage_adds_a_version_that_another_removed(rollout: CompiledRollout, overlay: Overlay, found: Facts) -> None:
    decision = decide(rollout, overlay, found)
    for taken in (decision.version, _version_of(rollout, decision.shadow)):
        if taken is None or taken == rollout.stable:
            continue
        assert not overlay.killed
        assert taken not in overlay.tripped
        assert taken not in rollout.aborted
        assert not found.too_large
        assert found.unit.value is not None
        assert found.features.fault is None or rollout.features is None
        assert rollout.holdout is None or (found.buckets.holdout or 0) >= rollout.holdout.percent
        assert rollout.layer is None or found.buckets.layer in rollout.layer.range
        verdict = found.verdict
        if verdict is not None:
            assert verdict.fault is None
            assert verdict.version is not None or verdict.versions is None or taken in verdict.versions


@given(rollouts, overlays, all_facts())
def test_the_served_version_is_one_of_the_rollouts_and_its_cluster_is_named(
    rollout: CompiledRollout, overlay: Overlay, found: Facts
) -> None:
    decision = decide(rollout, overlay, found)
    if decision.denial is None:
        assert decision.version in rollout.versions
        assert decision.upstream == rollout.upstreams[decision.version]
        assert decision.shadow != decision.upstream


@given(st.integers(0, 10000), st.integers(0, 10000), st.integers(0, 9999))
def test_raising_the_weight_never_takes_a_unit_out_of_the_canary(one: int, other: int, bucket: int) -> None:
    low, high = sorted((one, other))
    if decide(canary(low), NO_OVERLAY, facts(bucket)).version == "4":
        assert decide(canary(high), NO_OVERLAY, facts(bucket)).version == "4"


def _version_of(rollout: CompiledRollout, cluster: str | None) -> str | None:
    return next((version for version, upstream in rollout.upstreams.items() if upstream == cluster), None)
