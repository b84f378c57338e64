"""``dropout serve`` as a process: what it opens, how it ends, how it starts again, what its pages say."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import orjson
import pytest

import extproc
from tests.support.decisions import decisions_in
from tests.support.dropout import PROCESS, DropoutServer, alive, children_of, headers_of, request_of, wait_for
from tests.support.process import PATIENCE

ALLOW = """package routing

decision := {"allow": true}
"""
PINNED = """package routing

decision := {"allow": true, "version": "4"}
"""
MASK = """package system.log

mask contains "/input/attributes/request/http/headers/x-secret\""""
ENDLESS = "count([1 | some _ in numbers.range(1, 9000); some _ in numbers.range(1, 9000)]) > 0"
READS_SECRET = """package routing

decision := {"allow": input.attributes.request.http.headers["x-secret"] != ""}
"""
POLICY = {"path": "routing/decision", "onError": "stable"}


@pytest.fixture(scope="module")
def environment() -> Iterator[DropoutServer]:
    """A server that only tests use that leave it as it was."""
    with fresh() as server:
        yield server


def fresh(*options: str, **settings: str) -> DropoutServer:
    server = DropoutServer(*options, **settings)
    server.write_rollout()
    return server


# -- endpoints


def test_each_worker_answers_on_a_private_socket_of_its_own(environment: DropoutServer) -> None:
    assert stat.S_IMODE(environment.sockets.stat().st_mode) == 0o700
    for worker in (0, 1):
        mode = (environment.sockets / f"w-{worker}.sock").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert environment.ask(worker=worker)["x-model-version"] == "3"
        assert environment.health(worker) == "SERVING"


def test_workers_are_the_direct_children_of_serve(environment: DropoutServer) -> None:
    assert environment.process is not None
    assert sorted(children_of(environment.process.pid)) == sorted(environment.worker_pids())


def test_grpcs_threads_wait_for_the_event_loop_and_no_thread_of_ours_waits(tmp_path: Path) -> None:
    with fresh("--decision-log", str(tmp_path / "decisions.jsonl")) as server:
        server.ask()
        pid = server.worker_pids()[0]
        tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]
        names = [Path(f"/proc/{pid}/task/{task}/comm").read_text() for task in tasks]
        policies = [os.sched_getscheduler(task) for task in tasks]
        pythons_name = Path(f"/proc/{pid}/comm").read_text()
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        assert {os.getpriority(os.PRIO_PROCESS, task) for task in (pid, *tasks)} == {0}
    # Threads that Python started: those that need it, and gRPC's poller, which waits without it.
    *ours, poller = sorted(each for each, name in zip(policies, names, strict=True) if name == pythons_name)
    assert ours
    assert set(ours) == {os.SCHED_OTHER}
    assert poller == os.SCHED_BATCH
    assert {each for each, name in zip(policies, names, strict=True) if name != pythons_name} == {os.SCHED_BATCH}


def test_a_second_server_does_not_take_the_sockets_of_the_first(environment: DropoutServer) -> None:
    second = fresh()
    second.listen = environment.listen
    status, said = second.refused()
    assert status == 2
    assert "(address_in_use)" in said
    assert "Traceback" not in said
    assert environment.ask()["x-model-version"] == "3"


def test_a_socket_that_something_else_listens_on_is_left_alone() -> None:
    server = fresh()
    server.sockets.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(server.sockets / "w-1.sock"))
        other.listen()
        status, said = server.refused()
    assert (status, "(address_in_use)" in said) == (2, True)


def test_a_socket_that_nobody_listens_on_is_taken() -> None:
    server = fresh()
    server.sockets.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(server.sockets / "w-0.sock"))
    with server:
        assert server.ask()["x-model-version"] == "3"


def test_a_document_that_waits_longer_than_a_decision_may_take_is_refused_with_both_numbers() -> None:
    server = fresh()
    features = {"entity": {"header": "x-user-id"}, "view": "v", "names": ["n"], "timeout": "200ms"}
    server.write_rollout(features=features)
    server.options += ("--decision-deadline", "0.16")
    status, said = server.refused()
    assert status == 2
    assert "features are waited for 200ms, but a decision may take 160ms" in said
    assert "(timeout_beyond_deadline)" in said


