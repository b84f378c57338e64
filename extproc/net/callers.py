"""Who calls: by the system's word on a Unix socket, by a client's certificate, or by a token.

Every listener asks the same question, ``Identify``, of each request. What else may once say who somebody is, has its
place behind it and nowhere else.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from extproc.net.actor import CERTIFIED, MAX_GROUPS, Actor, may_be_name, misleads
from extproc.net.credentials import Peer, peer_of
from extproc.net.listening import Listening
from extproc.net.tokens import Tokens

AUTHORIZATION: Final = b"authorization"

_ALTERNATIVES: Final = ("URI", "email", "DNS")


class Origin(NamedTuple):
    """What a connection says of itself: its process (of a Unix socket), its certificate if that was asked for.

    ``certificate`` is as ``ssl.SSLSocket.getpeercert`` gives it. ``address`` is ours that it came to.
    """

    peer: Peer | None = None
    certificate: Mapping[str, Any] | None = None
    address: str = ""


Headers = tuple[tuple[bytes, bytes], ...]
"""Those of a request that say who makes it, names in small letters."""

Identify = Callable[[Origin, Headers], Actor | None]
"""Who makes a request with these headers on this connection; None if that is not known, or not true."""

ANYBODY: Final = Actor("")
"""Whoever reaches a listener that asks nobody."""


class Callers:
    """An ``Identify``. ``open_to_all``: who shows nothing is ``ANYBODY``.

    A token that is shown decides, so that whoever has several ways is known by the one they chose; then a certificate;
    then the user at the other end of a socket.
    """

    def __init__(self, tokens: Tokens | None = None, *, open_to_all: bool = False) -> None:
        self._tokens = tokens
        self._open_to_all = open_to_all

    def __call__(self, origin: Origin, headers: Headers) -> Actor | None:
        """See ``Identify``."""
        shown = [value for name, value in headers if name == AUTHORIZATION]
        if shown and self._tokens is not None:
            return self._tokens.owner(_bearer(shown))
        if origin.certificate:
            return of_certificate(origin.certificate)
        if origin.peer is not None:
            return of_user(origin.peer.uid)
        return ANYBODY if self._open_to_all else None


def callers(listening: Listening) -> Callers:
    """Who is asked there who they are, and how.

    Raises:
        InvalidInput, Unreachable: what is wrong with the file of tokens.
    """
    tokens = Tokens(listening.tokens, f"the file of tokens for {listening.flag}") if listening.tokens else None
    return Callers(tokens, open_to_all=listening.open_to_all)


def origin_of(connection: socket.socket) -> Origin:
    """What is known of a connection when it is accepted."""
    if connection.family == socket.AF_UNIX:
        return Origin(peer_of(connection))
    address = connection.getsockname()[0]
    return Origin(address=address.removeprefix("::ffff:") if "." in address else address)


def of_user(uid: int) -> Actor:
    """A user as the system knows them, and the names of their groups; one that it does not know is their number."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return Actor(str(uid))
    if misleads(user.pw_name):
        return Actor(str(uid))
    names = []
    for group in os.getgrouplist(user.pw_name, user.pw_gid)[:MAX_GROUPS]:
        with suppress(KeyError):
            names.append(grp.getgrgid(group).gr_name)
    return Actor(user.pw_name, tuple(names))


def of_certificate(certificate: Mapping[str, Any]) -> Actor | None:
    """Whom a client's certificate names: common name and organizations, as Kubernetes reads them.

    Without a common name it is the first URI (SPIFFE), e-mail or DNS name among its alternative names. All begin with
    ``CERTIFIED``. None for one that names nobody.
    """
    subject = [(kind, value) for parts in certificate.get("subject", ()) for kind, value in parts]
    names = [value for kind, value in subject if kind == "commonName"]
    for wanted in _ALTERNATIVES:
        names += [value for kind, value in certificate.get("subjectAltName", ()) if kind == wanted]
    groups = [CERTIFIED + value for kind, value in subject if kind == "organizationName" and may_be_name(value)]
    if not names or not may_be_name(names[0]):
        return None
    return Actor(CERTIFIED + names[0], tuple(groups[:MAX_GROUPS]))


def _bearer(shown: Sequence[bytes]) -> bytes:
    """The one token that is shown; nothing if there are several, or something else."""
    if len(shown) != 1:
        return b""
    scheme, _, token = shown[0].partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""
