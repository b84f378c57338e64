"""A process that tests start is waited for, and is gone when they end, however they end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from extproc.demo.processes import free_ports
from tests.support import process
from tests.support.dropout import alive
from tests.support.envoy import envoy_binary
from tests.support.paths import ROOT
from tests.support.process import Process, wait_for
from tests.systems.etcd import Etcd
from tests.systems.opa import Opa
from tests.systems.otlp import Otlp
from tests.systems.postgres import Postgres
from tests.systems.prometheus import Alertmanager, Prometheus
from tests.systems.resp import Redis, Valkey

LISTEN = "import socket, sys, time\nhere = socket.create_server(('127.0.0.1', int(sys.argv[1])))"
WAIT = "print('ready', flush=True); time.sleep(1000)"
WITH_A_CHILD = """
import os, signal, time
if not os.fork():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), 'ready', flush=True)
time.sleep(1000)
"""


class Fake(Process):
    """A program that is ready when it says so, last."""

    name = "fake"

    def __init__(self, *program: str) -> None:
        super().__init__()
        self._program = "\n".join(program)

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-S", "-c", self._program, str(self.port)]

    def ready(self) -> bool:
        return self.output.read_text().endswith("ready\n")


class NeverReady(Fake):
    start_seconds = 0.5

    def ready(self) -> bool:
        raise ConnectionRefusedError


def pid_of_fake(fake: Process) -> int:
    """Once it is launched."""
    assert fake._process is not None
    return fake._process.pid


def test_its_children_are_ended_with_it_whatever_they_ignore() -> None:
    with Fake(WITH_A_CHILD) as fake:
        child = int(fake.log().split()[0])
        assert alive(child)
        folder = fake.folder
    wait_for(lambda: not alive(child), "the end of the child")
    assert not folder.exists()


def test_one_that_does_not_end_is_killed() -> None:
    with Fake("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)", WAIT) as fake:
        fake.stop_seconds = 0.1  # type: ignore[misc]
        pid = fake.pid
    assert not alive(pid)


def test_one_that_is_never_ready_is_ended_and_what_it_said_is_shown() -> None:
    fake = NeverReady("import time", WAIT)
    with pytest.raises(AssertionError, match=r"not within 0.5 s: a fake that is ready; it says: ready\n"):
        fake.__enter__()
    assert not fake.folder.exists()


def test_one_that_ends_at_its_start_is_not_waited_for() -> None:
    with pytest.raises(AssertionError, match="fake ended with 3 at its start; it says: no license"):
        NeverReady("import sys; print('no license', flush=True); sys.exit(3)").__enter__()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, pytest.fail.Exception])
def test_it_is_ended_when_its_start_is_interrupted(interruption: type[BaseException]) -> None:
    pids = []

    class Interrupted(Fake):
        def ready(self) -> bool:
            pids.append(pid_of_fake(self))
            raise interruption

    with pytest.raises(interruption):
        Interrupted("import time", WAIT).__enter__()
    assert [pid for pid in pids if alive(pid)] == []


def test_another_port_is_taken_when_somebody_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        (free,) = free_ports(1)
        offered = iter([somebody.getsockname()[1], free])
        monkeypatch.setattr(process, "free_ports", lambda count: [next(offered)])

        with Fake(LISTEN, WAIT) as fake:
            assert fake.port == free


def test_none_outlives_the_tests_however_they_end() -> None:
    program = """
import sys
from tests.support.process import Process

class Sleeper(Process):
    name = "sleeper"
    command = lambda self: ["sleep", "1000"]
    ready = lambda self: True

sleeper = Sleeper().start()
print(sleeper.pid, sleeper.folder, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        tests.send_signal(signal.SIGKILL)
    wait_for(lambda: not alive(int(pid)), "the end of what the tests started")
    (Path(folder) / "sleeper.log").unlink()
    Path(folder).rmdir()


def test_what_starts_only_when_its_tests_are_gone_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(process.os, "getpid", lambda: 2**30)
        with pytest.raises(AssertionError, match="fake ended with 1 at its start"):
            Fake("import time", WAIT).__enter__()


# -- what is not there


MISSING: list[tuple[Callable[[], object], str]] = [
    (lambda: Opa().__enter__(), "there is no opa: make tools"),
    (lambda: Postgres().__enter__(), "there is no postgres: make systems"),
    (lambda: Redis().__enter__(), "there is no redis-server: make systems"),
    (lambda: Valkey().__enter__(), "there is no valkey-server: make systems"),
    (lambda: Etcd().__enter__(), "there is no etcd: make systems"),
    (lambda: Prometheus().__enter__(), "there is no prometheus: make systems"),
    (lambda: Alertmanager("http://127.0.0.1:1/").__enter__(), "there is no prometheus-alertmanager: make systems"),
    (lambda: Otlp().__enter__(), "there is no ddapm-test-agent: make systems"),
    (envoy_binary, "there is no envoy: make setup"),
]


@pytest.mark.parametrize(("use", "reason"), MISSING, ids=[reason for _, reason in MISSING])
@pytest.mark.parametrize(
    ("ci", "outcome", "says"),
    [("", pytest.skip.Exception, ""), ("true", pytest.fail.Exception, "CI may leave nothing out, and ")],
)
def test_what_is_missing_is_skipped_and_said_with_what_brings_it_and_in_ci_fails(
    use: Callable[[], object],
    reason: str,
    ci: str,
    outcome: type[BaseException],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    with monkeypatch.context() as nothing, pytest.raises(outcome) as given:  # noqa: PT012
        nothing.setattr(Path, "exists", lambda path: False)
        use()
    assert str(given.value) == says + reason
