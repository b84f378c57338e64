"""A followed folder: the last good of each file stands, and what leaves is deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.sqlite_store import SqliteStore
from extproc.control.actions import Apply, SetWeight, act
from extproc.control.folder import FollowedFolder
from extproc.errors import Unreachable
from extproc.resources.loading import load_paths
from tests.support.clock import FakeClock
from tests.support.damage import damage
from tests.support.rollouts import CANARY, document


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db"


@pytest.fixture
def store(path: Path) -> SqliteStore:
    return SqliteStore(path, create=True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "rollouts"
    made.mkdir()
    return made


@pytest.fixture
def folder(store: SqliteStore, directory: Path) -> FollowedFolder:
    return FollowedFolder(store, directory, FakeClock())


def text(*names: str, path: str | None = None, **changes: Any) -> str:
    """Documents with these names, each with a path of its own unless one is given."""
    return yaml.safe_dump_all(
        document({**CANARY, "match": [{"path": {"value": path or f"/{name}"}}], **changes}, name) for name in names
    )


def names(store: SqliteStore) -> list[str]:
    return [row.name for row in store.documents().rollouts]


def codes(faults: Iterable[Any]) -> list[str]:
    return [fault.code for fault in faults]


def test_what_is_in_the_folder_is_applied(folder: FollowedFolder, store: SqliteStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a", "b"))
    (directory / "sub").mkdir()
    (directory / "sub" / "c.yml").write_text(text("c"))
    (directory / ".hidden.yaml").write_text(text("hidden"))
    (directory / "notes.txt").write_text("not a document")
    report = folder.sync()
    assert (sorted(report.applied), report.unchanged, report.deleted, report.faults) == (
        ["payments/a", "payments/b", "payments/c"],
        0,
        (),
        {},
    )
    row = store.get("payments", "c")
    assert row is not None
    assert row.source == str(directory / "sub" / "c.yml")
    assert store.history("payments", "a")[0].actor == f"folder:{directory}"


def test_a_folder_applied_again_does_nothing(store: SqliteStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    FollowedFolder(store, directory, FakeClock()).sync()
    act(store, "alice", SetWeight("payments", "a", 500), FakeClock())
    before = store.documents()
    report = FollowedFolder(store, directory, FakeClock()).sync()
    assert (report.applied, report.unchanged) == ((), 1)
    assert store.documents() == before
    assert len(store.history("payments", "a")) == 2


def test_changes_are_noticed_without_reading(folder: FollowedFolder, directory: Path) -> None:
    assert folder.changed()
    folder.sync()
    assert not folder.changed()
    file = directory / "a.yaml"
    file.write_text(text("a"))
    assert folder.changed()
    folder.sync()
    assert not folder.changed()
    os.utime(file, (1, 1))
    assert folder.changed()
    folder.sync()
    file.unlink()
    assert folder.changed()


def test_only_files_that_changed_are_read(
    folder: FollowedFolder, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    read: list[str] = []
    monkeypatch.setattr("extproc.control.folder.load_paths", lambda paths: read.extend(paths) or load_paths(paths))
    (directory / "b.yaml").write_text(text("b", seed="another"))
    assert folder.sync().applied == ("payments/b",)
    assert read == [str(directory / "b.yaml")]


def test_a_broken_file_keeps_its_rollouts_and_holds_up_nobody(
    folder: FollowedFolder, store: SqliteStore, directory: Path
) -> None:
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    (directory / "a.yaml").write_text("spec: [")
    (directory / "b.yaml").write_text(text("b", canary={"version": "5"}))
    (directory / "c.yaml").write_text(text("c"))
    report = folder.sync()
    assert report.applied == ("payments/b", "payments/c")
    assert list(report.faults) == [str(directory / "a.yaml")]
    assert names(store) == ["a", "b", "c"]
    (directory / "a.yaml").write_text(text("a", seed="mended"))
    assert folder.sync().applied == ("payments/a",)


def test_a_damaged_row_holds_up_its_own_file_alone(
    folder: FollowedFolder, store: SqliteStore, directory: Path, path: Path
) -> None:
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    damage(path, "a")
    for name in "abc":
        (directory / f"{name}.yaml").write_text(text(name, seed="another"))
    report = folder.sync()
    assert report.applied == ("payments/b", "payments/c")
    assert {file: codes(faults) for file, faults in report.faults.items()} == {
        str(directory / "a.yaml"): ["store_corrupt"]
    }
    assert names(store) == ["b", "c"]
    assert folder.changed()
    act(store, "alice", Apply(load_paths([directory / "a.yaml"]).documents, repair=True), FakeClock())
    assert folder.sync().faults == {}
    assert not folder.changed()
    (directory / "a.yaml").unlink()
    assert folder.sync().deleted == ("payments/a",)


def test_of_a_file_with_one_bad_document_none_is_applied(
    folder: FollowedFolder, store: SqliteStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a") + "---\nkind: Rollout\n")
    report = folder.sync()
    assert report.applied == ()
    assert report.faults
    assert names(store) == []


def test_a_rollout_in_a_file_broken_across_a_restart_stays(store: SqliteStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    FollowedFolder(store, directory, FakeClock()).sync()
    (directory / "a.yaml").write_text("")
    report = FollowedFolder(store, directory, FakeClock()).sync()
    assert codes(report.faults[str(directory / "a.yaml")]) == ["no_documents"]
    assert names(store) == ["a"]


def test_a_file_that_leaves_deletes_what_it_applied_and_nothing_else(
    folder: FollowedFolder, store: SqliteStore, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "by-hand.yaml").write_text(text("by-hand"))
    act(store, "alice", Apply(load_paths([tmp_path / "by-hand.yaml"]).documents), FakeClock())
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    (directory / "a.yaml").unlink()
    assert folder.sync().deleted == ("payments/a",)
    assert names(store) == ["b", "by-hand"]


def test_a_document_that_leaves_its_file_is_deleted(
    folder: FollowedFolder, store: SqliteStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a", "b"))
    folder.sync()
    (directory / "a.yaml").write_text(text("b"))
    assert folder.sync().deleted == ("payments/a",)


def test_a_document_that_moves_to_another_file_stays(
    folder: FollowedFolder, store: SqliteStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    (directory / "a.yaml").rename(directory / "b.yaml")
    report = folder.sync()
    assert (report.applied, report.unchanged, report.deleted) == ((), 1, ())
    (directory / "b.yaml").unlink()
    assert folder.sync().deleted == ("payments/a",)


def test_a_rollout_renamed_in_its_file_takes_its_own_place(
    folder: FollowedFolder, store: SqliteStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("before", path="/same"))
    folder.sync()
    (directory / "a.yaml").write_text(text("after", path="/same"))
    report = folder.sync()
    assert (report.applied, report.deleted, report.faults) == (("payments/after",), ("payments/before",), {})


def test_a_newcomer_that_collides_is_refused_and_the_accepted_stays(
    folder: FollowedFolder, store: SqliteStore, directory: Path
) -> None:
    (directory / "z.yaml").write_text(text("z", path="/same"))
    folder.sync()
    (directory / "a.yaml").write_text(text("a", path="/same"))
    (directory / "b.yaml").write_text(text("b"))
    report = folder.sync()
    assert report.applied == ("payments/b",)
    assert {file: codes(faults) for file, faults in report.faults.items()} == {
        str(directory / "a.yaml"): ["match_collision"]
    }
    assert names(store) == ["b", "z"]


def test_a_document_that_moves_to_another_file_and_collides_there_stays_as_it_was(
    folder: FollowedFolder, store: SqliteStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    (directory / "z.yaml").write_text(text("z", path="/same"))
    folder.sync()
    (directory / "a.yaml").unlink()
    (directory / "b.yaml").write_text(text("a", path="/same"))
    report = folder.sync()
    assert (report.deleted, [codes(faults) for faults in report.faults.values()]) == ((), [["match_collision"]])
    assert names(store) == ["a", "z"]


def test_one_name_in_two_files_is_a_fault_of_one(folder: FollowedFolder, store: SqliteStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a", seed="one"))
    (directory / "b.yaml").write_text(text("a", seed="two"))
    report = folder.sync()
    assert (report.applied, [codes(f) for f in report.faults.values()]) == (("payments/a",), [["duplicate_rollout"]])


def test_an_emptied_folder_deletes_what_it_applied(folder: FollowedFolder, store: SqliteStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    (directory / "a.yaml").unlink()
    report = folder.sync()
    assert (report.deleted, report.faults) == (("payments/a",), {})


def test_a_folder_that_vanished_deletes_nothing(folder: FollowedFolder, store: SqliteStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    shutil.rmtree(directory)
    assert folder.changed()
    report = folder.sync()
    assert {place: codes(faults) for place, faults in report.faults.items()} == {str(directory): ["folder_missing"]}
    assert report.deleted == ()
    assert not folder.changed()
    assert names(store) == ["a"]


def test_a_part_of_the_folder_that_cannot_be_listed_deletes_nothing_of_it(
    folder: FollowedFolder, store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "sub").mkdir()
    (directory / "sub" / "a.yaml").write_text(text("a"))
    (directory / "b.yaml").write_text(text("b"))
    folder.sync()
    (directory / "b.yaml").unlink()
    original = os.scandir

    def scandir(place: Any) -> Any:
        if str(place).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(place))
        return original(place)

    monkeypatch.setattr(os, "scandir", scandir)
    report = folder.sync()
    assert report.deleted == ("payments/b",)
    assert codes(report.faults[str(directory / "sub")]) == ["folder_unreadable"]


def test_a_folder_that_may_be_listed_and_not_entered_deletes_nothing(
    folder: FollowedFolder, store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    real = {"stat": os.stat, "lstat": os.lstat}

    def closed(name: str) -> Any:
        def look(path: Any, **options: Any) -> os.stat_result:
            if str(path).startswith(f"{directory}/"):
                raise PermissionError(13, "Permission denied", str(path))
            found: os.stat_result = real[name](path, **options)
            return found

        return look

    with monkeypatch.context() as without_the_right:
        for name in real:
            without_the_right.setattr(os, name, closed(name))
        report = folder.sync()
    assert [fault.code for faults in report.faults.values() for fault in faults] == ["file_unreadable"]
    assert (report.deleted, names(store)) == ((), ["a"])
    assert folder.sync().faults == {}


def test_a_folder_that_goes_while_it_is_read_deletes_nothing(
    folder: FollowedFolder, store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    walk = os.walk

    def walk_too_slowly(*arguments: Any, **options: Any) -> Any:
        found = list(walk(*arguments, **options))
        directory.rename(directory.with_name("away"))
        return iter(found)

    with monkeypatch.context() as moved:
        moved.setattr(os, "walk", walk_too_slowly)
        assert folder.sync().deleted == ()
    assert names(store) == ["a"]


def test_a_link_that_leads_nowhere_deletes_nothing(
    folder: FollowedFolder, store: SqliteStore, directory: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target.yaml"
    target.write_text(text("a"))
    (directory / "a.yaml").symlink_to(target)
    folder.sync()
    target.unlink()
    report = folder.sync()
    assert codes(report.faults[str(directory / "a.yaml")]) == ["file_unreadable"]
    assert names(store) == ["a"]


def test_a_store_that_is_away_is_tried_again(folder: FollowedFolder, directory: Path, path: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    path.rename(path.with_suffix(".away"))
    with pytest.raises(Unreachable):
        folder.sync()
    assert folder.changed()
    path.with_suffix(".away").rename(path)
    assert folder.sync().applied == ("payments/a",)
    assert not folder.changed()


def test_a_store_that_was_put_in_the_place_of_another_is_followed(
    folder: FollowedFolder, store: SqliteStore, directory: Path, path: Path
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    for file in path.parent.glob("dropout.db*"):
        file.unlink()
    (directory / "b.yaml").write_text(text("b"))
    with pytest.raises(Unreachable) as gone:
        folder.sync()
    assert gone.value.code == "store_unreachable"
    other = SqliteStore(path, create=True)
    with pytest.raises(Unreachable) as empty:
        folder.sync()
    assert empty.value.code == "store_recreated"
    act(other, "backup", Apply(load_paths([directory / "a.yaml"]).documents), FakeClock())
    assert folder.sync().applied == ("payments/b",)
    assert names(other) == ["a", "b"]
