"""``dropout backup`` and ``dropout restore-backup``: all of it or nothing, and nobody's store by mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.observations import ObservationsReader, ObservationsWriter
from extproc.adapters.sqlite.runs import RunReport
from extproc.adapters.sqlite.store import SqliteStore
from extproc.cli.main import cli
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply, SetWeight
from extproc.errors import DropoutError
from extproc.resources.loading import load_paths
from extproc.serve.supervisor.safety_file import SafetyFile, peek
from extproc.snapshot.held import HeldKill
from tests.support.rollouts import CANARY, document

NAME = ("payments", "fraud-detector")
PARTS = ["feedback", "ids", "key", "observed", "safety", "token"]
KILL = HeldKill("11ec75e8f6ad02c1", "payments/fraud-detector", "alice", 1_800_000_000.0, stored=True)


class Environment:
    """A store in ``folder`` with one canary and all of its state, and a backup of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backup = folder / "backup"
        self.store = folder / "dropout.db"
        self.named: str | None = None
        (folder / "a.yaml").write_text(json.dumps(document(CANARY)))
        with closing(SqliteStore(self.store, create=True)) as store:
            act(store, "alice", Apply(load_paths([folder / "a.yaml"]).documents), SystemClock())
        SqliteFeedback(self.part("feedback"), create=True).close()
        with closing(ObservationsWriter(self.part("observed"), "a-run")) as writer:
            writer.write([], [], SystemClock().now(), RunReport("a-host", "unix:/o", begun={("/".join(NAME), 1)}))
        for secret in ("ids", "key", "token"):
            self.part(secret).write_text(f"{secret} of then")
        self.hold(KILL)

    def part(self, name: str) -> Path:
        return self.folder / f"dropout.db.{name}"

    def hold(self, kill: HeldKill) -> None:
        with closing(SafetyFile(self.part("safety"), lambda _line: None)) as safety:
            safety.update({kill.key: kill}, ())

    def set_weight(self, weight: int) -> None:
        with closing(SqliteStore(self.store)) as store:
            act(store, "alice", SetWeight(*NAME, weight), SystemClock())

    def weight(self) -> int:
        with closing(SqliteStore(self.store)) as store:
            row = store.get(*NAME)
            assert row is not None
            return row.status.weight

    def run(self, command: str, *options: str) -> str:
        """The code of its error, or nothing."""
        arguments = [command, str(self.backup), "--store", f"sqlite:{self.store}", *options]
        result = CliRunner().invoke(cli, arguments)
        if isinstance(result.exception, DropoutError):
            self.named = result.exception.faults[0].file
            return result.exception.code
        assert result.exit_code == 0, result.exception
        return ""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    found = Environment(tmp_path)
    assert found.run("backup") == ""
    return found


def test_a_backup_is_for_its_owner_alone_and_has_all_but_sockets(environment: Environment) -> None:
    assert environment.backup.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in environment.backup.iterdir()) == sorted([*PARTS, "backup.json", "store"])
    assert {path.stat().st_mode & 0o777 for path in environment.backup.iterdir()} == {0o600}


def test_what_was_lost_is_put_back_as_it_was(environment: Environment, tmp_path: Path) -> None:
    environment.set_weight(500)
    elsewhere = copy(environment)
    elsewhere.folder, elsewhere.store = tmp_path / "new", tmp_path / "new" / "dropout.db"
    arguments = ["restore-backup", str(environment.backup), "--store", f"sqlite:{elsewhere.store}"]
    assert "its folder is not there; make it first" in str(CliRunner().invoke(cli, arguments).exception)
    elsewhere.folder.mkdir()
    assert elsewhere.run("restore-backup") == ""
    assert sorted(path.name for path in elsewhere.folder.iterdir()) == [
        "dropout.db",
        *(f"dropout.db.{part}" for part in PARTS),
    ]
    assert elsewhere.weight() == 0
    assert [elsewhere.part(name).read_text() for name in ("ids", "token")] == ["ids of then", "token of then"]


def test_a_store_that_is_there_is_replaced_only_when_told(environment: Environment) -> None:
    environment.set_weight(500)
    environment.part("ids").write_text("ids of now")
    assert environment.run("restore-backup") == "store_exists"
    assert environment.named == str(environment.store)
    assert (environment.weight(), environment.part("ids").read_text()) == (500, "ids of now")
    assert environment.run("restore-backup", "--replace") == ""
    assert (environment.weight(), environment.part("ids").read_text()) == (0, "ids of then")
    environment.store.unlink()
    assert environment.run("restore-backup") == "store_exists"


