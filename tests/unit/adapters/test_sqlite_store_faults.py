"""A store that is gone, replaced, locked, broken, read-only or full answers with a stable code, never a traceback."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from extproc.adapters.sqlite_file import SqliteFile
from extproc.adapters.sqlite_store import SqliteStore
from extproc.errors import DropoutError, Refused, Unreachable
from extproc.snapshot.store import HistoryEntry, Remains, Status, TemplateWrite, UnreadableRollout, Write

STATUS = Status(stable="3", canary="4")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, create=True, wait=0.05)
    put(store, "fraud")
    yield store
    store.close()


def put(store: SqliteStore, name: str, size: int = 0) -> None:
    store.write([Write("default", name, None, document={"name": name, "pad": "x" * size}, status=STATUS)])


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(Unreachable) as unreachable:
        act()
    return unreachable.value.code


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_a_deleted_store_is_unreachable_for_readers_and_writers(store: SqliteStore, path: Path) -> None:
    remove(path)
    assert code_of(lambda: store.changes(0)) == "store_unreachable"
    assert code_of(lambda: store.get("default", "fraud")) == "store_unreachable"
    assert code_of(lambda: put(store, "other")) == "store_unreachable"
    assert code_of(store.reopen) == "store_unreachable"
    assert not path.exists()


def test_an_empty_store_in_its_place_is_never_taken(store: SqliteStore, path: Path) -> None:
    remove(path)
    new = SqliteStore(path, create=True)
    assert code_of(lambda: store.changes(0)) == "store_recreated"
    assert code_of(lambda: put(store, "other")) == "store_recreated"
    assert code_of(store.reopen) == "store_recreated"
    assert code_of(lambda: store.changes(0)) == "store_recreated"
    assert new.documents().rollouts == []


def test_a_store_in_its_place_that_holds_rollouts_can_be_taken(store: SqliteStore, path: Path) -> None:
    remove(path)
    put(SqliteStore(path, create=True), "new")
    assert code_of(lambda: store.changes(0)) == "store_recreated"
    store.reopen()
    changes = store.changes(0)
    assert changes is not None
    assert changes.complete
    assert [row.name for row in changes.rollouts] == ["new"]


def test_letting_go_of_a_deleted_store_leaves_the_new_one_whole(path: Path) -> None:
    old = SqliteStore(path, create=True)
    put(old, "old")
    remove(path)
    new = SqliteStore(path, create=True)
    put(new, "new")
    old.close()
    assert path.with_name("dropout.db-wal").exists()
    assert [row.name for row in SqliteStore(path).documents().rollouts] == ["new"]


def test_other_contents_in_the_same_file_are_another_store(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    made = SqliteStore(other, create=True)
    put(made, "b")
    made.close()
    source, target = sqlite3.connect(other), sqlite3.connect(path)
    source.backup(target)
    source.close()
    target.close()
    assert code_of(lambda: store.changes(0)) == "store_recreated"


def test_an_older_copy_of_the_store_is_reported_whole(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    copy = sqlite3.connect(tmp_path / "copy.db")
    original = sqlite3.connect(path)
    original.backup(copy)
    put(store, "later")
    before = store.changes(0)
    assert before is not None
    list(before.rollouts)
    copy.backup(original)
    changes = store.changes(before.revision)
    assert changes is not None
    assert changes.complete
    assert [row.name for row in changes.rollouts] == ["fraud"]


def test_a_writer_waits_for_another_only_so_long(store: SqliteStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert code_of(lambda: put(store, "other")) == "store_locked"
    assert store.get("default", "fraud") is not None
    other.execute("ROLLBACK")
    put(store, "other")


def test_a_store_locked_whole_cannot_be_opened(path: Path) -> None:
    SqliteStore(path, create=True).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    assert code_of(lambda: SqliteStore(path, wait=0.05)) == "store_locked"
    assert code_of(lambda: SqliteStore(path, create=True, wait=0.05)) == "store_locked"
    other.close()


@pytest.mark.parametrize(
    "content", [b"this is not a database, it is a letter" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_corrupt_and_left_alone(path: Path, content: bytes, create: bool) -> None:
    path.write_bytes(content)
    assert code_of(lambda: SqliteStore(path, create=create)) == "store_corrupt"
    assert path.read_bytes() == content


def test_a_store_cut_in_half_is_corrupt(path: Path) -> None:
    store = SqliteStore(path, create=True)
    for i in range(50):
        put(store, f"r{i}", size=2000)
    store.close()
    os.truncate(path, path.stat().st_size // 2)
    assert code_of(lambda: SqliteStore(path).documents()) == "store_corrupt"


def test_pages_overwritten_under_a_reader_are_corrupt(path: Path) -> None:
    store = SqliteStore(path, create=True)
    for i in range(50):
        put(store, f"r{i}", size=2000)
    store.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (path.stat().st_size - 8192))
    assert code_of(lambda: SqliteStore(path).documents()) == "store_corrupt"


def test_a_row_that_cannot_be_read_is_corrupt_and_the_others_are_read(store: SqliteStore, path: Path) -> None:
    put(store, "good")
    damage(path, "fraud")
    put(store, "better")
    assert code_of(lambda: store.get("default", "fraud")) == "store_corrupt"
    changes, documents = store.changes(0), store.documents()
    assert changes is not None
    read = {row.name: row for row in changes.rollouts}
    bad = read.pop("fraud")
    assert isinstance(bad, UnreadableRollout)
    assert (bad.key, bad.fault.code) == ("default/fraud", "store_corrupt")
    assert set(read) == {"good", "better"}
    assert {row.name for row in documents.rollouts} == {"good", "better"}
    assert list(documents.unreadable) == [bad]


@pytest.mark.parametrize(
    ("column", "left"),
    [
        ("document", "null"),
        ("document", "[]"),
        ("document", '"x"'),
        ("status", "{}"),
        ("status", '{"stable": "3", "phase": null}'),
        ("status", '{"stable": "3", "conditions": [1]}'),
        ("status", '{"stable": "3", "analysis": []}'),
        ("status", '{"stable": "3", "step_at": null}'),
        ("status", '{"stable": "3", "effective_at": 1e300}'),
        ("status", '{"stable": "3", "epoch": 9223372036854775807}'),
    ],
)
def test_json_that_is_not_what_belongs_there_cannot_be_read_either(
    store: SqliteStore, path: Path, column: str, left: str
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE rollouts SET {column} = ?", (left,))
        connection.commit()
    assert code_of(lambda: store.get("default", "fraud")) == "store_corrupt"
    assert [row.name for row in store.documents().unreadable] == ["fraud"]


def test_a_row_that_cannot_be_read_is_replaced_by_a_document_and_a_status_together_alone(
    store: SqliteStore, path: Path
) -> None:
    row = store.get("default", "fraud")
    assert row is not None
    damage(path, "fraud")
    (bad,) = store.documents().unreadable
    assert bad.resource_version == row.resource_version + 1
    for part in (
        Write("default", "fraud", bad.resource_version, status=STATUS),
        Write("default", "fraud", bad.resource_version, document={"a": 1}),
        Write("default", "fraud", bad.resource_version, delete=True),
    ):
        assert code_of(lambda part=part: store.write([part])) == "store_corrupt"
    whole = Write("default", "fraud", bad.resource_version, document={"a": 1}, status=STATUS)
    with pytest.raises(Refused, match="at the same time"):
        store.write([replace(whole, expect=bad.resource_version - 1)])
    assert list(store.documents().unreadable) == [bad]
    (row,) = store.write([whole])
    assert store.get("default", "fraud") == row
    assert list(store.documents().unreadable) == []


def test_of_a_row_that_cannot_be_read_a_kill_remains(store: SqliteStore, path: Path) -> None:
    assert store.remains("default", "fraud").last == STATUS
    damage(path, "fraud")
    stable = STATUS.stable
    last = Status(stable, stable, attempt=0, killed=True, spec_stable=stable)
    assert store.remains("default", "fraud") == Remains(epoch=STATUS.epoch, last=last)


def test_a_deleted_row_that_cannot_be_read_is_gone_like_any_other(store: SqliteStore, path: Path) -> None:
    row = store.get("default", "fraud")
    assert row is not None
    (deleted,) = store.write([Write("default", "fraud", row.resource_version, delete=True)])
    damage(path, "fraud")
    assert store.get("default", "fraud") is None
    changes = store.changes(deleted.resource_version)
    assert changes is not None
    (seen,) = changes.rollouts
    assert isinstance(seen, UnreadableRollout)
    assert seen.deleted
    put(store, "fraud")
    assert store.get("default", "fraud") is not None


@pytest.mark.parametrize("left", ["[[", "5", "null", "[1]", '[["a", 1, "b"]]'])
def test_what_is_damaged_in_templates_history_and_epochs_keeps_nothing_else_from_being_read(
    store: SqliteStore, path: Path, left: str
) -> None:
    row = store.get("default", "fraud")
    assert row is not None
    entry = HistoryEntry(1.0, "default", "fraud", "alice", "apply", "created", {"a": 1})
    store.write(
        [Write("default", "fraud", row.resource_version, status=row.status, history=[entry])],
        templates=[TemplateWrite("default", "errors", {"kind": "AnalysisTemplate"})],
    )
    with closing(sqlite3.connect(path)) as connection:
        for table, column in (("templates", "document"), ("history", "detail"), ("epochs", "arms")):
            assert connection.execute(f"UPDATE {table} SET {column} = ?", (left,)).rowcount == 1
        connection.commit()
    documents = store.documents()
    assert [(template.name, template.document) for template in documents.templates] == [("errors", {})]
    assert store.template("default", "errors") == documents.templates[0]
    assert [(found.message, found.detail) for found in store.history("default", "fraud")] == [("created", {})]
    assert [epoch.arms for epoch in store.epochs_of("default", "fraud")] == [()]
    store.write([], templates=[TemplateWrite("default", "errors", {"mended": True})])
    assert store.documents().templates[0].document == {"mended": True}


@pytest.mark.parametrize("left", ["soon", b"\xff\x00"])
def test_damaged_times_of_history_and_epochs_keep_nothing_else_from_being_read(
    store: SqliteStore, path: Path, left: str | bytes
) -> None:
    row = store.get("default", "fraud")
    assert row is not None
    entry = HistoryEntry(1.0, "default", "fraud", "alice", "apply", "created", {})
    later = replace(row.status, epoch=row.status.epoch + 1)
    store.write([Write("default", "fraud", row.resource_version, status=later, history=[entry])])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("UPDATE history SET at = ?", (left,)).rowcount == 1
        assert connection.execute("UPDATE epochs SET began = ? WHERE epoch = ?", (left, later.epoch)).rowcount == 1
        connection.commit()
    assert [(found.at, found.message) for found in store.history("default", "fraud")] == [(0.0, "created")]
    assert [epoch.epoch for epoch in store.epochs_of("default", "fraud")] == [row.status.epoch]


def test_changes_that_nobody_reads_to_their_end_may_outlive_the_store(path: Path) -> None:
    store = SqliteStore(path, create=True)
    put(store, "fraud")
    changes = store.changes(0)
    assert changes is not None
    assert next(changes.rollouts).name == "fraud"
    store.close()
    cast(Generator[object, None, None], changes.rollouts).close()


def damage(path: Path, name: str) -> None:
    """Leave half of a document, as a change."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET revision = revision + 1")
        connection.execute(
            "UPDATE rollouts SET document = '{', revision = (SELECT revision FROM meta) WHERE name = ?", (name,)
        )
        connection.commit()


