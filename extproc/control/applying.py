"""What applying documents comes to: they are held against everything in the store, then each against its row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from extproc.control import transitions
from extproc.control.actions import Verb
from extproc.control.applied import Applied, in_row, record, who_applied
from extproc.control.claims import Claims, entries_of, let_go
from extproc.control.effect import Effect, Stand, both, effect, on_others
from extproc.control.intent import Transition, intent_of
from extproc.control.status_changes import other_stable
from extproc.errors import Fault, InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.checks import find_conflicts
from extproc.resources.document import Resource
from extproc.resources.drafts import Draft
from extproc.resources.loaded import LoadedDocument, Placed
from extproc.resources.loading import parse_known, parse_rollout, parse_template
from extproc.resources.rollout import Rollout
from extproc.store.ports import Rollouts
from extproc.store.records import Documents, HistoryEntry, StoredRollout, StoredTemplate, UnreadableRollout, Write
from extproc.store.status import Status

R = TypeVar("R")

_Identity = tuple[type[Resource], str]


class Planned(NamedTuple):
    """A document, what applying it comes to, the write that does it, if one is needed, and if a policy is asked."""

    document: LoadedDocument[Rollout]
    result: str
    write: Write | None
    asked: bool

    def effect(
        self, store: Rollouts, row: StoredRollout | UnreadableRollout | None, claims: Callable[[], Claims]
    ) -> Effect:
        """What it does to the rollout in ``row`` and to others; what is left of a deleted or a damaged one counts."""
        assert self.write is not None
        if self.write.status is None:
            return Effect()
        if isinstance(row, StoredRollout):
            before: Stand | None = stand(row)
        else:
            last = store.tombstone(self.write.namespace, self.write.name).last
            before = Stand(last, None, gone=True) if last is not None else None
        after = Stand(self.write.status, self.document.resource)
        had = entries_of(row.document) if isinstance(row, StoredRollout) else []
        has, key = entries_of(self.document.body), self.document.resource.key
        taken = claims().taken(key, set(has) - set(had))
        given = claims().given(key, set(had) - set(has)) if before is not None else []
        found = both(effect(before, after), on_others([stand(other) for other in taken], after))
        for other in given:
            found = both(found, on_others([before] if before is not None else [], stand(other)))
        return found


def stand(row: StoredRollout) -> Stand:
    """Where the rollout in ``row`` stands, as far as its document can be read."""
    if row.deleted:
        return Stand(row.status, None, gone=True)
    try:
        return Stand(row.status, parse_known(row.document))
    except InvalidInput:
        return Stand(row.status, None)


def effect_on(row: StoredRollout, after: Status) -> Effect:
    """What it does to give the rollout in ``row`` the status ``after``."""
    before = stand(row)
    return effect(before, Stand(after, before.rollout))


def effect_of_delete(row: StoredRollout, claims: Callable[[], Claims]) -> Effect:
    """What it does to take the rollout in ``row`` out of the store: others get its requests, or nobody."""
    found, before = effect(None, None), stand(row)
    for other in claims().given(row.key, entries_of(row.document)):
        found = both(found, on_others([before], stand(other)))
    return found


def plan(
    store: Rollouts,
    row: StoredRollout | UnreadableRollout | None,
    document: LoadedDocument[Rollout],
    applying: Applied,
    *,
    follow: bool,
) -> Planned:
    """What ``applying`` the ``document`` to ``row`` comes to; ``follow`` writes its file down as its source."""
    actor, now = applying
    source = document.file if follow else None
    namespace, name = key_of(document.resource)
    if isinstance(row, StoredRollout) and row.document == document.body:
        return _plan_unchanged(store, row, document, source, applying)
    intent = intent_of(document.resource)
    if isinstance(row, StoredRollout):
        result = "configured"
        transition = transitions.configure(intent, row.status, now)
        last: Status | None = row.status
    else:
        tombstone = store.tombstone(namespace, name)
        result = "created" if row is None else "repaired"
        transition = (transitions.create if row is None else transitions.repair)(intent, tombstone, now)
        last = tombstone.last
    had = entries_of(row.document) if isinstance(row, StoredRollout) else []
    left = let_go(last, had, entries_of(document.body), now) if last is not None else {}
    status = replace(transition.status, applied=record(document.resource, document.body, applying) | left)
    history = [entry_of(namespace, name, actor, "apply", transition, now)]
    expect = row.resource_version if row is not None else None
    return Planned(
        document, result, Write(namespace, name, expect, document.body, status, source, history=history), asked=True
    )


def _plan_unchanged(
    store: Rollouts,
    row: StoredRollout,
    document: LoadedDocument[Rollout],
    source: str | None,
    applying: Applied,
) -> Planned:
    """A document that is there already. Of one that nobody knows who applied it, it is whoever applies it again."""
    status, history = None, []
    if in_row(row) is None:
        known = who_applied(store, row)
        has = entries_of(row.document)
        left = let_go(row.status, has, has, applying.at)
        status = replace(row.status, applied=record(document.resource, document.body, known or applying) | left)
        if known is None:
            message = "applied again, because it was not known who had applied it"
            history = [HistoryEntry(applying.at, row.namespace, row.name, applying.by, "apply", message)]
    moved = source is not None and source != row.source
    if status is None and not moved:
        return Planned(document, "unchanged", None, asked=False)
    write = Write(row.namespace, row.name, row.resource_version, status=status, source=source, history=history)
    return Planned(document, "unchanged", write, asked=bool(history))


def deletion(row: StoredRollout, actor: str, now: float) -> Write:
    """What takes the rollout in ``row`` out of the store."""
    entry = HistoryEntry(now, row.namespace, row.name, actor, "delete", "deleted")
    left = let_go(row.status, entries_of(row.document), (), now)
    status = replace(row.status, applied={**row.status.applied, **left})
    return Write(row.namespace, row.name, row.resource_version, status=status, delete=True, history=[entry])


def what_was_kept(
    rollout: Rollout, row: StoredRollout, before: StoredRollout | UnreadableRollout | None, *, made: bool
) -> str:
    """What of a document that was applied is not served, because of what happened before; ``made``: in an earlier life.

    What a condition said ``before`` is told by its name.
    A version that was taken away gets no requests until somebody gives it back, whoever applies it again.
    """
    status = row.status
    kept = ["killed until restored"] if made and status.killed else []
    said = other_stable(before.status) if isinstance(before, StoredRollout) else None
    if (stable := other_stable(status)) is not None:
        kept.append(
            f"{stable['type']}, as `dropout rollout get {row.key}` says" if stable == said else stable["message"]
        )
    if status.canary in status.taken_away:
        how = "aborted" if status.canary in status.aborted else "tripped"
        kept.append(f"version {status.canary} was {how} and gets no requests until `dropout rollout retry`")
    return "; ".join(kept)


def check_with_store(
    before: Documents,
    documents: Sequence[LoadedDocument[Any]],
    removed: Sequence[tuple[str, str]],
    removed_templates: Sequence[tuple[str, str]],
) -> None:
    """Check what the store would hold with ``documents`` and without the rollouts and templates that are ``removed``.

    Raises:
        InvalidInput: with the faults between the documents, and between them and what stays in the store.
    """
    gone: set[_Identity] = {(Rollout, f"{namespace}/{name}") for namespace, name in removed}
    gone |= {(AnalysisTemplate, f"{namespace}/{name}") for namespace, name in removed_templates}
    if faults := list(_conflicts(before, [Draft(document) for document in documents], gone, with_each_other=True)):
        raise InvalidInput(faults)


def conflicts_with_store(before: Documents, meant: Sequence[Draft]) -> Sequence[Fault]:
    """What is wrong between the store and documents that are not valid yet, as far as they say what they mean."""
    return list(_conflicts(before, meant, set(), with_each_other=False))


def _conflicts(
    before: Documents, meant: Sequence[Draft], removed: Collection[_Identity], *, with_each_other: bool
) -> Iterator[Fault]:
    """What is wrong between ``meant`` and what stays in the store; and within ``meant``, if ``with_each_other``."""
    replaced = {(type(one.document.resource), one.document.resource.key) for one in meant}.union(removed)
    staying: list[Resource] = [
        *_parsed(parse_rollout, [row for row in before.rollouts if (Rollout, row.key) not in replaced]),
        *_parsed(parse_template, [row for row in before.templates if (AnalysisTemplate, row.key) not in replaced]),
    ]
    placed: list[Placed] = [(resource, None, None) for resource in staying]
    offset = len(placed)
    placed += [one.document.placed for one in meant]
    for conflict in find_conflicts(placed):
        if conflict.second < offset or (conflict.first >= offset and not with_each_other):
            continue
        second = meant[conflict.second - offset]
        if second.says(conflict.path):
            yield conflict.fault(second.line_at(conflict.path))


def _parsed(
    parse: Callable[[Mapping[str, Any]], R], rows: Sequence[StoredRollout] | Sequence[StoredTemplate]
) -> Iterator[R]:
    """The documents of ``rows``; one that an earlier version accepted and this one does not has no say."""
    for row in rows:
        try:
            yield parse(row.document)
        except InvalidInput:
            continue


def entry_of(namespace: str, name: str, actor: str, verb: Verb, transition: Transition, at: float) -> HistoryEntry:
    """What history keeps of a transition."""
    return HistoryEntry(at, namespace, name, actor, verb, transition.message, transition.detail)


def key_of(rollout: Rollout) -> tuple[str, str]:
    """Namespace and name."""
    return rollout.metadata.namespace, rollout.metadata.name
