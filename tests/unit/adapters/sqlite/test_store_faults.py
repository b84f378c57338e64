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

from extproc.adapters.sqlite.file import SqliteFile
from extproc.adapters.sqlite.store import SqliteStore
from extproc.errors import DropoutError, Refused, Unreachable
from extproc.store.records import HistoryEntry, StoreLimits, TemplateWrite, UnreadableRollout, Write
from extproc.store.status import Status
from tests.support.damage import damage

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


def replaced(store: SqliteStore, path: Path, how: str) -> None:
    """Have another store, or an older copy of this one, in the place of ``store``, which it last saw at revision 3."""
    copy = path.with_name("copy.db")
    if how == "another store":
        made = SqliteStore(copy, create=True)
        put(made, "fraud")
        made.close()
    else:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    put(store, "later")
    if how == "a copy written into it":
        with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
    else:
        remove(path)
        copy.rename(path)


@pytest.mark.parametrize("how", ["another store", "a copy", "a copy written into it"])
def test_what_took_its_place_is_turned_to_and_given_whole_until_it_was_taken(
    store: SqliteStore, path: Path, how: str
) -> None:
    before = store.get("default", "fraud")
    documents_at = store.documents().revision
    assert before is not None
    replaced(store, path, how)
    with pytest.raises(Refused, match="at the same time"):
        store.write([Write("default", "fraud", before.resource_version, status=STATUS)])
    with pytest.raises(Refused, match="another document"):
        store.write([], documents_at=documents_at)
    # The revision is one that a follower of the first store may have had.
    assert store.changes(2) is not None
    changes = store.changes(2)
    assert changes is not None
    assert (changes.complete, changes.revision) == (True, 2)
    (row,) = changes.rollouts
    assert (row.name, row) == ("fraud", store.get("default", "fraud"))
    assert store.changes(2) is None
    (after,) = store.write([Write("default", "fraud", row.resource_version, status=replace(STATUS, step=1))])
    assert after.resource_version > row.resource_version > before.resource_version
    changes = store.changes(2)
    assert changes is not None
    assert not changes.complete
    assert list(changes.rollouts) == [after]


def test_changes_that_are_read_while_another_store_takes_the_place_end_there(store: SqliteStore, path: Path) -> None:
    for i in range(200):
        put(store, f"r{i}")
    changes = store.changes(0)
    assert changes is not None
    next(changes.rollouts)
    replaced(store, path, "another store")
    assert code_of(lambda: store.stops(0)) == "store_recreated"
    assert store.get("default", "fraud") is not None
    assert code_of(lambda: list(changes.rollouts)) == "store_recreated"
    whole = store.changes(0)
    assert whole is not None
    assert [row.name for row in whole.rollouts] == ["fraud"]


def test_letting_go_of_a_deleted_store_leaves_the_new_one_whole(path: Path) -> None:
    old = SqliteStore(path, create=True)
    put(old, "old")
    remove(path)
    new = SqliteStore(path, create=True)
    put(new, "new")
    old.close()
    assert path.with_name("dropout.db-wal").exists()
    assert [row.name for row in SqliteStore(path).documents().rollouts] == ["new"]


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


def test_a_deleted_row_that_cannot_be_read_is_gone_like_any_other(store: SqliteStore, path: Path) -> None:
    row = store.get("default", "fraud")
    assert row is not None
    (deleted,) = store.write([Write("default", "fraud", row.resource_version, delete=True)])
    damage(path, "fraud", seen=True)
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
        [Write("default", "fraud", row.resource_version, status=replace(row.status, step=1), history=[entry])],
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
    with pytest.raises(Unreachable, match=r"none/a\.db: it cannot be used: its folder is not there; make it first"):
        SqliteStore(tmp_path / "none" / "a.db", create=True)
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
        "from tests.unit.adapters.sqlite.test_store_faults import *\n"
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
    "from tests.unit.adapters.sqlite.test_store_faults import *\n"
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
        assert code_of(lambda: store.changes(0)) == "store_unreachable"
        assert code_of(lambda: SqliteStore(path)) == "store_unreachable"
        path.rmdir() if path.is_dir() else path.unlink()


def test_what_is_in_a_store_that_holds_more_than_it_takes_by_now_can_be_taken_away(path: Path) -> None:
    with closing(SqliteStore(path, create=True)) as store:
        put(store, "a")
    smaller = SqliteStore(path, limits=StoreLimits(rollouts=0, bytes=0))
    row = smaller.get("default", "a")
    assert row is not None
    (killed,) = smaller.write([Write("default", "a", row.resource_version, status=replace(STATUS, killed=True))])
    smaller.write([Write("default", "a", killed.resource_version, delete=True)])
