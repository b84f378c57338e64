"""The port to the place where documents, status, history and tombstones are kept.

Spec is intent, status is truth. A document's body is always one that was accepted: what is refused never replaces
it. Every write bumps one global revision, so that a reader asks only for what changed since the last it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple, Protocol, Self

from extproc.errors import Fault

POLL_SECONDS: Final = 0.1
"""How often a reader asks the store for changes."""

RAISE_DELAY_SECONDS: Final = 2 * POLL_SECONDS
"""A rise in weight takes effect this long after its commit, when every worker has it: all change over together."""

LONGEST_LEASE_SECONDS: Final = 300.0
"""What runs out further ahead than this is no lease: it is from before the machine started anew."""

CLOCK_SET_BACK_SECONDS: Final = 5.0
"""An instant further ahead than this was written before the clock was set back: nothing is planned so long before.

Until whoever leads has planned it anew, it has not come: what gives more is never in force by mistake.
"""

REPLACED_CODES: Final = frozenset({"store_unreachable", "store_recreated"})
"""What a store raises when it is no longer the one that was opened, and ``reopen`` may help."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a rollout stands; what requests are routed by.

    Weights are hundredths of a percent. ``stable``, ``weight`` and ``epoch`` are in force from ``effective_at`` (Unix
    seconds) on; until then ``previous_stable`` (where it is not empty), ``previous_weight`` and ``previous_epoch`` are.
    ``drawn`` is the weight whose range still names the arm of a unit after an abort took the weight to 0.
    ``spec_stable`` is what spec.stable resolved to when the rollout was adopted. For an experiment ``stable`` is the
    last variant's version and ``canary`` is None.
    ``aborted`` are the versions with a tombstone, ``tripped`` those that a breaker took away. A canary's every start
    from weight 0 is an ``attempt`` of its own: what a breaker said about an earlier one does not count. ``ranges_key``
    fingerprints what the ranges depend on: when it changes, ``epoch`` does. ``steps_key`` fingerprints the steps.

    ``step`` is the index of the step in force since ``step_at`` (Unix seconds; later than now while a rise is
    pending). ``shadow`` is the share of units (hundredths of a percent) whose requests a shadow step mirrors to the
    canary. ``analysis`` holds the measurements of the runs under way, see ``control.analysis``. ``without`` are the
    hosts whose silent observers the attempt does not wait for. ``previous`` is what a promotion to ``stable`` replaced:
    ``stable``, ``at`` (Unix seconds) and the ``attempt`` that was promoted; empty if there is nothing to go back to.

    ``kills`` are the ids of the kills in force, as far as they have one, ``restored`` those of the last that were
    ended: a host that held one of these by itself does not bring it back. ``lifted`` says when (Unix seconds) a
    variant's probe went well last: what was said of it before is void.

    ``unknown`` are fields that a newer version of Dropout wrote: they are kept and written back.
    """

    stable: str
    canary: str | None = None
    weight: int = 0
    previous_weight: int = 0
    previous_stable: str = ""
    effective_at: float = 0.0
    drawn: int = 0
    shadow: int = 0
    step: int = 0
    step_at: float = 0.0
    attempt: int = 1
    epoch: int = 1
    previous_epoch: int = 1
    phase: str = "Progressing"
    reason: str = "adopted"
    message: str = ""
    killed: bool = False
    aborted: tuple[str, ...] = ()
    tripped: tuple[str, ...] = ()
    spec_stable: str = ""
    ranges_key: str = ""
    steps_key: str = ""
    conditions: tuple[Mapping[str, Any], ...] = field(default=())
    analysis: Mapping[str, Any] = field(default_factory=dict)
    kills: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    lifted: Mapping[str, float] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    previous: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, Any] = field(default_factory=dict)

    def is_pending(self, now: float) -> bool:
        """Whether a rise, or another stable, is still to come."""
        return self.effective_at > now and (
            self.previous_weight != self.weight
            or self.previous_epoch != self.epoch
            or self.previous_stable not in ("", self.stable)
        )

    def is_out_of_time(self, now: float) -> bool:
        """Whether a rise lies further ahead than any is planned: the clock was set back since."""
        return self.effective_at - now > CLOCK_SET_BACK_SECONDS and self.is_pending(now)

    def weight_at(self, now: float) -> int:
        """The weight in force at ``now`` (Unix seconds): a rise that is not yet due has not happened."""
        return self.previous_weight if self.is_pending(now) else self.weight

    def stable_at(self, now: float) -> str:
        """The stable version in force at ``now``: all workers take a promotion over together, as they do a rise."""
        return self.previous_stable or self.stable if self.is_pending(now) else self.stable

    def epoch_at(self, now: float) -> int:
        """The epoch in force at ``now``: it changes with the weight, so no unit sees two sides of one epoch."""
        return self.previous_epoch if self.is_pending(now) else self.epoch

    def as_dict(self) -> dict[str, Any]:
        """The status as a JSON object with this class's names; what is in it is not copied."""
        return {**self.unknown, **{name: getattr(self, name) for name in STATUS_FIELDS}}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Self:
        """The reverse of ``as_dict``, of a version that knew fewer fields, or more, too.

        Raises:
            KeyError, TypeError, ValueError: for anything else; requests are routed by it.
        """
        known = {name: body[name] for name in STATUS_FIELDS if name in body}
        unknown = {name: value for name, value in body.items() if name not in known}
        tuples = {name: tuple(body[name]) for name in _STATUS_TUPLES if name in body}
        status = cls(**{**known, **tuples, "unknown": unknown})
        for name, kind in _STATUS_KINDS.items():
            if not isinstance(getattr(status, name), kind):
                raise TypeError(f"{name} is not of its type")
            if isinstance(getattr(status, name), (int, float)) and not abs(getattr(status, name)) < _LARGEST:
                raise ValueError(f"{name} is too large")
        if not all(isinstance(condition, Mapping) for condition in status.conditions):
            raise TypeError("conditions is not of its type")
        if not all(isinstance(at, (float, int)) for at in status.lifted.values()):
            raise TypeError("lifted is not of its type")
        if status.previous and not all(
            isinstance(status.previous[name], kind) for name, kind in _PREVIOUS_KINDS.items()
        ):
            raise TypeError("previous is not of its type")
        return status


