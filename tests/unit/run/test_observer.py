"""What an observer does when what it counted cannot be written."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from extproc.adapters.sqlite.observations import ObservationsReader, ObservationsWriter, Observed
from extproc.clock import SystemClock
from extproc.errors import Unreachable
from extproc.run.observer import ObserverOfStore
from extproc.serve.channel import written as rows
from extproc.serve.messages import DecisionCounts
from extproc.serve.worker_config import ObserverConfig
from extproc.snapshot.trips import LocalTrip
from tests.support.observing import BREAKER
from tests.support.rollouts import canary, snapshot

KEY = "payments/fraud-detector"


async def test_what_a_full_disk_kept_from_being_written_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = ObserverOfStore(
        ObserverConfig(
            f"sqlite:{tmp_path / 'dropout.db'}", f"{tmp_path}/dropout.db.", unix=str(tmp_path / "observer.sock")
        ),
        (),
        lambda _trips, _lifted: None,
    )
    written = ObservationsReader(tmp_path / "dropout.db.observed", SystemClock())
    observer._observer.follow(snapshot(canary()))
    counts = [[KEY, 1, "canary", "4", int(SystemClock().now()), 7]]
    observer.decided(DecisionCounts(rows(counts), rows([[KEY, 1, [[1, "canary"], [2, "canary"]]]])))
    observer._observer.take_back_fallbacks(["an-id", "another"])

    def full(_writer: ObservationsWriter, _rows: Sequence[Observed], _ids: Iterable[str], *_: object) -> bool:
        raise Unreachable.of("observations_full", "no space left")

    with monkeypatch.context() as disk:
        disk.setattr(ObservationsWriter, "write", full)
        await observer._write()
    assert written.totals(KEY, 1) is None
    await observer._write()
    found = written.totals(KEY, 1)
    assert found is not None
    assert (found.arms["canary"].decided, found.units.counts()) == (7, {"canary": 2})
    assert [fallback.decision_id for fallback in written.fallbacks(0)] == ["an-id", "another"]
    written.close()
    await observer.close()


async def test_every_report_says_what_is_taken_away_and_the_last_that_nothing_more_comes(tmp_path: Path) -> None:
    trip = LocalTrip(KEY, "4", 1, at=1_800_000_000.0, why="10 requests in a row failed")
    config = ObserverConfig(
        f"sqlite:{tmp_path / 'dropout.db'}", f"{tmp_path}/dropout.db.", unix=str(tmp_path / "observer.sock")
    )
    observer = ObserverOfStore(config, [trip], lambda _trips, _lifted: None)
    observer._swapped(snapshot(canary(breaker=BREAKER)))
    written = ObservationsReader(tmp_path / "dropout.db.observed", SystemClock())
    await observer._write()
    (first,) = written.reports()
    assert (first.host, first.address) == (socket.gethostname(), f"unix:{tmp_path / 'observer.sock'}")
    assert (first.trips, first.over) == ((trip,), False)
    assert written.watching(KEY, 1) == {first.run}
    await observer._write()  # nothing was counted
    (second,) = written.reports()
    assert second == first._replace(number=2)
    (tmp_path / "dropout.db.observed").unlink()
    await observer._write()
    await observer.close()
    (last,) = written.reports()
    assert (last.run, last.over, last.trips) == (first.run, True, (trip,))
    assert written.watching(KEY, 1) == {first.run}
    written.close()
