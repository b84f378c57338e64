"""What a request's end says about the version that it was decided for."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Final, NamedTuple

from extproc.measure.outcomes import End

UPSTREAM_FAULTS: Final = frozenset(
    (
        "no_healthy_upstream",  # UH
        "upstream_request_timeout",  # UT
        "local_reset",  # LR
        "upstream_remote_reset",  # UR
        "upstream_connection_failure",  # UF
        "upstream_connection_termination",  # UC
        "upstream_overflow",  # UO
        "no_route_found",  # NR
        "upstream_max_stream_duration_reached",  # UMSDR
        "upstream_protocol_error",  # UPE
        "no_cluster_found",  # NC
        "dns_resolution_failure",  # DF
    )
)
"""Envoy's response flags for a version that did not answer, or broke its answer off: then the status may be 200."""

_UPGRADED: Final = 101
_FAULTS_OF_UPGRADED: Final = UPSTREAM_FAULTS - {"upstream_connection_termination"}
"""The same of an upgraded connection, which its version closes first when all is well (RFC 6455, section 7.1.1)."""

NO_GRPC_STATUS: Final = -1
"""A gRPC call that ended without a status: it was broken off."""

_GRPC_CANCELLED: Final = 1
GRPC_FAILURES: Final = frozenset((NO_GRPC_STATUS, 2, 4, 12, 13, 14, 15))
"""The gRPC statuses that a version fails with: those that are a 5xx where gRPC is mapped to HTTP (google.rpc.Code),
which is also what Envoy's outlier detection goes by: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE
and DATA_LOSS. Of the others, a 4xx, the client or the moment is the cause, RESOURCE_EXHAUSTED (429) among them."""

CLIENT_LEFT: Final = frozenset(
    (
        "downstream_connection_termination",  # DC
        "downstream_protocol_error",  # DPE
        "downstream_remote_reset",  # DR
    )
)
"""Envoy's response flags for a request that its client ended."""


class RequestOutcome(StrEnum):
    """How a request ended, for the version that it was decided for.

    SUCCESS   the version answered; a 4xx is an answer too
    FAILURE   it answered with 5xx or a gRPC status that is one, did not answer in time, or broke off
    FALLBACK  stable answered in its place, because it could not be reached, refused, or said 503: its failure
    UNROUTED  Envoy has no route to it yet and asked stable: nothing is known of the version
    ABANDONED the client left before it had its answer: it would have taken longer, how much is not known
    MISSING   nothing was heard of the request within the limit, while stable's were heard of: its failure
    """

    SUCCESS = "success"
    FAILURE = "failure"
    FALLBACK = "fallback"
    UNROUTED = "unrouted"
    ABANDONED = "abandoned"
    MISSING = "missing"


FAILURES: Final = frozenset((RequestOutcome.FAILURE, RequestOutcome.FALLBACK, RequestOutcome.MISSING))
"""What counts against a version."""

ENDS: Final = {
    RequestOutcome.SUCCESS: End.ANSWERED,
    RequestOutcome.ABANDONED: End.ABANDONED,
    **dict.fromkeys(FAILURES, End.FAILED),
}
"""What is held for or against a version. ``UNROUTED`` is neither."""

OF_STABLE: Final = frozenset((RequestOutcome.FALLBACK, RequestOutcome.UNROUTED))
"""What stable's cluster answered in a version's place."""


class RequestEnd(NamedTuple):
    """A request's end, as Envoy logs it.

    ``status`` is 0 when there was none. ``cluster`` is the cluster that was asked last, empty if none was; behind a
    composite cluster it is the member, never the composite itself, and two clusters of one address are still two.
    ``attempts`` counts what was sent upstream: a member that has no endpoint, or that does not exist, is passed over
    without being counted, so it tells nothing about who answered. ``grpc`` is the status of a gRPC call, else None.
    """

    status: int
    flags: Collection[str]
    cluster: str
    route: str
    attempts: int
    milliseconds: float
    grpc: int | None = None


def left(answer: RequestEnd, *, stream: bool = False) -> bool:
    """Whether the client gave up before it had its answer, and had no error until then.

    Of a ``stream``, whose end is as often the client's, that it began is answer enough.
    """
    if CLIENT_LEFT.isdisjoint(answer.flags):
        return answer.grpc == _GRPC_CANCELLED
    return answer.status == 0 if stream else answer.status < 500


def failed(answer: RequestEnd) -> bool:
    """Whether the client got an error, or half an answer.

    Of an upgraded connection nobody can tell whether it was half: Envoy says of one that was closed in order what it
    says of one that broke off.
    """
    if answer.status == _UPGRADED:
        return not _FAULTS_OF_UPGRADED.isdisjoint(answer.flags)
    if answer.status >= 500 or not UPSTREAM_FAULTS.isdisjoint(answer.flags):
        return True
    return answer.grpc in GRPC_FAILURES and (answer.grpc != NO_GRPC_STATUS or CLIENT_LEFT.isdisjoint(answer.flags))


def outcome_of(
    answer: RequestEnd, key: str, version: str, own: str, stable: str, *, stream: bool = False
) -> RequestOutcome:
    """The outcome for ``version`` of ``key`` (``namespace/name``), whose cluster is ``own``.

    ``stable`` is the cluster of the rollout's stable when the request was decided. That stable answered is a fallback
    on the version's own route, and after a retry on a route of anybody's; on the rollout's default route it is what
    Envoy does with a version that it has no route to.
    """
    if answer.cluster == stable and own != stable:
        default = f"{key}@default"
        routed = answer.route == f"{key}@{version}" or (answer.attempts > 1 and answer.route != default)
        return RequestOutcome.FALLBACK if routed else RequestOutcome.UNROUTED
    if left(answer, stream=stream):
        return RequestOutcome.ABANDONED
    return RequestOutcome.FAILURE if failed(answer) else RequestOutcome.SUCCESS
