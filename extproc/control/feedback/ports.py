"""What feedback asks of the outside beside the epochs that there were: a place for counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from extproc.control.feedback.records import Code, LabelEntry, Recorded
from extproc.decision_id import Opened
from extproc.measure import LabelTotals


class FeedbackStore(Protocol):
    """Counts that survive. Synchronous; one object is used from one thread at a time.

    Every method raises ``Unreachable`` with a ``feedback_store_...`` code when it cannot do what was asked; nothing is
    then half done. What was answered survives a loss of power.
    """

    def record(self, entries: Sequence[LabelEntry], keep_from: float) -> Sequence[Code]:
        """Count what was not counted before, in one transaction; what became of each.

        ``RECORDED``, ``DUPLICATE``, ``SERVED_BY_FALLBACK``, ``FALLBACKS_UNCLEAR``, ``INVALID`` when an epoch has all
        the outcome names it may have, or ``EXPIRED``. Ids of decisions made before ``keep_from`` (Unix seconds) are
        forgotten, their counts stay; an id that may have been forgotten is never counted again, whatever later clocks
        say.
        """
        ...

    def mark_fallbacks(self, decisions: Collection[Opened], keep_from: float) -> Collection[int]:
        """These decisions were served by a fallback: they do not count, and what was counted of them is taken back.

        The space for them is bounded. The numbers of epochs that had more, and from now on take no labels of the time
        that is not known in full. Ids are forgotten as by ``record``.
        """
        ...

    def labels(self, key: str, epoch: int) -> Mapping[str, LabelTotals]:
        """What was counted in the epoch of that id (see ``epoch_id``) of ``namespace/name``, by arm."""
        ...

    def recorded(self, key: str, epoch: int | None = None) -> Iterator[Recorded]:
        """What counts of each id that is remembered, of one epoch (its id) or of all, in the order of the decisions.

        Read page by page while it is iterated, so that neither memory nor whoever writes is held up.
        """
        ...

    def outcome_names(self, key: str, epoch: int | None = None) -> Sequence[str]:
        """The names of the outcomes in it, sorted."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...
