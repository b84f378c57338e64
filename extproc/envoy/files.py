"""The rendered routes and clusters as files, written where a running Envoy watches."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from extproc.envoy.render import fallback_cluster, fallback_name, render_clusters, render_routes
from extproc.errors import Unreachable
from extproc.files import NotRegular, read_regular
from extproc.snapshot.model import CompiledRollout

ROUTES_FILE: Final = "rds.json"
CLUSTERS_FILE: Final = "cds.json"

_MOST_BYTES: Final = 1 << 28
"""Of a file that is there; a hundred thousand rollouts need less."""

_FOR_ALL: Final = 0o644
_FOR_THE_GROUP: Final = 0o640


def write_envoy_dir(directory: Path, rollouts: Iterable[CompiledRollout], marks: Sequence[str]) -> bool:
    """Write ``rds.json`` and ``cds.json`` by atomic rename if the routes changed; whether they did.

    The routes hold the ``marks``, so they are 0640, or less where somebody took more away, and of the group that they
    had before: an Envoy of another user reads them by its group. The clusters are 0644.
    Envoy reads the two files one after the other, so the clusters come first and keep what the routes before this
    change name: at no moment is there a route to a fallback cluster that Envoy was not told of. Raises
    ``Unreachable`` (``envoy_dir_unwritable``).
    """
    given = list(rollouts)
    routes = _discovery([render_routes(given, marks)])
    clusters = render_clusters(given)
    routes_file, clusters_file = directory / ROUTES_FILE, directory / CLUSTERS_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before, clusters_before = _read(routes_file), _parse(_read(clusters_file))
        names = {cluster["name"] for cluster in clusters}
        told = {fallback_name(*pair): pair for pair in _pairs_told(clusters_before)}
        if before == routes and clusters_before and names <= told.keys():
            return False
        still_named = set(_clusters_named(_parse(before))) - names
        kept = [fallback_cluster(*pair) for name, pair in told.items() if name in still_named]
        _replace(clusters_file, _discovery([*clusters, *kept]), _FOR_ALL)
        _replace(routes_file, routes, _FOR_THE_GROUP)
    except OSError as error:
        message = f"Envoy's files cannot be written to {directory}: {error.strerror or error}."
        raise Unreachable.of("envoy_dir_unwritable", message, file=str(directory)) from error
    return True


def _discovery(resources: list[dict[str, Any]]) -> bytes:
    """A DiscoveryResponse; its version is the hash of what it says, so equal content is equal bytes."""
    version = hashlib.sha256(orjson.dumps(resources)).hexdigest()[:16]
    return orjson.dumps({"versionInfo": version, "resources": resources}) + b"\n"


def _read(file: Path) -> bytes:
    """What was written before; nothing where there is no such file, or something else in its place."""
    try:
        return read_regular(file, _MOST_BYTES)
    except (FileNotFoundError, NotRegular):
        return b""


def _parse(text: bytes) -> dict[str, Any]:
    """The document, or an empty one: a file that something else garbled is written again, not mourned."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _pairs_told(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The upstream and the stable of every fallback cluster in a document, which may hold anything."""
    found = document.get("resources")
    for cluster in found if isinstance(found, list) else ():
        try:
            name, attempts = cluster["name"], cluster["clusterType"]["typedConfig"]["clusters"]
            upstream, stable = (attempt["name"] for attempt in attempts)
        except (LookupError, TypeError, ValueError):
            continue
        if isinstance(upstream, str) and isinstance(stable, str) and name == fallback_name(upstream, stable):
            yield upstream, stable


def _clusters_named(document: Any) -> Iterator[str]:
    """Every cluster that a route names, in a document that may be of any depth."""
    unseen = [document]
    while unseen:
        node = unseen.pop()
        if isinstance(node, dict):
            if isinstance(named := node.get("cluster"), str):
                yield named
            unseen.extend(node.values())
        elif isinstance(node, list):
            unseen.extend(node)


def _replace(file: Path, content: bytes, mode: int) -> None:
    """Swap the file in one rename, which is what Envoy watches for.

    Its bits are those of ``mode`` that the one before has too, and its group is the same.
    """
    group = None
    with suppress(FileNotFoundError):
        before = file.stat()
        if stat.S_ISREG(before.st_mode):
            mode &= before.st_mode
            group = before.st_gid
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            if group is not None:
                with suppress(PermissionError):  # a group that we are not in; it then reads nothing
                    os.fchown(stream.fileno(), -1, group)
            os.fchmod(stream.fileno(), mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
