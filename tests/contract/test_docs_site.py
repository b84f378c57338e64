"""The site of the pages is built, and a warning is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def test_a_link_to_a_page_that_is_not_there_fails_make_docs_and_is_shown(tmp_path: Path) -> None:
    for place in ROOT.iterdir():
        if place.name not in (".git", ".venv", "build", "docs"):
            (tmp_path / place.name).symlink_to(place)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    with (tmp_path / "docs" / "pages" / "limits.md").open("a") as page:
        page.write("\nMore is [elsewhere](elsewhere.md).\n")
    made = subprocess.run(["make", "-o", ".venv/.ready", "docs"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode != 0
    warnings = [line for line in made.stdout.splitlines() if line.startswith("WARNING")]
    assert ["'elsewhere.md'" in warning for warning in warnings] == [True]
