"""What an OPA, or a service that OPAs speak to, is shown and believed by: a bearer token and certificates, in files."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

from extproc.errors import InvalidInput
from extproc.urls import AdapterUrl, read_named_file, read_token

PARAMETERS: Final = ("token-file", "ca")

_SECURE: Final = "opa+https"


class Access(NamedTuple):
    """What is in the files: who asks, and whom it believes. ``tls`` follows from ``ca``."""

    token: str | None
    ca: str | None
    tls: ssl.SSLContext | None


def read_access(address: AdapterUrl, flag: str, before: Access | None = None) -> Access:
    """What the files hold that ``address`` names; ``before`` itself, when they hold what they held then.

    Raises:
        InvalidInput: ``file_unreadable`` for a file that cannot be read or is not what it should be.
    """
    token, ca = read_token(address, flag), read_named_file(address, "ca", flag)
    if before is not None and before[:2] == (token, ca):
        return before
    if address.scheme != _SECURE:
        return Access(token, ca, None)
    try:
        tls = ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError):
        message = "the ca holds no certificates"
        raise InvalidInput.of("file_unreadable", message, file=address.parameters["ca"], field=flag) from None
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    return Access(token, ca, tls)


def check_ca(address: AdapterUrl, flag: str) -> None:
    """Raises ``InvalidInput``: ``url_invalid`` for certificates that nobody would look at."""
    if "ca" in address.parameters and address.scheme != _SECURE:
        raise InvalidInput.of("url_invalid", f"{flag}: ca is for {_SECURE}", field=flag)
