"""Signatures of OPA bundles: a JSON Web Token in ``.signatures.json`` that has the hash of every other file.

Source: https://www.openpolicyagent.org/docs/management-bundles, "Signing".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from extproc.errors import InvalidInput, Unreachable
from extproc.files import read_regular, why_not
from extproc.resources.bundles import MANIFEST, SIGNATURES
from extproc.resources.marked_yaml import DATA, read_documents

_STRUCTURED: Final = frozenset({"data.json", "data.yaml", "data.yml", MANIFEST})
"""Files whose hash is that of their value, whatever spaces and order they are written with."""

_HASHES: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "MD5": lambda content: hashlib.md5(content, usedforsecurity=False),
    "SHA-1": lambda content: hashlib.sha1(content, usedforsecurity=False),
    "SHA-224": hashlib.sha224,
    "SHA-256": hashlib.sha256,
    "SHA-384": hashlib.sha384,
    "SHA-512": hashlib.sha512,
    "SHA-512-224": lambda content: hashlib.new("sha512_224", content),
    "SHA-512-256": lambda content: hashlib.new("sha512_256", content),
}
_WEAK: Final = frozenset({"MD5", "SHA-1"})

SECRET_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
    *SECRET_ALGORITHMS,
)

_MAX_KEY_BYTES: Final = 65_536
_TOKENS: Final = "extproc.adapters.rego.bundle_tokens"


@dataclass(frozen=True, slots=True)
class Key:
    """A key from a file: PEM, or else a secret. ``algorithms`` are those that it is for."""

    value: bytes
    algorithms: Sequence[str]


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Whose signatures are believed: any of the ``keys``, for the ``scope``. Without keys, nothing is signed."""

    keys: Sequence[Key] = ()
    scope: str = ""

    def check(self, contents: Mapping[str, bytes], where: str) -> None:
        """See that the files of a bundle are those that were signed.

        Raises:
            InvalidInput: ``bundle_unsigned``; ``bundle_key_missing``, it is signed, and no key is there;
                ``bundle_signature``, the signature is not one of these keys', or a file is not as it was signed.
        """
        signed = contents.get(SIGNATURES)
        if signed is None:
            if self.keys:
                message = "it has no signature, and one is asked for (--verification-key)"
                raise InvalidInput.of("bundle_unsigned", message, file=where)
            return
        if not self.keys:
            message = "it is signed, and there is no key to check that by; name one by --verification-key"
            raise InvalidInput.of("bundle_key_missing", message, file=where)
        listed = _listed(_payload(signed, self, where), where)
        there = {name: content for name, content in contents.items() if name != SIGNATURES}
        for name in sorted(listed.keys() | there.keys()):
            why = _difference(name, there.get(name), listed.get(name))
            if why is not None:
                raise _wrong(why, where)


def read_key(path: Path, flag: str) -> Key:
    """The key in a file: a public or private one as PEM, else a secret, without the line's end.

    Raises:
        InvalidInput: ``file_unreadable``.
        Unreachable: ``extras_missing``, the libraries that signatures need are not installed.
    """
    try:
        content = read_regular(path, _MAX_KEY_BYTES).rstrip(b"\r\n")
    except OSError as error:
        message = f"the key cannot be read: {why_not(error, path)}"
        raise InvalidInput.of("file_unreadable", message, file=str(path), field=flag) from None
    if not content:
        raise InvalidInput.of("file_unreadable", "there is no key in it", file=str(path), field=flag)
    tokens = _tokens(flag)
    if b"-----BEGIN" not in content:
        return Key(content, SECRET_ALGORITHMS)
    algorithms = [each for each in ALGORITHMS if each.startswith(tuple(tokens.families_of(content)))]
    if not algorithms:
        raise InvalidInput.of("file_unreadable", "there is no key in it that signs", file=str(path), field=flag)
    return Key(content, algorithms)


