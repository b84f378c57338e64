"""A followed folder: the last good of each file stands; what leaves is missing first, and deleted if it stays away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.control.absence import NAMED, Grace
from extproc.control.acting import act
from extproc.control.actions import Apply, Delete, SetWeight
from extproc.control.as_json import timestamp
from extproc.control.folder import LARGE_BYTES, PATIENCE, FolderReport, FollowedFolder
from extproc.errors import Unreachable
from extproc.resources import kinds, loading
from extproc.resources.loading import LoadedFile, load_file, load_paths
from extproc.snapshot.holder import SnapshotHolder
from extproc.testing.memory_store import MemoryStore
from tests.support.clock import FakeClock
from tests.support.damage import damage
from tests.support.rollouts import CANARY, document

GRACE = Grace(one=10, many=300)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "rollouts"
    made.mkdir()
    return made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(store: MemoryStore, directory: Path, clock: FakeClock) -> FollowedFolder:
    return following(store, directory, clock)


def following(store: MemoryStore, directory: Path, clock: FakeClock | None = None) -> FollowedFolder:
    return FollowedFolder(store, directory, clock or FakeClock(), GRACE)


def looked(folder: FollowedFolder) -> FolderReport:
    """What it does at the looks that it takes to see that the folder rests."""
    found = FolderReport()
    for _ in range(3):
        if folder.changed():
            found = folder.sync()
    return found


def after(folder: FollowedFolder, clock: FakeClock, seconds: float) -> FolderReport:
    """What it does ``seconds`` after a look."""
    looked(folder)
    clock.advance(seconds)
    return looked(folder)


def text(*names: str, path: str | None = None, **changes: Any) -> str:
    """Documents with these names, each with a path of its own unless one is given."""
    return yaml.safe_dump_all(
        document({**CANARY, "match": [{"path": {"value": path or f"/{name}"}}], **changes}, name) for name in names
    )


def names(store: MemoryStore) -> list[str]:
    return [row.name for row in store.documents().rollouts]


def codes(faults: Iterable[Any]) -> list[str]:
    return [fault.code for fault in faults]


def test_what_is_in_the_folder_is_applied(folder: FollowedFolder, store: MemoryStore, directory: Path) -> None:
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


def test_a_folder_applied_again_does_nothing(store: MemoryStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    following(store, directory).sync()
    act(store, "alice", SetWeight("payments", "a", 500), FakeClock())
    before = store.documents()
    report = following(store, directory).sync()
    assert (report.applied, report.unchanged) == ((), 1)
    assert store.documents() == before
    assert len(store.history("payments", "a")) == 2


def test_an_edit_is_taken_once_it_rests(folder: FollowedFolder, directory: Path) -> None:
    assert folder.changed()
    folder.sync()
    assert not folder.changed()
    file = directory / "a.yaml"
    file.write_text(text("a"))
    assert [folder.changed(), folder.changed()] == [False, True]
    folder.sync()
    file.write_text("spec: [")
    assert not folder.changed()
    file.write_text(text("a", seed="whole"))
    assert [folder.changed(), folder.changed()] == [False, True]
    assert (folder.sync().applied, folder.changed()) == (("payments/a",), False)
    os.utime(file, (1, 1))
    assert [folder.changed(), folder.changed()] == [False, True]


def test_a_file_that_never_rests_holds_up_no_other_and_is_not_read_half(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    looked(folder)
    (directory / "b.yaml").write_text(text("b", seed="another"))
    (directory / "c.yaml").write_text(text("c"))
    applied: list[str] = []
    for look in range(2 * PATIENCE):
        (directory / "a.yaml").write_text("spec: [" + "#" * look)
        (directory / "c.yaml").rename(directory / f"c{look}.yaml")
        (directory / f"c{look}.yaml").rename(directory / "c.yaml")
        clock.advance(GRACE.many)
        if folder.changed():
            report = folder.sync()
            applied += report.applied
            assert (report.deleted, report.faults) == ((), {})
    assert (sorted(set(applied)), names(store)) == (["payments/b"], ["a", "b"])


def test_what_was_deleted_by_hand_is_applied_again_by_force_and_half_of_an_edit_is_not(
    folder: FollowedFolder, store: MemoryStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    looked(folder)
    act(store, "alice", Delete("payments", "a"), FakeClock())
    assert not folder.changed()
    (directory / "a.yaml").write_text("spec: [")
    assert folder.changed(force=True)
    report = folder.sync()
    assert (report.applied, report.faults) == (("payments/a",), {})


def test_only_files_that_changed_are_read(
    folder: FollowedFolder, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    read: list[str] = []

    def load(file: str, known: LoadedFile | None) -> LoadedFile:
        read.append(file)
        return load_file(file, known)

    monkeypatch.setattr("extproc.control.folder.load_file", load)
    (directory / "b.yaml").write_text(text("b", seed="another"))
    assert folder.sync().applied == ("payments/b",)
    assert read == [str(directory / "b.yaml")]


@pytest.mark.parametrize("content", [text("a"), "spec: [", "kind: Rollout\n" * 3], ids=["good", "no YAML", "bad"])
def test_a_content_is_parsed_once_whatever_is_wrong_with_it(
    folder: FollowedFolder, directory: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """Not at each look, and not when a ConfigMap or a checkout makes every file anew."""
    file = directory / "a.yaml"
    file.write_text(content)
    first = folder.sync()
    monkeypatch.setattr(loading, "read_documents", None)
    file.unlink()
    file.write_text(content)
    (directory / "b.txt").write_text("")
    again = looked(folder)
    assert (again.faults, again.applied) == (first.faults, ())
    assert folder.changed(force=True)
    assert folder.sync().faults == first.faults


def large(*names: str, **changes: Any) -> str:
    """Documents in a file that is taken by itself; the more names, the larger."""
    return text(*names, **changes) + ("#" * 99 + "\n") * (LARGE_BYTES // 100 + 10 * len(names))


def test_large_files_hold_up_no_other_and_come_one_by_one(folder: FollowedFolder, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    (directory / "l.yaml").write_text(large("l"))
    assert sorted(folder.sync().applied) == ["payments/a", "payments/l"], "the first time everything is applied"
    (directory / "a.yaml").write_text(text("a", seed="new"))
    (directory / "b.yaml").write_text(text("b"))
    (directory / "l.yaml").write_text(large("l", "m", "n", seed="new"))
    (directory / "o.yaml").write_text("spec: [" + large("o"))
    assert [folder.changed(), folder.changed()] == [False, True]
    report = folder.sync()
    assert (sorted(report.applied), report.faults) == (["payments/a", "payments/b"], {})
    assert folder.changed()
    assert list(folder.sync().faults) == [str(directory / "o.yaml")]
    (directory / "c.yaml").write_text(text("c"))
    assert [folder.changed(), folder.changed()] == [False, True]
    assert folder.sync().applied == ("payments/c",), "others come between two large ones"
    assert folder.changed()
    assert sorted(folder.sync().applied) == ["payments/l", "payments/m", "payments/n"]
    assert not folder.changed()


def test_nothing_is_deleted_while_a_large_file_waits(store: MemoryStore, directory: Path) -> None:
    pruning = FollowedFolder(store, directory, FakeClock(), Grace(0, 0))
    (directory / "a.yaml").write_text(large("a"))
    (directory / "b.yaml").write_text(text("b"))
    pruning.sync()
    (directory / "a.yaml").rename(directory / "moved.yaml")
    (directory / "b.yaml").write_text(text("b", seed="new"))
    found = [pruning.sync() for _ in range(3) if pruning.changed() or pruning.changed()]
    assert [(report.applied, report.deleted, report.faults) for report in found] == [
        (("payments/b",), (), {}),
        ((), (), {}),
    ]
    assert names(store) == ["a", "b"]


def test_a_broken_file_keeps_its_rollouts_and_holds_up_nobody(
    folder: FollowedFolder, store: MemoryStore, directory: Path
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
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    damage(store.place, "a")
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
    assert after(folder, clock, GRACE.one).deleted == ("payments/a",)


def test_of_a_file_with_one_bad_document_none_is_applied(
    folder: FollowedFolder, store: MemoryStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a") + "---\nkind: Rollout\n")
    report = folder.sync()
    assert report.applied == ()
    assert report.faults
    assert names(store) == []


def test_a_rollout_in_a_file_broken_across_a_restart_stays(store: MemoryStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    following(store, directory).sync()
    (directory / "a.yaml").write_text("")
    report = following(store, directory).sync()
    assert codes(report.faults[str(directory / "a.yaml")]) == ["no_documents"]
    assert names(store) == ["a"]


def test_a_file_that_leaves_deletes_what_it_applied_and_nothing_else(
    folder: FollowedFolder, store: MemoryStore, directory: Path, tmp_path: Path, clock: FakeClock
) -> None:
    (tmp_path / "by-hand.yaml").write_text(text("by-hand"))
    act(store, "alice", Apply(load_paths([tmp_path / "by-hand.yaml"]).documents), FakeClock())
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    (directory / "a.yaml").unlink()
    assert after(folder, clock, GRACE.one).deleted == ("payments/a",)
    assert (names(store), folder.missing) == (["b", "by-hand"], 0)


def test_what_is_missing_is_said_at_once_and_stays_until_its_time_is_up(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    (directory / "a.yaml").unlink()
    report = looked(folder)
    assert [(fault.code, fault.file) for fault in report.missing] == [("document_missing", str(directory / "a.yaml"))]
    assert f"deleted at {timestamp(clock.now() + GRACE.one)} unless" in report.missing[0].message
    assert report.missing[0].message.endswith(": rollout payments/a")
    assert (report.deleted, report.faults, folder.missing) == ((), {}, 1)
    clock.advance(GRACE.one - 0.1)
    assert not folder.changed()
    assert names(store) == ["a", "b"]
    clock.advance(0.1)
    assert folder.changed()
    assert folder.sync().deleted == ("payments/a",)


def test_the_time_begins_anew_when_a_document_was_back(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    for _ in range(5):
        (directory / "a.yaml").unlink()
        assert after(folder, clock, GRACE.one - 0.1).deleted == ()
        (directory / "a.yaml").write_text(text("a"))
        assert (looked(folder).missing, folder.missing) == ((), 0)
    assert [entry.action for entry in store.history("payments", "a")] == ["apply"]


def test_what_is_back_when_its_time_is_up_is_not_deleted(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    for name in "ab":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    (directory / "a.yaml").unlink()
    looked(folder)
    clock.advance(GRACE.one)
    (directory / "a.yaml").write_text(text("a"))
    assert not folder.changed()
    assert (looked(folder).deleted, names(store)) == ((), ["a", "b"])


def _emptied(directory: Path) -> None:
    for file in directory.glob("*.yaml"):
        file.unlink()


def _halved(directory: Path) -> None:
    for name in "abc":
        (directory / f"{name}.yaml").unlink()


def _another(directory: Path) -> None:
    """What a volume leaves that is not mounted any more, or a link that leads elsewhere: another folder."""
    directory.rename(directory.with_name("before"))
    directory.mkdir()
    for name in "bcde":
        (directory / f"{name}.yaml").write_text((directory.with_name("before") / f"{name}.yaml").read_text())


@pytest.mark.parametrize("lose", [_emptied, _halved, _another])
def test_a_folder_that_lacks_much_deletes_after_the_longer_time(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock, lose: Callable[[Path], None]
) -> None:
    for name in "abcde":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    lose(directory)
    report = after(folder, clock, GRACE.many - 0.1)
    assert (report.deleted, names(store)) == ((), list("abcde"))
    assert after(folder, clock, 0.1).deleted != ()


def test_a_folder_that_comes_back_file_by_file_does_not_lose_its_last_ones(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    for name in "abcd":
        (directory / f"{name}.yaml").write_text(text(name))
    folder.sync()
    _emptied(directory)
    for name in "abc":
        assert after(folder, clock, GRACE.one * 2).deleted == ()
        (directory / f"{name}.yaml").write_text(text(name))
    assert after(folder, clock, GRACE.one * 2).deleted == ()
    assert names(store) == list("abcd")


def test_a_part_of_the_folder_that_was_emptied_deletes_after_the_longer_time(
    folder: FollowedFolder, directory: Path, clock: FakeClock
) -> None:
    (directory / "sub").mkdir()
    for name in ("a", "b", "c", "sub/d", "sub/e"):
        (directory / f"{name}.yaml").write_text(text(name[-1]))
    folder.sync()
    shutil.rmtree(directory / "sub")
    assert after(folder, clock, GRACE.many - 0.1).deleted == ()
    assert after(folder, clock, 0.1).deleted == ("payments/d", "payments/e")


def test_many_that_are_missing_are_counted_in_one_sentence(folder: FollowedFolder, directory: Path) -> None:
    for number in range(NAMED + 2):
        (directory / f"{number}.yaml").write_text(text(f"r{number}"))
    folder.sync()
    _emptied(directory)
    (fault,) = looked(folder).missing
    assert (fault.file, fault.message.count("rollout payments/"), fault.message[-11:]) == (
        str(directory),
        NAMED,
        " and 2 more",
    )


def test_a_start_on_a_folder_that_lacks_documents_waits_too(
    store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    following(store, directory).sync()
    (directory / "a.yaml").unlink()
    folder = following(store, directory, clock)
    assert codes(folder.sync().missing) == ["document_missing"]
    assert (after(folder, clock, GRACE.many - 0.1).deleted, names(store)) == ((), ["a"])
    assert after(folder, clock, 0.1).deleted == ("payments/a",)


def test_to_prune_is_to_wait_for_nothing_but_rest(store: MemoryStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    following(store, directory).sync()
    (directory / "a.yaml").unlink()
    pruning = FollowedFolder(store, directory, FakeClock(), Grace(0, 0))
    assert (pruning.sync().deleted, names(store)) == ((), ["a"])
    assert (looked(pruning).deleted, names(store)) == (("payments/a",), [])


def test_a_document_that_leaves_its_file_is_deleted(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    (directory / "a.yaml").write_text(text("a", "b"))
    folder.sync()
    (directory / "a.yaml").write_text(text("b"))
    assert after(folder, clock, GRACE.one).deleted == ("payments/a",)


def test_a_document_that_moves_to_another_file_stays(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    (directory / "a.yaml").rename(directory / "b.yaml")
    report = folder.sync()
    assert (report.applied, report.unchanged, report.deleted, report.missing) == ((), 1, (), ())
    (directory / "b.yaml").unlink()
    assert after(folder, clock, GRACE.many).deleted == ("payments/a",)


def test_a_rollout_renamed_in_its_file_takes_its_own_place(
    folder: FollowedFolder, store: MemoryStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("before", path="/same"))
    folder.sync()
    (directory / "a.yaml").write_text(text("after", path="/same"))
    report = folder.sync()
    assert (report.applied, report.deleted, report.faults) == (("payments/after",), ("payments/before",), {})


def test_a_newcomer_that_collides_is_refused_and_the_accepted_stays(
    folder: FollowedFolder, store: MemoryStore, directory: Path
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
    folder: FollowedFolder, store: MemoryStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    (directory / "z.yaml").write_text(text("z", path="/same"))
    folder.sync()
    (directory / "a.yaml").unlink()
    (directory / "b.yaml").write_text(text("a", path="/same"))
    report = folder.sync()
    assert (report.deleted, [codes(faults) for faults in report.faults.values()]) == ((), [["match_collision"]])
    assert names(store) == ["a", "z"]


def test_one_name_in_two_files_is_a_fault_of_one(folder: FollowedFolder, store: MemoryStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a", seed="one"))
    (directory / "b.yaml").write_text(text("a", seed="two"))
    report = folder.sync()
    assert (report.applied, [codes(f) for f in report.faults.values()]) == (("payments/a",), [["duplicate_rollout"]])


def test_a_folder_that_vanished_deletes_nothing(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    shutil.rmtree(directory)
    report = looked(folder)
    assert {place: codes(faults) for place, faults in report.faults.items()} == {str(directory): ["folder_missing"]}
    assert (after(folder, clock, GRACE.many).deleted, folder.missing, names(store)) == ((), 0, ["a"])


def test_a_part_of_the_folder_that_cannot_be_listed_deletes_nothing_of_it(
    folder: FollowedFolder, store: MemoryStore, directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
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
    report = after(folder, clock, GRACE.many)
    assert (report.deleted, names(store)) == (("payments/b",), ["a"])
    assert codes(report.faults[str(directory / "sub")]) == ["folder_unreadable"]


def test_a_folder_that_may_be_listed_and_not_entered_deletes_nothing(
    folder: FollowedFolder, store: MemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
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
    folder: FollowedFolder, store: MemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    stat = os.stat

    def stat_too_late(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("a.yaml"):
            directory.rename(directory.with_name("away"))
        return stat(path, **options)

    with monkeypatch.context() as moved:
        moved.setattr(os, "stat", stat_too_late)
        report = folder.sync()
    assert (codes(fault for faults in report.faults.values() for fault in faults), report.missing) == (
        ["file_unreadable"],
        (),
    )
    assert names(store) == ["a"]


def test_a_link_that_leads_nowhere_deletes_nothing(
    folder: FollowedFolder, store: MemoryStore, directory: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target.yaml"
    target.write_text(text("a"))
    (directory / "a.yaml").symlink_to(target)
    folder.sync()
    target.unlink()
    report = folder.sync()
    assert codes(report.faults[str(directory / "a.yaml")]) == ["file_unreadable"]
    assert names(store) == ["a"]


@pytest.mark.parametrize("becomes", [False, True])
def test_a_folder_in_it_may_be_a_link_and_become_one(
    folder: FollowedFolder, store: MemoryStore, directory: Path, tmp_path: Path, clock: FakeClock, becomes: bool
) -> None:
    team = tmp_path / "team"
    team.mkdir()
    (team / "a.yaml").write_text(text("a"))
    if becomes:
        shutil.copytree(team, directory / "team")
    else:
        (directory / "team").symlink_to(team)
    assert folder.sync().applied == ("payments/a",)
    if becomes:
        shutil.rmtree(directory / "team")
        (directory / "team").symlink_to(team)
        assert (after(folder, clock, GRACE.many).deleted, folder.missing) == ((), 0)
    (team / "a.yaml").write_text(text("a", seed="edited"))
    assert looked(folder).applied == ("payments/a",)
    team.rename(tmp_path / "away")
    assert codes(looked(folder).faults[str(directory / "team")]) == ["file_unreadable"]
    assert (after(folder, clock, GRACE.many).deleted, names(store)) == ((), ["a"])


def test_a_file_that_two_paths_lead_to_is_read_once(folder: FollowedFolder, directory: Path) -> None:
    (directory / "z").mkdir()
    (directory / "z" / "a.yaml").write_text(text("a"))
    (directory / "b.yaml").symlink_to("z/a.yaml")
    (directory / "y").symlink_to("z")
    (directory / "z" / "up").symlink_to(directory)
    report = folder.sync()
    assert (report.applied, report.faults) == (("payments/a",), {})


def test_a_mounted_config_map_is_followed(folder: FollowedFolder, directory: Path, clock: FakeClock) -> None:
    def mount(number: int, *keys: str) -> None:
        """As the kubelet does it: the new files, one link that is replaced, then links for keys that came or went."""
        data = directory / f"..{number}"
        data.mkdir()
        for key in keys:
            (data / f"{key}.yaml").write_text(text(key, seed=f"s{number}"))
        (directory / "..new").symlink_to(data.name)
        (directory / "..new").replace(directory / "..data")
        for link in directory.glob("[a-z]*.yaml"):
            if link.stem not in keys:
                link.unlink()
        for key in keys:
            if not (directory / f"{key}.yaml").is_symlink():
                (directory / f"{key}.yaml").symlink_to(f"..data/{key}.yaml")

    mount(1, "a", "b", "c")
    assert folder.sync().applied == ("payments/a", "payments/b", "payments/c")
    mount(2, "a", "b")
    assert looked(folder).applied == ("payments/a", "payments/b")
    assert after(folder, clock, GRACE.one).deleted == ("payments/c",)


def test_a_store_that_is_away_is_tried_again(folder: FollowedFolder, store: MemoryStore, directory: Path) -> None:
    (directory / "a.yaml").write_text(text("a"))
    store.place.fault = "store_unreachable"
    with pytest.raises(Unreachable):
        folder.sync()
    assert folder.changed()
    store.place.fault = ""
    assert folder.sync().applied == ("payments/a",)
    assert not folder.changed()


def test_a_store_that_was_put_in_the_place_of_another_is_followed(
    folder: FollowedFolder, store: MemoryStore, directory: Path
) -> None:
    (directory / "a.yaml").write_text(text("a"))
    folder.sync()
    store.place.remove()
    (directory / "b.yaml").write_text(text("b"))
    with pytest.raises(Unreachable) as gone:
        folder.sync()
    assert gone.value.code == "store_unreachable"
    store.place.replace()
    other = MemoryStore(store.place)
    with pytest.raises(Unreachable) as empty:
        folder.sync()
    assert empty.value.code == "store_recreated"
    act(other, "backup", Apply(load_paths([directory / "a.yaml"]).documents), FakeClock())
    assert folder.sync().applied == ("payments/b",)
    assert names(other) == ["a", "b"]


def test_a_file_whose_features_are_waited_for_too_long_is_held_back_and_its_last_good_stands(
    store: MemoryStore, directory: Path
) -> None:
    folder = FollowedFolder(store, directory, FakeClock(), GRACE, deadline=4.0)
    features = {"entity": {"header": "x"}, "view": "v", "names": ["n"]}
    file = directory / "a.yaml"
    file.write_text(text("a", features={**features, "timeout": "4s"}))
    assert folder.sync().applied == ("payments/a",)
    file.write_text(text("a", features={**features, "timeout": "4100ms"}))
    assert codes(folder.sync().faults[str(file)]) == ["timeout_beyond_deadline"]
    (row,) = store.documents().rollouts
    assert row.document["spec"]["features"]["timeout"] == "4s"


def test_a_path_that_never_matches_is_named_and_what_the_store_took_before_is_served_on(
    store: MemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = directory / "a.yaml"
    paths = [{"path": {"value": "/v1//models"}}, {"path": {"value": "/v1/models"}}]
    file.write_text(text("a", match=paths))
    with monkeypatch.context() as before:
        before.setattr(kinds, "never_matched", lambda rollout: ())
        assert following(store, directory).sync().applied == ("payments/a",)
    report = following(store, directory).sync()
    assert codes(report.faults[str(file)]) == ["path_never_matches"]
    assert (report.deleted, report.missing) == ((), ())
    served = SnapshotHolder(store, FakeClock())
    served.load()
    (found,) = served.current.find("", "/v1/models", {})
    assert found.key == "payments/a"
