"""The small parts of the server: messages, back-off, settings, the watch on policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import InvalidInput
from extproc.serve.children import Backoff
from extproc.serve.messages import Channel
from extproc.serve.policy_watch import FolderWatch, answer_trial
from extproc.settings import Settings, described, read_settings

MESSAGES = st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none()), max_size=5)


@given(MESSAGES, st.data())
def test_messages_arrive_whole_however_they_are_cut(messages: list[dict[str, Any]], data: st.DataObject) -> None:
    stream = b"".join(orjson.dumps(message) + b"\n" for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received: list[dict[str, Any]] = []
    channel = Channel(received.append, lambda: None)
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        channel.data_received(stream[begin:end])
    assert received == messages


def test_a_message_to_nobody_is_not_sent() -> None:
    channel = Channel(lambda message: None, lambda: None)
    assert channel.send("drain") is False


def test_the_first_replacement_is_immediate_and_the_next_come_later_and_later() -> None:
    backoff = Backoff(first=0.1, most=1.0, healthy=10)
    assert [backoff.after(0) for _ in range(6)] == [0, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert backoff.after(60) == 0
    assert backoff.after(0) == 0.1


def test_every_setting_has_a_variable_a_default_and_a_meaning() -> None:
    table = described()
    assert len(table) == len(fields(Settings))
    assert all(row.name.startswith("DROPOUT_") and row.meaning for row in table)
    assert {row.name: row.default for row in table}["DROPOUT_DRAIN_TIMEOUT"] == "10"


def test_settings_come_from_the_environment() -> None:
    read = read_settings({"DROPOUT_DRAIN_TIMEOUT": "2.5", "DROPOUT_STORE": "sqlite:x", "DROPOUT_OTHER": "?"})
    assert (read.drain_timeout, read.store, read.hang_limit) == (2.5, "sqlite:x", Settings().hang_limit)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", ""])
def test_settings_that_are_no_numbers_are_all_named(value: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read_settings({"DROPOUT_HANG_LIMIT": value, "DROPOUT_FEATURE_CACHE_ENTRIES": "many"})
    assert [(fault.code, fault.field) for fault in error.value.faults] == [
        ("setting_invalid", "DROPOUT_FEATURE_CACHE_ENTRIES"),
        ("setting_invalid", "DROPOUT_HANG_LIMIT"),
    ]


def test_an_edit_is_taken_once_it_rests(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    watch = FolderWatch(tmp_path)
    assert watch.changed() is False
    (tmp_path / "sub" / "a.rego").write_text("package a")
    assert [watch.changed() for _ in range(3)] == [False, True, False]
    (tmp_path / "sub" / "a.rego").write_text("package a1")
    assert watch.changed() is False
    (tmp_path / "sub" / "a.rego").write_text("package a12")
    assert [watch.changed() for _ in range(3)] == [False, True, False]
    (tmp_path / "sub" / "a.rego").unlink()
    assert [watch.changed() for _ in range(3)] == [False, True, False]


def trial(inputs: dict[str, Any], faulty: bool = False) -> Sequence[dict[str, Any]]:
    said: list[bytes] = []

    def load(sources: str) -> Any:
        if faulty:
            raise InvalidInput.of("policy_syntax", "No.", file=sources, line=3)
        return lambda path, document: None

    answer_trial(orjson.dumps({"sources": "a.rego", "inputs": inputs}), load, said.append)
    return [orjson.loads(line) for line in said]


def test_a_trial_says_what_it_evaluates_before_it_does() -> None:
    assert trial({"a/b": {}, "c/d": {}}) == [{"evaluating": "a/b"}, {"evaluating": "c/d"}, {"faults": []}]


def test_a_trial_says_why_the_policies_are_refused() -> None:
    (answer,) = trial({"a/b": {}}, faulty=True)
    assert answer["faults"][0]["code"] == "policy_syntax"
    assert (answer["faults"][0]["file"], answer["faults"][0]["line"]) == ("a.rego", 3)
