"""Between what this package works with and the messages of ``control.proto``; errors too, there and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
import orjson
from google.protobuf.message import Message

from extproc._gen.dropout.v1 import control_pb2 as pb
from extproc.control.actions import Command
from extproc.control.emergency import Reached
from extproc.control.result import ActionResult
from extproc.errors import DropoutError, Fault, InvalidInput, Refused, Unreachable
from extproc.store.records import HistoryEntry, StoredRollout, UnreadableRollout
from extproc.store.status import STATUS_FIELDS, Status

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["Control"]
SERVICE: Final = _SERVICE.full_name

FAULTS_TRAILER: Final = "dropout-faults-bin"
"""The faults of a refusal, as JSON; ``-bin`` keeps gRPC from reading anything into the bytes."""

MAX_FAULTS_BYTES: Final = 4096
_NOBODY: Final = re.compile(r"(?P<address>(?:unix|ipv[46]):\S+): .*: (?P<why>[^:]+)$")
"""What gRPC says where nobody listens: at which address, and at the end the system's own words."""
"""gRPC drops answers whose trailers exceed 8 KiB; what is longer is told by the status alone."""

_AS_JSON: Final = ("conditions", "analysis", "lifted", "previous", "numbers", "applied")
_AS_TUPLE: Final = ("aborted", "tripped", "kills", "restored", "without")

_STATUS_CODES: Final[Mapping[type[DropoutError], grpc.StatusCode]] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    Refused: grpc.StatusCode.FAILED_PRECONDITION,
    Unreachable: grpc.StatusCode.UNAVAILABLE,
}
_CODES_OF_ITS_OWN: Final = {
    "not_found": grpc.StatusCode.NOT_FOUND,
    "conflict": grpc.StatusCode.ABORTED,
    "control_denied": grpc.StatusCode.PERMISSION_DENIED,
    "unauthorized": grpc.StatusCode.UNAUTHENTICATED,
}
_ERRORS: Final[Mapping[grpc.StatusCode, type[DropoutError]]] = {
    **{status: kind for kind, status in _STATUS_CODES.items()},
    grpc.StatusCode.NOT_FOUND: InvalidInput,
    grpc.StatusCode.ABORTED: Refused,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.UNAUTHENTICATED: Refused,
}


def to_rollout(row: StoredRollout, *, listed: bool = False) -> pb.Rollout:
    """A row as a message; of the document of one that is ``listed``, what a list shows: its variants."""
    document = row.document
    if listed:
        variants = document.get("spec", {}).get("variants")
        document = {"spec": {"variants": variants}} if variants else {}
    return pb.Rollout(
        namespace=row.namespace,
        name=row.name,
        resource_version=row.resource_version,
        source=row.source,
        deleted=row.deleted,
        status=_to_status(row.status),
        document_json=orjson.dumps(document).decode() if document else "",
    )


def from_rollout(message: pb.Rollout) -> StoredRollout:
    """The reverse of ``to_rollout``; a document that was left out is empty."""
    return StoredRollout(
        namespace=message.namespace,
        name=message.name,
        document=orjson.loads(message.document_json) if message.document_json else {},
        status=_from_status(message.status),
        resource_version=message.resource_version,
        source=message.source if message.HasField("source") else None,
        deleted=message.deleted,
    )


def to_unreadable(row: UnreadableRollout) -> pb.UnreadableRollout:
    """A damaged row as a message."""
    return pb.UnreadableRollout(
        namespace=row.namespace,
        name=row.name,
        resource_version=row.resource_version,
        code=row.fault.code,
        message=row.fault.message,
    )


def from_unreadable(message: pb.UnreadableRollout) -> UnreadableRollout:
    """The reverse of ``to_unreadable``."""
    fault = Fault(message.code, message.message)
    return UnreadableRollout(message.namespace, message.name, fault, message.resource_version)


def _to_status(status: Status) -> pb.Status:
    values: dict[str, Any] = {}
    for name in STATUS_FIELDS:
        value = getattr(status, name)
        if name in _AS_JSON:
            values[f"{name}_json"] = orjson.dumps(value).decode()
        else:
            values[name] = value
    return pb.Status(**values)


def _from_status(message: pb.Status) -> Status:
    values: dict[str, Any] = {}
    for name in STATUS_FIELDS:
        if name in _AS_JSON:
            values[name] = orjson.loads(getattr(message, f"{name}_json") or "null")
        else:
            values[name] = getattr(message, name)
    values |= {name: tuple(values[name] or ()) for name in (*_AS_TUPLE, "conditions")}
    values |= {name: values[name] or {} for name in ("analysis", "lifted", "previous", "numbers", "applied")}
    values["canary"] = message.canary if message.HasField("canary") else None
    return Status(**values)


