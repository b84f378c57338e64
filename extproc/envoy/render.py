"""Envoy's routes and fallback clusters, rendered from the rollouts and written where a running Envoy watches.

A decided request is looked up by two exact tables, rollout then version, so its cost does not grow with the number of
rollouts; a version that is not rendered (yet) goes to that rollout's stable. A request without a decision, because
Envoy failed open, is matched as the decision would have matched it and goes to ``status.stable``.

A version that is not stable is reached through a composite cluster, ``A-or-B``: the first attempt goes to the
version's own cluster A, a retry to the stable one, B. When Envoy knows no cluster A, or A has no endpoint, B answers,
so a cluster that nobody made is never a 503. The versions' own clusters belong to the operator.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson
from betterproto2 import Message
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.clusters.composite import v3 as composite_v3
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts_v3
from envoy_data_plane.envoy.type.matcher import v3 as matcher_v3
from envoy_data_plane.google.protobuf import Any as PackedMessage
from envoy_data_plane.xds.core import v3 as xds_core_v3

from extproc.errors import Unreachable
from extproc.names import HEADER_ROLLOUT, HEADER_SHADOW, HEADER_VERSION
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

_CACHED_ROLLOUTS: Final = 16384
"""Rendered rollouts kept, so that a change among ten thousand renders one."""

Upstreams = tuple[tuple[str, str], ...]
"""Pairs of version and Envoy cluster, sorted."""


def render_routes(rollouts: Iterable[CompiledRollout]) -> dict[str, Any]:
    """The RouteConfiguration ``models`` for all rollouts, as the JSON that Envoy reads."""
    ordered = sorted(rollouts, key=lambda rollout: rollout.key)
    host: dict[str, Any] = {"name": "models", "domains": ["*"], "includeRequestAttemptCount": True}
    if ordered:
        host["matcher"] = {
            "matcherTree": {
                "input": _header_input(HEADER_ROLLOUT),
                "exactMatchMap": {
                    "map": {
                        rollout.key: {"matcher": _decided(rollout.key, rollout.stable, _upstreams(rollout))}
                        for rollout in ordered
                    }
                },
            },
            "onNoMatch": _action("undecided", {"@type": _type_url(route_v3.RouteList), "routes": _undecided(ordered)}),
        }
    return {"@type": _type_url(route_v3.RouteConfiguration), "name": ROUTE_CONFIG_NAME, "virtualHosts": [host]}


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


def write_envoy_dir(directory: Path, rollouts: Iterable[CompiledRollout]) -> bool:
    """Write ``rds.json`` and ``cds.json`` by atomic rename, mode 0644, if the routes changed; whether they did.

    Envoy reads the two files one after the other, so the clusters come first and keep what the routes before this
    change name: at no moment is there a route to a fallback cluster that Envoy was not told of. Raises
    ``Unreachable`` (``envoy_dir_unwritable``).
    """
    given = list(rollouts)
    routes = _discovery([render_routes(given)])
    clusters = render_clusters(given)
    routes_file, clusters_file = directory / ROUTES_FILE, directory / CLUSTERS_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = _read(routes_file)
        if before == routes and {cluster["name"] for cluster in clusters} <= _resource_names(clusters_file):
            return False
        still_named = set(_clusters_named(_parse(before))) - {cluster["name"] for cluster in clusters}
        kept = [cluster for cluster in _resources(clusters_file) if cluster.get("name") in still_named]
        _replace(clusters_file, _discovery([*clusters, *kept]))
        _replace(routes_file, routes)
    except OSError as error:
        message = f"Envoy's files cannot be written to {directory}: {error.strerror or error}."
        raise Unreachable.of("envoy_dir_unwritable", message, file=str(directory)) from error
    return True


def _upstreams(rollout: CompiledRollout) -> Upstreams:
    return tuple(sorted(rollout.upstreams.items()))


@lru_cache(maxsize=_CACHED_ROLLOUTS)
def _decided(key: str, stable: str, upstreams: Upstreams) -> dict[str, Any]:
    """The matcher for requests that were decided by the rollout ``key``: version -> route, else stable."""
    clusters = dict(upstreams)
    to_stable = _to(f"{key}@default", clusters[stable], clusters[stable])
    return {
        "matcherTree": {
            "input": _header_input(HEADER_VERSION),
            "exactMatchMap": {
                "map": {
                    version: _action("route", _any_path(_to(f"{key}@{version}", cluster, clusters[stable])))
                    for version, cluster in upstreams
                }
            },
        },
        "onNoMatch": _action("route", _any_path(to_stable)),
    }


def _undecided(rollouts: Iterable[CompiledRollout]) -> list[dict[str, Any]]:
    """Routes to each rollout's stable in the order in which a decision looks for its rollout."""
    entries = sorted(
        ((entry, rollout) for rollout in rollouts for entry in rollout.match),
        key=lambda pair: _precedence(pair[0], pair[1].key),
    )
    return [
        route
        for entry, rollout in entries
        for route in _default_routes(rollout.key, rollout.upstreams[rollout.stable], entry)
    ]


def _precedence(entry: MatchKey, key: str) -> tuple[Any, ...]:
    """The Gateway API's: exact host, longer wildcard, any host; exact path, longer prefix; more headers; name."""
    wildcard = entry.host.startswith("*")
    host = (2 if not entry.host else 1 if wildcard else 0, -len(entry.host) if wildcard else 0)
    return (*host, not entry.exact, -len(entry.path), -len(entry.headers), key)


