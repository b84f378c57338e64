"""The commands on the store: what they print, what they write, and how they end."""

from __future__ import annotations

import os
import pwd
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.sqlite.observations import ObservationsWriter
from extproc.adapters.sqlite.runs import RunReport
from extproc.adapters.sqlite.store import SqliteStore
from extproc.adapters.stores import open_store
from extproc.cli.documents import to_yaml
from extproc.cli.main import main
from extproc.cli.rollout_text import details
from extproc.control.access import DirectControl
from extproc.control.actions import Abort, SetWeight
from extproc.resources.marked_yaml import read_documents
from extproc.store.records import StoredRollout
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.damage import damage
from tests.support.rollouts import CANARY, EXPERIMENT, document
from tests.support.templates import ERRORS, template

KEY = "payments/fraud-detector"
EMPTY_RUN = {"started": 0.0, "metrics": {}}


@dataclass(frozen=True)
class Answer:
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)

    @property
    def codes(self) -> list[str]:
        return [fault["code"] for fault in self.json["errors"]]


Dropout = Callable[..., Answer]


@pytest.fixture
def dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dropout:
    """Runs a command in an empty folder, on the default store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPOUT_STORE", raising=False)

    def run(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out, err)

    return run


def put(file: str, body: dict[str, Any]) -> str:
    Path(file).write_text(yaml.safe_dump(body))
    return file


@pytest.fixture
def applied(dropout: Dropout) -> Dropout:
    """With the rollout payments/fraud-detector from 3 to 4 in the store."""
    assert dropout("apply", "-f", put("rollout.yaml", document(CANARY))).exit_code == 0
    return dropout


def test_apply_says_what_became_of_each_document(dropout: Dropout) -> None:
    put("a.yaml", document(CANARY))
    assert dropout("apply", "-f", "a.yaml").out == f"rollout {KEY} created\n"
    assert dropout("apply", "-f", "a.yaml").out == f"rollout {KEY} unchanged\n"
    put("a.yaml", document({**CANARY, "canary": {"version": "5"}}))
    answer = dropout("apply", "-f", "a.yaml", "-o", "json").json
    (result,) = answer["results"]
    assert result.pop("resourceVersion") > 1
    assert result == {"kind": "Rollout", "namespace": "payments", "name": "fraud-detector", "result": "configured"}


def test_apply_reads_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "extproc.cli", "apply", "-f", "-", "--store", f"sqlite:{tmp_path}/a.db"]
    text = yaml.safe_dump(document(CANARY))
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"rollout {KEY} created\n"), done.stderr


def test_what_the_store_says_against_documents_is_told_with_what_is_wrong_with_them(dropout: Dropout) -> None:
    Path("rollouts").mkdir()
    put("rollouts/a.yaml", document(CANARY, "a"))
    put("rollouts/b.yaml", document({**CANARY, "steps": [{"setWeight": 200}]}, "b"))

    def told() -> list[tuple[str, str, bool]]:
        errors = dropout("apply", "-f", "rollouts", "-o", "json").json["errors"]
        return sorted((fault["code"], Path(fault["file"]).name, "in the store" in fault["message"]) for fault in errors)

    by_themselves = [("invalid_value", "b.yaml", False), ("match_collision", "b.yaml", False)]
    assert told() == by_themselves
    assert not Path("dropout.db").exists(), "there was no store to ask, and none is made"
    assert dropout("apply", "-f", put("there.yaml", document(CANARY))).exit_code == 0
    with_store = [("match_collision", file, True) for file in ("a.yaml", "b.yaml")]
    assert told() == sorted(by_themselves + with_store)
    errors = dropout("apply", "-f", "rollouts", "--store", "nowhere", "-o", "json").codes
    assert sorted(errors) == ["invalid_value", "match_collision", "store_url"]


def test_apply_of_a_folder_with_one_bad_document_writes_nothing(dropout: Dropout) -> None:
    Path("rollouts").mkdir()
    put("rollouts/a.yaml", document(CANARY, "a"))
    elsewhere = [{"path": {"value": "/elsewhere"}}]
    put("rollouts/b.yaml", document({**CANARY, "match": elsewhere, "canary": {"alias": "none"}}, "b"))
    answer = dropout("apply", "-f", "rollouts", "-o", "json")
    assert (answer.exit_code, answer.codes) == (2, ["alias_unresolved"])
    assert not Path("dropout.db").exists()


def test_a_damaged_rollout_is_listed_and_made_anew_by_apply_repair(applied: Dropout) -> None:
    put("other.yaml", document({**CANARY, "match": [{"path": {"value": "/other"}}]}, "other"))
    applied("apply", "-f", "other.yaml")
    damage(Path("dropout.db"), "fraud-detector")
    listed = applied("rollout", "list")
    assert listed.exit_code == 0
    assert [line.split()[1] for line in listed.out.splitlines()[1:]] == ["other", "fraud-detector"]
    assert listed.out.split()[-4:-2] == ["Unreadable", "store_corrupt"]
    assert "dropout apply --repair" in listed.err
    (damaged,) = applied("rollout", "list", "-o", "json").json["unreadable"]
    assert (damaged["name"], damaged["code"]) == ("fraud-detector", "store_corrupt")
    for command in (("kill", KEY), ("delete", "rollout", KEY), ("apply", "-f", "rollout.yaml")):
        answer = applied(*command)
        assert (answer.exit_code, "dropout apply --repair" in answer.err) == (3, True)
    assert applied("apply", "--repair", "-f", "rollout.yaml").out == f"rollout {KEY} repaired: killed until restored\n"
    assert applied("rollout", "get", KEY, "-o", "json").json["killed"] is True
    assert applied("rollout", "list", "-o", "json").json["unreadable"] == []


def test_a_damaged_template_is_told_as_such_and_goes_by_apply_or_delete(dropout: Dropout) -> None:
    put("errors.yaml", template(ERRORS))
    name = dropout("apply", "-f", "errors.yaml").out.split()[1]
    for mend in (("apply", "-f", "errors.yaml"), ("delete", "analysistemplate", name)):
        with sqlite3.connect("dropout.db") as connection:
            connection.execute("UPDATE templates SET document = 'x'")
        connection.close()
        answer = dropout("get", "analysistemplate", name, "-o", "json")
        assert (answer.exit_code, answer.codes) == (3, ["store_corrupt"])
        assert dropout(*mend).exit_code == 0
        assert dropout("get", "analysistemplate", name, "-o", "json").exit_code == (0 if "apply" in mend else 2)


def test_get_prints_the_document_as_written(applied: Dropout) -> None:
    text = applied("get", "rollout", KEY).out
    assert yaml.safe_load(text) == document(CANARY)
    answer = applied("get", "Rollout", KEY, "-o", "json").json
    assert answer["spec"] == CANARY
    assert answer["status"]["stable"] == "3"


def test_what_get_prints_is_applied_as_unchanged(applied: Dropout) -> None:
    Path("again.yaml").write_text(applied("get", "rollout", KEY).out)
    assert applied("apply", "-f", "again.yaml").out == f"rollout {KEY} unchanged\n"


@pytest.mark.parametrize("command", ["get", "promote", "pause", "history", "adopt"])
def test_a_rollout_that_is_not_there_is_told_with_the_one_that_may_be_meant(applied: Dropout, command: str) -> None:
    typo = applied("rollout", command, "payments/fraud-detecter").err
    assert typo == f"there is no rollout payments/fraud-detecter in the store; did you mean {KEY!r}? (not_found)\n"
    elsewhere = applied("rollout", command, "fraud-detector").err
    assert elsewhere == f"there is no rollout default/fraud-detector in the store; did you mean {KEY!r}? (not_found)\n"
    other = applied("rollout", command, "nobody/x").err
    assert (
        other == "there is no rollout nobody/x in the store; `dropout rollout list` shows what there is (not_found)\n"
    )


def test_after_a_promotion_the_document_is_behind_until_what_is_served_is_applied(dropout: Dropout) -> None:
    spec = {**CANARY, "canary": {"alias": "next"}, "aliases": {"next": "4"}}
    steps = {"steps": [{"setWeight": 50}], "analysis": {"templates": [{"templateName": "live"}]}}
    ramp = document({**spec, **steps, "progressDeadline": "10m"})
    assert dropout("apply", "-f", put("ramp.yaml", ramp)).exit_code == 0
    assert yaml.safe_load(dropout("get", "rollout", KEY, "--as-served").out) == ramp, "nothing was promoted"
    said = dropout("rollout", "promote", KEY, "--full").out
    assert f"the document still names version 3 as stable; `dropout get rollout {KEY} --as-served`" in said
    assert "SpecBehind" in dropout("rollout", "list").out
    behind = "the document still names version 3 as stable"
    assert dropout("rollout", "get", KEY).out.count(behind) == 1
    again = dropout("apply", "-f", put("behind.yaml", {**ramp, "spec": {**ramp["spec"], "timeout": "9s"}})).out
    assert again == f"rollout {KEY} configured: SpecBehind, as `dropout rollout get {KEY}` says\n", (
        "it was told in full"
    )
    drifted = document({**CANARY, "stable": {"version": "7"}})
    said = dropout("apply", "-f", put("drifted.yaml", drifted)).out
    assert "configured: spec.stable is version 7 now; version 4 stays stable until `dropout rollout adopt" in said
    assert "unchanged: StableDrift, as" in dropout("apply", "-f", "drifted.yaml").out
    assert dropout("apply", "-f", "ramp.yaml").exit_code == 0

    served = dropout("get", "rollout", KEY, "--as-served")
    spec = {name: value for name, value in CANARY.items() if name != "canary"}
    assert yaml.safe_load(served.out) == document({**spec, "stable": {"version": "4"}})
    assert served.out.splitlines()[:2] == [
        "# Left out, because version 4 is stable and there is no canary: "
        "spec.canary, spec.steps, spec.analysis and spec.progressDeadline.",
        "# They go back in with the next canary; `dropout get rollout` prints them as they were applied.",
    ]
    Path("served.yaml").write_text(served.out)
    assert dropout("apply", "-f", "served.yaml").exit_code == 0
    status = dropout("rollout", "get", KEY, "-o", "json").json
    assert (status["stable"], status["canary"], status["phase"], status["conditions"]) == ("4", None, "Healthy", [])
    assert dropout("rollout", "promote", KEY, "-o", "json").codes == ["not_a_canary_rollout"]
    assert dropout("get", "analysistemplate", "live", "--as-served", "-o", "json").codes == ["no_rollout"]


@given(st.dictionaries(st.sampled_from("abc"), st.text("+-.0123456789exoan~: '\"\n#", max_size=6) | st.integers(-9, 9)))
def test_documents_are_printed_as_they_are_read(body: dict[str, Any]) -> None:
    (read,), faults = read_documents(to_yaml({"k": body}), "x")
    assert not faults
    assert read.node.value == {"k": body}


def test_steps_that_no_controller_takes_are_told_of_when_they_are_applied(dropout: Dropout) -> None:
    file = put("ramp.yaml", document({**CANARY, "steps": [{"setWeight": 5}]}))
    told = f"no controller leads on this store, so nobody takes the steps of {KEY}; start `dropout controller`"
    assert dropout("apply", "-f", file).err.startswith(f"note: {told}")
    in_json = dropout("apply", "-f", file, "-o", "json")
    ((code, message),) = [(note["code"], note["message"]) for note in in_json.json["notes"]]
    assert (code, message.startswith(told), in_json.err) == ("no_controller", True, "")
    with closing(SqliteStore(Path("dropout.db"))) as store:
        assert store.acquire("somebody", 60) is not None
    assert dropout("apply", "-f", file).err == ""
    assert dropout("apply", "-f", file, "-o", "json").json["notes"] == []


def test_delete_takes_it_out(applied: Dropout) -> None:
    assert applied("delete", "rollout", KEY).out == f"rollout {KEY} deleted\n"
    answer = applied("get", "rollout", KEY, "-o", "json")
    assert (answer.exit_code, answer.codes, answer.err) == (2, ["not_found"], "")
    assert [e["action"] for e in applied("rollout", "history", KEY, "-o", "json").json["history"]] == [
        "apply",
        "delete",
    ]


def test_a_name_without_a_namespace_is_in_the_default_one(dropout: Dropout) -> None:
    body = document(CANARY)
    del body["metadata"]["namespace"]
    dropout("apply", "-f", put("a.yaml", body))
    assert dropout("rollout", "get", "fraud-detector", "-o", "json").json["namespace"] == "default"


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a/b/c"])
def test_what_is_no_name_is_refused(applied: Dropout, name: str) -> None:
    assert applied("rollout", "get", name, "-o", "json").codes == ["name_invalid"]


def test_an_unknown_kind_is_refused(applied: Dropout) -> None:
    answer = applied("get", "pod", KEY, "-o", "json")
    assert (answer.exit_code, answer.codes) == (2, ["unsupported_kind"])


def test_list_is_a_table(applied: Dropout) -> None:
    applied("apply", "-f", put("b.yaml", document({**EXPERIMENT, "match": [{"path": {"value": "/b"}}]}, "b")))
    applied("rollout", "set-weight", KEY, "12.5")
    lines = [line.split() for line in applied("rollout", "list").out.splitlines()]
    assert lines == [
        ["NAMESPACE", "NAME", "STABLE", "CANARY", "WEIGHT", "STEP", "PHASE", "REASON", "KILLED", "CONDITIONS"],
        ["payments", "b", "3", "4", "50", "-", "Healthy", "live", "no", "-"],
        ["payments", "fraud-detector", "3", "4", "12.5", "0", "Progressing", "weight_set", "no", "-"],
    ]
    assert [row["name"] for row in applied("rollout", "list", "-o", "json").json["rollouts"]] == ["b", "fraud-detector"]


def test_an_experiment_is_shown_with_its_variants_and_a_retry_gives_back_what_get_shows_as_away(
    applied: Dropout,
) -> None:
    applied("rollout", "set-weight", KEY, "50")
    applied("rollout", "abort", KEY)
    applied("apply", "-f", put("a.yaml", document(EXPERIMENT)))
    text = applied("rollout", "get", KEY).out
    assert "Degraded (aborted)" in text
    assert "variant treatment (version 4) was aborted: the control is served in its place" in text
    assert text.splitlines()[-3:] == [
        "variants:",
        "  treatment  version 4  weight 50  aborted",
        "  control  version 3  weight 50  control",
    ]
    assert applied("rollout", "retry", KEY).out == f"rollout {KEY} configured: version 4 may be tried again\n"
    found = applied("rollout", "get", KEY, "-o", "json").json
    assert (found["phase"], found["aborted"]) == ("Healthy", [])
    assert found["variants"][0] == {"name": "treatment", "version": "4", "weight": 50, "takenAway": None}


def test_set_weight_takes_percents_and_reports_the_status(applied: Dropout) -> None:
    answer = applied("rollout", "set-weight", KEY, "12.5", "-o", "json").json
    assert (answer["result"], answer["message"]) == ("configured", "weight 0 to 12.5")
    status = answer["status"]
    assert (status["weight"], status["previousWeight"], status["epoch"], status["phase"]) == (12.5, 0, 2, "Progressing")
    assert status["effectiveAt"].endswith("Z")
    assert set(status) == {
        *("stable", "canary", "weight", "previousWeight", "effectiveAt", "drawn", "step", "epoch", "previousEpoch"),
        *("phase", "reason", "message", "killed", "aborted", "specStable", "conditions", "applied"),
        *("previousStable", "shadow", "stepAt", "attempt", "tripped", "analysis", "kills"),
        *("without", "previous"),
    }
    assert applied("rollout", "set-weight", KEY, "12.5").out == f"rollout {KEY} unchanged\n"


@pytest.mark.parametrize("percent", ["101", "1.234", "x", "nan"])
def test_what_is_no_percentage_is_refused(applied: Dropout, percent: str) -> None:
    answer = applied("rollout", "set-weight", KEY, percent, "-o", "json")
    assert (answer.exit_code, answer.codes) == (2, ["weight_invalid"])


def test_a_promotion_without_a_host_and_its_undoing(applied: Dropout) -> None:
    assert applied("rollout", "undo", KEY, "-o", "json").codes == ["nothing_to_undo"]
    assert applied("rollout", "promote", KEY, "--without", "", "-o", "json").codes == ["host_invalid"]
    assert applied("rollout", "promote", KEY, "--without", "a", "-o", "json").codes == ["observer_unknown"]
    for host in ("a", "b"):
        with closing(ObservationsWriter(Path("dropout.db.observed"), host)) as writer:
            writer.write([], [], 1.0, RunReport(host, "unix:observer.sock"))
    refused = applied("rollout", "promote", KEY, "--full", "--without", "a", "--without", "B", "-o", "json")
    assert (refused.exit_code, refused.codes) == (2, ["observer_unknown"])
    promoted = applied("rollout", "promote", KEY, "--full", "--without", "a", "--without", "b", "-o", "json").json
    assert "promoted by hand, without the observers on a, b" in promoted["message"]
    status = promoted["status"]
    assert (status["without"], status["previous"]["stable"]) == (["a", "b"], "3")
    assert status["previous"]["at"].endswith("Z")
    text = applied("rollout", "get", KEY).out
    assert "replaced:" in text
    assert "not waited for:" in text
    undone = applied("rollout", "undo", KEY).out
    assert undone == f"rollout {KEY} configured: version 3 is stable again in place of 4: by hand\n"


def test_an_aborted_canary_shows_the_weight_that_it_had_beside_the_step_that_it_was_in(dropout: Dropout) -> None:
    dropout("apply", "-f", put("ramp.yaml", document({**CANARY, "steps": [{"setWeight": 5}]})))
    clock = FakeClock()
    with closing(SqliteStore(Path("dropout.db"))) as store:
        rollouts = DirectControl(store, "alice", clock)
        rollouts.act(SetWeight("payments", "fraud-detector", 2000))
        clock.advance(60)
        rollouts.act(Abort("payments", "fraud-detector"))
    lines = dropout("rollout", "get", KEY).out.splitlines()
    shown = [line for line in lines if line.startswith(("weight:", "  ● 0"))]
    assert all(line.endswith(", aborted at weight 20") for line in shown), shown
    assert len(shown) == 2
    dropout("rollout", "retry", KEY)
    assert "aborted at weight" not in dropout("rollout", "get", KEY).out


def test_an_abort_a_refusal_and_a_retry(applied: Dropout) -> None:
    applied("rollout", "set-weight", KEY, "50")
    assert applied("rollout", "abort", KEY).exit_code == 0
    refused = applied("rollout", "set-weight", KEY, "10", "-o", "json")
    assert (refused.exit_code, refused.codes) == (1, ["version_aborted"])
    assert "aborted:" in applied("rollout", "get", KEY).out
    assert applied("rollout", "retry", KEY).exit_code == 0
    assert applied("rollout", "retry", KEY, "-o", "json").codes == ["not_aborted"]


def test_a_shadow_is_shown_with_its_version_and_share(dropout: Dropout) -> None:
    spec = {name: CANARY[name] for name in CANARY if name not in ("canary", "steps")}
    dropout("apply", "-f", put("shadow.yaml", document({**spec, "shadow": {"version": "4", "percent": 50}})))
    assert "shadow:            4, 50 %" in dropout("rollout", "get", KEY).out
    assert dropout("rollout", "get", KEY, "-o", "json").json["shadowing"] == {"version": "4", "percent": 50}


def test_a_run_that_measures_nothing_has_no_heading() -> None:
    row = StoredRollout("a", "b", document(CANARY), Status("3", "4", analysis={"background": EMPTY_RUN}), 1, None)
    lines = details(row, 0.0)
    assert "in the background:" not in lines


def test_a_template_that_is_missed_is_told_when_it_is_asked_for_and_when_it_goes(dropout: Dropout) -> None:
    watched = put("watched.yaml", document({**CANARY, "analysis": {"templates": [{"templateName": "health"}]}}))
    assert "neither among these documents nor in the store" in dropout("apply", "-f", watched).err
    dropout("apply", "-f", put("template.yaml", template()))
    assert "payments/health" not in dropout("apply", "-f", watched).err
    deleted = dropout("delete", "analysistemplate", "payments/health")
    assert deleted.exit_code == 0
    assert f"payments/health is used by {KEY}" in deleted.err


def test_kill_and_restore(applied: Dropout) -> None:
    killed = applied("kill", KEY, "-o", "json").json
    assert (killed["message"], killed["status"]["killed"]) == ("killed: only stable is served", True)
    assert killed["reached"] == {"store": True, "serves": 0, "unkept": 0, "silent": 0}
    again = applied("kill", KEY, "-o", "json").json
    kills = [*killed["kills"], *again["kills"]]
    assert applied("rollout", "get", KEY, "-o", "json").json["kills"] == kills
    assert applied("restore", KEY).out == (
        f"rollout {KEY} configured: restored\nkills {', '.join(kills)}: restored in the store\n"
    )
    assert applied("restore", KEY).out == f"rollout {KEY} unchanged\n"


def test_drift_is_shown_until_it_is_adopted(applied: Dropout) -> None:
    applied("apply", "-f", put("a.yaml", document({**CANARY, "stable": {"version": "2"}})))
    text = applied("rollout", "get", KEY).out
    assert "StableDrift:" in text
    assert f"dropout rollout adopt {KEY}" in text
    assert applied("rollout", "adopt", KEY).exit_code == 0
    assert applied("rollout", "get", KEY, "-o", "json").json["stable"] == "2"
    assert "StableDrift" not in applied("rollout", "list").out


def test_history_names_the_user_of_the_system(applied: Dropout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    applied("rollout", "set-weight", KEY, "5")
    (_, entry) = applied("rollout", "history", KEY, "-o", "json").json["history"]
    assert entry["actor"] == pwd.getpwuid(os.getuid()).pw_name
    assert (entry["action"], entry["message"], entry["detail"]) == ("set-weight", "weight 0 to 5", {"from": 0, "to": 5})


def test_history_tells_in_a_line_what_was_repeated(applied: Dropout) -> None:
    for _ in range(3):
        applied("rollout", "pause", KEY)
        applied("rollout", "resume", KEY)
    _, pause, resume = applied("rollout", "history", KEY).out.splitlines()
    assert re.search(r"  paused by hand \(3 times since 2\d{3}-\S+Z\)$", pause)
    assert re.search(r"  resumed \(3 times since 2\d{3}-\S+Z\)$", resume)
    _, entry, _ = applied("rollout", "history", KEY, "-o", "json").json["history"]
    assert (entry["count"], entry["firstAt"] < entry["at"]) == (3, True)


def test_history_of_what_never_was_is_not_found(applied: Dropout) -> None:
    assert applied("rollout", "history", "nothing", "-o", "json").codes == ["not_found"]


READING = [
    ("get", "rollout", KEY),
    ("delete", "rollout", KEY),
    ("rollout", "list"),
    ("rollout", "get", KEY),
    ("rollout", "history", KEY),
    ("rollout", "set-weight", KEY, "5"),
    ("kill", KEY),
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_only_apply_makes_a_store(dropout: Dropout, command: tuple[str, ...]) -> None:
    answer = dropout(*command, "-o", "json")
    assert (answer.exit_code, answer.codes, answer.err) == (3, ["store_unreachable"], "")
    assert list(Path().iterdir()) == []


def test_a_store_that_is_no_database_is_a_sentence(dropout: Dropout) -> None:
    Path("dropout.db").write_text("a letter " * 1000)
    put("a.yaml", document(CANARY))
    for command in (("apply", "-f", "a.yaml"), ("rollout", "list")):
        answer = dropout(*command)
        assert (answer.exit_code, answer.out) == (3, "")
        assert "(store_corrupt)" in answer.err
        assert "Traceback" not in answer.err


def test_a_locked_store_is_a_sentence(applied: Dropout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.cli.options.open_store", partial(open_store, wait=0.05))
    other = sqlite3.connect("dropout.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = applied("kill", KEY, "-o", "json")
    other.close()
    assert (answer.exit_code, answer.codes) == (3, ["store_locked"])


def test_the_store_is_named_by_the_environment(applied: Dropout, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dropout.db").rename("other.db")
    monkeypatch.setenv("DROPOUT_STORE", "sqlite:other.db")
    assert applied("rollout", "get", KEY).exit_code == 0
    assert applied("rollout", "list", "--store", "redis://x", "-o", "json").codes == ["store_url"]
