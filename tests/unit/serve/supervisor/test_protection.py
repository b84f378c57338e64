"""The supervisor and its observer: what each is told of trips, whenever they happen."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from extproc.metrics.merging import Totals
from extproc.serve.messages import AdoptTrips, ObserverReady, StartObserver, ToObserver
from extproc.serve.supervisor import protection as module
from extproc.serve.supervisor import start as of_start
from extproc.serve.supervisor.protection import Protection
from extproc.serve.worker_config import ObserverConfig, ObserverPlan
from extproc.settings import settings
from extproc.snapshot.trips import LocalTrip
from tests.support.clock import FakeClock

TRIP = LocalTrip("payments/fraud-detector", "4", 1)


PLAN = ObserverPlan(ObserverConfig("sqlite:none", "none.", unix="/none"), ())


class Environment:
    """A supervisor's part without a process behind it, a clock, and what the observer is sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[ToObserver] = []
        self.safety: Any = SimpleNamespace(trips=[])
        observer = SimpleNamespace(pid=None, send=self.sent.append)
        monkeypatch.setattr(module, "Auxiliary", {(module.ToObserver, module.FromObserver): lambda *_: observer})
        monkeypatch.setattr(module, "SocketWatch", lambda _: SimpleNamespace(bound=lambda _: None))
        nothing = lambda *_: None  # noqa: E731
        self.protection = Protection(
            PLAN, settings(), Totals(), self.safety, tell=nothing, warn=nothing, replaced=nothing
        )


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    return Environment(monkeypatch)


def test_what_another_serve_took_away_while_an_observer_began_reaches_it(environment: Environment) -> None:
    protection = environment.protection
    protection._began()
    environment.safety.trips = [TRIP]
    protection.adopt([TRIP])
    protection._received("one", ObserverReady())
    assert environment.sent == [StartObserver(PLAN.config, []), AdoptTrips([TRIP])]


@pytest.mark.parametrize(("up_at", "ready_at"), [(13, 13), (8, 10), (None, 15)], ids=["late", "early", "never"])
def test_workers_that_serve_wait_for_an_observer_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch, up_at: int | None, ready_at: int
) -> None:
    clock = FakeClock(0.0)
    monkeypatch.setattr(of_start, "time", clock)
    ready: list[float] = []
    slot, protection = SimpleNamespace(serving=False), SimpleNamespace(up=False)

    async def wait_for_change() -> None:
        clock.advance(1)
        slot.serving = clock.now() >= 10
        protection.up = up_at is not None and clock.now() >= up_at

    keepers: Any = SimpleNamespace(
        settings=settings(),
        workers=SimpleNamespace(slots=[slot], phase="starting"),
        protection=protection,
        wait_for_change=wait_for_change,
    )
    monkeypatch.setattr(of_start, "see_failures", lambda *_: None)
    monkeypatch.setattr(of_start, "_announce", lambda _keepers: ready.append(clock.now()))
    assert asyncio.run(of_start._first_service(keepers, asyncio.Event()))
    assert (ready, keepers.workers.phase) == ([ready_at], "kept")
