"""What feedback is put together from, for a controller: the counts, the epochs and the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.stores import open_store
from extproc.clock import Clock
from extproc.control.api.feedback_service import FeedbackService
from extproc.control.feedback import Code, Feedback
from extproc.decision_id import KeyFile
from extproc.settings import settings
from extproc.state import StateFolder


@contextmanager
def feedback_service(
    url: str, state: StateFolder, clock: Clock, count: Callable[[Code, int], None]
) -> Iterator[FeedbackService]:
    """The feedback of the store at ``url``, not yet started; what it needs of ``state`` is made if need be.

    ``count`` is told how many records got which code.

    Raises:
        InvalidInput: ``setting_invalid``, ``key_invalid`` or ``key_untrusted``.
        Unreachable: when the store, the counts or the keys cannot be reached.
    """
    retention = settings().label_retention * 24 * 3600
    keys = KeyFile(state.ids, clock)
    store = open_store(url)
    try:
        counts = SqliteFeedback(state.feedback, create=True)
        try:
            feedback = Feedback(counts, store, keys.open, clock, retention=retention)
            yield FeedbackService(feedback, count)
        finally:
            counts.close()
    finally:
        store.close()
