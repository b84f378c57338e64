"""What an event of the decision log costs the thread of its sink: a file's, an upload's, and either's behind masks.

``python -m tests.bench.decision_log`` prints, in some ten seconds, microseconds of a processor for each event in the
worker's thread, events a second, and the ratio of either to the file's. The service and the masks have processes of
their own; theirs is in the events a second, and in ``elsewhere``, microseconds of a processor in the masks' process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extproc.adapters.regorus.log_policies import LogPolicies
from extproc.datapath.ports import EventSink
from extproc.datapath.sinks.decision_event import EventEncoder
from extproc.datapath.sinks.masked_sink import MaskedSink
from extproc.plugins import SINK, open_adapter
from tests.support.decisions import KEY, make_decided, make_decision
from tests.support.paths import ROOT
from tests.support.policies import sources_of

EVENTS = 500
ROUNDS = 11
MASKS = """package system.log

mask contains "/input/attributes/request/http/headers/x-region"

mask contains {"op": "upsert", "path": "/result/policy/reason", "value": "***"} if input.result.policy.reason

drop if input.result.reason == "kill_switch"
"""
SERVICE = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def batch() -> list[bytes]:
    """Decisions as a worker logs them, each another one."""
    encoder = EventEncoder({"id": "a", "worker": "0"}, KEY, lambda path: ("features.risk_score",))
    decided = (make_decided(decision=make_decision(decision_id=os.urandom(12).hex())) for _ in range(EVENTS))
    return [encoder.encode(time.time(), each, number).body for number, each in enumerate(decided, start=1)]


def measured(sink: EventSink, elsewhere: int | None) -> dict[str, float]:
    """Microseconds of an event, here and in the process ``elsewhere``; and events a second."""
    sink.write(batch())
    used, took, before = [], [], cpu_of(elsewhere)
    for _ in range(ROUNDS):
        events = batch()
        cpu, wall = time.thread_time(), time.perf_counter()
        assert sink.write(events) == 0
        used.append(time.thread_time() - cpu)
        took.append(time.perf_counter() - wall)
    told = (cpu_of(elsewhere) - before) / ROUNDS / EVENTS * 1e6
    return {
        "cpu_us": statistics.median(used) / EVENTS * 1e6,
        "per_second": EVENTS / statistics.median(took),
        "elsewhere_us": told,
    }


def cpu_of(pid: int | None) -> float:
    """Seconds that a process used."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def service() -> Iterator[int]:
    """A service that takes everything, in a process of its own; its port."""
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def masks_pid(policies: LogPolicies) -> int | None:
    """The process of the masks, once they were asked."""
    policies.judge(batch()[:1])
    process: Any = policies._process
    return process and process._process.pid


def measure() -> dict[str, dict[str, float]]:
    """All of it, by what was measured."""
    policies = LogPolicies(1.0)
    policies.use(sources_of({"log.rego": MASKS}))
    pid = masks_pid(policies)
    with tempfile.TemporaryDirectory() as folder, service() as port:
        urls: Sequence[tuple[str, str]] = [("file", f"file:{folder}/log"), ("upload", f"opa+http://127.0.0.1:{port}")]
        found: dict[str, dict[str, float]] = {}
        for name, url in urls:
            sink = open_adapter(SINK, url, "--sink")
            found[name] = measured(sink, None)
            found[f"{name}, masked"] = measured(MaskedSink(name, sink, policies), pid)
            sink.close()
    policies.close()
    for each in found.values():
        each["cpu_ratio"] = each["cpu_us"] / found["file"]["cpu_us"]
        each["rate_ratio"] = each["per_second"] / found["file"]["per_second"]
    return found


def main() -> None:
    """Print it."""
    rounded = {name: {key: round(value, 3) for key, value in each.items()} for name, each in measure().items()}
    print(json.dumps({"event_bytes": len(batch()[0]), **rounded}, indent=2))


if __name__ == "__main__":
    main()
