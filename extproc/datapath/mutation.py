"""From a decision to the reply: which headers are set and removed, or what the client is told.

Every value is checked before it is sent: Envoy answers 500 to a mutation with an illegal header, even when it fails
open. A decision whose values cannot be sent is stripped of all of them, and the request takes Envoy's default route.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from extproc.datapath.model import Decision, Denial, Mutation
from extproc.names import (
    HEADER_ARM,
    HEADER_CLUSTER,
    HEADER_DECISION_ID,
    HEADER_MARK,
    HEADER_ROLLOUT,
    HEADER_SHADOW,
    HEADER_VERSION,
    OWN_HEADERS,
    Reason,
)

MAX_VALUE_BYTES: Final = 1024
"""The longest header value that is sent; Envoy limits all headers of a request together to 60 KiB."""

STRIPPED: Final = Mutation(remove_headers=OWN_HEADERS)
"""Nothing is set and whatever the client claimed is removed: nothing can be said, and Envoy takes its default route."""

TOO_FULL: Final = Denial(431, Reason.ATTRIBUTES_TOO_LARGE.value)
"""What a request is told that has no room for an answer, where going on without one is no way out."""

_ROUTES_KEPT: Final = 4096
_LEGAL_VALUE: Final = re.compile(rb"[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?").fullmatch

_Headers = tuple[tuple[str, bytes], ...]


def legal_value(text: str) -> bytes | None:
    """The bytes of a header value that Envoy accepts, or None for one that it would refuse.

    Refused: the empty one, one over ``MAX_VALUE_BYTES``, one with control characters other than inner tabs, one that
    starts or ends in blanks, and one that is not Unicode.
    """
    try:
        value = text.encode()
    except UnicodeEncodeError:
        return None
    return value if len(value) <= MAX_VALUE_BYTES and _LEGAL_VALUE(value) else None


def mutation_for(decision: Decision, mark: str) -> Mutation:
    """The reply to ``decision``. Never raises, and never makes a mutation that Envoy would refuse.

    ``mark`` is what Envoy's routes know our replies by. A request that is nobody's is marked too, with nothing beside:
    no rollout's default route may take it, as it would one that nobody decided.
    """
    decision_id = legal_value(decision.decision_id)
    if decision.denial is not None:
        return _denied(decision.denial, decision.decision_id, decision_id)
    if decision.rollout is None:
        return _nobodys(mark)
    route = _route(decision.version, decision.upstream, decision.arm, decision.rollout, decision.shadow, mark)
    if route is None or decision_id is None:
        return STRIPPED
    headers, removed = route
    return Mutation((*headers, (HEADER_DECISION_ID, decision_id)), removed)


def without_room(mutation: Mutation, headers: Iterable[str]) -> Mutation:
    """What is left of a reply to a request that is ``full``: a denial, or the removal of what the client claimed.

    Nothing claimed, nothing changed: Envoy measures a request again after any change, and what it added to the request
    itself may have carried it over its limits already.
    """
    if mutation.denial is not None:
        return mutation
    claimed = frozenset(headers)
    return Mutation(remove_headers=tuple(name for name in OWN_HEADERS if name in claimed))


@lru_cache(1)
def _nobodys(mark: str) -> Mutation:
    others = tuple(name for name in OWN_HEADERS if name != HEADER_MARK)
    return Mutation(((HEADER_MARK, mark.encode()),), others)


@lru_cache(_ROUTES_KEPT)
def _route(
    version: str | None, upstream: str | None, arm: str | None, key: str | None, shadow: str | None, mark: str
) -> tuple[_Headers, tuple[str, ...]] | None:
    """The headers that say where a request goes and those to remove; None when there is nowhere, or no way to say it.

    Kept for the routes in use, because all of it comes from documents and a worker sees few of them.
    """
    texts = {HEADER_VERSION: version, HEADER_CLUSTER: upstream, HEADER_ARM: arm, HEADER_ROLLOUT: key}
    texts[HEADER_MARK] = mark
    if shadow is not None:
        texts[HEADER_SHADOW] = shadow
    headers = tuple((name, value) for name, text in texts.items() if text and (value := legal_value(text)))
    if len(headers) < len(texts):
        return None
    return headers, () if shadow is not None else (HEADER_SHADOW,)


def _denied(denial: Denial, decision_id: str, legal_id: bytes | None) -> Mutation:
    """The answer to the client: the policy's body as it is, or a JSON object with the reason and the decision id."""
    body = denial.body
    if body is None:
        body = json.dumps({"reason": denial.reason or "policy_deny", "decision_id": decision_id})
    status = denial.http_status if 400 <= denial.http_status <= 599 else 403
    content_type = b"application/json" if _is_json(body) else b"text/plain; charset=utf-8"
    headers: _Headers = (("content-type", content_type),)
    if legal_id is not None:
        headers += ((HEADER_DECISION_ID, legal_id),)
    return Mutation(headers, denial=Denial(status, denial.reason, body))


def _is_json(body: str) -> bool:
    """Whether ``body`` is a JSON object or array; a bare word or number is text to whoever reads it."""
    if not body.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
