"""The document of a rollout as it is served by now: what to keep once a promotion has made another version stable."""

from __future__ import annotations

from collections.abc import Mapping
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
    over = _OF_A_CANARY if status.canary == status.stable else ()
    spec = {name: value for name, value in document["spec"].items() if name not in over}
    spec["stable"] = {"version": status.stable}
    if not any("alias" in (spec.get(role) or {}) for role in _ROLES):
        spec.pop("aliases", None)
    return {**document, "spec": spec}
