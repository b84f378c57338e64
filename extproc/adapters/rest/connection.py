"""Connections to a store over HTTP, and what is shown over them.

There are at most ``MAX_CONNECTIONS``. A request that is given up closes its connection, so that no answer comes to
somebody who asked something else. No redirect is followed and no cookie kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    InvalidURL,
    ServerDisconnectedError,
    TCPConnector,
)
from yarl import URL

from extproc.adapters.access import read_access
from extproc.adapters.rest.asking import RestRequest
from extproc.errors import InvalidInput, Unreachable
from extproc.urls import AdapterUrl

MAX_ANSWER_BYTES: Final = 1 << 20

MAX_CONNECTIONS: Final = 16
"""Requests under way at once; others wait for one of them."""

ANSWER_SECONDS: Final = 3.0
"""For a whole answer, with the wait for a connection: less than a read may take."""

REREAD_SECONDS: Final = 30.0
"""How old the contents of the token's and the certificates' files may be."""

_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
_LAST_ANSWERS_SECONDS: Final = 5.0
_SHOWN: Final = 200


class RestConnection:
    """Sends requests to ``where``; ``shows_token`` is whether they have the token in them already."""

    def __init__(self, address: AdapterUrl, flag: str, where: str, shows_token: bool) -> None:
        self._address = address
        self._flag = flag
        self._where = where
        self._shows_token = shows_token
        self._access = read_access(address, flag)
        self._read_at = monotonic()
        self._session: ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def token(self) -> str | None:
        """What the file of the token holds, if the URL names one."""
        return self._access.token

    async def send(self, question: RestRequest) -> tuple[int, bytes | None]:
        """The status and the body of an answer; None is one that is too long.

        Once more and at once where a connection was there and broke: one that was idle while the server was restarted
        is found dead when it is used, and a question changes nothing.

        Raises:
            Unreachable: ``features_unreachable`` when nobody answers, or no HTTP.
        """
        try:
            try:
                return await self._send_once(question)
            except ClientConnectorError:
                raise
            except (ClientOSError, ServerDisconnectedError):
                if question.method == "GET":  # which aiohttp has asked twice already
                    raise
                return await self._send_once(question)
        except TimeoutError:
            message = f"it does not answer within {ANSWER_SECONDS:g} s"
        except (ClientError, OSError, ValueError) as error:
            message = f"it cannot be asked: {_why(error)}"
        raise Unreachable.of("features_unreachable", message, file=self._where)

    async def _send_once(self, question: RestRequest) -> tuple[int, bytes | None]:
        headers = dict(question.headers)
        if self._access.token is not None and not self._shows_token:
            headers["authorization"] = f"Bearer {self._access.token}"
        url = URL(question.url, encoded=True)
        async with self._connected().request(
            question.method, url, data=question.body, headers=headers, allow_redirects=False
        ) as answer:
            return answer.status, await _read(answer)

    def look_again(self) -> None:
        """Read the files again now and then, off the way of the request: tokens are renewed without a word."""
        now = monotonic()
        if now - self._read_at > REREAD_SECONDS:
            self._read_at = now
            self._begin(self._read_again())

    async def close(self) -> None:
        """Close what is open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(ssl=self._access.tls or True, limit=MAX_CONNECTIONS),
                cookie_jar=DummyCookieJar(),
                headers=_HEADERS,
                timeout=ClientTimeout(total=ANSWER_SECONDS),
                auto_decompress=False,
            )
        return self._session

    async def _read_again(self) -> None:
        with suppress(InvalidInput):  # a file that is being written: what it held is good until the server refuses it
            access = await asyncio.to_thread(read_access, self._address, self._flag, self._access)
            before, self._access = self._access, access
            if access.tls is not before.tls and self._session is not None:
                session, self._session = self._session, None
                self._begin(_close_later(session))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _read(answer: ClientResponse) -> bytes | None:
    """The body, never much more of it than there may be."""
    if answer.content_length is not None and answer.content_length > MAX_ANSWER_BYTES:
        answer.close()
        return None
    content = bytearray()
    async for part in answer.content.iter_any():
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            answer.close()
            return None
    return bytes(content)


async def _close_later(session: ClientSession) -> None:
    """After what it was asked has ended."""
    try:
        await asyncio.sleep(_LAST_ANSWERS_SECONDS)
    finally:
        await session.close()


def _why(error: Exception) -> str:
    """What went wrong, in a line that is not long, without the URL: it may name somebody."""
    if isinstance(error, InvalidURL):
        return "the template makes no URL"
    said = error.message if isinstance(error, ClientResponseError) else str(error)
    return "".join(sign if sign.isprintable() else " " for sign in said[:_SHOWN]) or type(error).__name__
