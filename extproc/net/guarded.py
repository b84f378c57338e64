"""HTTP/1.1 for who is asked who they are, before anything of a request is taken but its head."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from extproc.net.admission import Phase
from extproc.net.callers import Origin
from extproc.net.http_protocol import NO_PLACE, AsgiApplication, Connection, Connections, Headers, HttpLimits, Refusal

STRANGERS: Final = 1024
"""Connections that may wait that have not shown yet who they are; the oldest of them goes."""


class Guard(Protocol):
    """What a request's head must show before anything else of it is taken.

    ``headers`` are those that it reads, in small letters; ``probes`` are paths that are answered to whoever may ask at
    all, even if there is no place for them, and never wait.
    """

    headers: frozenset[bytes]
    probes: frozenset[bytes]

    def refusal(self, origin: Origin, path: bytes, headers: Headers, /) -> Refusal | None:
        """Why a request is not taken; None if it is."""
        ...


class GuardedConnections(Connections):
    """All open connections of one listener whose requests ``guard`` looks at. The application gets what it reads."""

    def __init__(
        self, app: AsgiApplication, limits: HttpLimits, guard: Guard, on_refusal: Callable[[str], None]
    ) -> None:
        super().__init__(app, limits, on_refusal, STRANGERS)
        self.guard = guard

    def enter(self, origin: Origin) -> asyncio.Protocol:
        """A connection that came from ``origin``."""
        return GuardedConnection(self, self.guard, origin)


class GuardedConnection(Connection):
    """One that has to show who it is: it keeps the headers that the guard reads."""

    def __init__(self, connections: Connections, guard: Guard, origin: Origin) -> None:
        super().__init__(connections, set())
        self._guard = guard
        self._origin = origin
        self._taken = False

    @property
    def phase(self) -> Phase:
        """What it is at; a stranger is entering until its first request is taken."""
        phase = super().phase
        waits = phase is Phase.IDLE or (phase is Phase.RECEIVING and self._in_head)
        return Phase.ENTERING if waits and not self._all.room.knows(self) else phase

    def on_message_begin(self) -> None:
        """A request's first byte. What follows a refusal is none."""
        if self._refusal is None:
            super().on_message_begin()
        self._headers, self._taken = (), False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is none."""
        name = name.lower()
        if self._in_head and name in self._guard.headers:
            self._headers = (*self._headers, (name, value))

    def on_headers_complete(self) -> None:
        """The body follows, if there is one; it is kept if the request is taken."""
        super().on_headers_complete()
        if self._refusal is not None:
            return
        path = self._target.partition(b"?")[0]
        refusal = self._guard.refusal(self._origin, path, self._headers)
        if refusal is not None:
            self._refuse(*refusal)
        elif path not in self._guard.probes:
            self._taken = self._all.room.introduce(self)
            if not self._taken:
                self._refuse(*NO_PLACE)

    def on_body(self, body: bytes) -> None:
        """A part of the body: of a request that is not taken it has a size and nothing else."""
        super().on_body(body)
        if not self._taken:
            self._parts.clear()

    def on_message_complete(self) -> None:
        """A request's last byte."""
        if self._refusal is None:
            super().on_message_complete()

    def give_up(self) -> None:
        """The peer let us wait for too long."""
        if self.phase is Phase.ENTERING and not self._in_message:
            self.close()  # it never began, or has nothing more to ask
        else:
            super().give_up()
