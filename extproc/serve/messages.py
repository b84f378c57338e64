"""The pipe between the supervisor and a worker: one JSON object a line, both ways, over a socket pair.

The supervisor says                     the worker answers
  start    what to serve, what is held    ready, or failed with its faults
  policies new sources, their revision    swapped, or policies_refused
  trials   before policies are tried      trials: an input for each rule that a rollout asks
  quarantine  paths of a revision         quarantined
  metrics  for /metrics                   metrics
  describe for /snapshot                  description
  held     trips and kills in force now
  listening  an observer began            decided, each second: counts and units, see ``datapath.tally``
  reload   on SIGHUP
  drain    on SIGTERM                     draining, at last metrics once more, then it exits

The supervisor says                     the observer answers
  start    what to observe, trips         ready, or failed with its faults
  decided  what a worker said
  metrics  for /metrics                   metrics
  trips    another serve's, to adopt      trips: all that are in force now, those lifted
                                          alive, several times a second
A trip is a row of ``snapshot.trips.LocalTrip``. A question carries an ``id`` and its answer carries the same. A pipe
that closes is a message too: the other is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

import orjson

logger = logging.getLogger(__name__)

Message = dict[str, Any]

_PART: Final = 100
"""Items that are written in one turn of the loop: about as long as a request takes."""


async def written_between(items: Iterable[Any]) -> orjson.Fragment:
    """The JSON array of ``items``, for a message, made bit by bit while the loop does what else it has to do."""
    remaining = iter(items)
    parts: list[bytes] = []
    while part := list(islice(remaining, _PART)):
        parts.append(orjson.dumps(part)[1:-1])
        await asyncio.sleep(0)
    return orjson.Fragment(b"[%b]" % b",".join(parts))


class Channel(asyncio.Protocol):
    """One end of the pipe. ``on_message`` gets every message, ``on_closed`` the end, once."""

    def __init__(self, on_message: Callable[[Message], None], on_closed: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._partial: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's word that the pipe is open."""
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports share no base class

    def data_received(self, data: bytes) -> None:
        """Cut the bytes into lines; a message may come in any number of pieces."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._partial.append(line)
            whole = b"".join(self._partial)
            self._partial.clear()
            self._take(orjson.loads(whole))
        if rest:
            self._partial.append(rest)

    def _take(self, message: Message) -> None:
        try:
            self._on_message(message)
        except Exception:  # asyncio would close the pipe, which tells the other side that this one is gone
            logger.exception("a message (%s) could not be taken, which is a bug; the next one is", message.get("kind"))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's word that the other end is gone."""
        self._transport = None
        self._on_closed()

    def send(self, kind: str, **body: Any) -> bool:
        """Send a message; False when the other end is gone, which is never an error of the sender."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(orjson.dumps({"kind": kind, **body}, option=orjson.OPT_NON_STR_KEYS) + b"\n")
        return True

    def close(self) -> None:
        """Send what is still to be sent, then close."""
        if self._transport is not None:
            self._transport.close()
