"""Verdicts of an OPA server, by its Data API: the rule ``routing/decision`` is ``POST /v1/data/routing/decision``.

Asked with opa-python-client, which opens the connections and knows the addresses. What it cannot do is done here with
what it is made of, aiohttp: certificates of an authority of one's own, the body of an error, which says whether the
input or the server is at fault, an end of answers that are too long, and no word to whoever a redirect names.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import orjson
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientResponse,
    ClientSession,
    DummyCookieJar,
    ServerDisconnectedError,
)
from opa_client.opa_async import AsyncOpaClient

from extproc.adapters.access import PARAMETERS, Access, read_access
from extproc.adapters.opa.access import Place, place_of
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_input import EVERYTHING, InputPaths
from extproc.datapath.verdict import check_verdict
from extproc.errors import InvalidInput
from extproc.names import Reason
from extproc.plugins import POLICY_ENGINE, Plugin
from extproc.urls import AdapterUrl, read_url

MAX_ANSWER_BYTES: Final = 1 << 20

REREAD_SECONDS: Final = 30.0
"""How old the contents of the token's and the certificates' files may be."""

MAX_REVISION: Final = 256
"""Characters of a revision: bundles have any, and it is a label of a metric."""

_SHOWN: Final = 300
_HEADERS: Final = {"Accept-Encoding": "identity", "Content-Type": "application/json"}


class _Client(AsyncOpaClient):  # type: ignore[misc] # it has no types
    """opa-python-client's, with connections as we want them, and the answer as it came."""

    def __init__(self, place: Place, access: Access) -> None:
        super().__init__(
            place.host, place.port, ssl=access.tls is not None, headers=dict(_HEADERS), token=access.token, retries=0
        )
        self._place, self._tls = place, access.tls

    async def _init_session(self) -> None:
        """Connections that wait for nobody: how many questions there are is bounded before them."""
        self._session = ClientSession(
            connector=self._place.connector(self._tls, 0),
            cookie_jar=DummyCookieJar(),
            headers=self.headers,
            auto_decompress=False,
        )

    async def ask(self, path: str, question: bytes) -> tuple[int, bytes | None]:
        """The status and the body of an answer; None is one that is too long.

        Once more and at once where a connection was there and broke: one that was idle while the server was restarted
        is found dead when it is used, and a question changes nothing.
        """
        if self._session is None:
            await self._init_session()
        try:
            return await self._ask(path, question)
        except ClientConnectorError:
            raise
        except (ClientOSError, ServerDisconnectedError):
            return await self._ask(path, question)

    async def _ask(self, path: str, question: bytes) -> tuple[int, bytes | None]:
        address = f"{self.root_url}/data/{quote(path)}?provenance=true"
        async with self._request("POST", address, data=question, allow_redirects=False) as answer:
            return answer.status, await _body(answer)

    async def lacks_bundles(self) -> bool:
        """Whether it says that it waits for bundles; who does not let us ask says nothing of the kind."""
        address = f"{self.schema}{self.host}:{self.port}/health?bundles=true"
        async with self._request("GET", address, allow_redirects=False) as answer:
            return bool(answer.status == 500)


