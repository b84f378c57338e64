"""A backup that is taken while ``dropout serve`` and its controller work, and put back when they are gone."""

from __future__ import annotations

import subprocess
import sys

from extproc.clock import SystemClock
from extproc.decision_id import KeyFile, Opened
from tests.contract.test_state import ROLLOUT, feed_back, run, served
from tests.support.dropout import DropoutServer, wait_for


def refusal(*arguments: str) -> str:
    """What a command says that does not go well."""
    done = subprocess.run([sys.executable, "-m", "extproc.cli", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    return done.stderr


def of_another_epoch(server: DropoutServer, than: str, weight: int) -> str:
    """Set this weight; the id of a decision in the epoch that it begins."""
    keys = KeyFile(server.folder / "dropout.db.ids", SystemClock())
    run("rollout", "set-weight", ROLLOUT, str(weight), "--store", server.store)

    def epoch(decision_id: str) -> int:
        opened = keys.open(decision_id)
        assert isinstance(opened, Opened)
        return opened.number

    def later() -> str:
        decision_id = server.ask()["x-decision-id"]
        return decision_id if epoch(decision_id) != epoch(than) else ""

    return str(wait_for(later, "a decision in another epoch"))


def test_a_restored_store_takes_the_labels_that_it_can_know_and_no_other() -> None:
    server = served()
    backup, of_it = str(server.folder / "backup"), ("--store", server.store)
    with server:
        token = (server.folder / "dropout.db.token").read_text().strip()
        told, untold = (server.ask()["x-decision-id"] for _ in range(2))
        assert feed_back(server, token, told) == "recorded"
        run("backup", backup, *of_it)
        assert feed_back(server, token, untold) == "recorded"
        lost = of_another_epoch(server, untold, 30)
        assert "(store_in_use)" in refusal("restore-backup", backup, "--replace", *of_it)
        assert server.stop() == 0
        server.log_file.unlink()
        assert "(store_exists)" in refusal("restore-backup", backup, *of_it)
        run("restore-backup", backup, "--replace", *of_it)
        server.start()
        since = of_another_epoch(server, untold, 40)
        codes = [feed_back(server, token, each) for each in (told, untold, lost, since)]
        assert codes == ["feedback_duplicate", "recorded", "feedback_unknown_epoch", "recorded"]
