"""``dropout controller`` as a process: alone, beside the workers of ``serve``, ended and killed."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.observations import ObservationsWriter, observed
from extproc.adapters.sqlite.store import SqliteStore
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Abort, Apply
from extproc.control.analysis.sample_ratio import FEWEST_UNITS
from extproc.control.api.client import Credentials, RemoteControl
from extproc.decision_id import DecisionIds, KeyFile, arm_codes
from extproc.errors import DropoutError, InvalidInput, Refused, Unreachable
from extproc.measure import ArmTotals, EpochTotals
from extproc.resources.loading import load_paths
from extproc.store.epoch_records import EpochRecord
from extproc.store.records import StoredRollout
from tests.support.certificates import identity
from tests.support.dropout import DropoutServer, alive, wait_for
from tests.support.rollouts import CANARY, document
from tests.support.templates import metric, template

NAME = ("payments", "fraud-detector")
STEPS: list[dict[str, Any]] = [{"setWeight": 5}, {"pause": {}}]


class ControllerProcess:
    """A real controller in ``folder``; as a context it is ready, and ended at the end."""

    def __init__(self, folder: Path, *options: str, name: str = "c") -> None:
        self.folder = folder
        self.target = f"unix:{folder / 'run' / name}.sock"
        self.store = f"sqlite:{folder / 'dropout.db'}"
        self._log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", "extproc.cli", "controller", "--store", self.store]
        self._command += ["--listen", self.target, *options]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ControllerProcess:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, env={**os.environ, "DROPOUT_LEASE": "3"})
        self.says("ready: ")
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(20)

    def log(self) -> str:
        return self._log.read_text()

    def says(self, sign: str) -> str:
        """The log, once ``sign`` is in it."""
        assert self.process is not None
        process = self.process

        def said() -> bool:
            assert process.poll() is None, self.log()
            return sign in self.log()

        wait_for(said, f"a controller that says {sign!r}")
        return self.log()


def row(folder: Path) -> StoredRollout:
    store = SqliteStore(folder / "dropout.db")
    found = store.get(*NAME)
    store.close()
    assert found is not None
    return found


def wait_for_phase(folder: Path, phase: str) -> StoredRollout:
    wait_for(lambda: row(folder).status.phase == phase, f"a rollout that is {phase}")
    return row(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a rollout in the store that stops at 5 percent until it is promoted."""
    apply(tmp_path, steps=STEPS)
    return tmp_path


def test_it_moves_rollouts_and_takes_commands(folder: Path) -> None:
    with ControllerProcess(folder) as controller:
        assert wait_for_phase(folder, "Paused").status.weight == 500
        remote = RemoteControl(controller.target)
        remote.act(Abort(*NAME))
        assert remote.get(*NAME).status.phase == "Degraded"
        remote.close()
        log = controller.says("paused by step 1")
    assert re.findall(r" info controller: (rollout .*)", log) == [
        "rollout payments/fraud-detector: weight 0 to 5",
        "rollout payments/fraud-detector: paused by step 1 until promoted",
    ]


