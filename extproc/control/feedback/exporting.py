"""Labels by decision, for whoever goes on with them elsewhere: pseudonymous, as the ids of decisions are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from extproc.control.as_json import timestamp
from extproc.control.feedback.records import Recorded
from extproc.decision_id import IdKeys, id_of, sealed_code
from extproc.measure import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_NEGATIVE, TRUE_POSITIVE
from extproc.store.epoch_records import EpochArm, EpochRecord, epoch_and_number

COLUMNS: Final = (
    *("decided_at", "decision_id", "rollout", "epoch", "arm", "version"),
    *("prediction", "label"),
)
"""Of every row; its outcomes, by name, come after them."""

_SAID: Final = {
    TRUE_POSITIVE: (True, True),
    FALSE_POSITIVE: (True, False),
    TRUE_NEGATIVE: (False, False),
    FALSE_NEGATIVE: (False, True),
    None: (None, None),
}
"""Prediction and label, by what they count as."""


def exported(
    recorded: Iterable[Recorded], epochs: Sequence[EpochRecord], keys: IdKeys | None
) -> Iterator[dict[str, Any]]:
    """A row for each of ``recorded``: ``COLUMNS``, and ``outcomes`` by their names.

    ``version`` is the one that answered, None where that is not known: of units that are excluded, and of epochs that
    are not among ``epochs``. Of those, and of ids whose key is not among ``keys``, ``decision_id`` is None.
    """
    known = {epoch.id: epoch for epoch in epochs}
    for one in recorded:
        epoch = known.get(one.tally.epoch)
        arm = next((arm for arm in epoch.arms if arm.arm == one.tally.arm), None) if epoch is not None else None
        prediction, label = _SAID[one.confusion]
        yield {
            "decided_at": timestamp(int.from_bytes(one.key[:6]) / 1000),
            "decision_id": _id(one, epoch, arm, keys),
            "rollout": one.tally.rollout,
            "epoch": epoch_and_number(one.tally.epoch)[0],
            "arm": one.tally.arm,
            "version": (arm.version if arm is not None else "") or None,
            "prediction": prediction,
            "label": label,
            "outcomes": one.outcomes,
        }


def _id(one: Recorded, epoch: EpochRecord | None, arm: EpochArm | None, keys: IdKeys | None) -> str | None:
    if epoch is None or arm is None or keys is None:
        return None
    codes = [sealed_code(arm.code, stream=stream) for stream in (False, True)]
    return id_of(keys, one.key, epoch.number, codes, one.tally.group)


def flat(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    """A row of ``exported`` as the cells of a table whose last columns are the outcomes of these ``names``."""
    cells = [*(row[column] for column in COLUMNS), *(row["outcomes"].get(name) for name in names)]
    return [_CELLS.get(type(cell), str)(cell) for cell in cells]


_CELLS: Final[dict[type, Callable[[Any], str]]] = {
    bool: lambda cell: "true" if cell else "false",
    type(None): lambda _: "",
    float: repr,
}
