"""What measuring asks for: providers of metrics, those that wait for a server and those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from extproc.control.analysis.runs import Metric
from extproc.measure import EpochTotals, LabelTotals


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: an epoch (by its id) of the ``rollout``, at ``now`` (Unix seconds), and its two arms.

    ``versions`` are those that the arms are about, the canary's (or the variant's) and the control's.
    """

    rollout: str
    epoch: int
    now: float
    canary: str
    control: str
    versions: tuple[str, str] = ("", "")

    def arms(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """What results call the arms, and what the rollout does."""
        return ("canary", self.canary), ("control", self.control)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a provider found: a result, as conditions see it; or why it says nothing; or why there is none.

    A result is a number, a list of numbers, or a mapping of names to numbers and to mappings of such.
    """

    result: Any = None
    inconclusive: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """What a server is asked: the provider's part of the document, the values of the template's arguments, of what."""

    spec: Any
    args: Mapping[str, str]
    of: Subject


class MetricProvider(Protocol):
    """A server that can be asked for metrics. Everything of it runs on one event loop, which is not the tick's."""

    provider: str
    """The name by which documents know what it is: their part is of this kind."""

    async def measure(self, question: MetricQuery, within: float) -> Reading:
        """The answer to ``question``, within so many seconds. Raises nothing: what goes wrong is in the reading.

        It may be cancelled, and others may be asked at the same time.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; also where nothing was ever asked."""
        ...


class EmbeddedProvider(Protocol):
    """Where measurements come from that need no waiting. Raises nothing: what goes wrong is in the reading."""

    def measure(self, metric: Metric, of: Subject) -> Reading:
        """Measure ``metric``."""
        ...


class ObservationSource(Protocol):
    """What the observers of all hosts counted."""

    def totals(self, key: str, epoch: int) -> EpochTotals | None:
        """The counts of an epoch, since it began; None if none were reported. Raises ``Unreachable``."""
        ...


class LabelSource(Protocol):
    """The labels that came."""

    def labels(self, key: str, epoch: int) -> Mapping[str, LabelTotals]:
        """The labels of an epoch by arm. Raises ``Unreachable``."""
        ...
