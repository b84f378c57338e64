"""What two sets of policies decide otherwise, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from extproc.cli.output import aligned, printable
from extproc.datapath.comparing import DecidedAs, Examples, PolicyChange, PolicyComparison

_HEADS: Final = ("ROLLOUT", "DECISIONS", "OF ALL", "ARM", "VERSION", "REASON", "FOR EXAMPLE")


def counts(found: PolicyComparison, faults: int) -> dict[str, int]:
    """How many decisions there are, by what became of them; ``faults`` are lines that are none."""
    changed = sum(examples.decisions for examples in found.changed.values())
    lost = sum(examples.decisions for examples in found.not_replayable.values())
    decisions = found.same + changed + lost
    return {"decisions": decisions, "same": found.same, "changed": changed, "not_replayable": lost, "faults": faults}


def as_json(found: PolicyComparison) -> dict[str, Any]:
    """The changes, most decisions first, and why decisions could not be made again."""
    return {
        "changes": [
            {
                "rollout": change.rollout,
                "before": change.before._asdict(),
                "after": change.after._asdict(),
                "text": change.text,
                **_examples(examples),
            }
            for change, examples in _ordered(found)
        ],
        "decisions_of_rollouts": dict(sorted(found.of_rollout.items())),
        "not_replayable_because": [
            {"why": why, **_examples(examples)} for why, examples in sorted(found.not_replayable.items())
        ],
    }


def lines_of_text(found: PolicyComparison, faults: int) -> Iterator[str]:
    """The table, then what could not be compared, then the sum."""
    rows = [_row(change, examples, found.of_rollout[change.rollout]) for change, examples in _ordered(found)]
    if rows:
        yield from aligned([_HEADS, *rows])
        yield ""
    for why, examples in sorted(found.not_replayable.items()):
        yield f"{examples.decisions} not replayable, such as {printable(examples.ids[0])}: {printable(why)}"
    counted = counts(found, faults)
    yield (
        f"{counted['decisions']} decisions: {counted['same']} the same, {counted['changed']} would change, "
        f"{counted['not_replayable']} not replayable; {faults} lines are no decisions."
    )


def _ordered(found: PolicyComparison) -> list[tuple[PolicyChange, Examples]]:
    return sorted(found.changed.items(), key=lambda item: (-item[1].decisions, repr(item[0])))


def _examples(examples: Examples) -> dict[str, Any]:
    return {"decisions": examples.decisions, "examples": examples.ids}


def _row(change: PolicyChange, examples: Examples, of_rollout: int) -> list[str]:
    before, after = change.before, change.after
    cells = [
        change.rollout,
        str(examples.decisions),
        f"{100 * examples.decisions / of_rollout:.3g} %",
        _both(str(before.arm), str(after.arm)),
        _both(_served(before), _served(after)) + (", another text" if change.text else ""),
        _both(before.reason, after.reason),
        examples.ids[0],
    ]
    return [printable(cell) for cell in cells]


def _served(decided: DecidedAs) -> str:
    copied = "" if decided.shadow is None else f" + copy to {decided.shadow}"
    return f"{decided.http_status}" if decided.http_status is not None else f"{decided.version}{copied}"


def _both(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"
