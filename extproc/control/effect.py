"""What an action comes to for users, whatever it is called: more for a candidate, another stable, less for somebody.

Several ways lead to the same end, so a policy is told the end. It is read off what stands before and after, and off
what follows from that with nobody's further word: whoever ends the last pause makes stable what the steps end with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from extproc.assignment import BUCKETS
from extproc.control.applied import servers_of
from extproc.control.status_changes import is_under_way, stands_still
from extproc.control.steps.kinds import kind_of
from extproc.resources.rollout import Rollout
from extproc.store.status import Status

_ALL: Final = BUCKETS**4
"""Every request: of a weight, of the coverage, outside a holdout, within a layer."""

_NARROWING: Final = ("model", "upstream", "endpoints", "match", "unit", "features", "policy")
"""What of a spec decides which requests are drawn, and what serves them, without being a share of them."""

Share = Mapping[tuple[str, bool], int]
"""Of ``_ALL`` what each candidate gets: a version, and whether it is sent copies that it answers nobody for."""


class Effect(NamedTuple):
    """What an action does, at once or by what follows with nobody's further word.

    ``gives_more``: a version that is not stable can get a larger share of the requests, copies included.
    ``makes_stable``: another version, or another cluster, can come to serve all of them, or all of others than it was
    about to; what the last promotion replaced and comes back in place of what is taken away is no other.
    ``takes_away``: a version gets less, or will.
    """

    gives_more: bool = False
    makes_stable: bool = False
    takes_away: bool = False


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a rollout stands. Without a ``rollout`` its document cannot be read, or it was deleted (``gone``)."""

    status: Status
    rollout: Rollout | None
    gone: bool = False


class _Course(NamedTuple):
    """What candidates get, and the clusters of those that come to serve everything."""

    shares: Share = {}
    serving_all: frozenset[str] = frozenset()


def effect(before: Stand | None, after: Stand | None) -> Effect:
    """What it does to make ``before`` (None: there was nothing) into ``after`` (None: it is deleted).

    What cannot be known is taken for what gives most.
    """
    if after is None:
        return Effect(takes_away=True)
    was = [_now(before, least=True), _ahead(before, least=True)] if before is not None else [_Course()] * 2
    will = [_now(after), _ahead(after)]
    status = after.status
    hastened = before is not None and not set(status.without) <= set(before.status.without)
    if hastened:  # what a silent observer holds back was not to come by itself
        was[1] = was[0]
    stable_before = before.status.stable if before is not None else status.stable
    for_others = _narrows_otherwise(before, after)  # what was let come to some requests comes to others
    return Effect(
        gives_more=any(_rises(a, b, stable_before) for a, b in zip(was, will, strict=True))
        or (for_others and any(will[1].shares.values())),
        makes_stable=_replaces_stable(before, after)
        or any(b.serving_all - a.serving_all for a, b in zip(was, will, strict=True))
        or (for_others and bool(will[1].serving_all)),
        takes_away=_stops(before, after) or any(_rises(b, a, status.stable) for a, b in zip(was, will, strict=True)),
    )


def on_others(lost: Sequence[Stand], wins: Stand) -> Effect:
    """What it does that requests which were those of ``lost`` become those of ``wins``.

    Its stable serves them at once, and its candidates get of them what they get. What is stable there already is no
    other.
    """
    stable, ahead = _cluster(wins, wins.status.stable), _ahead(wins)
    before = {_cluster(one, one.status.stable) for one in lost}
    other = bool(before - {stable}) or "" in before
    return Effect(
        gives_more=other or (bool(before) and any(ahead.shares.values())),
        makes_stable=other or (bool(before) and bool(ahead.serving_all - before)),
    )


def both(one: Effect, other: Effect) -> Effect:
    """What two effects come to."""
    return Effect(*(a or b for a, b in zip(one, other, strict=True)))


def _rises(before: _Course, after: _Course, stable: str) -> bool:
    """Whether a version gets more; what is ``stable`` before is nobody's candidate and has had the most."""
    return any(share > before.shares.get(key, 0) for key, share in after.shares.items() if key[0] != stable)


def _stops(before: Stand | None, after: Stand) -> bool:
    was = before.status if before is not None else Status("")
    now = after.status
    grew = not set(now.aborted) <= set(was.aborted) or not set(now.tripped) <= set(was.tripped)
    return grew or (now.killed and not was.killed)


def _replaces_stable(before: Stand | None, after: Stand) -> bool:
    """Whether another version is stable, or another cluster is what serves it."""
    if before is None or not before.status.stable:
        return False
    was, now = before.status, after.status
    if was.stable == now.stable:
        clusters = (_cluster(before, was.stable), _cluster(after, now.stable))
        return "" not in clusters and clusters[0] != clusters[1]
    return not (now.stable == was.previous.get("stable") and was.stable in now.aborted)


