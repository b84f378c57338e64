"""Every metric there is, each once: its name, its labels, what it says. The pages' table is tested against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from extproc.datapath.feature_counts import AGE_BOUNDS, LATENCY_BOUNDS
from extproc.names import POLICY_FAULT_REASONS, POLICY_UNHEARD_REASONS

STAGE_BUCKETS: Final = (
    *(5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3),
)
"""Upper bounds in seconds: from the cheapest stage to a feature store at its deadline."""


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """Only rises; over several processes it is the sum.

    One of one label has a series for each of ``values`` from the start, at 0: what appears with its first event has no
    increase, and no alert sees that one.
    """

    type: ClassVar[Literal["counter"]] = "counter"
    name: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Gauge:
    """Goes up and down; of several processes ``over`` is taken."""

    type: ClassVar[Literal["gauge"]] = "gauge"
    name: str
    help: str
    labels: tuple[str, ...] = ()
    over: Literal["min", "max"] = "max"


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of observations by ``buckets``, their upper bounds, and their sum."""

    type: ClassVar[Literal["histogram"]] = "histogram"
    name: str
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]


AnyMetric = Counter | Gauge | Histogram

DECISIONS: Final = Counter(
    "dropout_decisions_total",
    "Decisions; rollout, version and arm are empty when no rollout matched.",
    ("rollout", "version", "arm", "reason"),
)
STAGES: Final = Histogram(
    "dropout_stage_seconds", "Seconds that a decision spent in each stage.", ("stage",), STAGE_BUCKETS
)
FALLBACKS: Final = Counter(
    "dropout_fallbacks_total",
    "What could not be had (a unit, a feature, a verdict), whether or not it changed the outcome.",
    ("rollout", "reason"),
)
POLICY_FAULTS: Final = Counter(
    "dropout_policy_faults_total",
    "Requests for which a policy gave no verdict; of which rollout, `dropout_fallbacks_total` says.",
    ("reason",),
    values=tuple(POLICY_FAULT_REASONS),
)
BUILD_INFO: Final = Gauge(
    "dropout_build_info", "1 for each version of Dropout that runs as `serve` or as a controller.", ("version",)
)
SNAPSHOT_REVISION: Final = Gauge(
    "dropout_snapshot_revision", "Store revision that the worker furthest behind decides from.", over="min"
)
SNAPSHOT_AGE: Final = Gauge(
    "dropout_snapshot_age_seconds",
    "Seconds since the store last confirmed the snapshot, in the worker where it is longest.",
)
POLICY_INFO: Final = Gauge(
    "dropout_policy_info", "1 for each policy revision that a worker decides with.", ("revision",)
)
POLICY_AGE: Final = Gauge(
    "dropout_policy_age_seconds", "Seconds since the policies were taken over, in the worker where it is longest."
)
RELOADS_REFUSED: Final = Counter(
    "dropout_reloads_refused_total",
    "Reloads that were refused; the last good one stays in force.",
    ("what",),
    values=("rollouts", "policies", "bundles", "policies_shadow", "envoy"),
)
DOCUMENTS_MISSING: Final = Gauge(
    "dropout_documents_missing", "Documents that left the rollouts' folder and are not deleted yet."
)
LOG_DROPS: Final = Counter(
    "dropout_decision_log_drops_total", "Decisions that the decision log had to leave out.", ("sink",)
)
LOG_ERRORS: Final = Counter(
    "dropout_decision_log_errors_total", "Attempts to write the decision log that failed.", ("sink",)
)
WORKERS_REPLACED: Final = Counter("dropout_workers_replaced_total", "Workers that died or hung and were replaced.")
CACHE_HITS: Final = Counter(
    "dropout_feature_cache_hits_total", "Requests whose features were in the worker's cache.", ("view",)
)
CACHE_MISSES: Final = Counter(
    "dropout_feature_cache_misses_total",
    "Reads of the feature store, because the cache had no answer, or an old one.",
    ("view",),
)
CACHE_REFUSED: Final = Counter(
    "dropout_feature_cache_refused_total", "Answers of the feature store that were too large to be remembered."
)
CACHE_BYTES: Final = Gauge(
    "dropout_feature_cache_bytes", "Bytes, about, of features that are remembered, in the worker where they are most."
)
CACHE_ENTRIES: Final = Gauge(
    "dropout_feature_cache_entries", "Answers that are remembered, in the worker where they are most."
)
FEATURE_ERRORS: Final = Counter(
    "dropout_feature_read_errors_total",
    "Reads of the feature store that failed, or found what cannot be read.",
    ("view",),
)
FEATURE_STALE: Final = Counter(
    "dropout_feature_stale_total", "Requests to which a value was older than their `maxAge`.", ("view",)
)
FEATURES_STALE: Final = Gauge(
    "dropout_features_stale",
    "1 while too large a share of the requests meets values that are too old.",
    ("view",),
)
FEATURE_READ_SECONDS: Final = Histogram(
    "dropout_feature_read_seconds", "Seconds until the feature store had answered.", ("view",), LATENCY_BOUNDS
)
FEATURE_AGE: Final = Histogram(
    "dropout_feature_age_seconds",
    "Seconds since their event time, of values as the store gave them.",
    ("view",),
    AGE_BOUNDS,
)
FEATURE_STORE_UP: Final = Gauge(
    "dropout_feature_store_up",
    "0 while a worker leaves the feature store alone; absent without one.",
    over="min",
)
FEATURE_OPENINGS: Final = Counter(
    "dropout_feature_store_openings_total", "Times that the feature store was left alone for being late or away."
)
FEATURES_LIMITED: Final = Counter(
    "dropout_feature_reads_limited_total",
    "Requests whose features were not read: entities that nobody vouches for had caused too many reads.",
)
VERDICT_HITS: Final = Counter("dropout_verdict_cache_hits_total", "Requests whose verdict the worker remembered.")
VERDICT_MISSES: Final = Counter(
    "dropout_verdict_cache_misses_total", "Evaluations of policies because nothing was remembered."
)
POLICY_ENGINE_UP: Final = Gauge(
    "dropout_policy_engine_up",
    "0 while a worker leaves the engine of `--policy-engine` alone; absent without one.",
    over="min",
)
POLICY_QUESTIONS: Final = Counter("dropout_policy_questions_total", "Questions to the engine of `--policy-engine`.")
POLICY_JOINED: Final = Counter(
    "dropout_policy_joined_total", "Requests that shared the question of another, which asked the same."
)
POLICY_REMEMBERED: Final = Counter(
    "dropout_policy_remembered_total", "Requests whose verdict was remembered, as `spec.policy.remember` allows."
)
POLICY_OPENINGS: Final = Counter(
    "dropout_policy_openings_total", "Times that the engine of `--policy-engine` was left alone for being late or away."
)
POLICY_SHADOW_UP: Final = Gauge(
    "dropout_policy_shadow_up",
    "1 while decisions are compared with the policies of `--policies-shadow`; absent without them.",
    over="min",
)
POLICY_SHADOW_INFO: Final = Gauge(
    "dropout_policy_shadow_info", "1 for the revision that decisions are compared with.", ("revision",)
)
POLICY_SHADOW_DECISIONS: Final = Counter(
    "dropout_policy_shadow_decisions_total",
    "Decisions that the policies of `--policies-shadow` were asked about, by what came of it.",
    ("outcome",),
    values=("same", "different", "incomparable"),
)
POLICY_SHADOW_DIFFERENCES: Final = Counter(
    "dropout_policy_shadow_differences_total",
    "Decisions that they would change, by what changes first: `denied`, `allowed`, `status`, `version`, `shadow`, "
    "`reason`.",
    ("rollout", "kind"),
)
POLICY_SHADOW_FAULTS: Final = Counter(
    "dropout_policy_shadow_faults_total",
    "Times that they gave no verdict, by why.",
    ("reason",),
    values=tuple(sorted(POLICY_FAULT_REASONS - POLICY_UNHEARD_REASONS)),
)
POLICY_SHADOW_DROPPED: Final = Counter(
    "dropout_policy_shadow_dropped_total",
    "Decisions of the share that were not compared: no room in the queue, no message that can be sent, nobody there, "
    "a rollout that is not known there yet.",
    ("why",),
    values=("full", "unsendable", "gone", "unplanned"),
)
POLICY_SHADOW_UNLOGGED: Final = Counter(
    "dropout_policy_shadow_unlogged_total",
    "Differences that were counted and not logged: more than 10 in a second, or the log took them not.",
)
POLICY_SHADOW_REPLACED: Final = Counter(
    "dropout_policy_shadow_replaced_total", "Processes of `--policies-shadow` that died or hung and were replaced."
)
STREAM_ERRORS: Final = Counter(
    "dropout_stream_errors_total", "Streams that ended in an error of the client or of Dropout."
)
TASK_FAILURES: Final = Counter(
    "dropout_task_failures_total", "Failures of work in the background by a bug; it begins again.", ("task",)
)
OUTCOMES: Final = Counter(
    "dropout_outcomes_total",
    "How requests ended, by the version that they were decided for.",
    ("rollout", "version", "outcome"),
)
ROLLOUT_WEIGHT: Final = Gauge(
    "dropout_rollout_weight", "Percent of the units that get the canary, while there is one.", ("rollout",)
)
ROLLOUT_PHASE: Final = Gauge("dropout_rollout_phase", "1 for the phase that the rollout is in.", ("rollout", "phase"))
ROLLOUT_KILLED: Final = Gauge("dropout_rollout_killed", "1 while a kill is in force.", ("rollout",))
ROLLOUT_TRIPPED: Final = Gauge(
    "dropout_rollout_tripped", "1 while the version is taken away by a breaker.", ("rollout", "version")
)
TRIPS: Final = Counter(
    "dropout_trips_total", "Versions that a breaker took away, of whichever host.", ("rollout", "version")
)
ABORTS: Final = Counter("dropout_aborts_total", "Versions that were aborted, by whomever.", ("rollout",))
KILLS: Final = Counter("dropout_kills_total", "Kills, by whomever.", ("rollout",))
OBSERVER_UP: Final = Gauge("dropout_observer_up", "Whether the observer takes Envoy's access log; absent without one.")
OBSERVER_AGE: Final = Gauge(
    "dropout_observer_age_seconds", "Seconds since Envoy last sent some of its access log, or since the start."
)
OBSERVER_ENTRIES: Final = Counter("dropout_observer_entries_total", "Requests that Envoy told the end of.")
OBSERVER_DROPPED: Final = Counter(
    "dropout_observer_dropped_total",
    "What the observer could not take into account, of the log or of counts.",
    ("why",),
)
OBSERVER_SURPLUS: Final = Counter(
    "dropout_observer_surplus_total",
    "Ends of requests that Envoy told of beyond the decisions.",
    ("rollout", "version"),
)
OBSERVER_REPLACED: Final = Counter("dropout_observer_replaced_total", "Observers that died or hung and were replaced.")
SAFETY_WAITING: Final = Gauge(
    "dropout_safety_waiting", "Kills and trips of this host that the store does not have yet."
)
SAFETY_KEPT: Final = Gauge(
    "dropout_safety_kept", "1 while all kills and trips of this host stand in its file.", over="min"
)
ENVOY_DELIVERED: Final = Gauge(
    "dropout_envoy_delivered",
    "1 while the Envoy of `--envoy-admin` has the routes and clusters that were rendered last.",
    ("envoy",),
    over="min",
)
FEEDBACK: Final = Counter(
    "dropout_feedback_total", "Records of feedback by what became of them: `recorded`, or why not.", ("code",)
)
CONTROLLER_LEADS: Final = Gauge(
    "dropout_controller_leads", "1 in the controller that moves rollouts, 0 in those that stand by."
)
CONTROLLER_ROLLOUTS: Final = Gauge("dropout_controller_rollouts", "Rollouts under way, where the controller leads.")
CONTROLLER_STABLE_TRIPPED: Final = Gauge(
    "dropout_controller_stable_tripped",
    "Rollouts whose stable version was tripped (`StableTripped`), where the controller leads.",
)
CONTROLLER_TRANSITIONS: Final = Counter(
    "dropout_controller_transitions_total", "Steps that the controller took with rollouts."
)

METRICS: Final[tuple[AnyMetric, ...]] = tuple(each for each in list(globals().values()) if isinstance(each, AnyMetric))
"""All of the above, in the order of the table on the pages."""
