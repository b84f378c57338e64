"""Two sets of policies on the same logged decisions: what would be decided otherwise, counted by what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from extproc.datapath.logged import LoggedEvents
from extproc.datapath.model import Decision, Denial
from extproc.datapath.ports import EmbeddedEngine
from extproc.datapath.replay import BadEventError, NotReplayableError, Replay, read_event
from extproc.names import Reason
from extproc.resources.rollout import Rollout

MAX_EXAMPLES: Final = 3
"""Decisions that are named of those that change in the same way."""


class DecidedAs(NamedTuple):
    """What a decision comes to: ``http_status`` is a denial's, and then there is no version."""

    arm: str | None
    version: str | None
    reason: Reason
    shadow: str | None
    http_status: int | None


CHANGES: Final = ("denied", "allowed", "status", "version", "shadow", "reason")
"""What the first thing is that a client, or a version, would notice of a change."""


class PolicyChange(NamedTuple):
    """How a decision of ``rollout`` changes. ``text``: a denial has another reason or body."""

    rollout: str
    before: DecidedAs
    after: DecidedAs
    text: bool

    @property
    def kind(self) -> str:
        """One of ``CHANGES``; ``reason`` where nothing but the arm, the reason or a text changes."""
        before, after = self.before, self.after
        if before.http_status != after.http_status:
            return "denied" if before.http_status is None else "allowed" if after.http_status is None else "status"
        if before.version != after.version:
            return "version"
        return "shadow" if before.shadow != after.shadow else "reason"


@dataclass(slots=True)
class Examples:
    """How many decisions something holds of, and the first of them by their ids."""

    decisions: int = 0
    ids: list[str] = field(default_factory=list)

    def add(self, decision_id: str) -> None:
        """One more."""
        self.decisions += 1
        if len(self.ids) < MAX_EXAMPLES:
            self.ids.append(decision_id)


class PolicyComparison:
    """Decides logged events with the policies of ``before`` and of ``after``, and keeps counts and a few examples.

    ``rollouts`` as for ``Replay``. ``same`` and ``of_rollout`` count decisions, ``changed`` has the changes,
    ``not_replayable`` why decisions could not be made again by both, and ``lost_of`` counts those by rollout.
    """

    def __init__(
        self, before: EmbeddedEngine, after: EmbeddedEngine, rollouts: Mapping[str, Rollout] | None = None
    ) -> None:
        self._before, self._after = Replay(before, rollouts), Replay(after, rollouts)
        self.same = 0
        self.of_rollout: Counter[str] = Counter()
        self.lost_of: Counter[str | None] = Counter()
        self.changed: dict[PolicyChange, Examples] = {}
        self.not_replayable: dict[str, Examples] = {}

    def lines(self, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
        """Take a log, line by line; what comes are the numbers of lines that are no events, and why."""
        events = LoggedEvents()
        for number, line in enumerate(lines, start=1):
            try:
                event = read_event(events, line) if line.strip() else None
                if event is not None:
                    self._take(event)
            except BadEventError as error:
                yield number, str(error)

    def _take(self, event: Mapping[str, Any]) -> None:
        try:
            before, after = self._before.decide(event), self._after.decide(event)
        except NotReplayableError as error:
            self.not_replayable.setdefault(str(error), Examples()).add(str(event["decision_id"]))
            self.lost_of[event["result"].get("rollout")] += 1
            return
        change = None if before is None or after is None else change_between(before, after)
        if before is not None:
            self.of_rollout[str(before.rollout)] += 1
        if change is None:
            self.same += 1
        else:
            self.changed.setdefault(change, Examples()).add(str(event["decision_id"]))


def change_between(before: Decision, after: Decision) -> PolicyChange | None:
    """How the one decision differs from the other, of the same request; None where it comes to the same."""
    was, now = _decided_as(before), _decided_as(after)
    text = _text(before.denial) != _text(after.denial)
    return PolicyChange(str(after.rollout), was, now, text) if text or was != now else None


def _decided_as(decision: Decision) -> DecidedAs:
    denial = decision.denial
    status = None if denial is None else denial.http_status
    return DecidedAs(decision.arm, decision.version, decision.reason, decision.shadow, status)


def _text(denial: Denial | None) -> tuple[str, str | None] | None:
    return None if denial is None else (denial.reason, denial.body)
