"""Writing trips where they outlive the host's processes: off the event loop, for as long as it takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from extproc.errors import DropoutError, Unreachable

logger = logging.getLogger(__name__)
T = TypeVar("T", bound=Hashable)

MAX_WAITING: Final = 1024
FIRST_RETRY_SECONDS: Final = 0.2
LAST_RETRY_SECONDS: Final = 5.0


class TripRecorder(Generic[T]):
    """Has every trip written by ``write``, which may block, on a thread of its own.

    What cannot be written because nothing can (``Unreachable``) is tried again, later and later; what is refused is
    dropped: the rollout has moved on. At most ``MAX_WAITING`` wait, the newest.
    """

    def __init__(self, write: Callable[[T], None]) -> None:
        self._write = write
        self._waiting: dict[T, None] = {}
        self._lock = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._write_for_ever, name="trips", daemon=True)
        self._thread.start()

    def record(self, trip: T) -> None:
        """Have ``trip`` written; never blocks."""
        with self._lock:
            self._waiting[trip] = None
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            self._lock.notify()

    def close(self) -> None:
        """Write no more; what is being written is not waited for."""
        with self._lock:
            self._closed = True
            self._lock.notify()

    def _write_for_ever(self) -> None:
        wait = FIRST_RETRY_SECONDS
        while (trip := self._next()) is not None:
            if self._written(trip):
                wait = FIRST_RETRY_SECONDS
                continue
            with self._lock:
                self._lock.wait_for(lambda: self._closed, wait)
            wait = min(2 * wait, LAST_RETRY_SECONDS)

    def _next(self) -> T | None:
        """The trip that has waited for the longest time; None when there is no more to do."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed or self._waiting)
            return None if self._closed else next(iter(self._waiting))

    def _written(self, trip: T) -> bool:
        """Whether nothing is to be done about ``trip`` any more."""
        try:
            self._write(trip)
        except Unreachable as error:
            logger.debug("a trip cannot be written yet: %s", error)
            return False
        except DropoutError as error:
            logger.warning("a trip was not written: %s", error)
        except Exception:
            logger.exception("a trip cannot be written")
        with self._lock:
            self._waiting.pop(trip, None)
        return True
