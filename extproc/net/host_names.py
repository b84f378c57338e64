"""The names by which a listener may be called: a page of somebody else's whose name leads here does not read ours.

A browser that is told that ``evil.example`` is 127.0.0.1 sends that name as ``Host`` (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from extproc.errors import InvalidInput
from extproc.net.endpoints import TcpEndpoint, UnixEndpoint, is_loopback

HOST: Final = b"host"
FLAG: Final = "--allowed-host"


class HostNames:
    """Loopback names, the address that is listened on, and ``more``; with the port that is listened on, or none.

    Of ``more``, each ``NAME`` goes with any port, and ``NAME:PORT`` with that one. Over a Unix socket there is
    no port.

    Raises:
        InvalidInput: ``address_invalid`` for what is no name.
    """

    def __init__(self, endpoint: UnixEndpoint | TcpEndpoint, more: Iterable[str] = ()) -> None:
        self._more = frozenset(_checked(name) for name in more)
        self._name = _plain(endpoint.host) if isinstance(endpoint, TcpEndpoint) else ""
        self.listen_at(endpoint)

    def listen_at(self, endpoint: UnixEndpoint | TcpEndpoint) -> None:
        """Any free port was asked for: this one it is."""
        self._port = endpoint.port if isinstance(endpoint, TcpEndpoint) else None

    def allow(self, given: str, address: str) -> bool:
        """Whether a request may call this listener ``given``, on a connection that came to ``address``."""
        split = _split(given)
        if split is None:
            return False
        name, port = split
        if {(name, port), (name, None)} & self._more:
            return True
        return port in (None, self._port) and (is_loopback(name) or name in (self._name, address))


def _checked(text: str) -> tuple[str, int | None]:
    split = _split(text)
    if split is None:
        raise InvalidInput.of("address_invalid", f"{text!r} is not NAME or NAME:PORT", field=FLAG)
    return split


def _split(text: str) -> tuple[str, int | None] | None:
    """The name and the port in a ``Host`` header; None for what is none."""
    name, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        name = text
    elif not (port.isascii() and port.isdecimal() and len(port) < 6):
        return None
    if (name[:1] == "[") != (name[-1:] == "]") or (":" in name and name[:1] != "["):
        return None
    name = _plain(name.removeprefix("[").removesuffix("]"))
    return (name, int(port) if colon else None) if name else None


def _plain(name: str) -> str:
    """A name or an address in the one way in which it is compared."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().removesuffix(".")
