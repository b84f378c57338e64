"""What runs ``dropout serve`` on a host: the unit of systemd, whom it tells how it is, and the rotation of its log."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.cli.serve import serve
from extproc.serve.supervisor.service_manager import ServiceManager
from extproc.settings import Settings
from tests.support.decisions import decisions_in
from tests.support.dropout import DropoutServer, wait_for
from tests.support.paths import ROOT
from tests.support.process import found

UNIT, LOGROTATE = ROOT / "envoy" / "dropout.service", ROOT / "envoy" / "dropout.logrotate"
INSTALLED = "/opt/dropout/bin/dropout"


class Told:
    """A socket as systemd has one; what it was told, one datagram after another."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._socket.settimeout(60)

    def next(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def next_but(self, *names: str) -> list[str]:
        """The next that begins otherwise."""
        while (lines := self.next())[0] in names:
            pass
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a path", "an abstract name"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/notify" if request.param == "a path" else f"@dropout-test-{tmp_path.name}"


@pytest.fixture
def told(address: str) -> Iterator[Told]:
    listener = Told(address)
    yield listener
    listener.close()


def test_systemd_is_told_when_it_is_ready_reloads_lives_and_stops(told: Told, address: str) -> None:
    server = DropoutServer(workers=1, NOTIFY_SOCKET=address, WATCHDOG_USEC="200000")
    server.write_rollout()
    with server:
        ready, status = told.next()
        assert (ready, status.startswith("STATUS=1 worker of dropout ")) == ("READY=1", True)
        assert [told.next() for _ in range(2)] == [["WATCHDOG=1"]] * 2
        assert server.process is not None
        server.process.send_signal(1)
        reloading, instant = told.next_but("WATCHDOG=1")
        assert (reloading, instant.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
        assert told.next_but("WATCHDOG=1")[0] == "READY=1"
        assert server.stop() == 0
        assert told.next_but("WATCHDOG=1") == ["STOPPING=1"]


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 0.0),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"}, 0.0),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, 0.0),
    ],
)
def test_without_anybody_who_listens_it_is_said_to_nobody(environment: dict[str, str], watchdog: float) -> None:
    manager = ServiceManager(environment)
    manager.ready("here")
    manager.stopping()
    assert manager.watchdog == watchdog


def test_the_unit_is_what_systemd_takes_and_its_command_what_serve_takes(tmp_path: Path) -> None:
    text = UNIT.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    program, command, *options = shlex.split(line.removeprefix("ExecStart="))
    assert (program, command) == (INSTALLED, "serve")
    for flag in ("--rollouts", "--policies"):
        folder = tmp_path / flag.strip("-")
        folder.mkdir()
        options[options.index(flag) + 1] = str(folder)
    with serve.make_context("serve", options):
        pass
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(INSTALLED, str(Path(sys.executable).with_name("dropout"))))
    analyze = shutil.which("systemd-analyze") or pytest.skip("systemd-analyze is not there: apt-get install systemd")
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def unit_says(key: str) -> str:
    """The value of the one line ``key`` of the unit."""
    (value,) = [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]
    return value


def test_the_unit_is_started_again_while_the_workers_of_a_dead_supervisor_serve_on() -> None:
    assert unit_says("Restart") == "always"
    assert 1 <= float(unit_says("RestartSec").removesuffix("s")) <= Settings().orphan_grace / 2
    assert unit_says("StartLimitIntervalSec") == "0", "it is never given up"


@pytest.mark.parametrize(
    ("options", "code", "again"),
    [
        (("--rollouts", "nowhere"), "usage", False),
        (("--policies", "policies"), "policy_syntax", False),
        (("--admin", "{taken}"), "address_in_use", False),
        (("--store", "sqlite:nowhere/dropout.db"), "store_unreachable", True),
    ],
)
def test_the_unit_is_not_started_again_after_a_fault_of_its_configuration(
    options: tuple[str, ...], code: str, again: bool, tmp_path: Path
) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "decision.rego").write_text("package routing\ndecision := {")
    command = [sys.executable, "-m", "extproc.cli", "serve", "--workers", "1", "--listen", "unix:run/{worker}.sock"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        given = [option.replace("{taken}", f"{host}:{port}") for option in ("--admin", "127.0.0.1:0", *options)]
        done = subprocess.run([*command, *given], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert f"({code})" in done.stderr
    assert (str(done.returncode) not in unit_says("RestartPreventExitStatus").split()) == again


def test_logrotate_loses_no_decision(tmp_path: Path) -> None:
    log, stanza = tmp_path / "decisions.jsonl", tmp_path / "stanza"
    server = DropoutServer("--decision-log", str(log), workers=2)
    server.write_rollout()
    asked: list[str] = []

    def ask_each() -> None:
        asked.extend(server.ask(worker=worker)["x-decision-id"] for worker in (0, 1))

    with server:
        assert server.process is not None
        text = LOGROTATE.read_text().replace("/var/log/dropout/decisions.jsonl", str(log))
        text = text.replace("/bin/systemctl reload dropout.service", f"kill -HUP {server.process.pid}")
        stanza.write_text(text.replace("    su dropout dropout\n", ""))
        stanza.chmod(0o644)
        logrotate = found("logrotate", "make systems", [Path("/usr/sbin/logrotate")])
        ask_each()
        wait_for(lambda: log.exists() and len(decisions_in(log.read_bytes())) == 2, "two decisions in the log")
        done = subprocess.run([logrotate, "--force", "--state", tmp_path / "state", stanza], capture_output=True)
        assert done.returncode == 0, done.stderr
        ask_each()
        wait_for(log.exists, "the log, opened again")
        ask_each()
        assert server.stop() == 0
    (rotated,) = tmp_path.glob("decisions.jsonl-*")
    decided = [event["decision_id"] for file in (rotated, log) for event in decisions_in(file.read_bytes())]
    assert sorted(decided) == sorted(asked)
