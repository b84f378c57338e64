"""Documents that ask for more time than a decision has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from extproc.errors import Fault
from extproc.resources.fields import format_duration
from extproc.resources.loaded import LoadedDocument
from extproc.resources.marked_yaml import FieldPath, dotted
from extproc.resources.rollout import Rollout

_WAITED_FOR: Final = {"features": "features are", "policy": "the policy's verdict is"}
"""What a decision waits for, by its part of a spec that has a ``timeout``."""


def beyond_deadline(documents: Iterable[LoadedDocument[Any]], deadline: float) -> Iterator[Fault]:
    """What in ``documents`` waits longer than a decision may take (seconds), by ``timeout_beyond_deadline``.

    Such a decision would come when Envoy has given up, and ``onError`` would have no say in it.
    """
    for document in documents:
        if isinstance(document.resource, Rollout):
            spec = document.resource.spec
            for part, waited in (("features", spec.features), ("policy", spec.policy)):
                if waited is None or waited.timeout <= deadline:
                    continue
                if part == "features" or "timeout" in waited.model_fields_set:  # most policies are never waited for
                    yield late(part, waited.timeout, deadline, document.file, document.line_at(_path(part)))


def late(part: str, timeout: float, deadline: float, file: str | None = None, line: int | None = None) -> Fault:
    """The fault of a ``part`` of a spec that is waited for longer than a decision may take (seconds)."""
    message = (
        f"{_WAITED_FOR[part]} waited for {format_duration(timeout)}, but a decision may take "
        f"{format_duration(deadline)}: lower it, or raise --decision-deadline and Envoy's message_timeout"
    )
    return Fault("timeout_beyond_deadline", message, file, line, dotted(_path(part)))


def _path(part: str) -> FieldPath:
    return ("spec", part, "timeout")
