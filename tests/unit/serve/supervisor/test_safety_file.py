"""The file of kills and trips: whatever happens to a write, what stands there is what was before it or after it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import Unreachable
from extproc.serve.supervisor import safety_file as module
from extproc.serve.supervisor.safety_file import FILE_BYTES, SLOT_BYTES, SafetyFile, newest, packed, place_of
from extproc.snapshot.held import HeldEntry, HeldKey, HeldKill, HeldTrip, from_rows, joined, to_rows
from extproc.snapshot.trips import LocalTrip

TRIP = HeldTrip(LocalTrip("payments/fraud-detector", "4", 1, probing=True, probes=3, at=12.5, why="10 in a row"))
KILL = HeldKill("0f" * 8, "payments/fraud-detector", "alice", 1e9)

numbers = st.floats(0, 1e12)
trips = st.builds(LocalTrip, st.text(), st.text(), st.integers(1, 2**31), st.booleans(), st.integers(0, 99), numbers)
kills = st.builds(HeldKill, st.text(min_size=1), st.text(), st.text(), numbers, st.booleans(), st.text(), numbers)
entries = st.builds(HeldTrip, trips, st.booleans(), st.booleans(), numbers) | kills
held = st.lists(entries, max_size=5).map(lambda found: {entry.key: entry for entry in found})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def file(tmp_path: Path, said: list[str]) -> SafetyFile:
    return SafetyFile(tmp_path / "dropout.db.safety", said.append)


def put(file: SafetyFile, *entries: HeldEntry) -> None:
    file.update({entry.key: entry for entry in entries}, entries)


@given(held, held, st.data())
def test_a_torn_write_leaves_what_was_before_it(
    before: dict[HeldKey, HeldEntry], after: dict[HeldKey, HeldEntry], data: st.DataObject
) -> None:
    content = bytearray(FILE_BYTES)
    first, second = (packed(number, to_rows(state.values()))[0] for number, state in ((1, before), (2, after)))
    content[place_of(1) : place_of(1) + len(first)] = first
    written = data.draw(st.integers(0, len(second)))
    content[place_of(2) : place_of(2) + written] = second[:written]
    garbled = data.draw(st.sets(st.integers(0, max(0, written - 1)), max_size=3))
    for place in garbled if written < len(second) else ():
        content[place_of(2) + place] ^= 0xFF
    found = newest(bytes(content))
    assert found is not None
    assert found.held == (after if written == len(second) else before)


@given(held, held)
def test_entries_come_back_as_they_were_and_no_end_is_forgotten(
    one: dict[HeldKey, HeldEntry], two: dict[HeldKey, HeldEntry]
) -> None:
    assert from_rows(to_rows(one.values())) == one
    for key in one.keys() & two.keys():
        found, ours = one[key], two[key]
        after = joined(found, ours)
        if isinstance(found, HeldKill) and isinstance(ours, HeldKill) and isinstance(after, HeldKill):
            assert after.in_force == (found.in_force and ours.in_force)
            assert after.stored == (found.stored or ours.stored)


@given(held)
def test_what_a_newer_version_wrote_holds_by_what_is_known_of_it(one: dict[HeldKey, HeldEntry]) -> None:
    newer = [
        [kind, [*first, "more"] if kind == "trip" else first, *rest, {"more": 1}]
        for kind, first, *rest in to_rows(one.values())
    ]
    assert from_rows([["hold", "of another kind"], *newer]) == one


def test_what_was_put_there_is_read_by_whoever_starts(file: SafetyFile, said: list[str]) -> None:
    put(file, TRIP, KILL)
    file.update({TRIP.key: TRIP._replace(stored=True)}, ())
    assert SafetyFile(file.path, said.append).read() == {TRIP.key: TRIP._replace(stored=True), KILL.key: KILL}
    found = file.path.stat()
    assert (found.st_mode & 0o777, found.st_size, found.st_blocks * 512 >= FILE_BYTES) == (0o600, FILE_BYTES, True)
    assert said == []


def test_several_processes_add_to_it_and_see_what_the_others_added(file: SafetyFile, said: list[str]) -> None:
    other = SafetyFile(file.path, said.append)
    put(file, TRIP)
    put(other, KILL)
    assert file.read_if_changed() == {TRIP.key: TRIP, KILL.key: KILL}
    assert file.read_if_changed() is None
    other.update({TRIP.key: None}, ())
    assert file.read_if_changed() == {KILL.key: KILL}


def cut(path: Path) -> None:
    os.truncate(path, SLOT_BYTES)


def overwrite(path: Path) -> None:
    path.write_bytes(b"not ours" * 1000)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [cut, overwrite, link, pipe, Path.unlink])
def test_whatever_lies_there_is_no_traceback_and_is_made_anew(
    file: SafetyFile, said: list[str], spoil: Callable[[Path], object]
) -> None:
    put(file, TRIP)
    spoil(file.path)
    file.update({KILL.key: KILL}, [TRIP])
    assert SafetyFile(file.path, said.append).read() == {TRIP.key: TRIP, KILL.key: KILL}
    assert file.path.stat().st_size == FILE_BYTES
    assert len(said) == (spoil in (overwrite, link, pipe))


def test_a_folder_in_its_place_is_a_fault_with_a_code(file: SafetyFile) -> None:
    file.path.mkdir()
    with pytest.raises(Unreachable) as error:
        file.read()
    assert error.value.code == "safety_file_unusable"


def test_a_mode_that_lets_others_in_is_put_right(file: SafetyFile, said: list[str]) -> None:
    put(file, TRIP)
    file.path.chmod(0o644)
    assert SafetyFile(file.path, said.append).read() == {TRIP.key: TRIP}
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert len(said) == 1


def test_what_does_not_fit_is_told_and_kills_have_room_first(file: SafetyFile) -> None:
    many = [HeldTrip(LocalTrip(f"payments/{n}", "4", 1, why="x" * 1000), stored=n < 300) for n in range(600)]
    contents = file.update({entry.key: entry for entry in [*many, KILL]}, ())
    kept = file.read()
    assert KILL.key in kept
    assert contents.left_out == {entry.key for entry in many} - kept.keys()
    assert contents.left_out
    assert all(many[n].key in kept for n in range(300, 600))


def test_a_lock_that_is_not_let_go_is_waited_for_no_longer_than_said(
    file: SafetyFile, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.02)
    file.read()
    with file._locked(), pytest.raises(Unreachable):
        SafetyFile(file.path, said.append).read()


def test_a_disk_that_is_full_once_it_is_made_keeps_nothing_from_being_written(file: SafetyFile) -> None:
    file.read()
    code = (
        "import resource, sys; from pathlib import Path; from extproc.serve.supervisor.safety_file import *;"
        "from extproc.snapshot.held import *; resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES));"
        "kill = HeldKill('k', 'a/b', 'alice', 1.0); SafetyFile(Path(sys.argv[1]), print).update({'k': kill}, ())"
    )
    subprocess.run([sys.executable, "-c", code, str(file.path)], check=True, timeout=30)
    assert set(file.read()) == {"k"}


def test_a_disk_that_is_full_before_it_is_made_is_a_fault_and_is_tried_again(
    file: SafetyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(Unreachable):
            put(file, KILL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    put(file, KILL)
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]
