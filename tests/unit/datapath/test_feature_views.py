"""Views by version: all of them are read for everybody, so that nobody's membership depends on the draw."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from extproc.control.analysis.sample_ratio import sample_ratio
from extproc.datapath.decide import decide
from extproc.datapath.features import FeatureReader
from extproc.datapath.gather import Gatherer
from extproc.datapath.model import Facts, Features, Request, Unit
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.datapath.unit import draw
from extproc.names import ARM_CANARY, ARM_CONTROL, ARM_EXCLUDED, Reason
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.ids import make_ids
from tests.support.rollouts import CANARY, canary, document

UNITS = 100_000

VIEWS = {
    "entity": {"header": "x-user-id"},
    "view": "risk_v1",
    "views": {"4": "risk_v2"},
    "names": ["risk"],
    "timeout": "5s",
}


class TwoViews:
    """Everybody has a risk in each view but in those that ``without`` names for him."""

    max_batch = 64

    def __init__(self) -> None:
        self.without: dict[str, set[str]] = {}
        self.silent: set[str] = set()
        self.batches: list[list[str]] = []

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        self.batches.append([f"{key.view.name} {key.text}" for key in keys])
        for key in sorted(keys, key=lambda key: key.view.name in self.silent):
            if key.view.name in self.silent:
                await asyncio.Event().wait()
            lacking = key.view.name in self.without.get(key.text, ())
            yield FeatureAnswer(key, {} if lacking else {"risk": FeatureRow(key.view.name, None)})

    async def close(self) -> None:
        """Nothing to let go of."""


def rollout(weight: int = 5000, **features: Any) -> CompiledRollout:
    return canary(weight, features={**VIEWS, **features})


async def facts_of(store: TwoViews, compiled: CompiledRollout, *users: str) -> list[Facts]:
    """What is gathered for each of ``users`` in turn."""
    reader = FeatureReader(store, FakeClock())
    gatherer, nonce = Gatherer(reader, FakeClock(), 60.0), make_ids().nonce()
    found = []
    for user in users:
        request = Request("POST", "/", "models", "http", {"x-user-id": user.encode()})
        found.append(await gatherer.gather(compiled, request, nonce, None, {}))
    await reader.close()
    return found


def seen(features: Features) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The values of ``features``, those of stable and those by version."""
    values = {name: found.value for name, found in features.values.items()}
    return values, {
        version: {name: found.value for name, found in each.items()} for version, each in features.of.items()
    }


async def test_the_views_of_all_versions_are_asked_for_together_and_remembered_each_by_itself() -> None:
    store = TwoViews()
    first, again = await facts_of(store, rollout(), "u", "u")
    assert store.batches == [["risk_v1 u", "risk_v2 u"]]
    assert seen(first.features) == seen(again.features) == ({"risk": "risk_v1"}, {"4": {"risk": "risk_v2"}})
    assert again.features.of["4"]["risk"].source == "cache"


async def test_what_is_at_hand_of_one_view_is_not_asked_for_again() -> None:
    store, clock = TwoViews(), FakeClock()
    reader = FeatureReader(store, clock)
    alone, both = canary(5000, features={**VIEWS, "views": {}}).features, rollout().features
    assert alone is not None
    assert both is not None
    await reader.fetch(alone, ("u",))
    assert reader.cached(both, ("u",)) is None
    assert seen(await reader.fetch(both, ("u",))) == ({"risk": "risk_v1"}, {"4": {"risk": "risk_v2"}})
    assert store.batches == [["risk_v1 u"], ["risk_v2 u"]]
    await reader.close()


@pytest.mark.parametrize("lacking", ["risk_v1", "risk_v2"])
async def test_who_lacks_a_feature_of_any_view_is_out_of_both_arms(lacking: str) -> None:
    store = TwoViews()
    store.without["u"] = {lacking}
    for weight in (0, 10_000):
        compiled = rollout(weight)
        (facts,) = await facts_of(store, compiled, "u")
        decision = decide(compiled, NO_OVERLAY, facts, revision=1, policy_revision="")
        assert (decision.arm, decision.version, decision.reason) == (ARM_EXCLUDED, "3", Reason.FEATURE_MISSING)


async def test_a_view_that_does_not_come_is_late_and_the_other_is_there() -> None:
    store = TwoViews()
    store.silent.add("risk_v2")
    (facts,) = await facts_of(store, rollout(timeout="1ms"), "u")
    assert facts.features.fault is Reason.FEATURE_TIMEOUT
    assert seen(facts.features) == ({"risk": "risk_v1"}, {"4": {}})


def test_the_features_of_the_input_are_those_of_the_version_that_is_stable_now() -> None:
    parsed = parse_rollout(document({**CANARY, "features": VIEWS}))
    promoted = compile_rollout(parsed, Status(stable="4"), now=0.0).features
    assert promoted is not None
    assert (promoted.view.name, promoted.others, promoted.of_versions) == ("risk_v2", (), ())


async def test_a_view_that_a_third_lack_takes_as_many_out_of_either_arm() -> None:
    """The split of those who remain is as it was weighted, over 100 000 units."""
    store, compiled = TwoViews(), rollout()
    store.without = {"lacks": {"risk_v2"}}
    lacks, has = [facts.features for facts in await facts_of(store, compiled, "lacks", "has")]
    arms: Counter[str | None] = Counter()
    out: Counter[bool] = Counter()
    for number in range(UNITS):
        unit = Unit(b"user-%d" % number)
        facts = Facts(unit, draw(compiled, unit), has if number % 3 else lacks)
        arm = decide(compiled, NO_OVERLAY, facts, revision=1, policy_revision="").arm
        assert facts.buckets.unit is not None
        arms[arm] += 1
        out[facts.buckets.unit < 5000] += arm == ARM_EXCLUDED
    split = sample_ratio({str(arm): count for arm, count in arms.items()}, {ARM_CANARY: 5000, ARM_CONTROL: 5000})
    assert split is not None
    assert split.healthy, split
    assert out.total() == len(range(0, UNITS, 3))
    assert abs(out[True] - out[False]) < 4 * out.total() ** 0.5
