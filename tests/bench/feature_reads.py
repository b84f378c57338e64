"""What reading features costs beside remembering them, and what a Redis that hangs takes from the requests.

``python -m tests.bench.feature_reads`` prints ratios as JSON, in some twenty seconds, of decisions over a real Redis:
CPU of a request where one of ten is read, over that of one where all are remembered, one at a time and sixteen at a
time; requests a second of CPU while the Redis hangs and is left alone, over those where all are remembered; and how
long, at most, a decision waited for features of a Redis that hangs, over its timeout.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
import uvloop

from extproc.adapters.redis.features import open_features
from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply, SetWeight
from extproc.datapath.features import FeatureReader
from extproc.datapath.transports import http_codec
from extproc.datapath.transports.exchange import Exchange
from extproc.names import Reason
from extproc.resources.loading import load_valid
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig
from extproc.snapshot.model import FeatureNeed, FeatureView, JoinKey, UnitSource
from extproc.state import StateFolder
from tests.bench.in_process import message
from tests.bench.stack import document
from tests.systems.resp import Redis

BLOCKS: Final = 41
TIMES: Final = 160
"""Short blocks in turns: what a shared machine gives changes within a second, and what is compared must not."""
KNOWN: Final = 144
ONE_OF: Final = 10
WAITS: Final = 8
TIMEOUT: Final = 0.02
FILL: Final = "for i = 0, tonumber(ARGV[1]) do redis.call('HSET', KEYS[1] .. i, 'risk_score', '0.5') end return 1"
SETTINGS: Final = {"DROPOUT_FEATURE_CACHE": "3600", "DROPOUT_UNTRUSTED_READS": "0"}


def path(user: int) -> str:
    """Of a request, which is its user's name too."""
    return f"/v1/models/m0:predict?user={user}"


class Decider:
    """A worker's application, fed with Envoy's messages; each new user is one that nobody has read before."""

    def __init__(self, folder: Path, redis: Redis) -> None:
        store = f"sqlite:{folder / 'dropout.db'}"
        config = WorkerConfig(0, store, StateFolder.of(store, None).prefix, features=redis.url)
        self.app = DecisionApplication(config, PolicySlot(HeartbeatPage.create()))
        self.app.load()
        self._exchange = Exchange(http_codec, self.app.process, on_fault=_fail)
        self._new = KNOWN

    def messages(self, *, read: bool) -> list[bytes]:
        """Of users that are known, but for one of ten where it is ``read``."""
        users = [number % KNOWN for number in range(TIMES)]
        if read:
            for number in range(0, TIMES, ONE_OF):
                self._new += 1
                users[number] = self._new
        return [message(path(user), user) for user in users]

    async def cpu(self, messages: Sequence[bytes], together: int) -> float:
        """Seconds of CPU for each, so many at a time."""
        before = time.process_time()
        for start in range(0, len(messages), together):
            await asyncio.gather(*map(self._exchange.reply, messages[start : start + together]))
        return (time.process_time() - before) / len(messages)

    def value(self, name: str) -> float:
        """Of a metric, over all its series."""
        dump = self.app.dump()
        return float(sum(value for found, _, value in (*dump["counters"], *dump["gauges"]) if found == name))


def prepare(folder: Path) -> None:
    """A rollout that reads a feature and asks no policy."""
    written = document(0, full=True)
    del written["spec"]["policy"]
    written["spec"]["features"] |= {"onMissing": "stable", "timeout": "200ms"}
    (folder / "rollouts.yaml").write_text(json.dumps(written))
    store = open_store(f"sqlite:{folder / 'dropout.db'}", create=True)
    act(store, "bench", Apply(load_valid([folder / "rollouts.yaml"])), SystemClock())
    act(store, "bench", SetWeight("bench", "m0", 5000), SystemClock())
    store.close()


async def reads_over_cached(decides: Decider, together: int) -> dict[str, float]:
    """The two in turns."""
    ratios, cached_us = [], []
    for _ in range(BLOCKS):
        read, cached = decides.messages(read=True), decides.messages(read=False)
        with_reads = await decides.cpu(read, together)
        cached_us.append(await decides.cpu(cached, together))
        ratios.append(with_reads / cached_us[-1])
    return {
        f"cached_us_{together}": round(statistics.median(cached_us) * 1e6, 1),
        f"read_over_cached_{together}": round(statistics.median(ratios), 3),
    }


async def while_it_hangs(decides: Decider, redis: Redis) -> dict[str, float]:
    """Requests of new users, which are not read, in turns with those of known ones."""
    redis.hang()
    while decides.value("dropout_feature_store_up"):
        await decides.cpu(decides.messages(read=True)[::ONE_OF], 1)
    ratios = []
    for _ in range(BLOCKS):
        new = [each for _ in range(ONE_OF) for each in decides.messages(read=True)[::ONE_OF]]
        cached = decides.messages(read=False)
        ratios.append(await decides.cpu(cached, 1) / await decides.cpu(new, 1))
    redis.go_on()
    return {"hung_over_normal": round(statistics.median(ratios), 3)}


async def longest_wait(redis: Redis) -> dict[str, float]:
    """Of decisions that wait for a Redis that hangs and is not left alone yet, the loop otherwise idle."""
    view = FeatureView("user_risk", ("risk_score",))
    need = FeatureNeed((JoinKey(UnitSource(header="x")),), view, None, TIMEOUT, missing_is_stable=True)
    waited = []
    redis.hang()
    for _ in range(WAITS):
        reader = FeatureReader(open_features(redis.url, "--features"), SystemClock())
        for number in range(WAITS):
            before = time.perf_counter()
            found = await reader.fetch(need, (f"u-{number}",))
            waited.append(time.perf_counter() - before)
            assert found.fault is Reason.FEATURE_TIMEOUT
        await reader.close()
    redis.go_on()
    return {
        "median_wait_over_timeout": round(statistics.median(waited) / TIMEOUT, 3),
        "longest_wait_over_timeout": round(max(waited) / TIMEOUT, 3),
    }


async def recovery(decides: Decider, redis: Redis) -> dict[str, float]:
    """Seconds from when a Redis that hung goes on until the worker reads it."""
    redis.hang()
    while decides.value("dropout_feature_store_up"):
        await decides.cpu(decides.messages(read=True)[::ONE_OF], 1)
    redis.go_on()
    before = time.perf_counter()
    for _ in range(1000):
        if decides.value("dropout_feature_store_up"):
            break
        await asyncio.sleep(0.01)
    return {"read_again_within_2_s": float(time.perf_counter() - before < 2)}


async def measure(folder: Path, redis: Redis) -> dict[str, float]:
    """All of it."""
    decides = Decider(folder, redis)
    for _ in range(5):
        await decides.cpu(decides.messages(read=False), 1)
    figures = {**await reads_over_cached(decides, 1), **await reads_over_cached(decides, 16)}
    figures |= await recovery(decides, redis)
    figures |= await while_it_hangs(decides, redis)
    await decides.app.close(1.0)
    return {**figures, **await longest_wait(redis)}


def _fail(fault: str) -> None:
    raise AssertionError(fault)


def main() -> None:
    """Print the figures of a run."""
    os.environ.update(SETTINGS)
    with tempfile.TemporaryDirectory(prefix="dropout-bench-") as directory, Redis() as redis:
        redis.call("EVAL", FILL, "1", "user_risk:/v1/models/m0:predict?user=", "20000")
        prepare(Path(directory))
        print(orjson.dumps(uvloop.run(measure(Path(directory), redis))).decode())


if __name__ == "__main__":
    main()
