"""What a decision over HTTP costs beside its policy's evaluation, in one process without any server around it.

A worker's application as ``dropout serve`` puts it together, fed with Envoy's messages from a loop: what is read,
matched, gathered, decided, counted, logged and written, with the CPU time of all threads. Run as
``python -m tests.bench.in_process STORE FEATURES DECISION_LOG``; prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import uvloop

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.ports import EmbeddedEngine
from extproc.datapath.transports import http_codec
from extproc.datapath.transports.exchange import Exchange
from extproc.resources.policies import PolicySources, read_sources
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig
from extproc.state import StateFolder
from tests.bench.load import HEADERS
from tests.bench.stack import FULL_POLICY, POLICIES, Case, paths
from tests.support.policies import RecordingEngine

BLOCKS = 11
TIMES = 4
TOGETHER = 8
"""Messages that come in one turn of the event loop, as they do under load."""
LOG_SECONDS = 0.25


def message(path: str, number: int) -> bytes:
    """The question that Envoy sends about one request of the bench."""
    pairs = [
        (":authority", "127.0.0.1:10000"),
        (":path", path),
        (":method", "GET"),
        (":scheme", "http"),
        *(tuple(header.split(": ", 1)) for header in HEADERS),
        ("x-user-id", path),
        ("x-forwarded-for", "192.0.2.2"),
        ("x-forwarded-proto", "http"),
        ("x-envoy-external-address", "127.0.0.1"),
        ("x-request-id", f"fab7cfc4-d7d7-466d-bf5e-{number:012x}"),
    ]
    attributes = {"source.address": "127.0.0.1:58620"}
    headers = [{"key": name, "raw_value": b64encode(value.encode()).decode()} for name, value in pairs]
    question = {
        "request_headers": {"headers": {"headers": headers}, "end_of_stream": True},
        "metadata_context": {},
        "attributes": {"envoy.filters.http.ext_proc": attributes},
        "protocol_config": {},
    }
    return orjson.dumps(question)


async def measure(store: str, features: str, log: Path) -> dict[str, float]:
    """Microseconds of CPU of a whole decision, of one that is counted for an observer, and of its evaluation alone.

    And two ratios: the rest over the evaluation, and with an observer over without one.
    """
    sources = read_sources(POLICIES)
    plain, observed = _Decider(store, features, log), _Decider(store, features, log.with_suffix(".observed"), on=True)
    messages = [message(path, number) for number, path in enumerate(paths(Case("", rollouts=1)))]
    inputs = await plain.warm_up(messages)
    await observed.warm_up(messages)
    engine = RegorusEngine(PolicySources.from_json(sources.to_json()))
    gc.collect()
    gc.freeze()  # as a worker does
    whole, counted, evaluation = [], [], []
    for number in range(BLOCKS):
        # In turns, because whoever comes first finds the processor's caches otherwise.
        for decider, figures in ((plain, whole), (observed, counted))[:: 1 if number % 2 else -1]:
            figures.append(await decider.decide(messages))
        evaluation.append(_evaluate(engine, inputs))
    for decider in (plain, observed):
        await decider.close(decided=len(messages) * (2 + BLOCKS * TIMES))
    return {
        "decision_us": round(statistics.median(whole), 2),
        "observed_decision_us": round(statistics.median(counted), 2),
        "evaluation_us": round(statistics.median(evaluation), 2),
        "pipeline_over_policy": round(
            statistics.median((a - b) / b for a, b in zip(whole, evaluation, strict=True)),
            3,
        ),
        "observed_over_unobserved": round(statistics.median(b / a for a, b in zip(whole, counted, strict=True)), 3),
    }


class _Decider:
    """A worker's application, fed from a loop; ``on`` counts its decisions for an observer."""

    def __init__(self, store: str, features: str, log: Path, *, on: bool = False) -> None:
        self._log = log
        self._slot = PolicySlot(HeartbeatPage.create())
        state = StateFolder.of(store, None).prefix
        config = WorkerConfig(0, store, state, features=features, sinks=[f"file:{log}"], observed=on)
        self._app = DecisionApplication(config, self._slot)
        self._slot.swap(self._app.engine(read_sources(POLICIES).to_json()))
        self._app.load()
        self._exchange = Exchange(http_codec, self._app.process, on_fault=_fail)

    async def warm_up(self, messages: list[bytes]) -> list[Mapping[str, Any]]:
        """Decide all of them; what the policy is asked about."""
        return await _inputs(self._slot, self._exchange, messages)

    async def decide(self, messages: list[bytes]) -> float:
        """Microseconds for each of the messages; what an observer is told each second is put together once."""
        before = time.process_time()
        self._app.take_decided()
        told = time.process_time() - before
        return await _decide(self._exchange, messages) + told / (TIMES * len(messages)) * 1e6

    async def close(self, *, decided: int) -> None:
        """Close it, and see that all was logged."""
        await self._app.close(LOG_SECONDS)
        assert _lines(self._log) == decided, f"the decision log has {_lines(self._log)} lines of {decided}"


async def _inputs(slot: PolicySlot, exchange: Exchange, messages: list[bytes]) -> list[Mapping[str, Any]]:
    """What the policy is asked about, once every feature is in the cache; warms everything up on the way."""
    watched = slot.current
    assert watched is not None
    for data in messages:
        await exchange.reply(data)
    slot.current = recording = RecordingEngine(watched)
    for data in messages:
        await exchange.reply(data)
    slot.current = watched
    await asyncio.sleep(LOG_SECONDS)
    return recording.inputs


async def _decide(exchange: Exchange, messages: list[bytes]) -> float:
    """Microseconds for each of the messages, the line of the decision log included."""
    before = time.process_time()
    for _ in range(TIMES):
        for number, data in enumerate(messages):
            await exchange.reply(data)
            if number % TOGETHER == 0:
                await asyncio.sleep(0)
    await asyncio.sleep(LOG_SECONDS)  # costs nothing but the log's own time: all is written when it is over
    return (time.process_time() - before) / (TIMES * len(messages)) * 1e6


def _evaluate(engine: EmbeddedEngine, inputs: list[Mapping[str, Any]]) -> float:
    """Microseconds for each of the inputs."""
    before = time.process_time()
    for _ in range(TIMES):
        for document in inputs:
            engine.evaluate(FULL_POLICY, document)
    return (time.process_time() - before) / (TIMES * len(inputs)) * 1e6


def _lines(log: Path) -> int:
    return log.read_bytes().count(b'"result":{"decision_id"')


def _fail(fault: str) -> None:
    raise AssertionError(fault)


if __name__ == "__main__":
    print(orjson.dumps(uvloop.run(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3])))).decode())
