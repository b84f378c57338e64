"""The service ``dropout.v1.Control``: ``DirectControl`` behind gRPC, in the name of whoever is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar, get_args

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from extproc._gen.dropout.v1 import control_pb2 as pb
from extproc.control.access import WATCH_SECONDS, DirectControl
from extproc.control.actions import ACTIONS, Command, Kill, Lane, Restore
from extproc.control.api.codec import (
    SERVICE,
    from_request,
    request_of,
    status_code,
    to_entry,
    to_reached,
    to_result,
    to_rollout,
    to_trailer,
    to_unreadable,
)
from extproc.errors import DropoutError, InvalidInput

CALL_SECONDS: Final = 15.0
"""What a call may take in all: each waits for those before it in its lane, and each of those for the store's lock."""

DEFAULT_HISTORY: Final = 100
MAX_HISTORY: Final = 1000

MAX_WATCHES: Final = 64
"""Watches at a time; each looks at the store several times a second."""


Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, DirectControl], Message]
_T = TypeVar("_T")


class ControlService:
    """Answers calls. ``control`` gives the control in the name of who makes the call that is being answered.

    Controls of one lane are used on one thread of their own.
    """

    def __init__(self, control: Callable[[Lane], DirectControl]) -> None:
        self._control = control
        self._threads = {lane: ThreadPoolExecutor(1, f"control-api-{lane.name.lower()}") for lane in Lane}
        self._watches = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio.server`` is given in ``add_generic_rpc_handlers``."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(*call)) for name, call in _ANSWERS.items()
        }
        methods["Watch"] = grpc.unary_stream_rpc_method_handler(self._watch)
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def close(self) -> None:
        """Let the threads end."""
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)

    def _unary(
        self, lane: Lane, request: type[Message], answer: Method
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def call(data: bytes, context: Context) -> bytes:
            try:
                asked, control = _parsed(request, data), self._control(lane)
                async with asyncio.timeout(CALL_SECONDS):
                    return (await self._on_thread(lane, lambda: answer(asked, control))).SerializeToString()
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
            name, control = _parsed(pb.RolloutName, data), self._control(Lane.LOOK)
            row = await self._on_thread(Lane.LOOK, lambda: control.get(*_name(name)))
            await context.write(to_rollout(row).SerializeToString())
            while not row.deleted:
                await asyncio.sleep(WATCH_SECONDS)
                after = await self._on_thread(Lane.LOOK, partial(control.changed, row))
                if after is not None:
                    row = after
                    await context.write(to_rollout(row).SerializeToString())
        except DropoutError as error:
            await context.abort(status_code(error), str(error), to_trailer(error))

    async def _on_thread(self, lane: Lane, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads[lane], call)


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
        rollouts=[to_rollout(row, listed=True) for row in found.rollouts],
        unreadable=[to_unreadable(row) for row in found.unreadable],
    )


def _get(request: pb.RolloutName, control: DirectControl) -> Message:
    return to_rollout(control.get(*_name(request)))


def _history(request: pb.HistoryRequest, control: DirectControl) -> Message:
    limit = min(request.limit or DEFAULT_HISTORY, MAX_HISTORY)
    return pb.HistoryResponse(entries=[to_entry(entry) for entry in control.history(*_name(request), limit)])


def _command(kind: type[Command]) -> Method:
    """What a call of the RPC that has the name of ``kind`` comes to."""

    def answer(request: Message, control: DirectControl) -> Message:
        match action := from_request(kind, request):
            case Kill():
                return to_reached(control.kill(action.namespace, action.name))
            case Restore():
                return to_reached(control.restore(action.namespace, action.name))
            case _:
                return to_result(control.act(action))

    return answer


_ANSWERS: Final[Mapping[str, tuple[Lane, type[Message], Method]]] = {
    "List": (Lane.LOOK, pb.ListRequest, _list),
    "Get": (Lane.LOOK, pb.RolloutName, _get),
    "History": (Lane.LOOK, pb.HistoryRequest, _history),
    **{kind.__name__: (ACTIONS[kind].lane, request_of(kind), _command(kind)) for kind in get_args(Command)},
}