def test_a_controller_is_reached_from_elsewhere_by_a_token_or_a_certificate(folder: Path) -> None:
    authority = identity("authority")
    identity("controller", authority).write(folder)
    (folder / "ca.crt").write_bytes(authority.pem)
    (folder / "tokens").write_text(f"{'t' * 40} ci-bot deployers\n")
    (folder / "tokens").chmod(0o600)
    (folder / "policies" / "control").mkdir(parents=True)
    (folder / "policies" / "control" / "d.rego").write_text(
        'package control\nimport rego.v1\ndecision := {"allow": allowed}\n'
        'default allowed := false\nallowed if "deployers" in input.groups\n'
    )
    tls = ("--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"))
    by_token = (*tls, "--control-tokens", str(folder / "tokens"), "--policies", str(folder / "policies"))

    def target(controller: ControllerProcess) -> str:
        return f"https://{re.findall(r'control API on (.*)', controller.log())[-1]}"

    with ControllerProcess(folder, "--listen", "127.0.0.1:0", *by_token) as controller:
        stranger = RemoteControl(target(controller), Credentials(authority=folder / "ca.crt"))
        with closing(stranger) as nobody, pytest.raises(Refused) as refused:
            nobody.kill(*NAME)
        assert refused.value.code == "unauthorized"
        command = [
            sys.executable,
            "-m",
            "extproc.cli",
            "kill",
            "payments/fraud-detector",
            "--control",
            target(controller),
        ]
        command += ["--control-token", str(folder / "tokens")]
        environment = {**os.environ, "DROPOUT_CONTROL_CA": str(folder / "ca.crt")}
        killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        assert killed.returncode == 0, killed.stderr
    client = identity("carol", authority)
    (folder / "client.crt").write_bytes(client.pem)
    (folder / "client.key").write_bytes(client.key_pem)
    pair = (folder / "ca.crt", folder / "client.crt", folder / "client.key")
    by_certificate = (*tls, "--tls-client-ca", str(folder / "ca.crt"))
    with ControllerProcess(folder, "--listen", "127.0.0.1:0", *by_certificate, name="d") as controller:
        stranger = RemoteControl(target(controller), Credentials(None, folder / "ca.crt"))
        with closing(stranger) as nobody, pytest.raises(Unreachable):
            nobody.restore(*NAME)
        with closing(RemoteControl(target(controller), Credentials(None, *pair))) as carol:
            carol.restore(*NAME)
    with pytest.raises(InvalidInput) as incomplete:
        RemoteControl("https://127.0.0.1:1", Credentials(None, *pair[:2]))
    assert incomplete.value.code == "tls_incomplete"
    store = SqliteStore(folder / "dropout.db")
    acted = [(entry.actor, entry.action) for entry in store.history(*NAME, 10)]
    assert [each for each in acted if each[1] in ("kill", "restore")] == [
        ("ci-bot", "kill"),
        ("certificate:carol", "restore"),
    ]
    store.close()


def test_a_controller_beside_workers_is_given_what_its_own_listeners_need(tmp_path: Path) -> None:
    authority = identity("authority")
    identity("controller", authority).write(tmp_path)
    tls = ("--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key"))
    options = ("--with-controller", "--control-listen", "127.0.0.1:0", "--control-tokens", str(tmp_path / "tokens"))
    server = DropoutServer(*tls, *options, "--feedback-listen", "https://127.0.0.1:0", workers=1)
    server.write_rollout()
    with server:
        wait_for(lambda: re.search(r"feedback https://127\.0\.0\.1:\d+/", server.log()), "feedback over TLS")
        wait_for(lambda: re.search(r"control API on 127\.0\.0\.1:\d+", server.log()), "control over TLS")


def test_labels_of_what_stable_answered_in_the_versions_place_are_not_the_versions(folder: Path) -> None:
    ids = DecisionIds(KeyFile(folder / "dropout.db.ids", SystemClock()), 0, SystemClock())
    (epoch,) = epochs(folder)
    number, canary = epoch.number, arm_codes([])["canary"]
    fallen, served = (ids.seal(ids.nonce(), number, canary, group) for group in (1, 2))
    observations = ObservationsWriter(folder / "dropout.db.observed", "a-run")
    observations.write([], [fallen], SystemClock().now())
    observations.close()
    with ControllerProcess(folder, "--feedback-listen", "127.0.0.1:0") as controller:
        label = {"prediction": True, "label": False}
        assert _feed_back(controller, {"decision_id": served, **label}) == "recorded"
        # What came before it was told is taken back, and so both orders end alike.
        _feed_back(controller, {"decision_id": fallen, **label})
        wait_for(
            lambda: _feed_back(controller, {"decision_id": fallen, **label}) == "feedback_served_by_fallback",
            "a fallback that is known",
        )
    counts = SqliteFeedback(folder / "dropout.db.feedback")
    assert counts.labels("payments/fraud-detector", epoch.id)["canary"].confusion == {2: [0, 1, 0, 0]}
    counts.close()


def test_a_canary_that_fails_on_two_hosts_is_taken_away_by_what_both_saw(folder: Path) -> None:
    apply(folder, steps=STEPS, breaker={"consecutive": 10})
    with ControllerProcess(folder) as controller:
        controller.says("paused by step 1")
        for host in ("one", "two"):
            totals = EpochTotals("payments/fraud-detector", row(folder).status.epoch_id_at(SystemClock().now()))
            totals.arms = {"canary": ArmTotals(6, requests=6, failures=6), "control": ArmTotals(500, requests=500)}
            observe(folder, host, totals)
        status = wait_for_phase(folder, "Degraded").status
    assert (status.weight, status.aborted, status.reason) == (0, ("4",), "breaker_open")


