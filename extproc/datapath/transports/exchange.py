"""One ext_proc message in, its reply out, whatever carries them: what both transports have in common.

A codec reads and writes the bytes; this says what happens between them, and what a bug of ours or nonsense from a
peer comes to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from extproc.datapath.attributes import AttributeReader
from extproc.datapath.model import Mutation, Request
from extproc.datapath.mutation import STRIPPED

FAULT_MALFORMED: Final = "malformed_message"
FAULT_SILENT: Final = "silent_stream"
FAULT_INTERNAL: Final = "internal_error"
STREAM_FAULTS: Final = (FAULT_MALFORMED, FAULT_SILENT, FAULT_INTERNAL)
"""What can be wrong with an exchange, as ``on_fault`` reports it: a closed list, fit for a metric label."""

DENIED_DETAILS: Final = "dropout_policy_deny"
"""What Envoy's access log shows as the response code details of a denial."""

REQUEST_HEADERS: Final = "request_headers"
"""The phase that asks for a decision."""

OTHER_PHASES: Final = ("response_headers", "request_body", "response_body", "request_trailers", "response_trailers")
"""The phases that get the empty reply of their own kind."""

RequestHandler = Callable[[Request], Awaitable[Mutation]]
OnFault = Callable[[str], None]

_LOG = logging.getLogger(__name__)


class MalformedMessage(ValueError):
    """Bytes that are no ProcessingRequest, or one without any phase that is known."""


class Codec(Protocol):
    """The bytes of one transport. Its modules are such codecs."""

    def decode(self, data: bytes, reader: AttributeReader, /) -> Request | bytes | None:
        """What a message asks for: a decision, a reply as it is given, or nothing. Raises ``MalformedMessage``."""
        ...

    def encode(self, mutation: Mutation, /) -> bytes:
        """The reply to request headers."""
        ...


class Exchange:
    """Answers messages with what ``process`` decides. Belongs to one event loop.

    ``process`` maps a request to its mutation; should it raise, the request is stripped of our headers and takes
    Envoy's default route. ``on_fault`` is told each time that something is wrong, by a name in ``STREAM_FAULTS``.
    """

    def __init__(
        self, codec: Codec, process: RequestHandler, *, reader: AttributeReader | None = None, on_fault: OnFault
    ) -> None:
        self._decode = codec.decode
        self._encode = codec.encode
        self._process = process
        self._reader = reader or AttributeReader()
        self._fallback = codec.encode(STRIPPED)
        self._failures = 0
        self._log_again = 0.0
        self.on_fault = on_fault

    async def reply(self, data: bytes) -> bytes | None:
        """The reply to one message, None when none is wanted; a bug of ours ends at Envoy's default route.

        Raises:
            MalformedMessage: when there is no reply that Envoy would accept.
        """
        try:
            asked = self._decode(data, self._reader)
            if asked is None or isinstance(asked, bytes):
                return asked
            return self._encode(await self._process(asked))
        except MalformedMessage:
            raise
        except Exception:
            self.on_fault(FAULT_INTERNAL)
            self._log_failure()
            return self._fallback

    def _log_failure(self) -> None:
        """Log the exception at hand with its traceback, at most once a second: a bug may meet every request."""
        self._failures += 1
        now = time.monotonic()
        if now >= self._log_again:
            self._log_again = now + 1.0
            _LOG.exception("a request could not be decided and takes the default route (%d so far)", self._failures)