_LARGEST: Final = 253402300800
"""The year 10000 in Unix seconds, and more than anything that is counted."""

STATUS_FIELDS: Final = tuple(each.name for each in fields(Status) if each.name != "unknown")
"""Those that this version knows."""
_STATUS_TUPLES: Final = ("aborted", "tripped", "conditions", "kills", "restored", "without")
_STATUS_KINDS: Final[dict[str, Any]] = {
    "stable": str,
    "canary": str | None,
    "weight": int,
    "previous_weight": int,
    "previous_stable": str,
    "effective_at": float | int,
    "epoch": int,
    "previous_epoch": int,
    "drawn": int,
    "shadow": int,
    "step": int,
    "step_at": float | int,
    "attempt": int,
    "phase": str,
    "reason": str,
    "message": str,
    "killed": bool,
    "spec_stable": str,
    "analysis": Mapping,
    "lifted": Mapping,
    "previous": Mapping,
}

_PREVIOUS_KINDS: Final[dict[str, Any]] = {"stable": str, "at": float | int, "attempt": int}


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """One row: the accepted document and its status.

    ``resource_version`` is the revision at which the row last changed, the token of compare-and-swap. ``source`` is
    the file of a followed folder that applied it, or None. A deleted rollout is reported once by ``changes``, with
    ``deleted``, an empty document and its last status.
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
    """One thing that happened to a rollout: when (Unix seconds), by whom, what, why, and the details."""

    at: float
    namespace: str
    name: str
    actor: str
    action: str
    message: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Write:
    """What to do to one rollout if its row is still at ``expect``; None means that it must not exist.

    A ``document``, ``status`` or ``source`` that is None leaves what is there. ``at_commit`` is given the status when
    nothing stands between it and the store any more, for instants that count from there. ``delete`` removes the
    rollout; its tombstones and history stay.
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


class EpochArm(NamedTuple):
    """An arm of an epoch: its number in decision ids, its name, and the version that its units were to get."""

    code: int
    arm: str
    version: str


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch of a rollout, as it is remembered for labels that come weeks later.

    ``number`` is what its decision ids carry; two epochs may share one, so ``began`` (Unix seconds) tells them apart.
    """

    number: int
    namespace: str
    name: str
    epoch: int
    began: float
    arms: tuple[EpochArm, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead, until ``expires_at`` (the clock's monotonic seconds); ``token`` grows with each new holder."""

    holder: str
    token: int
    expires_at: float


