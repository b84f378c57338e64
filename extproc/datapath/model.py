"""What flows along the request path: request → attributes → gather → decide → mutation.

Transport-neutral: gRPC and HTTP fill the same ``Request`` and drain the same ``Mutation``. What is made for every
request is a NamedTuple: a third of the cost of a frozen dataclass, which sets its fields one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from extproc.matching import Repeated
from extproc.names import ARM_TAKEN_AWAY, Reason


@dataclass(slots=True)
class Request:
    """The request as Envoy described it.

    ``headers`` has lower-case names, pseudo-headers (``:path`` and so on) included, and the bytes as received; a
    name that came more than once is joined by ``,`` (cookies by ``; ``) and has its values in ``repeated``. ``path``
    carries the query. ``attributes`` are the request attributes that Envoy was asked for. ``too_large`` says that
    the headers are over the limits: the decision then ends at stable. ``full`` says that Envoy would refuse it with
    any more headers: then none are set, and its default route leads to stable.
    """

    method: str
    path: str
    host: str
    scheme: str
    headers: dict[str, bytes]
    repeated: Repeated = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    too_large: bool = False
    full: bool = False


class Unit(NamedTuple):
    """What is hashed. ``value`` is None when there is nothing to hash; ``fault`` says why it is not the usual one."""

    value: bytes | None
    fault: Reason | None = None
    per_request: bool = False


class Buckets(NamedTuple):
    """The unit's draws; None where the rollout has no such stage or there is no unit. Replay starts from these.

    ``quotient`` is the unit's hash divided by the number of buckets, which the bucket says nothing about; 0 without a
    unit. No decision depends on it.
    """

    unit: int | None = None
    holdout: int | None = None
    layer: int | None = None
    shadow: int | None = None
    quotient: int = 0


class FeatureValue(NamedTuple):
    """A feature as it was read; ``source`` is ``cache`` or ``store``.

    ``age`` is in seconds since its event time, None where the store does not know that.
    """

    value: Any
    age: float | None
    source: str


class Features(NamedTuple):
    """All features that a rollout reads and that were found, and the first reason why one was not.

    ``values`` are those of the stable version's view, ``of`` by version those of the versions that read another.
    """

    values: Mapping[str, FeatureValue] = MappingProxyType({})
    fault: Reason | None = None
    of: Mapping[str, Mapping[str, FeatureValue]] = MappingProxyType({})


NO_FEATURES = Features()


class PolicyVerdict(NamedTuple):
    """What the policy said, checked: or ``fault``, why it said nothing that can be used.

    ``versions`` and ``version`` are None when the policy did not set them. ``http_status`` is within 400-599. With a
    fault ``allow`` is False where the policy might have denied: that holds unless the document writes ``onError``.
    ``revision`` is that of the policies that said it, where the engine tells it with each verdict.
    """

    allow: bool = True
    versions: frozenset[str] | None = None
    version: str | None = None
    shadow: bool = True
    reason: str | None = None
    http_status: int = 403
    body: str | None = None
    fault: Reason | None = None
    message: str | None = None
    revision: str | None = None

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict that JSON made of ``_asdict`` says. Raises KeyError, TypeError, ValueError for anything else."""
        versions, fault = said["versions"], said["fault"]
        versions, fault = None if versions is None else frozenset(versions), None if fault is None else Reason(fault)
        return cls(**{**said, "versions": versions, "fault": fault})


class Facts(NamedTuple):
    """All that gather found; the only input of ``decide`` beside the rollout. Recorded facts replay a decision.

    ``policy_input`` is the document that the policy was evaluated on, None without a policy. ``log_full`` says that the
    decision cannot be written down, where what is not may not be exposed.
    """

    unit: Unit
    buckets: Buckets
    features: Features = NO_FEATURES
    verdict: PolicyVerdict | None = None
    policy_input: Mapping[str, Any] | None = None
    too_large: bool = False
    log_full: bool = False


class Denial(NamedTuple):
    """An answer to the client instead of a route: the status (400-599), the policy's reason, and the body.

    ``body`` None asks for the default: a JSON object with the reason and the decision id.
    """

    http_status: int
    reason: str = "policy_deny"
    body: str | None = None


@dataclass(slots=True)
class Decision:
    """What was decided and everything that it was decided from: one record per request.

    ``decision_id`` is made last, because it says how the decision came out. ``unit`` is the raw unit here; the log
    writes a pseudonym. ``ranges`` are the arms' buckets at the time. ``arm`` is what was drawn; ``taken_away`` says
    that its version was not served, because a kill, a trip or an abort took it away.
    ``features`` and ``features_of`` are what was read, see ``Features``.
    ``fallbacks`` name what could not be had (a unit, a feature, a verdict), whether or not it changed the outcome.
    ``stage_us`` are the timings, in microseconds: of matching, features, policy, deciding, all.
    """

    revision: int
    policy_revision: str
    rollout: str | None
    epoch: int
    arm: str | None
    unit: bytes | None
    bucket: int | None
    ranges: Mapping[str, tuple[int, int]]
    version: str | None
    upstream: str | None
    shadow: str | None
    reason: Reason
    features: Mapping[str, FeatureValue]
    decision_id: str = ""
    fallbacks: tuple[str, ...] = ()
    stage_us: Mapping[str, float] = field(default_factory=dict)
    denial: Denial | None = None
    taken_away: bool = False
    features_of: Mapping[str, Mapping[str, FeatureValue]] = field(default_factory=dict)

    @property
    def counted_arm(self) -> str | None:
        """The arm for which counts what comes of this: nothing that a version did not serve counts for it."""
        return ARM_TAKEN_AWAY if self.taken_away else self.arm


class Mutation(NamedTuple):
    """The reply, free of any transport: headers to set (over whatever is there) and to remove, or a denial.

    Names and values are legal HTTP. With a denial, whose body is then filled in, ``set_headers`` go to the client.
    """

    set_headers: tuple[tuple[str, bytes], ...] = ()
    remove_headers: tuple[str, ...] = ()
    denial: Denial | None = None
