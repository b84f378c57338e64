"""A request takes the walk that the page of the architecture says it takes."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import yaml

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply
from extproc.datapath.transports.http import PROCESS_PATH, ExtProcApplication
from extproc.resources.loading import load_valid
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig
from tests.support.pages import page, table
from tests.support.paths import ROOT
from tests.support.policies import sources_of
from tests.support.rollouts import CANARY, document
from tests.support.source import named

OF_GRPC = "extproc/datapath/transports/grpc"
"""The request comes over HTTP here, which needs no server."""

HEADERS = {":method": "POST", ":path": "/v1/models/fraud-detector", ":authority": "models", "x-user-id": "u-1"}
FEATURES = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]}
ALLOW = 'package routing\n\ndecision := {"allow": input.features.risk_score < 1}\n'


@contextmanager
def called() -> Iterator[list[tuple[str, str]]]:
    """Every function of ours that is called, by the file that it is in and its name, in order."""
    found: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(ROOT):
            found.append((str(file.relative_to(ROOT)), f"{frame.f_code.co_name}()"))

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


async def test_a_request_takes_the_walk_of_the_page_from_top_to_bottom(tmp_path: Path) -> None:
    rollout = document({**CANARY, "policy": {"path": "routing/decision"}, "features": FEATURES})
    (tmp_path / "document.yaml").write_text(yaml.safe_dump(rollout))
    store = f"sqlite:{tmp_path / 'store.db'}"
    opened = open_store(store, create=True)
    act(opened, "alice", Apply(load_valid([tmp_path / "document.yaml"])), SystemClock())
    opened.close()
    beat = HeartbeatPage.create()
    policies = PolicySlot(beat)
    outside = {"features": f"sqlite:{tmp_path}/none.db", "sinks": [f"file:{tmp_path}/decisions.log"]}
    worker = DecisionApplication(WorkerConfig(0, store, f"{tmp_path}/", observed=True, **outside), policies)
    policies.swap(worker.engine(sources_of(ALLOW).to_json()))
    worker.load()
    application = ExtProcApplication(worker.process)
    with called() as calls:
        await ask(application)
        worker.take_decided()
    await worker.close(5.0)
    beat.close()

    part = page("architecture").partition("\n## A request\n")[2]
    rows = table(part, "where", "what happens")
    walk = [[step for step in named(where) if not step[0].startswith(OF_GRPC)] for where, _ in rows]
    told = [step for row in walk for step in row] + [step for _, what in rows for step in named(what)]
    assert [step for step in told if step not in calls] == []
    first = [min(map(calls.index, row)) for row in walk]
    assert first == sorted(first)


async def ask(application: ExtProcApplication) -> None:
    """Ask for a decision on one request, as Envoy does over HTTP."""
    headers = [{"key": name, "raw_value": b64encode(value.encode()).decode()} for name, value in HEADERS.items()]
    body = orjson.dumps({"request_headers": {"headers": {"headers": headers}, "end_of_stream": True}})

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: Mapping[str, Any]) -> None:
        assert event.get("status", 200) == 200

    await application({"path": PROCESS_PATH, "method": "POST"}, receive, send)
