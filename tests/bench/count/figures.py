"""What was counted, beside what it is compared with; what is said of it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

MOST = 1.05
"""The change over its base: a decision that costs more than that needs a reason."""

Counts = Mapping[str, int]
"""Instructions of one decision, by case."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What figures depend on beside the code: they are compared where all of it is the same.

    ``python`` names the build too, ``lock`` is the beginning of the SHA-256 of the lock file.
    """

    python: str
    machine: str
    lock: str
    valgrind: str


@dataclass(frozen=True, slots=True)
class Record:
    """The figures of a run that are kept, and what they depend on."""

    counted: Counted
    instructions: Counts

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Record:
        """The record that ``to_json`` gave."""
        return cls(Counted(**document["counted"]), document["instructions"])

    def to_json(self) -> dict[str, Any]:
        """As it is kept in a file."""
        return {"counted": asdict(self.counted), "instructions": dict(self.instructions)}


def instructions(dumps: Iterable[str], decisions: int) -> int:
    """Instructions of one decision, from what callgrind wrote down about each so many: the middle of them.

    Raises:
        ValueError: when it counted nothing.
    """
    totals = [int(total) for dump in dumps for total in re.findall(r"^totals: (\d+)$", dump, re.MULTILINE)]
    if not totals or not all(totals):
        raise ValueError("callgrind counted nothing")
    return round(statistics.median(totals) / decisions)


def report(change: Record, base: Counts, against: str, kept: Record) -> dict[str, Any]:
    """``bench-count.json``. ``against`` names the base; no figures of it leave the change's alone.

    The record ``kept`` is compared with what was counted in the same way, else ``differs`` says in what it was not.
    """
    differs = [name for name, value in asdict(kept.counted).items() if value != getattr(change.counted, name)]
    before = {} if differs else kept.instructions
    return {
        "counted": asdict(change.counted),
        "base": against,
        "cases": {
            name: {
                "change": count,
                "base": base.get(name),
                "over_base": _ratio(count, base.get(name)),
                "over_record": _ratio(count, before.get(name)),
            }
            for name, count in change.instructions.items()
        },
        "differs": differs,
    }


def dearer(report: Mapping[str, Any]) -> list[str]:
    """The cases that cost more than ``MOST`` of what they did."""
    return [name for name, case in report["cases"].items() if case["over_base"] and case["over_base"] > MOST]


def _ratio(count: int, before: int | None) -> float | None:
    return round(count / before, 4) if before else None


def show(console: Console, report: Mapping[str, Any]) -> None:
    """The table, and what follows from it."""
    table = Table(title="Instructions of one decision", title_justify="left")
    table.add_column("")
    for heading in (report["base"], "the change", "ratio", "over the record"):
        table.add_column(heading, justify="right")
    for name, case in report["cases"].items():
        counts = (f"{case[side]:,}" if case[side] else "-" for side in ("base", "change"))
        ratios = (f"{case[over]:.4f}" if case[over] else "-" for over in ("over_base", "over_record"))
        table.add_row(name, *counts, *ratios)
    console.print(table)
    if report["differs"]:
        console.print(
            f"Not compared with the record, which was counted with another {' and '.join(report['differs'])}."
        )
    for name in dearer(report):
        more = (report["cases"][name]["over_base"] - 1) * 100
        console.print(f"{name}: {more:.1f} % dearer than at {report['base']}.")
    if dearer(report):
        console.print(
            f"A change may cost {MOST - 1:.0%} without a word. Make it cheaper, "
            "or say in the message of its commit what the instructions are for."
        )
