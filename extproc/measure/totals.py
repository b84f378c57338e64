"""The counts of one epoch of a rollout, arm by arm, from its beginning on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from extproc.measure.outcomes import Counts, Ends
from extproc.measure.sketch import LatencySketch
from extproc.measure.units import UnitSample

UNIT_GROUPS: Final = 256
"""Units fall evenly into this many groups; requests of one unit are one group's, so groups vary independently."""


@dataclass(slots=True)
class ArmTotals:
    """What became of the requests of one arm, whatever version served them.

    ``decided`` counts decisions, ``requests`` the outcomes seen of them. ``failures`` are outcomes that failed, a
    retry that another version answered (``fallbacks``) among them. ``missing`` are decisions whose outcome was waited
    for in vain while others came. ``groups`` are [requests, failures] by group of units; outcomes without a unit are
    in no group, and neither is what is missing. ``abandoned`` are requests whose client left before it had its answer,
    which are no outcomes, and ``abandoned_groups`` how many by group.

    ``surplus`` are ends that the log told of and no decision stands for, or that it told of again: none of them counts.

    ``latency`` holds all of them: what was abandoned, or is missing, with the time until then, so that a quantile is
    never too low for those who did not wait.
    """

    decided: int = 0
    requests: int = 0
    failures: int = 0
    fallbacks: int = 0
    missing: int = 0
    abandoned: int = 0
    surplus: int = 0
    latency: LatencySketch = field(default_factory=LatencySketch)
    groups: dict[int, list[int]] = field(default_factory=dict)
    abandoned_groups: dict[int, int] = field(default_factory=dict)

    @property
    def outcomes(self) -> Counts:
        """The outcomes, those that are missing among them: they failed."""
        return Counts(self.requests + self.missing, self.failures + self.missing)

    @property
    def ends(self) -> Ends:
        """The outcomes, and what was abandoned."""
        return Ends(self.outcomes, self.abandoned)

    def abandon(self, group: int | None) -> None:
        """Count a request whose client left; ``group`` None is a unit that is unknown."""
        self.abandoned += 1
        if group is not None:
            self.abandoned_groups[group] = self.abandoned_groups.get(group, 0) + 1

    def merge(self, other: ArmTotals) -> None:
        """Add what ``other`` counted."""
        self.decided += other.decided
        self.requests += other.requests
        self.failures += other.failures
        self.fallbacks += other.fallbacks
        self.missing += other.missing
        self.abandoned += other.abandoned
        self.surplus += other.surplus
        self.latency.merge(other.latency)
        for group, (requests, failures) in other.groups.items():
            counts = self.groups.setdefault(group, [0, 0])
            counts[0] += requests
            counts[1] += failures
        for group, abandoned in other.abandoned_groups.items():
            self.abandoned_groups[group] = self.abandoned_groups.get(group, 0) + abandoned

    def to_json(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return {
            "decided": self.decided,
            "requests": self.requests,
            "failures": self.failures,
            "fallbacks": self.fallbacks,
            "missing": self.missing,
            "abandoned": self.abandoned,
            "surplus": self.surplus,
            "latency": self.latency.to_json(),
            "groups": [(group, *counts) for group, counts in sorted(self.groups.items())],
            "abandoned_groups": sorted(self.abandoned_groups.items()),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """The reverse of ``to_json``. What an older Dropout wrote lacks what was abandoned and the surplus."""
        return cls(
            decided=body["decided"],
            requests=body["requests"],
            failures=body["failures"],
            fallbacks=body["fallbacks"],
            missing=body["missing"],
            abandoned=body.get("abandoned", 0),
            surplus=body.get("surplus", 0),
            latency=LatencySketch.from_json(body["latency"]),
            groups={group: [requests, failures] for group, requests, failures in body["groups"]},
            abandoned_groups=dict(body.get("abandoned_groups", ())),
        )


@dataclass(slots=True)
class EpochTotals:
    """All arms of one epoch of the rollout ``rollout`` (``namespace/name``); ``epoch`` is its id, see ``epoch_id``.

    ``updated_at`` is when the last of it was reported, ``unheard_since`` when the first decision was after the last
    outcome (None: there was none after it), in Unix seconds. ``units`` are the different units that were decided by
    their bucket.
    """

    rollout: str
    epoch: int
    updated_at: float = 0.0
    unheard_since: float | None = None
    arms: dict[str, ArmTotals] = field(default_factory=dict)
    units: UnitSample = field(default_factory=UnitSample)

    def arm(self, name: str) -> ArmTotals:
        """The counts of an arm, which begin with nothing."""
        return self.arms.setdefault(name, ArmTotals())

    def merge(self, other: EpochTotals) -> None:
        """Add what ``other`` counted in the same epoch of the same rollout."""
        self.updated_at = max(self.updated_at, other.updated_at)
        unheard = [since for since in (self.unheard_since, other.unheard_since) if since is not None]
        self.unheard_since = min(unheard, default=None)
        for name, totals in other.arms.items():
            self.arm(name).merge(totals)
        self.units.merge(other.units)
