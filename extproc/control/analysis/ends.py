"""How an arm's requests ended, group by group of units, as comparisons take it: what is missing, what was abandoned."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from extproc.control.analysis.sequential import Groups, compare
from extproc.measure import ArmTotals

ABANDONED_ALPHA: Final = 0.001
"""In so many rollouts of versions that are alike one is taken, at some look, for one that more clients leave."""


def with_missing(arm: ArmTotals) -> Groups:
    """Requests and failures by group of units, decisions whose outcome is missing among both.

    Which units those were of is not known: each group has its share.
    """
    if not arm.missing or not arm.requests:
        return arm.groups
    share = arm.missing / arm.requests
    return {group: (n + n * share, failed + n * share) for group, (n, failed) in arm.groups.items()}


def is_left_more(canary: ArmTotals, control: ArmTotals) -> bool:
    """Whether clients abandon more of the canary's requests than of the control's, beyond all doubt."""
    found = compare(left(canary), left(control), ABANDONED_ALPHA, share=True)
    return found is not None and found.lower > 0


def left(arm: ArmTotals) -> Groups:
    """Requests, and those that were abandoned among them, by group of units."""
    groups = {group: (requests, 0) for group, (requests, _) in arm.groups.items()}
    for group, abandoned in arm.abandoned_groups.items():
        groups[group] = (groups.get(group, (0, 0))[0] + abandoned, abandoned)
    return groups


def with_abandoned(arm: ArmTotals) -> ArmTotals:
    """The arm as if what was abandoned had failed."""
    groups = {group: list(counts) for group, counts in arm.groups.items()}
    for group, abandoned in arm.abandoned_groups.items():
        counts = groups.setdefault(group, [0, 0])
        counts[0] += abandoned
        counts[1] += abandoned
    return replace(arm, requests=arm.requests + arm.abandoned, failures=arm.failures + arm.abandoned, groups=groups)
