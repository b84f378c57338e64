"""Experiments under a controller: what fails is told or taken away, named, and given back by a retry."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from extproc.control import experiments, transitions
from extproc.control.analysis.runs import Measured, Outcome
from extproc.control.intent import Transition
from extproc.control.rollout import Evidence, RolloutPlan, advance, due, plan_of
from extproc.errors import Refused
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import parse_rollout
from extproc.store.records import Tombstone
from extproc.store.status import Status
from tests.support.rollouts import EXPERIMENT, document
from tests.support.templates import metric, template

NOW = 1000.0
KEY = "payments/fraud-detector"
VARIANTS: list[dict[str, Any]] = [
    {"name": "treatment", "version": "4", "weight": 40},
    {"name": "other", "version": "5", "weight": 40},
    {"name": "control", "version": "3", "weight": 20},
]
NOTHING_LEFT = Tombstone()
HEALTH = AnalysisTemplate.model_validate(template(metric(interval="10s", count=3)))


def plan(on_failed: str | None = None, *, analysis: bool = True, variants: Any = VARIANTS) -> RolloutPlan:
    spec = {**copy.deepcopy(EXPERIMENT), "variants": variants}
    if analysis:
        spec["analysis"] = {"templates": [{"templateName": "health"}]}
        if on_failed is not None:
            spec["analysis"]["onFailed"] = on_failed
    return plan_of(parse_rollout(document(spec)), {"health": HEALTH}.get)


def live(of: RolloutPlan, tombstone: Tombstone = NOTHING_LEFT) -> Status:
    return transitions.create(of.intent, tombstone, NOW).status


def settled(of: RolloutPlan, status: Status, now: float = NOW, **seen: Any) -> Status:
    """The status once there is nothing more to do."""
    for _ in range(10):
        found = advance(of, status, Evidence(**seen), now)
        if found is None:
            return status
        status, seen = found.status, {key: value for key, value in seen.items() if key != "measured"}
    raise AssertionError("it never comes to rest")


def measured(of: RolloutPlan, status: Status, now: float, **came_to: Outcome) -> dict[str, list[Measured]]:
    """What is due of each variant, as it came out."""
    return {
        kind: [Measured(one.name, now, came_to[kind.removeprefix("variant/")], None, "seen") for one in metrics]
        for kind, metrics in due(of, status, now).items()
    }


def looked(of: RolloutPlan, status: Status, now: float, **came_to: Outcome) -> Status:
    return settled(of, status, now, measured=measured(of, status, now, **came_to))


@pytest.mark.parametrize(
    ("taken", "reason", "how"),
    [({"aborted": ("4",)}, "aborted", "aborted"), ({"tripped": ("4",)}, "breaker_open", "tripped")],
)
def test_an_experiment_on_a_version_that_was_taken_away_is_degraded_names_it_and_is_mended_by_a_retry(
    taken: dict[str, Any], reason: str, how: str
) -> None:
    of = plan(analysis=False)
    tombstone = Tombstone(
        taken.get("aborted", ()), 7, replace(Status("3", attempt=2), tripped=taken.get("tripped", ()))
    )
    status = live(of, tombstone)
    assert (status.phase, status.reason) == ("Degraded", reason)
    assert status.message == (
        f"variant treatment (version 4) was {how}: the control is served in its place;"
        f" `dropout rollout retry {KEY}` lifts that"
    )
    assert settled(of, status) == status
    again = transitions.retry(of.intent, status, NOW)
    assert again.message == "version 4 may be tried again"
    after = again.status
    assert (after.phase, after.reason, after.aborted, after.tripped) == ("Healthy", "live", (), ())
    assert (after.attempt, after.epoch) == (status.attempt + 1, status.epoch + 1)
    with pytest.raises(Refused, match="waits for a retry"):
        transitions.retry(of.intent, after, NOW)


def test_what_an_earlier_dropout_left_live_is_set_right_by_the_controller() -> None:
    of = plan(analysis=False)
    left = replace(live(of), aborted=("5", "9"))
    status = settled(of, left)
    assert (status.phase, status.reason) == ("Degraded", "aborted")
    assert "variant other (version 5)" in status.message
    assert "9" not in status.message


def test_an_edit_to_other_versions_mends_it_too() -> None:
    status = live(plan(analysis=False), Tombstone(("4",)))
    edited = plan(analysis=False, variants=[{**VARIANTS[0], "version": "6"}, *VARIANTS[1:]])
    assert transitions.configure(edited.intent, status, NOW).status.phase == "Healthy"


def test_each_variant_is_measured_against_the_control_and_shares_alpha() -> None:
    of = plan()
    assert due(of, live(of), NOW) == {}, "a run begins before it measures"
    status = settled(of, live(of))
    wanted = due(of, status, NOW)
    assert set(wanted) == {"variant/treatment", "variant/other"}
    assert {one.provider.spec.alpha for metrics in wanted.values() for one in metrics} == {0.05 / 2}


def test_what_is_inconclusive_or_cannot_be_measured_is_measured_again_and_changes_nothing() -> None:
    of = plan()
    status = settled(of, live(of))
    for look in range(1, 30):
        status = looked(of, status, NOW + 10 * look, treatment=Outcome.ERROR, other=Outcome.ERROR)
    status = looked(of, status, NOW + 400, treatment=Outcome.INCONCLUSIVE, other=Outcome.SUCCESSFUL)
    assert (status.phase, status.reason, status.conditions) == ("Healthy", "live", ())


def test_a_variant_that_fails_is_reported_and_goes_on_being_served() -> None:
    of = plan()
    status = settled(of, live(of))
    seen = measured(of, status, NOW, treatment=Outcome.FAILED, other=Outcome.SUCCESSFUL)
    found = advance(of, status, Evidence(seen), NOW)
    assert isinstance(found, Transition)
    assert found.message == "variant treatment: metric errors was Failed: seen"
    status = settled(of, found.status)
    assert (status.phase, status.reason, status.aborted) == ("Degraded", "analysis_failed", ())
    assert (status.message, status.epoch) == (found.message, 1)
    assert [one["type"] for one in status.conditions] == ["AnalysisFailed"]
    assert set(due(of, status, NOW + 10)) == {"variant/other"}, "the others go on"
    again = settled(of, transitions.retry(of.intent, status, NOW + 10).status, NOW + 10)
    assert (again.phase, again.conditions, set(due(of, again, NOW + 10))) == (
        "Healthy",
        (),
        {"variant/treatment", "variant/other"},
    )


def test_with_on_failed_control_its_units_get_the_control_and_the_others_are_measured_anew() -> None:
    of = plan("control")
    status = settled(of, live(of))
    failed = looked(of, status, NOW, treatment=Outcome.FAILED, other=Outcome.SUCCESSFUL)
    assert (failed.aborted, failed.phase, failed.reason) == (("4",), "Degraded", "analysis_failed")
    assert failed.message == "variant treatment (version 4) was aborted: metric errors was Failed: seen"
    assert failed.epoch == status.epoch + 1
    assert set(due(of, failed, NOW)) == {"variant/other"}
    both = looked(of, failed, NOW, other=Outcome.FAILED)
    assert (both.aborted, due(of, both, NOW + 10)) == (("4", "5"), {})
    assert "variant other (version 5)" in both.message


def test_the_controls_own_version_is_never_taken_away() -> None:
    of = plan("control", variants=[{**VARIANTS[0], "version": "3", "weight": 80}, VARIANTS[2]])
    status = looked(of, settled(of, live(of)), NOW, treatment=Outcome.FAILED)
    assert (status.aborted, status.reason, status.phase) == ((), "analysis_failed", "Degraded")


def test_a_run_that_passes_is_told_once() -> None:
    of = plan()
    status = settled(of, live(of))
    for look in range(3):
        status = looked(of, status, NOW + 10 * look, treatment=Outcome.SUCCESSFUL, other=Outcome.INCONCLUSIVE)
    assert [one["type"] for one in status.conditions] == ["AnalysisSuccessful", "AnalysisInconclusive"]
    assert (status.phase, status.reason) == ("Healthy", "live")


def test_a_template_that_is_missing_is_told() -> None:
    spec = {**EXPERIMENT, "analysis": {"templates": [{"templateName": "nowhere"}]}}
    of = plan_of(parse_rollout(document(spec)), lambda _name: None)
    (condition,) = settled(of, live(of)).conditions
    assert condition["message"] == "variant treatment: there is no AnalysisTemplate nowhere"


def test_a_split_that_is_off_is_told_until_it_holds() -> None:
    of = plan(analysis=False)
    status = settled(of, live(of), sample_ratio="units by arm: 9 where 5 were expected")
    assert (status.phase, status.reason) == ("Degraded", "sample_ratio_mismatch")
    assert settled(of, status, sample_ratio="units by arm: 10 where 5 were expected") == status, "once"
    assert settled(of, status).phase == "Healthy"


def test_while_it_is_killed_nothing_is_measured() -> None:
    of = plan()
    status = settled(of, live(of))
    killed = transitions.kill(status, NOW)
    assert killed is not None
    assert due(of, killed.status, NOW + 10) == {}
    assert settled(of, killed.status) == killed.status
    restored = transitions.restore(killed.status, NOW + 10)
    assert restored is not None
    again = settled(of, restored.status, NOW + 10)
    assert again.analysis[experiments.EPOCH] == again.epoch > killed.status.epoch
