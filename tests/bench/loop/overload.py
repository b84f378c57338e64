"""What becomes of Envoy's log when the observer does not keep up, and by which counters that is told."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from extproc.metrics.catalogue import OBSERVER_ENTRIES
from tests.bench.load import offer
from tests.bench.stack import Stack, other_cpus, set_weight, users

RATE = 2000
SECONDS = 6
FROZEN_SECONDS = 4
COMPLETED = "http.ingress.downstream_rq_completed"
DROPPED_BY_ENVOY = "access_logs.grpc_access_log.logs_dropped"
SETTINGS = {"DROPOUT_HANG_LIMIT": "60", "DROPOUT_EVALUATION_LIMIT": "60"}
"""An observer that is held up on purpose is not to be replaced for it."""

ROLLOUT = 1
"""One of its own: what is lost of its requests says nothing about others."""


def overload(stack: Stack, h2load: str) -> dict[str, Any]:
    """Load while the observer gets no processor at all for a while: the worst that being too slow can be."""
    set_weight(stack.directory, ROLLOUT, "50")
    before = _counts(stack)
    freezing = threading.Thread(target=_freeze, args=(stack.observer,))
    freezing.start()
    responses = offer(
        h2load,
        port=stack.envoy.port,
        paths=users(ROLLOUT),
        seconds=SECONDS,
        rate=RATE,
        cpus=sorted(other_cpus()),
        directory=stack.directory,
    )
    freezing.join()
    time.sleep(1)
    completed, taken, dropped = (after - earlier for after, earlier in zip(_counts(stack), before, strict=True))
    return {
        "requests_per_second": RATE,
        "frozen_seconds": FROZEN_SECONDS,
        "requests": completed,
        OBSERVER_ENTRIES.name: taken,
        DROPPED_BY_ENVOY: dropped,
        "untold": completed - taken - dropped,
        "tripped": stack.tripped(),
        "slowest_request_ms": round(max(response.seconds for response in responses) * 1000, 1),
    }


def _freeze(observer: int) -> None:
    time.sleep(1)
    os.kill(observer, signal.SIGSTOP)
    time.sleep(FROZEN_SECONDS)
    os.kill(observer, signal.SIGCONT)


def _counts(stack: Stack) -> tuple[int, int, int]:
    """Requests that Envoy completed, entries that the observer took, entries that Envoy dropped."""
    families = text_string_to_metric_families(stack.page("/metrics"))
    taken = sum(
        sample.value for family in families for sample in family.samples if sample.name == OBSERVER_ENTRIES.name
    )
    return stack.envoy.stat(COMPLETED), int(taken), stack.envoy.stat(DROPPED_BY_ENVOY)
