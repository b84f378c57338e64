"""The real OPA, the referee of what Rego means."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def opa_binary() -> str:
    """The pinned binary, else one in PATH; without either the test is skipped, in CI it fails."""
    built = ROOT / ".tools" / "opa"
    found = str(built) if built.exists() else shutil.which("opa")
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail("CI needs OPA: make tools")
    pytest.skip("no OPA: make tools")


def opa(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run OPA and wait; the caller looks at the exit status."""
    return subprocess.run(
        [opa_binary(), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
