"""A worker's start, by what it tells its supervisor."""

from __future__ import annotations

import asyncio
import socket

import pytest

from extproc.serve.channel import Channel
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.messages import FROM_WORKER, Failed, FromWorker, StartWorker, TakenAway, ToWorker
from extproc.serve.worker.application import Application
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker.worker import Worker
from extproc.serve.worker_config import WorkerConfig
from extproc.settings import Settings


def test_a_worker_whose_memory_is_not_enough_to_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr("extproc.serve.worker.worker.limit_memory", limits.append)
    monkeypatch.setattr("extproc.serve.worker.worker.os._exit", lambda code: None)  # what it does once nobody hears it
    monkeypatch.setattr("extproc.serve.worker.worker.arm_dead_man_switch", lambda seconds: None)
    config = WorkerConfig(0, "sqlite:none", "none.", unix="none.sock", memory=256 << 20)

    def takes_too_much(config: WorkerConfig, slot: PolicySlot) -> Application:
        raise MemoryError

    async def started() -> tuple[int, list[FromWorker]]:
        ours, theirs = socket.socketpair()
        heard: list[FromWorker] = []
        channel = Channel[ToWorker, FromWorker](FROM_WORKER, heard.append, lambda: None)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        channel.send(StartWorker(config, False, None, [], TakenAway([], [])))
        page = HeartbeatPage.create()
        worker = Worker(theirs, page, takes_too_much, lambda *given: None, Settings())  # type: ignore[arg-type,return-value]
        code = await worker.run()
        await asyncio.sleep(0)
        channel.close()
        page.close()
        return code, heard

    code, heard = asyncio.run(started())
    assert (code, limits) == (2, [256 << 20])
    [said] = heard
    assert isinstance(said, Failed)
    (fault,) = said.faults
    assert (fault.code, fault.field) == ("worker_memory", "--worker-memory")
    assert fault.message == "256 MB are not enough for what is to be served: raise it"
