"""What an OPA, or a service that OPAs speak to, is shown and believed by: a bearer token and certificates, in files.

And where it is: a host and a port, or a socket of Unix.
"""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

from aiohttp import BaseConnector, TCPConnector, UnixConnector

from extproc.errors import InvalidInput
from extproc.urls import AdapterUrl, read_named_file, read_token

PARAMETERS: Final = ("token-file", "ca", "cert", "key")
OPA_PORT: Final = 8181

_SECURE: Final = ("opa+https", "https")
_SOCKET: Final = "opa+unix"
_OF_TLS: Final = ("ca", "cert", "key")


class Access(NamedTuple):
    """What is in the files: who asks, and whom it believes. ``tls`` follows from ``files``: ca, cert and key."""

    token: str | None
    files: tuple[str | None, ...]
    tls: ssl.SSLContext | None


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


def read_access(address: AdapterUrl, flag: str, before: Access | None = None) -> Access:
    """What the files hold that ``address`` names; ``before`` itself, when they hold what they held then.

    Raises:
        InvalidInput: ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """
    token, ca = read_token(address, flag), read_named_file(address, "ca", flag)
    files = ca, read_named_file(address, "cert", flag), read_named_file(address, "key", flag)
    if before is not None and before[:2] == (token, files):
        return before
    return Access(token, files, _tls(address, flag, ca) if address.scheme in _SECURE else None)


def _tls(address: AdapterUrl, flag: str, ca: str | None) -> ssl.SSLContext:
    """Whom it believes, and what it shows of itself."""
    try:
        tls = ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError):
        message = "the ca holds no certificates"
        raise InvalidInput.of("file_unreadable", message, file=address.parameters["ca"], field=flag) from None
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    cert, key = address.parameters.get("cert"), address.parameters.get("key")
    if cert is not None:
        try:
            tls.load_cert_chain(cert, key, password="")  # else one that has a password is asked for it
        except (OSError, ValueError):  # ssl.SSLError is one
            message = "the cert and the key are not a certificate and its private key, without a password, in PEM"
            raise InvalidInput.of("file_unreadable", message, file=cert, field=flag) from None
    return tls


def check_tls(address: AdapterUrl, flag: str) -> None:
    """Raises ``InvalidInput``: ``url_invalid`` for certificates that nobody would look at, or for one without a key."""
    named = [name for name in _OF_TLS if name in address.parameters]
    if named and address.scheme not in _SECURE:
        raise InvalidInput.of("url_invalid", f"{flag}: {named[0]} is for {' or '.join(_SECURE)}", field=flag)
    if ("cert" in named) != ("key" in named):
        raise InvalidInput.of("url_invalid", f"{flag}: cert and key go together", field=flag)
