"""Everything that can be done to rollouts, and the one table of what each is called and who may ask for it how.

Each kind says what it changes. From the table come the RPCs, what a client asks, the commands that take no more than a
name, what a policy on control actions is asked and what it does not hold up. How it is done, in the face of others who
write, is in ``acting``, and what is about documents in ``documents``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Literal, NamedTuple

from extproc.control import transitions
from extproc.control.intent import Intent, Transition, intent_of
from extproc.control.undo import trip_of_stable, undo
from extproc.resources.control_schema import ControlAction
from extproc.resources.fields import format_percent
from extproc.resources.loaded import LoadedDocument
from extproc.resources.rollout import Rollout
from extproc.store.status import Status


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the store hold ``documents``, and no longer what is to be removed (namespace, name): all or nothing.

    ``remove`` are rollouts. ``follow`` writes each document's file down as its source. ``repair`` makes rows anew that
    cannot be read, which are otherwise refused.
    """

    documents: Sequence[LoadedDocument[Any]]
    remove: Sequence[tuple[str, str]] = ()
    remove_templates: Sequence[tuple[str, str]] = ()
    follow: bool = False
    repair: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Take a rollout out of the store."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class DeleteTemplate:
    """Take an AnalysisTemplate out of the store."""

    namespace: str
    name: str


class Standing(NamedTuple):
    """A rollout as an action finds it at ``now`` (Unix seconds).

    ``read`` reads its document, and may raise ``InvalidInput``: what does not need it works whatever is in it.
    ``hindrance`` says why what the last promotion replaced cannot take over again; empty if it can.
    """

    status: Status
    now: float
    read: Callable[[], Rollout]
    hindrance: Callable[[], str]

    @property
    def intent(self) -> Intent:
        """What the document asks for."""
        return intent_of(self.read())


@dataclass(frozen=True, slots=True)
class _OnRollout:
    """What is done to one rollout.

    Every kind has ``change``: what it makes of a rollout that stands so, or None when that is so already. It raises
    ``Refused`` when it makes no sense for the rollout as it is, and ``InvalidInput`` when it needs a document that
    cannot be read. A kind without it is an error where ``acting`` asks for it, which mypy finds; a default is none.
    """

    namespace: str
    name: str

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What a policy is told of it beside its verb."""
        return {}

    @property
    def happened(self) -> bool:
        """Whether it is in force on a host already: no policy can forbid it any more."""
        return False

    def happened_at(self, status: Status) -> float | None:
        """When a host that acts on it did it by itself (Unix seconds); None of what is done now."""
        del status
        return None


@dataclass(frozen=True, slots=True)
class _ByHost(_OnRollout):
    """What a host did to it by itself."""

    @property
    def happened(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Adopt(_OnRollout):
    """Take as stable the version that spec.stable names now."""

    def change(self, at: Standing) -> Transition | None:
        return transitions.adopt(at.intent, at.status, at.now)


@dataclass(frozen=True, slots=True)
class SetWeight(_OnRollout):
    """Give the canary ``weight`` hundredths of a percent."""

    weight: int

    def change(self, at: Standing) -> Transition | None:
        return transitions.set_weight(at.intent, at.status, self.weight, at.now)

    @property
    def arguments(self) -> Mapping[str, Any]:
        return {"weight": format_percent(self.weight)}


@dataclass(frozen=True, slots=True)
class Abort(_OnRollout):
    """Take the canary away now, and keep it away until a retry."""

    def change(self, at: Standing) -> Transition | None:
        return transitions.abort(at.intent, at.status, at.now)


@dataclass(frozen=True, slots=True)
class Promote(_OnRollout):
    """End the pause that the rollout is in; with ``full`` make the canary stable now, whatever steps are left.

    Observers on hosts ``without`` which it is done are not waited for in this attempt.
    """

    full: bool = False
    without: tuple[str, ...] = ()

    def change(self, at: Standing) -> Transition | None:
        rollout, status = at.read(), at.status
        intent, steps = intent_of(rollout), len(rollout.spec.steps)
        if self.full:
            return transitions.promote_fully(intent, status, steps, at.now, without=self.without)
        return transitions.promote(intent, status, at.now, self.without)

    @property
    def arguments(self) -> Mapping[str, Any]:
        return {"full": self.full, "without": list(self.without)}


@dataclass(frozen=True, slots=True)
class Undo(_OnRollout):
    """Make stable again, at once, what the last promotion replaced.

    The version that was promoted is kept away until a retry.
    """

    def change(self, at: Standing) -> Transition | None:
        return undo(at.intent, at.status, at.now)


@dataclass(frozen=True, slots=True)
class Pause(_OnRollout):
    """Stay at the step in force, until resumed."""

    def change(self, at: Standing) -> Transition | None:
        return transitions.pause(at.intent, at.status)


@dataclass(frozen=True, slots=True)
class Resume(_OnRollout):
    """Undo a pause, or the one that set-weight made."""

    def change(self, at: Standing) -> Transition | None:
        return transitions.resume(at.intent, at.status, at.now)


@dataclass(frozen=True, slots=True)
class Trip(_ByHost):
    """A breaker's word on ``version`` in its ``attempt``; ``why`` is what it saw, ``at`` when (Unix seconds)."""

    version: str
    attempt: int
    why: str
    at: float = 0.0

    def change(self, at: Standing) -> Transition | None:
        intent, status, attempt, why = at.intent, at.status, self.attempt, self.why
        if self.version == status.stable:
            return trip_of_stable(intent, status, attempt, why, self.at, at.now, hindrance=at.hindrance())
        return transitions.trip(intent, status, self.version, attempt, why, at.now, self.at)

    def happened_at(self, status: Status) -> float | None:
        return self.at if self.version != status.stable and self.at > 0 else None  # on that one no host acts


