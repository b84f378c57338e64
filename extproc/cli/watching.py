"""Following one rollout: live on a terminal, line by line elsewhere, or until it is in a phase."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator

import click

from extproc.cli.output import print_json
from extproc.cli.rollout_text import as_line, details
from extproc.control.access import Control
from extproc.control.as_json import row_json
from extproc.errors import Refused, Unreachable
from extproc.store.records import StoredRollout

FINAL_PHASES = ("Healthy", "Degraded")
"""What a rollout leaves only when somebody does something, be it to what holds it up; see ``_is_measured``, too."""

_RECONNECT_SECONDS = 0.5


def show(rows: Iterable[StoredRollout], output: str) -> None:
    """Show each of ``rows`` as it comes: on a terminal over the one before, elsewhere as a line if that is another."""
    on_screen, before = 0, ""
    for row in rows:
        if output == "json":
            print_json({**row_json(row), "deleted": row.deleted})
        elif sys.stdout.isatty():
            on_screen = _redraw(row, on_screen)
        elif (line := as_line(row)) != before:
            click.echo(line)
            before = line
        sys.stdout.flush()


def _redraw(row: StoredRollout, on_screen: int) -> int:
    """Write a rollout over the ``on_screen`` lines of the one before; how many lines it took."""
    width, height = shutil.get_terminal_size()
    lines = [line[:width] for line in (details(row, time.time()) if not row.deleted else [as_line(row)])][: height - 1]
    back = f"\x1b[{on_screen}F\x1b[J" if on_screen else ""
    click.echo(back + "\n".join(lines))
    return len(lines)


def wait_for(rollouts: Control, name: tuple[str, str], phase: str, seconds: float) -> StoredRollout:
    """The rollout ``name``, once it is in ``phase``.

    Raises:
        Refused: ``wait_over`` when it will not be without somebody's doing, ``wait_timeout`` after ``seconds``.
        InvalidInput, Unreachable: as ``Control``; what could be reached once is tried again for as long.
    """
    last = rollouts.get(*name)
    for row in _following(rollouts, name, seconds):
        last = row
        stands = f"it is {row.status.phase} ({row.status.reason}): {row.status.message}"
        if row.deleted:
            raise Refused.of("wait_over", f"{row.key} was deleted while it was waited for")
        if row.status.phase == phase:
            return row
        if row.status.phase in FINAL_PHASES and not (phase == "Degraded" and _is_measured(row)):
            raise Refused.of("wait_over", f"{row.key} does not become {phase} by itself; {stands}")
    raise Refused.of(
        "wait_timeout",
        f"{last.key} was not {phase} within {seconds:g} s; it is {last.status.phase} ({last.status.reason}): "
        f"{last.status.message}",
    )


def _is_measured(row: StoredRollout) -> bool:
    """Whether it is an experiment whose verdict is to come: Healthy until then, it becomes Degraded by itself."""
    spec = row.document.get("spec", {})
    return row.status.phase == "Healthy" and bool(spec.get("variants")) and bool(spec.get("analysis"))


def _following(rollouts: Control, name: tuple[str, str], seconds: float) -> Iterator[StoredRollout]:
    """What ``Control.watch`` gives, over whatever interrupts it."""
    until = time.monotonic() + seconds
    while True:
        try:
            yield from rollouts.watch(*name, max(0.0, until - time.monotonic()))
            return
        except Unreachable:
            if time.monotonic() + _RECONNECT_SECONDS > until:
                raise
            time.sleep(_RECONNECT_SECONDS)
