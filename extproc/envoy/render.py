"""Envoy's routes and fallback clusters, rendered from the rollouts.

A decided request is looked up by two exact tables, rollout then version, so its cost does not grow with the number of
rollouts; a version that is not rendered (yet) goes to that rollout's stable. Decided is what carries a mark that only
this installation knows; what a client says in our headers leads nowhere and is removed, whether or not Envoy asks us
and strips them before. A request without a decision, because Envoy failed open, is matched as the decision would have
matched it and goes to ``status.stable``, or is denied where the rollout's policy says so.

A version that is not stable is reached through a composite cluster, ``A-or-B``: the first attempt goes to the
version's own cluster A, a retry to the stable one, B. When Envoy knows no cluster A, or A has no endpoint, B answers,
so a cluster that nobody made is never a 503. The versions' own clusters belong to the operator, but for those whose
servers a document names: they come and go with their version, and Envoy is not restarted for them.

All of it is plain JSON. Tests hold it against envoy-data-plane's messages, which is where they cost nothing: to import
them takes as long as all the rest of a start, and to fill one two hundred times as long as a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from extproc.matching import MatchKey
from extproc.names import (
    HEADER_DECISION_ID,
    HEADER_MARK,
    HEADER_ROLLOUT,
    HEADER_SHADOW,
    HEADER_VERSION,
    OWN_HEADERS,
)
from extproc.settings import Settings
from extproc.snapshot.model import CompiledRollout, Timeouts

ROUTE_CONFIG_NAME: Final = "models"
"""What the listener asks for by ``route_config_name``."""

RETRY_STABLE: Final = "connect-failure,refused-stream,reset-before-request"
"""Failures after which no version can have seen the request, so that sending it again repeats nothing."""

RETRY_FALLBACK: Final = f"{RETRY_STABLE},retriable-status-codes"
"""The same, and 503: a version that says it cannot serve leaves the request to stable."""

_TYPES: Final = "type.googleapis.com/envoy"

DEFAULT_REPLAY_BYTES: Final = Settings().replay_bytes

_MAX_REPEATED: Final = 10
"""How often an entry may stand in the lists of undecided routes on average, before there is one list instead."""

UNDECIDED: Final = '{"code": "undecided", "message": "nobody could decide on this request; try it again"}'
"""What a client is told whose request is denied because it got no decision, with 503."""

_Entry = tuple[MatchKey, CompiledRollout]


def render_routes(
    rollouts: Iterable[CompiledRollout], marks: Sequence[str], replay_bytes: int = DEFAULT_REPLAY_BYTES
) -> dict[str, Any]:
    """The RouteConfiguration ``models`` for all rollouts, as the JSON that Envoy reads.

    ``marks``, one at least, are those by which workers may say that a request is decided. ``replay_bytes`` are what
    Envoy keeps of a request's body, to send it once more: a request with a larger one has no second attempt.
    """
    ordered = sorted(rollouts, key=lambda compiled: compiled.key)
    host = {**_EVERY_ROUTE, "requestBodyBufferLimit": replay_bytes}
    if ordered:
        decided = {
            "matcherTree": {
                "input": _header_input(HEADER_ROLLOUT),
                "exactMatchMap": {"map": {compiled.key: {"matcher": _decided(compiled)} for compiled in ordered}},
            },
            "onNoMatch": _NOBODYS,
        }
        host["matcher"] = {
            "matcherList": {"matchers": [{"predicate": _marked(marks), "onMatch": {"matcher": decided}}]},
            "onNoMatch": _undecided(ordered),
        }
    return {"@type": f"{_TYPES}.config.route.v3.RouteConfiguration", "name": ROUTE_CONFIG_NAME, "virtualHosts": [host]}


def render_clusters(rollouts: Iterable[CompiledRollout]) -> list[dict[str, Any]]:
    """The clusters of versions whose servers the documents name, and the fallback clusters of all, as Envoy reads them.

    Where two rollouts name servers for one cluster, those of the first by name are taken.
    """
    rollouts = sorted(rollouts, key=lambda compiled: compiled.key, reverse=True)
    addresses = {name: address for compiled in rollouts for name, address in compiled.addresses.items()}
    pairs = {
        (upstream, compiled.upstreams[compiled.stable])
        for compiled in rollouts
        for upstream in compiled.upstreams.values()
        if upstream != compiled.upstreams[compiled.stable]
    }
    return [
        *(upstream_cluster(name, *address) for name, address in sorted(addresses.items())),
        *(fallback_cluster(upstream, stable) for upstream, stable in sorted(pairs)),
    ]


def fallback_name(upstream: str, stable: str) -> str:
    """The cluster through which ``upstream`` is reached with ``stable`` behind it."""
    return upstream if upstream == stable else f"{upstream}-or-{stable}"


def _marked(marks: Sequence[str]) -> dict[str, Any]:
    """What is true of a request that has one of the marks."""
    each = [{"singlePredicate": {"input": _header_input(HEADER_MARK), "valueMatch": {"exact": mark}}} for mark in marks]
    return each[0] if len(each) == 1 else {"orMatcher": {"predicate": each}}


def _decided(compiled: CompiledRollout) -> dict[str, Any]:
    """The matcher for requests that were decided by ``compiled``: version -> route, else stable."""
    return {
        "matcherTree": {
            "input": _header_input(HEADER_VERSION),
            "exactMatchMap": {
                "map": {
                    version: _action("route", _any_path(_to(f"{compiled.key}@{version}", cluster, compiled)))
                    for version, cluster in sorted(compiled.upstreams.items())
                }
            },
        },
        "onNoMatch": _action("route", _any_path(_by_default(compiled))),
    }


def _undecided(rollouts: Iterable[CompiledRollout]) -> dict[str, Any]:
    """What finds the stable of an undecided request, in the order in which a decision looks for its rollout.

    A table of all paths leads to the few routes that a path which begins so can match: Envoy goes here once for every
    request, before it asks for the decision, so this must not grow with the number of rollouts. Only where the lists
    would repeat many entries, because many of them have no path, there is one list for all.
    """
    entries = [(entry, compiled) for compiled in rollouts for entry in compiled.match]
    by_path: dict[str, list[_Entry]] = {}
    for entry, compiled in entries:
        by_path.setdefault(entry.path or "/", []).append((entry, compiled))
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
    # Of rollouts that share an entry, in a layer, any might have decided.
    denied = {entry for entry, compiled in ordered if compiled.denies_unanswered}
    routes = [
        {**(_denied(compiled) if entry in denied else _to_stable(compiled)), "match": match}
        for entry, compiled in ordered
        for match in _matches(entry)
    ]
    return _action("undecided", {"@type": f"{_TYPES}.config.route.v3.RouteList", "routes": routes})


def _precedence(entry: MatchKey, key: str) -> tuple[Any, ...]:
    """The Gateway API's: exact host, longer wildcard, any host; exact path, longer prefix; more headers; name."""
    wildcard = entry.host.startswith("*")
    host = (2 if not entry.host else 1 if wildcard else 0, -len(entry.host) if wildcard else 0)
    return (*host, not entry.exact, -len(entry.path), -len(entry.headers), key)


