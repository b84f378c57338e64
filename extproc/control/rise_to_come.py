"""A rise that is planned comes before the next is: units would change sides twice otherwise."""

from __future__ import annotations

from extproc.control.status_changes import overlaps
from extproc.store.status import Status


class RiseToComeError(Exception):
    """A rise that others planned comes first, in so many ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def wait_for_rise(before: Status, after: Status, now: float) -> None:
    """Units would change sides twice if a rise replaced one that is still to come. Raises ``RiseToComeError``."""
    if overlaps(before, after, now):
        raise RiseToComeError(before.effective_at - now)
