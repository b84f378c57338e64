"""Feedback on a thread of its own, the reading of what was sent too: whoever asks waits, the event loop does not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from extproc.control.feedback import Code, Feedback, FeedbackRecord, RecordResult, UnreadableRecord
from extproc.errors import Unreachable
from extproc.store.epoch_records import EpochRecord

MAX_WAITING: Final = 64
"""Batches that may wait for their turn; one more is refused."""

CALL_SECONDS: Final = 15.0
"""What a batch may take with its wait. One that takes longer may still count: an id that is sent again counts once."""

Read = Callable[[], Sequence[FeedbackRecord | UnreadableRecord]]
"""Reads a batch from what was sent, within bounds; raises ``InvalidInput``."""

_T = TypeVar("_T")


class FeedbackThread:
    """Gives ``feedback`` one batch after the other. Belongs to one event loop.

    ``count`` is told there how many records got which code.
    """

    def __init__(self, feedback: Feedback, count: Callable[[Code, int], None]) -> None:
        self._feedback = feedback
        self._count = count
        self._thread = ThreadPoolExecutor(1, "feedback")
        self._waiting = 0

    async def record(self, read: Read) -> list[RecordResult]:
        """Count what ``read`` gives, which is called on the thread when its turn has come. See ``Feedback``.

        Raises:
            InvalidInput: as ``read``.
            Unreachable: ``feedback_busy`` when too many wait or it takes too long, and as ``Feedback``.
        """
        results = await self._call(lambda: self._feedback.record(read()))
        for code, number in Counter(result.code for result in results).items():
            self._count(code, number)
        return results

    async def mark_fallbacks(self, ids: Sequence[str]) -> list[EpochRecord]:
        """See ``Feedback``. Raises as ``record``."""
        return await self._call(partial(self._feedback.mark_fallbacks, ids))

    def close(self) -> None:
        """Finish the batch that is under way; those that wait are not begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _call(self, call: Callable[[], _T]) -> _T:
        if self._waiting >= MAX_WAITING:
            raise Unreachable.of("feedback_busy", "too many batches wait; try again later")
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(self._thread, call)
        running.add_done_callback(self._done)
        # Over HTTP a request has a task only once it waits, and asyncio's timeouts want one before.
        await asyncio.wait((running,), timeout=CALL_SECONDS)
        if not running.done():
            running.cancel()
            raise Unreachable.of("feedback_busy", "this takes too long; try again later")
        return running.result()

    def _done(self, _running: asyncio.Future[_T]) -> None:
        self._waiting -= 1
