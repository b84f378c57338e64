"""What is done to documents in the store: they are applied together or not at all, and taken out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from extproc.control.actions import Apply, Delete
from extproc.control.applied import Applied
from extproc.control.applying import (
    check_with_store,
    deletion,
    effect_of_delete,
    key_of,
    plan,
    what_was_kept,
)
from extproc.control.policy import Asked
from extproc.control.result import ActionResult
from extproc.control.rise_to_come import wait_for_rise
from extproc.control.templates import TemplateResult, plan_templates
from extproc.errors import Fault, InvalidInput, Refused, Unreachable
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import of_kind
from extproc.resources.rollout import Rollout
from extproc.store.ports import Rollouts
from extproc.store.records import StoredRollout, UnreadableRollout
from extproc.suggestions import did_you_mean_key


def load(store: Rollouts, namespace: str, name: str) -> StoredRollout:
    """The rollout ``namespace/name``.

    Raises:
        InvalidInput: ``not_found``.
    """
    row = store.get(namespace, name)
    if row is None:
        keys = [other.key for other in store.documents().rollouts]
        meant = did_you_mean_key(namespace, name, keys) or "; `dropout rollout list` shows what there is"
        raise InvalidInput.of("not_found", f"there is no rollout {namespace}/{name} in the store{meant}")
    return row


def apply(action: Apply, asked: Asked) -> Sequence[ActionResult | TemplateResult]:
    """Make the store hold the documents, all of them or none.

    Raises:
        InvalidInput: with the faults between documents, and between them and what is in the store.
        Refused: with everything that the policy forbids, or when somebody else wrote first.
        RiseToComeError: when a rise has to come first.
        Unreachable: when the store cannot be used, or what it has of a rollout cannot be read.
    """
    store, actor, now = asked.store, asked.actor, asked.now
    before = store.documents()
    check_with_store(before, action.documents, action.remove, action.remove_templates)
    rows = {(row.namespace, row.name): row for row in before.rollouts}
    damaged = {(row.namespace, row.name): row for row in before.unreadable}
    documents = of_kind(action.documents, Rollout)
    faults = [damaged[key].fault for document in documents if (key := key_of(document.resource)) in damaged]
    if faults and not action.repair:
        raise Unreachable(faults)
    known: dict[tuple[str, str], StoredRollout | UnreadableRollout] = {**rows, **damaged}
    planned = [
        plan(store, known.get(key_of(document.resource)), document, Applied(actor, now), follow=action.follow)
        for document in documents
    ]
    removed = [rows[key] for key in action.remove if key in rows]
    denied: list[Fault] = []
    for one in planned:
        row = known.get(key_of(one.document.resource))
        if isinstance(row, StoredRollout) and one.write is not None and one.write.status is not None:
            wait_for_rise(row.status, one.write.status, now)
        if one.asked:
            effect = partial(one.effect, store, row, asked.claims)
            denied += asked.denials("apply", row, effect, document=one.document.body)
    for row in removed:
        denied += asked.denials("delete", row, partial(effect_of_delete, row, asked.claims))
    if denied:
        raise Refused(denied)
    writes = [one.write for one in planned if one.write is not None]
    writes += [deletion(row, actor, now) for row in removed]
    templates, of_templates = plan_templates(
        before, of_kind(action.documents, AnalysisTemplate), action.remove_templates, follow=action.follow
    )
    written = store.write(writes, templates=templates, documents_at=before.revision) if writes or templates else ()
    after = {(row.namespace, row.name): row for row in written}
    results = []
    for document, result, *_ in planned:
        key = key_of(document.resource)
        row = after[key] if key in after else rows[key]
        made = result in ("created", "repaired")
        results.append(ActionResult(row, result, what_was_kept(document.resource, row, known.get(key), made=made)))
    return [*results, *(ActionResult(row, "deleted") for row in removed), *of_templates]


def delete(action: Delete, asked: Asked) -> ActionResult:
    """Take a rollout out of the store.

    Raises:
        InvalidInput: ``not_found``.
        Refused: when the policy forbids it, or somebody else wrote first.
        Unreachable: when the store cannot be used.
    """
    row = load(asked.store, action.namespace, action.name)
    asked.about("delete", row, partial(effect_of_delete, row, asked.claims))
    asked.store.write([deletion(row, asked.actor, asked.now)])
    return ActionResult(row, "deleted")
