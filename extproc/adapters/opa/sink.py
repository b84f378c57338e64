"""The decision log to where OPAs send theirs: ``POST {url}/logs``, a JSON array packed by gzip, as OPA's plug-in does.

A plan, which OPA knows nothing of, goes in ``custom.plan`` of the first event that it belongs to: every element of the
array is a decision. Delivery is at least once: what was taken and not answered for is sent again.
"""

from __future__ import annotations

import gzip
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote

import orjson

from extproc.adapters.access import PARAMETERS, check_tls
from extproc.adapters.opa.connection import NoAnswerError, ThreadConnection
from extproc.datapath.sinks.decision_event import is_plan_event, with_custom
from extproc.errors import InvalidInput
from extproc.plugins import SINK, Plugin
from extproc.trouble import Troubles
from extproc.urls import AdapterUrl, read_url

logger = logging.getLogger(__name__)

DEFAULT_LIMIT: Final = 32_768
LEAST_LIMIT: Final = 1_024
MOST_LIMIT: Final = 64 << 20
MIN_DELAY: Final = 1.0
MAX_DELAY: Final = 5.0
"""Seconds between uploads. OPA's are minutes, for a buffer without an end; this one has one."""

ANSWER_SECONDS: Final = 10.0
"""For a whole upload, from the connection to the answer's head."""

RETRY_SECONDS: Final = 0.1
RETRY_FACTOR: Final = 1.6
JITTER: Final = 0.2

MAX_PLANS: Final = 1_000
"""Plans that wait for an event to go with."""

LEVEL: Final = 6
"""Of gzip: OPA's own."""

REFUSED_TRIES: Final = 3
"""How often an event is refused, with nothing else taken in between, before it is dropped: not all may be at fault."""

_SIZES: Final = "upload-size-limit-bytes"
_SHORTEST, _LONGEST = "min-delay-seconds", "max-delay-seconds"
_PARTITION: Final = "partition-name"
_TOO_LARGE: Final = 413
_OF_THE_EVENTS: Final = (400, _TOO_LARGE, 422)
"""Answers that some of the events may be the reason of: fewer are sent, until it is known which."""
_LATER: Final = (429, 503)
_PASSED_OVER: Final = 65_536
"""Bytes of an answer that are read, so that the connection is good for more."""

_Answer = TypeVar("_Answer")


class UploadError(Exception):
    """Why events were not taken, in words."""


class UploadOptions(NamedTuple):
    """How much is sent at once, in bytes as they are sent, and how many seconds uploads are apart."""

    limit: int = DEFAULT_LIMIT
    min_delay: float = MIN_DELAY
    max_delay: float = MAX_DELAY


