"""What the request path asks of the outside, features and policies, and what it tells it: decisions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from extproc.datapath.model import Decision, Facts, PolicyVerdict, Request
from extproc.errors import Fault
from extproc.snapshot.model import CompiledRollout, FeatureView, Overlay


class FeatureRow(NamedTuple):
    """A stored feature: any JSON value, and its event time in Unix seconds; None where the store does not know it."""

    value: Any
    event_time: float | None


class FeatureKey(NamedTuple):
    """What one read answers: the features of ``view`` for an entity, a value for each of the view's join keys."""

    view: FeatureView
    entity: tuple[str | int, ...]

    @property
    def text(self) -> str:
        """The entity as one text, for stores whose keys are text. No two entities of a view have the same.

        One value stands as it is; several are joined by ``|``, and ``|`` and ``\\`` within them follow a ``\\``.
        """
        if len(self.entity) == 1:
            return str(self.entity[0])
        return "|".join(str(value).replace("\\", "\\\\").replace("|", "\\|") for value in self.entity)


class FeatureAnswer(NamedTuple):
    """What a store says of a key: the features that exist, by name, or why it cannot say.

    A ``fault`` that is ``InvalidInput`` is of what is stored of this key, which is not of the type that it should be:
    that is an answer. Any other says that the store cannot be asked.
    """

    key: FeatureKey
    rows: Mapping[str, FeatureRow] | None
    fault: Exception | None = None


class FeatureStore(Protocol):
    """Reads online values. Every method belongs to one event loop, which a store never holds up."""

    max_batch: int
    """Keys that one ``read`` may ask for."""

    def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        """An answer for each of ``keys``, in any order, each as soon as it is there.

        A feature without a value is left out. What it raises is the answer to every key that has none by then.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


@runtime_checkable
class FeatureCatalogue(Protocol):
    """What a ``FeatureStore`` is beside, if it knows what it has. Asked aside from requests, never for one."""

    async def lacking(self, view: FeatureView) -> Sequence[Fault]:
        """What of ``view`` the store does not have; empty: all is there.

        ``feature_view_unknown`` is said alone. Of ``feature_unknown``, ``join_key_unknown`` and ``join_key_type`` there
        is one for each feature and join key, whose name is the ``field``: the last is for a key that is of another
        type than the rollout says, see ``FeatureView.integer_keys``. The message is a sentence that names both.

        Raises:
            Unreachable: when it cannot say.
        """
        ...


class InputReads(Protocol):
    """Which parts of the input a rule can read, known from its own references."""

    def include(self, *path: str) -> bool:
        """Whether the rule may read ``input.<path>`` or anything below or above it."""
        ...


class PolicyEngine(Protocol):
    """What a rollout's rule says of a request, at once or when somebody else has been asked.

    Every method belongs to one event loop, which an engine never holds up. How many questions are under way, what
    equal ones share and when an engine is left alone is not its own affair: ``RemotePolicies`` stands before it.
    """

    @property
    def revision(self) -> str:
        """A fingerprint of the policies and their data, or what there is to say of whose they are."""
        ...

    def known(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict | None:
        """The verdict of the rule at ``path`` on ``document`` if no one must be waited for. Never raises."""
        ...

    async def ask(self, path: str, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """The verdict, waited for at most ``within`` seconds; then its fault is ``policy_timeout``. Never raises.

        ``policy_unavailable`` is the fault where nobody answers who could say anything of any input: such faults and
        late answers are what an engine is left alone for. A question that one input alone spoils is a
        ``policy_error``. The verdict carries the ``revision`` that gave it, if that is known.
        """
        ...

    def reads(self, path: str) -> InputReads:
        """The parts of the input that the rule at ``path`` can read."""
        ...

    def can_deny(self, path: str) -> bool:
        """Whether the rule at ``path`` can answer anything but ``allow: true``: then its errors are denials."""
        ...

    def has(self, path: str) -> bool:
        """Whether ``path``, such as ``routing/decision``, may have a value."""
        ...

    def reopen(self) -> None:
        """Open again what was opened by name: a token or a certificate that was renewed. Raises ``InvalidInput``."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class EmbeddedEngine(Protocol):
    """Evaluates one set of policies in this process; built and used on one thread. Sets are swapped whole."""

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

    def has(self, path: str) -> bool:
        """Whether anything gives ``path``, such as ``routing/decision``, a value."""
        ...


class DecisionRecord(NamedTuple):
    """One decision and what it was made from; facts and rollout are None when no rollout matched."""

    decision: Decision
    request: Request
    facts: Facts | None
    rollout: CompiledRollout | None
    overlay: Overlay


class DecisionSink(Protocol):
    """Takes note of decisions: the metrics, the decision log. Called on the event loop, so it never waits."""

    def record(self, decided: DecisionRecord) -> None:
        """Take note of one decision."""
        ...


class LogRoom(Protocol):
    """What the decision log says before a decision is made, where it may say anything."""

    async def may_expose(self, within: float) -> bool:
        """Whether the decision may be more than stable; waits for room at most ``within`` seconds. Never raises."""
        ...


class EventSink(Protocol):
    """Takes the decision log away from a worker.

    An event is a JSON object in UTF-8, without a line end: a decision, or a plan that those behind it name. A sink has
    a thread of its own, which alone calls it, but for ``check``: it may wait, and no request ever waits for it.
    Meanwhile events queue up, and what finds the queue full is dropped and counted.
    """

    def check(self) -> None:
        """See, before anything is served, that it can work as it was configured; it holds nothing afterwards.

        Raises:
            DropoutError: when it cannot. What may come back by itself, such as a server, is no error.
        """
        ...

    def write(self, events: Sequence[bytes]) -> int:
        """Return when ``events`` are delivered, with the number of those that it refuses for good: they are dropped.

        They are one or more, the oldest first, of a megabyte together, or of one event that is larger. Whatever it
        raises is counted, and the same events come again: they may be delivered twice.
        """
        ...

    def reopen(self) -> None:
        """Open again what was opened by name: a file that was renamed, a certificate that was renewed."""
        ...

    def close(self) -> None:
        """Let go of everything. Nothing is left to be delivered; it may never have been asked for anything."""
        ...


@runtime_checkable
class Pace(Protocol):
    """What an ``EventSink`` has beside, if it wants to say when events are handed to it. Belongs to its thread."""

    @property
    def enough_bytes(self) -> int:
        """Of events that are worth handing on at once."""
        ...

    def gather_seconds(self) -> float:
        """For how long fewer than that are waited with. A queue that is half full waits for no more."""
        ...

    def retry_seconds(self, failures: int) -> float:
        """How long to wait after the ``failures``-th failure in a row, of which the first is 1."""
        ...