def test_a_folder_that_others_can_write_to_is_refused() -> None:
    server = fresh()
    server.sockets.mkdir()
    server.sockets.chmod(0o777)
    status, said = server.refused()
    assert (status, "(socket_folder_open)" in said) == (2, True)


def test_a_socket_that_is_removed_is_there_again_and_its_worker_answers_all_the_while() -> None:
    # Without a lame duck's time, a server that drains answers nobody.
    with fresh(DROPOUT_LAME_DUCK="0") as server:
        before = server.worker_pids()
        with grpc.insecure_channel(server.socket(0)) as channel:

            def found() -> bool:
                assert server.ask(channel=channel)["x-model-version"] == "3"
                return (server.sockets / "w-0.sock").exists()

            assert found()
            (server.sockets / "w-0.sock").unlink()
            assert not found()
            wait_for(found, "another socket")
        assert server.ask(worker=0)["x-model-version"] == "3"
        assert server.worker_pids() == before


def test_a_folder_of_sockets_that_is_removed_is_there_again_with_its_lock() -> None:
    with fresh() as server, grpc.insecure_channel(server.socket(1)) as channel:
        assert server.ask(channel=channel)["x-model-version"] == "3"
        shutil.rmtree(server.sockets)
        wait_for(lambda: (server.sockets / "w-0.sock").exists(), "the first socket")
        assert server.ask(channel=channel)["x-model-version"] == "3"
        wait_for(lambda: (server.sockets / "w-1.sock").exists(), "the second socket")
        assert [server.ask(worker=worker)["x-model-version"] for worker in (0, 1)] == ["3", "3"]
        second = fresh()
        second.listen = server.listen
        assert "(address_in_use)" in second.refused()[1]


def test_a_socket_that_others_were_let_into_is_private_again() -> None:
    with fresh() as server:
        before = server.worker_pids()
        socket_file = server.sockets / "w-0.sock"
        socket_file.chmod(0o666)
        wait_for(lambda: stat.S_IMODE(socket_file.stat().st_mode) == 0o600, "a private socket")
        assert server.worker_pids() == before


# -- the end


def test_sigterm_ends_everything_with_0_and_leaves_no_socket() -> None:
    with fresh() as server:
        pids = server.worker_pids()
        assert server.stop(signal.SIGTERM) == 0
        assert not any(alive(pid) for pid in pids)
        assert list(server.sockets.iterdir()) == []


def test_a_draining_worker_says_so_finishes_its_streams_and_takes_no_new_ones() -> None:
    with fresh("--drain-timeout", "5") as server, grpc.insecure_channel(server.socket()) as channel:
        assert server.process is not None
        go = threading.Event()

        def requests() -> Iterator[object]:
            go.wait(PATIENCE)
            yield request_of({})

        call = channel.stream_stream(
            PROCESS,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=headers_reader,
        )(requests(), timeout=PATIENCE)
        watch = server.health()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.health() != "SERVING", "a worker that says it is draining")
        wait_for(lambda: server.health() == "UNAVAILABLE", "a worker that takes no new streams")
        assert server.get("/readyz")[0] in (0, 503)
        go.set()
        assert next(call)["x-model-version"] == "3"
        call.cancel()
        assert server.process.wait(PATIENCE) == 0
        assert watch == "SERVING"
        told = [line.partition(" info serve: ")[2] for line in server.log().splitlines() if " info serve: " in line]
        assert told[-2:] == ["SIGTERM: draining; streams in flight have 5 s", "ended"]


def headers_reader(data: bytes) -> dict[str, str]:
    from extproc._gen.envoy.service.ext_proc.v3 import external_processor_pb2

    return headers_of(external_processor_pb2.ProcessingResponse.FromString(data))


