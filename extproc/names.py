"""The names that cross a process boundary: headers, reasons, arms. Metric names stand beside the metrics."""

from __future__ import annotations

from enum import StrEnum

HEADER_VERSION = "x-model-version"
HEADER_CLUSTER = "x-model-cluster"
HEADER_ARM = "x-model-arm"
HEADER_ROLLOUT = "x-model-rollout"
HEADER_DECISION_ID = "x-decision-id"
HEADER_SHADOW = "x-model-shadow"

HEADER_MARK = "x-model-mark"
"""Says that the others are Dropout's own, by a value that only this installation knows. The rendered routes take it
off before a version sees it."""

OWN_HEADERS = (
    HEADER_VERSION,
    HEADER_CLUSTER,
    HEADER_ARM,
    HEADER_ROLLOUT,
    HEADER_DECISION_ID,
    HEADER_SHADOW,
    HEADER_MARK,
)
"""Every header that Dropout sets. Clients may not: each is stripped or overwritten in every reply."""

ARM_CANARY = "canary"
ARM_CONTROL = "control"
ARM_EXCLUDED = "excluded"
ARM_TAKEN_AWAY = "taken_away"
"""Where what comes of a decision counts whose arm's version was not served, because it was taken away; nobody is drawn
into it, and no variant can be called so."""
RESERVED_ARMS = frozenset({ARM_CANARY, ARM_EXCLUDED})
"""Names that no variant may have; ``control`` is allowed and usual for the last one."""


class Reason(StrEnum):
    """Why a decision came out as it did: a closed list, because it is a metric label."""

    WEIGHT = "weight"
    KILL_SWITCH = "kill_switch"
    BREAKER_OPEN = "breaker_open"
    VERSION_ABORTED = "version_aborted"
    POLICY_PIN = "policy_pin"
    POLICY_INELIGIBLE = "policy_ineligible"
    POLICY_DENY = "policy_deny"
    POLICY_ERROR = "policy_error"
    POLICY_UNDEFINED = "policy_undefined"
    POLICY_INVALID = "policy_invalid"
    POLICY_QUARANTINED = "policy_quarantined"
    POLICY_TIMEOUT = "policy_timeout"
    POLICY_UNAVAILABLE = "policy_unavailable"
    HOLDOUT = "holdout"
    LAYER = "layer"
    NOT_COVERED = "not_covered"
    UNIT_MISSING = "unit_missing"
    UNIT_AMBIGUOUS = "unit_ambiguous"
    FEATURE_ENTITY_MISSING = "feature_entity_missing"
    FEATURE_MISSING = "feature_missing"
    FEATURE_TYPE = "feature_type"
    FEATURE_STALE = "feature_stale"
    FEATURE_TIMEOUT = "feature_timeout"
    FEATURE_STORE_DOWN = "feature_store_down"
    FEATURE_LIMITED = "feature_limited"
    ATTRIBUTES_TOO_LARGE = "attributes_too_large"
    LOG_FULL = "log_full"
    NO_MATCH = "no_match"


FEATURE_FAULT_REASONS = frozenset(
    {
        Reason.FEATURE_ENTITY_MISSING,
        Reason.FEATURE_MISSING,
        Reason.FEATURE_TYPE,
        Reason.FEATURE_STALE,
        Reason.FEATURE_TIMEOUT,
        Reason.FEATURE_STORE_DOWN,
        Reason.FEATURE_LIMITED,
    }
)
"""A feature that a rollout reads could not be had."""

POLICY_FAULT_REASONS = frozenset(
    {
        Reason.POLICY_ERROR,
        Reason.POLICY_UNDEFINED,
        Reason.POLICY_INVALID,
        Reason.POLICY_QUARANTINED,
        Reason.POLICY_TIMEOUT,
        Reason.POLICY_UNAVAILABLE,
    }
)
"""The policy gave no verdict."""

POLICY_UNHEARD_REASONS = frozenset({Reason.POLICY_TIMEOUT, Reason.POLICY_UNAVAILABLE})
"""Nobody answered who could say what the policy would."""
