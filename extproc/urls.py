"""Addresses of adapters: one URL for each port, as text until it is opened, and without a secret in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from extproc.errors import InvalidInput
from extproc.files import read_regular

MAX_FILE_BYTES: Final = 1 << 20

_MAX_SECRET_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class AdapterUrl:
    """``scheme://user@host:port/path?parameters``, read and checked; ``port`` is None where none is named."""

    scheme: str
    user: str
    host: str
    port: int | None
    path: str
    parameters: Mapping[str, str]

    @property
    def bracketed_host(self) -> str:
        """The host as it stands before a port: IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host


def read_url(url: str, flag: str, known: Collection[str] = ()) -> AdapterUrl:
    """The parts of ``url``, which the operator gave as ``flag``; ``known`` are the parameters that there are.

    Raises:
        InvalidInput: ``secret_in_url`` when it has a password, because it is seen wherever the command is;
            ``url_invalid`` when it is none; ``url_parameter`` for a parameter that is unknown or there twice.
            None of the messages repeats the URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # whose message repeats a part of it
        message = f"{flag} is no URL: is the host in brackets closed, and the port a number up to 65535?"
        raise InvalidInput.of("url_invalid", message, field=flag) from None
    if parts.password is not None:
        message = f"{flag} has a password in it, which every list of processes shows; name a file that holds it"
        raise InvalidInput.of("secret_in_url", message, field=flag)
    if parts.fragment:
        raise InvalidInput.of("url_invalid", f"{flag} has a fragment, which means nothing here", field=flag)
    host = parts.hostname or ""
    return AdapterUrl(
        parts.scheme, unquote(parts.username or ""), host, port, unquote(parts.path), _parameters(parts, flag, known)
    )


def last_part(url: str) -> str:
    """What a file at ``url`` is called: the last part of the path; ``index`` where it has none."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or "index"


def path_in(url: str, scheme: str) -> Path | None:
    """The path in ``scheme:PATH``, which is all that stands behind the colon; None where ``url`` is no such address."""
    found, _, path = url.partition(":")
    return Path(path) if found == scheme and Path(path).name else None


def read_named_file(url: AdapterUrl, parameter: str, flag: str, *, most: int = MAX_FILE_BYTES) -> str | None:
    """The text of the file that ``parameter`` names, without line ends behind it; None where the URL names none.

    Raises:
        InvalidInput: ``file_unreadable`` when it is not there, has more than ``most`` bytes, or is no such text.
    """
    path = url.parameters.get(parameter)
    if path is None:
        return None
    try:
        return read_regular(Path(path), most).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        message = f"the {parameter} cannot be read: {why}"
        raise InvalidInput.of("file_unreadable", message, file=path, field=flag) from None


def read_secret(url: AdapterUrl, parameter: str, flag: str) -> str | None:
    """The secret in the file that ``parameter`` names, a line; None where the URL names none.

    Raises:
        InvalidInput: ``file_unreadable`` as ``read_named_file``, and when there is something else than one line with
            more than blanks in it.
    """
    secret = read_named_file(url, parameter, flag, most=_MAX_SECRET_BYTES)
    if secret is not None and (not secret.strip() or not secret.isprintable()):
        message = f"the {parameter} holds no secret; write it into the file as one line"
        raise InvalidInput.of("file_unreadable", message, file=url.parameters[parameter], field=flag)
    return secret


def read_token(url: AdapterUrl, flag: str) -> str | None:
    """The bearer token in the file that ``token-file`` names, without blanks around it; None where the URL names none.

    Raises:
        InvalidInput: ``file_unreadable`` as ``read_secret``, and when it has letters that no header can have.
    """
    token = read_secret(url, "token-file", flag)
    if token is not None and not token.isascii():
        message = "the token-file holds no token: there are other letters than those of ASCII in it"
        raise InvalidInput.of("file_unreadable", message, file=url.parameters["token-file"], field=flag)
    return token and token.strip()


def _parameters(parts: SplitResult, flag: str, known: Collection[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there is none"
            raise InvalidInput.of("url_parameter", f"{flag} has the unknown parameter {name!r}; {there}", field=flag)
        if name in found:
            raise InvalidInput.of("url_parameter", f"{flag} has the parameter {name!r} twice", field=flag)
        found[name] = value
    return found