class OpaEngine:
    """A ``PolicyEngine``. Connects with the first question. Nothing is known of its rules: any may deny."""

    def __init__(self, address: AdapterUrl, flag: str) -> None:
        self._address = address
        self._flag = flag
        self._place = place_of(address, flag)
        self._access = read_access(address, flag)
        self._client = _Client(self._place, self._access)
        self._complete: str | None = None
        self._bundles: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._read_at = monotonic()
        self.revision = self._revisions = f"OPA at {self._place}"

    def known(self, path: str, document: Mapping[str, Any]) -> None:
        """Nothing."""

    async def ask(self, path: str, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """The server's verdict, with the revisions of its bundles. Never raises."""
        try:
            question = _question(document)
        except (TypeError, ValueError, RecursionError) as error:
            return _fault(Reason.POLICY_ERROR, f"the input is no JSON: {type(error).__name__}")
        if within <= 0:
            return _fault(Reason.POLICY_TIMEOUT, f"there is no time left to ask {self.revision}")
        self._look_again()
        try:
            async with asyncio.timeout(within):
                verdict = self._verdict(path, *await self._client.ask(path, question))
                if verdict.fault is Reason.POLICY_UNDEFINED and verdict.revision != self._complete:
                    return await self._unless_it_waits(verdict)
                return verdict
        except TimeoutError:
            return _fault(Reason.POLICY_TIMEOUT, f"no verdict of {self.revision} within {within * 1000:.0f} ms")
        except (ClientError, OSError, ValueError) as error:  # an address that no URL has is a ValueError
            why = _shown(str(error) or type(error).__name__)
            return _fault(Reason.POLICY_UNAVAILABLE, f"{self.revision} cannot be asked: {why}")

    def reads(self, path: str) -> InputPaths:
        """Everything, as far as anybody knows."""
        return EVERYTHING

    def can_deny(self, path: str) -> bool:
        """It may."""
        return True

    def has(self, path: str) -> bool:
        """It may."""
        return True

    def reopen(self) -> None:
        """Show the token and believe the certificates that the files hold now.

        Raises:
            InvalidInput: ``file_unreadable``; then all stays as it was.
        """
        self._use(read_access(self._address, self._flag))

    def _use(self, access: Access) -> None:
        """Ask with other files' contents from now on; what is asked already is answered."""
        if access[:2] == self._access[:2]:
            return
        before, self._access = self._client, access
        self._client = _Client(self._place, access)
        self._begin(_close_later(before))

    def _look_again(self) -> None:
        """Read the files again now and then, off the way of the request: tokens are renewed without a word."""
        now = monotonic()
        if now - self._read_at > REREAD_SECONDS and self._address.parameters:
            self._read_at = now
            self._begin(self._read_again())

    async def _read_again(self) -> None:
        with suppress(InvalidInput):  # a file that is being written: what it held is good until the server refuses it
            self._use(await asyncio.to_thread(read_access, self._address, self._flag))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close_connection()

    async def _unless_it_waits(self, undefined: PolicyVerdict) -> PolicyVerdict:
        """An OPA that was started a moment ago has no policies yet, and says of every rule that it has no value.

        It is asked whether it waits once for each revision: that is where nothing more is to come.
        """
        if await self._client.lacks_bundles():
            return _fault(Reason.POLICY_UNAVAILABLE, f"{self.revision} has not activated all of its bundles")
        self._complete = undefined.revision
        return undefined

    def _verdict(self, path: str, status: int, body: bytes | None) -> PolicyVerdict:
        """What an answer comes to."""
        if body is None:
            message = f"the answer of {self.revision} for {path} has more than {MAX_ANSWER_BYTES} bytes"
            return _fault(Reason.POLICY_ERROR, message)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict) or (status == 200 and not answer.keys() & {"result", "provenance"}):
            return _fault(Reason.POLICY_UNAVAILABLE, f"{self.revision} answers {status}, and nothing of an OPA")
        if status != 200:
            return self._refusal(status, answer)
        revision = self._revision_in(answer.get("provenance"))
        if "result" not in answer:
            message = f"the rule {path} has no value in {self.revision}"
            return PolicyVerdict(fault=Reason.POLICY_UNDEFINED, message=message, revision=revision)
        return check_verdict(answer["result"])._replace(revision=revision)

    def _revision_in(self, provenance: Any) -> str:
        """As an answer tells it, hardly ever otherwise than the one before."""
        bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
        if bundles != self._bundles:
            self._bundles, self._revisions = bundles, _revisions(bundles) or self.revision
        return self._revisions

    def _refusal(self, status: int, answer: Mapping[str, Any]) -> PolicyVerdict:
        """An error: of this input, which another one may not have, or of the server, which no input gets past."""
        codes = _codes(answer)
        said = ": ".join(str(each) for each in (answer.get("message"), *codes) if each)
        message = f"{self.revision} answers {status}: {_shown(said)}"
        return _fault(Reason.POLICY_ERROR if is_of_the_input(status, answer) else Reason.POLICY_UNAVAILABLE, message)


_OF_THE_INPUT: Final = (
    "eval_internal_error",
    "eval_conflict_error",
    "eval_type_error",
    "eval_builtin_error",
    "eval_with_merge_error",
)
"""What ends one evaluation. One that was cancelled (``eval_cancel_error``) is the server's doing."""


def is_of_the_input(status: int, answer: Mapping[str, Any]) -> bool:
    """Whether an error is of this input, which another one may not have."""
    return status == 400 or any(code in _OF_THE_INPUT for code in _codes(answer))


def _codes(answer: Mapping[str, Any]) -> list[Any]:
    errors = answer.get("errors")
    return [each.get("code") for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []


def _question(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps({"input": document})
    except TypeError:  # lone surrogates and integers over 64 bits, which JSON has
        return json.dumps({"input": document}, allow_nan=False).encode()


async def _body(answer: ClientResponse) -> bytes | None:
    length = answer.content_length
    if length is not None and length <= MAX_ANSWER_BYTES:
        return await answer.read()
    content = bytearray()
    async for part in answer.content.iter_any():
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            answer.close()
            return None
    return bytes(content)


def _revisions(bundles: Any) -> str:
    """The revisions of all bundles, ``NAME=REVISION`` each; empty for an OPA that was given its policies."""
    found = bundles.items() if isinstance(bundles, dict) else ()
    text = ",".join(f"{name}={each.get('revision', '')}" for name, each in sorted(found) if isinstance(each, dict))
    return _shown(text, MAX_REVISION)


def _shown(said: str, most: int = _SHOWN) -> str:
    """What a server says, in a line that is not long."""
    line = "".join(sign if sign.isprintable() else " " for sign in said[:most])
    return line + ("..." if len(said) > most else "")


def _fault(reason: Reason, message: str) -> PolicyVerdict:
    return PolicyVerdict(allow=False, fault=reason, message=message)


async def _close_later(client: _Client) -> None:
    """After what it was asked has ended."""
    try:
        await asyncio.sleep(_LAST_ANSWERS_SECONDS)
    finally:
        await client.close_connection()


_LAST_ANSWERS_SECONDS: Final = 5.0


def open_engine(url: str, flag: str) -> OpaEngine:
    """The server at ``opa+http://HOST[:PORT]``, ``opa+https://`` or ``opa+unix:///PATH``.

    ``?token-file=PATH`` holds a bearer token, ``?ca=PATH`` the certificates that sign the server's; without it, those
    that the machine trusts. ``?cert=PATH&key=PATH`` is a certificate that is shown to it, and its key.

    Raises:
        InvalidInput: what ``read_url`` raises, ``url_invalid`` for one with a path or without a host,
            ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """
    return OpaEngine(read_url(url, flag, PARAMETERS), flag)


PLUGIN: Final = Plugin(POLICY_ENGINE.version, open_engine)