def test_the_database_of_something_else_is_incompatible_and_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (a)")
    other.commit()
    other.close()
    before = path.read_bytes()
    for create in (True, False):
        assert code_of(lambda create=create: SqliteStore(path, create=create)) == "store_incompatible"
    assert path.read_bytes() == before


def test_a_store_of_a_later_version_is_read_by_every_version_that_it_names(path: Path) -> None:
    SqliteStore(path, create=True).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA user_version = 99")
        SqliteStore(path).close()
        other.execute("UPDATE compatibility SET min_reader = 99")
        assert code_of(lambda: SqliteStore(path)) == "store_incompatible"
        other.execute("DROP TABLE compatibility")
        assert code_of(lambda: SqliteStore(path)) == "store_incompatible"
        other.execute("PRAGMA user_version = 2")
        SqliteStore(path).close()


def test_a_missing_folder_a_folder_and_an_empty_file_are_unreachable(tmp_path: Path) -> None:
    assert code_of(lambda: SqliteStore(tmp_path / "none" / "a.db", create=True)) == "store_unreachable"
    assert code_of(lambda: SqliteStore(tmp_path, create=True)) == "store_unreachable"
    (tmp_path / "empty.db").touch()
    assert code_of(lambda: SqliteStore(tmp_path / "empty.db")) == "store_unreachable"


