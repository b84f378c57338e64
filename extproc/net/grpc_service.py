"""gRPC behind a ``Listener``: one server, of whose calls it is known who makes each."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
import grpc.aio

from extproc.errors import DropoutError, InvalidInput
from extproc.net.actor import Actor
from extproc.net.callers import AUTHORIZATION, Identify, callers
from extproc.net.endpoints import private_sockets
from extproc.net.listener import Listener
from extproc.net.listening import Listening
from extproc.net.relay import Relay, hide

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]

_ACTOR: ContextVar[Actor] = ContextVar("actor")
UNKNOWN: Final = "show a token that is known (authorization: Bearer TOKEN), or a client's certificate"
_KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def actor() -> Actor:
    """Who makes the call that is being answered."""
    return _ACTOR.get()


class GrpcService:
    """Serves ``handlers`` as ``listening`` says, to who is known. Belongs to one event loop.

    Raises:
        InvalidInput: ``tls_invalid``, or what is wrong with the file of tokens.
    """

    def __init__(
        self,
        listening: Listening,
        handlers: Sequence[grpc.GenericRpcHandler],
        options: Sequence[tuple[str, int]],
    ) -> None:
        self._flag = listening.flag
        self._relay = Relay()
        self.listener = Listener(listening, self._relay.room, self._relay.enter, "h2")
        self._server = grpc.aio.server(options=options, interceptors=[_Doorkeeper(self._relay, callers(listening))])
        self._server.add_generic_rpc_handlers(tuple(handlers))

    async def start(self, *, first: bool = True) -> None:
        """Listen; see ``Listener.start``.

        Raises:
            InvalidInput: as ``Listener.start``; ``socket_folder_unusable`` without a place for gRPC's own socket.
        """
        with TemporaryDirectory(prefix="dropout-") as folder:
            path = Path(folder) / "grpc"
            try:
                with private_sockets():
                    self._server.add_insecure_port(f"unix:{path}")
            except RuntimeError as error:
                raise InvalidInput.of(
                    "socket_folder_unusable", f"{folder} takes no socket: set TMPDIR to a short path", field=self._flag
                ) from error
            self._relay.hidden = hide(path)
        await self._server.start()
        try:
            await self.listener.start(first=first)
        except DropoutError:
            await self.stop(0)  # a server that is left running ends in a traceback of gRPC's
            raise

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way ``grace`` seconds."""
        self.listener.close()
        await self._server.stop(grace)
        await self.listener.end(0)
        if self._relay.hidden >= 0:
            os.close(self._relay.hidden)
            self._relay.hidden = -1


class _Doorkeeper(grpc.aio.ServerInterceptor):
    """Asks of each call who makes it, before whoever answers it sees anything of it."""

    def __init__(self, relay: Relay, identify: Identify) -> None:
        self._relay = relay
        self._identify = identify

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """gRPC's call: the handler of a method, None for one that there is not."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        (kind,) = [kind for kind in _KINDS if getattr(handler, kind) is not None]
        return handler._replace(**{kind: self._asking(getattr(handler, kind))})

    def _asking(self, behaviour: Behaviour) -> Behaviour:
        async def asking(request: Any, context: Context) -> Any:
            connection = self._relay.found(context.peer())
            who = self._identify(connection.origin, _headers(context)) if connection is not None else None
            if connection is None or who is None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, UNKNOWN)
                raise AssertionError("unreachable: an abort raises")
            if not connection.introduce(who.name):
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "there are too many connections")
            connection.begin()
            context.add_done_callback(connection.done)  # type: ignore[arg-type]  # its type is a protocol of one more name
            _ACTOR.set(who)
            return await behaviour(request, context)

        return asking


def _headers(context: Context) -> tuple[tuple[bytes, bytes], ...]:
    """What a call says of who makes it."""
    given = context.invocation_metadata() or ()
    return tuple(
        (AUTHORIZATION, value.encode() if isinstance(value, str) else value)
        for name, value in given
        if name.encode() == AUTHORIZATION
    )
