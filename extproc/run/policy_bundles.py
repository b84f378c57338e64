"""Making OPA bundles of policies that can be served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from extproc.adapters.regorus.bundle_signatures import Key, sign
from extproc.errors import InvalidInput
from extproc.resources.bundles import MANIFEST, SIGNATURES, outside, overlap, pack, unpack_bytes, write_manifest
from extproc.resources.policies import read_contents
from extproc.run.given import checked_policies


class Signing(NamedTuple):
    """How a bundle is signed."""

    key: Key
    algorithm: str
    scope: str


class Built(NamedTuple):
    """A bundle, and what it says of itself."""

    content: bytes
    revision: str
    files: list[str]


def build(place: Path, revision: str | None, roots: Sequence[str], signing: Signing | None) -> Built:
    """A bundle of the policies and data in a folder or a bundle; without a ``revision``, it is their fingerprint.

    Raises:
        InvalidInput: they cannot be served; ``bundle_roots``, something is outside of the ``roots``;
            ``bundle_roots_overlap``; ``policies_too_large``, nothing would read it; ``key_unfit``.
    """
    sources = checked_policies(place)
    roots = [root.strip("/") for root in roots] or [""]
    clash = overlap(roots)
    if clash is not None:
        message = f"{clash[0]!r} and {clash[1]!r} overlap"
        raise InvalidInput.of("bundle_roots_overlap", message, field="--root")
    strays = list(outside(sources.files, sources.data, roots))
    if strays:
        raise InvalidInput(strays)
    revision = sources.revision if revision is None else revision
    contents = {**read_contents(place), MANIFEST: write_manifest(revision, roots)}
    if signing is not None:
        contents[SIGNATURES] = sign(contents, signing.key, signing.algorithm, signing.scope)
    content = pack(contents)
    unpack_bytes(content, str(place))
    return Built(content, revision, sorted(contents))
