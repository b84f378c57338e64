"""The file of feedback: what it keeps when its process, its disk or its name goes."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.feedback import Code, LabelEntry, LabelTally
from extproc.errors import DropoutError
from tests.support.paths import ROOT

TALLY = LabelTally("payments/fraud-detector", 1, "canary", 7)

WRITER = """
import sys
from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.control.feedback import LabelEntry, LabelTally

store = SqliteFeedback(sys.argv[1])
for batch in range(10_000):
    entries = [
        LabelEntry((batch * 50 + n).to_bytes(13), 1, LabelTally("a/b", 1, "canary", n % 8), n % 4, {"amount": 1.0})
        for n in range(50)
    ]
    codes = store.record(entries, 0.0)
    print(batch, codes.count("recorded"), flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db.feedback"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteFeedback]:
    store = SqliteFeedback(path, create=True)
    yield store
    store.close()


def entry(number: int, tally: LabelTally = TALLY) -> LabelEntry:
    return LabelEntry(number.to_bytes(13, "big"), 1, tally, 0, {"amount": 2.0})


def labels(store: SqliteFeedback) -> int:
    return sum(arm.total().labels for arm in store.labels(TALLY.rollout, TALLY.epoch).values())


def code_of(store: SqliteFeedback, number: int = 1) -> str:
    with pytest.raises(DropoutError) as raised:
        store.record([entry(number)], 0.0)
    return raised.value.code


def test_the_file_is_its_owners_and_is_found_again(path: Path) -> None:
    for round_ in range(3):
        store = SqliteFeedback(path, create=True)
        assert store.record([entry(1), entry(2 + round_)], 0.0)[0] is (Code.DUPLICATE if round_ else Code.RECORDED)
        store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store = SqliteFeedback(path)
    assert labels(store) == 4
    store.close()


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_point_leaves_counts_that_agree_with_its_ids(path: Path) -> None:
    SqliteFeedback(path, create=True).close()
    answered = 0
    for round_ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert writer.stdout is not None
        for line in writer.stdout:  # everything is sent again from the start, as by a caller that had no answer
            batch, recorded = map(int, line.split())
            answered = max(answered, batch + 1)
            if recorded and batch >= 10 * (round_ + 1):
                break
        time.sleep(0.001 * round_)
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().splitlines()
        answered = max([answered, *(int(line.split()[0]) + 1 for line in said if len(line.split()) == 2)])
        writer.wait()
        writer.stdout.close()
        store = SqliteFeedback(path)
        (ids,) = store._read().execute("SELECT count(*) FROM ids").fetchone()
        found = store.labels("a/b", 1)["canary"]
        assert ids == found.total().labels == found.outcome("amount").count
        assert ids % 50 == 0  # all of a batch, or nothing
        assert ids >= answered * 50  # what was answered is there
        store.close()
    assert answered > 50


def test_two_that_write_at_once_count_everything_once(store: SqliteFeedback, path: Path) -> None:
    other = SqliteFeedback(path)
    for number in range(50):
        store.record([entry(number), entry(number + 1)], 0.0)
        other.record([entry(number + 1), entry(number)], 0.0)
    assert labels(store) == labels(other) == 51
    other.close()


def test_a_reader_sees_what_another_process_wrote(store: SqliteFeedback, path: Path) -> None:
    reader = SqliteFeedback(path)
    assert labels(reader) == 0
    store.record([entry(1)], 0.0)
    assert labels(reader) == 1
    reader.close()


def test_old_ids_go_in_portions(store: SqliteFeedback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.adapters.sqlite.feedback.FORGET_AT_ONCE", 100)
    store.record([entry(n) for n in range(300)], 0.0)
    left = []
    for _ in range(4):
        store.record([], 1e6)
        left += store._read().execute("SELECT count(*) FROM ids").fetchone()
    assert left == [200, 100, 0, 0]
    assert labels(store) == 300


def test_a_file_that_is_not_there_is_not_made_by_who_reads(path: Path) -> None:
    with pytest.raises(DropoutError) as raised:
        SqliteFeedback(path)
    assert raised.value.code == "feedback_store_unreachable"
    assert str(path) in raised.value.faults[0].message
    assert not path.exists()


def test_another_kind_of_file_is_left_alone(path: Path) -> None:
    SqliteStore(path, create=True).close()
    before = path.read_bytes()
    with pytest.raises(DropoutError) as raised:
        SqliteFeedback(path, create=True)
    assert raised.value.code == "feedback_store_incompatible"
    assert path.read_bytes() == before
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DropoutError) as raised:
        SqliteFeedback(path, create=True)
    assert raised.value.code == "feedback_store_corrupt"


def test_a_file_that_is_gone_is_said_so_until_there_is_one_again(store: SqliteFeedback, path: Path) -> None:
    store.record([entry(1)], 0.0)
    backup = path.with_name("backup")
    shutil.move(path, backup)
    assert code_of(store) == "feedback_store_unreachable"
    SqliteFeedback(path, create=True).close()
    assert store.record([entry(1)], 0.0) == [Code.RECORDED]
    assert labels(store) == 1


def test_a_locked_file_counts_nothing_and_later_everything(path: Path) -> None:
    store = SqliteFeedback(path, create=True, wait=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert code_of(store) == "feedback_store_locked"
    assert labels(store) == 0
    holder.execute("ROLLBACK")
    holder.close()
    assert store.record([entry(1)], 0.0) == [Code.RECORDED]
    store.close()


def test_a_full_disk_counts_nothing_and_later_everything(
    store: SqliteFeedback, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = store._file.connect

    def bounded(mode: str) -> sqlite3.Connection:
        connection = connect(mode)
        connection.execute("PRAGMA max_page_count = 12")
        return connection

    many = [entry(n, TALLY._replace(group=n % 256)) for n in range(1000)]
    with monkeypatch.context() as full:
        full.setattr(store._file, "connect", bounded)
        with pytest.raises(DropoutError) as raised:
            store.record(many, 0.0)
    assert raised.value.code == "feedback_store_full"
    assert labels(store) == 0
    assert set(store.record(many, 0.0)) == {Code.RECORDED}