def request_of(kind: type[Command]) -> type[Message]:
    """What the RPC for a ``kind`` of actions takes: it is called as they are."""
    request: type[Message] = getattr(pb, _SERVICE.methods_by_name[kind.__name__].input_type.name)
    return request


def to_request(action: Command) -> Message:
    """An action as a message, whose fields have the names of its own."""
    request = request_of(type(action))
    return request(**{name: getattr(action, name) for name in request.DESCRIPTOR.fields_by_name})


def from_request(kind: type[Command], request: Message) -> Command:
    """The reverse of ``to_request``; the namespace may be left out."""
    values = {name: getattr(request, name) for name in request.DESCRIPTOR.fields_by_name}
    values = {name: value if isinstance(value, (str, int)) else tuple(value) for name, value in values.items()}
    return kind(**values | {"namespace": values["namespace"] or "default"})


def to_entry(entry: HistoryEntry) -> pb.HistoryEntry:
    """An entry of history as a message."""
    return pb.HistoryEntry(
        at=entry.at,
        namespace=entry.namespace,
        name=entry.name,
        actor=entry.actor,
        action=entry.action,
        message=entry.message,
        detail_json=orjson.dumps(entry.detail).decode(),
        count=entry.count,
        first_at=entry.first_at,
    )


def from_entry(message: pb.HistoryEntry) -> HistoryEntry:
    """The reverse of ``to_entry``."""
    return HistoryEntry(
        at=message.at,
        namespace=message.namespace,
        name=message.name,
        actor=message.actor,
        action=message.action,
        message=message.message,
        detail=orjson.loads(message.detail_json or "{}"),
        count=message.count or 1,
        first_at=message.first_at if message.HasField("first_at") else None,
    )


def to_result(result: ActionResult) -> pb.ActionResult:
    """What became of an action as a message."""
    return pb.ActionResult(rollout=to_rollout(result.row), result=result.result, message=result.message)


def from_result(message: pb.ActionResult) -> ActionResult:
    """The reverse of ``to_result``."""
    return ActionResult(from_rollout(message.rollout), message.result, message.message)


def to_reached(reached: Reached) -> pb.ActionResult:
    """What a kill or a restore reached as a message."""
    message = to_result(reached.result) if reached.result is not None else pb.ActionResult()
    message.reached.CopyFrom(
        pb.Reached(
            kills=reached.kills,
            serves=reached.serves,
            unkept=reached.unkept,
            silent=reached.silent,
            store_code=reached.fault.code if reached.fault is not None else "",
            store_message=reached.fault.message if reached.fault is not None else "",
        )
    )
    return message


def from_reached(namespace: str, name: str, message: pb.ActionResult) -> Reached:
    """The reverse of ``to_reached``."""
    found = message.reached
    result = from_result(message) if message.HasField("rollout") else None
    fault = Fault(found.store_code, found.store_message) if found.store_code else None
    return Reached(namespace, name, tuple(found.kills), result, fault, found.serves, found.unkept, found.silent)


def status_code(error: DropoutError) -> grpc.StatusCode:
    """The gRPC status of an error: by its code if that has one of its own, else by its kind."""
    return _CODES_OF_ITS_OWN.get(error.code) or _STATUS_CODES[type(error)]


def to_trailer(error: DropoutError) -> tuple[tuple[str, bytes], ...]:
    """The trailers that carry an error's faults."""
    body = orjson.dumps([fault.as_dict() for fault in error.faults])
    return ((FAULTS_TRAILER, body),) if len(body) <= MAX_FAULTS_BYTES else ()


def _unreachable(details: str) -> Unreachable:
    """Nobody listens: where and why, of what gRPC says about that."""
    said = _NOBODY.search(details)
    what = f"at {said['address']}: {said['why']}" if said is not None else f"there: {details}"
    message = f"no controller answers {what}; start one there, or name the store itself by --store"
    return Unreachable.of("control_unreachable", message, field="--control")


def to_error(code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, Any]]) -> DropoutError:
    """The error that a call ended with.

    One without faults did not come from the service: nobody listens (``control_unreachable``), nobody answered in
    time (``control_timeout``), the listener does not know who calls (``unauthorized``), or it is something else that
    speaks gRPC (``control_failed``).
    """
    for name, value in trailers:
        if name == FAULTS_TRAILER and code in _ERRORS:
            return _ERRORS[code]([Fault(**fault) for fault in orjson.loads(value)])
    if code == grpc.StatusCode.UNAVAILABLE:
        return _unreachable(details)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreachable.of("control_timeout", "the controller did not answer in time", field="--control")
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return Refused.of("unauthorized", f"the controller does not know who calls: {details}", field="--control")
    return Unreachable.of("control_failed", f"the controller answered {code.name}: {details}", field="--control")
