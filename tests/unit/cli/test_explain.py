"""``dropout explain``: the server's own decision, on a request that somebody describes, with the reasons in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.stores import open_store
from extproc.cli.main import main
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply, Kill, SetWeight
from extproc.datapath.explanation import REASONS, _stages
from extproc.datapath.record import RECORD_FIELDS
from extproc.errors import Unreachable
from extproc.names import Reason
from extproc.resources.loading import load_valid
from extproc.snapshot.model import Overlay
from tests.support.damage import damage
from tests.support.decisions import make_facts
from tests.support.rollouts import CANARY, EXPERIMENT, canary, document, experiment
from tests.unit.datapath.test_replay import FakeEngine, by_risk, log_of

POLICY = """package routing

default decision := {"allow": true}

decision := {"allow": true, "versions": ["3"], "reason": "risk is high"} if input.features.risk_score > 0.9

decision := {"allow": false, "reason": "banned", "http_status": 451} if {
	input.attributes.request.http.headers["x-region"] == "nowhere"
}
"""
FEATURES = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"], "onMissing": "stable"}
WITH_POLICY = {**EXPERIMENT, "features": FEATURES, "policy": {"path": "routing/decision"}}
REQUEST = ("--method", "POST", "--path", "/v1/models/fraud-detector:predict?x=1", "-H", "Host: models")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPOUT_STORE", raising=False)


@pytest.fixture
def policies(tmp_path: Path) -> str:
    folder = tmp_path / "policies" / "routing"
    folder.mkdir(parents=True)
    (folder / "decision.rego").write_text(POLICY)
    return str(folder.parent)


def rollouts(tmp_path: Path, spec: dict[str, Any], name: str = "fraud-detector") -> str:
    folder = tmp_path / "rollouts"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document(spec, name)))
    return str(folder)


def explained(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    with pytest.raises(SystemExit) as exit_:
        main(["explain", *arguments, "-o", "json"])
    out = capsys.readouterr()
    assert (exit_.value.code, out.err) == (status, ""), out.out
    answer: dict[str, Any] = json.loads(out.out)
    return answer


def words(answer: dict[str, Any]) -> str:
    return "\n".join(answer["explanation"])


def test_the_answer_is_the_record_with_the_raw_unit_and_an_explanation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = explained(capsys, "--rollouts", rollouts(tmp_path, EXPERIMENT), *REQUEST, "-H", "x-user-id: alice")
    assert tuple(answer) == (*RECORD_FIELDS, "explanation")
    assert answer["unit"] == "alice"
    assert answer["rollout"] == "payments/fraud-detector"
    assert answer["version"] in ("3", "4")
    assert "path prefix /v1/models/fraud-detector fits POST /v1/models/fraud-detector:predict?x=1 on models" in words(
        answer
    )


def test_a_policy_and_a_given_feature_decide_as_in_the_server(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--rollouts", rollouts(tmp_path, WITH_POLICY), "--policies", policies, *REQUEST, "-H", "x-user-id: u2")
    low = explained(capsys, *common, "--feature", "risk_score=0.1")
    high = explained(capsys, *common, "--feature", "risk_score=0.99")
    assert low["reason"] == "weight"
    assert (high["reason"], high["version"], high["arm"]) == ("policy_ineligible", "3", "excluded")
    assert "version 4 is taken away, because: risk is high" in words(high)
    assert high["features"] == {"risk_score": {"value": 0.99, "age": 0.0, "source": "given"}}
    # Spelt as `dropout features load` reads it: text would be more than any number.
    spelt = explained(capsys, *common, "--feature", "risk_score=.1")
    assert (spelt["reason"], spelt["features"]["risk_score"]["value"]) == ("weight", 0.1)


def test_a_time_and_an_attribute_of_envoys_are_what_the_policy_sees(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = 'sprintf("%s, %s", [time.weekday(input.time), input.attributes.source.address.socketAddress.address])'
    (Path(policies) / "routing" / "decision.rego").write_text(
        f'package routing\n\ndecision := {{"allow": true, "versions": [], "reason": {said}}}\n'
    )
    common = ("--rollouts", rollouts(tmp_path, WITH_POLICY), "--policies", policies, *REQUEST, "-H", "x-user-id: u2")
    for at, day in (("2026-11-28", "Saturday"), ("2026-11-29T23:30:00-02:00", "Monday")):
        answer = explained(capsys, *common, "--time", at, "--attribute", "source.address=10.0.0.7:4711")
        assert f"because: {day}, 10.0.0.7." in words(answer)


def test_a_policy_that_does_not_end_is_in_quarantine_as_in_the_server(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    each = "numbers.range(1, 20000)"
    endless = f"decision := {{}} if {{\n\tsome a in {each}\n\tsome b in {each}\n\ta * b == -1\n}}"
    (Path(policies) / "routing" / "decision.rego").write_text(f"package routing\n\n{endless}\n")
    folder = rollouts(tmp_path, {**EXPERIMENT, "policy": {"path": "routing/decision"}})
    answer = explained(capsys, "--rollouts", folder, "--policies", policies, *REQUEST, "-H", "x-user-id: u2")
    assert answer["reason"] == "policy_quarantined"
    assert "(it took more than 0.3 s, see DROPOUT_EVALUATION_LIMIT)" in words(answer)


def logged(tmp_path: Path, *lines: bytes) -> str:
    (tmp_path / "decisions.jsonl").write_bytes(b"no event\n" + b"".join(lines))
    return str(tmp_path / "decisions.jsonl")


def test_a_decision_of_a_log_is_explained_from_what_the_log_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = {**FEATURES, "onMissing": "policy"}
    rollout = canary(10_000, policy={"path": "routing/decision"}, features=features)
    lines = log_of(rollout, FakeEngine(by_risk, ("features", "risk_score")), risk=0.95, units=3)
    event = json.loads(lines[1])
    answer = explained(capsys, "--decision", event["decision_id"], logged(tmp_path, *lines))
    policy = event["result"].pop("policy")
    assert policy["reason"] == "risk 0.95"
    assert {name: answer[name] for name in RECORD_FIELDS} == event["result"]
    said = answer["explanation"]
    assert said[0].startswith("payments/fraud-detector decided, at ")
    assert f"The unit is {event['result']['unit']!r}, which stands for it in the log" in said[1]
    assert "Feature risk_score was found (cache, 2 s old)." in said
    assert "version 4 is taken away, because: risk 0.95." in words(answer)
    assert said[-1] == "Not in the log: /input/features/risk_score (add risk_score to spec.log.features)."
    shadow = {**json.loads(lines[1]), "decision_id": "x.policy-shadow", "custom": {"reads": [], "policy_shadow": {}}}
    log = logged(tmp_path, *lines, json.dumps(shadow).encode())
    nobody, *said_of_it = explained(capsys, "--decision", "x.policy-shadow", log)["explanation"]
    assert nobody.startswith("Nobody was served by this")
    assert said_of_it == said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--decision", "x", "missing.jsonl"), "log_unreadable"),
        (("--decision", "x", "decisions.jsonl"), "decision_unknown"),
        (("--decision", "x", "decisions.jsonl", "--policies", "p"), "flags_conflict"),
        (("--decision", "half", "decisions.jsonl"), "bad_line"),
        (("--decision", "alone", "decisions.jsonl"), "plan_missing"),
    ],
)
def test_a_decision_that_cannot_be_explained_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: str
) -> None:
    plan, decided = log_of(canary(5000), units=1)
    event = json.loads(decided)
    alone = json.dumps({**event, "decision_id": "alone"}).encode() + b"\n"
    del event["input"]["buckets"]
    logged(tmp_path, alone, plan, json.dumps({**event, "decision_id": "half"}).encode())
    assert explained(capsys, *arguments, status=2)["errors"][0]["code"] == code


def test_a_feature_that_was_not_given_is_missing(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rollouts(tmp_path, WITH_POLICY)
    answer = explained(capsys, "--rollouts", folder, "--policies", policies, *REQUEST, "-H", "x-user-id: u2")
    assert answer["reason"] == "feature_missing"
    assert "Features: a feature is missing (risk_score); only stable remains." in answer["explanation"]
    assert "No feature store is read here; --feature risk_score=VALUE gives what is missing." in answer["explanation"]


def test_what_was_given_in_vain_and_what_was_not_given_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--rollouts", rollouts(tmp_path, WITH_POLICY), *REQUEST, "-H", "x-user-id: u2")
    told = explained(capsys, *arguments, "--feature", "risk_scor=1", "--feature", "risk_score=1")["explanation"]
    asked = "--feature risk_scor: payments/fraud-detector asks for no such feature; did you mean 'risk_score'?"
    assert told[-2:] == [asked, "No policies are asked here; --policies DIR gives them."]


@pytest.mark.parametrize(
    ("percent", "served", "said"),
    [
        (100, "3", "A copy goes to fraud-detector-v4."),
        (0, "3", "No copy is made: version 4 gets those of buckets below 0, not of "),
        (100, "4", "No copy is made: version 4, which would get it, serves."),
    ],
)
def test_whether_a_copy_is_made_is_said_of_every_rollout_with_a_shadow(
    percent: int, served: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {**EXPERIMENT, "shadow": {"version": "4", "percent": percent}}
    spec["variants"] = [
        {"name": "other", "version": "5", "weight": 0},
        {"name": "control", "version": served, "weight": 100},
    ]
    answer = explained(capsys, "--rollouts", rollouts(tmp_path, spec), *REQUEST, "-H", "x-user-id: u")
    assert any(sentence.startswith(said) for sentence in answer["explanation"])


def test_a_denial_is_explained_with_its_status(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rollouts(tmp_path, WITH_POLICY)
    answer = explained(
        capsys, "--rollouts", folder, "--policies", policies, *REQUEST, "-H", "x-user-id: u", "-H", "X-Region: nowhere"
    )
    assert (answer["reason"], answer["version"]) == ("policy_deny", None)
    assert "The client gets 451: the policy denies the request (policy_deny)." in answer["explanation"]


def test_a_repeated_unit_header_is_ambiguous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = rollouts(tmp_path, EXPERIMENT)
    answer = explained(capsys, "--rollouts", folder, *REQUEST, "-H", "x-user-id: a", "-H", "X-User-Id: b")
    assert answer["reason"] == "unit_ambiguous"


def test_no_match_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = explained(capsys, "--rollouts", rollouts(tmp_path, EXPERIMENT), "--path", "/elsewhere")
    assert answer["reason"] == "no_match"
    assert answer["explanation"][0] == "No rollout matches GET /elsewhere."


@pytest.mark.parametrize(
    ("entry", "asked"),
    [
        ({"headers": [{"name": "x-app", "value": "web"}]}, "header x-app: web"),
        ({"hosts": ["models.example.com"]}, "host models.example.com"),
        (
            {"hosts": ["models"], "headers": [{"name": "x-app", "value": "web"}, {"name": "x-a", "value": "b"}]},
            "header x-a: b and header x-app: web",
        ),
    ],
)
def test_what_has_the_path_and_asks_for_more_is_named_where_nothing_matches(
    entry: dict[str, Any], asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {**EXPERIMENT, "match": [{"path": {"value": "/v1/models/fraud-detector"}, **entry}]}
    answer = explained(capsys, "--rollouts", rollouts(tmp_path, spec), *REQUEST)
    assert answer["reason"] == "no_match"
    assert answer["explanation"][1] == f"payments/fraud-detector has the path, but asks for {asked}, too."


def test_a_rollout_that_fits_less_well_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rollouts(tmp_path, {**EXPERIMENT, "match": [{"path": {"value": "/v1"}}]}, "catch-all")
    answer = explained(capsys, "--rollouts", rollouts(tmp_path, EXPERIMENT), *REQUEST, "-H", "x-user-id: alice")
    assert "payments/catch-all fits too, but it is less specific or comes later." in answer["explanation"]


def test_a_document_that_the_store_has_not_seen_starts_at_weight_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = explained(capsys, "--rollouts", rollouts(tmp_path, CANARY), *REQUEST, "-H", "x-user-id: alice")
    assert (answer["arm"], answer["version"], answer["ranges"]) == ("control", "3", {"canary": [0, 0]})


def stored(tmp_path: Path, folder: str) -> str:
    """A store in which the folder's canary is at full weight, and killed."""
    url = f"sqlite:{tmp_path / 'dropout.db'}"
    store = open_store(url, create=True)
    clock = SystemClock()
    act(store, "test", Apply(load_valid([folder])), clock)
    act(store, "test", SetWeight("payments", "fraud-detector", 10_000), clock)
    act(store, "test", Kill("payments", "fraud-detector"), clock)
    store.close()
    return url


