"""Envoy as ``dropout envoy init`` has it begin, and versions whose servers documents name: nothing else is needed."""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.cli.main import cli
from tests.e2e.environment import KEY, PATH, ControlledEnvironment
from tests.support.certificates import identity
from tests.support.dropout import DropoutServer
from tests.support.envoy import EnvoyProcess, Upstreams, free_port, running, wait_until
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

HOST = "127.0.0.{version}"
STEPS = [{"setWeight": 50}, {"pause": {}}]


def test_the_next_version_is_served_without_a_restart_of_envoy_and_without_a_failed_request() -> None:
    port = free_port()
    endpoints = {"host": HOST, "port": port}
    environment = ControlledEnvironment(endpoints=endpoints, steps=STEPS)
    versions = {f"fraud-detector-v{version}": f"127.0.0.{version}" for version in "345"}
    own = Upstreams(*versions, hosts=versions)
    own.ports = dict.fromkeys(versions, port)

    def is_at(weight: float, stable: str, canary: str) -> bool:
        status = environment.status()
        return (status["weight"], status["stable"], status["canary"]) == (weight, stable, canary)

    def served(version: str) -> None:
        before = own.seen[f"fraud-detector-v{version}"]
        wait_until(lambda: own.seen[f"fraud-detector-v{version}"] > before + 20, f"requests for version {version}")

    environment.upstreams = Upstreams("other-v1")

    def as_init_says(config: dict[str, Any]) -> None:
        """It names no version."""
        places = {
            "--ingress": config["static_resources"]["listeners"][0]["address"],
            "--envoy-admin": config["admin"]["address"],
        }
        flags = [f"{flag}=127.0.0.1:{at['socket_address']['port_value']}" for flag, at in places.items()]
        flags += ["--workers", "2", "--listen", environment.dropout.listen, "--envoy-dir", str(environment.envoy_dir)]
        config.clear()
        config.update(json.loads(environment.run("envoy", "init", *flags, "-o", "json")))

    environment.change = as_init_says
    with running(own, environment), under_load(environment.port, rate=100) as load:
        wait_until(lambda: is_at(50, "3", "4"), "a first canary")
        served("4")
        environment.run("rollout", "promote", "--full", KEY)
        wait_until(lambda: is_at(0, "4", "4"), "a promotion")
        environment.dropout.write_rollout(
            endpoints=endpoints, steps=STEPS, stable={"version": "4"}, canary={"version": "5"}
        )
        wait_until(lambda: is_at(50, "4", "5"), "a next canary")
        served("5")
        served("4")
    assert load.failed() == []


def test_over_ports_certificates_are_checked_and_a_cluster_of_ones_own_is_not_taken_away(tmp_path: Path) -> None:
    authority = identity("authority")
    identity("dropout", authority).write(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    tls = ("--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key"))
    envoy_dir, ingress, admin = tmp_path / "envoy", free_port(), free_port()
    dropout = DropoutServer("--envoy-dir", str(envoy_dir), *tls, workers=1, listen=f"127.0.0.1:{free_port()}")
    dropout.write_rollout(endpoints={"host": "127.0.0.9", "port": free_port()})  # where nobody listens
    own = Upstreams("fraud-detector-v3")
    with running(own), dropout:
        flags = ["--ingress", f"127.0.0.1:{ingress}", "--envoy-admin", f"127.0.0.1:{admin}", "--workers", "1", *tls]
        flags += ["--listen", dropout.listen, "--dropout-ca", str(tmp_path / "ca.crt"), "--envoy-dir", str(envoy_dir)]
        flags += ["--upstream", f"fraud-detector-v3=127.0.0.1:{own.ports['fraud-detector-v3']}"]
        config = json.loads(CliRunner().invoke(cli, ["envoy", "init", *flags, "-o", "json"]).output)
        with EnvoyProcess(config, tmp_path) as envoy:
            wait_until(lambda: envoy.stat("cluster.dropout.membership_healthy") == 1, "a worker that is healthy")
            request = urllib.request.Request(f"https://127.0.0.1:{ingress}{PATH}", headers={"x-user-id": "u-1"})
            trusted = ssl.create_default_context(cadata=authority.pem.decode())
            with urllib.request.urlopen(request, context=trusted, timeout=60) as answer:
                sent = json.loads(answer.read())["headers"]
            assert (sent["x-model-version"], envoy.failed_open()) == ("3", 0)
            assert envoy.stat("cluster_manager.cds.update_rejected") == 0