def test_a_stream_that_never_ends_is_cut_when_the_drain_is_over() -> None:
    with fresh("--drain-timeout", "0.5") as server, grpc.insecure_channel(server.socket()) as channel:
        assert server.process is not None
        begun, held = threading.Event(), threading.Event()

        def silence() -> Iterator[bytes]:
            begun.set()
            held.wait()
            yield b""

        channel.stream_stream(PROCESS)(silence())
        assert begun.wait(PATIENCE)
        assert server.stop(signal.SIGTERM) == 0
        held.set()


def test_a_second_signal_does_not_wait() -> None:
    with fresh("--drain-timeout", "600") as server, grpc.insecure_channel(server.socket()) as channel:
        assert server.process is not None
        begun, held = threading.Event(), threading.Event()

        def silence() -> Iterator[bytes]:
            begun.set()
            held.wait()
            yield b""

        channel.stream_stream(PROCESS)(silence())
        assert begun.wait(PATIENCE)
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: server.health() != "SERVING", "a worker that says it is draining")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE) == 0
        held.set()


# -- workers and supervisors that die


def test_a_killed_worker_is_replaced_and_counted_and_its_counts_are_kept() -> None:
    with fresh() as server:
        for _ in range(5):
            server.ask(worker=0)
            server.ask(worker=1)
        assert server.metric("dropout_decisions_total", rollout="payments/fraud-detector") == 10
        victim = server.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        assert server.ask(worker=1)["x-model-version"] == "3"
        wait_for(lambda: server.worker_pids()[0] != victim, "another process")
        wait_for(lambda: server.snapshot()["workers"][0]["state"] == "serving", "a new worker")
        assert server.ask(worker=0)["x-model-version"] == "3"
        assert server.metric("dropout_workers_replaced_total") == 1
        assert server.metric("dropout_decisions_total") == 12
        assert server.get("/readyz")[0] == 200


def test_a_stopped_worker_is_replaced() -> None:
    with fresh() as server:
        victim = server.worker_pids()[1]
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: server.worker_pids()[1] != victim, "another process")
        wait_for(lambda: server.snapshot()["workers"][1]["state"] == "serving", "a new worker")
        assert server.ask(worker=1)["x-model-version"] == "3"
        assert server.snapshot()["quarantined"] == []


def test_a_worker_that_hangs_outside_of_any_policy_says_where_before_it_is_ended() -> None:
    # No policy is ever to blame here, so what hangs in one hangs for reasons unknown.
    with with_policy(BURNS, DROPOUT_EVALUATION_LIMIT="60") as server:
        with pytest.raises(grpc.RpcError):
            server.ask({"x-burn": "yes"}, worker=0)
        wait_for(lambda: "ended with status -9" in server.log(), "its end")
        said = server.log().partition("ended with status -9")[0]
    assert "worker 0 hangs outside of any policy (no heartbeat for" in said
    assert "most recent call first" in said
    assert " in evaluate\n" in said


def test_workers_end_when_their_supervisor_is_killed() -> None:
    with fresh(DROPOUT_ORPHAN_GRACE="0.5") as server:
        pids = server.worker_pids()
        server.stop(signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in pids), "the end of the workers")


def test_a_successor_takes_over_from_a_killed_supervisor_without_a_gap() -> None:
    # The grace is for a successor that comes in time; here it comes when the machine lets it.
    with fresh(DROPOUT_ORPHAN_GRACE=str(PATIENCE)) as server:
        orphans = server.worker_pids()
        answers: Counter[str] = Counter()
        done = threading.Event()

        def keep_asking() -> None:
            while not done.is_set():
                try:
                    answers[server.ask()["x-model-version"]] += 1
                except grpc.RpcError as error:
                    answers[f"{error.code()} {error.details()}"] += 1

        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            server.stop(signal.SIGKILL)
            server.start()
            wait_for(lambda: not any(alive(pid) for pid in orphans), "the end of the orphans")
        finally:
            done.set()
            asking.join()
        assert set(answers) == {"3"}
        assert answers["3"] > 10


def test_a_worker_for_whom_a_smaller_successor_has_no_place_leaves_as_soon_as_any_orphan() -> None:
    with fresh(DROPOUT_ORPHAN_GRACE="0.5") as server:
        orphans = server.worker_pids()
        server.stop(signal.SIGKILL)
        server.workers = 1
        server.start()
        wait_for(lambda: not any(alive(pid) for pid in orphans), "the end of the orphans")
        assert server.ask()["x-model-version"] == "3"