@dataclass(frozen=True, slots=True)
class Lift(_ByHost):
    """The probe of the variant ``version`` went well at ``at`` (Unix seconds)."""

    version: str
    attempt: int
    at: float

    def change(self, at: Standing) -> Transition | None:
        return transitions.lift(at.intent, at.status, self.version, self.attempt, self.at, at.now)

    def happened_at(self, status: Status) -> float | None:
        return self.at


@dataclass(frozen=True, slots=True)
class Retry(_OnRollout):
    """Let the aborted canary start over, from weight 0."""

    def change(self, at: Standing) -> Transition | None:
        return transitions.retry(at.intent, at.status, at.now)


@dataclass(frozen=True, slots=True)
class Kill(_OnRollout):
    """Leave only stable. One that a host held by itself says when it was (``at``, Unix seconds); else it is now."""

    id: str = ""
    at: float | None = None

    def change(self, at: Standing) -> Transition | None:
        return transitions.kill(at.status, at.now, self.id)  # whatever state its document is in

    @property
    def happened(self) -> bool:
        return self.at is not None

    def happened_at(self, status: Status) -> float | None:
        return self.at


@dataclass(frozen=True, slots=True)
class Restore(_OnRollout):
    """Undo every kill, those too that hosts ``held`` by themselves, by their ids."""

    held: tuple[str, ...] = ()

    def change(self, at: Standing) -> Transition | None:
        return transitions.restore(at.status, at.now, self.held)


@dataclass(frozen=True, slots=True)
class EndKill(_ByHost):
    """Undo the kill ``id`` alone: it was ended on a host that held it by itself, at ``at`` (Unix seconds)."""

    id: str
    at: float

    def change(self, at: Standing) -> Transition | None:
        return transitions.end_kill(at.status, self.id, at.now)

    def happened_at(self, status: Status) -> float | None:
        return self.at


OfDocuments = Apply | Delete | DeleteTemplate
Command = Adopt | SetWeight | Promote | Undo | Pause | Resume | Abort | Retry | Kill | Restore
"""What somebody asks for, by a command or over the API."""

Report = EndKill | Trip | Lift
"""What a host did by itself: it is in force there already."""

Change = Command | Report
Action = OfDocuments | Change


class Lane(Enum):
    """Calls that wait for one another, on a thread of their own: what gives more may wait long, and nobody for it."""

    LOOK = auto()
    GIVE = auto()
    TAKE = auto()
    KILL = auto()


Verb = ControlAction | Literal["trip", "lift"]
"""What history calls it; what hosts do by themselves nobody is asked about."""


class ActionRow(NamedTuple):
    """An action on a rollout.

    ``verb`` is its name in history, and what a policy finds in ``input.action``. ``lane`` is whom it waits for; what
    is of ``TAKE`` works whatever state a document is in, by what of it is known. ``safe`` is not held up by a policy
    that fails. ``command`` is what people type, ``dropout`` left out; one of a ``Command`` has an RPC as well, which
    is called as its class.
    """

    verb: Verb
    lane: Lane
    command: str = ""
    safe: bool = False


ACTIONS: Final[Mapping[type[Apply | Delete | Change], ActionRow]] = {
    Apply: ActionRow("apply", Lane.GIVE, "apply"),
    Delete: ActionRow("delete", Lane.TAKE, "delete"),
    Adopt: ActionRow("adopt", Lane.GIVE, "rollout adopt"),
    SetWeight: ActionRow("set-weight", Lane.GIVE, "rollout set-weight"),
    Promote: ActionRow("promote", Lane.GIVE, "rollout promote"),
    Undo: ActionRow("undo", Lane.TAKE, "rollout undo", safe=True),
    Pause: ActionRow("pause", Lane.TAKE, "rollout pause"),
    Resume: ActionRow("resume", Lane.GIVE, "rollout resume"),
    Abort: ActionRow("abort", Lane.TAKE, "rollout abort", safe=True),
    Retry: ActionRow("retry", Lane.GIVE, "rollout retry"),
    Kill: ActionRow("kill", Lane.KILL, "kill", safe=True),
    Restore: ActionRow("restore", Lane.GIVE, "restore"),
    EndKill: ActionRow("restore", Lane.GIVE),
    Trip: ActionRow("trip", Lane.TAKE),
    Lift: ActionRow("lift", Lane.GIVE),
}
