"""Where and how a service listens, as the command line says it, and whether that is safe."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from extproc.errors import InvalidInput
from extproc.net.endpoints import TcpEndpoint, UnixEndpoint, parse_host_port, see_no_path, single_endpoint
from extproc.net.tls import TlsFiles

_HTTPS: Final = "https://"


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how a service listens.

    ``flag`` names the address in messages. ``tokens`` is a file of tokens, ``names`` more names by which it may be
    called. ``open_to_all``: whoever reaches it may speak to it.
    """

    endpoint: UnixEndpoint | TcpEndpoint
    flag: str
    tls: TlsFiles | None = None
    tokens: Path | None = None
    names: tuple[str, ...] = ()
    open_to_all: bool = False


class Asks(Enum):
    """Of whom a service must know who they are, where no file of the system says it: on TCP."""

    EVERYBODY = "everybody"
    UNLESS_INSECURE = "unless insecure"
    OF_OTHER_MACHINES = "of other machines"


class Service(NamedTuple):
    """A service: the flag with its address, the one with its tokens if there is one, and of whom it asks who they are.

    ``pages``: it speaks HTTP, and is encrypted where its address says https://; another one with any certificates.
    """

    flag: str
    tokens_flag: str | None
    asks: Asks
    pages: bool = False


def listening(
    service: Service,
    address: str,
    tls: TlsFiles | None,
    tokens: Path | None,
    *,
    insecure: bool,
    names: tuple[str, ...] = (),
) -> Listening:
    """How ``service`` listens at ``address``: ``unix:PATH``, ``HOST:PORT``, or ``https://HOST:PORT`` for pages.

    ``tls`` are the certificates that there are, ``insecure`` is the user's word that something else protects it.

    Raises:
        InvalidInput: ``address_invalid``, ``socket_path_too_long``; ``tls_incomplete``: https:// without certificates;
            ``callers_unknown``, ``insecure_listen`` or ``insecure_admin`` where that would not be safe.
    """
    flag = service.flag
    if address.startswith("unix:"):
        return Listening(single_endpoint(address, flag), flag, None, tokens, names)
    see_no_path(address, flag)
    https = service.pages and address.startswith(_HTTPS)
    endpoint = TcpEndpoint(*parse_host_port(address.removeprefix(_HTTPS) if https else address, flag))
    if https and tls is None:
        raise InvalidInput.of("tls_incomplete", f"{address} needs --tls-cert and --tls-key", field=flag)
    used = tls if https or not service.pages else None
    known = tokens is not None or (used is not None and used.client_ca is not None)
    if not known:
        _check_open(service, endpoint, used, insecure=insecure)
    elif used is None and not endpoint.loopback and not insecure:
        message = f"{endpoint.target} can be reached from other machines, and tokens would come to it in plain text: "
        message += f"{_encrypted(service, endpoint)}, or say --insecure if something else protects it"
        raise InvalidInput.of("insecure_listen", message, field=flag)
    return Listening(endpoint, flag, used, tokens, names, open_to_all=not known)


def _check_open(service: Service, endpoint: TcpEndpoint, tls: TlsFiles | None, *, insecure: bool) -> None:
    """See whether a service may listen there that asks nobody who they are."""
    if service.asks is Asks.EVERYBODY:
        message = f"it has to be known who calls {endpoint.target}: give {_known(service, tls)}"
        raise InvalidInput.of("callers_unknown", message, field=service.flag)
    if insecure or (service.asks is Asks.OF_OTHER_MACHINES and endpoint.loopback):
        return
    who = "anybody on this machine" if endpoint.loopback else "other machines"
    message = f"{endpoint.target} can be reached by {who}, and asks nobody who they are: give {_known(service, tls)}, "
    message += "or say --insecure if something else protects it"
    raise InvalidInput.of("insecure_admin" if service.pages else "insecure_listen", message, field=service.flag)


def _known(service: Service, tls: TlsFiles | None) -> str:
    """What would say who calls, of what was not given."""
    needed = "--tls-client-ca" if tls is not None else "--tls-cert, --tls-key and --tls-client-ca"
    by_certificate = f"https:// with {needed}" if service.pages and tls is None else needed
    return f"{service.tokens_flag} FILE, or {by_certificate}"


def _encrypted(service: Service, endpoint: TcpEndpoint) -> str:
    return f"make it https://{endpoint.target}" if service.pages else "give --tls-cert and --tls-key"


CONTROL: Final = Service("--listen", "--control-tokens", Asks.EVERYBODY)
"""The control API, as ``dropout controller`` has it."""

BESIDE_SERVE: Final = CONTROL._replace(flag="--control-listen")
"""The same of a controller that ``serve`` starts, by the flag that somebody wrote."""

FEEDBACK: Final = Service("--feedback-listen", None, Asks.EVERYBODY, pages=True)
ADMIN: Final = Service("--admin", "--admin-tokens", Asks.OF_OTHER_MACHINES, pages=True)
ACCESS_LOG: Final = Service("--access-log-listen", "--access-log-tokens", Asks.UNLESS_INSECURE)
