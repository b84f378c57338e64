"""How the rollouts ended, measured on what users got: pure functions of answers and of statuses that were seen."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from extproc.demo.traffic import ServedRequest
from extproc.demo.watching import Seen, StatusBody, unix

PROMOTED: Final = "promoted"
ROLLED_BACK: Final = "rolled_back"
TRIPPED: Final = "tripped"


@dataclass(slots=True)
class Ending:
    """The end of one version's rollout. Times are seconds of the traffic.

    ``since`` is when what condemns the version had happened, and ``event`` says what that is; ``last_served`` is when
    a user had the last answer of the version. A promoted version has neither.
    """

    version: str
    began: float
    ended: float = 0.0
    outcome: str = ""
    reason: str = ""
    message: str = ""
    event: str = ""
    since: float | None = None
    last_served: float | None = None
    requests: int = 0
    failed_requests: int = 0
    weights: list[dict[str, float]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds_to_zero(self) -> float | None:
        """From ``since`` to the last answer of the version; in whole milliseconds, so that it is rounded once."""
        if self.since is None or self.last_served is None:
            return None
        return round(max(0.0, self.last_served - self.since), 3)

    def count(self, answers: Sequence[ServedRequest]) -> None:
        """Take the numbers from all answers since the rollout began."""
        own = [answer for answer in answers if answer.version == self.version]
        self.requests = len(own)
        self.failed_requests = sum(answer.error is not None for answer in own)
        if self.since is not None:
            self.last_served = max((answer.ended for answer in own), default=self.since)

    def facts(self) -> dict[str, Any]:
        """The ending as ``build/demo.json`` has it."""
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "message": self.message,
            "seconds_to_zero": self.seconds_to_zero,
            "from": self.event or None,
            "from_second": _rounded(self.since),
            "last_request_second": _rounded(self.last_served),
            "began": _rounded(self.began),
            "ended": _rounded(self.ended),
            "requests": self.requests,
            "failed_requests": self.failed_requests,
            "weights": self.weights,
            "history": self.history,
        }


def is_promoted(status: StatusBody, version: str) -> bool:
    """Whether ``version`` became stable."""
    return bool(status["stable"] == version and status["phase"] == "Healthy")


def is_aborted(status: StatusBody, version: str) -> bool:
    """Whether ``version`` has a tombstone."""
    return version in status["aborted"]


def is_tripped(status: StatusBody, version: str) -> bool:
    """Whether the breaker's word on ``version`` is in the store."""
    return version in status["tripped"]


def outcome_of(status: StatusBody, version: str) -> str:
    """What became of ``version``; empty while that is open."""
    if is_promoted(status, version):
        return PROMOTED
    if is_tripped(status, version):
        return TRIPPED
    return ROLLED_BACK if is_aborted(status, version) else ""


def weights_of(version: str, seen: Iterable[Seen], began_at: float) -> list[dict[str, float]]:
    """Which weight ``version`` had from when on (seconds of a traffic that began at ``began_at``, Unix seconds)."""
    points: list[dict[str, float]] = []
    for second, status in ((each.second, each.status) for each in seen):
        if version not in (status["canary"], status["stable"]):
            continue
        weight, at = float(status["weight"]), unix(status["effectiveAt"]) - began_at
        if status["stable"] == version:
            weight = 100.0
        elif is_tripped(status, version):
            weight, at = 0.0, second  # the word is in force before it is written down
        if not points or points[-1]["weight"] != weight:
            points.append({"second": round(at, 3), "weight": weight})
    return points


def failed_in_a_row(answers: Iterable[ServedRequest], version: str, count: int) -> float | None:
    """When a user had the ``count``th failure of ``version`` in a row (seconds of the traffic)."""
    run = 0
    for answer in sorted((answer for answer in answers if answer.version == version), key=lambda answer: answer.ended):
        run = run + 1 if answer.error is not None else 0
        if run == count:
            return answer.ended
    return None


def median_milliseconds(answers: Sequence[ServedRequest]) -> float | None:
    """How long users waited for these answers; None for none."""
    return round(1000 * statistics.median(answer.took for answer in answers), 1) if answers else None


def false_positive_rate(answers: Iterable[ServedRequest]) -> float:
    """The share of healthy patients who were told that they are sick."""
    healthy = [answer for answer in answers if not answer.sick and answer.said_sick is not None]
    return sum(bool(answer.said_sick) for answer in healthy) / max(1, len(healthy))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