def _to_stable(compiled: CompiledRollout) -> dict[str, Any]:
    """An undecided request's route, without its match."""
    return {**_by_default(compiled), "requestHeadersToRemove": [*OWN_HEADERS]}


def _denied(compiled: CompiledRollout) -> dict[str, Any]:
    """The same where no decision is a denial."""
    as_json = {"header": {"key": "content-type", "value": "application/json"}}
    return {
        "name": f"{compiled.key}@undecided",
        "directResponse": {"status": 503, "body": {"inlineString": UNDECIDED}},
        "responseHeadersToAdd": [{**as_json, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "requestHeadersToRemove": [*OWN_HEADERS],
    }


def _matches(entry: MatchKey) -> list[dict[str, Any]]:
    """What a route asks of a request to fit the entry, any of these.

    A prefix ends at a segment or at ':', which takes Envoy two matches to say.
    """
    headers = [_header_equals(name, value.decode()) for name, value in entry.headers]
    hosts = [[*matches, *headers] for matches in _host_is(entry.host)] if entry.host else [headers]
    if entry.exact:
        paths = [{"path": entry.path}]
    elif not entry.path:
        paths = [{"prefix": "/"}]
    else:
        paths = [{"pathSeparatedPrefix": entry.path}, {"prefix": f"{entry.path}:"}]
    return [{**path, "headers": of} if of else path for of in hosts for path in paths]


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


def _by_default(compiled: CompiledRollout) -> dict[str, Any]:
    """The route to stable of a request whose version nobody said, without its match."""
    return _to(f"{compiled.key}@default", compiled.upstreams[compiled.stable], compiled)


def _to(name: str, cluster: str, compiled: CompiledRollout) -> dict[str, Any]:
    """A route of ``compiled`` without its match: to ``cluster``, with stable behind it."""
    stable = compiled.upstreams[compiled.stable]
    action = {"cluster": fallback_name(cluster, stable), **_limits(compiled.timeouts)}
    return {"name": name, "route": action if cluster == stable else {**action, "retryPolicy": _ON_TO_STABLE}}


def _limits(timeouts: Timeouts) -> dict[str, str]:
    """What a route says of time; of what is None nothing, so that Envoy goes by its own."""
    of_both = {"timeout": timeouts.answer, "idleTimeout": timeouts.idle}
    return {
        name: f"{seconds:.9f}".rstrip("0").rstrip(".") + "s" for name, seconds in of_both.items() if seconds is not None
    }


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


def upstream_cluster(name: str, host: str, port: int) -> dict[str, Any]:
    """The cluster of that name, of one version: all addresses that Envoy finds for ``host``, looked up again and again.

    Envoy uses it when it has looked them up once.
    """
    address = {"socketAddress": {"address": host, "portValue": port}}
    endpoints = [{"lbEndpoints": [{"endpoint": {"address": address}}]}]
    return {**_UPSTREAM, "name": name, "loadAssignment": {"clusterName": name, "endpoints": endpoints}}


_UPSTREAM: Final = {
    "@type": f"{_TYPES}.config.cluster.v3.Cluster",
    "type": "STRICT_DNS",
    "connectTimeout": "1s",
    "respectDnsTtl": True,
}
"""What all of them have in common."""


def fallback_cluster(upstream: str, stable: str) -> dict[str, Any]:
    """The cluster of that name."""
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
