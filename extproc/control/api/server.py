"""The gRPC server of a controller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import grpc

from extproc.control.access import DirectControl
from extproc.control.actions import Lane
from extproc.control.api.service import ControlService
from extproc.net.actor import Actor
from extproc.net.grpc_service import GrpcService, actor
from extproc.net.listener import Listener
from extproc.net.listening import Listening

MESSAGE_BYTES: Final = 64 * 1024
"""What a request may have; answers may be longer."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 32),
    ("grpc.so_reuseport", 0),
)


class ControlServer:
    """Serves control, and what else is given as ``handlers``, as ``listening`` says.

    ``control_in_the_name_of`` gives the control of somebody for a lane, on a store of that lane's; it is called on the
    event loop, and used on the lane's thread.

    Raises:
        InvalidInput: as ``GrpcService``.
    """

    def __init__(
        self,
        listening: Listening,
        control_in_the_name_of: Callable[[Actor, Lane], DirectControl],
        handlers: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        self._service = ControlService(lambda lane: control_in_the_name_of(actor(), lane))
        self._server = GrpcService(listening, (self._service.handler(), *handlers), _OPTIONS)

    @property
    def listener(self) -> Listener:
        """Where it listens."""
        return self._server.listener

    async def start(self) -> None:
        """Listen. Raises as ``GrpcService.start``."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way ``grace`` seconds."""
        await self._server.stop(grace)
        self._service.close()
