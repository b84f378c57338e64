"""The answers in numbers: what ``build/demo.json`` holds, and the table and the picture are drawn from."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from extproc.demo.screen import Screen
from extproc.demo.traffic import ServedRequest
from extproc.demo.versions import DESCRIPTIONS, VERSIONS
from extproc.demo.watching import unix
from extproc.names import FEATURE_FAULT_REASONS, POLICY_FAULT_REASONS, Reason

BIN_REQUESTS: Final = 80
RATE_SECONDS: Final = 0.5

FALLBACKS: Final = frozenset(
    {
        *POLICY_FAULT_REASONS,
        Reason.UNIT_MISSING,
        Reason.UNIT_AMBIGUOUS,
        *FEATURE_FAULT_REASONS,
        Reason.ATTRIBUTES_TOO_LARGE,
        Reason.LOG_FULL,
    }
)
"""Reasons that mean: something was not as it should be, so the user got stable."""


def measure(answers: Sequence[ServedRequest], reasons: Mapping[str, str]) -> dict[str, Any]:
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
        "rates": _rates(answers),
    }


def weights_asked_for(history: Iterable[Mapping[str, Any]], began_at: float) -> list[dict[str, float]]:
    """Which weight was asked for when (seconds of a traffic that began at ``began_at``); a kill asks for 0."""
    asked: list[dict[str, float]] = [{"second": 0.0, "weight": 0}]
    for entry in history:
        if entry["action"] in ("set-weight", "kill"):
            second = unix(entry["at"]) - began_at
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
    broken = facts["rollouts"][VERSIONS[-1]]["failed_requests"]
    total = [
        f"fallbacks: {facts['fallbacks']}\nerrors: {facts['errors'] - broken}\nversion {VERSIONS[-1]}'s: {broken}",
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


def print_rollouts(screen: Screen, facts: Mapping[str, Any]) -> None:
    """What became of each version that came without anybody's doing."""
    rows = [
        [
            f"version {version}",
            ending["outcome"],
            ending["reason"],
            "-" if ending["seconds_to_zero"] is None else f"{ending['seconds_to_zero']:.2f}",
            f"{ending['requests']:,}",
            f"{ending['failed_requests']:,}",
        ]
        for version, ending in facts["rollouts"].items()
    ]
    columns = ["", "outcome", "reason", "seconds to zero", "requests", "failed"]
    screen.table(columns, rows, [""] * len(columns))
    for version, ending in facts["rollouts"].items():
        if ending["from"] is not None:
            screen.say(f"version {version}: seconds from when {ending['from']}, to its last answer.", style="dim")


def _version(version: str, answered: Sequence[ServedRequest]) -> dict[str, Any]:
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


def _shares(answered: Sequence[ServedRequest]) -> list[dict[str, float]]:
    """The share of each version among each BIN_REQUESTS requests, in the order in which they were sent."""
    ordered = sorted(answered, key=lambda answer: answer.sent)
    bins = [ordered[start : start + BIN_REQUESTS] for start in range(0, len(ordered), BIN_REQUESTS)]
    return [
        {
            "from": round(found[0].sent, 3),
            "to": round(found[-1].sent, 3),
            **{
                f"version_{version}": round(statistics.fmean(answer.version == version for answer in found), 4)
                for version in VERSIONS
            },
        }
        for found in bins
    ]


def _rates(answers: Sequence[ServedRequest]) -> dict[str, Any]:
    """What each version answered in each RATE_SECONDS: requests, failed ones, healthy patients, those it alarmed."""
    counts: dict[int, dict[str, list[int]]] = defaultdict(lambda: {version: [0, 0, 0, 0] for version in VERSIONS})
    for answer in answers:
        if answer.version in VERSIONS:
            count = counts[int(answer.sent / RATE_SECONDS)][answer.version]
            count[0] += 1
            count[1] += answer.error is not None
            count[2] += answer.error is None and not answer.sick
            count[3] += answer.error is None and not answer.sick and bool(answer.said_sick)
    bins = [
        {
            "from": number * RATE_SECONDS,
            **{
                f"version_{version}": dict(
                    zip(("requests", "failed", "healthy", "false_positives"), count, strict=True)
                )
                for version, count in counts[number].items()
                if count[0]
            },
        }
        for number in sorted(counts)
    ]
    return {"seconds": RATE_SECONDS, "bins": bins}


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def _milliseconds(ordered: Sequence[float], quantile: float) -> float | None:
    return round(1000 * ordered[int(quantile * (len(ordered) - 1))], 1) if ordered else None
