"""Everything that anybody can do to rollouts goes through ``act``: it loads, decides, and writes with history.

Whoever writes first wins; an action that lost the race is decided again on what is there now. Documents are checked
together with everything in the store before anything is written, and are written together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, overload

from extproc.clock import Clock
from extproc.control import transitions
from extproc.control.hearing import Listening, ReportedTrip, check_hosts, refuse_unheard
from extproc.control.intent import Transition, intent_of
from extproc.control.policy import Asked, ControlPolicy
from extproc.control.readiness import Clusters, gives_more, refuse_unready
from extproc.control.standing import arrived, from_commit_on, overlaps
from extproc.control.templates import TemplateResult, delete_template, plan_templates
from extproc.control.undoing import trip_of_stable, undo
from extproc.errors import InvalidInput, Refused, Unreachable
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.checks import Placed, find_conflicts
from extproc.resources.document import Resource
from extproc.resources.fields import format_percent
from extproc.resources.loading import LoadedDocument, of_kind, parse_known, parse_rollout, parse_template
from extproc.resources.rollout import Rollout
from extproc.snapshot.store import (
    Documents,
    HistoryEntry,
    RolloutStore,
    Status,
    StoredRollout,
    StoredTemplate,
    UnreadableRollout,
    Write,
)

R = TypeVar("R")

ATTEMPTS: Final = 10
"""How often an action that lost a race is tried."""


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


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take the stable that the document names now."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Give the canary ``weight`` hundredths of a percent."""

    namespace: str
    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Take the canary away now, and keep its version away."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Promote:
    """End the pause that the rollout is in; with ``full`` make the canary stable now, whatever steps are left.

    Observers on hosts ``without`` which it is done are not waited for in this attempt.
    """

    namespace: str
    name: str
    full: bool = False
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Undo:
    """Make stable again what the last promotion replaced, and keep away what was promoted."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Stay at this step until resumed."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Undo a pause by hand."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Trip:
    """A breaker's word on ``version`` in its ``attempt``; ``why`` is what it saw, ``at`` when (Unix seconds)."""

    namespace: str
    name: str
    version: str
    attempt: int
    why: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Lift:
    """The probe of the variant ``version`` went well at ``at`` (Unix seconds)."""

    namespace: str
    name: str
    version: str
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class Retry:
    """Let an aborted canary start over."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Leave only stable. One that a host held by itself says when it was (``at``, Unix seconds); else it is now."""

    namespace: str
    name: str
    id: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Restore:
    """Undo every kill, those too that hosts ``held`` by themselves, by their ids."""

    namespace: str
    name: str
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndKill:
    """Undo the kill ``id`` alone: it was ended on a host that held it by itself, at ``at`` (Unix seconds)."""

    namespace: str
    name: str
    id: str
    at: float


Change = Adopt | SetWeight | Promote | Undo | Pause | Resume | Abort | Retry | Kill | Restore | EndKill | Trip | Lift
OfDocuments = Apply | Delete | DeleteTemplate
Action = OfDocuments | Change

