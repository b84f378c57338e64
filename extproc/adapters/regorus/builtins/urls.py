"""``urlquery.*`` and ``uri.*``: texts of URLs, read and written as Go's ``net/url`` does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote_to_bytes

from extproc.adapters.regorus.builtins.builtin import Builtin

_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _decode(text: str) -> str:
    if _BROKEN.search(text):
        raise ValueError("a percent sign that begins nothing")
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def _encode(text: str) -> str:
    return quote_plus(text)


def _decode_object(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in text.split("&"):
        if ";" in part:
            raise ValueError("a semicolon separates nothing")
        if part:
            key, _, value = part.partition("=")
            found.setdefault(_decode(key), []).append(_decode(value))
    return found


def _encode_object(given: Mapping[str, Any]) -> str:
    return "&".join(f"{quote_plus(key)}={quote_plus(value)}" for key in sorted(given) for value in _values(given[key]))


def _values(given: Any) -> Iterable[str]:
    values = [given] if isinstance(given, str) else sorted(given) if isinstance(given, set) else given
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a text, or several")
    return values


def _parse(text: str) -> dict[str, str]:
    """The parts that are there, as Go's ``url.Parse`` has them; raises for what it does not read."""
    rest, _, fragment = text.partition("#")
    if _CONTROL.search(rest):
        raise ValueError("a control character")
    fragment = _unescape(fragment)
    scheme, rest = _scheme(rest)
    rest, _, query = rest.partition("?")
    found = {"scheme": scheme.lower(), "raw_query": query, "fragment": fragment}
    if not rest.startswith("/"):
        if scheme:
            return {name: value for name, value in found.items() if value}  # which is opaque
        if ":" in rest.partition("/")[0]:
            raise ValueError("a colon in the first part of a path")
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        found |= _authority(authority)
    if rest:
        path = _unescape(rest)
        found |= {"path": path, "raw_path": path if _escaped(path) == rest else rest}
    return {name: value for name, value in found.items() if value}


def _scheme(text: str) -> tuple[str, str]:
    head = _SCHEME.match(text)
    if head is not None:
        return head[1], text[head.end() :]
    if text.startswith(":"):
        raise ValueError("a scheme is missing")
    return "", text


def _authority(text: str) -> dict[str, str]:
    user, _, host = text.rpartition("@")
    if user and not _USER.fullmatch(user):
        raise ValueError("a user of other characters")
    _unescape(user)
    read = _HOST.fullmatch(host)
    if read is None:
        raise ValueError("no host")
    if read["address"] is not None:
        IPv6Address(read["address"])
        name = read["address"] + (f"%{_unescape(read['zone'])}" if read["zone"] else "")
    else:
        if "%" in read["name"] and not _NOT_ASCII.fullmatch(read["name"]):
            raise ValueError("a host with what need not be written by its number")
        name = _unescape(read["name"])
    return {"hostname": name, "port": read["port"] or ""}


def _unescape(text: str) -> str:
    if _BROKEN.search(text):
        raise ValueError("a percent sign that begins nothing")
    return unquote_to_bytes(text).decode("utf-8", "replace")


def _escaped(path: str) -> str:
    """A path as Go writes it by default."""
    return quote(path, safe="$&+,/:;=@")


def _is_valid(text: str) -> bool:
    _parse(text)
    return bool(text)


_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_USER: Final = re.compile(r"[A-Za-z0-9._:~!$&'()*+,;=%@-]*")
_HOST: Final = re.compile(
    r"(?:\[(?P<address>[^\]%]*)(?:%25(?P<zone>(?:[^][\s^`{|}\\/?#@%]|[][<>\"]|%[0-9A-Fa-f]{2})+))?\]"
    r"|(?P<name>(?:[^\[\s^`{|}\\/?#@:%]|%[0-9A-Fa-f]{2})*))(?::(?P<port>[0-9]*))?"
)
_NOT_ASCII: Final = re.compile(r"(?:[^%]|%[89A-Fa-f][0-9A-Fa-f])*")

_URI_IS_VALID: Final = """is_valid(a) := count(host.uri.is_valid(a)) == 1 if {
	is_string(a)
	a != ""
}

is_valid("") := false

is_valid(a) := false if not is_string(a)"""

BUILTINS: Final = (
    Builtin("uri.is_valid", ("any",), _is_valid, _URI_IS_VALID),
    Builtin("uri.parse", ("string",), _parse),
    Builtin("urlquery.decode", ("string",), _decode),
    Builtin("urlquery.decode_object", ("string",), _decode_object),
    Builtin("urlquery.encode", ("string",), _encode),
    Builtin("urlquery.encode_object", ("object",), _encode_object),
)