def test_a_hung_orphan_is_ended_by_the_kernel() -> None:
    server = DropoutServer(DROPOUT_ORPHAN_GRACE="0.5", DROPOUT_HANG_LIMIT="0.5", DROPOUT_EVALUATION_LIMIT="60")
    server.write_rollout(policy=POLICY)
    server.write_policy(BURNS)
    with server:
        pids = server.worker_pids()
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)  # nobody replaces the worker
        with pytest.raises(grpc.RpcError):
            server.ask({"x-burn": "yes"}, timeout=0.5)
        server.stop(signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in pids), "the end of the workers")


# -- policies

BURNS = """package routing

default decision := {"allow": true}

decision := {"allow": true, "reason": "slow"} if {
	input.attributes.request.http.headers["x-burn"]
	some a in numbers.range(1, 3000)
	some b in numbers.range(1, 3000)
	a * b == -1
}
"""
NEVER_ENDS = """package routing

default decision := {"allow": true}

decision := {"allow": true} if {
	some a in numbers.range(1, 3000)
	some b in numbers.range(1, 3000)
	a * b == -1
}
"""


def with_policy(text: str, **settings: str) -> DropoutServer:
    server = DropoutServer(**settings)
    server.write_rollout(policy=POLICY)
    server.write_policy(text)
    return server


def test_a_policy_that_does_not_end_is_quarantined_in_all_workers_and_lifted_by_an_edit() -> None:
    with with_policy(BURNS) as server:
        pids = server.worker_pids()
        assert server.ask()["x-model-version"] == "3"
        with pytest.raises(grpc.RpcError):
            server.ask({"x-burn": "yes"}, worker=0)
        assert server.snapshot()["quarantined"] == ["routing/decision"]
        assert server.ask({"x-burn": "yes"}, worker=1)["x-model-arm"] == "excluded"
        wait_for(lambda: server.snapshot()["workers"][0]["state"] == "serving", "the replaced worker")
        now = server.worker_pids()
        assert (now[0] != pids[0], now[1]) == (True, pids[1])
        assert server.ask({"x-burn": "yes"}, worker=0)["x-model-version"] == "3"
        assert server.metric("dropout_decisions_total", reason="policy_quarantined") >= 2
        server.write_policy(PINNED)
        wait_for(lambda: server.snapshot()["quarantined"] == [], "the end of the quarantine")
        wait_for(lambda: server.ask(worker=1)["x-model-version"] == "4", "the new policy")


def test_two_workers_that_hang_at_once_are_both_replaced() -> None:
    with with_policy(BURNS) as server:
        pids = server.worker_pids()

        def burn(worker: int) -> None:
            with pytest.raises(grpc.RpcError):
                server.ask({"x-burn": "yes"}, worker=worker)

        threads = [threading.Thread(target=burn, args=(worker,)) for worker in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_for(lambda: not set(pids) & set(server.worker_pids()), "two new workers")
        wait_for(lambda: all(w["state"] == "serving" for w in server.snapshot()["workers"]), "two workers that serve")
        assert server.ask({"x-burn": "yes"}, worker=0)["x-model-version"] == "3"
        assert server.ask({"x-burn": "yes"}, worker=1)["x-model-version"] == "3"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("package routing\n\ndecision := {", "policy_syntax"),
        ('package routing\n\ndecision := http.send({"url": "http://x"})\n', "policy_builtin_forbidden"),
        (NEVER_ENDS, "policy_too_slow"),
    ],
)
def test_bad_policies_keep_serve_from_starting(text: str, code: str) -> None:
    status, said = with_policy(text, DROPOUT_TRIAL_LIMIT="0.5").refused()
    assert status == 2, said
    assert f"({code})" in said
    assert "Traceback" not in said


