"""A policy shadow: which decisions it is shown, that nobody waits for it, and what it calls a difference."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
import pytest

from extproc.datapath.attributes import AttributeReader
from extproc.datapath.comparing import CHANGES
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.logged import LoggedEvents
from extproc.datapath.model import Facts, Features, FeatureValue, PolicyVerdict
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.policy_shadow import comparison, sampler
from extproc.datapath.policy_shadow.comparison import ComparedDecision, PolicyShadow, UnplannedError
from extproc.datapath.policy_shadow.sampler import PolicyShadowSampler, is_chosen
from extproc.datapath.policy_shadow.shown import ShownDecision, ShownPlan, decode_shown
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.pseudonym import pseudonym
from extproc.datapath.sinks.decision_event import EventEncoder, with_custom
from extproc.names import Reason
from extproc.serve.supervisor.children import message_pair
from extproc.snapshot.model import CompiledRollout
from tests.support.clock import FakeClock
from tests.support.decisions import KEY, make_decided, make_facts, make_request, make_rollout
from tests.support.ids import make_ids
from tests.support.rollouts import canary, snapshot
from tests.unit.datapath.test_replay import FEATURES, POLICY, FakeEngine, FakeFeatures

EVERY = 10_000
REGION = ("attributes", "request", "http", "headers", "x-region")
ALL_TO_STABLE = {"allow": True, "versions": ["3"]}
DENY = {"allow": False}


class Pair(NamedTuple):
    writing: socket.socket
    reading: socket.socket

    def read(self) -> list[ShownPlan | ShownDecision]:
        """All that was shown."""
        self.reading.setblocking(False)
        found = []
        while True:
            try:
                found.append(decode_shown(self.reading.recv(1 << 20)))
            except BlockingIOError:
                return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    both = Pair(*message_pair())
    yield both
    for each in both:
        each.close()


ROLLOUT = make_rollout()


def facts(**changes: Any) -> Facts:
    return make_facts(**{"policy_input": {"time": 1_800_000_000_000_000_000}, **changes})


def shown_one(**changes: Any) -> DecisionRecord:
    """A decision to be shown."""
    return make_decided(**{"facts": facts(), "rollout": ROLLOUT, **changes})


def sampling(pair: Pair, clock: FakeClock, share: int = EVERY) -> PolicyShadowSampler:
    """One that was told that somebody is there."""
    shows = PolicyShadowSampler(pair.writing, share, clock)
    shows.tell_again()
    return shows


def says(answer: Mapping[str, Any] | PolicyVerdict, *paths: tuple[str, ...]) -> FakeEngine:
    return FakeEngine(lambda _document: answer, *paths)


def decided(
    live: FakeEngine, sinks: Sequence[Any], rollout: CompiledRollout, clock: FakeClock, **headers: str
) -> list[DecisionRecord]:
    """Four users' requests through the real pipeline, at full weight of version 4."""
    records: list[DecisionRecord] = []

    def record(one: DecisionRecord) -> None:
        records.append(one)
        for sink in sinks:
            sink.record(one)

    pipeline = Pipeline(
        SimpleNamespace(current=snapshot(rollout)),
        SimpleNamespace(current=Embedded(live)),
        FakeFeatures(0.7),
        make_ids(clock),
        clock,
        SimpleNamespace(record=record),
    )

    async def send() -> None:
        for number in range(4):
            pairs = [(":method", b"POST"), (":path", b"/v1/models/fraud-detector?who=whisper"), (":authority", b"m")]
            pairs += [("x-user-id", b"person-%d" % number)]
            pairs += [(name.replace("_", "-"), value.encode()) for name, value in headers.items()]
            await pipeline.process(AttributeReader().request(pairs))

    asyncio.run(send())
    return records


