"""The code that is counted: that of the change as it lies in the checkout, and that of the commit it goes out from."""

from __future__ import annotations

import compileall
import shutil
import subprocess
from pathlib import Path

from tests.support.paths import ROOT

PARTS = ("extproc", "policies")
"""What a decision is made of."""
TRUNKS = ("main", "origin/main")


class NoBase(Exception):
    """There is no commit to compare with; the text says why."""


def base_of(named: str | None) -> str:
    """The commit that the change is compared with: the one ``named``, else the merge base with the trunk.

    On the trunk itself it is the commit before, unless there is something that is not committed.

    Raises:
        NoBase: when there is none, as in a shallow clone.
    """
    if named is not None:
        return _git("rev-parse", "--verify", f"{named}^{{commit}}")
    head, base = _git("rev-parse", "HEAD"), _git("merge-base", _trunk(), "HEAD")
    if base == head and not _git("status", "--porcelain", "--", *PARTS):
        return _git("rev-parse", "--verify", "HEAD~1")
    return base


def _trunk() -> str:
    for name in TRUNKS:
        try:
            return _git("rev-parse", "--verify", name)
        except NoBase:
            continue
    raise NoBase(f"neither {' nor '.join(TRUNKS)} is there")


def short(commit: str) -> str:
    """The commit as people write it."""
    return _git("rev-parse", "--short", commit)


def lay_out(folder: Path, commit: str | None) -> Path:
    """Put the code of ``commit``, or None for what lies in the checkout, into ``folder``, compiled."""
    folder.mkdir(parents=True)
    if commit is None:
        for part in PARTS:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        archive = folder / "base.tar"
        _git("archive", "--output", str(archive), commit, *PARTS)
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
        archive.unlink()
    compileall.compile_dir(folder, quiet=2)
    return folder


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise NoBase(done.stderr.strip())
    return done.stdout.strip()
