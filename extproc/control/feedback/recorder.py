"""Records in, counts out: attributes each record, checks what it says, and counts it once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from extproc.clock import Clock
from extproc.control.feedback.attribution import Attribution
from extproc.control.feedback.ports import FeedbackStore
from extproc.control.feedback.records import (
    MAX_OUTCOMES,
    MESSAGES,
    Code,
    FeedbackRecord,
    LabelEntry,
    LabelTally,
    RecordResult,
    UnreadableRecord,
)
from extproc.decision_id import IdFault, Opened
from extproc.measure import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_NEGATIVE, TRUE_POSITIVE
from extproc.store.epoch_records import EpochRecord
from extproc.store.ports import Epochs

MAX_VALUE: Final = 1e15
"""The largest outcome: sums of a great many of them are still numbers."""

_OUTCOME_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,62}").fullmatch


class Feedback:
    """Takes feedback and hands it to ``store``. Synchronous; used from one thread at a time.

    ``open_id`` opens an id, as ``KeyFile.open`` does. Decisions older than ``retention`` (seconds) are not labelled any
    more.
    """

    def __init__(
        self,
        store: FeedbackStore,
        epochs: Epochs,
        open_id: Callable[[str], Opened | IdFault],
        clock: Clock,
        *,
        retention: float,
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._open_id = open_id
        self._clock = clock
        self._retention = retention

    def record(self, records: Sequence[FeedbackRecord | UnreadableRecord]) -> list[RecordResult]:
        """Count ``records`` and say what became of each, in their order. What was not recorded may be sent again.

        Nothing is written, and next to nothing done, for ids that were not made here.

        Raises:
            Unreachable: when the epochs or the counts cannot be reached; then none of the records has counted.
        """
        keep_from = self._keep_from()
        attribution = Attribution(self._open_id, self._epochs, keep_from)
        found = [_entry(attribution, record) for record in records]
        entries = [entry for entry in found if isinstance(entry, LabelEntry)]
        stored = iter(self._store.record(entries, keep_from) if entries else ())
        codes = [next(stored) if isinstance(each, LabelEntry) else each for each in found]
        return [_result(record, code) for record, code in zip(records, codes, strict=True)]

    def mark_fallbacks(self, ids: Iterable[str]) -> list[EpochRecord]:
        """The decisions ``ids`` were answered by another version than theirs: they do not count for their arm.

        Whether their feedback comes before or after makes no difference. The epochs that had more of them than are
        remembered, and take no labels of a part of their time from now on. Raises as ``record``.
        """
        opened = (self._open_id(text) for text in ids)
        decisions = [each for each in opened if isinstance(each, Opened)]
        numbers = self._store.mark_fallbacks(decisions, self._keep_from()) if decisions else ()
        return [epoch for number in numbers for epoch in self._epochs.epochs(number)]

    def _keep_from(self) -> float:
        """Since when decisions are labelled."""
        return self._clock.now() - self._retention


def _result(record: FeedbackRecord | UnreadableRecord, code: Code) -> RecordResult:
    return RecordResult(
        record.decision_id, code, record.message if isinstance(record, UnreadableRecord) else MESSAGES[code]
    )


def _entry(attribution: Attribution, record: FeedbackRecord | UnreadableRecord) -> LabelEntry | Code:
    if isinstance(record, UnreadableRecord):
        return Code.INVALID
    found = attribution.of(record.decision_id)
    if isinstance(found, Code):
        return found
    # Units that were served without the bucket get many versions; their arm has none.
    if record.version is not None and found.arm.version and record.version != found.arm.version:
        return Code.WRONG_VERSION
    if not _says_something(record):
        return Code.INVALID
    epoch = found.epoch
    tally = LabelTally(f"{epoch.namespace}/{epoch.name}", epoch.id, found.arm.arm, found.opened.group)
    opened, confusion = found.opened, _confusion(record.prediction, record.label)
    return LabelEntry(opened.key, opened.number, tally, confusion, record.outcomes)


def _says_something(record: FeedbackRecord) -> bool:
    """A prediction with its label, or numbers with names, or both."""
    if (record.prediction is None) != (record.label is None):
        return False
    if record.label is None and not record.outcomes:
        return False
    return len(record.outcomes) <= MAX_OUTCOMES and all(
        _OUTCOME_NAME(name) and math.isfinite(value) and abs(value) <= MAX_VALUE
        for name, value in record.outcomes.items()
    )


def _confusion(prediction: bool | None, label: bool | None) -> int | None:
    if label is None:
        return None
    if prediction:
        return TRUE_POSITIVE if label else FALSE_POSITIVE
    return FALSE_NEGATIVE if label else TRUE_NEGATIVE