def compared(
    pair: Pair, live: FakeEngine, shadow: PolicyShadow, rollout: CompiledRollout | None = None, **headers: str
) -> list[ComparedDecision]:
    """What the shadow makes of requests that ``live`` decided. The live decisions are made again as they were."""
    rollout = rollout or canary(EVERY, policy=POLICY, features=FEATURES)
    clock = FakeClock()
    records = decided(live, [sampling(pair, clock)], rollout, clock, **headers)
    found = []
    for shown in pair.read():
        if isinstance(shown, ShownPlan):
            shadow.learn(shown)
        else:
            found.append(shadow.compare(shown))
    assert len(found) == len(records) == 4
    for record, one in zip(records, found, strict=True):
        was, again = record.decision, one.live.decision
        for name in ("decision_id", "arm", "version", "shadow", "reason", "denial", "unit", "bucket", "fallbacks"):
            assert getattr(again, name) == getattr(was, name)
    return found


# -- which


def test_a_decision_is_chosen_by_its_id_and_a_larger_share_only_adds_to_those() -> None:
    ids = [f"decision-{number}" for number in range(20_000)]
    tenth = {each for each in ids if is_chosen(each, 1_000)}
    assert 1_800 < len(tenth) < 2_200
    assert tenth < {each for each in ids if is_chosen(each, 2_500)} < set(ids)
    assert {each for each in ids if is_chosen(each, EVERY)} == set(ids)


def test_the_share_of_decisions_for_which_a_rule_was_asked_is_shown_and_no_other(pair: Pair) -> None:
    shows = sampling(pair, FakeClock(), 1_000)
    given = [shown_one() for _ in range(300)]
    for number, one in enumerate(given):
        one.decision.decision_id = f"decision-{number}"
        shows.record(one)
    shows.record(shown_one(facts=facts(verdict=None)))
    shows.record(shown_one(facts=None, rollout=None))
    plan, *shown = pair.read()
    assert isinstance(plan, ShownPlan)
    wanted = [one.decision.decision_id for one in given if is_chosen(one.decision.decision_id, 1_000)]
    assert [one.decision_id for one in shown if isinstance(one, ShownDecision)] == wanted != []


def test_before_somebody_is_there_nothing_is_shown_and_nothing_counts_as_dropped(pair: Pair) -> None:
    shows = PolicyShadowSampler(pair.writing, EVERY, FakeClock())
    shows.record(shown_one())
    shows.retain(())
    shows.record(shown_one())
    assert (pair.read(), sum(shows.dropped.values())) == ([], 0)


# -- nobody waits


def test_what_the_queue_has_no_room_for_is_dropped_and_counted_and_soon_tried_again(pair: Pair) -> None:
    clock = FakeClock()
    shows = sampling(pair, clock)
    large = shown_one(request=make_request(headers={"x-large": b"x" * 10_000}))
    for _ in range(1_000):
        shows.record(large)
    taken = len(pair.read()) - 1
    assert 0 < taken < 1_000
    assert shows.dropped == {"full": 1_000 - taken, "unsendable": 0, "gone": 0}
    shows.record(large)
    assert (shows.dropped["full"], pair.read()) == (1_001 - taken, [])  # there is room, and nobody has looked yet
    clock.advance(sampler.FULL_SECONDS)
    shows.record(large)
    assert (shows.dropped["full"], len(pair.read())) == (1_001 - taken, 1)


@pytest.mark.parametrize(
    ("why", "one"),
    [
        ("unsendable", shown_one(request=make_request(headers={"x-huge": b"x" * (4 << 20)}))),
        ("unsendable", shown_one(facts=facts(features=Features({"a": FeatureValue(1 << 70, 1.0, "store")})))),
        ("unsendable", shown_one(request=make_request(path="/\ud800"))),
    ],
)
def test_what_no_message_can_hold_is_dropped_and_the_next_decision_is_shown(
    pair: Pair, why: str, one: DecisionRecord
) -> None:
    shows = sampling(pair, FakeClock())
    shows.record(one)
    assert shows.dropped == {"full": 0, "unsendable": 0, "gone": 0, why: 1}
    shows.record(shown_one())
    assert isinstance(pair.read()[-1], ShownDecision)


def test_nobody_at_the_other_end_is_no_trouble(pair: Pair) -> None:
    shows = sampling(pair, FakeClock())
    pair.reading.close()
    shows.record(shown_one())
    assert shows.dropped == {"full": 0, "unsendable": 0, "gone": 1}


