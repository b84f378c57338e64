"""The embedded feature store and the files that are loaded into it."""

from __future__ import annotations

import ast
import json
import os
import sqlite3
import threading
from pathlib import Path
from types import ModuleType

import pytest

from extproc.adapters.file import features as feature_files
from extproc.adapters.file.features import read_feature_file
from extproc.adapters.sqlite import features as sqlite_features
from extproc.adapters.sqlite.features import FeatureRecord, SqliteFeatureStore, open_features
from extproc.cli.main import main
from extproc.errors import InvalidInput, Unreachable
from extproc.snapshot.model import FeatureView

NOW = 1_800_000_000.0


def record(value: object = 0.7, event_time: float = NOW, entity: str = "u-1", name: str = "risk") -> FeatureRecord:
    return FeatureRecord("user_risk", entity, name, value, event_time)


@pytest.fixture
def store(tmp_path: Path) -> SqliteFeatureStore:
    return SqliteFeatureStore(tmp_path / "features #1.db")


def test_what_was_loaded_is_read(store: SqliteFeatureStore) -> None:
    values = [0.7, 7, True, None, "eu", ["a", 1], {"k": "ü"}]
    store.load(record(value, name=str(number)) for number, value in enumerate(values))
    rows = store.read("user_risk", "u-1", [*map(str, range(len(values))), "absent"])
    assert {int(name): row.value for name, row in rows.items()} == dict(enumerate(values))
    assert store.read("user_risk", "u-2", ["0"]) == {}
    assert store.read("other", "u-1", ["0"]) == {}


def test_an_older_event_time_never_overwrites_a_newer_one(store: SqliteFeatureStore) -> None:
    assert store.load([record("new", NOW)]) == 1
    assert store.load([record("old", NOW - 1), record("other", entity="u-2")]) == 1
    assert store.read("user_risk", "u-1", ["risk"])["risk"] == ("new", NOW)
    assert store.load([record("corrected", NOW)]) == 1


def test_the_file_is_for_its_owner_only(store: SqliteFeatureStore) -> None:
    store.load([record()])
    assert oct(store.path.stat().st_mode & 0o777) == "0o600"


def test_another_thread_may_read(store: SqliteFeatureStore) -> None:
    store.load([record()])
    store.read("user_risk", "u-1", ["risk"])
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(store.read("user_risk", "u-1", ["risk"])["risk"].value))
    thread.start()
    thread.join()
    assert found == [0.7]


def test_reading_a_missing_store_says_so_and_makes_no_file(store: SqliteFeatureStore) -> None:
    with pytest.raises(Unreachable) as caught:
        store.read("user_risk", "u-1", ["risk"])
    assert caught.value.code == "features_missing"
    assert not store.path.exists()
    store.load([record()])
    assert store.read("user_risk", "u-1", ["risk"])["risk"].value == 0.7


def test_a_pipe_in_the_place_of_a_store_is_not_waited_for(store: SqliteFeatureStore) -> None:
    os.mkfifo(store.path)
    for use in (lambda: store.load([record()]), lambda: store.read("user_risk", "u-1", ["risk"])):
        with pytest.raises(Unreachable) as caught:
            use()
        assert (caught.value.code, caught.value.faults[0].message) == (
            "features_unreachable",
            "the feature store is not a file",
        )


def test_a_store_that_was_made_again_is_opened_again(store: SqliteFeatureStore, tmp_path: Path) -> None:
    store.load([record("before")])
    assert store.read("user_risk", "u-1", ["risk"])["risk"].value == "before"
    other = SqliteFeatureStore(tmp_path / "other.db")
    other.load([record("after")])
    store.path.unlink()
    other.path.rename(store.path)
    assert store.read("user_risk", "u-1", ["risk"])["risk"].value == "after"


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b""])
def test_a_file_that_is_no_feature_store_says_so(store: SqliteFeatureStore, content: bytes) -> None:
    store.path.write_bytes(content)
    with pytest.raises(Unreachable) as caught:
        store.read("user_risk", "u-1", ["risk"])
    assert caught.value.code == "features_corrupt"


