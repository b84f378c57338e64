"""Verdicts of an OPA server, by its Data API: the rule ``routing/decision`` is ``POST /v1/data/routing/decision``.

Nothing is remembered, because nobody tells us of a new bundle. A question that its request gave up on is left to end,
within ``MAX_ASK_SECONDS``: ended with the request it would close its connection, and a slow server would have to take
new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import ClientError, ClientResponseError
from opa_client.opa_async import AsyncOpaClient

from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_input import EVERYTHING, InputPaths
from extproc.datapath.verdict import check_verdict
from extproc.errors import InvalidInput
from extproc.names import Reason
from extproc.plugins import POLICY_ENGINE, Plugin
from extproc.urls import read_token, read_url

MAX_ASK_SECONDS: Final = 1.0
MAX_PENDING: Final = 256
"""Questions under way; beyond them a request gets ``policy_timeout`` at once."""

_PORT: Final = 8181


class OpaEngine:
    """A ``PolicyEngine``. Connects with the first question. Nothing is known of its rules: any may deny."""

    def __init__(self, client: AsyncOpaClient, where: str) -> None:
        self.revision = where
        self._client = client
        self._is_open = False
        self._asking: set[asyncio.Task[PolicyVerdict]] = set()

    def known(self, path: str, document: Mapping[str, Any]) -> None:
        """Nothing."""

    async def ask(self, path: str, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """The server's verdict. Never raises: what goes wrong is a fault, and may have been a denial."""
        if len(self._asking) >= MAX_PENDING or within <= 0:
            return _fault(Reason.POLICY_TIMEOUT, f"{len(self._asking)} questions wait for {self.revision}")
        asking = asyncio.get_running_loop().create_task(self._ask(path, document))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        await asyncio.wait((asking,), timeout=within)
        if asking.done():
            return asking.result()
        return _fault(Reason.POLICY_TIMEOUT, f"no verdict of {self.revision} within {within * 1000:.0f} ms")

    def reads(self, path: str) -> InputPaths:
        """Everything, as far as anybody knows."""
        return EVERYTHING

    def can_deny(self, path: str) -> bool:
        """It may."""
        return True

    def has(self, path: str) -> bool:
        """It may."""
        return True

    async def close(self) -> None:
        """End what is being asked, close the connections."""
        for asking in self._asking:
            asking.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        if self._is_open:
            await self._client.close_connection()

    async def _ask(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        package, _, rule = path.rpartition("/")
        try:
            if not self._is_open:
                self._is_open = True  # before anything is awaited: several may ask first
                await self._client.__aenter__()
            answer = await self._client.query_rule(document, package, rule)
        except ClientResponseError as error:
            return _fault(Reason.POLICY_ERROR, f"{self.revision} answers {error.status} {error.message}")
        except TimeoutError:
            return _fault(Reason.POLICY_TIMEOUT, f"no verdict of {self.revision} within {MAX_ASK_SECONDS:.0f} s")
        except (ClientError, OSError) as error:
            return _fault(Reason.POLICY_ERROR, f"{self.revision} cannot be asked: {type(error).__name__}")
        except Exception as error:  # an input that is no JSON, an answer that is none: onError is for this too
            return _fault(Reason.POLICY_ERROR, f"the question to {self.revision} failed: {type(error).__name__}")
        if not isinstance(answer, dict) or "result" not in answer:
            message = f"the rule {path} has no value in {self.revision}"
            return PolicyVerdict(fault=Reason.POLICY_UNDEFINED, message=message)
        return check_verdict(answer["result"])


def _fault(reason: Reason, message: str) -> PolicyVerdict:
    return PolicyVerdict(allow=False, fault=reason, message=message)


def open_engine(url: str, flag: str) -> OpaEngine:
    """The server at ``opa+http://HOST[:PORT]`` or ``opa+https://``; ``?token-file=PATH`` holds a bearer token.

    Raises:
        InvalidInput: what ``read_url`` raises, ``url_invalid`` for one with a path or without a host,
            ``file_unreadable`` for a file that cannot be read or holds no token.
    """
    found = read_url(url, flag, ("token-file",))
    if not found.host or found.path.strip("/") or found.user:
        raise InvalidInput.of(
            "url_invalid", f"{flag}: an OPA is opa+http://HOST:PORT and nothing behind it", field=flag
        )
    token = read_token(found, flag)
    host, port, secure = (
        found.bracketed_host,
        found.port or _PORT,
        found.scheme == "opa+https",
    )
    client = AsyncOpaClient(host=host, port=port, ssl=secure, token=token, retries=0, timeout=MAX_ASK_SECONDS)
    return OpaEngine(client, f"OPA at {host}:{port}")


PLUGIN: Final = Plugin(POLICY_ENGINE.version, open_engine)
