"""Everything that is done to rollouts goes through ``act``: it loads, decides, and writes with history.

Whoever writes first wins; an action that lost the race is decided again on what is there now. Documents are checked
together with everything in the store before anything is written, and are written together.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, overload

from extproc.clock import Clock
from extproc.control.actions import (
    ACTIONS,
    Action,
    Apply,
    Change,
    Delete,
    DeleteTemplate,
    Lane,
    OfDocuments,
    Promote,
    Standing,
    Trip,
    Undo,
)
from extproc.control.applying import effect_on, entry_of
from extproc.control.documents import apply, delete, load
from extproc.control.intent import Transition
from extproc.control.observer_reports import ReportedTrip, WaitingHearing, check_hosts, refuse_unheard
from extproc.control.policy import Asked, ControlPolicy
from extproc.control.readiness import Clusters, gives_more, refuse_unready
from extproc.control.result import ActionResult
from extproc.control.rise_to_come import RiseToComeError, wait_for_rise
from extproc.control.status_changes import arrived, from_commit_on
from extproc.control.templates import TemplateResult, delete_template
from extproc.errors import Refused, Unreachable
from extproc.resources.loading import parse_known, parse_rollout
from extproc.store.ports import ActionStore, RolloutWriter
from extproc.store.records import StoredRollout, Write
from extproc.store.status import Status

ATTEMPTS: Final = 10
"""How often an action that lost a race is tried."""


@overload
def act(
    store: ActionStore,
    actor: str,
    action: Change,
    clock: Clock,
    policy: ControlPolicy | None = None,
    clusters: Clusters | None = None,
    hearing: WaitingHearing | None = None,
) -> Sequence[ActionResult]: ...


@overload
def act(
    store: ActionStore, actor: str, action: OfDocuments, clock: Clock, policy: ControlPolicy | None = None
) -> Sequence[ActionResult | TemplateResult]: ...


def act(
    store: ActionStore,
    actor: str,
    action: Action,
    clock: Clock,
    policy: ControlPolicy | None = None,
    clusters: Clusters | None = None,
    hearing: WaitingHearing | None = None,
) -> Sequence[ActionResult | TemplateResult]:
    """Do ``action`` in the name of ``actor``, and say what became of each document that it names.

    ``policy`` is asked about everything that would change a rollout; without one everything is allowed. ``clusters``
    are asked about whatever would give a version more requests; without them every version can serve. By ``hearing``
    observers are heard before that; what they took away and the store does not know yet is written first.

    Raises:
        InvalidInput: ``not_found``, as ``check_hosts``, or the faults between documents; nothing was written.
        Refused: when the action makes no sense for the rollout as it is (the codes of ``transitions``), when the
            version that it gives more to cannot serve (``upstream_not_ready``) or may have been taken away by an
            observer that is silent (``observer_unheard``), when the policy forbids it
            (``control_denied``, which stands in the history of a rollout that can be read), or when others keep
            writing first (``conflict``).
        Unreachable: when the store cannot be read or written, or not what it has of a rollout.
    """
    acting = _Acting(store, actor, clock, policy, clusters, hearing)
    for attempt in range(ATTEMPTS):
        try:
            return acting.attempt(action)
        except RiseToComeError as rise:
            clock.sleep(rise.seconds)
        except Refused as error:
            if error.code != "conflict" or attempt == ATTEMPTS - 1:
                raise
    raise Refused.of("conflict", "others keep raising the weight at the same time; try again")


@dataclass(frozen=True, slots=True)
class _Acting:
    """Who acts on what, and whom that concerns; see ``act``."""

    store: ActionStore
    actor: str
    clock: Clock
    policy: ControlPolicy | None
    clusters: Clusters | None
    hearing: WaitingHearing | None

    def attempt(self, action: Action) -> Sequence[ActionResult | TemplateResult]:
        """Do it, unless somebody else writes first or a rise has to come first."""
        asked = Asked(self.store, self.policy, self.actor, self.clock.now())
        match action:
            case Apply():
                return apply(action, asked)
            case Delete():
                return [delete(action, asked)]
            case DeleteTemplate(namespace, name):
                return [delete_template(self.store, namespace, name)]
            case _:
                return [self._change(action, asked)]

    def _change(self, action: Change, asked: Asked) -> ActionResult:
        row = load(self.store, action.namespace, action.name)
        if isinstance(action, Promote):
            check_hosts(action.without, row.status.without, self.hearing)
        transition = action.change(self._standing(row, action, asked.now))
        if transition is None:
            return ActionResult(row, "unchanged")
        wait_for_rise(row.status, transition.status, asked.now)
        if not action.happened:
            verb, after = ACTIONS[type(action)].verb, transition.status
            asked.about(verb, row, partial(effect_on, row, after), arguments=action.arguments)
            if gives_more(row.status, after) and (told := self._not_known_yet(row, action, after)) is not None:
                actor, trip = as_action(told)
                replace(self, actor=actor, policy=None, hearing=None).attempt(trip)
                return self._change(action, replace(asked, now=self.clock.now()))
        return self._written(row, action, transition, asked.now)

    def _not_known_yet(self, row: StoredRollout, action: Change, after: Status) -> ReportedTrip | None:
        """What an observer took away of what gets more, and the store does not know. Raises ``Refused``."""
        if self.clusters is not None:
            refuse_unready(self.clusters, parse_known(row.document), row.status, after)
        if self.hearing is None or isinstance(action, Undo):
            return None
        return refuse_unheard(self.hearing, row, after)

    def _standing(self, row: StoredRollout, action: Change, now: float) -> Standing:
        # What takes something away works by what of the document is known.
        takes_away = ACTIONS[type(action)].lane is Lane.TAKE
        parse = parse_known if takes_away else parse_rollout
        return Standing(row.status, now, partial(parse, row.document), partial(self._hindrance, row))

    def _hindrance(self, row: StoredRollout) -> str:
        """Why it is left to others whether what the last promotion replaced takes over; empty if it does."""
        if not row.status.previous:
            return ""
        if self.clusters is not None:
            return self.clusters.unready(parse_known(row.document).upstream_of(row.status.previous["stable"]))
        return "the controller sees whether it can take over" if self.store.led() else ""  # it may ask Envoy

    def _written(self, row: StoredRollout, action: Change, transition: Transition, now: float) -> ActionResult:
        happened, verb = action.happened_at(row.status), ACTIONS[type(action)].verb
        at = now if happened is None else happened
        write = Write(
            row.namespace,
            row.name,
            row.resource_version,
            status=arrived(transition.status, now),
            at_commit=from_commit_on(now, self.clock),
            history=[entry_of(row.namespace, row.name, self.actor, verb, transition, at)],
            token=secrets.token_hex(16),
        )
        return ActionResult(_once(self.store, write), "configured", transition.message, transition.detail)


def as_action(told: ReportedTrip) -> tuple[str, Trip]:
    """What a host reports as the action that it does itself when it can, and in whose name."""
    host, trip = told
    namespace, _, name = trip.rollout.partition("/")
    return f"breaker@{host}", Trip(namespace, name, trip.version, trip.attempt, trip.why, trip.at)


def _once(store: RolloutWriter, write: Write) -> StoredRollout:
    """The rollout after ``write``, which is tried again if the answer may have been lost, and done once."""
    try:
        return store.write([write])[0]
    except Unreachable as error:
        if error.code != "store_unreachable":
            raise
        return store.write([write])[0]
