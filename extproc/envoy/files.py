"""The rendered routes and clusters as files, written where a running Envoy watches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from extproc.envoy.render import (
    DEFAULT_REPLAY_BYTES,
    fallback_cluster,
    fallback_name,
    render_clusters,
    render_routes,
    upstream_cluster,
)
from extproc.errors import Unreachable
from extproc.files import NotRegular, read_head, read_regular, why_not, write_whole
from extproc.snapshot.model import CompiledRollout

ROUTES_FILE: Final = "rds.json"
CLUSTERS_FILE: Final = "cds.json"

_MOST_BYTES: Final = 1 << 28
"""Of a file that is there; a hundred thousand rollouts need less."""

_HEAD_BYTES: Final = 64
_VERSION: Final = re.compile(rb'{"versionInfo":"([0-9a-f]+)"')

_FOR_ALL: Final = 0o644
_FOR_THE_GROUP: Final = 0o640


def write_envoy_dir(
    directory: Path,
    rollouts: Iterable[CompiledRollout],
    marks: Sequence[str],
    replay_bytes: int = DEFAULT_REPLAY_BYTES,
) -> bool:
    """Write ``rds.json`` and ``cds.json`` by atomic rename if what they say changed; whether it did.

    ``marks`` and ``replay_bytes`` as in ``render_routes``.

    The routes hold the ``marks``, so they are 0640, or less where somebody took more away, and of the group that they
    had before: an Envoy of another user reads them by its group. The clusters are 0644.
    Envoy reads the two files one after the other, so the clusters come first and keep what the routes before this
    change name: at no moment is there a route to a cluster of ours that Envoy was not told of. Raises
    ``Unreachable`` (``envoy_dir_unwritable``).
    """
    given = list(rollouts)
    routes = _discovery([render_routes(given, marks, replay_bytes)])
    clusters = render_clusters(given)
    routes_file, clusters_file = directory / ROUTES_FILE, directory / CLUSTERS_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before, clusters_before = _read(routes_file), _parse(_read(clusters_file))
        told = _told(clusters_before)
        known = {cluster["name"]: cluster for cluster in told}
        if before == routes and clusters_before and all(known.get(each["name"]) == each for each in clusters):
            return False
        kept = _still_named(told, _parse(before), {cluster["name"] for cluster in clusters})
        write_whole(clusters_file, _discovery([*clusters, *kept]), _FOR_ALL)
        write_whole(routes_file, routes, _FOR_THE_GROUP)
    except OSError as error:
        message = f"Envoy's files cannot be written there: {why_not(error, directory)}"
        raise Unreachable.of("envoy_dir_unwritable", message, file=str(directory)) from error
    return True


def version_of(file: Path) -> str:
    """The version that a file of ours has, empty where there is none: it stands first, so that the rest is not read."""
    with suppress(OSError):
        found = _VERSION.match(read_head(file, _HEAD_BYTES))
        return found[1].decode() if found else ""
    return ""


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


def _told(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The clusters of a document, which may hold anything, that are ours: as they are rendered today."""
    fallbacks = [fallback_cluster(*pair) for pair in _pairs_told(document)]
    return [*(upstream_cluster(*of) for of in _upstreams_told(document)), *fallbacks]


def _still_named(
    told: Sequence[dict[str, Any]], routes: Mapping[str, Any], names: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Those of ``told`` that ``routes`` lead to, through another or by themselves, and that are none of ``names``."""
    led_to = set(_clusters_named(routes))
    for cluster in told:
        if cluster["name"] in led_to and "clusterType" in cluster:
            led_to.update(attempt["name"] for attempt in cluster["clusterType"]["typedConfig"]["clusters"])
    return (cluster for cluster in told if cluster["name"] in led_to and cluster["name"] not in names)


def _upstreams_told(document: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The name, host and port of every cluster of a version's own in a document, which may hold anything."""
    found = document.get("resources")
    for cluster in found if isinstance(found, list) else ():
        try:
            (locality,) = cluster["loadAssignment"]["endpoints"]
            (endpoint,) = locality["lbEndpoints"]
            name, address = cluster["name"], endpoint["endpoint"]["address"]["socketAddress"]
            host, port = address["address"], address["portValue"]
        except (LookupError, TypeError, ValueError):
            continue
        if isinstance(name, str) and isinstance(host, str) and type(port) is int and 0 < port < 1 << 16:
            yield name, host, port


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
