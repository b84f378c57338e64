"""The small parts of the server: messages, back-off, settings, the watch on policies."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import InvalidInput, Unreachable
from extproc.serve import admin
from extproc.serve.children import Backoff, spawn
from extproc.serve.endpoints import TcpEndpoint
from extproc.serve.messages import Channel, written_between
from extproc.serve.policy_trial import Sources, Trial, answer_trial
from extproc.settings import Settings, described, read_settings, settings
from extproc.snapshot.store import LONGEST_LEASE_SECONDS

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


def test_a_message_that_cannot_be_taken_costs_no_other_one() -> None:
    received: list[int] = []
    channel = Channel(lambda message: received.append(10 // message["n"]), lambda: None)
    channel.data_received(b'{"n": 5}\n{"n": 0}\n{"n": 2}\n')
    assert received == [2, 5]


def test_a_message_to_nobody_is_not_sent() -> None:
    channel = Channel(lambda message: None, lambda: None)
    assert channel.send("drain") is False


@pytest.mark.parametrize("count", [0, 1, 100, 10_001])
async def test_a_long_list_is_written_while_the_loop_goes_on(count: int) -> None:
    at: list[int] = []

    def goes_on() -> None:
        at.append(written)
        asyncio.get_running_loop().call_soon(goes_on)

    written = 0

    def items() -> Iterator[dict[str, int]]:
        nonlocal written
        for written in range(count):  # seen by the loop
            yield {"number": written}

    asyncio.get_running_loop().call_soon(goes_on)
    whole = await written_between(items())
    assert orjson.loads(orjson.dumps({"items": whole})) == {"items": [{"number": n} for n in range(count)]}
    assert all(after - before <= 100 for before, after in pairwise([0, *at, count]))


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


def test_a_page_that_a_client_does_not_take_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.1)

    async def page() -> admin.Page:
        return admin.Page(200, b"x" * 20_000_000)

    async def client_that_does_not_read() -> int:
        server = admin.AdminServer({"/page": page})
        await server.start(TcpEndpoint("127.0.0.1", 0))
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as client:
            client.sendall(b"GET /page HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.5)
            left = len(os.listdir("/proc/self/fd")) - before - 1  # noqa: PTH208
        server.close()
        return left

    assert asyncio.run(client_that_does_not_read()) == 0
