"""Where the policies and the Envoy configuration are: in an installed wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from extproc.errors import Unreachable


def bundled(name: str) -> Path:
    """The folder ``policies`` or ``envoy`` that belongs to this code.

    Raises:
        Unreachable: ``not_bundled`` when the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_bundled" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise Unreachable.of("not_bundled", f"this installation has no folder {name!r}; install dropout-router again")
