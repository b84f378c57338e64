"""A worker's start, by what it tells its supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from extproc.errors import InvalidInput
from extproc.serve.channel import Channel
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.messages import FROM_WORKER, Failed, FromWorker, StartWorker, TakenAway, ToWorker
from extproc.serve.worker.application import Application
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker.worker import Worker
from extproc.serve.worker_config import WorkerConfig
from extproc.settings import Settings


class Broken:
    """A ``Server`` that cannot start, once it has begun to."""

    def __init__(self) -> None:
        self.stopped = 0

    async def start(self) -> None:
        raise InvalidInput.of("address_invalid", "there is no place for it")

    async def say_draining(self) -> None:
        raise AssertionError

    async def stop(self, grace: float) -> None:
        self.stopped += 1


class Idle:
    """As much of an ``Application`` as a worker needs to begin."""

    process = count_fault = None
    revision = ""

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *given: {}


def started(
    monkeypatch: pytest.MonkeyPatch, assemble: Callable[..., object], server: object = None
) -> tuple[int, list[FromWorker]]:
    """How a worker ends that cannot start, and what it tells its supervisor."""
    monkeypatch.setattr("extproc.serve.worker.worker.os._exit", lambda code: None)  # what it does once nobody hears it
    monkeypatch.setattr("extproc.serve.worker.worker.arm_dead_man_switch", lambda seconds: None)
    config = WorkerConfig(0, "sqlite:none", "none.", unix="none.sock", memory=256 << 20)

    async def start() -> tuple[int, list[FromWorker]]:
        ours, theirs = socket.socketpair()
        heard: list[FromWorker] = []
        channel = Channel[ToWorker, FromWorker](FROM_WORKER, heard.append, lambda: None)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        channel.send(StartWorker(config, False, None, [], TakenAway([], [])))
        page = HeartbeatPage.create()
        worker = Worker(theirs, page, assemble, lambda *given: server, Settings())  # type: ignore[arg-type,return-value]
        code = await worker.run()
        await asyncio.sleep(0)
        channel.close()
        page.close()
        return code, heard

    return asyncio.run(start())


def test_a_worker_whose_memory_is_not_enough_to_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr("extproc.serve.worker.worker.limit_memory", limits.append)

    def takes_too_much(config: WorkerConfig, slot: PolicySlot) -> Application:
        raise MemoryError

    code, [said] = started(monkeypatch, takes_too_much)
    assert (code, limits) == (2, [256 << 20])
    assert isinstance(said, Failed)
    (fault,) = said.faults
    assert (fault.code, fault.field) == ("worker_memory", "--worker-memory")
    assert fault.message == "256 MB are not enough for what is to be served: raise it"


def test_a_server_that_fails_to_start_is_stopped_as_one_that_served_and_the_worker_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("extproc.serve.worker.worker.limit_memory", lambda limit: None)
    server = Broken()
    code, [said] = started(monkeypatch, lambda config, slot: Idle(), server)
    assert (code, server.stopped) == (2, 1)
    assert isinstance(said, Failed)
    assert [fault.code for fault in said.faults] == ["address_invalid"]
