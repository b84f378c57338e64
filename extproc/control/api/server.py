"""The gRPC server of a controller, on one Unix socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

import grpc
import grpc.aio

from extproc.control.access import DirectControl, user_name
from extproc.control.api.peers import PeerRelay, hide
from extproc.control.api.service import ControlService, unknown_peer
from extproc.errors import InvalidInput
from extproc.serve.endpoints import UnixEndpoint, prepare_folder, private_sockets, probe_unix

MESSAGE_BYTES: Final = 64 * 1024
"""What a request may have; answers may be longer."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 32),
    ("grpc.so_reuseport", 0),
)


class ControlServer:
    """Serves control, and what else is given as ``handlers``, at ``endpoint``.

    ``control_in_the_name_of`` gives the control of a user; it is called on the event loop, and used on a thread.
    """

    def __init__(
        self,
        endpoint: UnixEndpoint,
        control_in_the_name_of: Callable[[str], DirectControl],
        handlers: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        self._endpoint = endpoint
        self._control_in_the_name_of = control_in_the_name_of
        self._service = ControlService(self._control_of)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._service.handler(), *handlers))
        self._relay: PeerRelay | None = None
        self._hidden = -1
        self.hindrance = ""
        """Why clients do not find it at its endpoint at the moment; empty while they do."""

    async def start(self) -> None:
        """Listen.

        Raises:
            InvalidInput: ``address_in_use``, ``socket_path_taken``, ``socket_folder_open`` and its like.
        """
        prepare_folder(self._endpoint.path.parent)
        probe_unix(self._endpoint, frozenset())
        try:
            with private_sockets():
                self._server.add_insecure_port(f"unix:{self._endpoint.temporary}")
        except RuntimeError as error:
            raise InvalidInput.of("address_in_use", f"{self._endpoint.target} cannot be bound") from error
        self._hidden = hide(self._endpoint.temporary)
        await self._server.start()
        self._relay = PeerRelay(self._endpoint, self._hidden)
        await self._relay.start()

    async def look(self) -> None:
        """See whether clients find it at its endpoint, and listen there anew if somebody took the socket away."""
        if self._relay is not None:
            self.hindrance = await self._relay.look()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way ``grace`` seconds."""
        if self._relay is not None:
            self._relay.close()
        await self._server.stop(grace)
        if self._relay is not None:
            await self._relay.end()
        self._service.close()
        if self._hidden >= 0:
            os.close(self._hidden)

    def _control_of(self, peer: str) -> DirectControl:
        known = self._relay.peer(peer) if self._relay is not None else None
        if known is None:
            raise unknown_peer()
        return self._control_in_the_name_of(user_name(known.uid))
