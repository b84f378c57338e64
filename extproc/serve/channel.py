"""A pipe between two processes of ours: one JSON object a line, both ways, over a socket pair."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, Generic, TypeVar

import msgspec
import orjson

from extproc.errors import DropoutError, Fault

logger = logging.getLogger(__name__)


class Message(msgspec.Struct, frozen=True, tag_field="kind"):
    """What one side says. Fields that the other does not know it passes over."""


In = TypeVar("In")
Out = TypeVar("Out", bound=Message)

_PART: Final = 100
"""Items that are written in one turn of the loop: about as long as a request takes."""

_encode: Final = msgspec.json.Encoder().encode


UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for bytes that are no such message."""


def faults_of(error: DropoutError) -> list[Fault]:
    """What is wrong, as it can be told: in Unicode."""
    return [fault.in_unicode() for fault in error.faults]


def written(items: Sequence[Any]) -> msgspec.Raw:
    """The JSON array of ``items``, for a message."""
    return msgspec.Raw(orjson.dumps(items))


async def written_between(items: Iterable[Any]) -> msgspec.Raw:
    """The JSON array of ``items``, for a message, made bit by bit while the loop does what else it has to do."""
    remaining = iter(items)
    parts: list[bytes] = []
    while part := list(islice(remaining, _PART)):
        parts.append(orjson.dumps(part)[1:-1])
        await asyncio.sleep(0)
    return msgspec.Raw(b"[%b]" % b",".join(parts))


class Channel(asyncio.Protocol, Generic[Out, In]):
    """One end of a pipe. ``on_message`` gets every message of these ``kinds``, ``on_closed`` the end, once."""

    def __init__(
        self, kinds: msgspec.json.Decoder[In], on_message: Callable[[In], None], on_closed: Callable[[], None]
    ) -> None:
        self._read = kinds.decode
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
            self._take(whole)
        if rest:
            self._partial.append(rest)

    def _take(self, line: bytes) -> None:
        try:
            message = self._read(line)
        except UNREADABLE as error:  # the other side is of another version, or has a bug
            logger.error("a message is passed over, which nobody here understands: %s", error)  # noqa: TRY400
            return
        try:
            self._on_message(message)
        except Exception:  # asyncio would close the pipe, which tells the other side that this one is gone
            logger.exception("a message could not be taken, which is a bug; the next one is")

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's word that the other end is gone."""
        self._transport = None
        self._on_closed()

    def send(self, message: Out) -> bool:
        """Send a message; False when the other end is gone, which is never an error of the sender."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(_encode(message) + b"\n")
        return True

    def close(self) -> None:
        """Send what is still to be sent, then close."""
        if self._transport is not None:
            self._transport.close()
