"""Load from h2load, and what it cost: CPU time by process, latencies request by request."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CONNECTIONS = 32
MOST_OFFERED = 1600
HEADERS = (
    "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept: application/json",
    "accept-encoding: gzip, deflate, br",
    "accept-language: en-GB,en;q=0.8,de;q=0.5",
    "content-type: application/json",
    "cookie: session=3f1c9a52e0b84d6f; consent=all; theme=dark",
    "origin: https://shop.example.com",
    "referer: https://shop.example.com/checkout",
    "authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "x-region: eu-west-1",
    "x-tenant: acme",
)
"""A browser's request to a model; with pseudo-headers and what Envoy adds, about twenty headers reach the decision."""

PERCENTILES = {"p50_ms": 0.5, "p75_ms": 0.75, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of load. CPU in microseconds per request and as the share of a processor, latencies in milliseconds."""

    requests: int
    failed: int
    requests_per_second: float
    server_cpu_us: float
    envoy_cpu_us: float
    server_busy: float
    envoy_busy: float
    mean_ms: float
    p50_ms: float
    p75_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


def offered_rate(reached: Iterable[float]) -> int:
    """Requests a second for all, of which the slowest ``reached`` at least twice as many: a full hundred.

    A server that cannot keep up has no cost at this rate, only a queue.
    """
    return max(100, min(MOST_OFFERED, int(min(reached) / 2 // 100 * 100)))


def cpu_seconds(pid: int | None) -> float:
    """User and system time of all threads of a process, to the nanosecond; of nobody, none.

    Raises:
        ProcessLookupError: when there is no such process.
    """
    if pid is None:
        return 0.0
    try:
        # clock_getcpuclockid(3), which Python has only for threads: the scheduler's clock of another process.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        raise ProcessLookupError(f"the process {pid} is gone") from None


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Response(NamedTuple):
    """One request: when it was sent (Unix seconds), its status, and the seconds until its answer had come."""

    sent_at: float
    status: int
    seconds: float

    @property
    def ended_at(self) -> float:
        """When the answer had come (Unix seconds)."""
        return self.sent_at + self.seconds


def run(
    h2load: str,
    *,
    port: int,
    paths: Sequence[str],
    seconds: float,
    rate: int | None,
    connections: int = CONNECTIONS,
    server: int | None,
    envoy: int,
    cpus: Sequence[int],
    directory: Path,
) -> Measured:
    """Load Envoy as ``offer`` does, and measure; ``server`` and ``envoy`` are process ids."""
    before = cpu_seconds(server), cpu_seconds(envoy)
    responses = offer(
        h2load,
        port=port,
        paths=paths,
        seconds=seconds,
        rate=rate,
        connections=connections,
        cpus=cpus,
        directory=directory,
    )
    used = cpu_seconds(server) - before[0], cpu_seconds(envoy) - before[1]
    count = len(responses)
    latencies = sorted(response.seconds * 1000 for response in responses)
    return Measured(
        requests=count,
        failed=sum(response.status != 200 for response in responses),
        requests_per_second=count / seconds,
        server_cpu_us=used[0] / count * 1e6,
        envoy_cpu_us=used[1] / count * 1e6,
        server_busy=used[0] / seconds,
        envoy_busy=used[1] / seconds,
        mean_ms=statistics.fmean(latencies),
        **{name: latencies[int(count * share)] for name, share in PERCENTILES.items()},
        max_ms=latencies[-1],
    )


def offer(
    h2load: str,
    *,
    port: int,
    paths: Sequence[str],
    seconds: float,
    rate: int | None,
    connections: int = CONNECTIONS,
    cpus: Sequence[int],
    directory: Path,
) -> list[Response]:
    """Load Envoy for ``seconds``, at ``rate`` requests a second or as fast as it goes; what came of each request.

    h2load sends what is due on all ``connections`` at once, so at a rate many of them queue behind one another.
    ``cpus`` are what it may use. With one connection each request waits for the one before.
    """
    targets = directory / "targets.txt"
    targets.write_text("".join(f"http://127.0.0.1:{port}{path}\n" for path in paths))
    log = directory / "requests.log"
    log.unlink(missing_ok=True)
    duration = f"{seconds * 1000:.0f}ms"
    command = [h2load, "--h1", "-c", str(connections), "-D", duration, "-i", str(targets), "--log-file", str(log)]
    if rate is not None:
        command += ["--rps", str(rate / connections)]
    for header in HEADERS:
        command += ["-H", header]
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cpus)), *command],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=True,
    )
    responses = _read_log(log)
    if not responses:
        raise RuntimeError(f"h2load made no request: {done.stdout}{done.stderr}")
    return responses


def _read_log(log: Path) -> list[Response]:
    """The requests in the order in which they ended; h2load writes microseconds."""
    lines = (line.split("\t") for line in log.read_text().splitlines())
    return [Response(int(sent) / 1e6, int(status), int(micros) / 1e6) for sent, status, micros in lines]
