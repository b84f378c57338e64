"""A running server whose machine gives it nothing, and whose processes are ended, stopped and told off."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.dropout import DropoutServer, children_of, wait_for

POLICY = 'package routing\n\ndecision := {"allow": true}\n'


def server_with_policy() -> DropoutServer:
    server = DropoutServer(workers=2)
    server.write_policy(POLICY)
    server.write_rollout(policy={"path": "routing/decision"})
    return server


@contextmanager
def no_more_descriptors(pid: int) -> Iterator[None]:
    """The process can open nothing within the block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))  # those that a process closes are no use either
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_a_supervisor_without_descriptors_goes_on_and_catches_up() -> None:
    with server_with_policy() as server:
        assert server.process is not None
        first, second = server.worker_pids()
        before = server.snapshot()["policy_revision"]
        with no_more_descriptors(server.process.pid):
            server.write_policy(POLICY + "# edited\n")
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: "worker 0: it cannot be started" in server.log(), "a try to replace the worker")
            wait_for(lambda: "policy_" in server.log(), "a try of the policies")
            assert server.process.poll() is None
            assert server.ask(worker=1)["x-model-version"] == "3"
        wait_for(lambda: server.snapshot()["policy_revision"] != before, "the edited policies")
        wait_for(lambda: len([w for w in server.snapshot()["workers"] if w["state"] == "serving"]) == 2, "two workers")
        assert server.ask(worker=0)["x-model-version"] == "3"
        assert server.worker_pids()[1] == second
        assert server.snapshot()["errors"] == []
        assert server.stop() == 0


def test_a_hangup_while_it_starts_does_not_end_it() -> None:
    server = server_with_policy()
    server.launch()
    assert server.process is not None
    process = server.process
    try:
        wait_for(lambda: children_of(process.pid), "workers that begin")
        while "ready: " not in server.log():
            process.send_signal(signal.SIGHUP)
            assert process.poll() is None
            time.sleep(0.02)
        assert server.stop() == 0
    finally:
        server.__exit__(None, None, None)
