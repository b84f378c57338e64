"""What the recipes of the guide for policy authors cost: ``python -m tests.bench.recipes``.

Each is asked about one request, as a worker asks it that remembers nothing: the part of the input that the policy reads
is built, and the policy is evaluated. What that costs is given over what the least policy costs in the same moment:
by the processor's time and, where valgrind is there, by instructions, which are the same on a machine that others
share. Writes ``tests/bench/recipes.json``, which ``make format`` puts into the guide.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, NamedTuple

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.model import Features, FeatureValue, Unit
from extproc.datapath.policy_input import build_input
from extproc.resources.loading import parse_rollout
from extproc.resources.policies import PolicySources
from extproc.run.given import given_request
from extproc.snapshot.compile import compile_rollout
from extproc.store.status import Status
from tests.bench.count.windows import VALGRIND, be_counted, count
from tests.support.paths import RECIPES, ROOT
from tests.support.policies import recipe, recipes

KEPT: Final = ROOT / "tests" / "bench" / "recipes.json"
BLOCKS: Final = 31
TIMES: Final = 200
COUNTED: Final = 50
"""Evaluations between two marks."""
ROWS: Final = 5_000
NOW: Final = datetime.fromisoformat("2026-11-30T09:00:00Z").timestamp()
LEAST: Final = "the least policy"
TENANT: Final = f"tenant-{ROWS // 2}"
"""In the middle of the lists that are gone through."""

ROLLOUT: Final = {
    "apiVersion": "dropout.dev/v1alpha1",
    "kind": "Rollout",
    "metadata": {"name": "fraud-detector"},
    "spec": {
        "model": "fraud-detector",
        "match": [{"path": {"value": "/v1/models/fraud-detector"}}],
        "unit": {"header": "x-user-id"},
        "stable": {"version": "3"},
        "canary": {"version": "4"},
    },
}
_OF_TENANT: Final = 'input.attributes.request.http.headers["x-tenant"]'
_LISTED: Final = f"package tenants\n\ndecision := {{'allow': true}} if {_OF_TENANT} in data.tenants.early\n".replace(
    "'", '"'
)
_ROWS: Final = """package tenants

decision := {"allow": true} if {
	some row in data.tenants.early
	row.tenant == input.attributes.request.http.headers["x-tenant"]
}
"""


class Asked(NamedTuple):
    """A rule of some policies, and the tenant that asks."""

    path: str
    sources: PolicySources
    tenant: str = "acme"


def cases() -> dict[str, Asked]:
    """What is measured: the least policy, every recipe, and three ways to a list of ``ROWS``."""
    names = [f"tenant-{number}" for number in range(ROWS)]
    by_key = (RECIPES / "tenants" / "decision.rego").read_text()
    found = {LEAST: Asked("least/decision", _sources('package least\n\ndecision := {"allow": true}\n', {}))}
    found |= {name: Asked(f"{name}/decision", recipe(name)) for name in recipes()}
    for what, text, rows in (
        ("an object, by its key", by_key, dict.fromkeys(names, True)),
        ("an array, by `in`", _LISTED, names),
        ("an array of objects, by `some row in`", _ROWS, [{"tenant": name} for name in names]),
    ):
        sources = _sources(text, {"tenants": {"early": rows}})
        found[f"{ROWS} tenants, {what}"] = Asked("tenants/decision", sources, TENANT)
    return found


def _sources(text: str, data: Mapping[str, Any]) -> PolicySources:
    return PolicySources({"decision.rego": text}, data, "bench")


def question(asked: Asked) -> Callable[[], None]:
    """Asks the policy about the request."""
    engine = RegorusEngine(asked.sources)
    given = input_of(asked, engine)

    def ask() -> None:
        verdict = engine.evaluate(asked.path, given())
        assert verdict.fault is None, verdict.message
        assert verdict.allow

    ask()
    return ask


def input_of(asked: Asked, engine: RegorusEngine) -> Callable[[], dict[str, Any]]:
    """Builds what the policy is asked about: the part of the request that it reads."""
    reads = engine.reads(asked.path)
    token = re.search(r'^beta := "(.+)"$', (RECIPES / "claims" / "decision_test.rego").read_text(), re.MULTILINE)
    assert token is not None
    headers = (
        *(f"x-tenant: {asked.tenant}", "x-region: eu", "x-user-email: ann@example.com", "x-tester: true"),
        *(f"authorization: Bearer {token[1]}", "x-user-id: u-1017", "accept: application/json"),
    )
    source = ("source.address=10.0.0.7:4711",)
    request = given_request("POST", "/v1/models/fraud-detector:predict", headers, source)
    rollout = compile_rollout(parse_rollout(ROLLOUT), Status("3", "4"), NOW)
    features = Features({"risk_score": FeatureValue(0.2, 0.0, "cache")})
    return lambda: build_input(request, rollout, Unit(b"u-1017"), features, NOW, reads)


def processor_time() -> dict[str, float]:
    """The time of each over that of the least policy, the middle of ``BLOCKS`` in which all have their turn."""
    questions = {name: question(asked) for name, asked in cases().items()}
    times = {name: _times(name, TIMES) for name in questions}
    gc.collect()
    gc.freeze()  # as a worker does
    spent: dict[str, list[float]] = {name: [] for name in questions}
    for _ in range(BLOCKS):
        for name, ask in questions.items():
            ask()  # what the one before had displaced in the processor's caches
            before = time.process_time_ns()
            for _ in range(times[name]):
                ask()
            spent[name].append((time.process_time_ns() - before) / times[name])
    return {
        name: statistics.median(one / least for one, least in zip(of, spent[LEAST], strict=True))
        for name, of in spent.items()
    }


def counts() -> dict[str, int] | None:
    """The instructions of each; None without valgrind."""
    if VALGRIND is None:
        return None
    names = [*cases()]
    with ThreadPoolExecutor(2) as pool:
        each = pool.map(lambda name: count("tests.bench.recipes", ("--count", name), _times(name, COUNTED)), names)
        return dict(zip(names, each, strict=True))


def _times(name: str, usual: int) -> int:
    """How often in a row: what goes through rows takes as long as hundreds of others."""
    return usual // 25 if name.startswith(str(ROWS)) else usual


def main() -> int:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recipes", description=__doc__)
    parser.add_argument("--count", metavar="CASE", help=argparse.SUPPRESS)
    name = parser.parse_args().count
    if name is not None:
        be_counted(question(cases()[name]), _times(name, COUNTED))
        return 0
    times, counted_ = processor_time(), counts()
    ratios = {
        each: {
            "time": round(ratio, 1),
            "instructions": None if counted_ is None else round(counted_[each] / counted_[LEAST], 1),
        }
        for each, ratio in times.items()
    }
    KEPT.write_text(json.dumps({"python": platform.python_version(), "over_the_least": ratios}, indent=2) + "\n")
    for each, row in ratios.items():
        print(f"{each:<50}{row['time']:>10}{row['instructions'] or '-':>10}")
    print(f"written to {KEPT.relative_to(ROOT)}; `make format` puts it into the guide")
    return 0


if __name__ == "__main__":
    sys.exit(main())
