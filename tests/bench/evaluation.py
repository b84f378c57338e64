"""What our evaluation of policies adds to the engine's: ``python -m tests.bench.evaluation``, in some minutes.

``evaluation``: a request of the bench of recipes is asked about, of the shipped policy and of some of the guide's
recipes. The bare engine is given the same document, written as JSON in the quickest way, and asked for the same rule of
the same files; what it answers is not looked at. Ours checks it, and knows null from no value.

``replay --against``: what a replay of two sets of policies costs over a replay of one, by the same log.

Both are counted in instructions, which are the same on a machine that others share. 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import regorus

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.bundled import bundled
from extproc.datapath.comparing import PolicyComparison
from extproc.datapath.replay import Replay
from extproc.datapath.transports import http_codec
from extproc.datapath.transports.exchange import Exchange
from extproc.resources.policies import read_sources
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig
from extproc.state import StateFolder
from tests.bench.count.windows import VALGRIND, be_counted, count
from tests.bench.in_process import message
from tests.bench.recipes import Asked, cases, input_of
from tests.bench.stack import CACHED_FOR_LONG, FULL_POLICY, Case, paths, prepare
from tests.support.paths import ROOT

MOST: Final = {"evaluation": 1.3, "replay --against": 2.2}
"""Ours over the bare engine, and two sets over one."""

KEPT: Final = ROOT / "build" / "bench-evaluation.json"
SHIPPED: Final = "the shipped policy"
TIMES: Final = 50
"""Evaluations between two marks."""

DECISIONS: Final = 16
"""Of the log that is replayed between two marks."""

COUNTED: Final = ("risk", "region")
"""What is asked about beside the shipped policy; the bare engine lacks what some of the recipes call."""


class Pair(NamedTuple):
    """Two ways, which are counted each in a process of its own, and what the second may cost over the first."""

    name: str
    bar: str
    ways: tuple[str, str]


def _asked(name: str) -> Asked:
    return Asked(FULL_POLICY, read_sources(bundled("policies"))) if name == SHIPPED else cases()[name]


def bare(name: str) -> Callable[[], Any]:
    """Asks an engine that is nobody's but the library's."""
    asked = _asked(name)
    given = input_of(asked, RegorusEngine(asked.sources))()
    engine = regorus.Engine()
    engine.add_data_json(json.dumps(asked.sources.data))
    for file, text in asked.sources.files.items():
        engine.add_policy(file, text)
    rule = f"data.{asked.path.replace('/', '.')}"

    def ask() -> Any:
        engine.set_input_json(orjson.dumps(given).decode())
        return engine.eval_rule(rule)

    assert ask()["allow"]
    return ask


def ours(name: str) -> Callable[[], Any]:
    """Asks ours."""
    asked = _asked(name)
    engine = RegorusEngine(asked.sources)
    given = input_of(asked, engine)()
    assert engine.evaluate(asked.path, given).allow
    return lambda: engine.evaluate(asked.path, given)


async def write_log(folder: Path) -> Path:
    """A decision log of the bench's requests, from one rollout with the shipped policy and a feature."""
    log, case = folder / "decisions.jsonl", Case("", rollouts=1, full=True)
    store, features = prepare(folder, case)
    slot = PolicySlot(HeartbeatPage.create())
    config = WorkerConfig(0, store, StateFolder.of(store, None).prefix, features=features, sinks=[f"file:{log}"])
    app = DecisionApplication(config, slot)
    slot.swap(app.engine(read_sources(bundled("policies")).to_json()))
    app.load()
    exchange = Exchange(http_codec, app.process, on_fault=_fail)
    for number, path in enumerate(paths(case)[: 4 * DECISIONS]):
        await exchange.reply(message(path, number))
        await asyncio.sleep(0)
    await app.close(10.0)
    return log


def replayed(log: str, *, sets: int) -> Callable[[], Any]:
    """Replays a log, with one set of policies or two."""
    lines = Path(log).read_bytes().splitlines()
    engine = RegorusEngine(read_sources(bundled("policies")))
    other = RegorusEngine(read_sources(bundled("policies")))

    def once() -> None:
        if sets == 1:
            found = [each for each in Replay(engine).lines(lines) if each.fault or each.differences]
            assert not found, found[0]
            return
        comparison = PolicyComparison(engine, other)
        assert not [*comparison.lines(lines)]
        assert comparison.same > DECISIONS, comparison.not_replayable
        assert not comparison.changed

    return once


def _fail(fault: str) -> None:
    raise AssertionError(fault)


def pairs() -> list[Pair]:
    """What is counted."""
    found = [Pair(name, "evaluation", ("bare", "ours")) for name in (SHIPPED, *COUNTED)]
    return [*found, Pair("a log of decisions", "replay --against", ("one set", "two sets"))]


def work(way: str, name: str) -> Callable[[], Any]:
    """What is counted of one way."""
    if way in ("bare", "ours"):
        return (bare if way == "bare" else ours)(name)
    return replayed(name, sets=1 if way == "one set" else 2)


def times(way: str) -> int:
    """How often it is done between two marks."""
    return TIMES if way in ("bare", "ours") else 1


def main() -> int:
    """Count, and say what missed its bar."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.evaluation", description=__doc__)
    parser.add_argument("--count", nargs=2, metavar=("WAY", "NAME"), help=argparse.SUPPRESS)
    counted = parser.parse_args().count
    if counted is not None:
        be_counted(work(*counted), times(counted[0]))
        return 0
    if VALGRIND is None:
        print("this needs valgrind, which `make systems` installs")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(CACHED_FOR_LONG)
        log = str(asyncio.run(write_log(Path(folder))))
        figures = _figures(log)
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(figures, indent=2) + "\n")
    for each in figures:
        print(
            f"{each['bar']:<20}{each['name']:<24}{each['instructions'][0]:>12,}{each['instructions'][1]:>12,}"
            f"{each['ratio']:>8.3f} (at most {MOST[each['bar']]})"
        )
    return 1 if any(each["ratio"] > MOST[each["bar"]] for each in figures) else 0


def _figures(log: str) -> list[dict[str, Any]]:
    asked = [(pair, way) for pair in pairs() for way in pair.ways]

    def counted(each: tuple[Pair, str]) -> int:
        pair, way = each
        name = log if pair.bar == "replay --against" else pair.name
        return count("tests.bench.evaluation", ("--count", way, name), times(way))

    with ThreadPoolExecutor(2) as pool:
        counts = dict(zip([(pair.name, way) for pair, way in asked], pool.map(counted, asked), strict=True))
    return [
        {
            "bar": pair.bar,
            "name": pair.name,
            "instructions": [counts[pair.name, way] for way in pair.ways],
            "ratio": round(counts[pair.name, pair.ways[1]] / counts[pair.name, pair.ways[0]], 3),
        }
        for pair in pairs()
    ]


if __name__ == "__main__":
    sys.exit(main())