def _cluster(stand: Stand, version: str) -> str:
    """The cluster of ``version``, with its servers; empty if nobody can say."""
    if stand.rollout is not None:
        return servers_of(stand.rollout, version)
    return str(stand.status.applied.get("upstream", "")).replace("{version}", version)


def _narrows_otherwise(before: Stand | None, after: Stand) -> bool:
    if before is None or before.rollout is None or after.rollout is None or before.rollout is after.rollout:
        return False
    specs = before.rollout.spec, after.rollout.spec
    return any(getattr(specs[0], name) != getattr(specs[1], name) for name in _NARROWING)


def _now(stand: Stand, *, least: bool = False) -> _Course:
    """What is given as it stands, a rise that is still to come included; nothing is where least is to be assumed."""
    status, rollout = stand.status, stand.rollout
    if stand.gone or status.killed or (rollout is None and least):
        return _Course()
    if status.canary is not None:
        return _Course(*_of_canary(stand, status.weight, status.shadow))
    if rollout is None:
        return _Course({("", False): _ALL}, frozenset({""}))
    spec = rollout.spec
    taken = {status.stable, *status.taken_away}
    drawn: dict[str, int] = {}
    for variant in spec.variants:
        if variant.version not in taken:
            drawn[variant.version] = drawn.get(variant.version, 0) + variant.weight
    coverage = BUCKETS if spec.coverage is None else spec.coverage
    shares = {(version, False): weight * coverage * _kept_in(rollout) for version, weight in drawn.items()}
    displaced = sum(drawn.values()) * coverage == BUCKETS**2
    serving_all = frozenset(_cluster(stand, version) for version in drawn) if displaced else frozenset[str]()
    return _Course({**shares, **_copies(stand)}, serving_all)


def _ahead(stand: Stand, *, least: bool = False) -> _Course:
    """What comes of it by its steps until somebody has to say something; analyses pass, and nothing trips."""
    status, rollout = stand.status, stand.rollout
    goes_on = is_under_way(status) and not stands_still(status) and not status.killed and _is_free(status)
    if stand.gone or status.canary is None or not goes_on or (rollout is None and least):
        return _now(stand, least=least)
    if rollout is None:
        return _Course(*_of_canary(stand, BUCKETS, BUCKETS))
    rest = [kind_of(step).reach for step in rollout.spec.steps[status.step :]]
    until = next((index for index, step in enumerate(rest) if step.waits), None)
    weight = max([status.weight, *(step.weight for step in rest[:until])])
    shadow = max([status.shadow, *(step.shadow for step in rest[:until])])
    shares, serving_all = _of_canary(stand, weight, shadow)
    promoted = frozenset({_cluster(stand, status.canary)}) if rollout.spec.steps and until is None else serving_all
    return _Course(shares, promoted)


def _is_free(status: Status) -> bool:
    return status.canary != status.stable and status.canary not in status.taken_away


def _of_canary(stand: Stand, weight: int, shadow: int) -> tuple[dict[tuple[str, bool], int], frozenset[str]]:
    """What the canary gets with a weight, and whether that is everything; with the copies that anybody gets."""
    canary = stand.status.canary
    shares = _copies(stand)
    if canary is None or not _is_free(stand.status):
        return shares, frozenset()
    kept_in = _kept_in(stand.rollout)
    shares[canary, True] = max(shadow * BUCKETS * kept_in, shares.get((canary, True), 0))
    shares[canary, False] = weight * BUCKETS * kept_in
    return shares, frozenset({_cluster(stand, canary)}) if weight == BUCKETS else frozenset()


def _copies(stand: Stand) -> dict[tuple[str, bool], int]:
    if stand.rollout is None or stand.rollout.spec.shadow is None:
        return {}
    shadow = stand.rollout.spec.shadow
    version = stand.rollout.spec.resolve(shadow)
    return (
        {}
        if version in stand.status.taken_away
        else {(version, True): shadow.percent * BUCKETS * _kept_in(stand.rollout)}
    )


def _kept_in(rollout: Rollout | None) -> int:
    """Of the square of ``BUCKETS`` the units that neither a holdout nor a layer keeps out."""
    if rollout is None:
        return BUCKETS**2
    holdout, layer = rollout.spec.holdout, rollout.spec.layer
    first, last = layer.range if layer is not None else (0, BUCKETS)
    return (BUCKETS - (holdout.percent if holdout is not None else 0)) * (last - first)


def effect_json(found: Effect) -> dict[str, Any]:
    """An effect as policies see it."""
    return {"givesMore": found.gives_more, "makesStable": found.makes_stable, "takesAway": found.takes_away}
