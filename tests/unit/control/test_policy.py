"""Policy on control actions: asked about everything, recorded when it says no, and in nobody's way when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from extproc.adapters.regorus.control import ControlPolicies
from extproc.adapters.stores import open_store
from extproc.cli.main import main
from extproc.control.acting import act
from extproc.control.actions import Abort, Action, Apply, Delete, Kill, Promote, Restore, Retry, SetWeight, Trip
from extproc.control.as_json import timestamp
from extproc.control.policy import ActionVerdict
from extproc.control.result import ActionResult
from extproc.errors import InvalidInput, Refused
from extproc.resources.control_schema import CONTROL_ACTIONS, CONTROL_INPUT_SCHEMA
from extproc.resources.loaded import LoadedDocument
from extproc.resources.loading import load_paths
from extproc.resources.policy_places import PolicyPlaces
from extproc.testing.memory_store import MemoryStore
from tests.support.clock import FakeClock
from tests.support.damage import damage
from tests.support.paths import POLICIES
from tests.support.rollouts import CANARY, document

NAME = ("payments", "fraud-detector")


class Answers:
    """A policy that gives one answer and keeps what it was asked."""

    def __init__(self, verdict: ActionVerdict) -> None:
        self.verdict = verdict
        self.asked: list[Mapping[str, Any]] = []

    def decide(self, question: Mapping[str, Any]) -> ActionVerdict:
        jsonschema.validate(question, CONTROL_INPUT_SCHEMA)
        self.asked.append(question)
        return self.verdict


YES = ActionVerdict(True)
NO = ActionVerdict(False, "frozen over the holidays")
BROKEN = ActionVerdict(False, "it takes too long", failed=True)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def documents(folder: Path, **spec: Any) -> list[LoadedDocument]:
    file = folder / "document.yaml"
    file.write_text(yaml.safe_dump(document({**CANARY, **spec})))
    return list(load_paths([file]).documents)


@pytest.fixture
def applied(store: MemoryStore, clock: FakeClock, tmp_path: Path) -> MemoryStore:
    act(store, "alice", Apply(documents(tmp_path)), clock)
    return store


def done(
    store: MemoryStore, action: Action, clock: FakeClock, verdict: ActionVerdict, actor: str = "bob"
) -> ActionResult | str:
    """What became of the rollout, or the code of the refusal."""
    try:
        (result,) = act(store, actor, action, clock, Answers(verdict))
    except Refused as refused:
        return refused.code
    return result


def test_a_policy_is_told_who_wants_what_of_which_rollout_and_when(applied: MemoryStore, clock: FakeClock) -> None:
    policy = Answers(YES)
    act(applied, "bob", SetWeight(*NAME, 1250), clock, policy)
    (asked,) = policy.asked
    assert (asked["actor"], asked["action"], asked["arguments"]) == ("bob", "set-weight", {"weight": 12.5})
    assert asked["time"] == int(clock.now() * 1e9)
    rollout = asked["rollout"]
    assert (rollout["namespace"], rollout["name"], rollout["appliedBy"]) == (*NAME, "alice")
    assert (rollout["status"]["weight"], rollout["spec"]["canary"]) == (0, {"version": "4"})
    assert rollout["appliedAt"] == timestamp(clock.now())
    assert asked["effect"] == {"givesMore": True, "makesStable": False, "takesAway": False}


def test_what_a_policy_forbids_is_refused_with_its_reason_and_recorded(applied: MemoryStore, clock: FakeClock) -> None:
    before = applied.get(*NAME)
    with pytest.raises(Refused) as refused:
        act(applied, "bob", Promote(*NAME, full=True), clock, Answers(NO))
    assert refused.value.code == "control_denied"
    assert "bob may not promote payments/fraud-detector: frozen over the holidays" in str(refused.value)
    entry = applied.history(*NAME)[-1]
    assert (entry.actor, entry.action, entry.detail) == ("bob", "promote", {"denied": True})
    assert entry.message.startswith("denied: ")
    after = applied.get(*NAME)
    assert before is not None
    assert after is not None
    assert after.status == before.status


def test_all_that_a_policy_denies_of_several_documents_is_told_at_once_and_nothing_is_written(
    store: MemoryStore, clock: FakeClock, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump(document({**CANARY, "match": [{"path": {"value": f"/{name}"}}]}, name))
        )
    with pytest.raises(Refused) as refused:
        act(store, "bob", Apply(load_paths([tmp_path]).documents), clock, Answers(NO))
    assert [fault.message for fault in refused.value.faults] == [
        f"bob may not apply payments/{name}: frozen over the holidays" for name in ("a", "b")
    ]
    assert not store.documents().rollouts


@pytest.mark.parametrize("action", [Kill(*NAME), Abort(*NAME)])
def test_a_policy_that_fails_does_not_keep_a_version_in_traffic(
    applied: MemoryStore, clock: FakeClock, action: Action
) -> None:
    assert done(applied, action, clock, NO) == "control_denied"
    result = done(applied, action, clock, BROKEN)
    assert isinstance(result, ActionResult)
    assert result.result == "configured"


def test_a_policy_that_fails_does_not_keep_what_only_takes_away(applied: MemoryStore, clock: FakeClock) -> None:
    act(applied, "alice", SetWeight(*NAME, 5000), clock)
    clock.advance(1)
    assert done(applied, SetWeight(*NAME, 4000), clock, NO) == "control_denied"
    result = done(applied, SetWeight(*NAME, 4000), clock, BROKEN)
    assert isinstance(result, ActionResult)
    assert result.row.status.weight == 4000


@pytest.mark.parametrize("action", [SetWeight(*NAME, 500), Promote(*NAME, full=True), Delete(*NAME)])
def test_a_policy_that_fails_holds_up_everything_else(applied: MemoryStore, clock: FakeClock, action: Action) -> None:
    assert done(applied, action, clock, BROKEN) == "control_denied"
    assert applied.get(*NAME) is not None


def test_a_breaker_is_never_asked_about(applied: MemoryStore, clock: FakeClock) -> None:
    result = done(applied, Trip(*NAME, "4", 1, "10 failures in a row"), clock, NO)
    assert isinstance(result, ActionResult)
    assert result.row.status.tripped == ("4",)


def test_what_would_change_nothing_is_not_asked_about(applied: MemoryStore, clock: FakeClock, tmp_path: Path) -> None:
    policy = Answers(NO)
    act(applied, "bob", SetWeight(*NAME, 0), clock, policy)
    act(applied, "bob", Restore(*NAME), clock, policy)
    act(applied, "bob", Apply(documents(tmp_path)), clock, policy)
    with pytest.raises(Refused):
        act(applied, "bob", Retry(*NAME), clock, policy)
    assert policy.asked == []


def test_an_apply_and_a_delete_are_asked_about_too(store: MemoryStore, clock: FakeClock, tmp_path: Path) -> None:
    policy = Answers(NO)
    with pytest.raises(Refused):
        act(store, "bob", Apply(documents(tmp_path)), clock, policy)
    assert store.get(*NAME) is None
    assert policy.asked[0]["rollout"] == {
        "namespace": "payments",
        "name": "fraud-detector",
        "spec": CANARY,
        "status": None,
        "appliedBy": None,
        "appliedAt": None,
        "inPlaceOf": [],
    }
    act(store, "alice", Apply(documents(tmp_path)), clock)
    with pytest.raises(Refused):
        act(store, "bob", Apply(documents(tmp_path, canary={"version": "5"})), clock, policy)
    assert policy.asked[1]["rollout"]["spec"]["canary"] == {"version": "5"}
    with pytest.raises(Refused):
        act(store, "bob", Delete(*NAME), clock, policy)
    # A refused apply is no apply: who applied is still who did.
    assert [question["rollout"]["appliedBy"] for question in policy.asked] == [None, "alice", "alice"]


def test_who_makes_a_damaged_rollout_anew_is_who_applied_it(
    applied: MemoryStore, clock: FakeClock, tmp_path: Path
) -> None:
    damage(applied.place, "fraud-detector")
    policy = Answers(NO)
    repair = Apply(documents(tmp_path, canary={"version": "5"}), repair=True)
    with pytest.raises(Refused):
        act(applied, "bob", repair, clock, policy)
    assert len(applied.documents().unreadable) == 1
    (asked,) = policy.asked
    assert (asked["action"], asked["rollout"]["appliedBy"], asked["rollout"]["status"]) == ("apply", "alice", None)
    assert (asked["rollout"]["name"], asked["rollout"]["spec"]["canary"]) == ("fraud-detector", {"version": "5"})
    policy.verdict = YES
    act(applied, "bob", repair, clock, policy)
    act(applied, "carol", Restore(*NAME), clock, policy)
    assert policy.asked[-1]["rollout"]["appliedBy"] == "bob"


# -- by regorus


def put(folder: Path, text: str) -> Path:
    (folder / "control").mkdir(parents=True, exist_ok=True)
    (folder / "control" / "decision.rego").write_text(f"package control\n\n{text}\n")
    return folder


def question(**changes: Any) -> dict[str, Any]:
    rollout = {"namespace": "payments", "name": "a", "spec": {}, "status": None, "appliedBy": None, "appliedAt": None}
    rollout["inPlaceOf"] = []
    effect = {"givesMore": True, "makesStable": True, "takesAway": True}
    asked = {"actor": "bob", "action": "promote", "arguments": {}, "effect": effect, "rollout": rollout, "time": 0}
    asked |= changes
    jsonschema.validate(asked, CONTROL_INPUT_SCHEMA)
    return asked


ANSWERS = """
decision := {"allow": true} if input.actor == "alice"

