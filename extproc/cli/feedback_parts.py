"""What feedback is put together from, for a controller: the counts, the epochs and the keys beside one store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from extproc.adapters.sqlite_feedback import SqliteFeedback
from extproc.adapters.stores import beside, open_store
from extproc.clock import Clock
from extproc.control.api.feedback_service import FeedbackService
from extproc.control.api.tokens import load_token
from extproc.control.feedback import Code, Feedback
from extproc.decision_id import KeyFile
from extproc.errors import InvalidInput, Unreachable
from extproc.settings import settings, variable
from extproc.snapshot.store import REPLACED_CODES, EpochRecord, RolloutStore

_MAX_RETENTION_DAYS: Final = 365
"""Epochs are remembered for a day longer."""

_T = TypeVar("_T")


@contextmanager
def feedback_service(url: str, clock: Clock, count: Callable[[Code, int], None]) -> Iterator[FeedbackService]:
    """The feedback of the store at ``url``, not yet started; what it needs is made beside the store if need be.

    ``count`` is told how many records got which code.

    Raises:
        InvalidInput: ``setting_invalid``, ``key_invalid``, ``token_invalid`` or ``token_exposed``.
        Unreachable: when the store, the counts or the keys cannot be reached.
    """
    retention = _retention_days() * 24 * 3600
    token, keys = load_token(beside(url, ".token")), KeyFile(beside(url, ".ids"), clock)
    store = open_store(url)
    try:
        counts = SqliteFeedback(beside(url, ".feedback"), create=True)
        try:
            feedback = Feedback(counts, _Epochs(store), keys.open, clock, retention=retention)
            yield FeedbackService(feedback, token, count)
        finally:
            counts.close()
    finally:
        store.close()


def _retention_days() -> float:
    days = settings().label_retention
    if days > _MAX_RETENTION_DAYS:
        message = f"Labels are waited for {_MAX_RETENTION_DAYS} days at most."
        raise InvalidInput.of("setting_invalid", message, field=variable("label_retention"))
    return days


class _Epochs:
    """The epochs of a store; of the one that is there now, should another have taken its place."""

    def __init__(self, store: RolloutStore) -> None:
        self._store = store

    def epochs(self, number: int) -> Sequence[EpochRecord]:
        """See ``RolloutStore``."""
        return self._again(lambda: self._store.epochs(number))

    def epochs_of(self, namespace: str, name: str) -> Sequence[EpochRecord]:
        """See ``RolloutStore``."""
        return self._again(lambda: self._store.epochs_of(namespace, name))

    def _again(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except Unreachable as error:
            if error.code not in REPLACED_CODES:
                raise
            self._store.reopen()
            return read()
