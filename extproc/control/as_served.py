"""The document of a rollout as it is served by now: what to keep once a promotion has made another version stable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from extproc.store.records import StoredRollout

_ROLES: Final = ("stable", "canary", "shadow")
_OF_A_CANARY: Final = ("canary", "steps", "analysis", "progressDeadline", "progressDeadlineAbort")


def as_served(row: StoredRollout) -> Mapping[str, Any]:
    """The document in ``row`` with the stable version that there is, and without a canary that became it.

    To apply it moves nobody. That of an experiment is as it was: what its last variant serves is what it says.
    """
    document, status = row.document, row.status
    if document["spec"].get("variants"):
        return document
    over = left_out(row)
    spec = {name: value for name, value in document["spec"].items() if name not in over}
    spec["stable"] = {"version": status.stable}
    if not any("alias" in (spec.get(role) or {}) for role in _ROLES):
        spec.pop("aliases", None)
    return {**document, "spec": spec}


def left_out(row: StoredRollout) -> Sequence[str]:
    """The fields of the document in ``row`` that ``as_served`` leaves out: a document without a canary has none."""
    spec, status = row.document["spec"], row.status
    if spec.get("variants") or status.canary != status.stable:
        return ()
    return [name for name in _OF_A_CANARY if name in spec]
