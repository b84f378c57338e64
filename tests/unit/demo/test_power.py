"""What the demo shows of labels is no luck: simulated with its own models, users, templates and rates.

The arms are those that the users draw, which never change; which patients they ask about is drawn anew in each run.
``SLOW`` is a host that answers three quarters of the requests that the demo's users would send.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Final

import pytest

from extproc.assignment import draw_of
from extproc.control.analysis.measuring import FeedbackMetrics, evaluate
from extproc.control.analysis.ports import Subject
from extproc.control.analysis.runs import Outcome, due, outcome, record, run_plan, start
from extproc.demo.documents import FIRST_LOOK_SECONDS, FIRST_WEIGHT, STEPS, TEMPLATES
from extproc.demo.labeller import DELAY_SECONDS, REPORT_SECONDS
from extproc.demo.versions import MODEL
from extproc.measure import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    TRUE_NEGATIVE,
    TRUE_POSITIVE,
    UNIT_GROUPS,
    EpochTotals,
    LabelTotals,
)
from extproc.resources.analysis_spec import AnalysisSpec
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import parse_template

USERS: Final = [f"user-{number:04}" for number in range(400)]
PER_SECOND: Final = 400
SLOW: Final = 300
RUNS: Final = 100
TICK_SECONDS: Final = 1.0
PAUSES: Final = [float(step["pause"]["duration"][:-1]) for step in STEPS if "pause" in step][1:]
"""After each weight."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _has_models() -> None:
    pytest.importorskip("sklearn")


def models() -> ModuleType:
    """Imported when they are asked: that takes longer than to collect everything else."""
    return import_module("extproc.demo.models")


@cache
def said(version: str) -> list[bool]:
    """What a version says of each patient."""
    classifier = models().Classifier(version)
    return [classifier.malignant(patient.measurements) for patient in models().patients()]


class Labels:
    """The labels that have come since an epoch began; ``until`` lets time pass."""

    def __init__(self, seed: int, stable: str, canary: str, weight: int, per_second: int) -> None:
        self._choice = random.Random(seed)
        self._versions = {"canary": canary, "control": stable}
        self._per_second = per_second
        self._told = 0
        draws = [draw_of(f"default/{MODEL}@{canary}".encode(), user.encode()) for user in USERS]
        self._users = [
            ("canary" if bucket < 100 * weight else "control", quotient % UNIT_GROUPS) for quotient, bucket in draws
        ]
        self._arms = {"canary": LabelTotals(), "control": LabelTotals()}

    def until(self, seconds: float) -> None:
        """What had been answered by then is told, but for the latest."""
        answered = int(self._per_second * max(0.0, seconds - DELAY_SECONDS - REPORT_SECONDS))
        sick = _diagnoses()
        for number in range(self._told, answered):
            arm, group = self._users[number % len(USERS)]
            patient = self._choice.randrange(len(sick))
            counts = self._arms[arm].confusion.setdefault(group, [0, 0, 0, 0])
            counts[_place(said(self._versions[arm])[patient], sick[patient])] += 1
        self._told = max(self._told, answered)

    def labels(self, rollout: str, epoch: int) -> Mapping[str, LabelTotals]:
        """See ``LabelSource``."""
        return self._arms

    def totals(self, rollout: str, epoch: int) -> EpochTotals | None:
        """See ``ObservationSource``: nothing but labels is looked at here."""
        return None


@cache
def _diagnoses() -> list[bool]:
    return [patient.malignant for patient in models().patients()]


def _place(prediction: bool, label: bool) -> int:
    if prediction:
        return TRUE_POSITIVE if label else FALSE_POSITIVE
    return FALSE_NEGATIVE if label else TRUE_NEGATIVE


def analyse(labels: Labels, template: str, begins: float, ends: float) -> tuple[Outcome | None, float]:
    """What the metrics of labels in a template come to, looked at every tick from ``begins`` to ``ends``, and when."""
    spec = AnalysisSpec.model_validate({"templates": [{"templateName": template}]})
    plan = run_plan(spec, only_labels, background=template == "no-harm")
    assert not plan.error
    provider, now = FeedbackMetrics(labels, labels), begins
    run: dict[str, Any] = start(plan, now)
    while now <= ends and outcome(plan, run)[0] is None:
        labels.until(now)
        subject = Subject(f"default/{MODEL}", 1, now, "canary", "control")
        measured = [evaluate(metric, provider.measure(metric, subject), now) for metric in due(plan, run, now, 0)]
        run = record(plan, run, measured, now)
        now += TICK_SECONDS
    return outcome(plan, run)[0], now - TICK_SECONDS


def only_labels(name: str) -> AnalysisTemplate:
    metrics = [metric for metric in TEMPLATES[name] if "feedback" in metric["provider"]]
    head = {"apiVersion": "dropout.dev/v1alpha1", "kind": "AnalysisTemplate", "metadata": {"name": name}}
    return parse_template({**head, "spec": {"metrics": metrics}})


def failed_at_first_look(per_second: int, seed: int) -> bool:
    labels = Labels(seed, "2", "3", FIRST_WEIGHT, per_second)
    return analyse(labels, "no-harm", 0.0, 60.0) == (Outcome.FAILED, FIRST_LOOK_SECONDS)


def passes(per_second: int, seed: int) -> bool:
    """Whether version 2 passes both of its analyses, and nothing that watches all the way finds any harm."""
    verdicts = []
    for weight, pause in zip((FIRST_WEIGHT, 50), PAUSES, strict=True):
        verdicts.append(analyse(Labels(seed, "1", "2", weight, per_second), "health", pause, pause + 10.0)[0])
        watched = analyse(Labels(seed, "1", "2", weight, per_second), "no-harm", 0.0, pause + 5.0)[0]
        verdicts.append(Outcome.SUCCESSFUL if watched is None else watched)
    return set(verdicts) == {Outcome.SUCCESSFUL}


def test_version_3_is_found_at_the_first_look_whoever_asks_about_whom() -> None:
    assert all(failed_at_first_look(PER_SECOND, seed) for seed in range(RUNS))


def test_version_2_passes_whoever_asks_about_whom() -> None:
    assert all(passes(PER_SECOND, seed) for seed in range(RUNS))


def test_version_4_is_not_taken_for_a_wrong_one_before_it_breaks() -> None:
    verdicts = {
        analyse(Labels(seed, "2", "4", FIRST_WEIGHT, PER_SECOND), "no-harm", 0.0, 20.0)[0] for seed in range(RUNS)
    }
    assert verdicts == {None}


def test_a_slower_host_shows_the_same() -> None:
    assert sum(failed_at_first_look(SLOW, seed) for seed in range(RUNS)) >= 0.98 * RUNS
    assert sum(passes(SLOW, seed) for seed in range(RUNS)) >= 0.98 * RUNS
