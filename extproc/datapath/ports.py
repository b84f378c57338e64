"""What the request path asks of the outside: features and policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from extproc.datapath.model import Decision, Facts, PolicyVerdict, Request
from extproc.snapshot.model import CompiledRollout, Overlay


class FeatureRow(NamedTuple):
    """A stored feature: any JSON value, and its event time in Unix seconds."""

    value: Any
    event_time: float


class FeatureStore(Protocol):
    """Reads the online values of one entity. Called on a thread of its own, never on the event loop."""

    def read(self, view: str, entity: str, names: Sequence[str]) -> Mapping[str, FeatureRow]:
        """The values that exist; a name without a value is left out.

        Raises:
            Unreachable: when the store cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class InputReads(Protocol):
    """Which parts of the input a rule can read, known from its own references."""

    def reads(self, *path: str) -> bool:
        """Whether the rule may read ``input.<path>`` or anything below or above it."""
        ...


class PolicyEngine(Protocol):
    """Evaluates one set of policies; built and used on one thread. Sets of policies are swapped whole."""

    @property
    def revision(self) -> str:
        """A fingerprint of the policies and their data."""
        ...

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict of the rule at ``path`` (``routing/decision``) on the input ``document``. Never raises."""
        ...

    def reads(self, path: str) -> InputReads:
        """The parts of the input that the rule at ``path`` can read."""
        ...

    def can_deny(self, path: str) -> bool:
        """Whether the rule at ``path`` can answer anything but ``allow: true``: then its errors are denials."""
        ...

    @property
    def paths(self) -> tuple[str, ...]:
        """The rules that can be evaluated, as ``routing/decision``."""
        ...


class Decided(NamedTuple):
    """One decision and what it was made from; facts and rollout are None when no rollout matched."""

    decision: Decision
    request: Request
    facts: Facts | None
    rollout: CompiledRollout | None
    overlay: Overlay


class DecisionSink(Protocol):
    """Takes note of decisions: the metrics, the decision log. Called on the event loop, so it never waits."""

    def record(self, decided: Decided) -> None:
        """Take note of one decision."""
        ...
