"""Documents that ask for more time than a decision has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from extproc.errors import Fault
from extproc.resources.fields import format_duration
from extproc.resources.marked_yaml import Path, dotted
from extproc.resources.rollout import Rollout

if TYPE_CHECKING:
    from extproc.resources.loading import LoadedDocument

FEATURES_TIMEOUT: Final[Path] = ("spec", "features", "timeout")


def beyond_deadline(documents: Iterable[LoadedDocument[Any]], deadline: float) -> Iterator[Fault]:
    """What in ``documents`` waits longer than a decision may take (seconds), by ``timeout_beyond_deadline``.

    Such a decision would come when Envoy has given up, and ``onError`` would have no say in it.
    """
    for document in documents:
        features = document.resource.spec.features if isinstance(document.resource, Rollout) else None
        if features is not None and features.timeout > deadline:
            yield late_features(features.timeout, deadline, document.file, document.lines[FEATURES_TIMEOUT])


def late_features(timeout: float, deadline: float, file: str | None = None, line: int | None = None) -> Fault:
    """The fault of features that are waited for longer than a decision may take (seconds)."""
    message = (
        f"features are waited for {format_duration(timeout)}, but a decision may take {format_duration(deadline)}: "
        "lower it, or raise --decision-deadline and Envoy's message_timeout"
    )
    return Fault("timeout_beyond_deadline", message, file, line, dotted(FEATURES_TIMEOUT))