def test_a_locked_store_says_so(store: SqliteFeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.adapters.sqlite.features.WRITE_WAIT_SECONDS", 0.01)
    store.load([record()])
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable) as caught:
        store.load([record("other")])
    assert caught.value.code == "features_locked"
    assert store.read("user_risk", "u-1", ["risk"])["risk"].value == 0.7, "a reader does not wait for a writer"
    holder.close()


def test_a_full_disk_stores_nothing(store: SqliteFeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.load([record("before")])
    connect = sqlite3.connect

    def nearly_full(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 4")
        return connection

    monkeypatch.setattr(sqlite3, "connect", nearly_full)
    with pytest.raises(Unreachable) as caught:
        store.load([record("after"), *(record("x" * 1000, entity=f"u-{number}") for number in range(2, 100))])
    assert caught.value.code == "features_full"
    monkeypatch.undo()
    assert store.read_entity("user_risk", "u-1")["risk"].value == "before"
    assert store.read_entity("user_risk", "u-2") == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_says_so(store: SqliteFeatureStore) -> None:
    store.load([record()])
    store.path.chmod(0o400)
    with pytest.raises(Unreachable) as caught:
        store.load([record("other")])
    assert caught.value.code == "features_read_only"


@pytest.mark.parametrize("url", ["redis:x", "features.db", "sqlite:", ""])
def test_only_sqlite_urls_name_a_store(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_features(url)
    assert caught.value.code == "features_url"


def test_a_csv_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text(
        "entity,view,name,value,event_time\n"
        "u-1,user_risk,risk_score,0.91,2026-11-02T10:00:00Z\n"
        "u-1,user_risk,country,de,1762077600\n"
        'u-1,user_risk,note,"a, b\nc",\n'
        "007,user_risk,vip,true,\n"
        "u-2,user_risk,zip,007,\n"
        "u-2,user_risk,list,[1],\n"
    )
    rows = read_feature_file(file, NOW)
    assert [row.value for row in rows] == [0.91, "de", "a, b\nc", True, "007", "[1]"]
    assert rows[0].event_time == 1793613600.0
    assert rows[1].event_time == 1762077600.0
    assert rows[2].event_time == NOW
    assert rows[3].entity == "007"


def test_a_jsonl_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(
        '{"entity": "u-1", "view": "v", "name": "n", "value": [1, {"a": null}]}\n'
        "\n"
        '{"entity": "u-1", "view": "v", "name": "m", "value": "0.5", "event_time": "2026-11-02T10:00:00+01:00"}\n'
    )
    rows = read_feature_file(file, NOW)
    assert [(row.value, row.event_time) for row in rows] == [([1, {"a": None}], NOW), ("0.5", 1793610000.0)]


def faults_of(tmp_path: Path, name: str, content: str | bytes) -> list[tuple[str, int | None, str | None]]:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InvalidInput) as caught:
        read_feature_file(file, NOW)
    assert {fault.file for fault in caught.value.faults} == {str(file)}
    return [(fault.code, fault.line, fault.field) for fault in caught.value.faults]


def test_all_faults_of_a_csv_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    content = (
        "entity,view,name,value,event_time\n"
        ",v,n,1,\n"
        'u,v,n,"two\nlines",yesterday\n'
        "u,v,n\n"
        "u,v,n,inf,\n"
        "u,v,n,1,1762077600000\n"
        "u,v,n,1,2026-11-02T10:00:00\n"
        f"u,v,n,1,{NOW + 300}\n"
        f"u,v,n,1,{NOW + 301}\n"
    )
    assert faults_of(tmp_path, "f.csv", content) == [
        ("missing_field", 2, "entity"),
        ("event_time", 3, "event_time"),
        ("row_length", 5, None),
        ("value_not_finite", 6, "value"),
        ("event_time", 7, "event_time"),
        ("event_time", 8, "event_time"),
        ("event_time", 10, "event_time"),
    ]


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "f.csv", "entity,entity,view,value,colour\n1,2,3,4,5\n") == [
        ("duplicate_field", 1, "entity"),
        ("unknown_field", 1, "colour"),
        ("missing_field", 1, "name"),
    ]


def test_all_faults_of_a_jsonl_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    content = (
        "{broken\n"
        "[1]\n"
        '{"entity": 7, "view": "v", "name": "n", "value": 1}\n'
        '{"entity": "u", "view": "v", "name": "n"}\n'
        '{"entity": "u", "view": "v", "name": "n", "value": 1, "colour": "red"}\n'
        '{"entity": "u", "view": "v", "name": "n", "value": 1, "event_time": true}\n'
    )
    assert faults_of(tmp_path, "f.jsonl", content) == [
        ("json_syntax", 1, None),
        ("wrong_type", 2, None),
        ("wrong_type", 3, "entity"),
        ("missing_field", 4, "value"),
        ("unknown_field", 5, "colour"),
        ("event_time", 6, "event_time"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("f.csv", "", "file_empty"),
        ("f.csv", "entity,view,name,value\n", "file_empty"),
        ("f.jsonl", "\n\n", "file_empty"),
        ("f.csv", b"entity,view,name,value\nu,v,n,\xff\n", "file_encoding"),
        ("f.csv", 'entity,view,name,value\nu,v,n,"open\n', "csv_syntax"),
        ("f.parquet", "x", "file_type"),
    ],
)
def test_a_file_without_usable_content_says_why(tmp_path: Path, name: str, content: str | bytes, code: str) -> None:
    assert faults_of(tmp_path, name, content)[0][0] == code


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["features", *arguments])
    printed = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, printed.out, printed.err


