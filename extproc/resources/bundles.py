"""OPA bundles: a folder of policies and data in one file, packed by tar and gzip, with a manifest.

What OPA reads from one is read, and what would have another meaning here is refused by name: a delta of data, the
language before OPA 1.0, rules that are compiled and nothing else.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from extproc.errors import Fault, InvalidInput
from extproc.files import read_regular, why_not

MANIFEST: Final = ".manifest"
SIGNATURES: Final = ".signatures.json"

MAX_PACKED_BYTES: Final = 8 << 20
MAX_UNPACKED_BYTES: Final = 32 << 20
MAX_ENTRIES: Final = 10_000
MAX_REVISION: Final = 256
"""Characters of a revision, which every decision carries and a metric is labelled by."""

_GZIP: Final = 31  # of zlib's window bits: a header of gzip's is wanted
_PACKAGE: Final = re.compile(r"^\s*package\s+([A-Za-z_]\w*(?:\s*\.\s*\w+|\s*\[\s*\"[^\"]*\"\s*\])*)", re.MULTILINE)
_PART: Final = re.compile(r"\w+|\"([^\"]*)\"")
_FIRST_WORD: Final = re.compile(r"(?:\s*(?:#[^\n]*)?\n)*")


class Manifest(msgspec.Struct, frozen=True):
    """What a bundle says of itself. ``roots`` are paths under ``data``, ``a/b`` for ``data.a.b``; "" is everything."""

    revision: str = ""
    roots: tuple[str, ...] | None = None
    rego_version: int | None = None
    file_rego_versions: dict[str, int] = {}

    @property
    def owned(self) -> tuple[str, ...]:
        """The roots without slashes around them; everything, where none are named."""
        return ("",) if self.roots is None else tuple(root.strip("/") for root in self.roots)


class Unpacked(NamedTuple):
    """The files of a bundle by their paths in it, and what the manifest says."""

    contents: Mapping[str, bytes]
    manifest: Manifest


def unpack(path: Path) -> Unpacked:
    """The bundle in the file ``path``. Raises as ``unpack_bytes``, and ``policy_unreadable``."""
    try:
        content = read_regular(path, MAX_PACKED_BYTES + 1)
    except OSError as error:
        if path.exists() and path.stat().st_size > MAX_PACKED_BYTES:
            raise _too_large(str(path)) from None
        message = f"cannot be read: {why_not(error, path)}"
        raise InvalidInput.of("policy_unreadable", message, file=str(path)) from None
    return unpack_bytes(content, str(path))


def unpack_bytes(content: bytes, where: str) -> Unpacked:
    """A bundle from its bytes; ``where`` it came from is said in messages.

    Raises:
        InvalidInput: ``bundle_invalid``, it is no tar packed by gzip, or not whole, or its manifest is none;
            ``bundle_entry``, a path leads out of it, or is a link; ``policies_too_large``; and as ``check_kind``.
    """
    if len(content) > MAX_PACKED_BYTES:
        raise _too_large(where)
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflate(content, where)), mode="r:") as archive:
            for entry in archive:
                if len(contents) >= MAX_ENTRIES:
                    message = f"it has more than {MAX_ENTRIES} files"
                    raise InvalidInput.of("policies_too_large", message, file=where)
                if not entry.isdir():
                    name = _name_of(entry, where)
                    if name in contents:
                        raise InvalidInput.of("bundle_entry", f"{name} is in it twice", file=where)
                    file = archive.extractfile(entry)
                    assert file is not None  # it is a regular file
                    contents[name] = file.read()
                    if len(contents[name]) != entry.size:
                        raise _invalid("it ends in the middle of a file", where)
    except (tarfile.TarError, EOFError) as error:
        raise _invalid(f"it is no tar: {error}", where) from None
    manifest = read_manifest(contents.get(MANIFEST, b"{}"), where)
    check_kind(contents, manifest, where)
    return Unpacked(contents, manifest)


def read_manifest(content: bytes, where: str) -> Manifest:
    """What a file ``.manifest`` says. Raises ``InvalidInput``: ``bundle_invalid``."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"its {MANIFEST} is not as OPA has it: {error}", where) from None
    if len(manifest.revision) > MAX_REVISION or not (manifest.revision.isprintable() or not manifest.revision):
        message = f"its revision has more than {MAX_REVISION} letters, or such as cannot be printed"
        raise _invalid(message, where)
    clash = overlap(manifest.owned)
    if clash is not None:
        raise InvalidInput.of("bundle_roots_overlap", f"its roots {clash[0]!r} and {clash[1]!r} overlap", file=where)
    return manifest