def test_a_full_store_keeps_what_it_had(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bounded(self: SqliteFile, mode: str) -> sqlite3.Connection:
        connection = original(self, mode)
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    original = SqliteFile.connect
    monkeypatch.setattr(SqliteFile, "connect", bounded)
    assert code_of(lambda: put(store, "large", size=200_000)) == "store_full"
    monkeypatch.undo()
    assert [row.name for row in store.documents().rollouts] == ["fraud"]
    put(store, "large", size=200_000)


def test_a_file_that_may_not_grow_is_full(path: Path) -> None:
    SqliteStore(path, create=True).close()
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.unit.adapters.test_sqlite_store_faults import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: put(store, 'large', size=1_000_000)\n"
        "except DropoutError as error: print(error.code)\n"
        "print([row.name for row in store.documents().rollouts])\n"
    )
    answer = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert answer.stdout.splitlines() == ["store_full", "[]"], answer.stderr


UNPRIVILEGED = (
    # All imports come first: the interpreter's own files may be out of that user's reach.
    "import os, sys, urllib.parse; from pathlib import Path\n"
    "from tests.unit.adapters.test_sqlite_store_faults import *\n"
    "os.getuid() == 0 and os.setresuid(65534, 65534, 65534)\n"
    "path = Path(sys.argv[1])\n"
    "def tried(act):\n"
    "    try: act(); print('done')\n"
    "    except DropoutError as error: print(error.code)\n"
)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, too."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(script: str, path: Path) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED + script, path], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def test_a_read_only_folder_takes_no_store(shared: Path) -> None:
    shared.chmod(0o555)
    assert as_nobody("tried(lambda: SqliteStore(path, create=True))", shared / "a.db") == ["store_read_only"]


