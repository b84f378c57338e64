"""The ports to the place where documents, status, history and tombstones are kept, cut by who uses them.

Spec is intent, status is truth. A document's body is always one that was accepted: what is refused never replaces
it. Every write bumps one global revision, so that a reader asks only for what changed since the last it saw.

**What goes for every port.** Synchronous, never called while a request is decided, one object used from one thread at
a time. Every method, and iterating ``Changes.rollouts``, raises ``Unreachable`` with ``store_unreachable``,
``store_recreated``, ``store_locked``, ``store_corrupt``, ``store_incompatible``, ``store_read_only`` or ``store_full``
when the store cannot do what was asked; nothing is then half written.

**Another store in its place** (the file was removed and made again, an older copy was restored) is turned to by the
adapter itself, at the next call. Whoever follows ``changes`` is given all of it, and a write whose ``expect`` or
``documents_at`` was read before is a ``conflict``: a resource version of before is never one of after. A store in its
place that holds no rollout is not turned to, for as long as it holds none: whatever is asked raises
``store_recreated``, so that an empty replacement never clears what is being served. Where there is none at all,
``store_unreachable``. ``Changes.revision`` may be smaller afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from extproc.store.epoch_records import EpochRecord
from extproc.store.records import (
    Changes,
    Documents,
    HistoryEntry,
    Lease,
    StoredRollout,
    StoredTemplate,
    TemplateWrite,
    Tombstone,
    Write,
)
from extproc.store.status import StopsFound

POLL_SECONDS: Final = 0.1
"""How often a reader asks the store for changes."""

WAIT_SECONDS: Final = 2.0
"""How long one operation waits for another process, where nobody says otherwise."""

RAISE_DELAY_SECONDS: Final = 2 * POLL_SECONDS
"""A rise in weight takes effect this long after its commit, when every worker has it: all change over together."""


class ChangeFeed(Protocol):
    """What changed of that by which requests are routed and rollouts moved, for whoever keeps all of them at hand.

    What changes an analysis only (``store.parts``) is not reported: who needs the last measurement asks ``Rollouts``. A
    row that is reported is whole, as it stood when it was read. One object has one follower.
    """

    def changes(self, since: int) -> Changes | None:
        """What changed after revision ``since`` (0: everything), templates too; None, cheaply, if nothing did.

        ``Changes.complete`` where that cannot be told apart from everything else: at first, after what was deleted
        since may have been forgotten, when ``since`` lies ahead of the store, and when another store took its place,
        again and again until ``rollouts`` were taken to their end.
        """
        ...

    def stops(self, since: int) -> StopsFound:
        """What changed after revision ``since`` and stops something; may be asked while ``changes`` are read.

        Cheap, if nothing changed. For whoever takes changes over: what takes away must not wait for what has to be
        parsed and compiled. It turns to no other store: one in its place is ``store_recreated``, until ``changes``
        turned to it.
        """
        ...


class Rollouts(Protocol):
    """Rollouts and templates as they stand, and their past."""

    def get(self, namespace: str, name: str) -> StoredRollout | None:
        """One rollout as it stands, or None. One that is damaged raises ``store_corrupt``."""
        ...

    def documents(self) -> Documents:
        """All rollouts and templates as they stand."""
        ...

    def template(self, namespace: str, name: str) -> StoredTemplate | None:
        """One AnalysisTemplate, or None."""
        ...

    def tombstone(self, namespace: str, name: str) -> Tombstone:
        """What is left of ``namespace/name``, deleted or not."""
        ...

    def deleted(self) -> Sequence[StoredRollout]:
        """The deleted rollouts whose rows are not forgotten yet, each with its last status."""
        ...

    def history(self, namespace: str, name: str, limit: int = 100) -> Sequence[HistoryEntry]:
        """The newest ``limit`` entries, oldest first, of a deleted rollout too.

        What moved a rollout outlives what did not, as ``store.history`` says.
        """
        ...


class RolloutWriter(Protocol):
    """Writes rollouts and templates by compare-and-swap."""

    def write(
        self,
        writes: Sequence[Write],
        *,
        templates: Sequence[TemplateWrite] = (),
        documents_at: int | None = None,
        lease: Lease | None = None,
    ) -> Sequence[StoredRollout]:
        """Do all of ``writes`` and ``templates`` or none, in one transaction, and give the rollouts as they are then.

        Where each of ``writes`` has the ``token`` of one that was done, nothing is done and nothing refused: the
        rollouts are given as they stand, the deleted ones too.

        Raises ``Refused``: ``conflict`` when a row is not where its write expects it, or when any document changed
        since ``documents_at`` (``Documents.revision``), because what was checked together must still be together;
        ``lease_lost`` when somebody else has taken the ``lease`` over since; ``store_limit`` when documents were
        written and the store would then hold more than its ``Limits``, counted in the same transaction.
        """
        ...


class Leases(Protocol):
    """The right to lead: one holder's at a time."""

    def acquire(self, holder: str, seconds: float) -> Lease | None:
        """Lead, or go on leading, for ``seconds`` (``LONGEST_LEASE_SECONDS`` at most) from now.

        None while another holder's lease has not run out, however long it was taken for.
        """
        ...

    def led(self) -> bool:
        """Whether somebody leads."""
        ...

    def release(self, lease: Lease) -> None:
        """Let another lead at once, if ``lease`` is still the one in force."""
        ...


class Epochs(Protocol):
    """The epochs that there were: what labels that come weeks later are attributed by."""

    def epochs(self, number: int) -> Sequence[EpochRecord]:
        """The epochs that decision ids call ``number``, the oldest first. They outlive their rollout by a year."""
        ...

    def epochs_of(self, namespace: str, name: str) -> Sequence[EpochRecord]:
        """The epochs of a rollout, deleted or not, the oldest first."""
        ...


class WritableRollouts(Rollouts, RolloutWriter, Protocol):
    """What is read, and then written if it is still so."""


class ActionStore(WritableRollouts, Leases, Protocol):
    """What actions are done on: some ask whether anybody leads."""


class FollowedRollouts(ChangeFeed, Rollouts, Protocol):
    """What is kept at hand, with what belongs to it."""


class ControlledStore(FollowedRollouts, ActionStore, Protocol):
    """What a controller moves."""


class RolloutStore(ControlledStore, Epochs, Protocol):
    """All of it: what an adapter implements."""

    def close(self) -> None:
        """Let go of the store."""
        ...


class StorePlace(Protocol):
    """Where a store is: what an adapter makes of its URL. Every process opens the store for itself, some more often."""

    def open(self, *, create: bool, wait: float) -> RolloutStore:
        """The store that is there.

        ``create`` makes one where there is none. ``wait`` bounds, in seconds, how long an operation waits for another
        process. Raises ``Unreachable`` as every method of a store does.
        """
        ...