def test_a_folder_without_a_policy_is_served_until_there_is_one_and_not_emptied_again() -> None:
    """What ``systemctl start`` meets first on a new host."""
    server = DropoutServer("--with-controller", workers=1)
    server.options += ("--control-listen", f"unix:{server.sockets}/control.sock", "--policies", str(server.policies))
    server.write_rollout(policy=POLICY)
    with server:
        assert f"policies: {server.policies} has no .rego file yet" in server.log()
        assert server.ask()["x-model-arm"] == "excluded"
        wait_for(lambda: codes(server) == {"policy_rule_missing"}, "the rule that is asked for")
        wait_for(lambda: "controller: ready" in server.log(), "the controller")
        assert "control/decision" not in server.log()  # nobody asked for it
        server.write_policy(PINNED)
        wait_for(lambda: server.ask()["x-model-version"] == "4", "the first policy")
        (server.policies / "decision.rego").unlink()
        wait_for(lambda: codes(server) == {"policies_empty"}, "the refusal of an emptied folder")
        assert server.ask()["x-model-version"] == "4"


def test_a_bad_edit_leaves_the_last_good_policy_deciding() -> None:
    with with_policy(PINNED) as server:
        revision = server.snapshot()["policy_revision"]
        for text, code in (("package routing\n\ndecision := {", "policy_syntax"), (NEVER_ENDS, "policy_too_slow")):
            server.write_policy(text)
            wait_for(lambda code=code: code in codes(server), f"a refusal with {code}")
            assert server.ask()["x-model-version"] == "4"
        assert server.snapshot()["policy_revision"] == revision
        assert server.metric("dropout_reloads_refused_total", what="policies") == 2
        server.write_policy(ALLOW)
        wait_for(lambda: server.snapshot()["policy_revision"] != revision, "the good edit")
        wait_for(lambda: all(server.ask(worker=w)["x-model-version"] == "3" for w in (0, 1)), "the good edit at work")
        assert codes(server) == set()


def test_a_worker_asks_a_policy_once_about_the_same_until_it_is_edited() -> None:
    with with_policy(PINNED) as server:
        assert server.ask()["x-model-version"] == "4"
        hits, misses = (server.metric(f"dropout_verdict_cache_{which}_total") for which in ("hits", "misses"))
        assert [server.ask()["x-model-version"] for _ in range(3)] == ["4"] * 3
        assert server.metric("dropout_verdict_cache_hits_total") == hits + 3
        assert server.metric("dropout_verdict_cache_misses_total") == misses
        server.write_policy(ALLOW)
        wait_for(lambda: server.ask()["x-model-version"] == "3", "the edit at work")
        assert server.metric("dropout_verdict_cache_misses_total") == misses + 1


def codes(server: DropoutServer) -> set[str]:
    return {error["code"] for error in server.snapshot()["errors"]}


# -- documents


def test_a_bad_document_does_not_hold_up_a_good_change_beside_it() -> None:
    with fresh(DROPOUT_DELETE_AFTER="0.5") as server:
        server.write(server.rollouts / "bad.yaml", "kind: Rollout\nspec: {colour: red}\n")
        server.write_rollout("other", match=[{"path": {"type": "Exact", "value": "/other"}}])
        wait_for(lambda: server.ask({":path": "/other"}).get("x-model-rollout") == "payments/other", "the good one")
        wait_for(lambda: codes(server), "the error of the bad one")
        assert any(str(error["file"]).endswith("bad.yaml") for error in server.snapshot()["errors"])
        (server.rollouts / "bad.yaml").unlink()
        (server.rollouts / "other.yaml").unlink()
        wait_for(lambda: "x-model-rollout" not in server.ask({":path": "/other"}), "what left the folder to be gone")
        wait_for(lambda: not codes(server), "no errors")


def test_only_bad_documents_keep_serve_from_starting() -> None:
    server = DropoutServer()
    server.write(server.rollouts / "bad.yaml", "a: [")
    status, said = server.refused()
    assert status == 2
    assert "bad.yaml:" in said
    assert "Traceback" not in said


