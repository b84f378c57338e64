"""Requests that may go on: told by their headers, in the tally and in their decision's id alike."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.datapath.pipeline import Pipeline
from extproc.datapath.streams import may_stream
from extproc.decision_id import arm_and_stream, arm_codes, sealed_code
from tests.support.clock import FakeClock
from tests.support.decisions import make_request
from tests.support.ids import make_ids, opened
from tests.support.rollouts import canary, snapshot

STREAMS = [
    {"upgrade": b"websocket", "connection": b"Upgrade"},
    {"accept": b"text/event-stream"},
    {"accept": b"application/json, text/event-stream;q=0.9"},
    {"content-type": b"application/grpc"},
    {"content-type": b"application/grpc+proto"},
]
OTHERS = [{}, {"accept": b"*/*"}, {"content-type": b"application/json"}, {"connection": b"keep-alive"}]


@pytest.mark.parametrize("headers", STREAMS)
def test_upgrades_events_and_grpc_may_stream(headers: dict[str, bytes]) -> None:
    assert may_stream(make_request(headers=headers))


def test_a_tunnel_may_stream() -> None:
    assert may_stream(make_request(method="CONNECT"))


@pytest.mark.parametrize("headers", OTHERS)
def test_other_requests_have_an_end(headers: dict[str, bytes]) -> None:
    assert not may_stream(make_request(headers=headers))


@pytest.mark.parametrize("headers", [*STREAMS, *OTHERS])
async def test_the_id_of_a_decision_says_whether_its_request_may_stream(headers: dict[str, bytes]) -> None:
    pipeline = Pipeline(
        SimpleNamespace(current=snapshot(canary(10_000))), SimpleNamespace(current=None), None, make_ids(), FakeClock()
    )
    request = make_request(path="/v1/models/fraud-detector", headers={"x-user-id": b"alice", **headers})
    _, decided = await pipeline.decide(request)
    code = opened(decided.decision.decision_id).arm
    assert arm_and_stream(code) == (arm_codes([])["canary"], may_stream(request))


@given(st.sampled_from(sorted(arm_codes([f"v{number}" for number in range(112)]).values())), st.booleans())
def test_an_arm_and_a_stream_are_read_as_they_were_sealed(arm: int, stream: bool) -> None:
    code = sealed_code(arm, stream=stream)
    assert 0 <= code < 256
    assert arm_and_stream(code) == (arm, stream)