def check_kind(names: Iterable[str], manifest: Manifest, where: str) -> None:
    """See that a bundle is one that can be read.

    Raises:
        InvalidInput: ``bundle_delta``, ``bundle_rego_v0``, ``bundle_compiled``.
    """
    names = set(names)
    if "patch.json" in names:
        message = "it is a delta (patch.json), which says what changes in another one; offer it whole"
        raise InvalidInput.of("bundle_delta", message, file=where)
    old = [name for name, version in manifest.file_rego_versions.items() if version == 0]
    if manifest.rego_version == 0 or old:
        of = f"{old[0]} is" if old and manifest.rego_version != 0 else "its policies are"
        message = f"{of} of the language before OPA 1.0 (rego_version 0); rewrite them by opa fmt --rego-v1"
        raise InvalidInput.of("bundle_rego_v0", message, file=where)
    compiled = sorted(name for name in names if name.endswith(".wasm") or Path(name).name == "plan.json")
    if compiled and not any(name.endswith(".rego") for name in names):
        message = f"its rules are compiled ({compiled[0]}), and are not run here; build it with -t rego"
        raise InvalidInput.of("bundle_compiled", message, file=where)


def overlap(roots: Sequence[str]) -> tuple[str, str] | None:
    """Two of the ``roots`` of which one holds the other; None if there are none."""
    in_order = sorted(roots, key=lambda root: root.split("/"))
    for one, next_ in pairwise(in_order):
        if _holds(one, next_):
            return one, next_
    return None


def outside(files: Mapping[str, str], data: Mapping[str, Any], roots: Sequence[str]) -> Iterator[Fault]:
    """Policies and data that are not under one of the ``roots``: ``bundle_roots``."""
    named = ", ".join(map(repr, roots)) or "none"
    for name, text in files.items():
        path = "/".join(package_of(text))
        if path and not any(_holds(root, path) for root in roots):
            message = f"package {path.replace('/', '.')} is outside of the bundle's roots ({named})"
            yield Fault("bundle_roots", message, file=name)
    for path in _strays(data, roots):
        yield Fault("bundle_roots", f"data.{path.replace('/', '.')} is outside of the bundle's roots ({named})")


def package_of(text: str) -> tuple[str, ...]:
    """The parts of the path of a module's package; none where it has no line ``package``."""
    found = _PACKAGE.search(text, _FIRST_WORD.match(text).end())  # type: ignore[union-attr] # it matches nothing, too
    if found is None:
        return ()
    return tuple(part[1] if part[1] is not None else part[0] for part in _PART.finditer(found[1]))


def _strays(value: Mapping[str, Any], roots: Sequence[str], above: str = "") -> Iterator[str]:
    for key, inner in value.items():
        path = f"{above}/{key}".lstrip("/")
        if any(_holds(root, path) for root in roots):
            continue
        if isinstance(inner, Mapping) and any(_holds(path, root) for root in roots):
            yield from _strays(inner, roots, path)
        else:
            yield path


def _holds(root: str, path: str) -> bool:
    return not root or path == root or path.startswith(root + "/")


def _inflate(content: bytes, where: str) -> bytes:
    inflating = zlib.decompressobj(_GZIP)
    try:
        unpacked = inflating.decompress(content, MAX_UNPACKED_BYTES + 1)
    except zlib.error:
        message = "it is no bundle, which is packed by gzip; of policies in files name the folder"
        raise _invalid(message, where) from None
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise _too_large(where)
    if not inflating.eof:
        raise _invalid("it is not whole", where)
    return unpacked


def _name_of(entry: tarfile.TarInfo, where: str) -> str:
    parts = [part for part in entry.name.split("/") if part not in ("", ".")]
    if not entry.isreg():
        kind = "a link" if entry.issym() or entry.islnk() else "no file"
        raise InvalidInput.of("bundle_entry", f"{entry.name!r} is {kind}; a bundle holds files", file=where)
    if ".." in parts or not parts:
        raise InvalidInput.of("bundle_entry", f"{entry.name!r} leads out of the bundle", file=where)
    return "/".join(parts)


def _too_large(where: str) -> InvalidInput:
    message = f"it has more than {MAX_PACKED_BYTES} bytes, or {MAX_UNPACKED_BYTES} when it is unpacked"
    return InvalidInput.of("policies_too_large", message, file=where)


def _invalid(message: str, where: str) -> InvalidInput:
    return InvalidInput.of("bundle_invalid", message, file=where)


def pack(contents: Mapping[str, bytes]) -> bytes:
    """A bundle of these files, the same bytes for the same files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(contents.items()):
            entry = tarfile.TarInfo(f"/{name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    packing = zlib.compressobj(wbits=_GZIP)
    return packing.compress(archive.getvalue()) + packing.flush()


def write_manifest(revision: str, roots: Sequence[str]) -> bytes:
    """A file ``.manifest``."""
    return json.dumps({"revision": revision, "roots": list(roots), "rego_version": 1}, ensure_ascii=False).encode()