@pytest.mark.parametrize("named", [True, False], ids=["named", "where it is by default"])
@pytest.mark.parametrize("with_documents", [True, False])
def test_the_stores_status_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: bool, with_documents: bool
) -> None:
    folder = rollouts(tmp_path, CANARY)
    url = stored(tmp_path, folder)
    arguments = [*REQUEST, "-H", "x-user-id: alice", *(("--store", url) if named else ())]
    answer = explained(capsys, *arguments, *(("--rollouts", folder) if with_documents else ()))
    assert (answer["reason"], answer["version"]) == ("kill_switch", "3")
    assert any(sentence.startswith("Kill: ") for sentence in answer["explanation"])


def test_a_damaged_rollout_is_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "dropout.db"
    act(
        open_store(f"sqlite:{store}", create=True), "me", Apply(load_valid([rollouts(tmp_path, CANARY)])), SystemClock()
    )
    damage(store, "fraud-detector")
    answer = explained(capsys, "--store", f"sqlite:{store}", *REQUEST, "-H", "x-user-id: alice")
    assert answer["reason"] == "no_match"
    assert "payments/fraud-detector is left out here" in words(answer)
    assert "dropout apply --repair" in words(answer)


def test_the_text_shows_the_record_and_the_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "--rollouts", rollouts(tmp_path, CANARY), *REQUEST, "-H", "x-user-id: alice"])
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert 'version         "3"\n' in out
    assert "The request gets x-model-arm: control\n" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("-H", "no colon"), "header_invalid"),
        (("--feature", "risk"), "feature_invalid"),
        (("--attribute", "source.address"), "attribute_invalid"),
        (("--time", "tomorrow"), "time_invalid"),
        (("--feature", "risk=12%"), "feature_invalid"),
        (("--policies", "missing"), None),
        (("--store", "sqlite:missing.db"), "store_unreachable"),
    ],
)
def test_bad_input_is_a_fault_with_a_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: str | None
) -> None:
    status = 3 if code == "store_unreachable" else 2
    answer = explained(capsys, "--rollouts", rollouts(tmp_path, CANARY), *REQUEST, *arguments, status=status)
    assert code in (None, answer["errors"][0]["code"])


