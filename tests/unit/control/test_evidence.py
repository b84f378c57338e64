"""What the controller sees of a rollout, and that nothing which goes wrong with looking is the rollout's fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.control.analysis.ports import Reading, Subject
from extproc.control.analysis.runs import Metric
from extproc.control.analysis.servers import MetricServers
from extproc.control.evidence import MEASURING_SECONDS, SPLIT_SECONDS, EvidenceCollector
from extproc.errors import Unreachable
from extproc.measure import EpochTotals
from extproc.store.records import TemplateWrite
from tests.support.reconciling import KEY, Clusters, Environment
from tests.support.templates import metric, template

ANALYSIS = {"analysis": {"templates": [{"templateName": "health"}]}}
STEPS = [{"setWeight": 50}, ANALYSIS]
GOOD = Reading({"lower": -0.1, "canary": {"rate": 0.01}})
BAD = Reading({"lower": 0.2, "canary": {"rate": 0.5}})


class Provider:
    """Gives one reading; an exception is raised."""

    def __init__(self, reading: Reading | Exception) -> None:
        self.reading = reading
        self.asked: list[tuple[str, Subject]] = []

    def measure(self, metric: Metric, of: Subject) -> Reading:
        self.asked.append((metric.name, of))
        if isinstance(self.reading, Exception):
            raise self.reading
        return self.reading


class Split:
    """An observation source whose arms have so many units."""

    def __init__(self, canary: int, control: int) -> None:
        self.arms = ["canary"] * canary + ["control"] * control
        self.looks = self.surplus = 0
        self.broken = False

    def totals(self, rollout: str, epoch: int) -> EpochTotals | None:
        self.looks += 1
        if self.broken:
            raise Unreachable.of("observations_unreachable", "away")
        totals = EpochTotals(rollout, epoch)
        for unit, arm in enumerate(self.arms):
            totals.units.add(unit, arm)
        totals.arm("canary").decided, totals.arm("canary").surplus = 100, self.surplus
        return totals


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(tmp_path)
    environment.apply_template(template(metric(interval="10s", count=3)))
    yield environment
    environment.store.close()


def collector(environment: Environment, provider: Provider, **options: object) -> EvidenceCollector:
    servers = MetricServers({}, environment.clock.monotonic)
    return EvidenceCollector({"observed": provider}, servers, environment.clock.monotonic, **options)  # type: ignore[arg-type]


def test_what_is_due_is_measured_of_the_arms_of_the_epoch_in_force(environment: Environment) -> None:
    environment.apply(steps=STEPS)
    provider = Provider(GOOD)
    controller = environment.controller(evidence=collector(environment, provider))
    environment.run(controller, 40)
    assert [name for name, _ in provider.asked] == ["errors"] * 3
    of = provider.asked[0][1]
    assert (of.rollout, of.canary, of.control) == (KEY, "canary", "control")
    assert of.epoch == environment.store.epochs_of(*KEY.split("/"))[-2].id  # the last one began with the promotion
    assert environment.row().status.stable == "4"


def test_a_failed_analysis_takes_the_canary_away_and_history_has_the_measurement(environment: Environment) -> None:
    environment.apply(steps=STEPS)
    controller = environment.controller(evidence=collector(environment, Provider(BAD)))
    environment.run(controller, 5)
    status = environment.row().status
    assert (status.phase, status.weight, status.reason, status.aborted) == ("Degraded", 0, "analysis_failed", ("4",))
    entry = environment.history()[-1]
    assert entry.action == "abort"
    assert entry.detail["measurements"]["metrics"]["errors"]["counts"]["Failed"] == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), Unreachable.of("x", "away")])
def test_what_cannot_be_measured_is_an_error_of_the_measurement_and_ends_no_rollout(
    environment: Environment, error: Exception
) -> None:
    environment.apply(steps=STEPS)
    controller = environment.controller(evidence=collector(environment, Provider(error)))
    environment.run(controller, 120)
    status = environment.row().status
    assert (status.phase, status.reason, status.weight) == ("Paused", "analysis_error", 5000)


def test_what_was_measured_is_in_the_store_before_the_next_is_due(environment: Environment) -> None:
    environment.apply(steps=STEPS)
    first = environment.controller("a", evidence=collector(environment, Provider(GOOD)))
    environment.run(first, 14)
    first.release()
    provider = Provider(GOOD)
    environment.run(environment.controller("b", evidence=collector(environment, provider)), 40)
    assert len(provider.asked) == 1  # of three, two were measured by the one before
    assert environment.row().status.stable == "4"


def test_a_template_that_changes_counts_from_the_next_tick_on(environment: Environment) -> None:
    environment.apply(steps=STEPS)
    provider = Provider(GOOD)
    controller = environment.controller(evidence=collector(environment, provider))
    environment.run(controller, 3)
    environment.apply_template(template(metric(failureCondition="result.canary.rate > 0.001", interval="10s", count=3)))
    environment.run(controller, 12)
    assert environment.row().status.reason == "analysis_failed"


def test_a_template_that_is_missing_pauses(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 50}, ANALYSIS])
    row = environment.store.documents().templates[0]
    environment.store.write([], templates=[_removed(row.namespace, row.name)])
    environment.run(environment.controller(evidence=collector(environment, Provider(GOOD))), 5)
    assert (environment.row().status.phase, environment.row().status.reason) == ("Paused", "analysis_error")


def test_a_log_that_tells_of_more_ends_than_decisions_holds_the_canary_back_until_they_are_few(
    environment: Environment,
) -> None:
    environment.apply(steps=[{"setWeight": 50}, {"pause": {"duration": "10s"}}, {"setWeight": 75}, {"pause": {}}])
    source = Split(50, 50)
    controller = environment.controller(evidence=collector(environment, Provider(GOOD), source=source))
    source.surplus = 11
    environment.run(controller, 20)
    status = environment.row().status
    assert (status.weight, status.reason) == (5000, "outcomes_doubtful")
    assert status.message == "the access log told of 11 ends beside those of the 100 decisions of the canary arm"
    source.surplus = 12
    environment.run(controller, SPLIT_SECONDS)
    assert len([entry for entry in environment.history() if entry.message.startswith("waits: ")]) == 1
    source.surplus = 10
    environment.run(controller, SPLIT_SECONDS)
    assert environment.weight() == 7500


def test_a_cluster_that_envoy_does_not_know_holds_the_canary_back(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 5}, {"pause": {}}])
    clusters = Clusters("fraud-detector-v3")
    controller = environment.controller(evidence=collector(environment, Provider(GOOD), clusters=clusters))
    environment.run(controller, 3)
    assert environment.row().status.message == "cluster fraud-detector-v4 is not known"
    clusters.known = ("fraud-detector-v3", "fraud-detector-v4")
    environment.run(controller, 2)
    assert environment.weight() == 500


def test_a_split_that_nobody_drew_pauses(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 50}, {"pause": {"duration": "1m"}}])
    controller = environment.controller(evidence=collector(environment, Provider(GOOD), source=Split(1000, 2000)))
    environment.run(controller, 20)
    status = environment.row().status
    assert (status.phase, status.reason) == ("Paused", "sample_ratio_mismatch")
    assert "canary 1000 where 1500 were expected" in status.message


def test_a_healthy_split_and_one_that_cannot_be_counted_pause_nothing(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 50}, {"pause": {"duration": "2m"}}])
    split = Split(1500, 1500)
    controller = environment.controller(evidence=collector(environment, Provider(GOOD), source=split))
    environment.run(controller, 40)
    split.broken = True
    environment.run(controller, 100)
    assert split.looks >= 4
    assert environment.row().status.stable == "4"


def test_the_units_are_counted_every_few_seconds_and_not_at_every_tick(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 50}, {"pause": {}}])
    split = Split(10, 10)
    controller = environment.controller(evidence=collector(environment, Provider(GOOD), source=split))
    environment.run(controller, 4 * int(SPLIT_SECONDS))
    assert 4 <= split.looks <= 6


def test_measuring_takes_only_so_much_of_a_tick_and_the_rest_follows(environment: Environment) -> None:
    names = [f"r{number}" for number in range(6)]
    for name in names:
        environment.apply(name, steps=STEPS)

    class Slow(Provider):
        def measure(self, metric: Metric, of: Subject) -> Reading:
            environment.clock.advance(MEASURING_SECONDS / 2.5)
            return super().measure(metric, of)

    provider = Slow(GOOD)
    controller = environment.controller(evidence=collector(environment, provider))
    per_tick = []
    for _ in range(20):
        before = len(provider.asked)
        environment.run(controller, 1)
        per_tick.append(len(provider.asked) - before)
    assert max(per_tick) == 3
    environment.run(controller, 60)
    assert {environment.row(name).status.stable for name in names} == {"4"}


def _removed(namespace: str, name: str) -> TemplateWrite:
    return TemplateWrite(namespace, name, None)
