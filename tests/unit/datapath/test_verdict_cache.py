"""A worker remembers verdicts: they are those that the policy gives, and only so many, of what can come again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.datapath import verdict_cache
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import EmbeddedEngine
from extproc.datapath.verdict_cache import VerdictCache
from extproc.names import Reason
from tests.support.policies import RecordingEngine, engine_of

PATH = "routing/decision"
POLICY = """
package routing

decision := {"allow": true, "versions": ["1"], "reason": sprintf("%v of %v", [input.rollout.name, input.features.x])} if
	input.features.x > 1

decision := {"allow": input.features.x != 0} if input.features.x <= 1

other := {"allow": input.features.x == 1}
"""


def remembering(policy: str, max_entries: int = 10) -> tuple[RecordingEngine, EmbeddedEngine, VerdictCache]:
    cache = VerdictCache(max_entries)
    asked = RecordingEngine(engine_of(policy))
    return asked, cache.before(asked), cache


def features(x: Any, name: str = "r") -> dict[str, Any]:
    return {"rollout": {"name": name}, "features": {"x": x}}


INPUTS = st.tuples(
    st.sampled_from([PATH, "routing/other", "routing/missing"]),
    st.builds(
        features,
        st.sampled_from([0, 1, 1.0, True, 2, "2", None, [], 2**70, -0.0, 0.0, "\ud800"]),
        st.sampled_from(["r", "s", "\ud800"]),
    ),
)


@given(st.lists(INPUTS, max_size=40), st.integers(1, 5))
def test_what_is_remembered_is_what_the_policy_says(inputs: Sequence[tuple[str, Any]], max_entries: int) -> None:
    asked, engine, _ = remembering(POLICY, max_entries)
    plain = engine_of(POLICY)
    for path, document in inputs:
        assert engine.evaluate(path, document) == plain.evaluate(path, document)
    assert engine.revision == asked.revision
    assert engine.reads(PATH).include("features", "x")


def test_a_policy_is_asked_once_about_the_same() -> None:
    asked, engine, cache = remembering(POLICY)
    verdicts = [engine.evaluate(PATH, features(x)) for x in (2, 3, 2, 3, 2)]
    assert [verdict.reason for verdict in verdicts] == [f"r of {x}" for x in (2, 3, 2, 3, 2)]
    assert asked.inputs == [features(2), features(3)]
    assert (cache.hits, cache.misses) == (3, 2)


def test_another_rule_another_rollout_and_another_kind_of_value_are_not_the_same() -> None:
    asked, engine, _ = remembering(POLICY)
    for path, document in ((PATH, features(1)), ("routing/other", features(1)), (PATH, features(1, "s"))):
        engine.evaluate(path, document)
    engine.evaluate(PATH, features(True))
    assert len(asked.inputs) == 4


def test_the_oldest_verdict_makes_room() -> None:
    asked, engine, _ = remembering(POLICY, max_entries=2)
    for x in (1, 2, 3, 2, 3, 1):
        engine.evaluate(PATH, features(x))
    assert asked.inputs == [features(x) for x in (1, 2, 3, 1)]


def test_other_policies_start_with_nothing_and_the_counts_go_on() -> None:
    _, engine, cache = remembering(POLICY)
    engine.evaluate(PATH, features(0))
    edited = cache.before(engine_of(POLICY.replace("!= 0", "== 0")))
    assert not engine.evaluate(PATH, features(0)).allow
    assert edited.evaluate(PATH, features(0)).allow
    assert (cache.hits, cache.misses) == (1, 2)


def test_without_room_for_any_the_policy_is_asked_every_time() -> None:
    asked, engine, _ = remembering(POLICY, max_entries=0)
    assert [engine.evaluate(PATH, features(2)) for _ in range(2)] == [asked.evaluate(PATH, features(2))] * 2
    assert len(asked.inputs) == 3


@pytest.mark.parametrize(
    "read",
    [
        "input.time > 0",
        'input.attributes.request.time != ""',
        'input.attributes.request.http.id != ""',
        'input.attributes.request.http.headers["x-request-id"] != ""',
        "count(input.attributes.request.http.headers) > 0",
        "count(input) > 0",
    ],
)
def test_a_policy_that_reads_what_is_new_in_every_request_is_asked_every_time(read: str) -> None:
    asked, engine, cache = remembering(f'package routing\n\ndecision := {{"allow": true}} if {read}\n')
    http = {"id": "7", "headers": {"x-request-id": "7"}}
    document = {"time": 7, "attributes": {"request": {"time": "7", "http": http}}}
    assert [engine.evaluate(PATH, document) for _ in range(2)] == [PolicyVerdict()] * 2
    assert len(asked.inputs) == 2
    assert (cache.hits, cache.misses) == (0, 0)


def test_large_inputs_large_verdicts_and_faults_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_cache, "MAX_CHARACTERS", 100)
    long = "y" * 101
    asked, engine, _ = remembering(
        'package routing\n\ndecision := {"allow": true} if input.features.x == "x"\n'
        f'decision := {{"allow": true, "reason": "{long}"}} if input.features.x == "y"\n'
    )
    for x, reason in (("x", None), ("x" * 101, Reason.POLICY_UNDEFINED), ("y", None), ("z", Reason.POLICY_UNDEFINED)):
        assert [engine.evaluate(PATH, features(x)).fault for _ in range(2)] == [reason] * 2
    assert [document["features"]["x"][0] for document in asked.inputs] == ["x", "x", "x", "y", "y", "z", "z"]
