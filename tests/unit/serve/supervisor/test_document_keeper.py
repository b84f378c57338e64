"""The keeper of a folder of documents: how long those wait who have nothing to do with what takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from extproc.control.absence import MISSING
from extproc.errors import Fault
from extproc.serve.supervisor import document_keeper
from extproc.serve.supervisor.document_keeper import DocumentKeeper
from extproc.serve.supervisor.folder_faults import FolderFaults

POLL = 0.2
LOOK = 0.01
"""Seconds that a look takes at which there is nothing to do."""


class Folder:
    """What its looks find, and the time that goes by meanwhile."""

    missing = 0

    def __init__(self, looks: Sequence[tuple[float, Sequence[Fault] | None]]) -> None:
        self._looks: Iterator[tuple[float, Sequence[Fault] | None]] = iter(looks)
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sync(self, *, force: bool = False) -> Sequence[Fault] | None:
        took, found = next(self._looks)
        self.now += took
        return found


@pytest.mark.parametrize(
    ("took", "found", "pause"),
    [
        (LOOK, None, POLL),
        (0.1, None, 1.0),  # ten thousand files
        (7.0, [], POLL),  # a large document was applied
        (7.0, [Fault("unknown_field", "it is")], POLL),  # or is bad
    ],
)
async def test_what_a_document_takes_to_be_read_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch, took: float, found: Sequence[Fault] | None, pause: float
) -> None:
    folder, paused = Folder([(0.0, []), (LOOK, None), (took, found)]), list[float]()

    async def sleep(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            raise asyncio.CancelledError

    keeper = DocumentKeeper(
        lambda: folder, POLL, FolderFaults("documents", refused=lambda: None, warn=lambda _line: None)
    )
    await keeper.prepare()
    monkeypatch.setattr(document_keeper.time, "monotonic", folder.monotonic)
    monkeypatch.setattr(document_keeper.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await keeper.run()
    assert paused == pytest.approx([POLL, POLL, pause])


def test_a_fault_is_told_when_it_appears_and_not_because_another_did() -> None:
    said, refused = list[str](), list[str]()
    refusals = FolderFaults("documents", refused=lambda: refused.append("x"), warn=said.append)
    old, new = Fault("unknown_field", "old"), Fault("unknown_field", "new")
    for faults in ([old], [old], [old, new], [new], [old]):
        refusals.note(faults)
    assert [line.split()[1] for line in said] == ["old", "new", "old"]
    assert len(refused) == 4


def test_a_document_that_left_its_folder_is_told_of_and_is_no_refused_reload() -> None:
    said, refused = list[str](), list[str]()
    refusals = FolderFaults("rollouts", refused=lambda: refused.append("x"), warn=said.append, expected=[MISSING])
    missing, bad = Fault(MISSING, "it is missing"), Fault("unknown_field", "bad")
    for faults in ([missing], [], [bad], [bad, missing], [bad], []):
        refusals.note(faults)
    assert len([line for line in said if "it is missing" in line]) == 2
    assert len(refused) == 1, "the bad one, once"
