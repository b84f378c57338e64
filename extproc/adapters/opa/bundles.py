"""Bundles from a server by HTTP, as an OPA fetches them, and the status that an OPA reports of its own.

A bundle is asked for by ``GET`` with the ETag of the last one (``If-None-Match``); there is no long polling. A status
goes to ``POST {url}/status``. Source: https://www.openpolicyagent.org/docs/management-bundles and management-status.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import orjson
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from extproc.adapters.access import PARAMETERS, check_tls, read_access
from extproc.errors import InvalidInput, Unreachable
from extproc.resources.bundles import MAX_PACKED_BYTES
from extproc.urls import AdapterUrl, last_part, read_url

ANSWER_SECONDS: Final = 20.0
"""For a whole bundle, and for a status."""

MIN_DELAY: Final = 10.0
MAX_DELAY: Final = 20.0
"""Seconds between two questions for a bundle. OPA's are 60 and 120."""

MOST_DELAY: Final = 86_400.0

_SHORTEST, _LONGEST = "min-delay-seconds", "max-delay-seconds"
_OK, _UNCHANGED = 200, 304
_HINTS: Final = {
    401: ": is it the right token?",
    403: ": may the token read it?",
    404: ": is it the right path?",
}


class _Service:
    """What both have: an address, and what is shown to whoever answers there, read again for each question."""

    def __init__(self, url: str, flag: str, known: tuple[str, ...] = ()) -> None:
        self.address = _read(url, flag, known)
        self._flag = flag
        self._access = read_access(self.address, flag)
        scheme = self.address.scheme.removeprefix("opa+")
        port = f":{self.address.port}" if self.address.port is not None else ""
        self.url = f"{scheme}://{self.address.bracketed_host}{port}{quote(self.address.path)}"

    def session(self) -> ClientSession:
        """A connection; to be closed."""
        with suppress(InvalidInput):  # a file that is being written: what it held is good until it is refused
            self._access = read_access(self.address, self._flag, self._access)
        token = self._access.token
        return ClientSession(
            connector=TCPConnector(ssl=self._access.tls or True),
            cookie_jar=DummyCookieJar(),
            headers={"Authorization": f"Bearer {token}"} if token is not None else None,
            timeout=ClientTimeout(total=ANSWER_SECONDS),
            auto_decompress=False,
        )


class BundleServer(_Service):
    """A bundle at ``http://HOST[:PORT]/PATH`` or ``https://``.

    ``?token-file=PATH`` and ``?ca=PATH`` are as for the policy engine; ``min-delay-seconds`` and ``max-delay-seconds``
    say how often it is asked for.

    Raises:
        InvalidInput: what ``read_url`` raises, ``url_invalid``, ``url_parameter`` for a delay that makes no sense,
            ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """

    def __init__(self, url: str, flag: str) -> None:
        super().__init__(url, flag, (_SHORTEST, _LONGEST))
        self.name = last_part(url)
        self.min_delay = _seconds(self.address, flag, _SHORTEST, MIN_DELAY)
        self.max_delay = _seconds(self.address, flag, _LONGEST, max(MAX_DELAY, self.min_delay))
        if self.min_delay > self.max_delay:
            message = f"{flag}: {_SHORTEST} is more than {_LONGEST}"
            raise InvalidInput.of("url_parameter", message, field=flag)
        self._etag: str | None = None
        self._seen: str | None = None

    async def fetch(self) -> bytes | None:
        """The bundle; None where it is the one that was ``taken`` last.

        Raises:
            Unreachable: ``bundle_unreachable``, with what the server says.
            InvalidInput: ``policies_too_large``.
        """
        headers = {"Accept": "application/gzip, application/octet-stream", "Accept-Encoding": "identity"}
        if self._etag is not None:
            headers["If-None-Match"] = self._etag
        try:
            async with (
                self.session() as session,
                session.get(self.url, headers=headers, allow_redirects=False) as answer,
            ):
                if answer.status == _UNCHANGED and self._etag is not None:
                    return None
                if answer.status != _OK:
                    raise _unreachable(self.url, f"the server answers {answer.status}{_hint(answer.status)}")
                content = await self._content(answer)
                self._seen = answer.headers.get("ETag")
                return content
        except TimeoutError:
            raise _unreachable(self.url, f"the server does not answer within {ANSWER_SECONDS:g} s") from None
        except (ClientError, OSError, ValueError) as error:
            raise _unreachable(
                self.url, f"the server cannot be asked: {str(error)[:200] or type(error).__name__}"
            ) from None

    def taken(self) -> None:
        """What was fetched last is in force: only another one is wanted."""
        self._etag = self._seen

    async def _content(self, answer: ClientResponse) -> bytes:
        content = bytearray()
        async for part in answer.content.iter_any():
            content += part
            if len(content) > MAX_PACKED_BYTES:
                message = f"the bundle has more than {MAX_PACKED_BYTES} bytes"
                raise InvalidInput.of("policies_too_large", message, file=self.url)
        return bytes(content)


class StatusService(_Service):
    """Whom the status of bundles is reported to: ``http://HOST[:PORT][/PATH]``, with ``token-file`` and ``ca``."""

    async def report(self, status: Mapping[str, Any]) -> None:
        """Report it. Raises ``Unreachable``: ``status_unreachable``."""
        url = f"{self.url.rstrip('/')}/status"
        try:
            async with self.session() as session:
                headers = {"Content-Type": "application/json"}
                async with session.post(
                    url, data=orjson.dumps(status), headers=headers, allow_redirects=False
                ) as answer:
                    if not _OK <= answer.status < 300:
                        message = f"{url} answers {answer.status}{_hint(answer.status)}"
                        raise Unreachable.of("status_unreachable", message)
        except TimeoutError:
            message = f"{url} does not answer within {ANSWER_SECONDS:g} s"
            raise Unreachable.of("status_unreachable", message) from None
        except (ClientError, OSError, ValueError) as error:
            message = f"{url} cannot be told: {str(error)[:200] or type(error).__name__}"
            raise Unreachable.of("status_unreachable", message) from None


def _read(url: str, flag: str, known: tuple[str, ...]) -> AdapterUrl:
    found = read_url(url, flag, (*PARAMETERS, *known))
    if not found.host or found.user or found.scheme not in ("http", "https"):
        message = f"{flag}: an address is http://HOST:PORT/PATH or https://HOST/PATH"
        raise InvalidInput.of("url_invalid", message, field=flag)
    check_tls(found, flag)
    return found


def _seconds(address: AdapterUrl, flag: str, parameter: str, default: float) -> float:
    text = address.parameters.get(parameter)
    try:
        seconds = default if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= MOST_DELAY:
        message = f"{flag}: {parameter} is a number of seconds from 0.1 to {MOST_DELAY:g}"
        raise InvalidInput.of("url_parameter", message, field=flag)
    return seconds


def _unreachable(url: str, why: str) -> Unreachable:
    return Unreachable.of("bundle_unreachable", why, file=url)


def _hint(status: int) -> str:
    return _HINTS.get(status, ": a redirect, which is not followed" if 300 <= status < 400 else "")
