"""Users who never wait for each other: requests at a fixed rate over kept-alive connections, and what came of each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from tests.support.process import PATIENCE, wait_for


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: its number, when it was sent (monotonic seconds), how long it took, its status, 0 for none."""

    number: int
    sent_at: float
    seconds: float
    status: int
    body: bytes


@dataclass
class Load:
    """``rate`` requests a second to ``port`` from ``start`` until ``stop``; a late answer delays no other request.

    Who has no answer after ``patience`` seconds leaves.
    ``headers`` gives those of request number n; by default each of 500 users in turn.
    """

    port: int
    rate: float = 200.0
    patience: float = PATIENCE
    path: str = "/v1/models/fraud-detector:predict"
    headers: Callable[[int], Mapping[str, str]] = lambda number: {"x-user-id": f"user-{number % 500}"}
    answered: list[Answered] = field(default_factory=list)

    def start(self) -> Load:
        """Begin, in a thread of its own."""
        self._stopping = False
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._thread = Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Send no more and wait for what is under way."""
        self._stopping = True
        self._thread.join(PATIENCE)

    def failed(self, after: float = 0.0) -> list[Answered]:
        """Requests sent after ``after`` that got no answer or another status than 200."""
        return [answer for answer in self.answered if answer.status != 200 and answer.sent_at >= after]

    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(answer.status for answer in self.answered)

    def go_on(self, count: int) -> None:
        """Wait until ``count`` more requests were answered, or left."""
        wanted = len(self.answered) + count
        wait_for(lambda: len(self.answered) >= wanted, f"{count} more answers")

    async def _run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        begin = time.monotonic()
        number = 0
        while not self._stopping:
            due = begin + number / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)
        for _, writer in self._idle:
            writer.close()

    async def _one(self, number: int) -> None:
        sent_at = time.monotonic()
        status, body = 0, b""
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            status, body = await asyncio.wait_for(self._exchange(number), self.patience)
        self.answered.append(Answered(number, sent_at, time.monotonic() - sent_at, status, body))

    async def _exchange(self, number: int) -> tuple[int, bytes]:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        keep = False
        try:
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers(number).items())
            writer.write(f"GET {self.path} HTTP/1.1\r\nhost: models\r\n{lines}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            keep = b"connection: close" not in head
            return int(head.split(b" ", 2)[1]), body
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()


@contextmanager
def under_load(port: int, **options: Any) -> Iterator[Load]:
    """Load while the block runs."""
    load = Load(port, **options).start()
    try:
        yield load
    finally:
        load.stop()
