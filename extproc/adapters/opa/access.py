"""Where an OPA, or a service that OPAs speak to, listens: at a host and a port, or on a socket of Unix."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

from aiohttp import BaseConnector, TCPConnector, UnixConnector

from extproc.adapters.access import check_tls
from extproc.errors import InvalidInput
from extproc.urls import AdapterUrl

OPA_PORT: Final = 8181

_SOCKET: Final = "opa+unix"


class Place(NamedTuple):
    """Where an OPA listens: ``host`` as it stands before a port, and a port, or the path of a ``socket``."""

    host: str
    port: int
    socket: str = ""

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"

    def connector(self, tls: ssl.SSLContext | None, most: int) -> BaseConnector:
        """Connections to it, at most ``most`` at once; 0 is no limit. Made on a running event loop."""
        if self.socket:
            return UnixConnector(self.socket, limit=most)
        return TCPConnector(ssl=tls or True, limit=most)


def place_of(address: AdapterUrl, flag: str) -> Place:
    """Where the OPA at ``address`` is.

    Raises:
        InvalidInput: ``url_invalid`` for a URL that says nothing of the kind, or of certificates that nobody would see.
    """
    check_tls(address, flag)
    if address.scheme == _SOCKET and not address.host and address.path.strip("/") and not address.user:
        return Place("localhost", OPA_PORT, address.path)
    if address.scheme == _SOCKET or not address.host or address.path.strip("/") or address.user:
        message = f"{flag}: an OPA is opa+http://HOST:PORT or opa+unix:///PATH and nothing behind it"
        raise InvalidInput.of("url_invalid", message, field=flag)
    return Place(address.bracketed_host, address.port or OPA_PORT)
