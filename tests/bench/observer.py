"""How many entries of the access log an observer takes on one processor: ``python -m tests.bench.observer``.

The real process on its real socket, kept to one processor, under a sender that never waits: batches as Envoy sends
them, of requests that were decided for the rollouts of a store, one in ten of which failed. Prints JSON.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc
import orjson

from extproc._gen.envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from extproc.adapters.stores import beside, open_store
from extproc.cli.observing import COMMAND
from extproc.clock import SystemClock
from extproc.control.actions import Apply, SetWeight, act
from extproc.decision_id import DecisionIds, KeyFile
from extproc.metrics import OBSERVER_DROPPED, OUTCOMES
from extproc.protect.access_log import METHOD, SERVICE
from extproc.resources.loading import load_valid
from extproc.serve.children import GRPC_SETTINGS
from extproc.serve.watchdog import process_state
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout
from tests.bench.stack import SERVER_CPU, other_cpus
from tests.support.rollouts import CANARY, document

ROLLOUTS: Final = 100
BATCH_BYTES: Final = 16_384
BATCHES: Final = 400
WARM_UP_SECONDS: Final = 1.0
SECONDS: Final = 6.0


class Pipe:
    """The supervisor's end of the observer's pipe, one message at a time."""

    def __init__(self, ours: socket.socket) -> None:
        self._file = ours.makefile("rwb")

    def send(self, **message: Any) -> None:
        """Send one."""
        self._file.write(orjson.dumps(message) + b"\n")
        self._file.flush()

    def wait_for(self, kind: str) -> dict[str, Any]:
        """The next of that kind."""
        while True:
            message: dict[str, Any] = orjson.loads(self._file.readline())
            if message["kind"] == kind:
                return message


def prepare(folder: Path) -> str:
    """A store with canaries at weight 50, and nothing pending."""
    url = f"sqlite:{folder / 'dropout.db'}"
    file = folder / "rollouts.json"
    with closing(open_store(url, create=True)) as store:
        for number in range(ROLLOUTS):
            spec = {**CANARY, "match": [{"path": {"value": f"/{number}"}}], "breaker": {"errorRate": 0.9}}
            file.write_bytes(orjson.dumps(document(spec, f"r{number}")))
            act(store, "bench", Apply(load_valid([file])), SystemClock())
            act(store, "bench", SetWeight("payments", f"r{number}", 5000), SystemClock())
    time.sleep(0.5)
    return url


def batches(url: str) -> list[bytes]:
    """What Envoy would send."""
    clock = SystemClock()
    ids = DecisionIds(KeyFile(beside(url, ".ids"), clock), 0, clock)
    with closing(open_store(url)) as store:
        holder = SnapshotHolder(store, clock)
        holder.load()
        rollouts = list(holder.current.rollouts.values())
    made, number = [], 0
    for _ in range(BATCHES):
        message = StreamAccessLogsMessage()
        while message.ByteSize() < BATCH_BYTES:
            _entry(message, ids, rollouts[number % len(rollouts)], number)
            number += 1
        made.append(message.SerializeToString())
    return made


def _entry(message: StreamAccessLogsMessage, ids: DecisionIds, rollout: CompiledRollout, number: int) -> None:
    version, arm = ("4", "canary") if number % 2 else ("3", "control")
    entry = message.http_logs.log_entry.add()
    entry.request.request_headers.update(
        {
            "x-decision-id": ids.seal(ids.nonce(), rollout.number, rollout.arm_codes[arm], number % 256),
            "x-model-rollout": rollout.key,
            "x-model-version": version,
            "x-model-arm": arm,
        }
    )
    common = entry.common_properties
    common.upstream_cluster, common.route_name = rollout.upstreams[version], f"{rollout.key}@{version}"
    common.upstream_request_attempt_count, common.duration.nanos = 1, 1_000_000 + number * 997 % 90_000_000
    common.response_flags.SetInParent()
    entry.response.response_code.value = 500 if number % 10 == 0 else 200


def flood(target: str, messages: list[bytes]) -> None:
    """Send for ever."""
    os.sched_setaffinity(0, other_cpus())

    def endless() -> Iterator[bytes]:
        while True:
            yield from messages

    with grpc.insecure_channel(target) as channel:
        channel.stream_unary(f"/{SERVICE}/{METHOD}")(endless())


def entries(pipe: Pipe) -> float:
    """How many the observer made an outcome of so far; it may drop none."""
    pipe.send(kind="metrics", id=1)
    rows = pipe.wait_for("metrics")["dump"]["counters"]
    assert not sum(value for name, _, value in rows if name == OBSERVER_DROPPED), rows
    return float(sum(value for name, _, value in rows if name == OUTCOMES))


def measure(folder: Path) -> dict[str, Any]:
    """Entries a second, and microseconds of CPU for each."""
    url = prepare(folder)
    ours, theirs = socket.socketpair()
    command = [*COMMAND, str(theirs.fileno())]
    child = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env={**GRPC_SETTINGS, **os.environ})
    os.sched_setaffinity(child.pid, {SERVER_CPU})
    pipe = Pipe(ours)
    path = folder / "observer.sock"
    pipe.send(kind="start", config={"store": url, "unix": str(path), "host": None, "port": 0}, trips=[])
    pipe.wait_for("ready")
    messages = batches(url)
    sender = multiprocessing.Process(target=flood, args=(f"unix:{path}", messages), daemon=True)
    sender.start()
    try:
        time.sleep(WARM_UP_SECONDS)
        before, cpu, began = entries(pipe), process_state(child.pid).cpu_seconds, time.monotonic()
        time.sleep(SECONDS)
        taken = entries(pipe) - before
        seconds, cpu = time.monotonic() - began, process_state(child.pid).cpu_seconds - cpu
    finally:
        sender.kill()
        sender.join()
        child.kill()
        child.wait()
    return {
        "observer_entries_per_second": round(taken / seconds),
        "observer_cpu_us_per_entry": round(cpu / taken * 1e6, 1),
        "observer_processor_share": round(cpu / seconds, 2),
    }


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="dropout-observer-") as folder:
        print(orjson.dumps(measure(Path(folder))).decode())


if __name__ == "__main__":
    main()
