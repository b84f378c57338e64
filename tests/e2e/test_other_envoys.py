"""Dropout works with every Envoy that can be had, not only with the one that it is locked to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.process import found, in_venv

MINORS = sorted(file.stem.removeprefix("envoy-") for file in (ROOT / "tests" / "systems" / "wheels").glob("envoy-*.in"))
ON_A_REAL_ENVOY = ("tests/unit/envoy", "tests/e2e")
SLOW = ("tests/e2e/test_demo.py", "tests/e2e/test_faults.py", "tests/e2e/test_docs_examples.py")
"""Of them, those that ask Envoy for nothing that the others do not."""
ONLY_SINCE_1_40 = (
    "test_a_version_without_a_cluster_or_a_route_is_served_by_stable",
    "test_a_cluster_that_is_empty_or_missing_is_passed_over_without_counting_an_attempt",
)
"""Before it, a composite cluster does not pass over a member that cannot take the request."""


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("minor", MINORS)
def test_what_holds_with_the_locked_envoy_holds_with_others(minor: str) -> None:
    envoy = found(f"envoy-{minor}", "make nightly", in_venv(f"envoy-{minor}", "bin/envoy"))
    ignored = [f"--ignore={file}" for file in (*SLOW, Path(__file__))]
    held = " and ".join(f"not {test}" for test in ONLY_SINCE_1_40)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", *ON_A_REAL_ENVOY, *ignored, "-k", held],
        cwd=ROOT,
        env={**os.environ, "ENVOY": str(envoy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}{done.stderr[-2000:]}"