def test_nothing_of_the_store_before_is_left_beside_the_one_that_takes_its_place(environment: Environment) -> None:
    """A part that the backup lacks would be of another store than all the rest; what goes is named."""
    later = ("feedback", "observed", "key", "token")
    shutil.rmtree(environment.backup)
    parts = {name: environment.part(name).read_bytes() for name in later}
    for name in later:
        environment.part(name).unlink()
    assert environment.run("backup") == ""
    for name, content in parts.items():
        environment.part(name).write_bytes(content)
    environment.part("feedback").with_name("dropout.db.feedback-wal").touch()
    command = ["restore-backup", str(environment.backup), "--store", f"sqlite:{environment.store}", "--replace"]
    said = CliRunner().invoke(cli, command).output
    assert "what it does not have is removed: feedback, observed, key, token" in said
    left = {path.name for path in environment.folder.glob("dropout.db.*")}
    assert left == {"dropout.db.ids", "dropout.db.safety"}
    assert json.loads(CliRunner().invoke(cli, [*command, "-o", "json"]).output)["removed"] == []


def test_what_this_host_holds_outlives_a_restore_and_the_store_is_told_of_it_again(environment: Environment) -> None:
    since = KILL._replace(id="22ec75e8f6ad02c1")
    environment.hold(since)
    assert environment.run("restore-backup", "--replace") == ""
    held = peek(environment.part("safety"))
    assert held == {kill.key: kill._replace(stored=False) for kill in (KILL, since)}


def test_nobody_waits_for_the_observers_of_a_backup(environment: Environment) -> None:
    assert environment.run("restore-backup", "--replace") == ""
    with closing(ObservationsReader(environment.part("observed"), SystemClock())) as reader:
        assert [report.over for report in reader.reports()] == [True]


def test_nothing_is_put_under_who_has_the_store_open_if_only_to_read(environment: Environment) -> None:
    reader = "import sys; from extproc.adapters.stores import open_store as o; s = o(sys.argv[1]); print(); input()"
    command = [sys.executable, "-c", reader, f"sqlite:{environment.store}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert environment.run("restore-backup", "--replace") == "store_in_use"
        assert environment.named == str(environment.store)
        process.stdin.close()
    assert environment.run("restore-backup", "--replace") == ""


BAD: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "it was not finished": ("backup_missing", lambda folder: (folder / "backup.json").unlink()),
    "a file is another": ("backup_damaged", lambda folder: (folder / "token").write_text("token of mine")),
    "a file is gone": ("restore_failed", lambda folder: (folder / "token").unlink()),
    "the kills of its host are others": ("backup_damaged", lambda folder: os.truncate(folder / "safety", 100)),
    "the kills of its host are gone": ("restore_failed", lambda folder: (folder / "safety").unlink()),
    "the store is cut off": ("backup_damaged", lambda folder: os.truncate(folder / "store", 4096)),
    "the list is nonsense": ("backup_damaged", lambda folder: (folder / "backup.json").write_text("[1]")),
    "the list is no JSON": ("backup_damaged", lambda folder: (folder / "backup.json").write_text("{")),
    "a name leads elsewhere": (
        "backup_unknown",
        lambda folder: (folder / "backup.json").write_text(
            '{"version": 1, "at": 0, "digests": {"store": "", "../../x": ""}}'
        ),
    ),
    "it is of a later version": (
        "backup_unknown",
        lambda folder: (folder / "backup.json").write_text('{"version": 2, "at": 0, "digests": {"store": ""}}'),
    ),
    "others may have written it": ("backup_untrusted", lambda folder: folder.chmod(0o777)),
}


@pytest.mark.parametrize(("code", "damage"), BAD.values(), ids=BAD)
def test_a_backup_that_is_no_good_changes_nothing(
    code: str, damage: Callable[[Path], Any], environment: Environment
) -> None:
    damage(environment.backup)
    before = {path: path.read_bytes() for path in environment.folder.iterdir() if path.is_file()}
    assert environment.run("restore-backup", "--replace") == code
    assert {path: path.read_bytes() for path in environment.folder.iterdir() if path.is_file()} == before


def test_a_backup_has_a_folder_of_its_own_and_is_of_a_store_that_can_be_read(environment: Environment) -> None:
    assert environment.run("backup") == "backup_exists"
    environment.backup = environment.folder / "another"
    environment.part("token").unlink()
    environment.part("token").mkdir()
    assert environment.run("backup") == "backup_failed"
    assert environment.run("restore-backup", "--replace") == "backup_missing"
    environment.backup = environment.folder / "third"
    environment.store.write_bytes(b"nonsense" * 1000)
    assert environment.run("backup") == "store_corrupt"
    assert not environment.backup.exists()
