"""Where the rollout stands, as ``dropout rollout watch`` tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

StatusBody = Mapping[str, Any]
"""A status as ``-o json`` shows it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A status, and when it was seen (seconds of the traffic)."""

    second: float
    status: StatusBody


class Watcher:
    """Reads lines as they come and keeps the statuses; ``clock`` gives the seconds of the traffic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seen: list[Seen] = []
        self.notice: Callable[[Seen], None] = lambda seen: None
        """Is told of each status."""
        self._clock = clock
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def follow(self, lines: asyncio.StreamReader) -> None:
        """Read ``lines`` from now on."""
        self._task = asyncio.create_task(self._read(lines))

    async def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, holds: Callable[[StatusBody], bool], seconds: float) -> Seen | None:
        """The first status that ``holds``, or held; None when ``seconds`` have passed without one."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    for seen in self.seen:
                        if holds(seen.status):
                            return seen
                    await self._changed.wait()
        except TimeoutError:
            return None

    async def _read(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            seen = Seen(self._clock(), orjson.loads(line))
            self.seen.append(seen)
            self.notice(seen)
            self._changed.set()


def unix(timestamp: str) -> float:
    """An instant of a status in Unix seconds."""
    return datetime.fromisoformat(timestamp).timestamp()
