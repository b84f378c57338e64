"""A copy of the package that a test may change, and what mypy says of it: whether a closed set is closed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def copied(folder: Path) -> Path:
    """The package as it is, in ``folder``; what mypy knows of it already is not found out again."""
    unwanted = shutil.ignore_patterns("__pycache__", "_bundled")
    shutil.copytree(ROOT / "extproc", folder / "extproc", ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", folder)
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    return folder


def complaints(copy: Path) -> list[tuple[str, str]]:
    """What mypy finds: the file and the code of each error."""
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert found.returncode in (0, 1), found.stderr
    return re.findall(r"^extproc/(\S+?):\d+: error: .*\[([\w-]+)]$", found.stdout, re.M)


def change(file: Path, old: str, new: str) -> None:
    """Put ``new`` in the place of the first ``old``."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