def test_the_metrics_of_a_deleted_rollout_go() -> None:
    with fresh(DROPOUT_DELETE_AFTER="0.5") as server:
        server.write_rollout("other", match=[{"path": {"type": "Exact", "value": "/other"}}])
        wait_for(lambda: server.ask({":path": "/other"}).get("x-model-rollout") == "payments/other", "the rollout")
        assert server.metric("dropout_decisions_total", rollout="payments/other") >= 1
        (server.rollouts / "other.yaml").unlink()
        wait_for(lambda: b"payments/other" not in server.get("/metrics")[1], "its metrics to be gone")


# -- pages and signals


def test_the_pages_answer(environment: DropoutServer) -> None:
    assert environment.get("/healthz") == (200, b"ok\n")
    assert environment.get("/readyz") == (200, b"ok\n")
    assert environment.get("/nothing")[0] == 404
    assert environment.get("/metrics", "POST")[0] == 405
    assert environment.get("/healthz", "HEAD") == (200, b"")


def test_the_snapshot_page_says_what_workers_decide_from(environment: DropoutServer) -> None:
    page = environment.snapshot()
    assert page["version"] == extproc.__version__
    assert environment.metric("dropout_build_info", version=extproc.__version__) == 1
    (rollout,) = page["rollouts"]
    assert rollout["key"] == "payments/fraud-detector"
    assert (rollout["stable"], rollout["canary"], rollout["weight"]) == ("3", "4", 0)
    assert [worker["state"] for worker in page["workers"]] == ["serving", "serving"]
    assert {worker["revision"] for worker in page["workers"]} == {page["revision"]}
    assert page["errors"] == []


def test_what_a_rollout_asks_for_and_nobody_does_is_told_by_the_log_and_the_page() -> None:
    server = DropoutServer()
    features = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]}
    server.write_rollout(breaker={}, features=features, policy={"path": "routing/nowhere"})
    with server:
        for told in ("a breaker is asked for", "features are asked for", "the rule routing/nowhere is asked"):
            wait_for(lambda told=told: f"rollout payments/fraud-detector: {told}" in server.log(), told)  # type: ignore[misc]
        wait_for(lambda: len(server.snapshot()["errors"]) == 3, "the page")
        way_out = {error["code"]: error["message"].rpartition("; ")[2] for error in server.snapshot()["errors"]}
        assert way_out == {
            "observer_missing": "start serve with, say, --access-log-listen unix:/run/dropout/observer.sock",
            "feature_store_missing": "name their store by --features or DROPOUT_FEATURES, such as "
            "sqlite:/var/lib/dropout/features.db",
            "policy_rule_missing": "start serve with, say, --policies /etc/dropout/policies",
        }


def test_a_client_that_says_nothing_does_not_stop_the_admin_endpoint(environment: DropoutServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", environment.admin_port)) for _ in range(20)]
    try:
        assert environment.get("/readyz")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_an_admin_port_in_use_is_a_sentence(environment: DropoutServer) -> None:
    server = fresh()
    server.admin_port = environment.admin_port
    status, said = server.refused()
    assert status == 2
    assert "(address_in_use)" in said
    assert "Traceback" not in said


def test_the_decision_log_goes_to_every_sink_and_sighup_opens_it_again() -> None:
    server = fresh()
    log, other = server.folder / "decisions.jsonl", server.folder / "other.jsonl"
    server.options = ("--decision-log", str(log), "--sink", f"file:{other}")
    with server:
        assert server.process is not None
        server.ask()
        wait_for(lambda: (decided(log), decided(other)) == (1, 1), "the first line")
        assert server.metric("dropout_decision_log_drops_total", sink="file") == 0
        log.rename(log.with_suffix(".1"))
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.ask() and decided(log), "a line in the new file")
        assert b"reloading" in server.log_file.read_bytes()
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        first, second, *_ = map(orjson.loads, log.read_bytes().splitlines())
        assert (first["kind"], first["id"]) == ("plan", second["input"]["plan"])  # each file stands alone
        assert second["result"]["rollout"] == first["rollout"] == "payments/fraud-detector"