decision := {"allow": input.action != "kill", "reason": input.actor} if input.actor == "bob"

decision := true if input.actor == "no object"

decision := {"allow": true, "version": "4"} if input.actor == "another field"

decision := {"allow": regex.match(`(?=a)`, input.actor)} if input.actor == "an error"
"""
"""What each actor is told."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPolicies]:
    # Whoever is late is not asked again for a while, and one who is shared may be late on a busy machine.
    policies = ControlPolicies(PolicyPlaces([put(tmp_path_factory.mktemp("policies"), ANSWERS)]), answer_seconds=30.0)
    yield policies
    policies.close()


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"actor": "alice"}, ActionVerdict(True)),
        ({"actor": "bob"}, ActionVerdict(True, "bob")),
        ({"actor": "bob", "action": "kill"}, ActionVerdict(False, "bob")),
    ],
)
def test_the_engine_answers(answers: ControlPolicies, changes: dict[str, Any], verdict: ActionVerdict) -> None:
    assert answers.asked
    assert answers.decide(question(**changes)) == verdict


@pytest.mark.parametrize(
    ("actor", "what"),
    [
        ("undefined", "no value"),
        ("no object", "not an object"),
        ("another field", "a field other than"),
        ("an error", "invalid regex"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_that_says_why(answers: ControlPolicies, actor: str, what: str) -> None:
    verdict = answers.decide(question(actor=actor))
    assert (verdict.allow, verdict.failed) == (False, True)
    assert what in verdict.reason
    assert answers.decide(question(actor=actor)).failed


def test_an_evaluation_without_an_end_is_a_failure_too(tmp_path: Path) -> None:
    endless = "some i in numbers.range(0, 5000); some j in numbers.range(0, 5000); (i * j) % 7 == 9"
    folder = put(tmp_path, f'decision := {{"allow": count([1 | {endless}]) == 0}}')
    policies = ControlPolicies(PolicyPlaces([folder]), 0.5)
    verdict = policies.decide(question())
    assert (verdict.allow, verdict.failed, verdict.reason) == (False, True, "it takes too long")
    assert policies.decide(question()).failed  # its process had to be ended
    policies.close()


def test_without_a_rule_for_control_everything_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "routing.rego").write_text('package routing\n\ndecision := {"allow": true}\n')
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path, tmp_path / "empty"):
        policies = ControlPolicies(PolicyPlaces([folder]))
        assert not policies.asked
        assert policies.decide(question()) == ActionVerdict(True)


def test_a_rule_that_is_put_into_an_empty_folder_is_asked_and_stays_when_it_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extproc.adapters.regorus.control.REFRESH_SECONDS", 0.0)
    policies = ControlPolicies(PolicyPlaces([tmp_path]))
    put(tmp_path, 'decision := {"allow": false, "reason": "no"}')
    assert policies.decide(question()) == ActionVerdict(False, "no")
    for file in tmp_path.rglob("*.rego"):
        file.unlink()
    assert policies.decide(question()) == ActionVerdict(False, "no")
    policies.close()


def test_an_edit_is_taken_over_and_a_broken_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.adapters.regorus.control.REFRESH_SECONDS", 0.0)
    policies = ControlPolicies(PolicyPlaces([put(tmp_path, 'decision := {"allow": true}')]))
    assert policies.decide(question()).allow
    put(tmp_path, 'decision := {"allow": false, "reason": "no"}')
    assert policies.decide(question()) == ActionVerdict(False, "no")
    put(tmp_path, "decision := {")
    assert policies.decide(question()) == ActionVerdict(False, "no")
    put(tmp_path, 'decision := {"allow": true}')
    assert policies.decide(question()).allow
    policies.close()


def test_policies_that_cannot_be_served_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        ControlPolicies(PolicyPlaces([put(tmp_path, 'decision := {"allow": time.now_ns() > 0}')]))
    assert refused.value.code == "policy_builtin_forbidden"


def test_the_shipped_policy_allows_every_action(tmp_path: Path) -> None:
    policies = ControlPolicies(PolicyPlaces([POLICIES]))
    assert policies.asked
    assert [action for action in CONTROL_ACTIONS if not policies.decide(question(action=action)).allow] == []
    policies.close()


def test_commands_on_the_store_ask_the_policies_that_the_environment_names(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "policies", 'decision := {"allow": input.action == "kill", "reason": "only kills"}')
    monkeypatch.setenv("DROPOUT_CONTROL_POLICIES", str(tmp_path / "policies"))
    name, store = "/".join(NAME), f"sqlite:{tmp_path}/dropout.db"
    act(open_store(store, create=True), "alice", Apply(documents(tmp_path)), clock)
    codes = []
    for command in (["kill", name], ["restore", name], ["delete", "rollout", name]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--store", store])
        codes.append(ended.value.code)
    assert codes == [0, 1, 1]
    assert "only kills (control_denied)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("policy", "meant"), [("package routing\n", False), ("package control\n\ndecison := {}\n", True)]
)
def test_a_rule_on_control_actions_is_missed_only_in_a_folder_that_has_its_package(
    tmp_path: Path, policy: str, meant: bool
) -> None:
    (tmp_path / "a.rego").write_text(policy)
    policies = ControlPolicies(PolicyPlaces([tmp_path]))
    assert (policies.asked, policies.meant) == (False, meant)
    policies.close()
