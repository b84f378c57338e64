"""What requests are decided from: frozen, compiled, swapped in one assignment.

Nothing here parses, loads or waits; ``compile.py`` makes it, ``holder.py`` keeps it current.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from extproc.assignment import BucketRange
from extproc.clock import Clock
from extproc.matching import NOTHING_REPEATED, MatchKey, MatchTable, Repeated


class ArmRange(NamedTuple):
    """The buckets that an arm owns, and the version that its units get."""

    arm: str
    version: str
    range: BucketRange


@dataclass(frozen=True, slots=True)
class UnitSource:
    """Where the unit of randomisation is read from.

    Exactly one of ``header`` (lower case) and ``cookie`` is set. ``per_request`` says what a request without a unit
    gets: a draw of its own (``missing: request``) instead of stable.
    """

    header: str | None = None
    cookie: str | None = None
    per_request: bool = False


class FeatureView(NamedTuple):
    """What is read of an entity: features of a view, and the names of the join keys that say which entity.

    ``integer_keys`` are those of the join keys that are whole numbers; the others are text.
    """

    name: str
    features: tuple[str, ...]
    join_keys: tuple[str, ...] = ("entity",)
    integer_keys: tuple[str, ...] = ()


class JoinKey(NamedTuple):
    """Where the value of one join key is read from, and whether it is a whole number."""

    source: UnitSource
    is_integer: bool = False


@dataclass(frozen=True, slots=True)
class FeatureNeed:
    """The features that a rollout reads, and a source for each of the view's join keys.

    ``view`` is stable's, ``others`` are the views of other versions that may be served and read another one, each
    once, and ``of_versions`` says which version reads which of them.
    Times are in seconds; ``max_age`` None accepts any age.
    """

    entity: tuple[JoinKey, ...]
    view: FeatureView
    max_age: float | None
    timeout: float
    missing_is_stable: bool
    others: tuple[FeatureView, ...] = ()
    of_versions: tuple[tuple[str, FeatureView], ...] = ()

    @property
    def view_names(self) -> frozenset[str]:
        """Of all that is read."""
        return frozenset(view.name for view in (self.view, *self.others))


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """The rule that a rollout asks: ``routing/decision`` is the rule ``decision`` of package ``routing``.

    ``deny_on_error`` is whether a fault of the rule is a denial; None: where the rule can deny.
    ``deny_unanswered`` is whether a request that got no decision is denied, by the rendered routes.
    ``timeout`` is for how long a verdict is waited for that somebody else gives, ``remember`` for how long such a one
    may be given again, in seconds; 0 is never. ``reads`` are the parts of the input that the rule is given; None: as
    much as it reads.
    """

    path: str
    deny_on_error: bool | None
    deny_unanswered: bool = False
    timeout: float = 0.01
    remember: float = 0.0
    reads: tuple[str, ...] | None = None


class Holdout(NamedTuple):
    """Units whose holdout bucket is below ``percent`` (hundredths) are kept out of everything."""

    name: bytes
    percent: int


class Layer(NamedTuple):
    """The part of a layer's buckets in which this rollout may draw."""

    name: bytes
    range: BucketRange


class Shadow(NamedTuple):
    """A copy of ``percent`` (hundredths) of the units' requests goes to ``version``."""

    version: str
    percent: int


class BreakerLimits(NamedTuple):
    """When a version is taken away for failing.

    Within ``window`` seconds: at least ``min_requests`` of which more than ``error_rate`` (0 to 1) failed, or
    ``consecutive`` failures in a row.
    """

    window: float
    min_requests: int
    error_rate: float
    consecutive: int


class Timeouts(NamedTuple):
    """How long Envoy waits for an answer's end, and while nothing moves: seconds, 0 for ever, None for its own."""

    answer: float | None = None
    idle: float | None = None


