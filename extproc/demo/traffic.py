"""The users: each asks about one patient after another, all at once, from the first act to the last.

A user has at most one request under way, so the order of one user's answers is the order in which they were decided:
what a user saw cannot seem to jump back because two answers overtook each other.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from extproc.demo.versions import Patient
from extproc.errors import Unreachable
from extproc.names import HEADER_DECISION_ID

PATH: Final = "/v1/models/diagnosis:predict"
ANSWER_SECONDS: Final = 10.0

Notify = Callable[[int], None]


@dataclass(slots=True)
class ServedRequest:
    """One request: when (seconds since the traffic began), by whom, and what came back.

    ``took`` is what the user waited; ``version`` is what the model server says it is; ``seen`` are Dropout's headers
    as they reached it; ``decision_id`` is what Envoy told the user; ``error`` is the reason why there is no answer.
    """

    sent: float
    user: str
    sick: bool
    took: float = 0.0
    said_sick: bool | None = None
    version: str | None = None
    seen: Mapping[str, str] = field(default_factory=dict)
    decision_id: str | None = None
    error: str | None = None

    @property
    def ended(self) -> float:
        """When the user had it (seconds since the traffic began)."""
        return self.sent + self.took

    @property
    def decided(self) -> bool:
        """Whether Dropout decided it; otherwise Envoy failed open, or there is no answer."""
        return HEADER_DECISION_ID in self.seen


class Response(NamedTuple):
    """What came back: status, headers by their name in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class UserConnection:
    """A keep-alive HTTP/1.1 connection, as lean as asyncio allows: the users must not be what is slow."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """The answer. Raises OSError, EOFError, ValueError or TimeoutError."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._exchange(path, headers, body)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _exchange(self, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        lines = [f"POST {path} HTTP/1.1", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        answer = await self._reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()
        return Response(int(head[0].split(" ", 2)[1]), fields, answer)


class Traffic:
    """Users who go on asking until they are stopped; every answer is kept in ``answers``.

    Neighbours in ``users`` share a connection and take turns on it, so those who ask at the same time are spread
    evenly over the whole list.
    """

    def __init__(
        self,
        port: int,
        users: Sequence[str],
        rows: Sequence[Patient],
        *,
        per_second: float,
        connections: int = 16,
    ) -> None:
        self.users = users
        self.answers: list[ServedRequest] = []
        self.spoofed_headers: Mapping[str, str] = {}
        self.began_at = 0.0
        """When the users began, in Unix seconds."""
        self._rows = [(orjson.dumps({"measurements": row.measurements}), row.malignant) for row in rows]
        self._port = port
        cuts = [len(users) * number // connections for number in range(connections + 1)]
        mixed = random.Random(0)  # noqa: S311 - the same order in every run
        self._groups = [mixed.sample(users[start:end], end - start) for start, end in itertools.pairwise(cuts)]
        self._interval = connections / per_second
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._began = 0.0
        self._awaited: dict[str, int] = {}
        self._mark = 0.0
        self._seen_all = asyncio.Event()
        self._notify: Notify = lambda count: None

    @property
    def now(self) -> float:
        """Seconds since the traffic began."""
        return time.monotonic() - self._began

    async def until_decided(self, seconds: float) -> None:
        """Ask until an answer was decided by Dropout. Raises Unreachable (``demo_start``) after ``seconds``."""
        connection = UserConnection("127.0.0.1", self._port)
        deadline = time.monotonic() + seconds
        while True:
            answer = await self._answer(connection, self.users[0], *self._rows[0])
            if answer.decided:
                connection.close()
                return
            if time.monotonic() > deadline:
                raise Unreachable.of("demo_start", f"Envoy does not reach Dropout: {answer.error or 'it fails open'}.")
            await asyncio.sleep(0.05)

    def start(self) -> None:
        """Let the users begin."""
        self._began = time.monotonic()
        self.began_at = time.time()
        self._tasks = [asyncio.create_task(self._ask(number, group)) for number, group in enumerate(self._groups)]

    async def stop(self) -> None:
        """Let every user finish the request under way, and no more."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def rounds(self, count: int, notify: Notify) -> list[ServedRequest]:
        """Wait until every user has ``count`` answers to requests sent from now on; those, and all since."""
        self._mark, first = self.now, len(self.answers)
        self._awaited = dict.fromkeys(self.users, count)
        self._notify = notify
        self._seen_all.clear()
        done = asyncio.create_task(self._seen_all.wait())
        await asyncio.wait([done, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            done.cancel()
            await asyncio.gather(*self._tasks)  # raises what ended a client
        return [answer for answer in self.answers[first:] if answer.sent >= self._mark]

    async def _ask(self, number: int, users: Sequence[str]) -> None:
        choice = random.Random(number)  # noqa: S311 - the same patients in every run
        connection = UserConnection("127.0.0.1", self._port)
        due = self.now + self._interval * number / len(self._groups)
        try:
            for user in itertools.cycle(users):
                await asyncio.sleep(max(0.0, due - self.now))
                if self._stopping:
                    return
                # Behind the schedule there is no catching up: a slow machine gets fewer requests, not bursts.
                due = max(due + self._interval, self.now)
                self._note(await self._answer(connection, user, *choice.choice(self._rows)))
        finally:
            connection.close()

    async def _answer(self, connection: UserConnection, user: str, body: bytes, sick: bool) -> ServedRequest:
        answer = ServedRequest(self.now, user, sick)
        headers = {"host": "models", "x-user-id": user, "content-type": "application/json", **self.spoofed_headers}
        try:
            status, fields, content = await connection.post(PATH, headers, body)
            answer.decision_id = fields.get(HEADER_DECISION_ID)
            if status != 200:
                answer.error = f"HTTP {status}"
            if fields.get("content-type") == "application/json":  # a version's; Envoy's own errors are plain text
                said: dict[str, Any] = orjson.loads(content)
                answer.said_sick, answer.version, answer.seen = said["malignant"], said["version"], said["seen"]
        except (OSError, EOFError, ValueError, KeyError, TimeoutError) as error:
            answer.error = type(error).__name__
        answer.took = self.now - answer.sent
        return answer

    def _note(self, answer: ServedRequest) -> None:
        self.answers.append(answer)
        left = self._awaited.get(answer.user, 0)
        if left == 0 or answer.sent < self._mark:
            return
        self._notify(1)
        if left > 1:
            self._awaited[answer.user] = left - 1
            return
        del self._awaited[answer.user]
        if not self._awaited:
            self._seen_all.set()
