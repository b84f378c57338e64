"""Bad documents, bad policies and a store in trouble under a running server: a code each, and traffic goes on."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tests.support.dropout import DropoutServer, wait_for
from tests.support.rollouts import CANARY, document

GOOD = yaml.safe_dump(document({**CANARY, "match": [{"path": {"type": "Exact", "value": "/other"}}]}, "other"))
ALLOW = 'package routing\n\ndecision := {"allow": true, "version": "4"}\n'
DROPOUT = (sys.executable, "-m", "extproc.cli")

DOCUMENTS = [
    ("unknown_field", GOOD.replace("spec:", "spec:\n  colour: red")),
    ("mistyped_value", GOOD.replace("model: fraud-detector", "model: [fraud-detector]")),
    ("duplicate_key", GOOD.replace("kind: Rollout", "kind: Rollout\nkind: Rollout")),
    ("duplicate_rollout", GOOD + "---\n" + GOOD),
    ("yaml_syntax", "a: ["),
    ("no_documents", ""),
    ("not_utf8", "\udcff"),
    ("document_too_large", GOOD + "# " + "a" * 10_000_000),
]

POLICIES = [
    ("policy_syntax", "package routing\n\ndecision := {"),
    ("policy_builtin_forbidden", 'package routing\n\ndecision := http.send({"url": "http://x", "method": "GET"})\n'),
    ("policy_encoding", "package routing\n# \udcff\n"),
]


@pytest.fixture
def server() -> Iterator[DropoutServer]:
    server = DropoutServer(workers=1)
    server.write_policy(ALLOW)
    server.write_rollout(policy={"path": "routing/decision"})
    with server:
        assert decides(server)
        yield server


def decides(server: DropoutServer) -> bool:
    return server.ask()["x-model-version"] == "4"


def codes(server: DropoutServer) -> set[str]:
    return {error["code"] for error in server.snapshot()["errors"]}


def database(server: DropoutServer) -> Path:
    return Path(server.store.removeprefix("sqlite:"))


def dropout(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run([*DROPOUT, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def weight_is(server: DropoutServer, weight: float) -> bool:
    return [rollout["weight"] for rollout in server.snapshot()["rollouts"]] == [weight]


def test_each_bad_document_is_named_while_requests_are_decided(server: DropoutServer) -> None:
    file = server.rollouts / "bad.yaml"
    for code, text in DOCUMENTS:
        file.write_bytes(os.fsencode(text))
        wait_for(lambda code=code: codes(server) == {code}, f"the code {code}")
        assert decides(server)
    file.write_text(GOOD)
    wait_for(lambda: server.ask({":path": "/other"}).get("x-model-rollout") == "payments/other", "the mended document")
    assert codes(server) == set()


def test_each_bad_policy_is_named_while_the_last_good_one_decides(server: DropoutServer) -> None:
    for refused, (code, text) in enumerate(POLICIES, 1):
        (server.policies / "decision.rego").write_bytes(os.fsencode(text))
        wait_for(lambda code=code: codes(server) == {code}, f"the code {code}")
        assert decides(server)
        assert server.metric("dropout_reloads_refused_total", what="policies") == refused
    server.write_policy(ALLOW)
    wait_for(lambda: codes(server) == set(), "the mended policy")


def test_an_empty_folder_is_served_until_there_is_something_in_it() -> None:
    with DropoutServer("--prune", workers=1) as server:
        assert "x-model-version" not in server.ask()
        assert server.metric("dropout_decisions_total", reason="no_match") == 1
        server.write_rollout()
        wait_for(lambda: "x-model-version" in server.ask(), "the first document")
        (server.rollouts / "fraud-detector.yaml").unlink()
        wait_for(lambda: "x-model-version" not in server.ask(), "nothing")


class ServerOfAStore(DropoutServer):
    """Follows no folder: what it serves is what somebody applies."""

    def command(self) -> list[str]:
        """The command line, without the folder."""
        command = super().command()
        at = command.index("--rollouts")
        return command[:at] + command[at + 2 :]


def test_a_store_that_was_only_made_now_is_told_as_one_without_rollouts() -> None:
    with ServerOfAStore(workers=1) as server:
        assert f"{server.store} has no rollouts yet" in server.log()
        file = server.folder / "good.yaml"
        file.write_text(GOOD)
        assert dropout("apply", "-f", file, "--store", server.store)[0] == 0
        server.stop()
        said = len(server.log())
        server.start()
        (line,) = server.log()[said:].splitlines()
        assert " info serve: ready: 1 worker of dropout " in line


def test_to_prune_needs_a_folder() -> None:
    status, said = ServerOfAStore("--prune").refused()
    assert (status, "--prune" in said, "(prune_needs_rollouts)" in said) == (2, True, True)


def test_a_locked_store_stops_no_request_and_a_command_says_so(server: DropoutServer) -> None:
    with closing(sqlite3.connect(database(server), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, said = dropout("rollout", "set-weight", "payments/fraud-detector", "5", "--store", server.store)
        assert (status, "(store_locked)" in said) == (3, True)
        assert decides(server)
    assert dropout("rollout", "set-weight", "payments/fraud-detector", "5", "--store", server.store)[0] == 0
    wait_for(lambda: weight_is(server, 5), "the weight")


def test_a_corrupt_store_stops_no_request_and_is_named(server: DropoutServer) -> None:
    path = database(server)
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
    path.write_bytes(b"no database " * 1000)
    (server.rollouts / "other.yaml").write_text(GOOD)  # nobody reads a store in which nothing changed
    wait_for(lambda: "store_corrupt" in codes(server), "the error")
    wait_for(lambda: "rollouts: " in server.log(), "the supervisor to have met it, too")
    assert [error["code"] for error in server.snapshot()["errors"]] == ["store_corrupt"]
    assert decides(server)
    status, said = dropout("apply", "-f", server.rollouts, "--store", server.store)
    assert (status, "(store_corrupt)" in said) == (3, True)
    assert server.get("/readyz")[0] == 200


def test_a_damaged_row_holds_up_its_own_rollout_alone(server: DropoutServer) -> None:
    (server.rollouts / "other.yaml").write_text(GOOD)
    wait_for(lambda: len(server.snapshot()["rollouts"]) == 2, "another rollout")
    with closing(sqlite3.connect(database(server))) as connection:
        connection.execute("UPDATE meta SET revision = revision + 1")
        connection.execute(
            "UPDATE rollouts SET status = 'x', revision = (SELECT revision FROM meta) WHERE name != 'fraud-detector'"
        )
        connection.commit()
    assert dropout("rollout", "set-weight", "payments/fraud-detector", "9", "--store", server.store)[0] == 0
    wait_for(lambda: 9 in [rollout["weight"] for rollout in server.snapshot()["rollouts"]], "the good row's weight")
    assert codes(server) == {"store_corrupt"}
    assert len(server.snapshot()["rollouts"]) == 2
    assert decides(server)


def test_a_store_made_anew_is_taken_once_it_holds_rollouts(server: DropoutServer) -> None:
    path = database(server)
    for file in path.parent.glob(f"{path.name}*"):
        if file.is_file() and file.suffix != ".key":
            file.unlink()
    wait_for(lambda: codes(server) & {"store_unreachable", "store_recreated"}, "the error")
    assert decides(server)
    assert dropout("apply", "-f", server.rollouts, "--store", server.store)[0] == 0
    assert dropout("rollout", "set-weight", "payments/fraud-detector", "7", "--store", server.store)[0] == 0
    wait_for(lambda: weight_is(server, 7), "the new store's weight")
    assert decides(server)


def test_a_full_disk_keeps_documents_out_until_there_is_room(server: DropoutServer) -> None:
    assert server.process is not None
    pid, (soft, hard) = server.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, hard))
    (server.rollouts / "other.yaml").write_text(GOOD)
    wait_for(lambda: "(store_full)" in server.log(), "the sentence")
    assert "store_full" in codes(server)
    assert decides(server)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
    wait_for(lambda: server.ask({":path": "/other"}).get("x-model-rollout") == "payments/other", "the document")


def test_apply_on_a_full_disk_exits_with_3_and_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store, file = f"sqlite:{tmp_path / 'x.db'}", tmp_path / "other.yaml"
    file.write_text(GOOD)
    assert dropout("apply", "-f", file, "--store", store)[0] == 0
    before = dropout("rollout", "list", "--store", store)
    done = subprocess.run(
        [*DROPOUT, "rollout", "set-weight", "payments/other", "5", "--store", store],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=_no_room,
    )
    assert done.returncode == 3, done.stderr
    assert "(store_full)" in done.stderr
    assert dropout("rollout", "list", "--store", store) == before


def _no_room() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
