"""A folder of policies is read whole, bounded, and every fault in it is named in one go."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import InvalidInput
from extproc.resources import policies
from extproc.resources.policies import PolicySources, read_sources
from extproc.resources.policy_data import DataError, parse_data

RULE = "package routing\n\ndecision := {}\n"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def faults_of(folder: Path) -> list[tuple[str, str | None, int | None]]:
    with pytest.raises(InvalidInput) as caught:
        read_sources(folder)
    return [(f.code, f.file and str(Path(f.file).name), f.line) for f in caught.value.faults]


def test_data_is_mounted_at_the_path_of_its_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "routing/decision.rego": RULE,
            "routing/data.json": '{"threshold": 0.8}',
            "routing/deep/data.yaml": "names: [a, b]\nsince: 2026-11-23\n",
            "data.yml": "routing: {also: true}\n",
            "routing/other.json": "{}",
        },
    )
    sources = read_sources(tmp_path)
    assert sources.files == {"routing/decision.rego": RULE}
    assert sources.data == {
        "routing": {"threshold": 0.8, "also": True, "deep": {"names": ["a", "b"], "since": "2026-11-23"}}
    }


def test_tests_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": RULE, "a_test.rego": "package a_test\n"})
    assert list(read_sources(tmp_path).files) == ["a.rego"]
    assert sorted(read_sources(tmp_path, tests=True).files) == ["a.rego", "a_test.rego"]


def test_the_revision_follows_names_and_contents_only(tmp_path: Path) -> None:
    one = read_sources(write(tmp_path / "one", {"a.rego": RULE, "data.json": "{}"}))
    same = read_sources(write(tmp_path / "two", {"a.rego": RULE, "data.json": "{}", "a_test.rego": "package t\n"}))
    renamed = read_sources(write(tmp_path / "three", {"b.rego": RULE, "data.json": "{}"}))
    edited = read_sources(write(tmp_path / "four", {"a.rego": RULE, "data.json": '{"a": 1}'}))
    assert one.revision == same.revision
    assert len({one.revision, renamed.revision, edited.revision}) == 3


def test_sources_survive_the_pipe(tmp_path: Path) -> None:
    sources = read_sources(write(tmp_path, {"a.rego": RULE + "# é\n", "x/data.json": '{"é": [1, null, 0.5]}'}))
    text = sources.to_json()
    assert "\n" not in text
    assert PolicySources.from_json(text) == sources
    assert PolicySources.from_json(text.encode()) == sources


def test_a_configmap_is_read_once_through_its_links(tmp_path: Path) -> None:
    write(tmp_path, {"..2026_11/decision.rego": RULE, "..2026_11/data.json": '{"a": 1}'})
    (tmp_path / "..data").symlink_to("..2026_11")
    (tmp_path / "decision.rego").symlink_to("..data/decision.rego")
    (tmp_path / "data.json").symlink_to("..data/data.json")
    sources = read_sources(tmp_path)
    assert list(sources.files) == ["decision.rego"]
    assert sources.data == {"a": 1}


def test_folders_that_are_linked_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path, {"a/a.rego": RULE})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert list(read_sources(tmp_path).files) == ["a/a.rego"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "nowhere") == [("policies_missing", "nowhere", None)]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"README.md": "", "only_test.rego": RULE})
    assert faults_of(tmp_path) == [("policies_empty", tmp_path.name, None)]


def test_all_faults_come_in_one_go(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "latin.rego": b"package a\n# caf\xe9\n",
            "j/data.json": '{"a": 1,\n "a": }',
            "y/data.yaml": "a: 1\nb: [\n",
            "list/data.json": "[1]",
        },
    )
    assert faults_of(tmp_path) == [
        ("policy_encoding", "latin.rego", 2),
        ("policy_data_invalid", "data.json", 2),
        ("policy_data_invalid", "data.json", 1),
        ("policy_data_invalid", "data.yaml", 3),
    ]


def test_data_that_two_files_give_is_a_conflict(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": RULE, "data.json": '{"x": {"y": 1}}', "x/data.yaml": "y: 2\n"})
    with pytest.raises(InvalidInput, match=r"another data file gives data\.x\.y") as caught:
        read_sources(tmp_path)
    assert caught.value.code == "policy_data_conflict"


def test_data_below_a_value_is_a_conflict(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": RULE, "data.json": '{"x": 1}', "x/y/data.json": '{"z": 2}'})
    assert faults_of(tmp_path) == [("policy_data_conflict", "data.json", None)]


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": RULE, "data.json": '{"a": "' + "x" * policies.MAX_FILE_BYTES + '"}'})
    assert faults_of(tmp_path) == [("policies_too_large", "data.json", None)]


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "MAX_FILES", 3)
    write(tmp_path, {f"{n}.rego": RULE for n in range(5)})
    assert faults_of(tmp_path) == [("policies_too_large", tmp_path.name, None)]


def test_too_much_in_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "MAX_TOTAL_BYTES", 3 * len(RULE))
    write(tmp_path, {f"{n}.rego": RULE for n in range(5)})
    assert faults_of(tmp_path) == [("policies_too_large", tmp_path.name, None)]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": RULE})
    (tmp_path / "gone.rego").symlink_to("nowhere")
    assert faults_of(tmp_path) == [("policy_unreadable", "gone.rego", None)]


@pytest.mark.parametrize(
    ("suffix", "text", "message", "line"),
    [
        (".json", '{"a": 1, "a": 2}', "'a' comes twice", None),
        (".json", '{"a": NaN}', "not JSON compliant", None),
        (".json", '{"a": "\\ud800"}', "not text", None),
        (".json", "[" * 100_000, "nested too deeply", None),
        (".json", "", "not JSON", 1),
        (".yaml", "a: 1\na: 2\n", "'a' is already set on line 1", 2),
        (".yaml", "x: 0\n1.5: 2\n", "in quotes", 2),
        (".yaml", "a: [1]\nb: *x\n", "no anchor", 2),
        (".yaml", f"a: &x {'y' * 50_000}\nb: [{'*x,' * 100}]\n", "aliases repeat", 2),
        (".yaml", "a: .nan\n", "a number that JSON has", 1),
        (".yaml", "a: !!python/object:os.system {}\n", "is not read", 1),
        (".yaml", "a: !!binary aGk=\n", "is not read", 1),
        (".yaml", "a: !!timestamp 1\n", "is not read", 1),
        (".yaml", "a: 1\nb: !!bool 3\n", "this is no bool", 2),
        (".yaml", "a: !!int ''\n", "this is no int", 1),
        (".yaml", "a: \x00", "control characters", 1),
        (".yaml", "", "one object", 1),
        (".yml", "- 1\n", "one object: give", 1),
    ],
)
def test_data_that_json_has_no_word_for_is_refused(suffix: str, text: str, message: str, line: int | None) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_data(text, suffix)
    assert caught.value.line == line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_what_is_json_is_read_as_it_is(document: dict[str, object]) -> None:
    assert parse_data(json.dumps(document, ensure_ascii=False), ".json") == document


@given(st.text(max_size=40), st.sampled_from([".json", ".yaml"]))
def test_garbage_is_refused_and_nothing_worse(text: str, suffix: str) -> None:
    with contextlib.suppress(DataError):
        assert isinstance(parse_data(text, suffix), dict)


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.rego").write_text("package a")
    scandir = os.scandir

    def closed(place: str) -> Any:
        if str(place).endswith("sub"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", closed)
    assert faults_of(tmp_path) == [("policy_unreadable", "sub", None)]