def sign(contents: Mapping[str, bytes], key: Key, algorithm: str, scope: str = "") -> bytes:
    """The file ``.signatures.json`` for these files. Raises ``InvalidInput``: ``key_unfit``."""
    if algorithm not in key.algorithms:
        message = f"the key is for {', '.join(key.algorithms)}, not for {algorithm}"
        raise InvalidInput.of("key_unfit", message, field="--signing-alg")
    files = [
        {"name": name, "hash": _hash(name, content, "SHA-256"), "algorithm": "SHA-256"}
        for name, content in sorted(contents.items())
    ]
    payload = {"files": files, **({"scope": scope} if scope else {})}
    try:
        token = _tokens("--signing-key").encode(json.dumps(payload).encode(), key.value, algorithm)
    except ValueError as error:
        raise InvalidInput.of("key_unfit", f"the key does not sign: {error}", field="--signing-key") from None
    return json.dumps({"signatures": [token]}).encode()


def _tokens(flag: str) -> ModuleType:
    try:
        return import_module(_TOKENS)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("extproc"):
            raise
        message = f"{flag} needs more to be installed: pip install 'dropout-router[rego]'"
        raise Unreachable.of("extras_missing", message, field=flag) from None


def _payload(signed: bytes, trust: TrustedKeys, where: str) -> Mapping[str, Any]:
    """What the signature says, if it is one of the keys'."""
    try:
        (token,) = json.loads(signed)["signatures"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _wrong(f"{SIGNATURES} does not hold one signature", where) from None
    for key in trust.keys:
        said = _tokens("--verification-key").decode(token, key.value, key.algorithms)
        if said is None:
            continue
        try:
            payload = json.loads(said)
        except (ValueError, RecursionError):
            break
        if not isinstance(payload, dict):
            break
        if payload.get("scope", "") != trust.scope:
            raise _wrong(f"it was signed for the scope {payload.get('scope', '')!r}, not {trust.scope!r}", where)
        return payload
    raise _wrong("no key of --verification-key made its signature", where)


def _listed(payload: Mapping[str, Any], where: str) -> dict[str, tuple[str, str]]:
    """The hash and its algorithm of each file that was signed."""
    try:
        return {
            each["name"].lstrip("/"): (each["hash"].lower(), each.get("algorithm") or "SHA-256")
            for each in payload["files"]
        }
    except (KeyError, TypeError, AttributeError):
        raise _wrong("its signature does not say the hashes of its files", where) from None


def _difference(name: str, content: bytes | None, listed: tuple[str, str] | None) -> str | None:
    if content is None:
        return f"{name} was signed and is not there"
    if listed is None:
        return f"{name} was not signed"
    wanted, algorithm = listed
    if algorithm not in _HASHES or algorithm in _WEAK:
        return f"{name} was signed by the hash {algorithm}, which is not taken"
    return None if _hash(name, content, algorithm) == wanted else f"{name} is not as it was signed"


def _hash(name: str, content: bytes, algorithm: str) -> str:
    hashed: str = _HASHES[algorithm](_canonical(name, content)).hexdigest()
    return hashed


class _Number(str):
    """A number as it is written in JSON: 1.0 is not 1 in a hash."""

    __slots__ = ()


def _canonical(name: str, content: bytes) -> bytes:
    """What is hashed: the value of a structured file, in the one way to write it; the bytes of any other."""
    if Path(name).name not in _STRUCTURED:
        return content
    try:
        text = content.decode()
        if name.endswith((".yaml", ".yml")):
            documents, _ = read_documents(text, dialect=DATA)
            value = documents[0].node.value if documents else None
        else:
            value = json.loads(text, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError):
        return content
    return "".join(_written(value)).encode()


def _written(value: Any) -> list[str]:
    if isinstance(value, _Number):
        return [str(value)]
    if isinstance(value, dict):
        parts = ["{"]
        for number, key in enumerate(sorted(value, key=lambda key: key.encode())):
            parts += [*([","] if number else ()), _text(key), ":", *_written(value[key])]
        return [*parts, "}"]
    if isinstance(value, list):
        parts = ["["]
        for number, inner in enumerate(value):
            parts += [*([","] if number else ()), *_written(inner)]
        return [*parts, "]"]
    return [_text(value) if isinstance(value, str) else json.dumps(value)]


def _text(text: str) -> str:
    """As Go writes it, which has these two escaped for JavaScript's sake."""
    written = json.dumps(text, ensure_ascii=False)
    return written.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _wrong(message: str, where: str) -> InvalidInput:
    return InvalidInput.of("bundle_signature", message, file=where)