class OpaLogSink:
    """An ``EventSink`` with a ``Pace`` of its own. Connects with the first events."""

    def __init__(self, address: AdapterUrl, flag: str, options: UploadOptions) -> None:
        self._address = address
        self._flag = flag
        self._options = options
        scheme = address.scheme.removeprefix("opa+")
        port = f":{address.port}" if address.port is not None else ""
        self._where = f"{address.bracketed_host}{port}"
        partition = address.parameters.get(_PARTITION, "")
        path = f"{address.path.rstrip('/')}/logs" + (f"/{partition}" if partition else "")
        self._url = f"{scheme}://{self._where}{quote(path)}"
        service, headers = f"the log service at {self._where}", {"Content-Type": "application/json"}
        headers["Content-Encoding"] = "gzip"
        self._connection = ThreadConnection(address, flag, service, ANSWER_SECONDS, headers)
        self._packing = _Packing(options.limit)
        self._plans: dict[bytes, bytes] = {}
        self._batch: Sequence[bytes] | None = None  # what is delivered in parts: where it begins with the next
        self._events: list[bytes] = []
        self._bare: dict[int, bytes] = {}  # of those with a plan, by their number among the events: without it
        self._next = self._refused = self._tries = 0
        self._later = 0.0
        self._troubles = Troubles(logger.warning)

    # -- its pace

    @property
    def enough_bytes(self) -> int:
        """What fills an upload, as far as is known by now."""
        return self._packing.worth

    def gather_seconds(self) -> float:
        """Another time each time: hosts that started together do not upload together."""
        return random.uniform(self._options.min_delay, self._options.max_delay)  # noqa: S311  # no secret

    def retry_seconds(self, failures: int) -> float:
        """Later and later, up to the longest delay, or when the server said."""
        wait = min(RETRY_SECONDS * RETRY_FACTOR ** min(failures - 1, 64), max(self._options.max_delay, RETRY_SECONDS))
        return max(wait * random.uniform(1 - JITTER, 1 + JITTER), self._later)  # noqa: S311  # no secret

    # -- events

    def check(self) -> None:
        """Nothing: a server that is away may come back, and the files were read when this was opened."""

    def write(self, events: Sequence[bytes]) -> int:
        """Upload them in order, in chunks; how many nobody takes.

        Raises:
            UploadError: the rest was not taken; when the same events come again, it goes on with that.
        """
        if events is not self._batch:
            self._batch, self._events = events, self._with_plans(events)
            self._next = self._refused = 0
        taken = 0
        while self._next < len(self._events):
            taken += self._upload_some(taken > 0)
        if not self._refused:
            self._troubles.note(f"sink {self._address.scheme}")
        self._batch, self._events = None, []
        return self._refused

    def _upload_some(self, others_taken: bool) -> int:
        """Deliver, or refuse, the next events; how many were delivered."""
        most = len(self._events)
        while True:
            chunk = self._packing.pack(self._events[self._next : self._next + most])
            count = chunk.events
            if chunk.body is None and self._next in self._bare:
                self._events[self._next] = self._bare.pop(self._next)  # its plan is what has no room
                continue
            if chunk.body is None:
                self._refuse(
                    "too_large", f"an event has more than {self._options.limit} bytes when it is packed, see {_SIZES}"
                )
                return 0
            status = self._connection.run(self._post(chunk.body))
            if 200 <= status < 300:
                self._next += count
                self._tries = 0
                return count
            if status not in _OF_THE_EVENTS:
                raise UploadError(f"the log service at {self._where} answers {status}{_hint(status)}")
            if count > 1:
                most = count // 2
                if status == _TOO_LARGE:
                    self._packing.lower(len(chunk.body))
                continue
            self._tries += 1
            if status != _TOO_LARGE and not others_taken and self._tries < REFUSED_TRIES:
                raise UploadError(f"the log service at {self._where} answers {status} to a single event")
            self._tries = 0
            self._refuse(f"answer_{status}", f"the log service at {self._where} answers {status} to a single event")
            return 0

    def _refuse(self, kind: str, why: str) -> None:
        """The next event is dropped, which is told once until all are taken again."""
        self._next += 1
        self._refused += 1
        self._troubles.note_codes(f"sink {self._address.scheme}", {kind: f"{why}; it is dropped, and others like it"})

    def _with_plans(self, events: Sequence[bytes]) -> list[bytes]:
        """The decisions among ``events``, each with the plans that were told for it."""
        decisions: list[bytes] = []
        self._bare = {}
        for event in events:
            if is_plan_event(event):
                if len(self._plans) >= MAX_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[b'"plan":"%s"' % orjson.loads(event)["id"].encode()] = event
                continue
            named = next((name for name in self._plans if name in event), None) if self._plans else None
            if named is not None:
                self._bare[len(decisions)] = event
                event = with_custom(event, b'"plan":%s' % self._plans.pop(named))
            decisions.append(event)
        return decisions

    async def _post(self, body: bytes) -> int:
        """The status that is answered. Raises ``UploadError`` where nothing is."""
        self._later = 0.0
        await self._connection.look_again()
        try:
            answer = await self._connection.post(self._url, body, _PASSED_OVER)
        except NoAnswerError as error:
            raise UploadError(str(error)) from None
        if answer.status in _LATER:
            self._later = min(_seconds(answer.headers.get("Retry-After")), self._options.max_delay)
        return answer.status

    def reopen(self) -> None:
        """Forget what was found out about the server, which may be another one now."""
        self._packing = _Packing(self._options.limit)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Chunk(NamedTuple):
    """The first ``events`` of some, packed; None where one alone is too large."""

    events: int
    body: bytes | None


