"""Nobody gets requests who cannot serve them: what proxies know of clusters, held against what an action gives."""

from __future__ import annotations

from typing import Protocol

from extproc.errors import Refused
from extproc.resources.rollout import Rollout
from extproc.store.status import Status


class Clusters(Protocol):
    """What the proxies know of clusters. Answers at once, from what it heard last; from any thread."""

    def unready(self, cluster: str) -> str:
        """Why ``cluster`` cannot take more requests: the same words as long as it is the same; empty if it can."""
        ...


class AllClusters:
    """``Clusters`` where no proxy is asked: every one can take whatever it gets."""

    def unready(self, _cluster: str) -> str:
        """See ``Clusters``."""
        return ""


def gives_more(before: Status, after: Status) -> bool:
    """Whether ``after`` gives a version more requests, copies of them included."""
    restored = before.killed and not after.killed and after.weight > 0
    served = after.canary not in after.taken_away
    return (
        (restored and served)
        or after.stable != before.stable
        or after.weight > before.weight
        or after.shadow > before.shadow
    )


def refuse_unready(clusters: Clusters, rollout: Rollout, before: Status, after: Status) -> None:
    """Refuse what ``gives_more`` to a version whose upstream cannot take it.

    Raises:
        Refused: ``upstream_not_ready``.
    """
    version = after.stable if after.stable != before.stable else after.canary
    if version is not None and (why := clusters.unready(rollout.upstream_of(version))):
        message = f"version {version} of {rollout.key} cannot serve: {why}; with --store nobody asks Envoy"
        raise Refused.of("upstream_not_ready", message)
