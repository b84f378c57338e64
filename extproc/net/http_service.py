"""HTTP behind a ``Listener``: an application of a few pages, for who is known and calls it by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from extproc.net.callers import AUTHORIZATION, Headers, Identify, Origin, callers
from extproc.net.guarded import GuardedConnections
from extproc.net.host_names import FLAG, HOST, HostNames
from extproc.net.http_protocol import AsgiApplication, HttpLimits, Refusal
from extproc.net.listener import Listener
from extproc.net.listening import Listening

_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="dropout"'),)
UNAUTHORIZED: Final = Refusal(
    401, "unauthorized", "show a token that is known: 'Authorization: Bearer TOKEN'", _CHALLENGE
)


class HttpService:
    """Serves ``app`` as ``listening`` says. ``probes`` are paths that anybody may ask for. Belongs to one event loop.

    Raises:
        InvalidInput: ``tls_invalid``, ``address_invalid``, or what is wrong with the file of tokens.
    """

    def __init__(
        self, listening: Listening, app: AsgiApplication, limits: HttpLimits, probes: Iterable[bytes] = ()
    ) -> None:
        self._encrypted = listening.tls is not None
        self._guard = HttpGuard(HostNames(listening.endpoint, listening.names), callers(listening), probes)
        self._connections = GuardedConnections(app, limits, self._guard, lambda _code: None)
        self.listener = Listener(listening, self._connections.room, self._connections.enter, "http/1.1")

    @property
    def url(self) -> str:
        """Where its pages are: of what, and at which address; that of a Unix socket is its own."""
        target = self.listener.endpoint.target
        if target.startswith("unix:"):
            return target
        return f"http{'s' if self._encrypted else ''}://{target}"

    async def start(self) -> None:
        """Listen. Raises as ``Listener.start``."""
        await self.listener.start()
        self._guard.names.listen_at(self.listener.endpoint)

    async def stop(self, grace: float) -> None:
        """Take no more requests, and give those under way ``grace`` seconds."""
        self._connections.draining = True
        await self.listener.end(grace)


class HttpGuard:
    """A ``Guard``: first the name by which it is called, then who calls, but for probes."""

    headers = frozenset({HOST, AUTHORIZATION})

    def __init__(self, names: HostNames, identify: Identify, probes: Iterable[bytes]) -> None:
        self.names = names
        self.probes = frozenset(probes)
        self._identify = identify

    def refusal(self, origin: Origin, path: bytes, headers: Headers) -> Refusal | None:
        """See ``Guard``."""
        called = [value.decode("latin-1") for name, value in headers if name == HOST]
        if len(called) > 1 or not all(self.names.allow(name, origin.address) for name in called):
            name = called[0][:100]
            message = f"this server is not called {name!r}: {FLAG} NAME lets it be"
            return Refusal(421, "host_unknown", message)
        if path not in self.probes and self._identify(origin, headers) is None:
            return UNAUTHORIZED
        return None
