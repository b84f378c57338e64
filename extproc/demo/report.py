"""The answers in numbers: what ``build/demo.json`` holds, and the table and the picture are drawn from."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from extproc.demo.screen import Screen
from extproc.demo.traffic import Answer
from extproc.demo.versions import DESCRIPTIONS, VERSIONS
from extproc.names import Reason

BIN_REQUESTS: Final = 80

FALLBACKS: Final = frozenset(
    {
        Reason.POLICY_ERROR,
        Reason.POLICY_UNDEFINED,
        Reason.POLICY_INVALID,
        Reason.POLICY_QUARANTINED,
        Reason.UNIT_MISSING,
        Reason.UNIT_AMBIGUOUS,
        Reason.FEATURE_MISSING,
        Reason.FEATURE_STALE,
        Reason.FEATURE_TIMEOUT,
        Reason.ATTRIBUTES_TOO_LARGE,
    }
)
"""Reasons that mean: something was not as it should be, so the user got stable."""


def measure(answers: Sequence[Answer], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can be counted; ``reasons`` maps decision ids to reasons, from the decision log."""
    answered = [answer for answer in answers if answer.error is None]
    decided = Counter(reasons.get(answer.seen["x-decision-id"], "not_logged") for answer in answered if answer.decided)
    fallbacks = {reason: count for reason, count in sorted(decided.items()) if reason in FALLBACKS}
    undecided = sum(not answer.decided for answer in answered)
    if undecided:
        fallbacks["failed_open"] = undecided
    took = sorted(answer.took for answer in answered)
    return {
        "requests": len(answers),
        "errors": len(answers) - len(answered),
        "error_kinds": dict(Counter(answer.error for answer in answers if answer.error)),
        "fallbacks": sum(fallbacks.values()),
        "fallback_reasons": fallbacks,
        "reasons": dict(decided.most_common()),
        "milliseconds": {"p50": _milliseconds(took, 0.5), "p99": _milliseconds(took, 0.99)},
        "versions": {version: _version(version, answered) for version in VERSIONS},
        "shares": _shares(answered),
    }


def weights_asked_for(history: Iterable[Mapping[str, Any]], began_at: float) -> list[dict[str, float]]:
    """Which weight was asked for when (seconds of a traffic that began at ``began_at``); a kill asks for 0."""
    asked: list[dict[str, float]] = [{"second": 0.0, "weight": 0}]
    for entry in history:
        if entry["action"] in ("set-weight", "kill"):
            second = datetime.fromisoformat(entry["at"]).timestamp() - began_at
            asked.append({"second": round(second, 3), "weight": entry["detail"].get("to", 0)})
    return asked


def print_table(screen: Screen, facts: Mapping[str, Any]) -> None:
    """Requests, share, accuracy and false-positive rate by version; what went wrong in the footer."""
    rows = [
        [
            f"version {version}",
            f"{numbers['requests']:,}",
            _percent(numbers["share"]),
            _percent(numbers["accuracy"]),
            _percent(numbers["false_positive_rate"]),
            f"{numbers['copies']:,}",
        ]
        for version, numbers in facts["versions"].items()
    ]
    columns = ["", "requests", "share", "accuracy", "false positives", "shadow copies"]
    copies = sum(numbers["copies"] for numbers in facts["versions"].values())
    total = [
        f"fallbacks: {facts['fallbacks']}\nerrors: {facts['errors']}",
        f"{facts['requests']:,}",
        "",
        "",
        "",
        f"{copies:,}",
    ]
    screen.table(columns, rows, total)
    waited = facts["milliseconds"]
    screen.say(
        f"Users waited {waited['p50']} ms (median), {waited['p99']} ms (p99), the model included.",
        style="dim",
    )


def _version(version: str, answered: Sequence[Answer]) -> dict[str, Any]:
    own = [answer for answer in answered if answer.version == version]
    healthy = [answer for answer in own if not answer.sick]
    return {
        "description": DESCRIPTIONS[version],
        "requests": len(own),
        "share": _ratio(len(own), len(answered)),
        "accuracy": _ratio(sum(answer.said_sick == answer.sick for answer in own), len(own)),
        "false_positive_rate": _ratio(sum(bool(answer.said_sick) for answer in healthy), len(healthy)),
        "copies": 0,
    }


def _shares(answered: Sequence[Answer]) -> list[dict[str, float]]:
    """The share of version 2 among each BIN_REQUESTS requests, in the order in which they were sent."""
    ordered = sorted(answered, key=lambda answer: answer.sent)
    bins = [ordered[start : start + BIN_REQUESTS] for start in range(0, len(ordered), BIN_REQUESTS)]
    return [
        {
            "from": round(found[0].sent, 3),
            "to": round(found[-1].sent, 3),
            "version_2": round(statistics.fmean(answer.version == VERSIONS[1] for answer in found), 4),
        }
        for found in bins
    ]


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def _milliseconds(ordered: Sequence[float], quantile: float) -> float | None:
    return round(1000 * ordered[int(quantile * (len(ordered) - 1))], 1) if ordered else None
