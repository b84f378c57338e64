"""What moves rollouts and keeps the lease, beside the event loop that serves everybody else."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from extproc.net.endpoints import UnixEndpoint
from extproc.net.listening import Listening
from extproc.run import controller as controller_parts
from extproc.run.controller import Controller
from extproc.run.controller_options import ControllerOptions
from extproc.run.serve_options import PolicyOptions
from extproc.state import StateFolder


class Reconciler:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.ticks = threading.Semaphore(0)
        self.released = False

    def tick(self) -> None:
        self.ticks.release()

    def release(self) -> None:
        self.released = True


def controller_in(folder: Path) -> Controller:
    listen = Listening(UnixEndpoint(folder / "c.sock"), "--listen")
    store = f"sqlite:{folder}/dropout.db"
    state = StateFolder.of(store, None)
    options = ControllerOptions(
        store,
        state,
        listen,
        envoys=(),
        envoy_dir=None,
        feedback=None,
        metrics={},
        policies=PolicyOptions(()),
        admin=None,
        pipe=None,
    )
    return Controller(options, lambda _line: None, lambda _line: None)


async def test_it_ticks_while_the_event_loop_stands_still_and_releases_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_parts, "TICK_SECONDS", 0.0)
    controller, reconciler = controller_in(tmp_path), Reconciler()
    stand_in: Any = reconciler
    running = asyncio.create_task(controller._reconcile(stand_in))
    await asyncio.sleep(0)
    # From here on nothing awaits: this is a listener that has a great deal to do.
    assert all(reconciler.ticks.acquire(timeout=60) for _ in range(3))
    controller.stop()
    await running
    assert reconciler.released


async def test_a_fault_in_a_tick_ends_the_controller(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    reconciler: Any = Reconciler()
    reconciler.tick = fail
    with pytest.raises(ZeroDivisionError):
        await controller_in(tmp_path)._reconcile(reconciler)
