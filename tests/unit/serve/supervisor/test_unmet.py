"""What rollouts ask for and nobody here does is told once while it lasts, and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from extproc.control.unmet import MOST_CHARACTERS, MOST_LACKS
from extproc.serve.supervisor.host_socket import MAX_BYTES
from extproc.serve.supervisor.unmet import UNLED_SECONDS, UnmetEntry, UnmetKeeper
from tests.support.memory_store import MemoryStore
from tests.support.rollouts import CANARY, EXPERIMENT

KEY = "payments/fraud-detector"
BREAKER = {**CANARY, "breaker": {}}
STEPS = {**CANARY, "steps": [{"setWeight": 5}]}
NO_OBSERVER = (
    f"rollout {KEY}: a breaker is asked for, but serve has no --access-log-listen: no version that fails is taken "
    "away; start serve with, say, --access-log-listen unix:/run/dropout/observer.sock"
)
NO_CONTROLLER = (
    f"rollout {KEY}: steps are asked for, but no controller leads on this store: start `dropout controller` with the "
    "same --store, or serve with --with-controller"
)


LACKING = {"rollout": KEY, "code": "feature_store_missing", "message": "there is no store", "field": "spec.features"}


class Environment:
    """A host that serves ``store``, a clock, and what is told."""

    def __init__(self, *, observed: bool = False, controlled: bool = False) -> None:
        self.store, self.led, self.now = MemoryStore(), False, 0.0
        self.store.led = lambda: self.led  # type: ignore[attr-defined]
        self.lacking: Sequence[UnmetEntry] | None = ()
        self.unready: Sequence[UnmetEntry] = ()
        self.said: list[str] = []
        self.unmet = UnmetKeeper(
            lambda: self.store,  # type: ignore[arg-type, return-value]
            observed=observed,
            controlled=controlled,
            of_worker=self._of_worker,
            of_envoys=lambda: self.unready,
            monotonic=lambda: self.now,
            warn=self.said.append,
        )

    async def _of_worker(self) -> Sequence[UnmetEntry] | None:
        return self.lacking

    def refresh(self, after: float = 5.0) -> list[str]:
        """What another look has told; ``/snapshot`` shows the same."""
        self.now += after
        self.said.clear()
        asyncio.run(self.unmet.refresh())
        return list(self.said)

    @property
    def shown(self) -> list[tuple[str, str, str]]:
        return [(entry["rollout"], entry["code"], entry["field"]) for entry in self.unmet.entries]


def test_a_breaker_without_an_observer_is_told_once_while_it_lasts() -> None:
    environment = Environment()
    environment.store.put(spec=BREAKER)
    assert environment.refresh() == [NO_OBSERVER]
    assert environment.shown == [(KEY, "observer_missing", "spec.breaker")]
    assert environment.refresh() == []
    environment.store.put(spec=CANARY)
    assert (environment.refresh(), environment.shown) == ([f"rollout {KEY}: well again after 10.0 s"], [])
    assert environment.refresh() == []
    environment.store.put(spec=BREAKER)
    assert environment.refresh() == [NO_OBSERVER]
    environment.store.damage("fraud-detector")
    environment.refresh()
    assert environment.shown, "a row that cannot be read asks for what it did"
    environment.store.put(spec=BREAKER)
    environment.store.delete("fraud-detector")
    gone = f"rollout {KEY}: deleted, so that it asks for nothing any more"
    assert (environment.refresh(), environment.shown) == ([gone], []), "it is not well again"
    assert environment.refresh() == []


def test_steps_are_told_of_when_nobody_has_led_for_a_while() -> None:
    environment = Environment()
    environment.store.put(spec=STEPS)
    assert environment.refresh(UNLED_SECONDS - 1) == []
    assert environment.refresh(1) == [NO_CONTROLLER]
    assert environment.shown == [(KEY, "controller_missing", "spec.steps")]
    environment.led = True
    assert (environment.refresh(), environment.shown) == ([f"rollout {KEY}: well again after 5.0 s"], [])
    environment.led = False
    assert environment.refresh(UNLED_SECONDS - 1) == [], "another one may take over"
    assert environment.refresh(1) == [NO_CONTROLLER]


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        (CANARY, {}),
        ({**BREAKER, **STEPS}, {"stable": "4"}),
        ({**BREAKER, **STEPS}, {"aborted": ("4",)}),
    ],
    ids=["nothing is asked for", "it was promoted", "it was aborted"],
)
def test_nothing_is_told_of_what_is_not_to_come(spec: dict[str, Any], status: dict[str, Any]) -> None:
    environment = Environment()
    environment.store.put(spec=spec, **status)
    assert (environment.refresh(UNLED_SECONDS), environment.shown) == ([], [])


def test_nothing_is_told_where_there_is_an_observer_and_a_controller() -> None:
    environment = Environment(observed=True, controlled=True)
    environment.store.put(spec={**BREAKER, **STEPS})
    assert (environment.refresh(UNLED_SECONDS), environment.shown) == ([], [])


def test_an_experiment_has_its_breaker_as_well() -> None:
    environment = Environment()
    environment.store.put(spec={**EXPERIMENT, "breaker": {}}, stable="3", canary=None)
    assert environment.refresh() == [NO_OBSERVER]


def test_what_a_worker_lacks_is_told_once_and_a_worker_that_does_not_answer_lacks_what_it_did() -> None:
    environment = Environment()
    environment.lacking = [LACKING]
    assert environment.refresh() == [f"rollout {KEY}: there is no store"]
    assert environment.shown == [], "the worker's description has it"
    assert [lack.code for lack in environment.unmet.lacks() or ()] == ["feature_store_missing"]
    environment.lacking = None
    assert environment.refresh() == []
    environment.lacking = [LACKING]
    assert environment.refresh() == []


def test_a_store_that_cannot_be_read_is_for_others_to_tell() -> None:
    environment = Environment()
    environment.store.put(spec=BREAKER)
    assert environment.refresh() == [NO_OBSERVER]
    environment.store.put(spec=CANARY)
    environment.store.place.fault = "store_locked"
    assert (environment.refresh(), len(environment.shown)) == ([], 1)


def test_the_controller_is_told_a_bounded_part_of_it_and_nothing_before_a_worker_answered() -> None:
    environment = Environment()
    environment.store.put(spec=BREAKER)
    environment.lacking = None
    environment.refresh()
    assert environment.unmet.lacks() is None
    names = ["r" * 10_000, *(f"routing/{number}" for number in range(100))]
    environment.lacking = [
        {
            "rollout": KEY,
            "code": "policy_rule_missing",
            "message": f"the rule {name} is asked, but no policy has it: every request ends at onError",
            "field": "spec.policy.path",
            "rule": name,
        }
        for name in names
    ]
    environment.refresh()
    lacks = environment.unmet.lacks()
    assert lacks is not None
    assert [lack.code for lack in lacks] == ["observer_missing"] + ["policy_rule_missing"] * (MOST_LACKS - 1)
    assert [lack.rule for lack in lacks[1:3]] == ["r" * MOST_CHARACTERS, "routing/0"], "none is left out for its length"
    for lack, name in zip(lacks[1:3], ("rrr…", "routing/0"), strict=True):
        assert lack.message.endswith(f"{name} is asked, but no policy has it: every request ends at onError")
    assert len(msgspec.json.encode(lacks)) < MAX_BYTES


def test_what_envoys_cannot_serve_is_told_and_shown_and_no_lack_of_the_host() -> None:
    environment = Environment()
    environment.unready = [{"rollout": KEY, "code": "stable_unready", "message": "it is away", "field": "spec.stable"}]
    assert environment.refresh() == [f"rollout {KEY}: it is away"]
    assert environment.shown == [(KEY, "stable_unready", "spec.stable")]
    assert environment.unmet.lacks() == []
    environment.unready = ()
    assert environment.refresh() == [f"rollout {KEY}: well again after 5.0 s"]
