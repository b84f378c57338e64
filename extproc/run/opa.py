"""The opa that is in PATH, run as a command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from extproc.errors import Unreachable

_SECONDS: Final = 60.0


def run_opa(arguments: Sequence[str | Path], field: str | None = None) -> subprocess.CompletedProcess[bytes]:
    """What opa says to ``arguments``, whatever its exit code. ``field`` is the option that asks for it.

    Raises:
        Unreachable: ``opa_missing``, there is none in PATH, or it does not answer.
    """
    opa = shutil.which("opa")
    if opa is None:
        raise Unreachable.of("opa_missing", "there is no opa in PATH", field=field)
    try:
        return subprocess.run([opa, *arguments], capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603 - theirs
    except (OSError, subprocess.TimeoutExpired) as error:
        raise not_answering(error, field) from error


def not_answering(why: object, field: str | None = None) -> Unreachable:
    """An opa that says nothing that can be understood."""
    return Unreachable.of("opa_missing", f"opa does not answer: {why}", field=field)
