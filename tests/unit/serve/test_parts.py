"""The small parts of the server: back-off, settings, the watch on policies."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.serve.supervisor.children import Backoff, spawn
from extproc.serve.supervisor.policy_trial import Evaluating, Sources, Trial, TrialRequest, Tried, answer_trial
from extproc.settings import Settings, described, read_settings, settings
from extproc.store.records import LONGEST_LEASE_SECONDS


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


def test_a_command_does_not_keep_the_settings_of_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for store in ("sqlite:one.db", "sqlite:other.db"):
        monkeypatch.setenv("DROPOUT_STORE", store)
        assert settings().store == store


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", ""])
def test_settings_that_are_no_numbers_are_all_named(value: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read_settings({"DROPOUT_HANG_LIMIT": value, "DROPOUT_FEATURE_CACHE_BYTES": "many"})
    assert [(fault.code, fault.field) for fault in error.value.faults] == [
        ("setting_invalid", "DROPOUT_FEATURE_CACHE_BYTES"),
        ("setting_invalid", "DROPOUT_HANG_LIMIT"),
    ]


@pytest.mark.parametrize(("name", "most"), [("DROPOUT_LABEL_RETENTION", 365), ("DROPOUT_LEASE", 300)])
def test_settings_that_are_too_large_are_refused(name: str, most: int) -> None:
    assert read_settings({name: str(most)})
    with pytest.raises(InvalidInput, match=f"{most} at most") as error:
        read_settings({name: f"{most}.5"})
    assert (error.value.code, error.value.faults[0].field) == ("setting_invalid", name)


@pytest.mark.parametrize("name", ["DROPOUT_POLICY_POLL", "DROPOUT_ROLLOUTS_POLL"])
def test_a_folder_is_not_looked_at_all_the_time(name: str) -> None:
    assert read_settings({name: "0.01"})
    with pytest.raises(InvalidInput, match=r"a number from 0\.01 on") as error:
        read_settings({name: "0"})
    assert (error.value.code, error.value.faults[0].field) == ("setting_invalid", name)


def test_a_lease_may_be_as_long_as_the_store_knows_them() -> None:
    assert read_settings({"DROPOUT_LEASE": f"{LONGEST_LEASE_SECONDS:g}"}).lease == LONGEST_LEASE_SECONDS


class _Tried:
    def evaluate(self, path: str, document: Any) -> None:
        pass

    def place(self, path: str) -> tuple[str, int]:
        return f"{path}.rego", 3


def trial(inputs: dict[str, Any], faulty: bool = False) -> Sequence[Evaluating | Tried]:
    said: list[bytes] = []

    def load(sources: str) -> Any:
        if faulty:
            raise InvalidInput.of("policy_syntax", "No.", file=sources, line=3)
        return _Tried()

    answer_trial(msgspec.json.encode(TrialRequest("a.rego", inputs)), load, said.append)
    return [msgspec.json.decode(line, type=Evaluating | Tried) for line in said]


def test_a_trial_says_what_it_evaluates_before_it_does() -> None:
    assert trial({"a/b": {}, "c/d": {}}) == [
        Evaluating("a/b", "a/b.rego", 3),
        Evaluating("c/d", "c/d.rego", 3),
        Tried([]),
    ]


def test_a_trial_says_why_the_policies_are_refused() -> None:
    assert trial({"a/b": {}}, faulty=True) == [Tried([Fault("policy_syntax", "No.", "a.rego", 3)])]


def test_a_trial_that_says_more_than_anybody_reads_is_refused() -> None:
    endless = (sys.executable, "-c", "import os\nwhile True: os.write(1, b'a' * 65536)")
    (fault,) = asyncio.run(Trial(endless, 10.0).run(Sources("r", "{}"), {}))
    assert fault.code == "policy_too_complex"


def test_policies_that_there_is_no_process_to_try_in_are_not_blamed() -> None:
    with pytest.raises(Unreachable) as error:
        asyncio.run(Trial(("/nowhere",), 10.0).run(Sources("r", "{}"), {}))
    assert error.value.code == "policy_trial_failed"


def test_a_worker_that_cannot_be_started_leaves_nothing_open() -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = descriptors()
    with pytest.raises(OSError, match="nowhere"):
        spawn(0, ["/nowhere"])
    assert descriptors() == before