def test_units_that_are_not_split_as_the_weight_says_pause_a_rollout(folder: Path) -> None:
    apply(folder, steps=[{"setWeight": 5}, {"analysis": {"templates": [{"templateName": "health"}]}}])
    with ControllerProcess(folder) as controller:
        controller.says("the analysis of step 1 begins")
    lopsided = EpochTotals("payments/fraud-detector", epochs(folder)[-1].id)
    for unit in range(FEWEST_UNITS):
        lopsided.units.add(unit, "canary" if unit % 2 else "control")
    observe(folder, "one", lopsided)
    with ControllerProcess(folder):
        status = wait_for_phase(folder, "Paused").status
    assert (status.reason, status.weight) == ("sample_ratio_mismatch", 500)


def apply(folder: Path, **spec: Any) -> None:
    """Put this rollout into the folder's store, and a template that measures nothing yet."""
    documents = [document({**CANARY, **spec}), template(metric(initialDelay="1h"))]
    (folder / "a.yaml").write_text(yaml.safe_dump_all(documents))
    store = SqliteStore(folder / "dropout.db", create=True)
    act(store, "alice", Apply(load_paths([folder / "a.yaml"]).documents), SystemClock())
    store.close()


def epochs(folder: Path) -> Sequence[EpochRecord]:
    """The rollout's epochs."""
    store = SqliteStore(folder / "dropout.db")
    try:
        return store.epochs_of(*NAME)
    finally:
        store.close()


def observe(folder: Path, host: str, totals: EpochTotals) -> None:
    """The observer of a host tells these totals."""
    totals.updated_at = SystemClock().now()
    writer = ObservationsWriter(folder / "dropout.db.observed", host)
    writer.write([observed(totals, units=True)], (), totals.updated_at)
    writer.close()