# -- what is a difference

PIN_4 = {"allow": True, "version": "4"}
TO_3 = {"allow": True, "version": "3"}


@pytest.mark.parametrize(
    ("kind", "live", "shadow"),
    [
        ("denied", {"allow": True}, DENY),
        ("allowed", DENY, {"allow": True}),
        ("status", DENY, {**DENY, "http_status": 451}),
        ("version", {"allow": True}, ALL_TO_STABLE),
        ("shadow", {"allow": True, "version": "3"}, {"allow": True, "version": "3", "shadow": False}),
        ("reason", {"allow": True}, PIN_4),
        ("reason", {**DENY, "reason": "no"}, {**DENY, "reason": "never"}),
        (None, {"allow": True}, {"allow": True, "versions": ["3", "4", "5"], "reason": "fine"}),
        (None, DENY, {**DENY, "versions": ["3"]}),
    ],
)
def test_what_a_client_would_notice_is_a_difference_and_what_comes_to_the_same_is_none(
    pair: Pair, kind: str | None, live: Mapping[str, Any], shadow: Mapping[str, Any]
) -> None:
    rollout = canary(
        EVERY, policy=POLICY, features=FEATURES, shadow={"version": "5", "percent": 100}, canary={"version": "4"}
    )
    by = PolicyShadow(says(shadow))
    found = compared(pair, says(live), by, rollout)
    assert [one.change and one.change.kind for one in found] == [kind] * 4
    assert {one.outcome for one in found} == {"same" if kind is None else "different"}
    if kind is None:
        assert by.changes == {}
    else:
        assert kind in CHANGES
        ((change, examples),) = by.changes.items()
        assert (change.rollout, examples.decisions, len(examples.ids)) == ("payments/fraud-detector", 4, 3)


def test_a_rule_is_given_what_it_reads_though_the_one_that_decides_reads_it_not(pair: Pair) -> None:
    def moon(document: Mapping[str, Any]) -> Mapping[str, Any]:
        headers = document["attributes"]["request"]["http"]["headers"]
        risky = document["features"]["risk_score"] > 0.5
        return DENY if risky and headers == {"x-region": "moon"} else {"allow": True}

    shadow = PolicyShadow(FakeEngine(moon, REGION, ("features", "risk_score")))
    assert {one.outcome for one in compared(pair, says({"allow": True}), shadow, x_region="moon")} == {"different"}
    assert {one.outcome for one in compared(pair, says({"allow": True}), shadow, x_region="mars")} == {"same"}


def test_it_is_told_no_more_than_the_document_says_that_a_rule_is_told(pair: Pair) -> None:
    given: list[Any] = []

    def note(document: Mapping[str, Any]) -> Mapping[str, Any]:
        given.append(document)
        return {"allow": True}

    rollout = canary(EVERY, policy={**POLICY, "reads": ["time", "features.risk_score"]}, features=FEATURES)
    live = FakeEngine(note, ("time",))
    compared(pair, live, PolicyShadow(FakeEngine(note, ())), rollout, x_region="moon")
    of_live, of_shadow = given[:4], given[4:]
    assert of_shadow[0].keys() == {"time", "features"}
    for mine, theirs in zip(of_shadow, of_live, strict=True):
        assert abs(mine["time"] - theirs["time"]) <= 1_000  # the same moment, to the microsecond


@pytest.mark.parametrize("fault", [Reason.POLICY_TIMEOUT, Reason.POLICY_UNAVAILABLE, Reason.POLICY_QUARANTINED])
def test_where_one_of_both_was_not_asked_nothing_is_compared(pair: Pair, fault: Reason) -> None:
    silent, speaks = says(PolicyVerdict(allow=False, fault=fault)), says(DENY)
    for live, shadow in ((silent, speaks), (speaks, silent)):
        by = PolicyShadow(shadow)
        assert {one.outcome for one in compared(pair, live, by)} == {"incomparable"}
        assert by.changes == {}


