"""A decision as JSON: the same fields in the decision log, in ``explain`` and in ``replay``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from extproc.datapath.model import Decision, FeatureValue

RECORD_FIELDS: Final = (
    "decision_id",
    "revision",
    "policy_revision",
    "rollout",
    "epoch",
    "arm",
    "unit",
    "bucket",
    "ranges",
    "version",
    "upstream",
    "shadow",
    "reason",
    "features",
    "fallbacks",
    "stage_us",
)


FEATURES_OF: Final = "features_of"
"""A field more, where versions read views of their own: by version as ``features`` are."""


def record_of(
    decision: Decision,
    unit: str | None,
    log_features: Collection[str] | None = None,
    ranges: orjson.Fragment | None = None,
) -> dict[str, Any]:
    """The record of ``decision``: ``RECORD_FIELDS``, and maybe ``FEATURES_OF``, made of what orjson encodes.

    ``unit`` is what stands for the unit: its pseudonym where it is written down, its text where its owner asked.
    Features outside ``log_features`` keep their age and source and lose their value; None withholds nothing.
    ``ranges`` are the decision's ranges where they are encoded already.
    """
    record = {
        "decision_id": decision.decision_id,
        "revision": decision.revision,
        "policy_revision": decision.policy_revision,
        "rollout": decision.rollout,
        "epoch": decision.epoch,
        "arm": decision.arm,
        "unit": unit,
        "bucket": decision.bucket,
        "ranges": ranges or {arm: [*span] for arm, span in decision.ranges.items()},
        "version": decision.version,
        "upstream": decision.upstream,
        "shadow": decision.shadow,
        "reason": decision.reason,
        "features": _features(decision.features, log_features),
        "fallbacks": decision.fallbacks,
        "stage_us": decision.stage_us,
    }
    if decision.features_of:
        record[FEATURES_OF] = {
            version: _features(values, log_features) for version, values in decision.features_of.items()
        }
    return record


def _features(values: Mapping[str, FeatureValue], shown: Collection[str] | None) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": value, "age": age, "source": source}
        if shown is None or name in shown
        else {"age": age, "source": source}
        for name, (value, age, source) in values.items()
    }


def unit_text(unit: bytes | None) -> str | None:
    """A raw unit for the one who asked about it; bytes that are not UTF-8 are escaped."""
    return None if unit is None else unit.decode("utf-8", "backslashreplace")
