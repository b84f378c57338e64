"""Masks and drops of the decision log, asked of the OPA that decides: those that its own log goes by.

One question an event, for the package ``system.log`` as a whole; where that fails, because of another rule in it
perhaps, one for each of the two rules. Of an OPA that has no such package nothing is asked for a while, and while it
cannot be asked it is believed to have none still; else nothing is written until it can.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from extproc.adapters.access import PARAMETERS
from extproc.adapters.opa.access import place_of
from extproc.adapters.opa.connection import NoAnswerError, ThreadConnection
from extproc.adapters.opa.policy import MAX_ANSWER_BYTES, is_of_the_input
from extproc.datapath.sinks.masking import DROP_RULE, MASK_RULE, MaskError, mask_rules, masked_text
from extproc.urls import AdapterUrl, read_url

TOGETHER: Final = 16
"""Questions at the same time, of each sink: the OPA is there for requests."""

ANSWER_SECONDS: Final = 5.0

NONE_SECONDS: Final = 5.0
"""For how long an OPA without such policies is believed to have none."""

_PACKAGE: Final = MASK_RULE.rpartition("/")[0]
_OK: Final = 200
_WAITS: Final = 500


class _FailedError(Exception):
    """The evaluation fails for this event."""


class OpaLogPolicies:
    """``EventPolicies`` of one sink's thread. ``monotonic`` gives seconds."""

    def __init__(self, address: AdapterUrl, flag: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        place = place_of(address, flag)
        scheme = "http" if place.socket else address.scheme.removeprefix("opa+")
        self._root = f"{scheme}://{place.host}:{place.port}"
        self._where = f"OPA at {place}"
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._connection = ThreadConnection(address, flag, self._where, ANSWER_SECONDS, headers, place)
        self._monotonic = monotonic
        self._none_until = -1.0
        self._had_none = False

    @property
    def asked(self) -> bool:
        """Unless it had none a moment ago."""
        return self._monotonic() >= self._none_until

    def judge(self, events: Sequence[bytes]) -> list[bytes | MaskError | None]:
        """As ``EventPolicies``: ``OSError`` where the OPA cannot say."""
        judged: list[bytes | MaskError | None] = []
        for start in range(0, len(events), TOGETHER):
            some = events[start : start + TOGETHER]
            try:
                judged += self._connection.run(self._judge_some(some))
            except OSError:
                if not self._had_none:
                    raise
                self._believe_none()
                judged += some
        return judged

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    async def _judge_some(self, events: Sequence[bytes]) -> list[bytes | MaskError | None]:
        await self._connection.look_again()
        return await asyncio.gather(*map(self._judge, events))

    async def _judge(self, event: bytes) -> bytes | MaskError | None:
        try:
            said = await self._said(event)
            if said.get("drop") is True:
                return None
            masked = masked_text(event.decode(), mask_rules(said["mask"])) if "mask" in said else None
            return event if masked is None else masked.encode()
        except _FailedError:
            return MaskError(f"the evaluation fails in the {self._where}")
        except MaskError as error:
            return error

    async def _said(self, event: bytes) -> Mapping[str, Any]:
        try:
            answer = await self._ask(_PACKAGE, event)
        except _FailedError:
            rules = {"mask": await self._ask(MASK_RULE, event), "drop": await self._ask(DROP_RULE, event)}
            return {name: answer["result"] for name, answer in rules.items() if "result" in answer}
        if "result" not in answer:
            await self._check_bundles()
            self._had_none = True
            self._believe_none()
            return {}
        self._had_none = False
        said = answer["result"]
        return said if isinstance(said, dict) else {}

    def _believe_none(self) -> None:
        self._none_until = self._monotonic() + NONE_SECONDS

    async def _check_bundles(self) -> None:
        """Raises ``OSError`` where it waits for bundles, which may bring masks: until then it has nothing at all."""
        try:
            answer = await self._connection.ask("GET", f"{self._root}/health?bundles=true", None, MAX_ANSWER_BYTES)
        except NoAnswerError as error:
            raise OSError(f"the masks cannot be asked: {error}") from None
        if answer.status == _WAITS:
            self._had_none = False
            raise OSError(f"the masks cannot be asked: {self._where} has not activated all of its bundles")

    async def _ask(self, path: str, event: bytes) -> Mapping[str, Any]:
        """The answer of the OPA. Raises ``OSError`` when there is none of one."""
        try:
            answer = await self._connection.post(
                f"{self._root}/v1/data/{path}?provenance=true", b'{"input":%s}' % event, MAX_ANSWER_BYTES
            )
            said = orjson.loads(answer.body or b"")
        except NoAnswerError as error:
            raise OSError(f"the masks cannot be asked: {error}") from None
        except orjson.JSONDecodeError:
            said = None
        if not isinstance(said, dict) or (answer.status == _OK and not said.keys() & {"result", "provenance"}):
            raise OSError(f"the masks cannot be asked: {self._where} answers {answer.status}, and nothing of an OPA")
        if answer.status != _OK:
            if is_of_the_input(answer.status, said):
                raise _FailedError
            raise OSError(f"the masks cannot be asked: {self._where} answers {answer.status}")
        return said


def open_log_policies(url: str, flag: str) -> OpaLogPolicies:
    """The masks and drops of the OPA at ``url``, which is that of a policy engine. Raises ``InvalidInput`` as that."""
    return OpaLogPolicies(read_url(url, flag, PARAMETERS), flag)
