"""The effect of an action is what users would see of it, found by doing it and letting the controller go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from extproc.control import transitions
from extproc.control.effect import Effect, Stand, effect
from extproc.control.intent import Transition, intent_of
from extproc.control.readiness import gives_more
from extproc.control.rollout import Evidence, advance, plan_of
from extproc.control.undo import undo
from extproc.errors import Refused
from extproc.resources.loading import parse_rollout
from extproc.resources.rollout import Rollout
from extproc.store.records import Tombstone
from extproc.store.status import Status
from tests.support.rollouts import CANARY, EXPERIMENT, document

STEPS = st.lists(
    st.one_of(
        st.sampled_from([0, 1, 50, 100]).map(lambda weight: {"setWeight": weight}),
        st.sampled_from([{"pause": {}}, {"pause": {"duration": "10s"}}]),
        st.sampled_from([0, 50, 100]).map(lambda percent: {"shadow": {"percent": percent}}),
    ),
    max_size=5,
)
CANARIES = st.sampled_from(["4", "4", "5"])


def canary(steps: list[dict[str, Any]], version: str = "4", **changes: Any) -> Rollout:
    return parse_rollout(document({**CANARY, "canary": {"version": version}, "steps": steps, **changes}))


Do = Callable[[Rollout, Status, float], Transition | None]
WAYS: dict[str, Do] = {
    "adopt": lambda rollout, status, now: transitions.adopt(intent_of(rollout), status, now),
    **{
        f"set-weight {weight}": lambda rollout, status, now, weight=weight: transitions.set_weight(  # type: ignore[misc]
            intent_of(rollout), status, weight, now
        )
        for weight in (0, 100, 5000, 10000)
    },
    "promote": lambda rollout, status, now: transitions.promote(intent_of(rollout), status, now),
    "promote --full": lambda rollout, status, now: transitions.promote_fully(
        intent_of(rollout), status, len(rollout.spec.steps), now
    ),
    "undo": lambda rollout, status, now: undo(intent_of(rollout), status, now),
    "pause": lambda rollout, status, now: transitions.pause(intent_of(rollout), status),
    "resume": lambda rollout, status, now: transitions.resume(intent_of(rollout), status, now),
    "abort": lambda rollout, status, now: transitions.abort(intent_of(rollout), status, now),
    "retry": lambda rollout, status, now: transitions.retry(intent_of(rollout), status, now),
    "trip": lambda rollout, status, now: transitions.trip(
        intent_of(rollout), status, status.canary or "", status.attempt, "it fails", now
    ),
    "kill": lambda rollout, status, now: transitions.kill(status, now),
    "restore": lambda rollout, status, now: transitions.restore(status, now),
    "apply": lambda rollout, status, now: transitions.configure(intent_of(rollout), status, now),
    "delete and apply": lambda rollout, status, now: transitions.create(
        intent_of(rollout), Tombstone(status.aborted, status.epoch, status), now
    ),
    "one step": lambda rollout, status, now: advance(
        plan_of(rollout, lambda _name: None), status, Evidence(in_step=1e9), now
    ),
}


def done(way: str, rollout: Rollout, status: Status, now: float) -> Status | None:
    try:
        found = WAYS[way](rollout, status, now)
    except Refused:
        return None
    return found.status if found is not None else None


class Seen:
    """What users see of a rollout that is left to the controller: the most that a version ever got."""

    def __init__(self, rollout: Rollout, status: Status, now: float, *, goes_on: bool) -> None:
        self.weight: dict[str, int] = {}
        self.copies: dict[str, int] = {}
        self.everything: set[str] = set()
        self.see(status)
        plan = plan_of(rollout, lambda _name: None)
        for _ in range(40 if goes_on else 0):
            now += 100
            moved = advance(plan, status, Evidence(in_step=1e9), now)
            if moved is None:
                break
            if moved.status.stable != status.stable:
                self.everything.add(moved.status.stable)
            status = moved.status
            self.see(status)
        self.stable = status.stable

    def see(self, status: Status) -> None:
        version = status.canary
        if version is None or status.killed or version in (status.stable, *status.aborted, *status.tripped):
            return
        self.weight[version] = max(status.weight, self.weight.get(version, 0))
        self.copies[version] = max(status.shadow, self.copies.get(version, 0))
        if status.weight == 10000:
            self.everything.add(version)


@settings(max_examples=400)
@example(
    first=[],
    second=[],
    ways=[("kill", False, "4"), ("set-weight 100", False, "4"), ("trip", False, "4")],
    last="restore",
    moved="4",
)
@given(
    first=STEPS,
    second=STEPS,
    ways=st.lists(st.tuples(st.sampled_from(sorted(WAYS)), st.booleans(), CANARIES), max_size=7),
    last=st.sampled_from(sorted(WAYS)),
    moved=CANARIES,
)
def test_an_effect_says_what_users_would_see(
    first: list[Any], second: list[Any], ways: list[tuple[str, bool, str]], last: str, moved: str
) -> None:
    now = 1_000_000.0
    rollout = canary(first)
    status = transitions.create(intent_of(rollout), Tombstone(), now).status
    for way, other, version in [*ways, (last, True, moved)]:
        now += 100
        before = Stand(status, rollout)
        applies = "apply" in way
        after_document = canary(second if other else first, version) if applies else rollout
        after = done(way, after_document, status, now)
        if after is None:
            continue
        if way == "delete and apply":
            before = replace(before, rollout=None, gone=True)
        check(way, before, rollout, Stand(after, after_document), now)
        status, rollout = after, after_document


def check(way: str, before: Stand, document_before: Rollout, after: Stand, now: float) -> None:
    found = effect(before, after)
    assert after.rollout is not None
    nothing = replace(before.status, canary=None)
    pairs = [
        (
            Seen(document_before, nothing if before.gone else before.status, now, goes_on=ahead),
            Seen(after.rollout, after.status, now, goes_on=ahead),
        )
        for ahead in (False, True)
    ]
    stable = before.status.stable
    more = any(
        most > one.get(version, 0)
        for was, will in pairs
        for one, other in ((was.weight, will.weight), (was.copies, will.copies))
        for version, most in other.items()
        if version != stable
    )
    back = after.status.stable == before.status.previous.get("stable") and stable in after.status.aborted
    another = (after.status.stable != stable and not back) or any(
        will.everything - was.everything for was, will in pairs
    )
    event(f"{way}: {found}")
    told = (way, before.status, after.status)
    assert found.gives_more == more, told
    assert found.makes_stable == another, told
    if way in ("kill", "abort", "trip", "undo"):
        assert found == Effect(takes_away=True), told
    if gives_more(before.status, after.status) and not back and not before.gone:
        assert found.gives_more or found.makes_stable or after.status.killed, told


NOTHING = Effect()
MORE = Effect(gives_more=True)
LESS = Effect(takes_away=True)


def experiment(**changes: Any) -> Stand:
    spec = {name: value for name, value in {**EXPERIMENT, **changes}.items() if name != "status"}
    rollout = parse_rollout(document(spec))
    return Stand(Status(spec["variants"][-1]["version"], **changes.get("status", {})), rollout)


def variants(treatment: int, version: str = "4", control: str = "3") -> dict[str, Any]:
    both = [("treatment", version, treatment), ("control", control, 100 - treatment)]
    return {"variants": [{"name": name, "version": v, "weight": weight} for name, v, weight in both]}


HALF = {"layer": {"name": "checkout", "range": [0, 5000]}}
WIDER = {"layer": {"name": "checkout", "range": [0, 6000]}}
HELD = {"holdout": {"name": "global", "percent": 5}}


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({}, variants(60), MORE),
        ({}, variants(40), LESS),
        ({}, variants(50, version="5"), Effect(gives_more=True, takes_away=True)),
        ({}, variants(50, control="5"), Effect(makes_stable=True)),
        ({}, variants(100), Effect(gives_more=True, makes_stable=True)),
        ({}, variants(100) | {"coverage": 20}, LESS),
        ({"coverage": 20}, {"coverage": 21}, MORE),
        ({"coverage": 20}, {"coverage": 19}, LESS),
        ({}, HELD, LESS),
        (HELD, {}, MORE),
        (HALF, WIDER, MORE),
        (WIDER, HALF, LESS),
        ({}, {"seed": "another"}, NOTHING),
        ({}, {"breaker": {}}, NOTHING),
        ({}, {"match": [{"path": {"value": "/"}}]}, MORE),
        ({}, {"upstream": "another-v{version}"}, Effect(gives_more=True, makes_stable=True)),
        ({}, {"endpoints": {"host": "another", "port": 80}}, Effect(gives_more=True, makes_stable=True)),
        ({}, {"status": {"tripped": ("4",)}}, LESS),
        ({"status": {"tripped": ("4",)}}, {}, MORE),
        ({}, {"status": {"killed": True}}, LESS),
        ({"status": {"killed": True}}, {}, MORE),
        (variants(100) | {"status": {"killed": True}}, variants(100), Effect(gives_more=True, makes_stable=True)),
        ({}, {"shadow": {"version": "6", "percent": 10}}, MORE),
        ({"shadow": {"version": "6", "percent": 10}}, {}, LESS),
    ],
)
def test_an_experiment_is_its_variants_shares(before: dict[str, Any], after: dict[str, Any], found: Effect) -> None:
    assert effect(experiment(**before), experiment(**after)) == found


def test_a_first_document_takes_nobodys_place_and_promotes_what_it_can_by_itself() -> None:
    for steps, found in (
        ([], NOTHING),
        ([{"setWeight": 5}, {"pause": {}}], MORE),
        ([{"setWeight": 5}], Effect(gives_more=True, makes_stable=True)),
    ):
        rollout = canary(steps)
        assert effect(None, Stand(transitions.create(intent_of(rollout), Tombstone(), 0.0).status, rollout)) == found


def test_what_cannot_be_read_is_taken_for_what_gives_most() -> None:
    killed = Status("3", "4", killed=True)
    assert effect(Stand(replace(killed, killed=False), None), Stand(killed, None)) == LESS
    most = Effect(gives_more=True, makes_stable=True)
    assert effect(Stand(killed, None), Stand(replace(killed, killed=False), None)) == most
    assert effect(Stand(Status("3", killed=True), None), Stand(Status("3"), None)) == most


def test_to_wait_for_a_silent_observer_no_more_lets_go_on_what_it_held_up() -> None:
    rollout = canary([{"setWeight": 5}, {"setWeight": 50}])
    before = Status("3", "4", weight=500, step=1)
    after = replace(before, without=("a",))
    assert effect(Stand(before, rollout), Stand(after, rollout)) == Effect(gives_more=True, makes_stable=True)
