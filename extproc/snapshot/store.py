"""The port to the place where documents, status, history and tombstones are kept.

Spec is intent, status is truth. A document's body is always one that was accepted: what is refused never replaces
it. Every write bumps one global revision, so that a reader asks only for what changed since the last it saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

POLL_SECONDS: Final = 0.1
"""How often a reader asks the store for changes."""

RAISE_DELAY_SECONDS: Final = 2 * POLL_SECONDS
"""A rise in weight takes effect this long after its commit, when every worker has it: all change over together."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a rollout stands; what requests are routed by.

    Weights are hundredths of a percent. ``weight`` is in force from ``effective_at`` (Unix seconds) on, until then
    ``previous_weight`` is. ``drawn`` is the weight whose range still names the arm of a unit after an abort took the
    weight to 0. ``spec_stable`` is what spec.stable resolved to when the rollout was adopted. For an experiment
    ``stable`` is the last variant's version and ``canary`` is None. ``ranges_key`` fingerprints what the ranges
    depend on: when it changes, ``epoch`` does.
    """

    stable: str
    canary: str | None = None
    weight: int = 0
    previous_weight: int = 0
    effective_at: float = 0.0
    drawn: int = 0
    step: int = 0
    epoch: int = 1
    phase: str = "Progressing"
    reason: str = "adopted"
    message: str = ""
    killed: bool = False
    aborted: tuple[str, ...] = ()
    spec_stable: str = ""
    ranges_key: str = ""
    conditions: tuple[Mapping[str, Any], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """One row: the accepted document, its status, and the versions with a tombstone.

    ``resource_version`` is the revision at which the row last changed, the token of compare-and-swap. ``source`` is
    the file of a followed folder that applied it, or None. A deleted rollout is reported once with ``deleted``.
    """

    namespace: str
    name: str
    document: Mapping[str, Any]
    status: Status | None
    resource_version: int
    source: str | None = None
    deleted: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened to a rollout: when (Unix seconds), by whom, what, why, and the details."""

    at: float
    namespace: str
    name: str
    actor: str
    action: str
    message: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed after a revision. ``complete`` means: this is everything there is, anything else is gone."""

    revision: int
    rollouts: Sequence[StoredRollout]
    complete: bool = False


class RolloutStore(Protocol):
    """Documents, status, history and tombstones. Synchronous; never called while a request is decided.

    Every method raises ``Unreachable`` with ``store_unreachable``, ``store_locked``, ``store_corrupt``,
    ``store_read_only`` or ``store_full`` when the store cannot do what was asked; nothing is then half written.
    """

    def changes(self, since: int) -> Changes | None:
        """What changed after revision ``since`` (0: everything); None, cheaply, if nothing did.

        A store that was deleted, or made again in place, raises ``Unreachable`` (``store_recreated`` when it is a
        new, empty one) until ``reopen``: an empty replacement never clears a snapshot.
        """
        ...

    def get(self, namespace: str, name: str) -> StoredRollout | None:
        """One rollout as it stands, or None."""
        ...

    def list(self) -> Sequence[StoredRollout]:
        """All rollouts, by namespace and name."""
        ...

    def write(
        self,
        namespace: str,
        name: str,
        *,
        expect: int | None,
        document: Mapping[str, Any] | None = None,
        status: Status | None = None,
        source: str | None = None,
        history: Sequence[HistoryEntry] = (),
    ) -> StoredRollout:
        """Write document and/or status with history, in one transaction, if the row is still at ``expect``.

        ``expect`` None means that the row must not exist. Tombstones are the status's ``aborted``; they survive
        ``delete``. Raises ``Refused`` (``conflict``) when somebody else wrote first.
        """
        ...

    def delete(self, namespace: str, name: str, *, expect: int, history: Sequence[HistoryEntry] = ()) -> None:
        """Remove a rollout; its tombstones and history stay. Raises ``Refused`` (``conflict``)."""
        ...

    def tombstones(self, namespace: str, name: str) -> tuple[str, ...]:
        """The versions of ``namespace/name`` that were aborted and not retried, deleted rollouts included."""
        ...

    def history(self, namespace: str, name: str, limit: int = 100) -> Sequence[HistoryEntry]:
        """The newest entries, oldest first."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...
