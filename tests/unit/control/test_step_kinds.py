"""A kind of step more: the type checker names every place that has to know of it, and then everything does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.scratch import change, complaints, copied

PART = '''
class ApprovalStep(Part):
    """A word of somebody's."""

    approval: Name
    """Who is asked."""


AnyStep = ApprovalStep | '''

KIND = '''
"""``approval``: somebody is asked."""

from dataclasses import dataclass, replace

from extproc.control.intent import Transition
from extproc.control.steps.step import InForce, Reach
from extproc.resources.steps import ApprovalStep


@dataclass(frozen=True, slots=True)
class Approval:
    """It waits for ever."""

    step: ApprovalStep

    @property
    def summary(self) -> str:
        return f"approval of {self.step.approval}"

    @property
    def own_time(self) -> bool:
        return True

    def advance(self, at: InForce) -> Transition | None:
        return None
'''

REACH = """
    @property
    def reach(self) -> Reach:
        return Reach(waits=True)
"""

TRY = """
from tests.support.rollouts import CANARY, document
from extproc.control import transitions
from extproc.control.effect import Stand, effect
from extproc.control.rollout import Evidence, advance, plan_of
from extproc.resources.loading import parse_rollout
from extproc.cli.rollout_text import details
from extproc.store.records import Tombstone, StoredRollout

body = document({**CANARY, "steps": [{"approval": "alice"}, {"setWeight": 5}]})
rollout = parse_rollout(body)
plan = plan_of(rollout, {}.get)
status = transitions.create(plan.intent, Tombstone(), 0.0).status
assert advance(plan, status, Evidence(), 1e6) is None
assert not effect(None, Stand(status, rollout)).gives_more
row = StoredRollout("payments", "fraud-detector", body, status, 1)
assert any("approval of alice" in line for line in details(row, 1e6))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mypy_names_every_place_that_has_to_know_of_a_new_kind_of_step(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    parts, kinds = copy / "extproc/resources/steps.py", copy / "extproc/control/steps/kinds.py"
    change(parts, "\nAnyStep = ", PART)
    change(parts, "import Duration, ", "import Duration, Name, ")
    assert complaints(copy) == [("resources/steps.py", "arg-type"), ("control/steps/kinds.py", "arg-type")]

    change(parts, "case ShadowStep() |", "case ApprovalStep() | ShadowStep() |")
    change(kinds, "        case _:", "        case ApprovalStep():\n            return Approval(step)\n        case _:")
    change(kinds, "import AnalysisStep,", "import AnalysisStep, ApprovalStep,")
    change(
        kinds,
        "\nfrom extproc.control.steps.pause",
        "\nfrom extproc.control.steps.approval import Approval\nfrom extproc.control.steps.pause",
    )
    (copy / "extproc/control/steps/approval.py").write_text(KIND)
    assert complaints(copy) == [("control/steps/kinds.py", "return-value")], "it has no reach"

    (copy / "extproc/control/steps/approval.py").write_text(KIND + REACH)
    assert complaints(copy) == []
    subprocess.run([sys.executable, "-c", TRY], cwd=copy, env={"PYTHONPATH": f"{copy}:{ROOT}"}, check=True)