def test_the_commands_load_and_get(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:{tmp_path / 'f.db'}"
    csv_file = tmp_path / "f.csv"
    csv_file.write_text("entity,view,name,value,event_time\nu-1,user_risk,risk_score,0.9,100\n")
    code, out, _ = run(capsys, "load", str(csv_file), "--features", url, "-o", "json")
    counts = {"read": 1, "written": 1, "older": 0, "absent": 0}
    types = {"user_risk": {"risk_score": ["number"]}}
    assert (code, json.loads(out)) == (0, {**counts, "types": types, "notes": []})
    csv_file.write_text("entity,view,name,value,event_time\nu-1,user_risk,risk_score,0.1,99\n")
    code, out, _ = run(capsys, "load", str(csv_file), "--features", url)
    assert (code, out) == (
        0,
        "0 values stored; 1 older than what is stored, left out\nuser_risk risk_score: number\n",
    )
    code, out, _ = run(capsys, "get", "--view", "user_risk", "--entity", "u-1", "--features", url, "-o", "json")
    answer = json.loads(out)
    assert (code, answer["features"]["risk_score"]["value"]) == (0, 0.9)
    assert answer["features"]["risk_score"]["event_time"] == 100.0
    code, _, err = run(capsys, "get", "--view", "user_risk", "--entity", "u-2", "--features", url)
    assert code == 1
    assert "not_found" in err


def test_values_are_shown_as_they_are_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:{tmp_path / 'f.db'}"
    given = {"a": "0.9", "b": "true", "c": "null", "d": '{"x":[1]}', "e": '"it\'s"'}
    record = '{{"entity":"u","view":"v","name":"{}","value":{},"event_time":100}}\n'
    (tmp_path / "f.jsonl").write_text("".join(record.format(*each) for each in given.items()))
    assert run(capsys, "load", str(tmp_path / "f.jsonl"), "--features", url)[0] == 0
    _, out, _ = run(capsys, "get", "--view", "v", "--entity", "u", "--features", url)
    assert [line.partition("  (")[0] for line in out.splitlines()] == [
        f"{name} = {text}" for name, text in given.items()
    ]


def test_a_load_says_of_which_type_it_took_each_feature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A spreadsheet in German writes WAHR, which is text: who wanted a truth value is told, not left to find out."""
    sheet, lines = tmp_path / "f.csv", tmp_path / "f.jsonl"
    sheet.write_text("entity;view;name;value\nu;v;vip;WAHR\nu;v;risk;0,5\nw;v;risk;\nu;v;gone;\n")
    lines.write_text(
        '{"entity":"u","view":"v","name":"risk","value":[1]}\n{"entity":"u","view":"w","name":"x","value":null}\n'
    )
    url = f"sqlite:{tmp_path / 'f.db'}"
    _, out, _ = run(capsys, "load", str(sheet), str(lines), "--features", url)
    assert out.splitlines()[1:] == ["v vip: text", "v risk: number, list", "w x: null"]


def test_a_load_with_one_bad_file_stores_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("entity,view,name,value\nu-1,v,n,1\n")
    bad.write_text("entity,view,name,value\n,v,n,1\n")
    code, out, err = run(capsys, "load", str(good), str(bad), "--features", f"sqlite:{tmp_path / 'f.db'}", "-o", "json")
    assert (code, err) == (2, "")
    assert [fault["line"] for fault in json.loads(out)["errors"]] == [2]
    assert not (tmp_path / "f.db").exists()


def test_a_store_that_cannot_be_reached_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(
        capsys, "get", "--view", "v", "--entity", "u", "--features", f"sqlite:{tmp_path / 'nowhere' / 'f.db'}"
    )
    assert code == 3
    assert "features_missing" in err


def test_a_value_that_is_nested_too_deeply_is_a_fault_of_its_line(tmp_path: Path) -> None:
    deep = '{"entity": "a", "view": "v", "name": "n", "value": ' + "[" * 500 + "]" * 500 + "}\n"
    assert faults_of(tmp_path, "f.jsonl", deep) == [("value_too_deep", 1, "value")]


@pytest.mark.parametrize("module", [feature_files, sqlite_features])
def test_what_is_said_of_features_begins_small_and_has_no_full_stop(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    said = [
        ast.unparse(argument)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in ("of", "Fault", "_Bad")
        for argument in call.args[1:2]
        if isinstance(argument, ast.Constant | ast.JoinedStr)
    ]
    assert said
    assert [text for text in said if text[-2] == "." or text.lstrip("f")[1].isupper()] == []


def test_what_it_lacks_is_told_with_what_may_have_been_meant(store: SqliteFeatureStore) -> None:
    store.load([record(), FeatureRecord("other", "u-1", "kyc_level", 2, NOW)])
    (unknown,) = store.lacking(FeatureView("user_riks", ("risk",)))
    message = "nothing is stored of view 'user_riks'; did you mean 'user_risk'?"
    assert (unknown.code, unknown.message) == ("feature_view_unknown", message)
    (unknown,) = store.lacking(FeatureView("other", ("kyc_levl", "kyc_level")))
    message = "nothing is stored of 'kyc_levl' in view 'other'; did you mean 'kyc_level'?"
    assert (unknown.code, unknown.field, unknown.message) == ("feature_unknown", "kyc_levl", message)


def test_a_search_among_too_many_values_is_given_up(store: SqliteFeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.load(record(entity=f"u-{number}") for number in range(2000))
    monkeypatch.setattr(sqlite_features, "SEARCH_SECONDS", -1.0)
    monkeypatch.setattr(sqlite_features, "_INSTRUCTIONS", 100)
    with pytest.raises(Unreachable) as raised:
        store.lacking(FeatureView("user_risk", ("nope",)))
    assert raised.value.code == "features_unsearched"