def test_policies_that_the_server_would_refuse_are_refused(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(policies, "routing", "decision.rego").write_text('package routing\n\ndecision := http.send({"url": "x"})\n')
    folder = rollouts(tmp_path, CANARY)
    answer = explained(capsys, "--rollouts", folder, "--policies", policies, *REQUEST, status=2)
    assert answer["errors"][0]["code"] == "policy_builtin_forbidden"


def test_every_reason_has_words() -> None:
    assert set(REASONS) == set(Reason)


def test_a_probed_version_is_said_to_be_tried() -> None:
    taken = frozenset({"4"})
    assert list(_stages(experiment(), Overlay(tripped=taken), make_facts(verdict=None))) == [
        "Trip: the breaker took version 4 away."
    ]
    assert list(_stages(experiment(), Overlay(tripped=taken, probing=taken), make_facts(verdict=None))) == [
        "Trip: the breaker took version 4 away, but for 5 of each 100 of its buckets."
    ]


def test_why_lists_the_rules_and_the_first_condition_that_failed(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--rollouts", rollouts(tmp_path, WITH_POLICY), "--policies", policies, *REQUEST, "-H", "x-user-id: alice")
    answer = explained(capsys, *asked, "--feature", "risk_score=0.5", "--why")
    (rule,) = answer["why"]
    assert (rule["rule"], rule["value"]) == ("data.routing.decision", {"allow": True})
    assert [(each["line"], each["kind"], each["holds"]) for each in rule["definitions"]] == [
        (5, "rule", False),
        (7, "rule", False),
        (3, "default", True),
    ]
    assert rule["definitions"][0]["failed"]["values"] == {"input.features.risk_score": 0.5}
    with pytest.raises(SystemExit):
        main(["explain", *asked, "--feature", "risk_score=0.95", "--why"])
    lines = capsys.readouterr().out.splitlines()
    header = 'input.attributes.request.http.headers["x-region"]'
    assert lines[-5:] == [
        'data.routing.decision is {"allow":true,"reason":"risk is high","versions":["3"]}',
        "  routing/decision.rego:5: holds",
        f'  routing/decision.rego:7: does not hold, line 8: {header} == "nowhere"',
        f"      {header} is undefined",
        "  routing/decision.rego:3: the default, which is not needed",
    ]


def test_why_asks_a_policy_and_there_has_to_be_one(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    without = rollouts(tmp_path, EXPERIMENT)
    assert explained(capsys, "--rollouts", without, *REQUEST, "--policies", policies, "--why")["why"] == []
    answer = explained(capsys, "--rollouts", without, *REQUEST, "--why", status=2)
    assert (answer["errors"][0]["code"], answer["errors"][0]["field"]) == ("flags_conflict", "--why")


def test_a_decision_of_which_the_why_cannot_be_known_is_told_all_the_same(
    tmp_path: Path, policies: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise Unreachable.of("why_unknown", "it cannot be said why", field="routing/decision")

    monkeypatch.setattr("extproc.cli.explain.explain_rules", unknown)
    asked = ("--rollouts", rollouts(tmp_path, WITH_POLICY), "--policies", policies, *REQUEST, "-H", "x-user-id: alice")
    answer = explained(capsys, *asked, "--why")
    assert "why" not in answer
    assert answer["explanation"][-1] == "routing/decision: it cannot be said why."
