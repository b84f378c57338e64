"""The unit tests stand where what they test stands."""

from __future__ import annotations

from tests.support.paths import ROOT

UNIT = ROOT / "tests" / "unit"
BESIDE_THE_PACKAGE = {"bench"}
"""Folders of tests for what is not in the package: the bench."""


def test_every_folder_of_unit_tests_is_a_folder_of_the_package() -> None:
    folders = {file.parent.relative_to(UNIT) for file in UNIT.rglob("test_*.py")}
    unknown = {str(folder) for folder in folders if not (ROOT / "extproc" / folder).is_dir()}
    assert unknown == BESIDE_THE_PACKAGE
