"""A store, a clock, and controllers on it, ticked by the test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from extproc.control.acting import act
from extproc.control.actions import Apply
from extproc.control.active_rollouts import ActiveRollout
from extproc.control.reconciler import Reconciler
from extproc.control.rollout import Evidence
from extproc.resources.loading import load_paths
from extproc.store.records import HistoryEntry, StoredRollout
from extproc.testing.memory_store import MemoryStore
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, document

NAME = ("payments", "fraud-detector")
KEY = "payments/fraud-detector"
STEPS: list[dict[str, Any]] = [
    {"setWeight": 5},
    {"pause": {"duration": "10s"}},
    {"setWeight": 50},
    {"pause": {"duration": "10s"}},
]
LEASE_SECONDS = 10.0


class Seen:
    """What a test lets the controller see."""

    def __init__(self) -> None:
        self.evidence = Evidence()

    def collect(self, under_way: Iterable[ActiveRollout], now: float) -> None:
        """There is nothing new."""

    def begin(self, now: float) -> None:
        """There is nothing to get ready."""

    def evidence_of(self, followed: ActiveRollout, now: float) -> Evidence:
        return self.evidence


class Clusters:
    """Proxies that know these clusters and no other."""

    def __init__(self, *known: str) -> None:
        self.known = known

    def unready(self, cluster: str) -> str:
        return "" if cluster in self.known else f"cluster {cluster} is not known"


class Environment:
    """A store, and ``folder`` for what people write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.seen = Seen()
        self.said: list[str] = []
        self.store = MemoryStore(clock=self.clock)
        self.place = self.store.place

    def apply_template(self, body: dict[str, Any]) -> None:
        file = self.folder / "template.yaml"
        file.write_text(yaml.safe_dump(body))
        act(self.store, "alice", Apply(load_paths([file]).documents), self.clock)

    def apply(self, name: str = NAME[1], steps: Sequence[dict[str, Any]] | None = STEPS, **spec: Any) -> None:
        """Apply the usual canary with ``spec`` over it; a field of None is left out."""
        body = {**CANARY, "match": [{"path": {"value": f"/{name}"}}], "steps": steps and [*steps], **spec}
        file = self.folder / "document.yaml"
        given = {field: value for field, value in body.items() if value is not None}
        file.write_text(yaml.safe_dump(document(given, name)))
        act(self.store, "alice", Apply(load_paths([file]).documents), self.clock)

    def controller(self, holder: str = "a", **options: Any) -> Reconciler:
        return Reconciler(
            MemoryStore(self.place, clock=self.clock),
            self.clock,
            options.pop("evidence", self.seen),
            holder=holder,
            actor=f"controller@{holder}",
            lease_seconds=LEASE_SECONDS,
            say=self.said.append,
            warn=self.said.append,
            **options,
        )

    def run(self, controller: Reconciler, seconds: float) -> None:
        """Tick once a second for ``seconds``."""
        for _ in range(int(seconds)):
            controller.tick()
            self.clock.advance(1)

    def row(self, name: str = NAME[1]) -> StoredRollout:
        row = self.store.get("payments", name)
        assert row is not None
        return row

    def history(self, name: str = NAME[1]) -> list[HistoryEntry]:
        return list(self.store.history("payments", name))

    def weight(self) -> int:
        return self.row().status.weight_at(self.clock.now())