def test_what_finds_the_decision_log_full_goes_to_stable_until_there_is_room() -> None:
    with full_log("stable") as (server, pipe):
        wait_for(lambda: server.ask()["x-model-arm"] == "excluded", "no room")
        assert server.metric("dropout_decisions_total", reason="log_full") >= 1
        with reading(pipe) as lines:
            wait_for(lambda: lines() and server.ask()["x-model-arm"] == "control", "room")


def test_what_finds_the_decision_log_full_waits_and_no_line_is_missing() -> None:
    with full_log("wait") as (server, pipe), ThreadPoolExecutor() as asking:
        asks = [asking.submit(server.ask) for _ in range(4)]
        wait_for(lambda: sum(ask.done() for ask in asks) == 1, "the one that there is room for")
        log: list[bytes] = []
        with reading(pipe) as lines:
            wait_for(lambda: log.extend(lines()) or len(decisions_in(b"".join(log))) == 5, "the log of all")
        assert [event["req_id"] for event in decisions_in(b"".join(log))] == list(range(1, 6))
        assert {ask.result()["x-model-arm"] for ask in asks} == {"control"}
        assert server.metric("dropout_decision_log_drops_total", sink="file") == 0


def test_a_mask_without_an_end_costs_its_events_and_no_worker_and_a_mended_one_holds_from_then_on() -> None:
    server = fresh(workers=1)
    log = server.folder / "decisions.jsonl"
    server.options = ("--decision-log", str(log))
    server.write_policy(READS_SECRET)
    server.write_rollout(policy={"path": "routing/decision"}, log={"headers": ["x-secret"]})
    server.write_policy(f"{MASK} if {ENDLESS}\n", "log.rego")
    with server:
        pids = server.worker_pids()
        for _ in range(5):
            assert server.ask({"x-secret": "geheim"})["x-model-arm"] == "control"
        wait_for(lambda: server.metric("dropout_decision_log_drops_total", sink="file") == 5, "events that are dropped")
        assert decided(log) == 0
        assert "they cannot be masked: the evaluation took more than 0.3 s" in server.log()
        server.write_policy(f"{MASK}\n", "log.rego")
        wait_for(lambda: server.ask({"x-secret": "geheim"}) and decided(log), "an event")
        assert "sink file, masks: well again" in server.log()
        assert server.worker_pids() == pids
        assert b"geheim" not in log.read_bytes()
        (event, *_) = decisions_in(log.read_bytes())
        assert "/input/attributes/request/http/headers/x-secret" in event["erased"]


@contextmanager
def full_log(when_full: str) -> Iterator[tuple[DropoutServer, Path]]:
    """A server with room for two events, one of which a pipe that nobody reads does not take; and the pipe."""
    server = fresh(workers=1, DROPOUT_DECISION_LOG_EVENTS="2")
    pipe = server.folder / "log"
    os.mkfifo(pipe)
    server.options = ("--decision-log", str(pipe), "--decision-log-full", when_full, "--decision-deadline", "60")
    server.options += ("--drain-timeout", "0")
    with ExitStack() as started:
        with reading(pipe):
            started.enter_context(server)
        server.ask()
        wait_for(lambda: server.metric("dropout_decision_log_errors_total", sink="file") >= 1, "a sink that fails")
        yield server, pipe


@contextmanager
def reading(pipe: Path) -> Iterator[Callable[[], list[bytes]]]:
    """Somebody reads the pipe; a call gives what is there."""
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def read() -> list[bytes]:
        with suppress(BlockingIOError):
            return [os.read(reader, 1 << 20)]
        return []

    try:
        yield read
    finally:
        os.close(reader)


def decided(file: Path) -> int:
    return len(decisions_in(file.read_bytes())) if file.exists() else 0


def test_a_terminals_signals_to_the_whole_group_are_the_supervisors_alone_from_the_first_instant_on() -> None:
    with DropoutServer("--with-controller", workers=1) as server:
        assert server.process is not None
        parent = server.process.pid
        wait_for(lambda: len(children_of(parent)) == 2, "a worker and a controller")
        for pid in children_of(parent):
            blocked = int(re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16)
            for number in (signal.SIGINT, signal.SIGHUP):
                assert blocked >> (number - 1) & 1, (pid, number)