def _feed_back(controller: ControllerProcess, record: dict[str, Any]) -> str:
    """What became of one record of feedback."""
    found = re.search(r"feedback http://([\d.]+):(\d+)", controller.log())
    assert found is not None
    token = (controller.folder / "dropout.db.token").read_text().strip()
    connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=60)
    try:
        connection.request("POST", "/v1/feedback", json.dumps(record), {"authorization": f"Bearer {token}"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    code: str = answer["results"][0]["code"]
    return code


def test_told_to_stop_it_exits_0_and_another_leads_at_once(folder: Path) -> None:
    with ControllerProcess(folder) as controller:
        controller.says("leads as")
        assert controller.process is not None
        controller.process.send_signal(signal.SIGTERM)
        assert controller.process.wait(20) == 0
        told = [line.partition(" info controller: ")[2] for line in controller.log().splitlines()]
        signalled, gave_up, ended = told[-3:]
        assert signalled == "SIGTERM: ends; calls under way have 1 s"
        assert gave_up.startswith("gave up the lead as ")
        assert ended == "ended"
    store = SqliteStore(folder / "dropout.db")
    assert store.acquire("another", 1) is not None
    store.close()
    assert list((folder / "run").iterdir()) == []


def test_a_hangup_does_not_end_it(folder: Path) -> None:
    with ControllerProcess(folder) as controller:
        controller.says("leads as")
        assert controller.process is not None
        controller.process.send_signal(signal.SIGHUP)
        assert RemoteControl(controller.target).rollouts().rollouts
        assert controller.process.poll() is None


def test_killed_it_leaves_its_lease_to_run_out_and_another_takes_over(folder: Path) -> None:
    with ControllerProcess(folder) as first:
        first.says("leads as")
        with ControllerProcess(folder, name="d") as second:
            wait_for_phase(folder, "Paused")
            assert first.process is not None
            first.process.kill()
            first.process.wait()
            assert "leads as" not in second.log()
            second.says("leads as")


def test_its_pages_say_whether_it_leads(folder: Path) -> None:
    with ControllerProcess(folder, "--admin", "127.0.0.1:0") as first:
        first.says("leads as")
        with ControllerProcess(folder, "--admin", "127.0.0.1:0", name="d") as second:
            wait_for(lambda: _page(second, "/readyz") == (200, "stands by\n"), "a page")
            assert _page(first, "/readyz") == (200, "leads\n")
            assert _page(first, "/healthz") == (200, "ok\n")
            socket = Path(first.target.removeprefix("unix:"))
            socket.unlink()
            socket.mkdir()
            wait_for(lambda: _page(first, "/readyz")[0] == 503, "that nobody finds it")
            socket.rmdir()
            wait_for(socket.is_socket, "its socket again")
            wait_for(lambda: _page(first, "/readyz") == (200, "leads\n"), "that it is found")
            wait_for(lambda: "dropout_controller_rollouts 1.0" in _page(first, "/metrics")[1], "a rollout under way")
            assert "dropout_controller_leads 1.0" in _page(first, "/metrics")[1]
            assert "dropout_controller_leads 0.0" in _page(second, "/metrics")[1]


def _page(controller: ControllerProcess, path: str) -> tuple[int, str]:
    found = re.search(r"admin http://([\d.]+):(\d+)", controller.log())
    assert found is not None
    connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_policy_on_control_actions_holds_for_commands_and_for_the_controller(folder: Path) -> None:
    (folder / "policies").mkdir()
    rule = 'package control\n\ndecision := {"allow": false, "reason": "frozen"}\n'
    (folder / "policies" / "control.rego").write_text(rule)
    with ControllerProcess(folder, "--policies", str(folder / "policies")) as controller:
        controller.says("may not advance payments/fraud-detector: frozen")
        remote = RemoteControl(controller.target)
        with pytest.raises(Refused) as refused:
            remote.act(Abort(*NAME))
        remote.close()
    assert refused.value.code == "control_denied"
    assert row(folder).status.reason == "control_denied"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--listen", "127.0.0.1:7000"), "callers_unknown"),
        (("--listen", "0.0.0.0:7000", "--control-tokens", "{folder}/tokens"), "insecure_listen"),
        (("--admin-tokens", "{folder}/tokens"), "listener_missing"),
        (("--listen", "unix:" + "x" * 200), "socket_path_too_long"),
        (("--envoy-admin", "nowhere"), "address_invalid"),
        (("--envoy-dir", "/tmp"), "listener_missing"),
        (("--feedback-listen", "1:2:3:x"), "address_invalid"),
        (("--feedback-listen", "0.0.0.0:0"), "insecure_listen"),
        (("--admin", "x"), "address_invalid"),
        (("--store", "redis:x"), "store_url"),
        (("--store", "redis:x", "--state", "{folder}/state"), "store_url"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path: Path, options: tuple[str, ...], code: str) -> None:
    command = [sys.executable, "-m", "extproc.cli", "controller", "--listen", f"unix:{tmp_path}/run/c.sock"]
    command += [
        "--store",
        f"sqlite:{tmp_path}/dropout.db",
        *(option.replace("{folder}", str(tmp_path)) for option in options),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"({code})" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_a_sentence_and_nothing_else(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/c.sock")
        other.listen()
        command = ["controller", "--listen", f"unix:{tmp_path}/c.sock", "--store", f"sqlite:{tmp_path}/dropout.db"]
        done = subprocess.run(
            [sys.executable, "-m", "extproc.cli", *command], capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (
        2,
        f"--listen: something else listens on {tmp_path}/c.sock (address_in_use)\n",
    )


# -- beside the workers


@pytest.fixture
def server() -> Iterator[DropoutServer]:
    server = DropoutServer(workers=1)
    server.options = ("--with-controller", "--control-listen", f"unix:{server.sockets}/control.sock")
    server.write_rollout(steps=STEPS)
    with server:
        yield server


def test_serve_runs_one_and_replaces_it(server: DropoutServer) -> None:
    wait_for_phase(server.folder, "Paused")
    wait_for(lambda: server.metric("dropout_controller_transitions_total") == 2, "the controller's counts")
    killed = server.controller_pid()
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: f"controller: pid {killed} ended with status -9" in server.log(), "a word about it")
    wait_for(lambda: server.controller_pid() != killed, "another controller")
    remote = RemoteControl(f"unix:{server.sockets}/control.sock")
    wait_for(lambda: _answers(remote), "its control API")
    remote.close()
    assert server.ask()["x-model-rollout"] == "payments/fraud-detector"
    wait_for(lambda: server.metric("dropout_controller_transitions_total") == 2, "what the dead one had counted")


def _answers(remote: RemoteControl) -> bool:
    try:
        return bool(remote.rollouts().rollouts)
    except DropoutError:
        return False


def test_a_kill_by_the_control_api_is_in_force_while_somebody_holds_the_store(server: DropoutServer) -> None:
    def version(user: int) -> str:
        return server.ask({"x-user-id": f"user-{user}"})["x-model-version"]

    wait_for_phase(server.folder, "Paused")
    wait_for(lambda: any(version(user) == "4" for user in range(100)), "the canary")
    of_canary = next(user for user in range(100) if version(user) == "4")
    with (
        closing(RemoteControl(f"unix:{server.sockets}/control.sock")) as remote,
        closing(sqlite3.connect(server.folder / "dropout.db", isolation_level=None)) as somebody,
    ):
        somebody.execute("BEGIN IMMEDIATE")
        killed = remote.kill(*NAME)
        assert version(of_canary) == "3"
        assert killed.fault is not None
        assert (killed.result, killed.fault.code) == (None, "store_locked")
        assert (killed.serves, killed.unkept, killed.silent) == (1, 0, 0)
        assert not remote.get(*NAME).status.killed
        somebody.execute("ROLLBACK")
        wait_for(lambda: remote.get(*NAME).status.kills == killed.kills, "the kill in the store")


def test_what_serve_lacks_is_a_condition_until_it_is_started_with_it(server: DropoutServer) -> None:
    def unmet() -> list[tuple[str, str]]:
        with closing(SqliteStore(server.folder / "dropout.db")) as store:
            conditions = store.get(*NAME).status.conditions  # type: ignore[union-attr]
        return [(one["reason"], one["message"]) for one in conditions if one["type"] == "Unmet"]

    server.write_rollout(steps=STEPS, breaker={})
    wait_for(unmet, "the condition")
    ((reason, message),) = unmet()
    assert reason == "observer_missing"
    assert message.startswith(f"on {socket.gethostname()} a breaker is asked for, but serve has no --access-log-listen")
    server.stop()
    assert unmet() == [(reason, message)], "nobody says that it is over"
    server.options += ("--access-log-listen", f"unix:{server.sockets}/observer.sock")
    server.start()
    wait_for(lambda: not unmet(), "the end of it")


def test_it_ends_with_serve(server: DropoutServer) -> None:
    pid = server.controller_pid()
    assert server.stop() == 0
    assert not alive(pid)
    store = SqliteStore(server.folder / "dropout.db")
    assert store.acquire("another", 1) is not None
    store.close()


def test_it_ends_when_serve_is_killed(server: DropoutServer) -> None:
    wait_for_phase(server.folder, "Paused")
    pid = server.controller_pid()
    server.stop(signal.SIGKILL)
    wait_for(lambda: not alive(pid), "the end of the controller")


def test_one_that_cannot_start_holds_up_no_request() -> None:
    server = DropoutServer(workers=1)
    server.options = ("--with-controller", "--control-listen", f"unix:{server.folder}/not-a-folder/c.sock")
    (server.folder / "not-a-folder").write_text("")
    server.write_rollout(steps=STEPS)
    with server:
        wait_for(lambda: server.log().count("controller: pid") >= 2, "two tries")
        assert server.ask()["x-model-version"] == "3"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--control-listen", "unix:/tmp/x/c.sock"), "controller_flag_unused"),
        (("--envoy-admin", "127.0.0.1:9901"), "envoy_admin_unused"),
        (("--feedback-listen", "127.0.0.1:9903"), "controller_flag_unused"),
        (("--with-controller", "--envoy-admin", "x"), "address_invalid"),
        (("--with-controller", "--feedback-listen", "0.0.0.0:0"), "insecure_listen"),
        (("--with-controller", "--control-listen", "127.0.0.1:1"), "callers_unknown"),
    ],
)
def test_flags_of_a_controller_that_cannot_be_are_refused_before_anything_is_served(
    options: tuple[str, ...], code: str
) -> None:
    server = DropoutServer(*options, workers=1)
    status, said = server.refused()
    server.__exit__(None, None, None)
    assert status == 2
    assert f"({code})" in said
