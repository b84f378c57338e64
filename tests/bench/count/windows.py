"""Instructions of something that a program of the bench does again and again, below callgrind."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.bench.count.figures import instructions
from tests.bench.count.worker import WINDOWS, counted, mark
from tests.support.paths import ROOT

SECONDS: Final = 600
VALGRIND: Final = shutil.which("valgrind")


def count(module: str, arguments: Sequence[str], times: int) -> int:
    """The instructions of one of ``times``, when ``python -m module`` calls ``be_counted`` with as many.

    Raises:
        subprocess.SubprocessError: it fails, or takes too long.
        ValueError: nothing was counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(VALGRIND), "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"),
            *("--instr-atstart=no", "--dump-before=getsid", sys.executable, "-m", module, *arguments),
        ]
        environment = {"PATH": str(Path(str(VALGRIND)).parent), "PYTHONHASHSEED": "0"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=SECONDS)
        # The first is of what came before the first mark.
        windows = [Path(folder, f"counts.{number}").read_text() for number in range(2, WINDOWS + 2)]
    return instructions(windows, times)


def be_counted(work: Callable[[], object], times: int) -> None:
    """Below callgrind: do it ``times`` between two marks, after as many that warm up."""
    for _ in range(times):
        work()
    gc.collect()
    gc.freeze()  # as a worker does
    with counted():
        for _ in range(WINDOWS):
            for _ in range(times):
                work()
            mark()
