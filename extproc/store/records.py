"""What is kept in a store and given by it: rollouts, templates, history, the lease, and what outlives a delete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from extproc.errors import Fault, Refused
from extproc.store.status import NO_STOPS, Status, Stops

LONGEST_LEASE_SECONDS: Final = 300.0
"""What runs out further ahead than this is no lease: it is from before the machine started anew."""

FORGET_DELETED_SECONDS: Final = 30 * 24 * 3600.0
"""A deleted rollout's row and history are dropped after this long; its tombstones stay."""


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """One row: the accepted document and its status.

    ``resource_version`` is another, and a larger one, whenever the row changed: the token of compare-and-swap.
    ``source`` is the file of a followed folder that applied it, or None. A deleted rollout is reported once by
    ``changes``, with ``deleted``, an empty document and its last status.
    """

    namespace: str
    name: str
    document: Mapping[str, Any]
    status: Status
    resource_version: int
    source: str | None = None
    deleted: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened to a rollout: when (Unix seconds), by whom, what, why, and the details.

    ``count`` is how often, since the rollout was moved last and from ``first_at`` (None: ``at``) to ``at``.
    """

    at: float
    namespace: str
    name: str
    actor: str
    action: str
    message: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    first_at: float | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """What to do to one rollout if its row is still at ``expect``; None means that it must not exist.

    A ``document``, ``status`` or ``source`` that is None leaves what is there. ``at_commit`` is given the status when
    nothing stands between it and the store any more, for instants that count from there. ``delete`` removes the
    rollout; its tombstones and history stay. ``token`` is a text that no other write has, for one that is tried again
    when the answer was lost: it is remembered in the transaction that does it, with the last ``REMEMBERED_TOKENS``.
    """

    namespace: str
    name: str
    expect: int | None
    document: Mapping[str, Any] | None = None
    status: Status | None = None
    source: str | None = None
    at_commit: Callable[[Status], Status] = lambda status: status
    delete: bool = False
    history: Sequence[HistoryEntry] = ()
    token: str = ""


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """An AnalysisTemplate as it was accepted, {} if it is damaged; ``source`` as in ``StoredRollout``."""

    namespace: str
    name: str
    document: Mapping[str, Any]
    source: str | None = None

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class TemplateWrite:
    """Store an AnalysisTemplate, or with ``document`` None remove it."""

    namespace: str
    name: str
    document: Mapping[str, Any] | None
    source: str | None = None


REMEMBERED_TOKENS: Final = 1000
"""How many writes may be done before one is tried again; see ``Write.token``."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much a store takes: ``rollouts`` that are there, and ``bytes`` of their and the templates' documents as JSON.

    It bounds what one mistaken loop can do to everybody who reads the store. What is deleted does not count.
    """

    rollouts: int = 100_000
    bytes: int = 1 << 30

    def check(self, rollouts: int, size: int) -> None:
        """Let there be so many rollouts, and ``size`` bytes of documents. Raises ``Refused``: ``store_limit``."""
        if rollouts > self.rollouts or size > self.bytes:
            message = (
                f"the store would hold {rollouts} rollouts and {size} bytes of documents, and it takes"
                f" {self.rollouts} and {self.bytes} at most; delete what nobody needs"
            )
            raise Refused.of("store_limit", message)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead, until ``expires_at`` (the clock's monotonic seconds); ``token`` grows with each new holder.

    Nobody's has no ``holder``. ``now`` is in the clock's monotonic seconds, too.
    """

    holder: str = ""
    token: int = 0
    expires_at: float = 0.0

    def leads(self, now: float) -> bool:
        """Whether its holder leads at ``now``."""
        return self.holder != "" and now < self.expires_at <= now + LONGEST_LEASE_SECONDS

    def taken(self, holder: str, seconds: float, now: float) -> Self | None:
        """The lease that ``holder`` has for ``seconds`` from ``now`` after this one; None while another leads.

        One from before the machine started anew lies further ahead than any that was taken since, sooner or later:
        until then it is waited for.
        """
        if self.holder != holder and self.leads(now):
            return None
        return replace(self, holder=holder, token=self.token + (self.holder != holder), expires_at=now + seconds)

    def released(self) -> Self:
        """Nobody's, from now on."""
        return replace(self, holder="")

    def is_still(self, other: Lease) -> bool:
        """Whether this one is ``other``, taken for longer or not: nobody has taken it over since."""
        return (self.holder, self.token) == (other.holder, other.token)


@dataclass(frozen=True, slots=True)
class UnreadableRollout:
    """A row that is damaged, and why it cannot be read: ``store_corrupt``. It holds up nothing but itself.

    ``stops`` are those that can be read all the same. A write of both a document and a status takes its place, at its
    ``resource_version``; its ``source`` stays.
    """

    namespace: str
    name: str
    fault: Fault
    resource_version: int
    source: str | None = None
    deleted: bool = False
    stops: Stops = NO_STOPS

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed after a revision.

    ``rollouts`` is read from the store and parsed while it is iterated, oldest change first and only once, so that
    a reader may rest between any two; exhaust or drop it before the next ``changes``. The next ``since`` is
    ``revision``, once all were taken. ``complete`` means: this is everything there is, anything else is gone.
    """

    revision: int
    rollouts: Iterator[StoredRollout | UnreadableRollout]
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Documents:
    """All rollouts and templates by namespace and name, and the revision at which a document last changed.

    ``unreadable`` are rollouts of which nobody can say what they are.
    """

    revision: int
    rollouts: Sequence[StoredRollout]
    templates: Sequence[StoredTemplate] = ()
    unreadable: Sequence[UnreadableRollout] = ()

    @classmethod
    def of(
        cls, revision: int, rows: Iterable[StoredRollout | UnreadableRollout], templates: Iterable[StoredTemplate]
    ) -> Self:
        """Those in ``rows``, which are in order, readable or not."""
        found = list(rows)
        return cls(
            revision,
            [row for row in found if isinstance(row, StoredRollout)],
            list(templates),
            [row for row in found if isinstance(row, UnreadableRollout)],
        )


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What outlives a delete: the versions with a tombstone, and the last epoch (0 if there was none).

    So does the ``last`` status, until the row is forgotten: a document that leaves a folder for a moment must not undo
    what breakers and an operator's kill said, nor a promotion. Of a row that cannot be read it is what can be known:
    killed, because nobody can say that it was not, and with the control of its last epoch as stable and canary ("" if
    there was none).
    """

    aborted: tuple[str, ...] = ()
    epoch: int = 0
    last: Status | None = None
