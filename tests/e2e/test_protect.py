"""The protect loop on a real Envoy: versions that fail are taken away, with nothing but Envoy, workers and observer."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import grpc
import pytest

from tests.e2e.environment import KEY, PATH, Environment
from tests.support.envoy import wait_until
from tests.support.load import Load, under_load
from tests.support.process import PATIENCE

pytestmark = pytest.mark.e2e

RATE = 100.0
IMPATIENCE = 0.3
"""Seconds after which a client leaves."""
HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
STABLE, CANARY = "fraud-detector-v3", "fraud-detector-v4"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
TALKATIVE = {"access_log_options": {"access_log_flush_interval": "0.1s", "flush_access_log_on_new_request": True}}
"""An Envoy that logs of each request when it begins, and then again and again until it ends."""


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    """Half of the users get version 4, and the observer sees what becomes of them."""
    options: dict[str, Any] = getattr(request, "param", {})
    environment = Environment(spec={"breaker": BREAKER}, observed=True, **options)
    try:
        environment.start().set_weight(50)
        wait_until(lambda: environment.dropout.snapshot()["observer"]["state"] == "serving", "an observer")
        yield environment
    finally:
        environment.stop()


def observer_pid(environment: Environment) -> int:
    """The process of the observer; 0 between two lives."""
    return int(environment.dropout.snapshot()["observer"]["pid"] or 0)


def tripped(environment: Environment) -> list[str]:
    """The versions that this host's observer took away."""
    return [trip["version"] for trip in environment.dropout.snapshot()["observer"]["trips"]]


def in_force(environment: Environment) -> bool:
    """Whether everybody gets stable, which whoever is not decided about gets, too."""
    answers = [environment.ask(x_user_id=f"user-{number}") for number in range(60)]
    return all(answer.upstream == STABLE for answer in answers)


def taken_away(environment: Environment, load: Load) -> float:
    """Wait until version 4 was tripped, which is in force in every worker; since when (monotonic seconds)."""
    wait_until(lambda: tripped(environment) == ["4"], "a trip")
    wait_until(lambda: in_force(environment), "a trip in force")
    since, seen = time.monotonic(), environment.upstreams.seen[CANARY]
    load.go_on(100)
    assert environment.upstreams.seen[CANARY] == seen
    return since


def entries_written(environment: Environment) -> int:
    """What Envoy has told the observer so far, of requests that go on, too."""
    assert environment.envoy is not None
    return environment.envoy.stat("access_logs.grpc_access_log.logs_written")


def websocket(environment: Environment, user: str) -> socket.socket:
    """A WebSocket as Envoy sees one, open."""
    connection = socket.create_connection(("127.0.0.1", environment.port), 10)
    connection.sendall(
        f"GET {PATH} HTTP/1.1\r\nhost: models\r\nx-user-id: {user}\r\n"
        "connection: upgrade\r\nupgrade: websocket\r\n\r\n".encode()
    )
    assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    return connection


def successes(environment: Environment) -> float:
    """How many requests the canary has answered, by what the observer saw."""
    return environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="success")


@contextmanager
def without_store(environment: Environment, how: str) -> Iterator[None]:
    """The store is deleted, or nobody else can write to it."""
    file = environment.folder / "dropout.db"
    if how == "deleted":
        for part in environment.folder.glob("dropout.db*"):
            if part.is_file() and not part.name.endswith((".ids", ".key")):
                part.unlink()
        yield
        return
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize(
    ("environment", "store"),
    [({"transport": "grpc"}, "deleted"), ({"transport": "http"}, "locked")],
    indirect=["environment"],
)
def test_a_canary_that_answers_500_is_out_of_all_workers_without_store_and_controller(
    environment: Environment, store: str
) -> None:
    with under_load(environment.port, rate=RATE) as load:
        load.go_on(200)
        assert load.failed() == []
        with without_store(environment, store):
            environment.upstreams.broken.add(CANARY)
            gone = taken_away(environment, load)
    assert load.failed(after=gone) == []
    assert environment.dropout.metric("dropout_trips_total", rollout=KEY, version="4") == 1
    assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="failure") >= 10


