"""What a host keeps apart from the store: where it always was for who has one, in a folder of its own for who asks."""

from __future__ import annotations

import http.client
import json
import re
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.store import SqliteStore
from extproc.clock import SystemClock
from extproc.datapath.pseudonym import pseudonym
from extproc.decision_id import DecisionIds, KeyFile, Opened
from extproc.serve.supervisor.safety_file import SafetyFile
from extproc.snapshot.held import HeldKill
from extproc.store.epoch_records import EpochRecord
from tests.support.decisions import decisions_in
from tests.support.dropout import DropoutServer, wait_for
from tests.support.rollouts import CANARY

ROLLOUT, OTHER = "payments/fraud-detector", "payments/other"
IDS_KEY, PSEUDONYM_KEY, TOKEN = "7f" * 32, bytes(range(32)), "a-token-of-last-year-that-senders-have"
PARTS = {"feedback", "ids", "key", "observed", "safety", "serving", "token"}


def served(*options: str, **settings: str) -> DropoutServer:
    """One that decides, logs, observes, and takes labels; with ``options`` beside."""
    server = DropoutServer("--with-controller", "--feedback-listen", "127.0.0.1:0", *options, workers=1, **settings)
    server.options += ("--control-listen", f"unix:{server.sockets}/control.sock")
    server.options += ("--access-log-listen", f"unix:{server.sockets}/observer.sock")
    server.options += ("--decision-log", str(server.folder / "decisions.jsonl"))
    server.write_rollout(**CANARY)
    server.write_rollout("other", match=[{"path": {"value": "/other"}}])
    return server


def epoch_of(server: DropoutServer) -> EpochRecord:
    with closing(SqliteStore(server.folder / "dropout.db")) as store:
        return store.epochs_of(*ROLLOUT.split("/"))[-1]


def feed_back(server: DropoutServer, token: str, decision_id: str) -> str:
    """Send a label; what became of it."""
    found = wait_for(lambda: re.search(r"feedback http://([\d.]+):(\d+)", server.log()), "feedback")
    with closing(http.client.HTTPConnection(found[1], int(found[2]), timeout=5)) as connection:
        body = json.dumps({"decision_id": decision_id, "prediction": True, "label": True})
        connection.request("POST", "/v1/feedback", body, {"authorization": f"Bearer {token}"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return str(answer["results"][0]["code"])


def parts(folder: Path, prefix: str = "") -> set[str]:
    """What is in the folder and begins so, without what SQLite has beside its files."""
    return {path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*") if "-" not in path.name}


def run(*arguments: str) -> str:
    """A command that goes well; what it says."""
    done = subprocess.run([sys.executable, "-m", "extproc.cli", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(server: DropoutServer) -> dict[str, Any]:
    """The first decision of the log."""
    log = server.folder / "decisions.jsonl"
    return wait_for(lambda: log.exists() and decisions_in(log.read_bytes()), "a decision in the log")[0]


def test_a_folder_as_the_last_version_left_it_is_taken_up_as_it_is() -> None:
    server = served()
    secrets = {"ids": f"{IDS_KEY}\n".encode(), "key": PSEUDONYM_KEY, "token": f"{TOKEN}\n".encode()}
    files = {server.folder / f"dropout.db.{name}": content for name, content in secrets.items()}
    for file, content in files.items():
        file.write_bytes(content)
        file.chmod(0o600)
    kill = HeldKill("11ec75e8f6ad02c1", OTHER, "alice", SystemClock().now())
    with closing(SafetyFile(server.folder / "dropout.db.safety", lambda _line: None)) as safety:
        safety.update({kill.key: kill}, ())
    SqliteFeedback(server.folder / "dropout.db.feedback", create=True).close()
    keys = KeyFile(server.folder / "dropout.db.ids", SystemClock())
    with server:
        ids = DecisionIds(keys, 0, SystemClock())
        mine = ids.seal(ids.nonce(), epoch_of(server).number, 1, 0)
        assert feed_back(server, TOKEN, mine) == "recorded"
        assert isinstance(keys.open(server.ask()["x-decision-id"]), Opened)
        assert pseudonym(PSEUDONYM_KEY, b"u-1") in json.dumps(logged(server))
        with closing(SqliteStore(server.folder / "dropout.db")) as store:
            killed = wait_for(lambda: (row := store.get(*OTHER.split("/"))) and row.status.kills, "the kill")
        assert list(killed) == [kill.id]
        assert {file: file.read_bytes() for file in files} == files
        wait_for(lambda: parts(server.folder, "dropout.db.") == PARTS, "all of it, under the same names")


def test_a_folder_of_its_own_holds_all_of_it_and_commands_find_it_there() -> None:
    server = served()
    state = server.folder / "state"
    server.options += ("--state", str(state))
    with server:
        wait_for(lambda: parts(state) == PARTS, "all of it")
        assert parts(server.folder, "dropout.db.") == set()
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        loose = [path.name for path in state.iterdir() if path.is_file() and path.stat().st_mode & 0o077]
        assert loose == []
        token = (state / "token").read_text().strip()
        assert feed_back(server, token, server.ask()["x-decision-id"]) == "recorded"
        of_it = ("--store", server.store, "--state", str(state))
        report = json.loads(run("feedback", "report", ROLLOUT, *of_it, "-o", "json"))
        assert sum(arm["labels"] for arm in report["arms"]) == 1
        exported = run("feedback", "export", ROLLOUT, *of_it, "--format", "jsonl")
        assert json.loads(exported)["decision_id"]
        killed = json.loads(run("kill", ROLLOUT, *of_it, "-o", "json"))
        assert killed["reached"]["serves"] == 1
        state.rename(server.folder / "away")
        gone = {str(state / name) for name in ("ids", "key", "token", "feedback")}
        wait_for(lambda: missing(server) == gone, "what was moved away to be named")
        wait_for(lambda: f"state folder: {state} was not there any more and is made anew" in server.log(), "the line")
        for name in ("ids", "key", "token", "feedback"):
            (server.folder / "away" / name).rename(state / name)
        wait_for(lambda: missing(server) == set(), "the end of it")
        assert server.ask()["x-decision-id"]


def missing(server: DropoutServer) -> set[str]:
    """The files of the state that /snapshot says are gone."""
    return {error["file"] for error in server.snapshot()["errors"] if error["code"] == "state_missing"}
