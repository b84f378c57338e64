"""Envoy's routes and fallback clusters, rendered from the rollouts and written where a running Envoy watches.

A decided request is looked up by two exact tables, rollout then version, so its cost does not grow with the number of
rollouts; a version that is not rendered (yet) goes to that rollout's stable. Decided is what carries a mark that only
this installation knows; what a client says in our headers leads nowhere and is removed, whether or not Envoy asks us
and strips them before. A request without a decision, because Envoy failed open, is matched as the decision would have
matched it and goes to ``status.stable``.

A version that is not stable is reached through a composite cluster, ``A-or-B``: the first attempt goes to the
version's own cluster A, a retry to the stable one, B. When Envoy knows no cluster A, or A has no endpoint, B answers,
so a cluster that nobody made is never a 503. The versions' own clusters belong to the operator.

All of it is plain JSON. Tests hold it against envoy-data-plane's messages, which is where they cost nothing: to import
them takes as long as all the rest of a start, and to fill one two hundred times as long as a dictionary.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from extproc.errors import Unreachable
from extproc.names import (
    HEADER_DECISION_ID,
    HEADER_MARK,
    HEADER_ROLLOUT,
    HEADER_SHADOW,
    HEADER_VERSION,
    OWN_HEADERS,
)
from extproc.snapshot.matching import MatchKey
from extproc.snapshot.model import CompiledRollout

ROUTES_FILE: Final = "rds.json"
CLUSTERS_FILE: Final = "cds.json"

ROUTE_CONFIG_NAME: Final = "models"
"""What the listener asks for by ``route_config_name``."""

RETRY_STABLE: Final = "connect-failure,refused-stream,reset-before-request"
"""Failures after which no version can have seen the request, so that sending it again repeats nothing."""

RETRY_FALLBACK: Final = f"{RETRY_STABLE},retriable-status-codes"
"""The same, and 503: a version that says it cannot serve leaves the request to stable."""

_TYPES: Final = "type.googleapis.com/envoy"

_MAX_REPEATED: Final = 10
"""How often an entry may stand in the lists of undecided routes on average, before there is one list instead."""

_FOR_ALL: Final = 0o644
_FOR_THE_GROUP: Final = 0o640

_Entry = tuple[MatchKey, CompiledRollout]


def render_routes(rollouts: Iterable[CompiledRollout], marks: Sequence[str]) -> dict[str, Any]:
    """The RouteConfiguration ``models`` for all rollouts, as the JSON that Envoy reads.

    ``marks``, one at least, are those by which workers may say that a request is decided.
    """
    ordered = sorted(rollouts, key=lambda rollout: rollout.key)
    host = dict(_EVERY_ROUTE)
    if ordered:
        decided = {
            "matcherTree": {
                "input": _header_input(HEADER_ROLLOUT),
                "exactMatchMap": {"map": {rollout.key: {"matcher": _decided(rollout)} for rollout in ordered}},
            },
            "onNoMatch": _NOBODYS,
        }
        host["matcher"] = {
            "matcherList": {"matchers": [{"predicate": _marked(marks), "onMatch": {"matcher": decided}}]},
            "onNoMatch": _undecided(ordered),
        }
    return {"@type": f"{_TYPES}.config.route.v3.RouteConfiguration", "name": ROUTE_CONFIG_NAME, "virtualHosts": [host]}


def render_clusters(rollouts: Iterable[CompiledRollout]) -> list[dict[str, Any]]:
    """The fallback clusters of all rollouts' versions, by name, as the JSON that Envoy reads."""
    pairs = {
        (upstream, rollout.upstreams[rollout.stable])
        for rollout in rollouts
        for upstream in rollout.upstreams.values()
        if upstream != rollout.upstreams[rollout.stable]
    }
    return [_fallback_cluster(upstream, stable) for upstream, stable in sorted(pairs)]


def fallback_name(upstream: str, stable: str) -> str:
    """The cluster through which ``upstream`` is reached with ``stable`` behind it."""
    return upstream if upstream == stable else f"{upstream}-or-{stable}"


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
        told = _resources(clusters_before)
        if before == routes and clusters_before and names <= {cluster.get("name") for cluster in told}:
            return False
        still_named = set(_clusters_named(_parse(before))) - names
        kept = [cluster for cluster in told if cluster.get("name") in still_named]
        _replace(clusters_file, _discovery([*clusters, *kept]), _FOR_ALL)
        _replace(routes_file, routes, _FOR_THE_GROUP)
    except OSError as error:
        message = f"Envoy's files cannot be written to {directory}: {error.strerror or error}."
        raise Unreachable.of("envoy_dir_unwritable", message, file=str(directory)) from error
    return True


