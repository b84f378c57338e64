"""The supervisor and its observer: what each is told of trips, whenever they happen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from extproc.metrics import Totals
from extproc.serve import protection as module
from extproc.serve.protection import Protection
from extproc.serve.worker_config import ObserverConfig, ObserverPlan
from extproc.settings import settings
from extproc.snapshot.trips import LocalTrip

TRIP = LocalTrip("payments/fraud-detector", "4", 1)


def test_what_another_serve_took_away_while_an_observer_began_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, list[Any]]] = []
    observer = SimpleNamespace(pid=None, send=lambda kind, **said: sent.append((kind, said["trips"])))
    monkeypatch.setattr(module, "Auxiliary", lambda *_: observer)
    monkeypatch.setattr(module, "SocketWatch", lambda _: SimpleNamespace(bound=lambda _: None))
    safety: Any = SimpleNamespace(trips=[], in_force={"trips": []})
    nothing = lambda *_: None  # noqa: E731
    plan = ObserverPlan(ObserverConfig("sqlite:none", unix="/none"), ())
    protection = Protection(plan, settings(), Totals(), safety, tell=nothing, say=nothing, replaced=nothing)
    protection._began()
    safety.trips = [TRIP]
    protection.adopt(safety.trips)
    protection._received("one", {"kind": "ready"})
    assert sent == [("start", []), ("trips", [list(TRIP)])]
