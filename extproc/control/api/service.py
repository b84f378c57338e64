"""The service ``dropout.v1.Control``: a ``DirectControl`` behind gRPC, in the name of whoever is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from extproc._gen.dropout.v1 import control_pb2 as pb
from extproc.assignment import BUCKETS
from extproc.control.access import WATCH_SECONDS, DirectControl
from extproc.control.actions import (
    Abort,
    Adopt,
    Change,
    Pause,
    Promote,
    Resume,
    Retry,
    SetWeight,
    Undo,
)
from extproc.control.api.codec import (
    status_code,
    to_entry,
    to_reached,
    to_result,
    to_rollout,
    to_trailer,
    to_unreadable,
)
from extproc.errors import DropoutError, InvalidInput, Refused

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Control"].full_name

CALL_SECONDS: Final = 15.0
"""What a call may take in all: each waits for those before it, and each of those for the store's lock."""

DEFAULT_HISTORY: Final = 100
MAX_HISTORY: Final = 1000

MAX_WATCHES: Final = 64
"""Watches at a time; each looks at the store several times a second."""

Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[Any, DirectControl], Message]
_T = TypeVar("_T")


class ControlService:
    """Answers calls. ``control_of`` gives the control in the name of a call's peer, as gRPC calls it.

    ``control_of`` raises ``Refused`` for a peer that is not known. Controls are used on one thread of their own.
    """

    def __init__(self, control_of: Callable[[str], DirectControl]) -> None:
        self._control_of = control_of
        self._thread = ThreadPoolExecutor(1, "control-api")
        self._watches = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio.server`` is given in ``add_generic_rpc_handlers``."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(request, answer))
            for name, (request, answer) in _ANSWERS.items()
        }
        methods["Watch"] = grpc.unary_stream_rpc_method_handler(self._watch)
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _unary(self, request: type[Message], answer: Answer) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def call(data: bytes, context: Context) -> bytes:
            try:
                asked, control = _parsed(request, data), self._control_of(context.peer())
                async with asyncio.timeout(CALL_SECONDS):
                    return (await self._on_thread(lambda: answer(asked, control))).SerializeToString()
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the store keeps others waiting")
            except DropoutError as error:
                await context.abort(status_code(error), str(error), to_trailer(error))
            raise AssertionError("unreachable: an abort raises")

        return call

    async def _watch(self, data: bytes, context: Context) -> None:
        if self._watches >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {MAX_WATCHES} watches already")
        self._watches += 1
        try:
            await self._follow(data, context)
        finally:
            self._watches -= 1

    async def _follow(self, data: bytes, context: Context) -> None:
        try:
            name, control = _parsed(pb.RolloutName, data), self._control_of(context.peer())
            row = await self._on_thread(lambda: control.get(*_name(name)))
            await context.write(to_rollout(row).SerializeToString())
            while not row.deleted:
                await asyncio.sleep(WATCH_SECONDS)
                after = await self._on_thread(partial(control.changed, row))
                if after is not None:
                    row = after
                    await context.write(to_rollout(row).SerializeToString())
        except DropoutError as error:
            await context.abort(status_code(error), str(error), to_trailer(error))

    async def _on_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _parsed(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInput.of("message_malformed", f"this is no {kind.DESCRIPTOR.full_name}") from None


def _name(request: Any) -> tuple[str, str]:
    return request.namespace or "default", request.name


def _list(_request: pb.ListRequest, control: DirectControl) -> Message:
    found = control.rollouts()
    return pb.ListResponse(
        rollouts=[to_rollout(row, document=False) for row in found.rollouts],
        unreadable=[to_unreadable(row) for row in found.unreadable],
    )


def _get(request: pb.RolloutName, control: DirectControl) -> Message:
    return to_rollout(control.get(*_name(request)))


def _history(request: pb.HistoryRequest, control: DirectControl) -> Message:
    limit = min(request.limit or DEFAULT_HISTORY, MAX_HISTORY)
    return pb.HistoryResponse(entries=[to_entry(entry) for entry in control.history(*_name(request), limit)])


def _set_weight(request: pb.SetWeightRequest) -> Change:
    if request.weight > BUCKETS:
        raise InvalidInput.of("weight_invalid", f"a weight has at most {BUCKETS} hundredths", field="weight")
    return SetWeight(*_name(request), request.weight)


def _promote(request: pb.PromoteRequest) -> Change:
    return Promote(*_name(request), request.full, tuple(request.without))


def _acting(change: Callable[[Any], Change]) -> Answer:
    return lambda request, control: to_result(control.act(change(request)))


def _named(kind: Callable[[str, str], Change]) -> Answer:
    return _acting(lambda request: kind(*_name(request)))


_ANSWERS: Final[Mapping[str, tuple[type[Message], Answer]]] = {
    "List": (pb.ListRequest, _list),
    "Get": (pb.RolloutName, _get),
    "History": (pb.HistoryRequest, _history),
    "Adopt": (pb.RolloutName, _named(Adopt)),
    "SetWeight": (pb.SetWeightRequest, _acting(_set_weight)),
    "Promote": (pb.PromoteRequest, _acting(_promote)),
    "Undo": (pb.RolloutName, _named(Undo)),
    "Pause": (pb.RolloutName, _named(Pause)),
    "Resume": (pb.RolloutName, _named(Resume)),
    "Abort": (pb.RolloutName, _named(Abort)),
    "Retry": (pb.RolloutName, _named(Retry)),
    "Kill": (pb.RolloutName, lambda request, control: to_reached(control.kill(*_name(request)))),
    "Restore": (pb.RolloutName, lambda request, control: to_reached(control.restore(*_name(request)))),
}


def unknown_peer() -> Refused:
    """A call that did not come through the socket where callers are asked who they are."""
    return Refused.of("peer_unknown", "it is not known who makes this call")