class Stops(NamedTuple):
    """What of a status takes something away, read from it whatever else is in there."""

    killed: bool = False
    aborted: tuple[str, ...] = ()
    tripped: tuple[str, ...] = ()

    @classmethod
    def found_in(cls, body: object) -> Stops:
        """Those in a status as it is stored, damaged or of a newer version; nothing of it raises."""
        if not isinstance(body, Mapping):
            return cls()
        return cls(bool(body.get("killed")), _versions(body.get("aborted")), _versions(body.get("tripped")))


NO_STOPS: Final = Stops()


def _versions(found: object) -> tuple[str, ...]:
    return tuple(each for each in found if isinstance(each, str)) if isinstance(found, (list, tuple)) else ()


class StopsAt(NamedTuple):
    """The stops of the rollout ``key`` (``namespace/name``) as of the store's ``revision``."""

    key: str
    revision: int
    stops: Stops


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


@dataclass(frozen=True, slots=True)
class Remains:
    """What outlives a delete: the versions with a tombstone, and the last epoch (0 if there was none).

    So does the ``last`` status, until the row is forgotten: a document that leaves a folder for a moment must not undo
    what breakers and an operator's kill said, nor a promotion. Of a row that cannot be read it is what can be known:
    killed, because nobody can say that it was not, and with the control of its last epoch as stable and canary ("" if
    there was none).
    """

    aborted: tuple[str, ...] = ()
    epoch: int = 0
    last: Status | None = None


class RolloutStore(Protocol):
    """Documents, status, history and tombstones. Synchronous; never called while a request is decided.

    Every method raises ``Unreachable`` with ``store_unreachable``, ``store_recreated``, ``store_locked``,
    ``store_corrupt``, ``store_incompatible``, ``store_read_only`` or ``store_full`` when the store cannot do what was
    asked; nothing is then half written. So does iterating ``Changes.rollouts``.
    """

    def changes(self, since: int) -> Changes | None:
        """What changed after revision ``since`` (0: everything); None, cheaply, if nothing did.

        A store that was deleted raises ``store_unreachable``, one that was made again in its place
        ``store_recreated``, until ``reopen``: an empty replacement never clears a snapshot.
        """
        ...

    def stops(self, since: int) -> Sequence[StopsAt]:
        """What changed after revision ``since`` and stops something; may be asked while ``changes`` are read.

        For whoever takes changes over: what takes away must not wait for what has to be parsed and compiled.
        """
        ...

    def reopen(self) -> None:
        """Turn to the store that is there now; ask for ``changes(0)`` next.

        Raises ``Unreachable`` and stays where it is when there is none, or when it holds no rollout
        (``store_recreated``).
        """
        ...

    def get(self, namespace: str, name: str) -> StoredRollout | None:
        """One rollout as it stands, or None."""
        ...

    def documents(self) -> Documents:
        """All rollouts as they stand."""
        ...

    def template(self, namespace: str, name: str) -> StoredTemplate | None:
        """One AnalysisTemplate, or None."""
        ...

    def write(
        self,
        writes: Sequence[Write],
        *,
        templates: Sequence[TemplateWrite] = (),
        documents_at: int | None = None,
        lease: Lease | None = None,
    ) -> Sequence[StoredRollout]:
        """Do all of ``writes`` and ``templates`` or none, in one transaction, and give the rollouts as they are then.

        Raises ``Refused``: ``conflict`` when a row is not where its write expects it, or when any document changed
        since ``documents_at`` (``Documents.revision``), because what was checked together must still be together;
        ``lease_lost`` when somebody else has taken the ``lease`` over since.
        """
        ...

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

    def epochs(self, number: int) -> Sequence[EpochRecord]:
        """The epochs that decision ids call ``number``, the oldest first. They outlive their rollout by a year."""
        ...

    def epochs_of(self, namespace: str, name: str) -> Sequence[EpochRecord]:
        """The epochs of a rollout, deleted or not, the oldest first."""
        ...

    def remains(self, namespace: str, name: str) -> Remains:
        """What is left of ``namespace/name``, deleted or not."""
        ...

    def history(self, namespace: str, name: str, limit: int = 100) -> Sequence[HistoryEntry]:
        """The newest ``limit`` entries, oldest first, of a deleted rollout too."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...
