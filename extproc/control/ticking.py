"""Something done again and again on the thread that it is given, whatever other threads and event loops are at."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event


def tick_until(stopping: Event, tick: Callable[[], object], seconds: float) -> None:
    """Call ``tick`` every so many seconds, on a schedule that no clock can turn back, until ``stopping`` is set.

    A tick that takes longer is followed by the next at once, and not by those that were missed.
    """
    due = time.monotonic()
    while not stopping.is_set():
        tick()
        due = max(due + seconds, time.monotonic())
        stopping.wait(due - time.monotonic())
