"""``POST /v1/feedback``: feedback as JSON, one record or ``{"records": [...]}``, as a raw ASGI callable.

A request that is no feedback gets a 4xx with ``{"code", "message"}``; one that is gets 200, with a code for each of its
records. The server below asks who calls, and holds the limits on bytes and time (``net/http_service.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from extproc.control.api.feedback_thread import Read
from extproc.control.feedback import (
    MAX_OUTCOMES,
    MAX_RECORDS,
    FeedbackRecord,
    RecordResult,
    UnreadableRecord,
    check_count,
)
from extproc.errors import DropoutError, InvalidInput

PATH: Final = "/v1/feedback"

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Record = Callable[[Read], Awaitable[list[RecordResult]]]

_MAX_OPENED: Final = 16 * MAX_RECORDS
"""Lists and objects in a body, or what looks like one: reading hundreds of thousands would hold everybody up."""

_MESSAGES: Final = {
    "bool_type": "must be true or false; a number is one of the outcomes",
    "extra_forbidden": "there is decision_id, prediction, label, outcomes and version",
    "missing": "is required",
}

_JSON: Final = (b"content-type", b"application/json")


class _Record(BaseModel):
    """A record as JSON."""

    model_config = ConfigDict(strict=True, extra="forbid")

    decision_id: str
    prediction: bool | None = None
    label: bool | None = None
    outcomes: dict[str, float] = {}
    version: str | None = None


class FeedbackApplication:
    """Hands what is posted to ``record``, unread. Who may post is the listener's business."""

    def __init__(self, record: Record) -> None:
        self._record = record

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["path"] != PATH:
            await _refuse(send, 404, "not_found", f"there is {PATH}")
        elif scope["method"] != "POST":
            await _refuse(send, 405, "method_not_allowed", f"{PATH} takes POST", (b"allow", b"POST"))
        else:
            await self._take((await receive())["body"], send)

    async def _take(self, body: bytes, send: Send) -> None:
        try:
            results = await self._record(partial(parse_records, body))
        except DropoutError as error:
            status = 400 if isinstance(error, InvalidInput) else 503
            await _refuse(send, status, error.code, error.faults[0].message)
        else:
            await _answer(send, 200, {"results": [_shown(result) for result in results], "counts": _counts(results)})


def parse_records(body: bytes) -> list[FeedbackRecord | UnreadableRecord]:
    """The records of a request's body. One that is none does not keep the others from being counted.

    What it costs is bounded by the limits on a batch and a record, whatever the body holds.

    Raises:
        InvalidInput: ``feedback_body_malformed``, ``feedback_too_many``.
    """
    if body.count(b"{") + body.count(b"[") > _MAX_OPENED:
        raise InvalidInput.of("feedback_body_malformed", f"a body has at most {_MAX_OPENED} lists and objects")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput.of("feedback_body_malformed", f"this is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput.of("feedback_body_malformed", 'give a record, or {"records": [...]}')
    if "records" not in document:
        return [_parsed(document)]
    records = document["records"]
    if len(document) > 1 or not isinstance(records, list):
        raise InvalidInput.of("feedback_body_malformed", "records is a list, and there is nothing beside it")
    check_count(len(records))
    return [_parsed(record) for record in records]


def _parsed(given: Any) -> FeedbackRecord | UnreadableRecord:
    if (too_large := _too_large(given)) is not None:
        return UnreadableRecord(_named(given), too_large)
    try:
        record = _Record.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = _MESSAGES.get(first["type"], first["msg"].replace("Input should be", "must be", 1))
        return UnreadableRecord(_named(given), f"{where}: {message}" if where else message)
    return FeedbackRecord(record.decision_id, record.prediction, record.label, record.outcomes, record.version)


def _too_large(given: Any) -> str | None:
    """Why this is not worth validating: each thing that is wrong would be an error to build."""
    if not isinstance(given, dict):
        return None
    if len(given) > len(_Record.model_fields):
        return f"there are at most {len(_Record.model_fields)} fields in a record"
    outcomes = given.get("outcomes")
    if isinstance(outcomes, dict) and len(outcomes) > MAX_OUTCOMES:
        return f"outcomes: there are at most {MAX_OUTCOMES} in a record"
    return None


def _named(given: Any) -> str | None:
    """The id in what is no record, if there is one."""
    named = given.get("decision_id") if isinstance(given, dict) else None
    return named if isinstance(named, str) else None


def _shown(result: RecordResult) -> dict[str, Any]:
    shown = {"decision_id": result.decision_id, "code": result.code}
    return {**shown, "message": result.message} if result.message else shown


def _counts(results: Sequence[RecordResult]) -> dict[str, int]:
    return dict(Counter(result.code.value for result in results))


async def _refuse(send: Send, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> None:
    await _answer(send, status, {"code": code, "message": message}, *headers)


async def _answer(send: Send, status: int, document: Mapping[str, Any], *headers: tuple[bytes, bytes]) -> None:
    body = orjson.dumps(document)
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": (_JSON, *headers, length)})
    await send({"type": "http.response.body", "body": body})
