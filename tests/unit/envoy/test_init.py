"""``dropout envoy init``: the shipped configuration, with everything where the flags say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner

from extproc.cli.main import cli
from extproc.envoy.files import write_envoy_dir
from tests.support.certificates import identity
from tests.support.envoy import TEMPLATES, validate
from tests.support.rollouts import MARKS

SHIPPED = (
    *("--workers", "2", "--access-log-listen", "unix:/run/dropout/observer.sock"),
    *("--upstream", "fraud-detector-v3=127.0.0.1:9003", "--upstream", "fraud-detector-v4=127.0.0.1:9004"),
)


def init(*flags: str) -> str:
    """What it prints."""
    result = CliRunner().invoke(cli, ["envoy", "init", *flags])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("transport", TEMPLATES)
def test_its_defaults_are_the_configuration_as_it_is_shipped(transport: str) -> None:
    shipped = yaml.safe_load(TEMPLATES[transport].read_text())
    clusters: list[dict[str, Any]] = shipped["static_resources"]["clusters"]
    for cluster in clusters:
        if cluster["name"].startswith("fraud-detector"):
            cluster.pop("outlier_detection", None)  # of one of them, and a matter of taste
    wanted = {cluster["name"]: cluster for cluster in clusters}
    made = yaml.safe_load(init("--transport", transport, *SHIPPED))
    assert {cluster["name"]: cluster for cluster in made["static_resources"]["clusters"]} == wanted
    made["static_resources"]["clusters"] = clusters
    assert made == shipped
    assert orjson.loads(init("--transport", transport, *SHIPPED, "-o", "json")) == yaml.safe_load(
        init("--transport", transport, *SHIPPED)
    )


@pytest.mark.parametrize("transport", TEMPLATES)
def test_envoy_takes_it_with_names_and_ports_and_certificates(transport: str, tmp_path: Path) -> None:
    authority = identity("authority")
    identity("envoy", authority).write(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    write_envoy_dir(tmp_path, [], MARKS)
    flags = ["--transport", transport, "--workers", "3", "--listen", "dropout.svc:9000", "--envoy-dir", str(tmp_path)]
    flags += ["--access-log-listen", "127.0.0.1:9004", "--upstream", "one=models.svc:80", "--upstream", "two=[::1]:80"]
    flags += ["--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key")]
    flags += ["--dropout-ca", str(tmp_path / "ca.crt")] if transport == "grpc" else []
    config = yaml.safe_load(init("--ingress", "127.0.0.1:8443", "--envoy-admin", "127.0.0.1:9999", *flags))
    assert validate(config, tmp_path) == ""
    kinds = {cluster["name"]: cluster["type"] for cluster in config["static_resources"]["clusters"]}
    assert kinds == {"dropout": "STRICT_DNS", "observer": "STATIC", "one": "STRICT_DNS", "two": "STATIC"}


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--upstream", "127.0.0.1:80"), "address_invalid"),
        (("--listen", "nowhere"), "address_invalid"),
        (("--listen", "unix:/run/w.sock", "--workers", "2"), "listen_needs_worker"),
        (("--tls-key", "{file}"), "tls_incomplete"),
        (("--tls-key", "{file}", "--tls-cert", "{file}"), "tls_invalid"),
        (("--transport", "http", "--dropout-ca", "{file}"), "tls_needs_grpc"),
    ],
)
def test_what_cannot_be_is_a_sentence(flags: tuple[str, ...], code: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = [flag.format(file=tmp_path / "file") if flag == "{file}" else flag for flag in flags]
    result = CliRunner().invoke(cli, ["envoy", "init", *given])
    assert getattr(result.exception, "code", None) == code, result.output