@dataclass(frozen=True, slots=True)
class CompiledRollout:
    """One rollout, ready to decide with: its accepted spec and its status, in slots.

    ``match`` are its entries in the match table. ``arms`` are the ranges of the canary (one entry, absent when there
    is none) or of every variant, ``ranges`` the same for the record. Outside all of them a canary rollout's unit is
    ``control``, an experiment's is not covered. ``versions`` are those that may be served. ``stable`` is
    status.stable, for an experiment the last variant's version. ``aborted`` holds the versions with a tombstone.
    ``upstreams`` maps every version, the shadow's too, to its Envoy cluster; names and versions in it are legal
    header values. ``weight`` is the canary's in hundredths of a percent.
    ``addresses`` maps those clusters that are rendered to the host and port of their servers.
    ``number`` and ``arm_codes`` are what decision ids carry of the epoch and the arm; what is counted of the epoch is
    kept by ``epoch_id``. A trip counts in the ``attempt``
    in which it was, see ``Status``, and for a variant not if it was before the version was ``lifted`` (Unix seconds).
    ``successor`` is the rollout from ``successor_at`` (Unix seconds) on, while a rise is pending.
    ``policy_input`` is the constant ``input.rollout``; ``plan`` is the JSON object ``{"spec", "status"}`` from which
    this rollout can be compiled again, for the decision log.
    """

    key: str
    namespace: str
    name: str
    model: str
    match: tuple[MatchKey, ...]
    epoch: int
    number: int
    epoch_id: int
    attempt: int
    unit: UnitSource
    seed: bytes
    stable: str
    canary: str | None
    experiment: bool
    arms: tuple[ArmRange, ...]
    ranges: Mapping[str, tuple[int, int]]
    versions: frozenset[str]
    upstreams: Mapping[str, str]
    aborted: frozenset[str]
    arm_codes: Mapping[str, int]
    breaker: BreakerLimits | None
    holdout: Holdout | None
    layer: Layer | None
    shadow: Shadow | None
    features: FeatureNeed | None
    policy: PolicyUse | None
    log_headers: frozenset[str]
    log_features: frozenset[str]
    weight: int
    policy_input: Mapping[str, Any]
    plan: bytes
    lifted: Mapping[str, float] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()  # noqa: RUF009 - immutable
    successor: CompiledRollout | None = None
    successor_at: float = 0.0

    @property
    def denies_unanswered(self) -> bool:
        """Whether a request that nobody decided is denied: ``spec.policy.noAnswer``."""
        return self.policy is not None and self.policy.deny_unanswered

    def at(self, clock: Clock) -> CompiledRollout:
        """The rollout as it stands now: a rise that is due has happened, in whichever worker the request is.

        Asked for each request, because workers that were to swap by a timer would do so one after another, and a unit
        that met two of them would change sides twice.
        """
        successor = self.successor
        return successor if successor is not None and clock.now() >= self.successor_at else self


@dataclass(frozen=True, slots=True)
class Overlay:
    """What takes versions away without a compile: an operator's kill, the breaker's trips.

    ``probing`` are those of the ``tripped`` versions that a few of their buckets get, to see whether they are well.
    """

    killed: bool = False
    tripped: frozenset[str] = frozenset()
    probing: frozenset[str] = frozenset()


NO_OVERLAY = Overlay()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that requests are decided from at one revision of the store.

    ``overlay`` is what the store says of kills and trips, ``host_overlay`` the same with what this host holds, for the
    rollouts that have any.
    """

    revision: int
    rollouts: Mapping[str, CompiledRollout]
    table: MatchTable
    overlay: Mapping[str, Overlay] = field(default_factory=dict)
    host_overlay: Mapping[str, Overlay] = field(default_factory=dict)

    def find(
        self, host: str, path: str, headers: Mapping[str, bytes], repeated: Repeated = NOTHING_REPEATED
    ) -> tuple[CompiledRollout, ...]:
        """The rollouts of a request, see ``MatchTable.find``; more than one only where they share a layer."""
        return tuple([self.rollouts[key] for key in self.table.find(host, path, headers, repeated)])

    def overlay_of(self, key: str) -> Overlay:
        """The kill and trips of the rollout ``key``."""
        return self.host_overlay.get(key) or self.overlay.get(key, NO_OVERLAY)