def test_a_read_only_file_takes_no_write(shared: Path) -> None:
    path = shared / "a.db"
    store = SqliteStore(path, create=True)
    put(store, "fraud")
    path.chmod(0o444)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).chmod(0o444)
    script = "tried(lambda: put(SqliteStore(path), 'b'))\nprint(SqliteStore(path).get('default', 'fraud').name)"
    assert as_nobody(script, path) == ["store_read_only", "fraud"]
    store.close()


def test_a_store_without_its_log_in_a_read_only_folder_is_unreachable(shared: Path) -> None:
    path = shared / "a.db"
    SqliteStore(path, create=True).close()
    path.chmod(0o444)
    shared.chmod(0o555)
    assert as_nobody("tried(lambda: SqliteStore(path))", path) == ["store_unreachable"]


def test_errors_name_the_file(path: Path) -> None:
    with pytest.raises(DropoutError, match=str(path)):
        SqliteStore(path)


def test_every_error_of_sqlite_has_a_code(path: Path) -> None:
    def fail() -> None:
        with SqliteFile(path, "store", 0).mapped():
            raise sqlite3.ProgrammingError("closed")

    assert code_of(fail) == "store_unreachable"


@pytest.mark.parametrize(
    ("was", "now"),
    [(b'"stable":"3"', b'"stable":3'), (b'"weight":0', b'"weight":"0"'), (b'"canary":"4"', b'"canary":[]')],
)
def test_a_status_of_other_types_is_corrupt(store: SqliteStore, path: Path, was: bytes, now: bytes) -> None:
    with sqlite3.connect(path) as connection:
        (status,) = connection.execute("SELECT status FROM rollouts").fetchone()
        assert was in status
        connection.execute("UPDATE rollouts SET status = ?", (status.replace(was, now),))
    connection.close()
    assert code_of(lambda: store.get("default", "fraud")) == "store_corrupt"


@pytest.mark.parametrize("change", ["DELETE FROM meta", "UPDATE meta SET revision = 'x'"])
def test_a_store_without_its_revision_is_corrupt(store: SqliteStore, path: Path, change: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    assert code_of(lambda: store.changes(0)) == "store_corrupt"
    assert code_of(lambda: put(store, "other")) == "store_corrupt"


def test_what_is_no_file_is_not_opened(store: SqliteStore, path: Path) -> None:
    for make in (os.mkfifo, os.mkdir):
        remove(path)
        make(path)
        assert code_of(store.reopen) == "store_unreachable"
        assert code_of(lambda: SqliteStore(path)) == "store_unreachable"
        path.rmdir() if path.is_dir() else path.unlink()
