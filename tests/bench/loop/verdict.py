"""How soon an analysis that fails takes a version away: labels come, the controller measures, all workers follow."""

from __future__ import annotations

import http.client
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extproc.control.api.feedback_http import PATH
from tests.bench.loop.trip import CANARY_ANSWERS
from tests.bench.stack import Stack, dropout
from tests.support.envoy import free_port
from tests.support.process import end, wait_for

INTERVAL_SECONDS = 1
ROLLOUTS = 5
REQUESTS = 400
"""Decisions of each rollout that get a label, all in one batch."""

WRONG = {"canary": 0.5, "control": 0.1}
"""The share of labels that say that the prediction was a false positive."""

WITHIN_SECONDS = 20
NAMES = tuple(f"v{number}" for number in range(ROLLOUTS))


def verdict_seconds(stack: Stack) -> list[float]:
    """For each of several rollouts, from the answer to its labels until no worker gives its canary anything."""
    _apply(stack.directory)
    with _controller(stack) as port:
        wait_for(
            lambda: all(set(stack.weights(f"bench/{name}")) == {50.0} for name in NAMES), "canaries at weight 50", 20
        )
        time.sleep(2 * INTERVAL_SECONDS)
        return [_verdict(stack, port, name, number / ROLLOUTS) for number, name in enumerate(NAMES)]


def _verdict(stack: Stack, port: int, name: str, later: float) -> float:
    """One of them, its labels ``later`` by that part of the interval, so that not all come as soon after a look."""
    draw = random.Random(name)
    decisions = _decisions(stack.envoy.port, name)
    records = [{"decision_id": id_, "prediction": draw.random() < WRONG[arm], "label": False} for id_, arm in decisions]
    time.sleep(later * INTERVAL_SECONDS)
    counts = _post(port, stack.directory / "dropout.db.token", records)["counts"]
    if counts != {"recorded": REQUESTS}:
        raise RuntimeError(f"labels were not taken: {counts}")
    began = time.monotonic()
    while set(stack.weights(f"bench/{name}")) != {0.0}:
        if time.monotonic() > began + WITHIN_SECONDS:
            raise RuntimeError(f"{name} was not taken away; see {stack.log()[-2000:]}")
        time.sleep(0.005)
    return time.monotonic() - began


def _apply(directory: Path) -> None:
    """Rollouts that wait for the same analysis, with a controller's first steps before them."""
    provider = {"feedback": {"metric": "false_positive_rate", "minLabels": 50}}
    metric = {
        "name": "labels",
        "interval": f"{INTERVAL_SECONDS}s",
        "count": 1000,
        "inconclusiveLimit": 1000,
        "failureCondition": "result.lower > 0",
        "provider": provider,
    }
    documents = [_document("AnalysisTemplate", "labels", {"metrics": [metric]})]
    for name in NAMES:
        spec = {
            "model": name,
            "match": [{"path": {"type": "PathPrefix", "value": f"/v1/models/{name}"}}],
            "unit": {"header": "x-user-id"},
            "stable": {"version": "1"},
            "canary": {"version": "2"},
            "steps": [{"setWeight": 50}, {"analysis": {"templates": [{"templateName": "labels"}]}}],
        }
        documents.append(_document("Rollout", name, spec))
    folder = directory / "verdict"
    folder.mkdir()
    (folder / "documents.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
    dropout("apply", "-f", str(folder), "--store", f"sqlite:{directory / 'dropout.db'}", directory=directory)


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": "bench", "name": name}
    return {"apiVersion": "dropout.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


@contextmanager
def _controller(stack: Stack) -> Iterator[int]:
    """A controller of the stack's store; the port where it takes labels."""
    port = free_port()
    arguments = ["--store", f"sqlite:{stack.directory / 'dropout.db'}", "--feedback-listen", f"127.0.0.1:{port}"]
    arguments += ["--listen", f"unix:{stack.directory / 'control.sock'}"]
    process = stack.spawn(sys.executable, "-m", "extproc.cli", "controller", *arguments)
    try:
        yield port
    finally:
        end(process)


def _decisions(port: int, name: str) -> Iterator[tuple[str, str]]:
    """The ids of decisions, as clients get them, and the arm of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for user in range(REQUESTS):
        connection.request("GET", f"/v1/models/{name}:predict?user={user}")
        answer = connection.getresponse()
        answer.read()
        yield answer.headers["x-decision-id"], "canary" if answer.status == CANARY_ANSWERS else "control"
    connection.close()


def _post(port: int, token: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token.read_text().strip()}", "content-type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", PATH, json.dumps({"records": records}), headers)
    answer = connection.getresponse()
    body: dict[str, Any] = json.loads(answer.read())
    if answer.status != 200:
        raise RuntimeError(f"labels were refused: {body}")
    connection.close()
    return body