def test_a_rule_that_fails_is_compared_by_what_becomes_of_its_requests(pair: Pair) -> None:
    rollout = canary(EVERY, policy={**POLICY, "onError": "stable"}, features=FEATURES)
    failing = says(PolicyVerdict(allow=True, fault=Reason.POLICY_ERROR, message="divide by zero"))
    found = compared(pair, says({"allow": True}), PolicyShadow(failing), rollout)
    assert {(one.change.kind, one.change.after.reason) for one in found if one.change} == {("version", "policy_error")}


# -- rollouts


def test_a_rollout_is_told_once_and_again_when_it_is_another_one_or_the_shadow_knows_none(pair: Pair) -> None:
    clock, live = FakeClock(), says({"allow": True})
    shows = sampling(pair, clock)
    at_full, at_half = (canary(weight, policy=POLICY, features=FEATURES) for weight in (EVERY, 5_000))

    def plans() -> int:
        return sum(isinstance(one, ShownPlan) for one in pair.read())

    told = []
    for rollout in (at_full, at_full, at_half):
        decided(live, [shows], rollout, clock)
        told.append(plans())
    shows.tell_again()
    decided(live, [shows], at_half, clock)
    told.append(plans())
    shows.retain(())
    decided(live, [shows], at_half, clock)
    assert [*told, plans()] == [1, 0, 1, 1, 1]


def test_a_decision_of_a_rollout_that_is_not_known_is_not_compared(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_PLANS", 1)
    clock = FakeClock()
    decided(says(DENY), [sampling(pair, clock)], canary(policy=POLICY), clock)
    plan, decision, *_ = pair.read()
    assert isinstance(plan, ShownPlan)
    assert isinstance(decision, ShownDecision)
    shadow = PolicyShadow(says({"allow": True}))
    forgets: Sequence[Callable[[], object]] = (
        lambda: None,
        lambda: shadow.learn(ShownPlan("other", "a/b", plan.plan)),
        lambda: shadow.retain(["a/b"]),
        lambda: shadow.learn(ShownPlan(decision.plan, plan.key, b'{"spec": {}, "status": 1}')),
    )
    for forget in forgets:
        forget()
        with pytest.raises(UnplannedError):
            shadow.compare(decision)
        shadow.learn(plan)
        assert shadow.compare(decision).outcome == "different"
        shadow.retain([])
    assert shadow.changes == {}


def test_other_policies_begin_with_no_change_and_no_more_changes_are_told_apart_than_fit(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MAX_CHANGES", 1)
    shadow = PolicyShadow(FakeEngine(lambda document: {**DENY, "http_status": 400 + document["draw"] % 100}, ("draw",)))
    found = compared(pair, says({"allow": True}), shadow)
    assert len({one.change for one in found}) > 1
    assert len(shadow.changes) == 1
    shadow.swap(says(DENY))
    assert shadow.changes == {}


# -- the log


def test_what_is_logged_of_a_difference_names_nobody_and_is_no_decision_to_who_reads_the_log(pair: Pair) -> None:
    rollout = canary(EVERY, policy=POLICY, features=FEATURES, log={"headers": ["x-region"]})
    whole = FakeEngine(lambda document: {**DENY, "body": f"not you, {document['unit']}"}, ())
    (one, *_) = compared(pair, says({"allow": True}), PolicyShadow(whole), rollout, x_region="eu", x_secret="hush")
    assert one.shadow is not None
    body = EventEncoder({}, KEY, lambda _path: ("",)).encode(0.0, one.shadow, 1).body
    assert all(text not in body for text in (b"person-", b"hush", b"whisper", b"0.7"))
    line = orjson.loads(body)
    assert line["input"]["attributes"]["request"]["http"]["headers"]["x-region"] == "eu"
    assert line["result"]["unit"] == pseudonym(KEY, b"person-0")
    assert line["result"]["policy"]["body"] == f"not you, {line['result']['unit']}"
    assert LoggedEvents().read(body) is not None
    assert LoggedEvents().read(with_custom(body, b'"policy_shadow":{}')) is None
