"""A stable version that Envoy cannot serve is told of, once Envoy had the time to know its cluster."""

from __future__ import annotations

from collections.abc import Mapping

from extproc.serve.supervisor.stable_clusters import MOST, REFRESH_SECONDS, SETTLE_SECONDS, StableClusters
from tests.support.memory_store import MemoryStore
from tests.support.rollouts import CANARY

KEY = "payments/fraud-detector"
ADDRESS = "127.0.0.1:9901"


class Environment:
    """A store, Envoys that know ``clusters``, and a clock."""

    def __init__(self) -> None:
        self.store, self.now, self.asked = MemoryStore(), 0.0, 0
        self.clusters: dict[str, str] | None = {}
        self.stables = StableClusters(lambda: self.store, self._ask, lambda: self.now)

    def _ask(self) -> Mapping[str, Mapping[str, str]]:
        self.asked += 1
        return {ADDRESS: self.clusters} if self.clusters is not None else {}

    def after(self, seconds: float) -> list[tuple[str, str]]:
        """Which rollouts are told of after so long, and what is said of the cluster."""
        self.now += seconds
        return [(entry["rollout"], entry["message"].split(", says")[0]) for entry in self.stables.entries()]


def test_a_stable_whose_cluster_envoy_does_not_know_is_told_of_until_it_does() -> None:
    environment = Environment()
    environment.store.put(spec=CANARY)
    assert environment.after(0) == [], "what was rendered may be on its way"
    missing = [(KEY, "cluster fraud-detector-v3 of the stable version is not known")]
    assert environment.after(SETTLE_SECONDS) == missing
    environment.clusters = {"fraud-detector-v3": "has no healthy endpoint"}
    unhealthy = [(KEY, "cluster fraud-detector-v3 of the stable version has no healthy endpoint")]
    assert environment.after(SETTLE_SECONDS) == unhealthy
    environment.clusters = {"fraud-detector-v3": ""}
    assert environment.after(SETTLE_SECONDS) == []


def test_the_cluster_is_that_of_the_documents_template() -> None:
    environment = Environment()
    environment.store.put(spec={**CANARY, "upstream": "{namespace}-{name}-{version}"})
    environment.clusters = {"payments-fraud-detector-3": ""}
    environment.after(0)
    assert environment.after(SETTLE_SECONDS) == []


def test_envoys_are_left_alone_while_nothing_changes_and_one_that_is_silent_says_nothing_of_stable() -> None:
    environment = Environment()
    environment.after(0)
    assert environment.asked == 0, "there is nothing to ask about"
    environment.store.put(spec=CANARY)
    environment.clusters = None
    environment.after(0)
    assert environment.after(SETTLE_SECONDS) == []
    environment.clusters = {"fraud-detector-v3": ""}
    environment.after(SETTLE_SECONDS)
    asked = environment.asked
    environment.after(SETTLE_SECONDS)
    assert environment.asked == asked
    environment.after(REFRESH_SECONDS)
    assert environment.asked == asked + 1


def test_one_cause_is_not_told_ten_thousand_times_and_what_is_deleted_not_at_all() -> None:
    environment = Environment()
    for number in range(MOST + 5):
        environment.store.put(name=f"r-{number:02}", spec=CANARY)
    environment.after(0)
    assert len(environment.after(SETTLE_SECONDS)) == MOST
    environment.store.delete("r-00")
    assert "payments/r-00" not in dict(environment.after(1))
