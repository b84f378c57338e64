"""A process that spins lives no longer than the one that started it, however that one ends: the kernel sees to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
import yaml

from extproc.adapters.stores import open_store
from extproc.cli.serve import _WORKER
from extproc.clock import SystemClock
from extproc.control.actions import Apply, act
from extproc.resources.loading import load_valid
from extproc.serve.children import spawn
from extproc.serve.worker_config import GRPC, WorkerConfig
from tests.support.dropout import wait_for
from tests.support.paths import ROOT
from tests.support.policies import sources_of
from tests.support.rollouts import CANARY, document

BUSY_SECONDS = 0.6
"""Of a processor: more than it takes to start and load, so that a helper that used them is in the policy."""

ENDLESS = """package {package}

numbers_there_are := numbers.range(1, 20000)

decision := {{"allow": count([1 | some a in numbers_there_are; some b in numbers_there_are; a * b == -1]) == 0}}
"""

TRIES = """
import asyncio, sys
from pathlib import Path
from extproc.cli.serve import _POLICY_TRIAL, _read_sources
from extproc.serve.policy_trial import Trial
asyncio.run(Trial(_POLICY_TRIAL, 60).run(_read_sources(Path(sys.argv[1])), {"routing/decision": {}}))
"""

ASKS = """
import sys
from extproc.adapters import control_policy
control_policy.ControlPolicies(sys.argv[1], answer_seconds=60).decide({})
"""

CHECKS = """
import sys
from extproc.adapters.regorus_policy import check_sources
from extproc.resources.policies import PolicySources
nested = "package a\\n\\ndecision := " + "[" * 40 + "1" + "]" * 40
check_sources(PolicySources({"a.rego": nested}, {}, "r"), cpu_seconds=60)
"""


@contextmanager
def started(program: str, policies: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", program, str(policies)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid: int) -> float:
    """What a process used; 0 when it is gone, or dead and nobody's yet."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] not in (b"Z", b"X"):
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@pytest.mark.parametrize(
    ("program", "package"),
    [(TRIES, "routing"), (ASKS, "control"), (CHECKS, "routing")],
    ids=["a trial of policies", "a decision on control", "a check of policies"],
)
def test_a_helper_that_spins_ends_with_the_process_that_started_it(program: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "policy.rego").write_text(ENDLESS.format(package=package))
    with started(program, tmp_path) as parent:
        wait_for(lambda: any(cpu_seconds(child) > BUSY_SECONDS for child in children(parent.pid)), "it is busy")
        helpers = children(parent.pid)
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(map(cpu_seconds, helpers)), "they end")


def test_a_worker_that_spins_before_it_serves_ends_without_its_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPOUT_START_TIMEOUT", "1")
    url = f"sqlite:{tmp_path / 'dropout.db'}"
    (tmp_path / "rollout.yaml").write_text(yaml.safe_dump(document({**CANARY, "policy": {"path": "routing/decision"}})))
    store = open_store(url, create=True)
    act(store, "alice", Apply(load_valid([tmp_path])), SystemClock())
    store.close()
    worker = spawn(0, (*_WORKER, GRPC))
    try:
        config = asdict(WorkerConfig(0, url, unix=str(tmp_path / "w.sock")))
        policies = sources_of(ENDLESS.format(package="routing")).to_json()
        start = {
            "kind": "start",
            "config": config,
            "policies": policies,
            "quarantined": (),
            "trips": (),
            "killed": (),
            "trial": True,
        }
        worker.pipe.sendall(orjson.dumps(start) + b"\n")
        wait_for(lambda: worker.page.read().evaluating_since, "it evaluates")
        worker.pipe.close()
        assert worker.process.wait(60) == -signal.SIGPROF
    finally:
        worker.kill()
        worker.process.wait()
        worker.page.close()
        os.close(worker.exit_fd)
