"""What CI runs is what a user runs, is valid, and says how long it took and what it left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.process import found, in_venv

CI = ROOT / ".ci"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
WHEELS = ROOT / "tests" / "systems" / "wheels"


def within(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CI / "within", *arguments], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("schema", "file"),
    [*(("github-workflows", file) for file in WORKFLOWS), ("compose-spec", ROOT / "envoy" / "compose.yaml")],
)
def test_what_others_read_is_valid_by_their_schema(schema: str, file: Path) -> None:
    checker = found("check-jsonschema", "make systems", in_venv("schemas", "bin/check-jsonschema"))
    command = [str(checker), "--builtin-schema", f"vendor.{schema}", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_runs_the_tests_and_first_brings_what_they_need() -> None:
    (workflow,) = WORKFLOWS
    steps = yaml.safe_load(workflow.read_text())["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make systems", "make test"]


@pytest.mark.parametrize("script", ["run", "nightly"])
def test_a_run_of_ci_asks_nobody_and_leaves_nothing_out(script: str) -> None:
    text = (CI / script).read_text()
    assert "export CI=true\n" in text
    (targets,) = re.findall(r"^make (.*) < /dev/null$", text, re.MULTILINE)
    assert [target for target in targets.split() if f"\n{target}: " not in MAKEFILE] == []
    assert os.access(CI / script, os.X_OK)


def test_a_run_says_its_time_and_its_budget_and_ends_as_its_command() -> None:
    passed, failed = within("test", "true"), within("nightly", "sh", "-c", "exit 3")
    assert (passed.returncode, failed.returncode) == (0, 3)
    assert re.fullmatch(r"make test took 0 min \d+ s of a budget of 20 min\n", passed.stdout)
    assert re.fullmatch(r"make nightly took 0 min \d+ s of a budget of 30 min\n", failed.stdout)
    budgets = [line.split()[0] for line in (CI / "budget").read_text().splitlines()]
    assert re.findall(r"\.ci/within (\w+)", MAKEFILE) == budgets


def test_the_tests_that_are_left_out_for_the_night_are_said_with_the_command() -> None:
    command = [sys.executable, "-m", "pytest", "tests/e2e/test_other_envoys.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert re.search(r"^SKIPPED \[\d+\] .*: make nightly$", done.stdout, re.MULTILINE)
    assert done.returncode == 0


def test_every_wheel_of_a_system_is_brought_by_a_target_and_locked() -> None:
    named = re.findall(r"^(?:SYSTEMS|BY_NIGHT) := (.*)$", MAKEFILE, re.MULTILINE)
    assert {*" ".join(named).split()} - {"debian"} == {file.stem for file in WHEELS.glob("*.in")}
    for file in WHEELS.glob("*.in"):
        named_alone = re.sub(r"\[\w+\]", "", file.read_text().strip())  # a lock has an extra's packages, not its name
        assert f"{named_alone} \\\n    --hash=sha256:" in file.with_suffix(".txt").read_text()
