"""A decision as JSON: the same fields in the decision log, in ``explain`` and in ``replay``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import orjson

from extproc.datapath.model import Decision

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


def record_of(
    decision: Decision,
    unit: str | None,
    log_features: Collection[str] | None = None,
    ranges: orjson.Fragment | None = None,
) -> dict[str, Any]:
    """The record of ``decision``: exactly ``RECORD_FIELDS``, made of what orjson encodes.

    ``unit`` is what stands for the unit: its pseudonym where it is written down, its text where its owner asked.
    Features outside ``log_features`` keep their age and source and lose their value; None withholds nothing.
    ``ranges`` are the decision's ranges where they are encoded already.
    """
    return {
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
        "features": {
            name: {"value": value, "age": age, "source": source}
            if log_features is None or name in log_features
            else {"age": age, "source": source}
            for name, (value, age, source) in decision.features.items()
        },
        "fallbacks": decision.fallbacks,
        "stage_us": decision.stage_us,
    }


def unit_text(unit: bytes | None) -> str | None:
    """A raw unit for the one who asked about it; bytes that are not UTF-8 are escaped."""
    return None if unit is None else unit.decode("utf-8", "backslashreplace")