@lru_cache(maxsize=_CACHED_ROLLOUTS)
def _default_routes(key: str, cluster: str, entry: MatchKey) -> tuple[dict[str, Any], ...]:
    """The routes for one match entry. A prefix ends at a segment or at ':', which takes Envoy two matches to say."""
    headers = [_header_equals(name, value.decode()) for name, value in entry.headers]
    if entry.host:
        headers.insert(0, _host_is(entry.host))
    if entry.exact:
        paths = [route_v3.RouteMatch(path=entry.path, headers=headers)]
    elif not entry.path:
        paths = [route_v3.RouteMatch(prefix="/", headers=headers)]
    else:
        paths = [
            route_v3.RouteMatch(path_separated_prefix=entry.path, headers=headers),
            route_v3.RouteMatch(prefix=f"{entry.path}:", headers=headers),
        ]
    to_stable = _to(f"{key}@default", cluster, cluster)
    return tuple({**to_stable, "match": path.to_dict()} for path in paths)


def _header_equals(name: str, value: str) -> route_v3.HeaderMatcher:
    return route_v3.HeaderMatcher(name=name, string_match=matcher_v3.StringMatcher(exact=value))


def _host_is(host: str) -> route_v3.HeaderMatcher:
    """Host names ignore case, and a port says nothing about whose they are."""
    pattern = ".*" + re.escape(host[1:]) if host.startswith("*") else re.escape(host)
    regex = matcher_v3.RegexMatcher(regex=rf"(?i){pattern}(:\d*)?")
    return route_v3.HeaderMatcher(name=":authority", string_match=matcher_v3.StringMatcher(safe_regex=regex))


def _to(name: str, cluster: str, stable: str) -> dict[str, Any]:
    """A route without its match: to ``cluster`` with ``stable`` behind it, mirrored if the decision says so."""
    direct = cluster == stable
    action = route_v3.RouteAction(
        cluster=fallback_name(cluster, stable),
        retry_policy=route_v3.RetryPolicy(
            retry_on=RETRY_STABLE if direct else RETRY_FALLBACK,
            num_retries=1,
            retriable_status_codes=[] if direct else [503],
            retry_host_predicate=[_ANOTHER_HOST] if direct else [],
            host_selection_retry_max_attempts=3 if direct else 0,
        ),
        request_mirror_policies=[
            # A request without the header is not mirrored.
            route_v3.RouteActionRequestMirrorPolicy(
                cluster_header=HEADER_SHADOW, disable_shadow_host_suffix_append=True
            )
        ],
    )
    return route_v3.Route(name=name, route=action).to_dict()


_ANOTHER_HOST: Final = route_v3.RetryPolicyRetryHostPredicate(
    name="envoy.retry_host_predicates.previous_hosts",
    typed_config=PackedMessage.pack(previous_hosts_v3.PreviousHostsPredicate()),
)


def _any_path(route: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": _type_url(route_v3.Route), "match": {"prefix": "/"}, **route}


def _header_input(name: str) -> dict[str, Any]:
    message = matcher_v3.HttpRequestHeaderMatchInput(header_name=name)
    return xds_core_v3.TypedExtensionConfig(name=name, typed_config=PackedMessage.pack(message)).to_dict()


def _action(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"action": {"name": name, "typedConfig": config}}


def _fallback_cluster(upstream: str, stable: str) -> dict[str, Any]:
    attempts = composite_v3.ClusterConfig(
        clusters=[composite_v3.ClusterConfigClusterEntry(name=name) for name in (upstream, stable)]
    )
    cluster = cluster_v3.Cluster(
        name=fallback_name(upstream, stable),
        connect_timeout=timedelta(seconds=1),
        lb_policy=cluster_v3.ClusterLbPolicy.CLUSTER_PROVIDED,
        cluster_type=cluster_v3.ClusterCustomClusterType(
            name="envoy.clusters.composite", typed_config=PackedMessage.pack(attempts)
        ),
        circuit_breakers=cluster_v3.CircuitBreakers(thresholds=[_WIDE_OPEN]),
    )
    return {"@type": _type_url(cluster_v3.Cluster), **cluster.to_dict()}


# The limits that matter are those of the two clusters behind it; a third, lower one would only hide them.
_WIDE_OPEN: Final = cluster_v3.CircuitBreakersThresholds(
    priority=core_v3.RoutingPriority.DEFAULT,
    max_connections=65536,
    max_pending_requests=65536,
    max_requests=65536,
    max_retries=1024,
)


def _type_url(message: type[Message]) -> str:
    return PackedMessage.pack(message()).type_url


def _discovery(resources: list[dict[str, Any]]) -> bytes:
    """A DiscoveryResponse; its version is the hash of what it says, so equal content is equal bytes."""
    version = hashlib.sha256(orjson.dumps(resources)).hexdigest()[:16]
    return orjson.dumps({"versionInfo": version, "resources": resources}, option=orjson.OPT_INDENT_2) + b"\n"


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


def _resources(file: Path) -> list[dict[str, Any]]:
    found = _parse(_read(file)).get("resources")
    return [resource for resource in found if isinstance(resource, dict)] if isinstance(found, list) else []


def _resource_names(file: Path) -> set[str]:
    return {str(resource.get("name")) for resource in _resources(file)}


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


def _replace(file: Path, content: bytes) -> None:
    """Swap the file in one rename, which is what Envoy watches for. Envoy may be another user: 0644."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
