"""Trips on their way into the store: off the loop, again and again, and never two ways."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from extproc.errors import DropoutError, Refused, Unreachable
from extproc.protect import recording as module
from extproc.protect.recording import TripRecorder
from tests.support.dropout import wait_for


class Store:
    """Fails as told, and notes what was written."""

    def __init__(self, *failures: DropoutError | Exception) -> None:
        self.failures = list(failures)
        self.tried: list[str] = []
        self.written: list[str] = []

    def __call__(self, trip: str) -> None:
        self.tried.append(trip)
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(trip)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.001)


def recorded(store: Callable[[str], None], *trips: str) -> TripRecorder[str]:
    recorder: TripRecorder[str] = TripRecorder(store)
    for trip in trips:
        recorder.record(trip)
    return recorder


def test_a_trip_is_written_when_the_store_can_be_written_again() -> None:
    store = Store(*[Unreachable.of("store_locked", "locked")] * 3)
    recorder = recorded(store, "4")
    wait_for(lambda: store.written == ["4"], "a written trip", 5)
    assert store.tried == ["4"] * 4
    recorder.close()


def test_what_is_refused_or_a_bug_is_dropped_and_holds_nobody_up() -> None:
    store = Store(Refused.of("conflict", "others"), ValueError("a bug"))
    recorder = recorded(store, "1", "2", "3")
    wait_for(lambda: store.written == ["3"], "the third", 5)
    assert store.tried == ["1", "2", "3"]
    recorder.close()


def test_recording_never_waits_for_the_store() -> None:
    gate = threading.Event()
    recorder = recorded(lambda trip: gate.wait(10) and None, *(str(number) for number in range(5000)))
    assert len(recorder._waiting) <= module.MAX_WAITING
    recorder.close()
    gate.set()
