"""An analysis from the document to the verdict: its page's template, measured every second as a controller would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pytest
import yaml

from extproc.control.analysis.measuring import FeedbackMetrics, ObservedMetrics, evaluate
from extproc.control.analysis.ports import Subject
from extproc.control.analysis.runs import Outcome, RunPlan, due, outcome, record, run_plan, start
from extproc.measure import UNIT_GROUPS, ArmTotals, EpochTotals, LabelTotals
from extproc.resources.loading import parse_rollout, parse_template
from tests.support.pages import blocks, page
from tests.support.rollouts import CANARY, document

NOW = 1_800_000_000.0
ARMS = ("canary", "control")


def planned() -> RunPlan:
    bodies = [
        body for block in blocks(page("reference/analysis-template"), "yaml") for body in yaml.safe_load_all(block.text)
    ]
    (body,) = (body for body in bodies if body["metadata"]["name"] == "fraud-health")
    analysis = {"templates": [{"templateName": "fraud-health"}], "args": [{"name": "most", "value": "0.3"}]}
    spec = parse_rollout(document({**CANARY, "steps": [{"analysis": analysis}]})).spec.steps[0].analysis
    assert spec is not None
    return run_plan(spec, lambda name: parse_template(body))


class World:
    """Two versions under traffic: 100 requests a second, a tenth of them labelled after a minute."""

    def __init__(self, **false_positive_rates: float) -> None:
        self.epoch = EpochTotals("payments/fraud-detector", 1)
        self.by_arm: dict[str, LabelTotals] = {arm: LabelTotals() for arm in ARMS}
        self._rates = false_positive_rates
        self._random = np.random.default_rng(1)

    def pass_second(self, now: float) -> None:
        self.epoch.updated_at = now
        for arm in ARMS:
            totals = ArmTotals(decided=50)
            for group in self._random.integers(0, UNIT_GROUPS, 50):
                failed = int(self._random.random() < 0.02)
                totals.requests += 1
                totals.failures += failed
                totals.latency.add(20)
                counts = totals.groups.setdefault(int(group), [0, 0])
                counts[0] += 1
                counts[1] += failed
            self.epoch.arm(arm).merge(totals)
            if now > NOW + 60:
                self._label(arm)

    def _label(self, arm: str) -> None:
        for group in self._random.integers(0, UNIT_GROUPS, 5):
            counts = self.by_arm[arm].confusion.setdefault(int(group), [0, 0, 0, 0])
            counts[1 if self._random.random() < self._rates[arm] else 2] += 1
            paid = self.by_arm[arm].outcomes.setdefault("revenue", {}).setdefault(int(group), [0, 0.0])
            paid[0] += 1
            paid[1] += self._random.exponential(30)

    def totals(self, rollout: str, epoch: int) -> EpochTotals | None:
        return self.epoch

    def labels(self, rollout: str, epoch: int) -> Mapping[str, LabelTotals]:
        return self.by_arm


def ticks(world: World, seconds: int) -> Iterator[tuple[float, Outcome | None, str, dict[str, Any]]]:
    """Run the analysis for so long; each second's verdict. The state goes through JSON, as in the store."""
    plan, providers = planned(), {"observed": ObservedMetrics(world), "feedback": FeedbackMetrics(world, world)}
    run = start(plan, NOW)
    for second in range(seconds):
        now = NOW + second
        world.pass_second(now)
        subject = Subject("payments/fraud-detector", 1, now, "canary", "control")
        wanted = due(plan, run, now, step=0)
        measured = [evaluate(one, providers[one.provider.name].measure(one, subject), now) for one in wanted]
        run = orjson.loads(orjson.dumps(record(plan, run, measured, now)))
        yield second, *outcome(plan, run), run
        if outcome(plan, run)[0] is not None:
            return


def test_a_canary_with_more_false_positives_fails_soon_after_the_labels_come() -> None:
    *_, (second, verdict, message, run) = ticks(World(canary=0.25, control=0.10), 3600)
    assert verdict is Outcome.FAILED
    assert 60 < second < 600
    assert message.startswith("metric false-positives was Failed: failureCondition is true: result.lower > 0")
    assert "canary labels" in message
    assert run["metrics"]["errors"]["counts"]["Failed"] == 0


@pytest.mark.slow
def test_a_canary_that_is_as_good_passes_when_all_was_measured() -> None:
    *_, (second, verdict, message, run) = ticks(World(canary=0.10, control=0.10), 3600)
    assert verdict is Outcome.SUCCESSFUL
    assert second >= 29 * 60
    assert run["metrics"]["slow"]["counts"]["Successful"] == 30
    assert "metric errors was Successful 3" in message
    assert len(orjson.dumps(run)) < 32_000
