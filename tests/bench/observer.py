"""How many entries of the access log an observer takes on one processor: ``python -m tests.bench.observer``.

The real process on its real socket, kept to one processor, under a sender that never waits: batches as Envoy sends
them, of requests that were decided for the rollouts of a store, one in ten of which failed, each once. Prints JSON.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import msgspec
import orjson

from extproc._gen.envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply, SetWeight
from extproc.decision_id import DecisionIds, KeyFile
from extproc.decision_id.codec import ID_CHARACTERS
from extproc.metrics.catalogue import OBSERVER_DROPPED, OUTCOMES
from extproc.protect.access_log import METHOD, SERVICE
from extproc.resources.loading import load_valid
from extproc.run.processes import OBSERVER
from extproc.serve.messages import StartObserver, ToObserver, WantMetrics
from extproc.serve.supervisor.children import GRPC_SETTINGS
from extproc.serve.watchdog import process_state
from extproc.serve.worker_config import ObserverConfig
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout
from extproc.state import StateFolder
from tests.bench.stack import SERVER_CPU, other_cpus
from tests.support.rollouts import CANARY, document

ROLLOUTS: Final = 100
BATCH_BYTES: Final = 16_384
BATCHES: Final = 400
NO_ID: Final = "_" * ID_CHARACTERS
WARM_UP_SECONDS: Final = 1.0
SECONDS: Final = 6.0


class Pipe:
    """The supervisor's end of the observer's pipe, one message at a time."""

    def __init__(self, ours: socket.socket) -> None:
        self._file = ours.makefile("rwb")

    def send(self, message: ToObserver) -> None:
        """Send one."""
        self._file.write(msgspec.json.encode(message) + b"\n")
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


class Place(NamedTuple):
    """Where in a batch an id stands, and what is sealed into it: the epoch's number, the arm's code, the group."""

    at: int
    sealed: tuple[int, int, int]


class Batch(NamedTuple):
    """What Envoy would send, but for the ids, which are made as it is sent: no decision ends twice."""

    body: bytes
    places: list[Place]


def batches(url: str) -> list[Batch]:
    """What Envoy would send."""
    with closing(open_store(url)) as store:
        holder = SnapshotHolder(store, SystemClock())
        holder.load()
        rollouts = list(holder.current.rollouts.values())
    made, number = [], 0
    for _ in range(BATCHES):
        message = StreamAccessLogsMessage()
        sealed = []
        while message.ByteSize() < BATCH_BYTES:
            sealed.append(_entry(message, rollouts[number % len(rollouts)], number))
            number += 1
        body = message.SerializeToString()
        places = [found.start() for found in re.finditer(NO_ID.encode(), body)]
        made.append(Batch(body, [Place(*each) for each in zip(places, sealed, strict=True)]))
    return made


def _entry(message: StreamAccessLogsMessage, rollout: CompiledRollout, number: int) -> tuple[int, int, int]:
    version, arm = ("4", "canary") if number % 2 else ("3", "control")
    entry = message.http_logs.log_entry.add()
    entry.request.request_headers.update(
        {
            "x-decision-id": NO_ID,
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
    return rollout.number, rollout.arm_codes[arm], number % 256


def flood(target: str, url: str, messages: list[Batch]) -> None:
    """Send for ever."""
    os.sched_setaffinity(0, other_cpus())
    clock = SystemClock()
    ids = DecisionIds(KeyFile(StateFolder.of(url, None).ids, clock), 0, clock)

    def endless() -> Iterator[bytes]:
        for body, places in cycle(messages):
            message = bytearray(body)
            for at, sealed in places:
                message[at : at + ID_CHARACTERS] = ids.seal(ids.nonce(), *sealed).encode()
            yield bytes(message)

    with grpc.insecure_channel(target) as channel:
        channel.stream_unary(f"/{SERVICE}/{METHOD}")(endless())


def entries(pipe: Pipe) -> float:
    """How many the observer made an outcome of so far; it may drop none."""
    pipe.send(WantMetrics(id=1))
    rows = pipe.wait_for("metrics")["dump"]["counters"]
    assert not sum(value for name, _, value in rows if name == OBSERVER_DROPPED.name), rows
    return float(sum(value for name, _, value in rows if name == OUTCOMES.name))


def measure(folder: Path) -> dict[str, Any]:
    """Entries a second, and microseconds of CPU for each."""
    url = prepare(folder)
    ours, theirs = socket.socketpair()
    command = [*OBSERVER, str(theirs.fileno())]
    child = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env={**GRPC_SETTINGS, **os.environ})
    os.sched_setaffinity(child.pid, {SERVER_CPU})
    pipe = Pipe(ours)
    path = folder / "observer.sock"
    pipe.send(StartObserver(ObserverConfig(url, f"{folder}/dropout.db.", unix=str(path)), []))
    pipe.wait_for("ready")
    messages = batches(url)
    sender = multiprocessing.Process(target=flood, args=(f"unix:{path}", url, messages), daemon=True)
    sender.start()
    try:
        time.sleep(WARM_UP_SECONDS)
        before, cpu, began = entries(pipe), process_state(child.pid).cpu_seconds, time.monotonic()
        time.sleep(SECONDS)
        taken = entries(pipe) - before
        rss = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
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
        "observer_rss_mb": round(rss / 1e6),
    }


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="dropout-observer-") as folder:
        print(orjson.dumps(measure(Path(folder))).decode())


if __name__ == "__main__":
    main()
