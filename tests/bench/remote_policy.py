"""What asking an OPA costs beside asking it by hand, and what one that hangs takes from the requests of its rollout.

``python -m tests.bench.remote_policy`` prints two ratios as JSON, in some ten seconds: what a real OPA adds to a
decision over what ``AsyncOpaClient.query_rule`` takes for the same input, one at a time over one connection; and
decisions a second while an OPA hangs and is left alone, over those of an engine that says at once that there is none.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop
from opa_client.opa_async import AsyncOpaClient

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply, SetWeight
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_input import REPEATABLE
from extproc.datapath.transports import http_codec
from extproc.datapath.transports.exchange import Exchange
from extproc.names import Reason
from extproc.resources.loading import load_valid
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig
from extproc.state import StateFolder
from tests.bench.in_process import message
from tests.bench.stack import document
from tests.systems.opa import Opa

BLOCKS = 101
TIMES = 20
ALONE_TIMES = 100
"""Short blocks in turns: what a shared machine gives changes within a second, and what is compared must not."""
WARM_UP = 200
SETTLE_SECONDS = 0.02
"""For what was noted of the decisions of a block."""
RULES = """package routing

default decision := {"allow": true}

decision := {"allow": true, "versions": ["1"]} if input.attributes.request.http.headers["x-region"] == "mars"
"""
ASKS, ASKS_NOBODY = 0, 1
"""The models' numbers."""


class NoVerdict:
    """An ``EmbeddedEngine`` that says at once what an engine that is left alone comes to."""

    revision = "none"

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """No verdict."""
        return PolicyVerdict(allow=False, fault=Reason.POLICY_UNAVAILABLE, message="it is left alone")

    def reads(self, path: str) -> Any:
        """As of an engine of which nothing is known."""
        return REPEATABLE

    def can_deny(self, path: str) -> bool:
        """It may."""
        return True

    def has(self, path: str) -> bool:
        """It may."""
        return True


class Recorder:
    """A ``PolicySource`` before another one, that keeps the last input."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.document: Mapping[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def fetch(self, use: Any, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """The other's."""
        self.document = document
        verdict: PolicyVerdict = await self._source.fetch(use, document, within)
        return verdict


@dataclass
class Decider:
    """A worker's application, fed with Envoy's messages from a loop."""

    app: DecisionApplication
    slot: PolicySlot
    exchange: Exchange

    async def seconds(self, model: int, times: int, clock: Callable[[], float] = time.perf_counter) -> float:
        """For each of as many decisions, one after another."""
        messages = [message(f"/v1/models/m{model}:predict?user={user}", user) for user in range(times)]
        before = clock()
        for data in messages:
            await self.exchange.reply(data)
        return (clock() - before) / times


def decider(folder: Path, opa: Opa) -> Decider:
    """One over the store in ``folder``."""
    slot = PolicySlot(HeartbeatPage.create())
    store = f"sqlite:{folder / 'dropout.db'}"
    config = WorkerConfig(0, store, StateFolder.of(store, None).prefix, policy_engine=f"opa+{opa.url}")
    app = DecisionApplication(config, slot)
    app.load()
    return Decider(app, slot, Exchange(http_codec, app.process, on_fault=_fail))


def prepare(folder: Path) -> None:
    """Two rollouts that differ in nothing but that one asks a policy."""
    documents = [document(number, full=False) for number in (ASKS, ASKS_NOBODY)]
    documents[ASKS]["spec"]["policy"] = {"path": "routing/decision", "timeout": "20ms", "onError": "stable"}
    (folder / "rollouts.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
    store = open_store(f"sqlite:{folder / 'dropout.db'}", create=True)
    act(store, "bench", Apply(load_valid([folder / "rollouts.yaml"])), SystemClock())
    for number in (ASKS, ASKS_NOBODY):
        act(store, "bench", SetWeight("bench", f"m{number}", 5000), SystemClock())
    store.close()


async def over_the_client(decides: Decider, opa: Opa) -> dict[str, float]:
    """Seconds of the client, and of a decision with the question and without."""
    recorder = Recorder(decides.slot.current)
    decides.slot.current = recorder  # type: ignore[assignment]
    await decides.seconds(ASKS, WARM_UP)
    await decides.seconds(ASKS_NOBODY, WARM_UP)
    decides.slot.current = recorder._source
    bare, asked, added = [], [], []
    async with AsyncOpaClient(host="127.0.0.1", port=opa.port, retries=0) as client:
        for _ in range(BLOCKS):
            before = time.perf_counter()
            for _ in range(TIMES):
                answer = await client.query_rule(recorder.document, "routing", "decision")
                assert answer == {"result": {"allow": True}}
            bare.append((time.perf_counter() - before) / TIMES)
            asked.append(await decides.seconds(ASKS, TIMES))
            added.append(asked[-1] - await decides.seconds(ASKS_NOBODY, TIMES))
    return {
        "client_us": round(statistics.median(bare) * 1e6, 1),
        "decision_us": round(statistics.median(asked) * 1e6, 1),
        "added_us": round(statistics.median(added) * 1e6, 1),
        "added_over_client": round(statistics.median(a / b for a, b in zip(added, bare, strict=True)), 3),
    }


async def while_it_hangs(decides: Decider, opa: Opa) -> dict[str, float]:
    """Decisions a second, in turns with an engine that is never asked anything.

    Of CPU time, because neither waits for anything: what others take of the machine is left out.
    """
    left_alone, at_once = decides.slot.current, Embedded(NoVerdict())
    opa.hang()
    while decides.app.dump()["gauges"] and _is_up(decides.app):
        await decides.seconds(ASKS, 1)
    hung, decided = [], []
    for number in range(BLOCKS):
        for engine, figures in ((left_alone, hung), (at_once, decided))[:: 1 if number % 2 else -1]:
            decides.slot.current = engine
            await asyncio.sleep(SETTLE_SECONDS)
            figures.append(await decides.seconds(ASKS, ALONE_TIMES, time.process_time))
    opa.go_on()
    decides.slot.current = left_alone
    return {
        "at_once_us": round(statistics.median(decided) * 1e6, 1),
        "hung_us": round(statistics.median(hung) * 1e6, 1),
        "throughput_over_at_once": round(statistics.median(a / h for a, h in zip(decided, hung, strict=True)), 3),
    }


def _is_up(app: DecisionApplication) -> bool:
    return any(name == "dropout_policy_engine_up" and value for name, _, value in app.dump()["gauges"])


def _fail(fault: str) -> None:
    raise AssertionError(fault)


async def measure(folder: Path, opa: Opa) -> dict[str, float]:
    """Both."""
    decides = decider(folder, opa)
    figures = {**await over_the_client(decides, opa), **await while_it_hangs(decides, opa)}
    await decides.app.close(1.0)
    return figures


def main() -> None:
    """Print the figures of a run."""
    with tempfile.TemporaryDirectory(prefix="dropout-bench-") as directory, Opa() as opa:
        opa.put_policy("routing", RULES)
        prepare(Path(directory))
        print(orjson.dumps(uvloop.run(measure(Path(directory), opa))).decode())


if __name__ == "__main__":
    main()