@pytest.mark.parametrize("environment", [{"DROPOUT_OUTCOME_LIMIT": "1", "manager": TALKATIVE}], indirect=True)
def test_a_canary_that_hangs_is_taken_away_whatever_is_logged_before_requests_end(environment: Environment) -> None:
    with under_load(environment.port, rate=RATE) as load:
        load.go_on(200)
        environment.upstreams.hanging.add(CANARY)
        wait_until(lambda: tripped(environment) == ["4"], "a trip")
        environment.upstreams.hanging.clear()
        taken_away(environment, load)
    assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="missing") >= 10
    served = sum(environment.upstreams.seen.values())
    ended = environment.dropout.metric("dropout_outcomes_total", rollout=KEY, outcome="success")
    assert ended <= served


def internal(request: bytes, context: grpc.ServicerContext) -> bytes:
    """No answer, and a status among the headers."""
    context.abort(grpc.StatusCode.INTERNAL, "the model is broken")
    raise AssertionError("unreachable: an abort raises")


def internal_after_an_answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """An answer, and then a status in trailers."""
    yield b"half"
    internal(request, context)


@contextmanager
def grpc_version(handler: grpc.RpcMethodHandler[bytes, bytes]) -> Iterator[int]:
    """A version that speaks gRPC, on a port."""
    server = grpc.server(ThreadPoolExecutor(4))
    namespace, method = PATH.strip("/").rsplit("/", 1)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(namespace, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    "handler",
    [
        grpc.unary_unary_rpc_method_handler(internal),
        grpc.unary_stream_rpc_method_handler(internal_after_an_answer),
    ],
    ids=["headers", "trailers"],
)
def test_a_canary_whose_grpc_calls_fail_with_status_200_is_taken_away(
    handler: grpc.RpcMethodHandler[bytes, bytes],
) -> None:
    environment = Environment(spec={"breaker": BREAKER}, observed=True)

    def speak_grpc(config: dict[str, Any]) -> None:
        (cluster,) = (one for one in config["static_resources"]["clusters"] if one["name"] == CANARY)
        options = {"@type": HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
        cluster["typed_extension_protocol_options"] = {HTTP_OPTIONS.rpartition("/")[2]: options}

    with grpc_version(handler) as port, ExitStack() as stack:
        stack.callback(environment.stop)
        environment.upstreams.start()
        environment.upstreams.ports[CANARY] = port
        environment.dropout.start()
        environment.envoy = environment.new_envoy(environment.folder, speak_grpc)
        environment.set_weight(50)
        wait_until(lambda: environment.dropout.snapshot()["observer"]["state"] == "serving", "an observer")
        with grpc.insecure_channel(f"127.0.0.1:{environment.port}") as channel:
            call = channel.unary_stream(PATH)
            for number in range(120):
                with suppress(grpc.RpcError):
                    list(call(b"", metadata=[("x-user-id", f"user-{number}")], timeout=PATIENCE))
        wait_until(lambda: tripped(environment) == ["4"], "a trip")
        assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="success") == 0
        assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="3", outcome="failure") == 0


def test_a_canary_that_hangs_is_taken_away_as_soon_as_its_clients_leave(environment: Environment) -> None:
    with under_load(environment.port, rate=RATE, patience=IMPATIENCE) as load:
        load.go_on(200)
        environment.upstreams.hanging.add(CANARY)
        wait_until(lambda: tripped(environment) == ["4"], "a trip")
        environment.upstreams.hanging.clear()
    assert (
        environment.dropout.metric("dropout_outcomes_total", rollout=KEY, outcome="missing") == 0
    )  # nobody waited for them
    assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="abandoned") >= 10


