"""What is missing in a decision log, by the numbers of its events: each worker counts its decisions from 1 on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Gap(NamedTuple):
    """A gap: the first and the last number that are missing."""

    first: int
    last: int


@dataclass(slots=True)
class WorkerNumbers:
    """The numbers that were found of one worker, from its start to its end: spans without a gap, in order.

    ``left_out`` are those that a policy left out, which are not missing. What is lost before the first event that was
    found, or behind the last, shows in no number.
    """

    worker: str
    events: int = 0
    left_out: int = 0
    _starts: list[int] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)

    def add(self, number: int, left_out: int) -> None:
        """An event was found, and a policy left ``left_out`` out right before it; one that comes twice counts once."""
        start, end = number - left_out, number
        at = bisect_right(self._starts, start)
        if at and self._ends[at - 1] >= end:
            return
        self.events += 1
        self.left_out += left_out
        if at and self._ends[at - 1] >= start - 1:
            at -= 1
            self._ends[at] = end
        else:
            self._starts.insert(at, start)
            self._ends.insert(at, end)
        while at + 1 < len(self._starts) and self._starts[at + 1] <= self._ends[at] + 1:
            self._ends[at] = max(self._ends[at], self._ends.pop(at + 1))
            self._starts.pop(at + 1)

    @property
    def first(self) -> int:
        """The smallest number."""
        return self._starts[0]

    @property
    def last(self) -> int:
        """The largest number."""
        return self._ends[-1]

    def gaps(self) -> Iterator[Gap]:
        """What is missing between them."""
        for end, start in zip(self._ends, self._starts[1:], strict=False):
            yield Gap(end + 1, start - 1)


def find_gaps(found: dict[str, WorkerNumbers], event: Mapping[str, Any]) -> bool:
    """Count ``event`` among what was ``found``, by the id of the worker's life; whether it has a number."""
    try:
        labels, number = event["labels"], event["req_id"]
        left_out = event["custom"].get("left_out", 0)
        life, worker = labels["id"], labels["worker"]
        if not (isinstance(number, int) and isinstance(left_out, int) and 0 <= left_out < number):
            return False
        found.setdefault(life, WorkerNumbers(worker)).add(number, left_out)
    except (KeyError, TypeError, AttributeError):
        return False
    return True