def _marked(marks: Sequence[str]) -> dict[str, Any]:
    """What is true of a request that has one of the marks."""
    each = [{"singlePredicate": {"input": _header_input(HEADER_MARK), "valueMatch": {"exact": mark}}} for mark in marks]
    return each[0] if len(each) == 1 else {"orMatcher": {"predicate": each}}


def _decided(rollout: CompiledRollout) -> dict[str, Any]:
    """The matcher for requests that were decided by ``rollout``: version -> route, else stable."""
    stable = rollout.upstreams[rollout.stable]
    return {
        "matcherTree": {
            "input": _header_input(HEADER_VERSION),
            "exactMatchMap": {
                "map": {
                    version: _action("route", _any_path(_to(f"{rollout.key}@{version}", cluster, stable)))
                    for version, cluster in sorted(rollout.upstreams.items())
                }
            },
        },
        "onNoMatch": _action("route", _any_path(_to(f"{rollout.key}@default", stable, stable))),
    }


def _undecided(rollouts: Iterable[CompiledRollout]) -> dict[str, Any]:
    """What finds the stable of an undecided request, in the order in which a decision looks for its rollout.

    A table of all paths leads to the few routes that a path which begins so can match: Envoy goes here once for every
    request, before it asks for the decision, so this must not grow with the number of rollouts. Only where the lists
    would repeat many entries, because many of them have no path, there is one list for all.
    """
    entries = [(entry, rollout) for rollout in rollouts for entry in rollout.match]
    by_path: dict[str, list[_Entry]] = {}
    for entry, rollout in entries:
        by_path.setdefault(entry.path or "/", []).append((entry, rollout))
    lists = {
        path: [entry for end in range(1, len(path) + 1) for entry in by_path.get(path[:end], ())] for path in by_path
    }
    if sum(map(len, lists.values())) > _MAX_REPEATED * len(entries):
        return _list_of(entries)
    return {
        "matcher": {
            "matcherTree": {
                "input": _header_input(":path"),
                "prefixMatchMap": {"map": {path: _list_of(found) for path, found in lists.items()}},
            }
        }
    }


def _list_of(entries: Iterable[_Entry]) -> dict[str, Any]:
    ordered = sorted(entries, key=lambda pair: _precedence(pair[0], pair[1].key))
    routes = [
        route
        for entry, rollout in ordered
        for route in _default_routes(rollout.key, rollout.upstreams[rollout.stable], entry)
    ]
    return _action("undecided", {"@type": f"{_TYPES}.config.route.v3.RouteList", "routes": routes})


def _precedence(entry: MatchKey, key: str) -> tuple[Any, ...]:
    """The Gateway API's: exact host, longer wildcard, any host; exact path, longer prefix; more headers; name."""
    wildcard = entry.host.startswith("*")
    host = (2 if not entry.host else 1 if wildcard else 0, -len(entry.host) if wildcard else 0)
    return (*host, not entry.exact, -len(entry.path), -len(entry.headers), key)


def _default_routes(key: str, cluster: str, entry: MatchKey) -> list[dict[str, Any]]:
    """The routes for one match entry. A prefix ends at a segment or at ':', which takes Envoy two matches to say."""
    headers = [_header_equals(name, value.decode()) for name, value in entry.headers]
    hosts = [[*matches, *headers] for matches in _host_is(entry.host)] if entry.host else [headers]
    if entry.exact:
        paths = [{"path": entry.path}]
    elif not entry.path:
        paths = [{"prefix": "/"}]
    else:
        paths = [{"pathSeparatedPrefix": entry.path}, {"prefix": f"{entry.path}:"}]
    to_stable = {**_to(f"{key}@default", cluster, cluster), "requestHeadersToRemove": [*OWN_HEADERS]}
    return [{**to_stable, "match": {**path, "headers": of} if of else path} for of in hosts for path in paths]


def _header_equals(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "stringMatch": {"exact": value}}


def _host_is(host: str) -> Iterator[list[dict[str, Any]]]:
    """Either of two: without a colon, and with the one before the port, which says nothing about whose a host is.

    Names ignore case. No pattern of the name itself, because Envoy refuses all routes for one that is long, and a host
    may have 253 characters.
    """
    if host.startswith("*"):
        yield [_authority({"suffix": host[1:], "ignoreCase": True}), _NO_PORT]
        yield [_authority({"contains": f"{host[1:]}:", "ignoreCase": True}), _A_PORT]
    else:
        yield [_authority({"exact": host, "ignoreCase": True})]
        yield [_authority({"prefix": f"{host}:", "ignoreCase": True}), _A_PORT]


