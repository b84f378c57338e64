"""What feedback is put together from, for a controller: the counts, the epochs and the keys beside one store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from extproc.adapters.sqlite_feedback import SqliteFeedback
from extproc.adapters.stores import beside, open_store
from extproc.clock import Clock
from extproc.control.api.feedback_service import FeedbackService
from extproc.control.api.tokens import load_token
from extproc.control.feedback import Code, Feedback
from extproc.decision_id import KeyFile
from extproc.errors import Unreachable
from extproc.settings import settings
from extproc.snapshot.store import REPLACED_CODES, EpochRecord, RolloutStore

_T = TypeVar("_T")


@contextmanager
def feedback_service(url: str, clock: Clock, count: Callable[[Code, int], None]) -> Iterator[FeedbackService]:
    """The feedback of the store at ``url``, not yet started; what it needs is made beside the store if need be.

    ``count`` is told how many records got which code.

    Raises:
        InvalidInput: ``setting_invalid``, ``key_invalid``, ``key_untrusted``, ``token_invalid`` or ``token_exposed``.
        Unreachable: when the store, the counts or the keys cannot be reached.
    """
    retention = settings().label_retention * 24 * 3600
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
