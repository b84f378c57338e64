"""Connections of one thread to an OPA, or to a service that OPAs speak to, for what may wait."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar

from extproc.adapters.access import read_access
from extproc.adapters.opa.access import Place
from extproc.errors import InvalidInput
from extproc.urls import AdapterUrl

BODY_SECONDS: Final = 1.0

_MAX_SAID: Final = 200
_MOST_CONNECTIONS: Final = 100

_Answer = TypeVar("_Answer")


class NoAnswerError(Exception):
    """Why there is no answer, in words."""


class HttpAnswer(NamedTuple):
    """What was answered; the body is None where it is too long or did not come."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class ThreadConnection:
    """Posts to ``address``, which ``where`` calls by name in messages; an answer begins within ``seconds``.

    It has an event loop of its own, which runs while something is asked. The token and the certificates are those that
    the files hold then: a renewed one is told by nobody.
    """

    def __init__(
        self,
        address: AdapterUrl,
        flag: str,
        where: str,
        seconds: float,
        headers: Mapping[str, str],
        place: Place | None = None,
    ) -> None:
        self._address = address
        self._flag = flag
        self._where = where
        self._seconds = seconds
        self._headers = headers
        self._place = place or Place(address.bracketed_host, address.port or 0)
        self._access = read_access(address, flag)
        self._runner: asyncio.Runner | None = None
        self._session: ClientSession | None = None

    def run(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """What ``work`` gives, which posts."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(work)

    async def post(self, url: str, body: bytes, most: int) -> HttpAnswer:
        """What is answered to ``body``, as ``ask`` says."""
        return await self.ask("POST", url, body, most)

    async def ask(self, method: str, url: str, body: bytes | None, most: int) -> HttpAnswer:
        """What is answered, with a body of at most ``most`` bytes. Follows no redirect.

        Raises:
            NoAnswerError: nobody answers, or no HTTP.
        """
        session = await self._connected()
        token = self._access.token
        headers = {"Authorization": f"Bearer {token}"} if token is not None else None
        try:
            async with session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
                return HttpAnswer(answer.status, answer.headers, await _read(answer, most))
        except TimeoutError:
            raise NoAnswerError(f"{self._where} did not answer within {self._seconds:g} s") from None
        except (ClientError, OSError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise NoAnswerError(f"{self._where} cannot be told: {why[:_MAX_SAID]}") from None

    async def look_again(self) -> None:
        """Show the token and believe the certificates that the files hold now."""
        with suppress(InvalidInput):  # a file that is being written: what it held is good until the server refuses it
            access = read_access(self._address, self._flag, self._access)
            if access.tls is not self._access.tls:
                await self._let_go()
            self._access = access

    def close(self) -> None:
        """Close the connections, on the thread that has them."""
        runner, self._runner = self._runner, None
        if runner is not None:
            with runner:
                runner.run(self._let_go())

    async def _connected(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(
                connector=self._place.connector(self._access.tls, _MOST_CONNECTIONS),
                cookie_jar=DummyCookieJar(),
                headers=self._headers,
                timeout=ClientTimeout(total=self._seconds),
                auto_decompress=False,
            )
        return self._session

    async def _let_go(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(answer: ClientResponse, most: int) -> bytes | None:
    """The body, if it comes; a connection whose answer is read to its end is good for more."""
    if answer.content_length is not None and answer.content_length > most:
        return None
    with suppress(ClientError, OSError, TimeoutError):  # what was told is told, whatever becomes of this
        async with asyncio.timeout(BODY_SECONDS):
            content = bytearray()
            async for part in answer.content.iter_any():
                content += part
                if len(content) > most:
                    return None
            return bytes(content)
    return None