def _authority(match: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": ":authority", "stringMatch": match}


_NO_PORT: Final = {**_authority({"contains": ":"}), "invertMatch": True}
_A_PORT: Final = _authority({"safeRegex": {"regex": "[^:]*:[^:]*"}})
"""The only colon is the port's. An IPv6 address has more, and no name."""


def _to(name: str, cluster: str, stable: str) -> dict[str, Any]:
    """A route without its match: to ``cluster``, with ``stable`` behind it."""
    if cluster == stable:
        return {"name": name, "route": {"cluster": stable}}
    return {"name": name, "route": {"cluster": fallback_name(cluster, stable), "retryPolicy": _ON_TO_STABLE}}


_ON_TO_STABLE: Final = {"retryOn": RETRY_FALLBACK, "retriableStatusCodes": [503], "numRetries": 1}
"""The second attempt of a fallback cluster is stable."""

_EVERY_ROUTE: Final[Mapping[str, Any]] = {
    "name": "models",
    "domains": ["*"],
    "includeRequestAttemptCount": True,
    "retryPolicy": {
        "retryOn": RETRY_STABLE,
        "numRetries": 1,
        "retryHostPredicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typedConfig": {"@type": f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "hostSelectionRetryMaxAttempts": "3",
    },
    # It has done its work when there is a route.
    "requestHeadersToRemove": [HEADER_MARK],
    # The client learns the decision's id, by which it sends labels; whatever else calls itself so is no id.
    "responseHeadersToRemove": [HEADER_DECISION_ID],
    "responseHeadersToAdd": [
        {
            "header": {"key": HEADER_DECISION_ID, "value": f"%REQ({HEADER_DECISION_ID})%"},
            "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ],
    # A request without the header is not mirrored.
    "requestMirrorPolicies": [{"clusterHeader": HEADER_SHADOW, "disableShadowHostSuffixAppend": True}],
}
"""What holds for every route that does not say otherwise."""


def _any_path(route: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": f"{_TYPES}.config.route.v3.Route", "match": {"prefix": "/"}, **route}


def _header_input(name: str) -> dict[str, Any]:
    of_header = {"@type": f"{_TYPES}.type.matcher.v3.HttpRequestHeaderMatchInput", "headerName": name}
    return {"name": name, "typedConfig": of_header}


def _action(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"action": {"name": name, "typedConfig": config}}


_NOBODYS: Final = _action("nobodys", {"@type": f"{_TYPES}.config.route.v3.RouteList"})
"""A decided request that belongs to no rollout has no route. Without it Envoy would go on to the undecided ones."""


def _fallback_cluster(upstream: str, stable: str) -> dict[str, Any]:
    attempts = {
        "@type": f"{_TYPES}.extensions.clusters.composite.v3.ClusterConfig",
        "clusters": [{"name": upstream}, {"name": stable}],
    }
    kind = {"name": "envoy.clusters.composite", "typedConfig": attempts}
    return {**_FALLBACK, "name": fallback_name(upstream, stable), "clusterType": kind}


_FALLBACK: Final = {
    "@type": f"{_TYPES}.config.cluster.v3.Cluster",
    "connectTimeout": "1s",
    "lbPolicy": "CLUSTER_PROVIDED",
    "circuitBreakers": {
        "thresholds": [
            # The limits that matter are those of the two clusters behind it; lower ones would only hide them.
            {"maxConnections": 65536, "maxPendingRequests": 65536, "maxRequests": 65536, "maxRetries": 1024}
        ]
    },
}
"""What all fallback clusters have in common."""


def _discovery(resources: list[dict[str, Any]]) -> bytes:
    """A DiscoveryResponse; its version is the hash of what it says, so equal content is equal bytes."""
    version = hashlib.sha256(orjson.dumps(resources)).hexdigest()[:16]
    return orjson.dumps({"versionInfo": version, "resources": resources}) + b"\n"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _parse(text: bytes) -> dict[str, Any]:
    """The document, or an empty one: a file that something else garbled is written again, not mourned."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _resources(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = document.get("resources")
    return [resource for resource in found if isinstance(resource, dict)] if isinstance(found, list) else []


def _clusters_named(node: Any) -> Iterator[str]:
    """Every cluster that a route names."""
    if isinstance(node, dict):
        if isinstance(named := node.get("cluster"), str):
            yield named
        for child in node.values():
            yield from _clusters_named(child)
    elif isinstance(node, list):
        for child in node:
            yield from _clusters_named(child)


def _replace(file: Path, content: bytes, mode: int) -> None:
    """Swap the file in one rename, which is what Envoy watches for.

    Its bits are those of ``mode`` that the one before has too, and its group is the same.
    """
    group = None
    with suppress(FileNotFoundError):
        before = file.stat()
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