@pytest.mark.parametrize(
    "environment",
    [
        {
            "DROPOUT_OUTCOME_LIMIT": "1",
            "manager": {**TALKATIVE, "upgrade_configs": [{"upgrade_type": "websocket"}]},
        }
    ],
    indirect=True,
)
def test_a_canary_whose_streams_and_answers_go_on_is_not_taken_away(environment: Environment) -> None:
    with ExitStack() as stack:
        environment.upstreams.failing.add(STABLE)  # it accepts streams and ends them at once
        for number in range(80):
            stack.enter_context(closing(websocket(environment, f"user-{number}")))
        wanted = (
            entries_written(environment) + 1600
        )  # of 80 streams, each ten times a second: for twice what they may take
        wait_until(lambda: entries_written(environment) >= wanted, "word of streams that go on")
        assert tripped(environment) == []
    environment.upstreams.failing.clear()
    with under_load(environment.port, rate=RATE / 2) as load:
        environment.upstreams.dribbling.add(CANARY)
        load.go_on(100)  # by stable, whose users are half of them
        assert tripped(environment) == []
        environment.upstreams.dribbling.clear()
    assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, outcome="missing") == 0
    wait_until(lambda: successes(environment) == environment.upstreams.seen[CANARY] > 80, "an end of each request")


def test_what_stable_answers_in_a_retry_is_the_canarys_failure_and_nobodys_error(environment: Environment) -> None:
    with under_load(environment.port, rate=RATE) as load:
        load.go_on(100)
        environment.upstreams.failing.add(CANARY)
        wait_until(lambda: tripped(environment) == ["4"], "a trip")
    assert load.failed() == []
    assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="fallback") >= 10
    assert environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version="3", outcome="fallback") == 0


def test_an_outage_of_both_versions_takes_nobody_away(environment: Environment) -> None:
    with under_load(environment.port, rate=RATE, patience=IMPATIENCE) as load:
        load.go_on(100)
        environment.upstreams.broken |= {STABLE, CANARY}
        load.go_on(300)
        environment.upstreams.hanging |= {STABLE, CANARY}
        load.go_on(300)
        seen = environment.upstreams.seen[CANARY]
        load.go_on(100)
        assert environment.upstreams.seen[CANARY] > seen
        environment.upstreams.hanging.clear()
    for version in ("3", "4"):
        for outcome in ("failure", "abandoned"):
            assert (
                environment.dropout.metric("dropout_outcomes_total", rollout=KEY, version=version, outcome=outcome) > 50
            )
    assert tripped(environment) == []


def test_trips_hold_when_observer_and_workers_are_killed(environment: Environment) -> None:
    with without_store(environment, "locked"), under_load(environment.port, rate=RATE):
        environment.upstreams.broken.add(CANARY)
        wait_until(lambda: tripped(environment) == ["4"], "a trip")
        before = [observer_pid(environment), *environment.dropout.worker_pids()]
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: serving_anew(environment, before), "an observer and workers that serve")
        assert tripped(environment) == ["4"]
        assert in_force(environment)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_an_observer_that_ends_or_hangs_costs_no_request_anything(
    environment: Environment, signum: signal.Signals
) -> None:
    with under_load(environment.port, rate=2 * RATE) as load:
        load.go_on(200)
        before = observer_pid(environment)
        os.kill(before, signum)
        wait_until(lambda: observer_pid(environment) not in (0, before), "another observer")
        wait_until(lambda: environment.dropout.metric("dropout_observer_up") == 1, "an observer that serves")
        entries = environment.dropout.metric("dropout_observer_entries_total")
        wait_until(lambda: environment.dropout.metric("dropout_observer_entries_total") > entries, "entries")
    assert load.failed() == []
    assert environment.failed_open() == 0
    assert tripped(environment) == []


def serving_anew(environment: Environment, before: list[int]) -> bool:
    """Whether an observer and both workers serve that are none of the processes ``before``."""
    page = environment.dropout.snapshot()
    lives = [page["observer"], *page["workers"]]
    return all(one["state"] == "serving" and one["pid"] not in before for one in lives)
