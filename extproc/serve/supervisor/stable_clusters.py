"""The supervisor's part in stable versions that Envoy cannot serve: whoever asks for one is answered 503.

A canary waits until Envoy knows its cluster; stable has nobody behind it, and nobody else asks about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from extproc.errors import Fault
from extproc.resources.rollout import DEFAULT_UPSTREAM, expand_upstream
from extproc.serve.supervisor.followed_rows import FollowedRows
from extproc.store.ports import ChangeFeed
from extproc.store.records import StoredRollout

SETTLE_SECONDS: Final = 5.0
"""What is rendered for a change is with Envoy after as long, and names are resolved."""

REFRESH_SECONDS: Final = 30.0
"""How often Envoys are asked where nothing changed: the answer about ten thousand clusters is large."""

MOST: Final = 20
"""Rollouts that are told of at a time; what is wrong with more of them is one thing."""

AskEnvoys = Callable[[], Mapping[str, Mapping[str, str]]]
"""By the address of each Envoy that answers, what is wrong with each cluster that it knows; empty if nothing is."""


class StableClusters:
    """Follows the store that ``open_store`` opens, and asks Envoys by ``ask``. Blocks; one thread's at a time."""

    def __init__(self, open_store: Callable[[], ChangeFeed], ask: AskEnvoys, monotonic: Callable[[], float]) -> None:
        self._rows: FollowedRows[ChangeFeed, str] = FollowedRows(open_store, _stable_cluster)
        self._ask = ask
        self._monotonic = monotonic
        self._clusters: dict[str, str] = {}
        self._due_at = 0.0
        self._entries: list[Mapping[str, Any]] = []

    def entries(self) -> list[Mapping[str, Any]]:
        """Of each rollout whose stable cannot be served, why, as JSON: ``stable_unready``. Raises ``Unreachable``."""
        now = self._monotonic()
        if changed := self._rows.changed(self._clusters):
            kept = {**self._clusters, **changed}
            self._clusters = {key: cluster for key, cluster in kept.items() if cluster is not None}
            self._due_at = now + SETTLE_SECONDS
        if now >= self._due_at and self._clusters:
            answers = self._ask()
            self._entries = list(self._unready(answers))
            self._due_at = now + (REFRESH_SECONDS if answers and not self._entries else SETTLE_SECONDS)
        return [entry for entry in self._entries if entry["rollout"] in self._clusters]

    def _unready(self, envoys: Mapping[str, Mapping[str, str]]) -> Iterator[Mapping[str, Any]]:
        told = 0
        for key, cluster in sorted(self._clusters.items()):
            found = {address: known.get(cluster, "is not known") for address, known in envoys.items()}
            address, why = next(((address, why) for address, why in found.items() if why), ("", ""))
            if why and told < MOST:
                told += 1
                message = (
                    f"cluster {cluster} of the stable version {why}, says Envoy at {address}: requests are answered 503"
                )
                yield {"rollout": key, **Fault("stable_unready", message, field="spec.stable").as_dict()}


def _stable_cluster(row: StoredRollout) -> str | None:
    """The Envoy cluster of the stable version of the rollout in ``row``; None where it has none."""
    spec, stable = row.document.get("spec", {}), row.status.stable
    if not stable or "model" not in spec:
        return None
    template = spec.get("upstream") or DEFAULT_UPSTREAM
    return expand_upstream(template, model=spec["model"], version=stable, namespace=row.namespace, name=row.name)