_VERBS: Final = {
    Adopt: "adopt",
    SetWeight: "set-weight",
    Promote: "promote",
    Undo: "undo",
    Pause: "pause",
    Resume: "resume",
    Abort: "abort",
    Retry: "retry",
    Kill: "kill",
    Restore: "restore",
    EndKill: "restore",
    Trip: "trip",
    Lift: "lift",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one rollout: ``created``, ``configured``, ``repaired``, ``unchanged`` or ``deleted``, and why.

    ``row`` is the rollout as it stands; for a deleted one its last state. ``detail`` is what history keeps beside.
    """

    row: StoredRollout
    result: str
    message: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@overload
def act(
    store: RolloutStore,
    actor: str,
    action: Change,
    clock: Clock,
    policy: ControlPolicy | None = None,
    clusters: Clusters | None = None,
    observers: Listening | None = None,
) -> Sequence[Result]: ...


@overload
def act(
    store: RolloutStore, actor: str, action: OfDocuments, clock: Clock, policy: ControlPolicy | None = None
) -> Sequence[Result | TemplateResult]: ...


def act(
    store: RolloutStore,
    actor: str,
    action: Action,
    clock: Clock,
    policy: ControlPolicy | None = None,
    clusters: Clusters | None = None,
    observers: Listening | None = None,
) -> Sequence[Result | TemplateResult]:
    """Do ``action`` in the name of ``actor``, and say what became of each document that it names.

    ``policy`` is asked about everything that would change a rollout; without one everything is allowed. ``clusters``
    are asked about whatever would give a version more requests; without them every version can serve. ``observers`` are
    heard before that; what they took away and the store does not know yet is written first.

    Raises:
        InvalidInput: ``not_found``, or the faults between documents; nothing was written.
        Refused: when the action makes no sense for the rollout as it is (the codes of ``transitions``), when the
            version that it gives more to cannot serve (``upstream_not_ready``) or may have been taken away by an
            observer that is silent (``observer_unheard``), when the policy forbids it
            (``control_denied``, which stands in the history of a rollout that can be read), or when others keep
            writing first (``conflict``).
        Unreachable: when the store cannot be read or written, or not what it has of a rollout.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _attempt(store, actor, action, clock, policy, clusters, observers)
        except _RiseToComeError as rise:
            clock.sleep(rise.seconds)
        except Refused as error:
            if error.code != "conflict" or attempt == ATTEMPTS - 1:
                raise
    raise Refused.of("conflict", "others keep raising the weight at the same time; try again")


class _RiseToComeError(Exception):
    """A rise that others planned comes first, in so many ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def _wait_for_rise(before: Status, after: Status, now: float) -> None:
    """Units would change sides twice if a rise replaced one that is still to come. Raises ``_RiseToComeError``."""
    if overlaps(before, after, now):
        raise _RiseToComeError(before.effective_at - now)


def _attempt(
    store: RolloutStore,
    actor: str,
    action: Action,
    clock: Clock,
    policy: ControlPolicy | None,
    clusters: Clusters | None,
    observers: Listening | None,
) -> Sequence[Result | TemplateResult]:
    now = clock.now()
    asked = Asked(store, policy, actor, now)
    match action:
        case Apply():
            return _apply(store, actor, action, now, asked)
        case Delete(namespace, name):
            row = load(store, namespace, name)
            asked.about("delete", row)
            store.write([_deletion(row, actor, now)])
            return [Result(row, "deleted")]
        case DeleteTemplate(namespace, name):
            return [delete_template(store, namespace, name)]
        case _:
            row = load(store, action.namespace, action.name)
            transition = _transition(row, action, now, _hindrance(store, row, action, clusters))
            if transition is not None:
                _wait_for_rise(row.status, transition.status, now)
            verb = _VERBS[type(action)]
            if transition is not None and not _happened(action):
                asked.about(verb, row, arguments=_arguments(action))
                if gives_more(row.status, transition.status):
                    if clusters is not None:
                        refuse_unready(clusters, parse_known(row.document), row.status, transition.status)
                    heard = observers if not isinstance(action, Undo) else None
                    if heard is not None and (told := refuse_unheard(heard, row, transition.status)) is not None:
                        _attempt(store, *as_action(told), clock, None, clusters, None)
                        return _attempt(store, actor, action, clock, policy, clusters, observers)
            return [_written(store, row, actor, verb, transition, clock, now, _happened_at(action, row.status))]


def _happened(action: Change) -> bool:
    """Whether it is in force on a host already: no policy can forbid it any more."""
    return isinstance(action, (Trip, Lift, EndKill)) or (isinstance(action, Kill) and action.at is not None)


def _happened_at(action: Change, status: Status) -> float | None:
    """When what a host did by itself was, if ``action`` is that; a trip of what is stable by now, no host acts on."""
    match action:
        case Kill(at=at) | EndKill(at=at) | Lift(at=at):
            return at
        case Trip(version=version, at=at) if version != status.stable and at > 0:
            return at
        case _:
            return None


def as_action(told: ReportedTrip) -> tuple[str, Trip]:
    """What a host reports as the action that it does itself when it can, and in whose name."""
    host, trip = told
    namespace, _, name = trip.rollout.partition("/")
    return f"breaker@{host}", Trip(namespace, name, trip.version, trip.attempt, trip.why, trip.at)


def _hindrance(store: RolloutStore, row: StoredRollout, action: Change, clusters: Clusters | None) -> str:
    """Why a trip of what was promoted leaves it to others whether what it replaced takes over; empty if it does."""
    status = row.status
    if not isinstance(action, Trip) or action.version != status.stable or not status.previous:
        return ""
    if clusters is not None:
        return clusters.unready(parse_known(row.document).upstream_of(status.previous["stable"]))
    return "the controller sees whether it can take over" if store.led() else ""  # it may ask Envoy


def _arguments(action: Change) -> Mapping[str, Any]:
    match action:
        case SetWeight(_, _, weight):
            return {"weight": format_percent(weight)}
        case Promote(_, _, full, without):
            return {"full": full, "without": list(without)}
        case _:
            return {}


def load(store: RolloutStore, namespace: str, name: str) -> StoredRollout:
    """The rollout ``namespace/name``.

    Raises:
        InvalidInput: ``not_found``.
    """
    row = store.get(namespace, name)
    if row is None:
        raise InvalidInput.of("not_found", f"there is no rollout {namespace}/{name} in the store")
    return row


def _transition(row: StoredRollout, action: Change, now: float, hindrance: str) -> Transition | None:
    status = row.status
    match action:
        case Kill(_, _, kill_id):
            # An operator's kill must work whatever state the document is in: it does not read it.
            return transitions.kill(status, kill_id)
        case Restore(_, _, held):
            return transitions.restore(status, now, held)
        case EndKill(_, _, kill_id):
            return transitions.end_kill(status, kill_id, now)
    # So must what else takes something away, by what of the document is known.
    takes_away = isinstance(action, (Abort, Trip, Undo, Pause))
    rollout = parse_known(row.document) if takes_away else parse_rollout(row.document)
    intent = intent_of(rollout)
    match action:
        case Adopt():
            return transitions.adopt(intent, status, now)
        case SetWeight(_, _, weight):
            return transitions.set_weight(intent, status, weight, now)
        case Promote(_, _, full, without):
            check_hosts(without)
            if full:
                return transitions.promote_fully(intent, status, len(rollout.spec.steps), now, without=without)
            return transitions.promote(intent, status, now, without)
        case Undo():
            return undo(intent, status, now)
        case Pause():
            return transitions.pause(intent, status)
        case Resume():
            return transitions.resume(intent, status, now)
        case Trip(_, _, version, attempt, why, at) if version == status.stable:
            return trip_of_stable(intent, status, attempt, why, at, now, hindrance=hindrance)
        case Trip(_, _, version, attempt, why, at):
            return transitions.trip(intent, status, version, attempt, why, at)
        case Lift(_, _, version, attempt, at):
            return transitions.lift(intent, status, version, attempt, at)
        case Abort():
            return transitions.abort(intent, status, now)
        case Retry():
            return transitions.retry(intent, status, now)


def _written(
    store: RolloutStore,
    row: StoredRollout,
    actor: str,
    verb: str,
    transition: Transition | None,
    clock: Clock,
    now: float,
    happened: float | None,
) -> Result:
    if transition is None:
        return Result(row, "unchanged")

    entry = _entry(row.namespace, row.name, actor, verb, transition, now if happened is None else happened)
    write = Write(
        row.namespace,
        row.name,
        row.resource_version,
        status=arrived(transition.status, now),
        at_commit=from_commit_on(now, clock),
        history=[entry],
    )
    return Result(store.write([write])[0], "configured", transition.message, transition.detail)


_Planned = tuple[LoadedDocument[Rollout], str, Write | None]
"""A document, what applying it comes to, and the write that does it, if one is needed."""


def _apply(
    store: RolloutStore, actor: str, action: Apply, now: float, asked: Asked
) -> Sequence[Result | TemplateResult]:
    before = store.documents()
    check_with_store(before, action)
    rows = {(row.namespace, row.name): row for row in before.rollouts}
    damaged = {(row.namespace, row.name): row for row in before.unreadable}
    documents = of_kind(action.documents, Rollout)
    faults = [damaged[key].fault for document in documents if (key := _key(document.resource)) in damaged]
    if faults and not action.repair:
        raise Unreachable(faults)
    known: dict[tuple[str, str], StoredRollout | UnreadableRollout] = {**rows, **damaged}
    planned = [
        _planned(store, known.get(_key(document.resource)), document, action, actor, now) for document in documents
    ]
    removed = [rows[key] for key in action.remove if key in rows]
    for document, result, _ in planned:
        if result != "unchanged":
            asked.about("apply", known.get(_key(document.resource)), document=document.body)
    for row in removed:
        asked.about("delete", row)
    writes = [write for _, _, write in planned if write is not None]
    writes += [_deletion(row, actor, now) for row in removed]
    templates, of_templates = plan_templates(
        before, of_kind(action.documents, AnalysisTemplate), action.remove_templates, follow=action.follow
    )
    written = store.write(writes, templates=templates, documents_at=before.revision) if writes or templates else ()
    after = {(row.namespace, row.name): row for row in written}
    results = []
    for document, result, _ in planned:
        key = _key(document.resource)
        row = after[key] if key in after else rows[key]
        results.append(Result(row, result, _kept(document.resource, row) if result in ("created", "repaired") else ""))
    return [*results, *(Result(row, "deleted") for row in removed), *of_templates]


def _kept(rollout: Rollout, row: StoredRollout) -> str:
    """What of an earlier life of a rollout that was made now is not as its document says."""
    stable = row.status.stable
    kept = ["killed until restored"] if row.status.killed else []
    kept += [f"version {stable} stays stable"] if stable != intent_of(rollout).stable else []
    return "; ".join(kept)


def check_with_store(before: Documents, action: Apply) -> None:
    """Check what the store would hold after ``action``.

    Raises:
        InvalidInput: with the faults between its documents, and between them and what stays in the store.
    """
    replaced = {(type(document.resource), document.resource.key) for document in action.documents}
    replaced |= {(Rollout, f"{namespace}/{name}") for namespace, name in action.remove}
    replaced |= {(AnalysisTemplate, f"{namespace}/{name}") for namespace, name in action.remove_templates}
    staying: list[Resource] = [
        *_parsed(parse_rollout, [row for row in before.rollouts if (Rollout, row.key) not in replaced]),
        *_parsed(parse_template, [row for row in before.templates if (AnalysisTemplate, row.key) not in replaced]),
    ]
    placed: list[Placed] = [(resource, None, None) for resource in staying]
    offset = len(placed)
    placed += [document.placed for document in action.documents]
    faults = []
    for conflict in find_conflicts(placed):
        if conflict.second >= offset:
            document = action.documents[conflict.second - offset]
            faults.append(conflict.fault(document.lines[conflict.path]))
    if faults:
        raise InvalidInput(faults)


def _parsed(
    parse: Callable[[Mapping[str, Any]], R], rows: Sequence[StoredRollout] | Sequence[StoredTemplate]
) -> Iterator[R]:
    """The documents of ``rows``; one that an earlier version accepted and this one does not has no say."""
    for row in rows:
        try:
            yield parse(row.document)
        except InvalidInput:
            continue


def _planned(
    store: RolloutStore,
    row: StoredRollout | UnreadableRollout | None,
    document: LoadedDocument[Rollout],
    action: Apply,
    actor: str,
    now: float,
) -> _Planned:
    """What applying ``document`` to ``row`` comes to."""
    namespace, name = _key(document.resource)
    source = document.file if action.follow else None
    if isinstance(row, StoredRollout) and row.document == document.body:
        moved = source is not None and source != row.source
        return document, "unchanged", Write(namespace, name, row.resource_version, source=source) if moved else None
    intent = intent_of(document.resource)
    if row is None:
        expect, result = None, "created"
        transition = transitions.create(intent, store.remains(namespace, name), now)
    elif isinstance(row, UnreadableRollout):
        expect, result = row.resource_version, "repaired"
        transition = transitions.repair(intent, store.remains(namespace, name), now)
    else:
        expect, result = row.resource_version, "configured"
        transition = transitions.configure(intent, row.status, now)
        _wait_for_rise(row.status, transition.status, now)
    entry = _entry(namespace, name, actor, "apply", transition, now)
    return document, result, Write(namespace, name, expect, document.body, transition.status, source, history=[entry])


def _deletion(row: StoredRollout, actor: str, now: float) -> Write:
    entry = HistoryEntry(now, row.namespace, row.name, actor, "delete", "deleted")
    return Write(row.namespace, row.name, row.resource_version, delete=True, history=[entry])


def _entry(namespace: str, name: str, actor: str, verb: str, transition: Transition, now: float) -> HistoryEntry:
    return HistoryEntry(now, namespace, name, actor, verb, transition.message, transition.detail)


def _key(rollout: Rollout) -> tuple[str, str]:
    return rollout.metadata.namespace, rollout.metadata.name
