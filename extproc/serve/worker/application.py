"""What a worker runs: the decision path of a process, as its life goes on around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from extproc.datapath.ports import EmbeddedEngine
from extproc.datapath.sinks.tally import Tallied
from extproc.datapath.transports.exchange import RequestHandler
from extproc.errors import Fault
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig
from extproc.snapshot.trips import LocalTrip


class Application(Protocol):
    """What a worker runs, put together by the composition root. Everything happens on the event loop's thread."""

    @property
    def decided(self) -> int:
        """Requests decided so far."""
        ...

    @property
    def revision(self) -> int:
        """The store's revision that requests are decided from."""
        ...

    def engine(self, sources: str) -> EmbeddedEngine:
        """An engine of ``sources``, policies as JSON text. Raises ``InvalidInput``."""
        ...

    def load(self) -> None:
        """Everything that must be there before the first request; may block. Raises ``DropoutError``."""
        ...

    def trials(self) -> dict[str, Any]:
        """For each rule that a rollout asks, an input on which it can be tried."""
        ...

    def unanswered(self) -> list[dict[str, Any]]:
        """What rollouts ask for and nobody has: a fault for each, with the first rollout that asks."""
        ...

    @property
    def process(self) -> RequestHandler:
        """What replies to one request's headers."""
        ...

    def count_fault(self, fault: str) -> None:
        """Something was wrong with an exchange with Envoy."""
        ...

    def count_failure(self, task: str) -> None:
        """Work in the background failed by a bug."""
        ...

    async def follow(self) -> None:
        """Follow the store, until cancelled."""
        ...

    def describe(self) -> dict[str, Any]:
        """For /snapshot: ``errors``, and ``rollouts`` to be iterated over later."""
        ...

    def dump(self) -> dict[str, Any]:
        """The metrics."""
        ...

    def rollouts(self) -> list[str]:
        """The keys of all rollouts."""
        ...

    def policies_swapped(self, revision: str) -> None:
        """Other policies are in force."""
        ...

    def watch_engine(self, tell: Callable[[str, Fault | None], object]) -> None:
        """Have ``tell`` told of a policy engine that is asked: its revision and what is wrong, now and when it changes.

        It is not told of policies of this process.
        """
        ...

    def hold(self, trips: Sequence[LocalTrip], killed: Sequence[str]) -> None:
        """Go by these trips and killed rollouts, all that are in force on this host."""
        ...

    def listening(self) -> None:
        """Somebody listens to ``take_decided`` who has heard of nothing yet."""
        ...

    def tell_plans(self) -> None:
        """The policy shadow is told of every rollout again, as it is decided."""
        ...

    def take_decided(self) -> Tallied | None:
        """What was decided since this was last asked; None when nothing was."""
        ...

    def reload(self) -> None:
        """Open again what was opened by name."""
        ...

    async def close(self, within: float) -> None:
        """Write what can still be written within as many seconds, and let go of everything."""
        ...


AssembleWorker = Callable[[WorkerConfig, PolicySlot], Application]
