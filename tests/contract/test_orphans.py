"""A process that spins lives no longer than the one that started it, however that one ends: the kernel sees to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import yaml

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply
from extproc.resources.loading import load_valid
from extproc.run.processes import WORKER
from extproc.serve.messages import StartWorker, TakenAway
from extproc.serve.supervisor.children import spawn
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

test_it if decision.allow
"""

TRIES = """
import asyncio, sys
from pathlib import Path
from extproc.run.processes import POLICY_TRIAL
from extproc.run.served_policies import in_folder
from extproc.serve.supervisor.policy_trial import Trial
asyncio.run(Trial(POLICY_TRIAL, 60).run(in_folder(Path(sys.argv[1])).read(empty=False), {"routing/decision": {}}))
"""

ASKS = """
import sys
from pathlib import Path
from extproc.adapters.regorus.control import ControlPolicies
from extproc.resources.policy_places import PolicyPlaces
ControlPolicies(PolicyPlaces([Path(sys.argv[1])]), answer_seconds=60).decide({})
"""

CHECKS = """
import sys
from extproc.adapters.regorus.policy import check_sources
from extproc.resources.policies import PolicySources
nested = "package a\\n\\ndecision := " + "[" * 40 + "1" + "]" * 40
check_sources(PolicySources({"a.rego": nested}, {}, "r"), cpu_seconds=60)
"""

RUNS_TESTS = """
import sys
from pathlib import Path
from extproc.adapters.regorus.rego_tests import run_tests
from extproc.resources.policies import read_sources
run_tests(read_sources(Path(sys.argv[1]), tests=True), limit=60)
"""

COMMAND = """
import sys
from extproc.cli.main import main
main(["policy", "test", sys.argv[1]])
"""


@contextmanager
def started(program: str, policies: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", program, str(policies)], cwd=ROOT, stderr=subprocess.PIPE)
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
    [(TRIES, "routing"), (ASKS, "control"), (CHECKS, "routing"), (RUNS_TESTS, "routing")],
    ids=["a trial of policies", "a decision on control", "a check of policies", "a test of policies"],
)
def test_a_helper_that_spins_ends_with_the_process_that_started_it(program: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "policy.rego").write_text(ENDLESS.format(package=package))
    with started(program, tmp_path) as parent:
        wait_for(lambda: any(cpu_seconds(child) > BUSY_SECONDS for child in children(parent.pid)), "it is busy")
        helpers = children(parent.pid)
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(map(cpu_seconds, helpers)), "they end")


def test_ctrl_c_ends_a_test_of_policies_that_spins_and_no_word_is_said(tmp_path: Path) -> None:
    (tmp_path / "policy.rego").write_text(ENDLESS.format(package="routing"))
    command = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{COMMAND}"
    with started(command, tmp_path) as dropout:
        wait_for(lambda: any(cpu_seconds(child) > BUSY_SECONDS for child in children(dropout.pid)), "it is busy")
        helpers = children(dropout.pid)
        dropout.send_signal(signal.SIGINT)
        assert (dropout.communicate(timeout=60)[1].strip(), dropout.returncode) == (b"", 130)
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
    worker = spawn(0, (*WORKER, GRPC))
    try:
        config = WorkerConfig(0, url, f"{tmp_path}/", unix=str(tmp_path / "w.sock"))
        policies = sources_of(ENDLESS.format(package="routing")).to_json()
        start = StartWorker(config, True, policies, [], TakenAway([], []))
        worker.pipe.sendall(msgspec.json.encode(start) + b"\n")
        wait_for(lambda: worker.page.read().evaluating_since, "it evaluates")
        worker.pipe.close()
        assert worker.process.wait(60) == -signal.SIGPROF
    finally:
        worker.kill()
        worker.process.wait()
        worker.page.close()
        os.close(worker.exit_fd)
