"""What a policy shadow takes from the worker whose decisions it is shown.

``python -m tests.bench.policy_shadow`` prints as JSON, in some ten seconds, the processor time of a decision over HTTP
without a policy shadow, and over it that of one with a share of 10 and of 100 percent, in turns in one process. What is
shown is read by a process of its own, as ``serve`` has it; what that one makes of it is on nobody's way.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import uvloop

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply, SetWeight
from extproc.datapath.policy_shadow.shown import MAX_MESSAGE_BYTES
from extproc.datapath.transports import http_codec
from extproc.datapath.transports.exchange import Exchange
from extproc.resources.loading import load_valid
from extproc.resources.policies import read_sources
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.policy_shadow import LOOK_SECONDS
from extproc.serve.supervisor.children import message_pair
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import ShownShare, WorkerConfig
from extproc.state import StateFolder
from tests.bench.in_process import message
from tests.bench.stack import POLICIES, document

BLOCKS = 151
TIMES = 64
WARM_UP = 512
SETTLE_SECONDS = 0.02
"""For what was noted of the decisions of a block, which counts as theirs."""
SHARES = {"without": None, "share_10": 1_000, "share_100": 10_000}


@contextmanager
def read_elsewhere(reading: socket.socket) -> Iterator[None]:
    """A process takes what is shown as the real one does, and does nothing with it."""
    pid = os.fork()
    if pid == 0:
        reading.setblocking(False)
        while True:
            try:
                reading.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                time.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def application(folder: Path, shown: ShownShare | None) -> DecisionApplication:
    """A worker's, over the store in ``folder``."""
    slot = PolicySlot(HeartbeatPage.create())
    store = f"sqlite:{folder / 'dropout.db'}"
    config = WorkerConfig(0, store, StateFolder.of(store, None).prefix, policy_shadow=shown)
    app = DecisionApplication(config, slot)
    slot.swap(app.engine(read_sources(POLICIES).to_json()))
    app.load()
    return app


def prepare(folder: Path) -> None:
    """A rollout that asks a policy and reads no feature."""
    asks = document(0, full=True)
    del asks["spec"]["features"]
    (folder / "rollouts.json").write_text(orjson.dumps(asks).decode())
    store = open_store(f"sqlite:{folder / 'dropout.db'}", create=True)
    act(store, "bench", Apply(load_valid([folder / "rollouts.json"])), SystemClock())
    act(store, "bench", SetWeight("bench", "m0", 5000), SystemClock())
    store.close()


async def measure(folder: Path, writing: socket.socket) -> dict[str, float]:
    """Microseconds without, and the ratios."""
    apps = {
        name: application(folder, None if share is None else ShownShare(os.dup(writing.fileno()), share))
        for name, share in SHARES.items()
    }
    for app in apps.values():
        app.tell_plans()
    exchanges = {name: Exchange(http_codec, app.process, on_fault=_fail) for name, app in apps.items()}
    messages = [message(f"/v1/models/m0:predict?user={user}", user) for user in range(WARM_UP)]
    seconds: dict[str, list[float]] = {name: [] for name in SHARES}
    for exchange in exchanges.values():
        for data in messages:
            await exchange.reply(data)
    await asyncio.sleep(SETTLE_SECONDS)
    gc.collect()
    gc.freeze()
    for block in range(BLOCKS):
        for name in list(SHARES)[:: 1 if block % 2 else -1]:
            before = time.process_time()
            for data in messages[:TIMES]:
                await exchanges[name].reply(data)
            await asyncio.sleep(SETTLE_SECONDS)
            seconds[name].append((time.process_time() - before) / TIMES)
    dropped = sum(value for app in apps.values() for name, _, value in app.dump()["counters"] if "shadow_drop" in name)
    for app in apps.values():
        await app.close(1.0)
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(seconds[name], seconds["without"], strict=True)), 3)
        for name in ("share_10", "share_100")
    }
    return {"without_us": round(statistics.median(seconds["without"]) * 1e6, 1), **ratios, "dropped": dropped}


def _fail(fault: str) -> None:
    raise AssertionError(fault)


def main() -> None:
    """Print the figures of a run."""
    writing, reading = message_pair()
    with tempfile.TemporaryDirectory(prefix="dropout-bench-") as directory, read_elsewhere(reading):
        prepare(Path(directory))
        print(orjson.dumps(uvloop.run(measure(Path(directory), writing))).decode())


if __name__ == "__main__":
    main()
