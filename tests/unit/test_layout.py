"""The unit tests stand where what they test stands."""

from __future__ import annotations

import subprocess

from tests.support.paths import ROOT

UNIT = ROOT / "tests" / "unit"
BESIDE_THE_PACKAGE = {"bench"}
"""Folders of tests for what is not in the package: the bench."""

TOP = {
    *("pyproject.toml", "proto", "extproc", "policies", "envoy", "tests", "Makefile", "README.md"),
    *("docs", "LICENSE", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "requirements.lock"),
}
"""What stands in the project's folder, beside what begins with a dot."""


def test_the_top_level_stays_as_it_is() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name.partition("/")[0] for name in tracked.splitlines() if not name.startswith(".")} == TOP


def test_every_folder_of_unit_tests_is_a_folder_of_the_package() -> None:
    folders = {file.parent.relative_to(UNIT) for file in UNIT.rglob("test_*.py")}
    unknown = {str(folder) for folder in folders if not (ROOT / "extproc" / folder).is_dir()}
    assert unknown == BESIDE_THE_PACKAGE
