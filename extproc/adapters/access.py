"""What a server over HTTP is shown and believed by: a bearer token and certificates, in files that a URL names."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

from extproc.errors import InvalidInput
from extproc.urls import AdapterUrl, read_named_file, read_token

PARAMETERS: Final = ("token-file", "ca", "cert", "key")

_OF_TLS: Final = ("ca", "cert", "key")


class Access(NamedTuple):
    """What is in the files: who asks, and whom it believes. ``tls`` follows from ``files``: ca, cert and key."""

    token: str | None
    files: tuple[str | None, ...]
    tls: ssl.SSLContext | None


def read_access(address: AdapterUrl, flag: str, before: Access | None = None) -> Access:
    """What the files hold that ``address`` names; ``before`` itself, when they hold what they held then.

    Raises:
        InvalidInput: ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """
    token, ca = read_token(address, flag), read_named_file(address, "ca", flag)
    files = ca, read_named_file(address, "cert", flag), read_named_file(address, "key", flag)
    if before is not None and before[:2] == (token, files):
        return before
    return Access(token, files, _tls(address, flag, ca) if _is_secure(address) else None)


def check_tls(address: AdapterUrl, flag: str) -> None:
    """Raises ``InvalidInput``: ``url_invalid`` for certificates that nobody would look at, or for one without a key."""
    named = [name for name in _OF_TLS if name in address.parameters]
    if named and not _is_secure(address):
        raise InvalidInput.of("url_invalid", f"{flag}: {named[0]} is for https", field=flag)
    if ("cert" in named) != ("key" in named):
        raise InvalidInput.of("url_invalid", f"{flag}: cert and key go together", field=flag)


def _is_secure(address: AdapterUrl) -> bool:
    """Whether it is ``https``, or a scheme of ours that stands on it, such as ``opa+https``."""
    return address.scheme.rpartition("+")[2] == "https"


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
