"""The observer behind ``dropout serve``, over its real socket: private, bounded, deaf to nonsense, never in the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Queue
from threading import Event

import grpc
import pytest
from click.testing import CliRunner

from extproc._gen.envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from extproc.adapters.sqlite.observations import ObservationsReader
from extproc.adapters.stores import open_store
from extproc.assignment import bucket_of
from extproc.cli.main import cli
from extproc.clock import SystemClock
from extproc.control.analysis import measuring
from extproc.control.analysis.ports import Subject
from extproc.control.analysis.runs import Measured, Outcome
from extproc.protect.access_log import METHOD, SERVICE
from extproc.state import StateFolder
from tests.support.certificates import identity
from tests.support.dropout import PROCESS, DropoutServer, request_of, wait_for
from tests.support.envoy import free_port
from tests.support.templates import metric, metric_of, template

KEY = "payments/fraud-detector"
STREAM = f"/{SERVICE}/{METHOD}"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}


@pytest.fixture
def server() -> Iterator[DropoutServer]:
    server = DropoutServer(workers=2)
    server.options = ("--access-log-listen", f"unix:{server.sockets}/observer.sock")
    server.write_rollout(breaker=BREAKER)
    with server:
        wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")
        yield server


def send(server: DropoutServer, messages: Iterable[bytes]) -> None:
    """One stream of the access log, to its end."""
    with grpc.insecure_channel(f"unix:{server.sockets}/observer.sock") as channel:
        channel.stream_unary(STREAM)(iter(messages), timeout=60)


def batch(decided: Iterable[dict[str, str]], status: int = 200) -> bytes:
    """What Envoy logs of requests that were decided so."""
    message = StreamAccessLogsMessage()
    for headers in decided:
        entry = message.http_logs.log_entry.add()
        for name in ("x-decision-id", "x-model-rollout", "x-model-version", "x-model-arm"):
            entry.request.request_headers[name] = headers[name]
        entry.common_properties.upstream_cluster = headers["x-model-cluster"]
        entry.common_properties.route_name = f"{headers['x-model-rollout']}@{headers['x-model-version']}"
        entry.common_properties.upstream_request_attempt_count = 1
        entry.response.response_code.value = status
    return message.SerializeToString()


def decide(server: DropoutServer, times: int = 24) -> dict[str, list[dict[str, str]]]:
    """The headers of so many requests by users of their own, by version, of both workers."""
    found: dict[str, list[dict[str, str]]] = {"3": [], "4": []}
    for number in range(times):
        headers = server.ask({"x-user-id": f"user-{number}"}, worker=number % 2)
        found[headers["x-model-version"]].append(headers)
    return found


def half(server: DropoutServer) -> dict[str, list[dict[str, str]]]:
    """Half of the users get version 4."""
    CliRunner().invoke(cli, ["rollout", "set-weight", KEY, "50", "--store", server.store])
    wait_for(lambda: decide(server, 8)["4"], "a weight")
    return decide(server, 60)


def trips(server: DropoutServer) -> list[str]:
    return [trip["version"] for trip in server.snapshot()["observer"]["trips"]]


def observations(server: DropoutServer) -> ObservationsReader:
    """What the observer wrote down."""
    return ObservationsReader(StateFolder.of(server.store, None).observed, SystemClock())


def test_the_socket_is_its_owners_alone_and_goes_with_the_server(server: DropoutServer) -> None:
    socket = server.sockets / "observer.sock"
    assert socket.stat().st_mode & 0o777 == 0o600
    assert server.sockets.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert list(server.sockets.iterdir()) == []


def test_a_log_that_is_cut_under_an_analysis_makes_it_inconclusive(
    server: DropoutServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "STALE_SECONDS", 3.0)
    decided = [headers for some in (half(server), decide(server, 300)) for headers in (*some["3"], *some["4"])]
    epoch = open_store(server.store).epochs_of(*KEY.split("/"))[-1].id
    errors = metric_of(template(metric(provider={"observed": {"metric": "error_rate", "minRequests": 20}})))
    provider = measuring.ObservedMetrics(observations(server))

    def measured(*, after: int = 0) -> Measured:
        decide(server, after)
        now = time.time()
        reading = provider.measure(errors, Subject(KEY, epoch, now, "canary", "control"))
        return measuring.evaluate(errors, reading, now)

    with grpc.insecure_channel(f"unix:{server.sockets}/observer.sock") as channel:
        log: Queue[bytes | None] = Queue()
        call = channel.stream_unary(STREAM).future(iter(log.get, None))
        log.put(batch(decided))
        wait_for(lambda: measured().outcome is Outcome.SUCCESSFUL, "a measurement")
        call.cancel()
        log.put(None)
    wait_for(lambda: "nothing was heard of what was decided" in measured(after=1).message, "a silence")
    assert {measured(after=1).outcome for _ in range(20)} == {Outcome.INCONCLUSIVE}


def test_a_trip_reaches_all_workers_the_store_and_the_observations(server: DropoutServer) -> None:
    decided = half(server)
    send(server, [batch(decided["3"]), batch(decided["4"], 500)])
    wait_for(lambda: trips(server) == ["4"], "a trip")
    for worker in (0, 1):
        assert server.ask({"x-user-id": _canary_user(decided)}, worker=worker)["x-model-version"] == "3"
    wait_for(lambda: server.snapshot()["rollouts"][0]["tripped"] == ["4"], "a trip in the snapshot")
    with closing(sqlite3.connect(server.store.removeprefix("sqlite:"))) as store:
        wait_for(
            lambda: b'"tripped":["4"]' in store.execute("SELECT status FROM rollouts").fetchone()[0],
            "a trip in the store",
        )
    reader = observations(server)
    epoch = open_store(server.store).epochs_of(*KEY.split("/"))[-2].id  # the last one began with the trip
    wait_for(
        lambda: (found := reader.totals(KEY, epoch)) and sum(found.units.counts().values()) == 60,
        "the counts of both workers",
    )
    found = reader.totals(KEY, epoch)
    assert found is not None
    assert found.arms["canary"].failures == len(decided["4"])
    assert found.arms["control"].requests == len(decided["3"])
    assert found.arms["canary"].decided >= len(decided["4"])
    reader.close()


def _canary_user(decided: dict[str, list[dict[str, str]]]) -> str:
    """Somebody who drew the canary: the users of ``decide`` who did not get stable."""
    assert decided["4"]
    return next(f"user-{n}" for n in range(60) if bucket_of(b"fraud-2026-11", f"user-{n}".encode()) < 5000)


def test_an_end_that_is_told_again_counts_once_and_is_said_in_every_place(server: DropoutServer) -> None:
    decided = half(server)
    copied = decided["4"][0]
    send(server, [batch(decided["3"]), batch([copied])])
    series = f'dropout_observer_surplus_total{{rollout="{KEY}",version="4"}} 0.0'
    wait_for(lambda: series in server.get("/metrics")[1].decode(), "a series before there is a surplus")
    send(server, [batch([copied] * 60, 500)])
    wait_for(lambda: server.metric("dropout_observer_dropped_total", why="repeated") == 60, "what counts for nothing")
    assert server.metric("dropout_observer_surplus_total", rollout=KEY, version="4") == 60
    surplus = [{"rollout": KEY, "version": "4", "ends": 60}]
    wait_for(lambda: server.snapshot()["observer"]["surplus"] == surplus, "a word in /snapshot")
    assert trips(server) == []
    said = [line for line in server.log().splitlines() if "more ends of version 4 of" in line]
    assert len(said) == 1


def test_nonsense_on_the_socket_is_counted_and_the_next_batch_is_read(server: DropoutServer) -> None:
    decided = half(server)
    forged = [{**headers, "x-decision-id": "A" * 32} for headers in decided["4"]]
    send(server, [b"\xff\xff\xff", batch(forged, 500), batch(decided["3"][:5])])
    wait_for(lambda: server.metric("dropout_outcomes_total", version="3", outcome="success") == 5, "outcomes")
    assert server.metric("dropout_observer_dropped_total", why="malformed_message") == 1
    dropped = sum(server.metric("dropout_observer_dropped_total", why=why) for why in ("forged", "unknown_key"))
    assert dropped == len(forged)
    assert trips(server) == []


def test_a_message_that_is_too_large_ends_its_stream_and_no_other(server: DropoutServer) -> None:
    decided = half(server)
    with pytest.raises(grpc.RpcError) as error:
        send(server, [b"\x12" + b"\x00" * (5 * 1024 * 1024)])
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    send(server, [batch(decided["3"][:5])])
    wait_for(lambda: server.metric("dropout_outcomes_total", version="3", outcome="success") == 5, "outcomes")


def test_sigterm_to_all_processes_at_once_is_no_reason_for_another_observer(server: DropoutServer) -> None:
    observer, process, done = server.snapshot()["observer"]["pid"], server.process, Event()
    assert process is not None

    def one_that_takes_a_while() -> Iterator[bytes]:
        yield request_of({}).SerializeToString()
        done.wait(60)

    with grpc.insecure_channel(server.socket()) as channel:
        answers = channel.stream_stream(PROCESS)(one_that_takes_a_while(), timeout=60)
        next(answers)
        for pid in (process.pid, observer):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{observer}").exists(), "the observer's end")
        done.set()
        assert process.wait(60) == 0
    assert "the next starts" not in server.log()


def test_an_observer_that_cannot_have_its_place_holds_nobody_up(server: DropoutServer) -> None:
    (server.sockets / "observer.sock").unlink()
    (server.sockets / "observer.sock").mkdir()
    os.kill(server.snapshot()["observer"]["pid"], signal.SIGKILL)
    wait_for(lambda: server.metric("dropout_observer_replaced_total") >= 2, "tries to replace it")
    assert server.get("/readyz")[0] == 200
    assert decide(server)["3"]
    (server.sockets / "observer.sock").rmdir()
    wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")


def test_an_observer_whose_socket_was_taken_away_is_replaced(server: DropoutServer) -> None:
    before = server.snapshot()["observer"]["pid"]
    (server.sockets / "observer.sock").unlink()
    wait_for(lambda: server.snapshot()["observer"]["pid"] not in (None, before), "another observer")
    wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")
    decided = half(server)
    send(server, [batch(decided["3"][:5])])
    wait_for(lambda: server.metric("dropout_outcomes_total", outcome="success") == 5, "outcomes")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("unix:", "'unix:' needs the path of a socket"),
        ("nonsense", "is not HOST:PORT"),
        ("127.0.0.1:0 --insecure", "has no port"),
        ("0.0.0.0:9911", "--insecure"),
        ("unix:{run}/w-0.sock", "a worker listens on"),
        ("unix:{run}/" + "x" * 120, "longer than the 107 bytes"),
    ],
)
def test_an_address_that_cannot_be_is_refused_at_the_start(address: str, code: str) -> None:
    server = DropoutServer("--access-log-listen", "", workers=1)
    server.options = ("--access-log-listen", *address.replace("{run}", str(server.sockets)).split())
    server.write_rollout()
    try:
        status, said = server.refused()
        assert status == 2
        assert code in said
        assert "--access-log-listen" in said or "--insecure" in said
    finally:
        server.__exit__(None, None, None)


def test_a_port_serves_who_shows_a_token_over_tls_and_its_refusal_advises_what_is_missing(tmp_path: Path) -> None:
    authority, port = identity("authority"), free_port()
    identity("observer", authority).write(tmp_path)
    tls = ("--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key"))
    server = DropoutServer("--access-log-listen", f"127.0.0.1:{port}", *tls, workers=1)
    server.write_rollout(breaker=BREAKER)
    status, said = server.refused()
    assert (status, "(insecure_listen)" in said) == (2, True)
    assert "--access-log-tokens" in said
    assert "--tls-cert" not in said
    server.options += ("--access-log-tokens", str(tmp_path / "tokens"))
    with server:
        wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")
        token = (tmp_path / "tokens").read_text().strip()  # made with the first start
        with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority.pem)) as channel:
            stream = channel.stream_unary(STREAM)
            with pytest.raises(grpc.RpcError) as refused:
                stream(iter([batch([server.ask()])]), timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            stream(iter([batch([server.ask()])]), timeout=60, metadata=(("authorization", f"Bearer {token}"),))
        wait_for(lambda: server.metric("dropout_outcomes_total", outcome="success") == 1, "an outcome")


def test_a_port_serves_everybody_on_the_users_word_alone() -> None:
    port = free_port()
    server = DropoutServer("--access-log-listen", f"127.0.0.1:{port}", workers=1)
    server.write_rollout(breaker=BREAKER)
    status, said = server.refused()
    assert (status, "(insecure_listen)" in said, "--tls-client-ca" in said) == (2, True, True)
    server.options += ("--insecure",)
    with server:
        wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            channel.stream_unary(STREAM)(iter([batch([server.ask()])]), timeout=60)
        wait_for(lambda: server.metric("dropout_outcomes_total", outcome="success") == 1, "an outcome")


def test_a_killed_supervisor_is_succeeded_with_an_observer_on_the_same_socket(server: DropoutServer) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    server.start()
    wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")
    decided = half(server)
    send(server, [batch(decided["3"][:5])])
    wait_for(lambda: server.metric("dropout_outcomes_total", outcome="success") == 5, "outcomes")
