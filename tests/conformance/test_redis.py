"""Features from a real Redis, beyond the contract: one that is restarted, that refuses us, or that holds garbage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from extproc.clock import SystemClock
from extproc.datapath.features import FeatureReader
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow, FeatureStore
from extproc.errors import DropoutError, InvalidInput
from extproc.plugins import FEATURES, open_adapter
from extproc.snapshot.model import FeatureNeed, FeatureView, JoinKey, UnitSource
from tests.systems.resp import Redis, Valkey

VIEW = FeatureView("user_risk", ("risk", "country"))
KEY = FeatureKey(VIEW, ("u-1",))
NEED = FeatureNeed((JoinKey(UnitSource(header="x-user-id")),), VIEW, None, 20.0, missing_is_stable=True)


def opened(url: str) -> FeatureStore:
    return open_adapter(FEATURES, url, "--features")


async def ask(store: FeatureStore, keys: Sequence[FeatureKey] = (KEY,)) -> list[FeatureAnswer]:
    return [answer async for answer in store.read(keys)]


def code(fault: Exception | None) -> str:
    assert isinstance(fault, DropoutError), fault
    return fault.code


def reads(redis: Redis) -> int:
    """How often the server has read from a socket."""
    lines = redis.call("INFO", "stats").split("\r\n")
    return int(dict(line.split(":") for line in lines if ":" in line)["total_reads_processed"])


async def test_forty_users_who_come_at_once_are_one_round_trip(redis: Redis) -> None:
    for number in range(40):
        redis.call("HSET", f"user_risk:u-{number}", "risk", "0.5", "country", "DE")
    reader = FeatureReader(opened(redis.url), SystemClock())
    await reader.fetch(NEED, ("nobody",))
    before, asked_myself = reads(redis), 2  # the end of the connection that asked, and the next question
    found = await asyncio.gather(*(reader.fetch(NEED, (f"u-{number}",)) for number in range(40)))
    assert reads(redis) - before - asked_myself == 1
    assert {features.fault for features in found} == {None}
    assert found[7].values["country"].value == "DE"
    await reader.close()


async def test_what_is_no_json_is_text_and_an_age_that_nobody_wrote_is_unknown(valkey: Valkey) -> None:
    valkey.call("HSET", "user_risk:u-1", "risk", "high", "country", '"07"')
    store = opened(valkey.url)
    (answer,) = await ask(store)
    assert answer.rows == {"risk": FeatureRow("high", None), "country": FeatureRow("07", None)}
    await store.close()


async def test_garbage_is_the_fault_of_its_own_key_alone(redis: Redis) -> None:
    redis.call("SET", "user_risk:no-hash", "x")
    redis.call("HSET", "user_risk:no-time", "risk", "1", "event_time", "yesterday")
    redis.call("HSET", "user_risk:u-1", "risk", "1")
    store = opened(redis.url)
    broken, untimed, sound = await ask(store, [FeatureKey(VIEW, (name,)) for name in ("no-hash", "no-time", "u-1")])
    assert (code(broken.fault), code(untimed.fault)) == ("feature_type", "feature_type")
    assert sound.rows == {"risk": FeatureRow(1, None)}
    await store.close()


async def test_a_server_that_was_restarted_is_asked_again(
    start: Callable[[AbstractContextManager[Redis]], Redis],
) -> None:
    redis = start(Redis())
    store = opened(redis.url)
    for answers in await asyncio.gather(ask(store), ask(store)):  # each over a connection of its own
        assert [answer.rows for answer in answers] == [{}]
    redis.stop()
    with pytest.raises(DropoutError) as refused:
        await ask(store)
    assert refused.value.code == "features_unreachable"
    redis.start()
    for _ in range(3):
        assert [answer.rows for answer in await ask(store)] == [{}]
    await store.close()


async def test_a_server_that_wants_a_password_gets_the_one_of_the_file(
    start: Callable[[AbstractContextManager[Redis]], Redis], tmp_path: Path
) -> None:
    redis = start(Redis())
    redis.call("ACL", "SETUSER", "router", "on", ">geheim", "~*", "+hmget")
    (tmp_path / "password").write_text("geheim\n")
    known = opened(f"redis://router@127.0.0.1:{redis.port}/0?password-file={tmp_path}/password")
    assert [answer.rows for answer in await ask(known)] == [{}]
    await known.close()
    (tmp_path / "password").write_text("falsch")
    stranger = opened(f"redis://router@127.0.0.1:{redis.port}?password-file={tmp_path}/password")
    with pytest.raises(DropoutError) as refused:
        await ask(stranger)
    assert refused.value.code == "features_refused"
    assert "geheim" not in str(refused.value)
    await stranger.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:geheim@127.0.0.1", "secret_in_url"),
        ("redis://127.0.0.1/first", "url_invalid"),
        ("redis:///0", "url_invalid"),
        ("redis://127.0.0.1?passwordfile=x", "url_parameter"),
        ("redis://127.0.0.1?password-file=/nowhere/at/all", "file_unreadable"),
        ("rediss://127.0.0.1?ca=/nowhere/at/all", "file_unreadable"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_before_anybody_is_asked(url: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        opened(url)
    assert refused.value.code == expected
