"""Where a rollout stands: spec is intent, status is truth. And what of it stops something, read ahead of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple, Self

from extproc.store.epoch_records import NUMBERS, epoch_id

CLOCK_SET_BACK_SECONDS: Final = 5.0
"""An instant further ahead than this was written before the clock was set back: nothing is planned so long before.

Until whoever leads has planned it anew, it has not come: what gives more is never in force by mistake.
"""


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
    variant's probe went well last: what was said of it before is void. ``applied`` says ``by`` whom and ``at`` what
    time (Unix seconds) which ``document`` was applied, see ``control.applied``.

    ``numbers`` are what decision ids carry for ``epoch`` and ``previous_epoch``, by the epoch as text: the store makes
    them when an epoch begins. An epoch that is not among them began before numbers were random, see ``hashed_number``.

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
    numbers: Mapping[str, int] = field(default_factory=dict)
    applied: Mapping[str, Any] = field(default_factory=dict)
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

    @property
    def taken_away(self) -> frozenset[str]:
        """The versions that were aborted or tripped, stable among them if it was: it is served all the same."""
        return frozenset((*self.aborted, *self.tripped))

    def epoch_id_at(self, now: float) -> int:
        """What is counted of the epoch in force at ``now`` is kept by this, see ``epoch_id``."""
        epoch = self.epoch_at(now)
        return epoch_id(epoch, self.numbers.get(str(epoch)))

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
        if not all(type(number) is int and 0 <= number < NUMBERS for number in status.numbers.values()):
            raise TypeError("numbers is not of its type")
        if status.previous and not all(
            isinstance(status.previous[name], kind) for name, kind in _PREVIOUS_KINDS.items()
        ):
            raise TypeError("previous is not of its type")
        return status


def kept_away(status: Status) -> frozenset[str] | None:
    """The versions that nobody gets, whatever is drawn, unless they are stable; None: all that are not."""
    return None if status.killed else status.taken_away


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
    "numbers": Mapping,
    "applied": Mapping,
}

_PREVIOUS_KINDS: Final[dict[str, Any]] = {"stable": str, "at": float | int, "attempt": int}


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


class StopsFound(NamedTuple):
    """What was found to stop something up to the store's ``revision``: the next look begins there.

    In a file with ten thousand rollouts a look at all of them takes 0.1 s, one at what is new 0.3 ms.
    """

    revision: int
    stops: Sequence[StopsAt] = ()
