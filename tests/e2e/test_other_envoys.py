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
SLOW = ("tests/e2e/test_demo.py", "tests/e2e/test_faults.py", "tests/e2e/test_readme_examples.py")
"""Of them, those that ask Envoy for nothing that the others do not."""


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("minor", MINORS)
def test_what_holds_with_the_locked_envoy_holds_with_others(minor: str) -> None:
    envoy = found(f"envoy-{minor}", "make nightly", in_venv(f"envoy-{minor}", "bin/envoy"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *ON_A_REAL_ENVOY, *(f"--ignore={file}" for file in (*SLOW, Path(__file__)))],
        cwd=ROOT,
        env={**os.environ, "ENVOY": str(envoy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}{done.stderr[-2000:]}"
