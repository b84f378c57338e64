"""The flags of commands that listen for others, and what they come to: light to import, for nothing is served yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from extproc.errors import InvalidInput
from extproc.net.callers import callers
from extproc.net.host_names import HostNames
from extproc.net.listening import Listening, Service, listening
from extproc.net.tls import TlsFiles, tls_files

TOKENS_HELP: Final = "Tokens of who may call: lines of TOKEN [NAME [GROUP ...]]; made with one if it is not there."

_OPTIONS: Final = (
    click.option(
        "--tls-cert", metavar="FILE", help="The server's certificate chain (PEM); read again when it changes."
    ),
    click.option("--tls-key", metavar="FILE", help="Its key (PEM)."),
    click.option(
        "--tls-client-ca", metavar="FILE", help="Take only clients with a certificate of this authority (PEM)."
    ),
    click.option("--insecure", is_flag=True, help="Allow what others on this machine or beyond it could misuse."),
    click.option("--admin-tokens", metavar="FILE", help=f"For --admin. {TOKENS_HELP}"),
    click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        metavar="NAME[:PORT]",
        help="One more name by which pages over HTTP may be called; may be given several times.",
    ),
)


@dataclass(frozen=True, slots=True)
class Security:
    """What the listeners of one command have in common: certificates, allowed names, and the word that it is safe."""

    tls: TlsFiles | None
    names: tuple[str, ...]
    insecure: bool
    admin_tokens: Path | None

    def listening(self, service: Service, address: str, tokens: Path | None = None) -> Listening:
        """How ``service`` listens. What is wrong with its tokens is told, and they are made, before anything is served.

        Raises:
            InvalidInput, Unreachable: as ``net.listening.listening``, ``callers``, and ``HostNames``.
        """
        found = listening(service, address, self.tls, tokens, insecure=self.insecure, names=self.names)
        HostNames(found.endpoint, found.names)
        callers(found)
        return found

    def check_use(self, *listeners: Listening | None, used: bool = False) -> None:
        """See that certificates that were given are of use to one of ``listeners``, or ``used`` by something else.

        Raises:
            InvalidInput: ``tls_needs_port``.
        """
        if self.tls is not None and not used and not any(each is not None and each.tls for each in listeners):
            message = "TLS is for HOST:PORT, and for pages at https://HOST:PORT; a Unix socket is private"
            raise InvalidInput.of("tls_needs_port", message, field="--tls-cert")


SECURITY: Final = ("tls_cert", "tls_key", "tls_client_ca", "insecure", "admin_tokens", "allowed_hosts")
"""The parameters of ``security``, which are those of ``security_options``."""


def security_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of ``security``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def security(
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    insecure: bool,
    admin_tokens: str | None,
    allowed_hosts: Sequence[str],
) -> Security:
    """What the flags say.

    Raises:
        InvalidInput: ``tls_incomplete`` or ``tls_invalid``.
    """
    tls = tls_files(tls_cert, tls_key, tls_client_ca)
    return Security(tls, tuple(allowed_hosts), insecure, tokens_file(admin_tokens))


def tokens_file(given: str | None) -> Path | None:
    """The file of a flag."""
    return Path(given).absolute() if given else None


def check_text(flags: Mapping[str, Any]) -> None:
    """Workers are told what to serve in JSON, which cannot hold the bytes of a path that are not UTF-8.

    Raises:
        InvalidInput: ``not_utf8``.
    """
    for name, value in flags.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise InvalidInput.of("not_utf8", "this is not UTF-8", field=f"--{name.replace('_', '-')}") from None
    try:
        str(Path.cwd()).encode()
    except UnicodeEncodeError:
        raise InvalidInput.of("not_utf8", "the path of the working directory is not UTF-8") from None


def needs(flag: str, value: object, listener: str, address: object) -> None:
    """See that ``flag`` is not given without the ``listener`` that it is about.

    Raises:
        InvalidInput: ``listener_missing``.
    """
    if value and not address:
        raise InvalidInput.of("listener_missing", f"it is about {listener}, which is not given", field=flag)


def as_flags(given: dict[str, Any]) -> list[str]:
    """The command line of ``given``: flags with values, or several of them, or none."""
    words: list[str] = []
    for flag, value in given.items():
        if value is True:
            words.append(flag)
        else:
            for each in value if isinstance(value, tuple) else (value,) if value else ():
                words += [flag, str(each)]
    return words
