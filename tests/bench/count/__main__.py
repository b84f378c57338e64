"""Count the instructions of a decision, of the change and of its merge base: ``python -m tests.bench.count``.

1 when a decision has become more than 5 % dearer, or nothing could be counted. ``--base REV`` compares with another
commit, ``--record`` keeps the change's figures in ``tests/bench/counts.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tests.bench.count import worker
from tests.bench.count.figures import Counted, Counts, Record, dearer, instructions, report, show
from tests.bench.count.trees import NoBase, base_of, lay_out, short
from tests.bench.in_process import message
from tests.bench.stack import CACHED_FOR_LONG, NOTHING_REMEMBERED, ROOT, Case, paths, prepare

KEPT = ROOT / "tests" / "bench" / "counts.json"
BUILD = ROOT / "build" / "bench-count"
DECISIONS = 512
"""Between two marks; a multiple of those that are noted at once, so that what is done once for many falls evenly."""
SECONDS = 900
VALGRIND = Path(shutil.which("valgrind") or "")


@dataclass(frozen=True, slots=True)
class Counting:
    """One thing to count: a case of the bench, in an environment of its own."""

    case: Case
    settings: Mapping[str, str] = field(default_factory=dict)


CASES = (
    Counting(Case("full decision", rollouts=1, full=True)),
    Counting(Case("full decision, every verdict asked for", rollouts=1, full=True), NOTHING_REMEMBERED),
    Counting(Case("without policy", rollouts=1)),
)


def main(arguments: list[str]) -> int:
    """Count and print; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.count")
    parser.add_argument("--base", metavar="REV", help="the commit to compare with, instead of the merge base with main")
    parser.add_argument("--record", action="store_true", help=f"keep the figures in {KEPT.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=120, markup=False)
    if not VALGRIND.name:
        console.print("make bench-count needs valgrind, which `make systems` installs")
        return 1
    try:
        commit = base_of(options.base)
        base, change = _count_both(console, commit)
    except NoBase as error:
        console.print(f"there is no commit to compare with ({error}): name one, as in make bench-count BASE=HEAD~1")
        return 1
    except RuntimeError as error:
        console.print(f"the change cannot be counted: {error}")
        return 1
    record = Record(_counted(), change)
    found = report(record, base, short(commit), Record.from_json(json.loads(KEPT.read_text())))
    show(console, found)
    (ROOT / "build" / "bench-count.json").write_text(json.dumps(found, indent=2) + "\n")
    if options.record:
        KEPT.write_text(json.dumps(record.to_json(), indent=2) + "\n")
    return 1 if dearer(found) else 0


def _count_both(console: Console, commit: str) -> tuple[Counts, Counts]:
    """What the base costs, and what the change does. A base that does not know what is asked of it has no figures."""
    console.print(f"Counting in {_together()} processes at a time; less than two minutes on an idle machine ...")
    shutil.rmtree(BUILD, ignore_errors=True)
    with ThreadPoolExecutor(_together()) as pool:
        # Folders with names of one length: as long is what is kept of them in memory.
        this, base = (_begin(pool, lay_out(BUILD / side, of)) for side, of in (("this", None), ("base", commit)))
    change = {case: count.result() for case, count in this.items()}
    try:
        return {case: count.result() for case, count in base.items()}, change
    except RuntimeError as error:
        console.print(f"{short(commit)} cannot be counted in the way of this change, and is not compared: {error}")
        return {}, change


def _begin(pool: Executor, tree: Path) -> dict[str, Future[int]]:
    return {
        counting.case.name: pool.submit(_count, tree, counting, tree / f"case-{number}")
        for number, counting in enumerate(CASES)
    }


def _count(tree: Path, counting: Counting, directory: Path) -> int:
    """Instructions of one decision by the code in ``tree``.

    Raises:
        RuntimeError: when that code does not do what is asked of it; the text is the last thing that it said.
    """
    directory.mkdir()
    # No variable but these: what is in memory, and where, should depend on the code alone.
    environment = {
        "PATH": str(VALGRIND.parent),
        "PYTHONPATH": str(tree),
        "PYTHONSAFEPATH": "1",  # what else lies in the folders of a script is not looked at
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        **CACHED_FOR_LONG,
        **counting.settings,
    }
    try:
        prepare(directory, counting.case, environment)
    except RuntimeError as error:
        raise RuntimeError(_last_line(str(error))) from None
    questions = [message(path, number) for number, path in enumerate(paths(counting.case)[:DECISIONS])]
    (directory / "messages").write_bytes(b"\n".join(questions))
    command = [
        *(str(VALGRIND), "--quiet", "--tool=callgrind", "--callgrind-out-file=counts"),
        *("--instr-atstart=no", f"--dump-before={worker.MARK}"),
        *(sys.executable, worker.__file__, str(tree / "policies")),
    ]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(_last_line(done.stderr))
    # The first is of what came before the first mark.
    windows = [directory / f"counts.{number}" for number in range(2, worker.WINDOWS + 2)]
    return instructions((window.read_text() for window in windows), DECISIONS)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _counted() -> Counted:
    version = subprocess.run([str(VALGRIND), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    lock = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()[:12]
    return Counted(" ".join(sys.version.split()), platform.machine(), lock, version)


def _together() -> int:
    """Processes that count at once: each has as much memory as three workers."""
    return min(2, len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
