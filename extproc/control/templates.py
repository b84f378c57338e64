"""What applying and deleting do to AnalysisTemplates: they have no status and no history, only a document."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from extproc.errors import InvalidInput, Unreachable
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loaded import LoadedDocument
from extproc.store.ports import Rollouts, WritableRollouts
from extproc.store.records import Documents, StoredTemplate, TemplateWrite
from extproc.suggestions import did_you_mean_key, listed


@dataclass(frozen=True, slots=True)
class TemplateResult:
    """What became of one template: ``created``, ``configured``, ``unchanged`` or ``deleted``.

    ``row`` is the template as it stands; for a deleted one its last state.
    """

    row: StoredTemplate
    result: str


def load_template(store: Rollouts, namespace: str, name: str) -> StoredTemplate:
    """The AnalysisTemplate ``namespace/name``.

    Raises:
        InvalidInput: ``not_found``.
        Unreachable: ``store_corrupt``, for one that is damaged.
    """
    row = _found(store, namespace, name)
    if not row.document:
        raise Unreachable.of("store_corrupt", f"the AnalysisTemplate {row.key} cannot be read; apply it again")
    return row


def _found(store: Rollouts, namespace: str, name: str) -> StoredTemplate:
    row = store.template(namespace, name)
    if row is None:
        keys = [other.key for other in store.documents().templates]
        meant = did_you_mean_key(namespace, name, keys) or (f"; there are {listed(keys)}" if keys else "")
        raise InvalidInput.of("not_found", f"there is no AnalysisTemplate {namespace}/{name} in the store{meant}")
    return row


def plan_templates(
    before: Documents,
    documents: Sequence[LoadedDocument[AnalysisTemplate]],
    remove: Collection[tuple[str, str]],
    *,
    follow: bool,
) -> tuple[list[TemplateWrite], list[TemplateResult]]:
    """The writes that make a store hold ``documents`` and no longer ``remove``, and what becomes of each."""
    rows = {(row.namespace, row.name): row for row in before.templates}
    writes, results = [], []
    for document in documents:
        metadata = document.resource.metadata
        row = rows.get((metadata.namespace, metadata.name))
        source = document.file if follow else row.source if row is not None else None
        after = StoredTemplate(metadata.namespace, metadata.name, document.body, source)
        if row is None:
            results.append(TemplateResult(after, "created"))
        else:
            same = replace(row, source=source) == after
            results.append(TemplateResult(after, "unchanged" if same else "configured"))
        if row != after:
            writes.append(TemplateWrite(after.namespace, after.name, after.document, after.source))
    for key in remove:
        if key in rows:
            results.append(TemplateResult(rows[key], "deleted"))
            writes.append(TemplateWrite(*key, document=None))
    return writes, results


def delete_template(store: WritableRollouts, namespace: str, name: str) -> TemplateResult:
    """Take a template out of the store. A rollout that uses it ends its next analysis in Error.

    Raises:
        InvalidInput: ``not_found``.
    """
    row = _found(store, namespace, name)
    store.write([], templates=[TemplateWrite(namespace, name, document=None)])
    return TemplateResult(row, "deleted")
