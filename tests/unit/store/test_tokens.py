"""A write whose answer was lost is tried again, and done once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.sqlite import tokens
from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.acting import act
from extproc.control.actions import Kill, SetWeight
from extproc.errors import Refused, Unreachable
from extproc.store.ports import RolloutStore
from extproc.store.records import StoredRollout, Write
from extproc.store.status import Status
from extproc.testing.memory_store import MemoryStore
from tests.support.reconciling import NAME, Environment


class Lossy:
    """A store whose first answer to a write is lost, ``before`` or after it was done; ``then`` others come."""

    def __init__(self, store: RolloutStore, then: Callable[[], object], *, done: bool) -> None:
        self._store = store
        self._then = then
        self._done = done
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, writes: Sequence[Write], **options: Any) -> Sequence[StoredRollout]:
        if self._lost:
            return self._store.write(writes, **options)
        self._lost = True
        if self._done:
            self._store.write(writes, **options)
            self._then()
        raise Unreachable.of("store_unreachable", "the connection was lost")


@pytest.mark.parametrize("done", [True, False])
def test_an_action_whose_answer_was_lost_is_done_once(tmp_path: Path, done: bool) -> None:
    environment = Environment(tmp_path)
    environment.apply(steps=())
    store: Any = Lossy(environment.store, lambda: None, done=done)
    (result,) = act(store, "alice", SetWeight(*NAME, 2500), environment.clock)
    assert (result.result, result.row) == ("configured", environment.row())
    assert [entry.action for entry in environment.history()] == ["apply", "set-weight"]


def test_what_others_wrote_meanwhile_stands_and_is_what_is_given(tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    environment.apply()
    other = MemoryStore(environment.place, clock=environment.clock)
    store: Any = Lossy(environment.store, lambda: act(other, "bob", Kill(*NAME), environment.clock), done=True)
    (result,) = act(store, "alice", SetWeight(*NAME, 2500), environment.clock)
    assert (result.row.status.killed, result.row.status.weight) == (True, 2500)
    assert result.row == environment.row()
    assert [entry.action for entry in environment.history()] == ["apply", "set-weight", "kill"]


def test_tokens_in_a_file_are_remembered_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED_TOKENS", 5)
    store = SqliteStore(tmp_path / "dropout.db", create=True)
    first = Write(*NAME, None, {}, Status(stable="3"), token="first")
    (row,) = store.write([first])
    for i in range(5):
        assert store.write([first]) == [row]
        (row,) = store.write([Write(*NAME, row.resource_version, status=row.status, token=f"{i}")])
    with pytest.raises(Refused, match="at the same time"):
        store.write([first])
