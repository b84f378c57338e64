"""The process whose instructions are counted: decides Envoy's messages in a loop, without any server around it.

Run below callgrind, in a folder with a store, features and the messages, as ``python worker.py POLICIES``. It needs
nothing but the package that it finds, which may be an older one. What would come at moments that differ from run to run
comes at the same ones: decisions are noted each ``TOGETHER``, before a timer does it, and the thread that writes the
decision log waits for the lock of its file, so that the lines are made, which is counted, and written at the end.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from extproc.datapath.transports import http_codec
from extproc.datapath.transports.exchange import Exchange
from extproc.resources.policies import read_sources
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig

WARM_UPS = 4
"""The first fills the caches, of features and verdicts; those after it let Python specialise what it runs."""
WINDOWS = 5
TOGETHER = 16
"""Decisions that come in one turn of the event loop: as many as are noted at once."""
SETTLE_SECONDS = 0.3
MARK = "getsid"
"""The function of the C library that marks where a window begins and ends: nothing else calls it."""
AS_IT_SHOULD = {"weight", "policy_ineligible"}
"""The shipped policy leaves users of high risk on stable."""
LOG = Path("decisions.log")
LOGGED = {"sinks": [f"file:{LOG}"]} if "sinks" in WorkerConfig.__slots__ else {"decision_log": str(LOG)}
STATE = {"state": "dropout.db."} if "state" in WorkerConfig.__slots__ else {}
WRITTEN_SECONDS = 60


async def decide(policies: Path, messages: list[bytes]) -> None:
    """Decide all messages ``WINDOWS`` times, counted, once everything is warm."""
    slot = PolicySlot(HeartbeatPage.create())
    config = WorkerConfig(0, "sqlite:dropout.db", features="sqlite:features.db", **STATE, **LOGGED)
    app = DecisionApplication(config, slot)
    slot.swap(app.engine(read_sources(policies).to_json()))
    app.load()
    exchange = Exchange(http_codec, app.process, on_fault=_fail)
    with _log_held():
        await _reply(exchange, messages[:TOGETHER])
        await asyncio.sleep(SETTLE_SECONDS)  # from here on the writer waits for the lock
        for _ in range(WARM_UPS):
            await _reply(exchange, messages)
        gc.collect()
        gc.freeze()  # as a worker does
        with counted():
            for _ in range(WINDOWS):
                await _reply(exchange, messages)
                mark()
    decided = TOGETHER + (WARM_UPS + WINDOWS) * len(messages)
    _wait_for_lines(decided)
    _check(WINDOWS * len(messages), decided)


def _wait_for_lines(count: int) -> None:
    """Until the thread that writes the log has written as many."""
    until = time.monotonic() + WRITTEN_SECONDS
    while LOG.read_bytes().count(b"\n") < count and time.monotonic() < until:
        time.sleep(SETTLE_SECONDS)


async def _reply(exchange: Exchange, messages: list[bytes]) -> None:
    for number, data in enumerate(messages, 1):
        await exchange.reply(data)
        if number % TOGETHER == 0:
            await asyncio.sleep(0)


@contextmanager
def _log_held() -> Iterator[None]:
    with LOG.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        yield


@contextmanager
def counted() -> Iterator[None]:
    """Have callgrind count, from a mark on; before it does, the program runs five times as fast."""
    _tell_valgrind("instrumentation", "on")
    mark()
    yield
    _tell_valgrind("instrumentation", "off")


def mark() -> None:
    """Have callgrind write down what it has counted, and begin anew."""
    os.getsid(0)


def _tell_valgrind(*words: str) -> None:
    telling = subprocess.Popen(["vgdb", f"--pid={os.getpid()}", *words], stderr=subprocess.DEVNULL)
    while telling.poll() is None:  # valgrind listens while the program runs; to wake one that waits, it needs ptrace
        time.sleep(0.001)
    assert telling.returncode == 0, "vgdb does not reach valgrind"


def _check(counted: int, decided: int) -> None:
    """What was counted went as it should: what goes wrong is cheaper."""
    lines = [line for line in LOG.read_bytes().splitlines() if b'"decision_id"' in line]
    assert len(lines) == decided, f"the decision log has {len(lines)} lines of {decided}"
    for result in (json.loads(line)["result"] for line in lines[-counted:]):
        assert result["reason"] in AS_IT_SHOULD, f"decided by {result['reason']}"
        sources = {feature["source"] for feature in result["features"].values()}
        assert sources <= {"cache"}, f"features from {sources}"


def _fail(fault: str) -> None:
    raise AssertionError(fault)


if __name__ == "__main__":
    uvloop.run(decide(Path(sys.argv[1]), Path("messages").read_bytes().splitlines()))
