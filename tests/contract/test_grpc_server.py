"""The worker's gRPC server as those see it who ask for its health: no check fails because of a restart."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from extproc.envoy.bootstrap import connection_manager
from extproc.serve.worker import grpc_server
from extproc.serve.worker.grpc_server import ALIVE_SERVICE, GrpcServer
from extproc.serve.worker_config import WorkerConfig
from tests.support.dropout import PROCESS
from tests.support.envoy import TEMPLATES
from tests.support.stripping import Stripping


class Checked:
    """A server, which each test stops, and one who asks whether it is alive, over a connection that stays."""

    def __init__(self, path: Path) -> None:
        self.server = GrpcServer(WorkerConfig(0, "", "", unix=str(path)), Stripping(), lambda fault: None)
        self.channel = grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])

    async def check(self) -> Any:
        """What a health check as Envoy sends it is told."""
        asked = health_pb2.HealthCheckRequest(service=ALIVE_SERVICE)
        return (await health_pb2_grpc.HealthStub(self.channel).Check(asked, timeout=60)).status


@pytest.fixture
async def checked() -> AsyncIterator[Checked]:
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    checked = Checked(folder / "s")
    await checked.server.start()
    try:
        yield checked
    finally:
        await checked.channel.close()
        shutil.rmtree(folder)


async def test_a_server_stops_right_after_a_health_check_so_that_none_is_under_way(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "_CHECK_SECONDS", 60.0)
    assert await checked.check() == health_pb2.HealthCheckResponse.SERVING
    stopping = asyncio.create_task(checked.server.stop(60))
    await asyncio.sleep(0)
    assert await checked.check() == health_pb2.HealthCheckResponse.SERVING
    await stopping


async def test_a_server_that_is_asked_no_more_stops_all_the_same(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "_CHECK_SECONDS", 0.01)
    await checked.check()
    await asyncio.wait_for(checked.server.stop(60), 60)


async def test_a_server_that_nobody_asked_waits_for_no_check(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "_CHECK_SECONDS", 60.0)
    await asyncio.wait_for(checked.server.stop(60), 60)


async def test_whatever_a_server_that_stops_says_to_a_request_envoy_asks_another_one(checked: Checked) -> None:
    retried = processor_retries()
    call = checked.channel.stream_stream(PROCESS)
    said, served = set[str](), asyncio.Event()

    async def ask() -> None:
        while (status := (await call(iter([]), timeout=60).code()).name) == "OK":
            served.set()
        said.add(status.lower())

    asking = [asyncio.create_task(ask()) for _ in range(32)]
    await served.wait()
    await checked.server.stop(60)
    await asyncio.gather(*asking)
    assert said <= retried


def processor_retries() -> set[str]:
    """What our configuration has Envoy ask again for."""
    manager = connection_manager(yaml.safe_load(TEMPLATES["grpc"].read_text()))
    [processor] = [each for each in manager["http_filters"] if each["name"] == "envoy.filters.http.ext_proc"]
    return set(processor["typed_config"]["grpc_service"]["retry_policy"]["retry_on"].split(","))
