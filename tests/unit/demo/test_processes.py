"""The demo's processes: none outlives whoever waits for it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from extproc.demo import processes
from extproc.demo.processes import PORTS, Processes, children_of, free_ports
from extproc.errors import Refused

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def sleeping() -> list[int]:
    return [pid for pid, arguments in children_of(os.getpid()) if b"time.sleep(60)" in b" ".join(arguments)]


async def test_a_command_that_nobody_waits_for_any_more_has_ended(tmp_path: Path) -> None:
    waiting = asyncio.create_task(Processes(tmp_path, {}).run(SLEEPS, "sleeps"))
    while not sleeping():
        assert not waiting.done()
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sleeping() == []


async def test_a_command_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="'it' ended with 3: no") as error:
        await Processes(tmp_path, {}).run([sys.executable, "-c", "print('no'); raise SystemExit(3)"], "it")
    assert error.value.code == "demo_command"


def test_no_free_port_is_one_that_a_connection_could_be_given() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert set(ports) <= set(PORTS)


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        monkeypatch.setattr(processes, "PORTS", range(taken, taken + 1))
        assert free_ports(1) == []
    assert free_ports(1) == [taken]
