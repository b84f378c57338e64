"""Tests keep things in real stores."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.dropout import alive, children_of
from tests.systems.etcd import Etcd
from tests.systems.postgres import Database, Postgres
from tests.systems.resp import Redis

ADVANCE = "UPDATE rollouts SET revision = revision + 1 WHERE name = 'fraud' AND revision = 1 RETURNING revision"


def test_postgres_swaps_a_row_once_for_whom_its_revision_is_known(database: Database) -> None:
    database.sql("CREATE TABLE rollouts (name text PRIMARY KEY, revision bigint, note text)")
    database.sql("INSERT INTO rollouts VALUES ('fraud', 1, NULL)")
    assert database.sql(ADVANCE) == [("2",)]
    assert database.sql(ADVANCE) == []
    assert database.sql("SELECT * FROM rollouts") == [("fraud", "2", "")]


def test_a_database_of_postgres_is_empty_and_says_what_it_refuses(database: Database) -> None:
    with pytest.raises(AssertionError, match='relation "rollouts" does not exist'):
        database.sql("SELECT * FROM rollouts")


def test_postgres_comes_back_with_what_it_had(start: Callable[[Postgres], Postgres]) -> None:
    server = start(Postgres())
    database = server.new_database()
    database.sql("CREATE TABLE kept AS SELECT 7 AS value")
    processes = [server.pid, *children_of(server.pid)]
    server.stop()
    assert len(processes) > 3
    assert [pid for pid in processes if alive(pid)] == []
    with pytest.raises(AssertionError, match="Connection refused"):
        database.sql("SELECT value FROM kept")
    server.start()
    assert database.sql("SELECT value FROM kept") == [("7",)]


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_a_hash_is_kept_by_redis_and_by_valkey(name: str, request: pytest.FixtureRequest) -> None:
    server: Redis = request.getfixturevalue(name)
    assert server.call("KEYS", "*") == []
    assert server.call("HSET", "user:1", "risk", "0.4", "name", "Zoë") == 2
    assert server.call("HGET", "user:1", "name") == "Zoë"
    assert server.call("HGET", "user:2", "name") is None
    assert server.call("HMGET", "user:1", "risk", "age") == ["0.4", None]
    with pytest.raises(AssertionError, match="wrong number of arguments"):
        server.call("HGET")


def test_etcd_tells_a_watcher_of_every_write(etcd: Etcd) -> None:
    assert etcd.get("rollouts/fraud") is None
    with etcd.watch("rollouts/fraud") as events:
        first = etcd.put("rollouts/fraud", "10")
        assert etcd.put("rollouts/fraud", "20") == first + 1
        assert etcd.get("rollouts/fraud") == "20"
        etcd.clear()
        assert [next(events) for _ in range(3)] == [("PUT", "10"), ("PUT", "20"), ("DELETE", "")]