class _Packing:
    """Packs as many events as fit, by how small the last ones became: to find out by packing twice is rarely needed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fits = limit  # what the server takes, if it takes less
        self._ratio = 0.25

    @property
    def worth(self) -> int:
        """About how many bytes of events fill a chunk."""
        return int(0.9 * self._fits / self._ratio)

    def lower(self, refused: int) -> None:
        """The server does not take so many bytes."""
        self._fits = max(min(self._fits, refused // 2), LEAST_LIMIT)

    def pack(self, events: Sequence[bytes]) -> _Chunk:
        """As many of the first of ``events`` as fit."""
        count = self._guess(events)
        while True:
            plain = b"[%s]" % b",".join(events[:count])
            body = gzip.compress(plain, LEVEL, mtime=0)
            ratio = len(body) / len(plain)
            self._ratio = ratio if ratio > self._ratio else (self._ratio + ratio) / 2
            if len(body) <= (self._fits if count > 1 else self._limit):
                return _Chunk(count, body)
            if count == 1:
                return _Chunk(1, None)
            count = max(1, min(self._guess(events[:count]), count // 2 if count < 4 else count * 3 // 4))

    def _guess(self, events: Sequence[bytes]) -> int:
        size, most = 0, self.worth
        for count, event in enumerate(events):
            size += len(event) + 1
            if size > most:
                return max(1, count)
        return len(events)


def _hint(status: int) -> str:
    hints = {401: ": is it the right token?", 403: ": may the token write logs?", 404: ": is it the right path?"}
    return hints.get(status, ": a redirect, which is not followed" if 300 <= status < 400 else "")


def _seconds(text: str | None) -> float:
    """Of ``Retry-After``; 0 where it says no number."""
    return float(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 10 else 0.0


def open_sink(url: str, flag: str) -> OpaLogSink:
    """The log service at ``opa+http://HOST[:PORT][/PATH]`` or ``opa+https://``; uploads go to ``/logs`` below it.

    ``?token-file=PATH`` and ``?ca=PATH`` are as for the policy engine. ``partition-name``,
    ``upload-size-limit-bytes``, ``min-delay-seconds`` and ``max-delay-seconds`` are OPA's.

    Raises:
        InvalidInput: what ``read_url`` raises, ``url_invalid`` for one without a host, ``url_parameter`` for a value
            that makes no sense, ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """
    found = read_url(url, flag, (*PARAMETERS, _PARTITION, _SIZES, _SHORTEST, _LONGEST))
    if not found.host or found.user:
        raise InvalidInput.of("url_invalid", f"{flag}: a log service is opa+http://HOST:PORT/PATH", field=flag)
    check_tls(found, flag)
    limit = _number(found, flag, _SIZES, DEFAULT_LIMIT, LEAST_LIMIT, MOST_LIMIT, int)
    longest = _number(found, flag, _LONGEST, MAX_DELAY, 0, 86_400, float)
    shortest = _number(found, flag, _SHORTEST, min(MIN_DELAY, longest), 0, 86_400, float)
    if shortest > longest:
        message = f"{flag}: {_SHORTEST} is {shortest:g}, which is more than {_LONGEST}, {longest:g}"
        raise InvalidInput.of("url_parameter", message, field=flag)
    return OpaLogSink(found, flag, UploadOptions(limit, shortest, longest))


def _number(
    url: AdapterUrl, flag: str, name: str, default: _Answer, least: float, most: float, kind: Callable[[str], _Answer]
) -> _Answer:
    text = url.parameters.get(name)
    if text is None:
        return default
    with suppress(ValueError):
        value = kind(text)
        if least <= float(text) <= most:
            return value
    message = f"{flag}: {name} is a number from {least:g} to {most:g}, not {text!r}"
    raise InvalidInput.of("url_parameter", message, field=flag)


PLUGIN: Final = Plugin(SINK.version, open_sink)
