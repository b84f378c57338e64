"""envoy/compose.yaml agrees with what it starts: as far as one can tell without starting containers."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest
import yaml

from extproc.cli.serve import serve
from extproc.datapath.transports.grpc import ONE_MESSAGE
from extproc.envoy.bootstrap import connection_manager
from extproc.resources.loading import load_valid
from tests.support.envoy import TEMPLATE
from tests.support.paths import ROOT

HERE = ROOT / "envoy"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load((HERE / "compose.yaml").read_text())
    found: dict[str, Any] = document["services"]
    return found


def _endpoints(cluster: str) -> list[dict[str, Any]]:
    config = yaml.safe_load(TEMPLATE.read_text())
    found = next(c for c in config["static_resources"]["clusters"] if c["name"] == cluster)
    return [e["endpoint"]["address"] for e in found["load_assignment"]["endpoints"][0]["lb_endpoints"]]


def _served(services: dict[str, Any]) -> dict[str, Any]:
    """The options of ``dropout serve`` as click reads them."""
    command = services["dropout"]["command"]
    assert command[0] == "serve"
    # The folders are those of the container.
    checked = [parameter for parameter in serve.params if isinstance(parameter.type, click.Path)]
    was = {parameter.name: parameter.type.exists for parameter in checked}
    try:
        for parameter in checked:
            parameter.type.exists = False
        return serve.make_context("serve", command[1:]).params
    finally:
        for parameter in checked:
            parameter.type.exists = was[parameter.name]


def test_dropout_and_envoy_agree_on_sockets_and_files(services: dict[str, Any]) -> None:
    options = _served(services)
    sockets = [f"unix:{address['pipe']['path']}" for address in _endpoints("dropout")]
    assert sockets == [options["listen"].replace("{worker}", str(number)) for number in range(options["workers"])]
    rds = re.findall(r"path: (\S+)/(?:rds|cds)\.json", TEMPLATE.read_text())
    assert rds == [str(options["envoy_dir"])] * 2


def test_the_observer_is_where_envoy_sends_its_log_and_the_controller_asks_this_envoy(services: dict[str, Any]) -> None:
    options = _served(services)
    (observer,) = _endpoints("observer")
    assert options["access_log_listen"] == f"unix:{observer['pipe']['path']}"
    admin = yaml.safe_load(TEMPLATE.read_text())["admin"]["address"]["socket_address"]
    assert options["envoy_admin"] == (f"{admin['address']}:{admin['port_value']}",)
    assert options["with_controller"]


def test_what_is_published_listens_beyond_the_pods_loopback(services: dict[str, Any]) -> None:
    listener = yaml.safe_load(TEMPLATE.read_text())["static_resources"]["listeners"][0]["address"]["socket_address"]
    open_to_all = {f"{listener['address']}:{listener['port_value']}", _served(services)["feedback_listen"]}
    assert {f"0.0.0.0:{port.rpartition(':')[2]}" for port in services["pod"]["ports"]} == open_to_all
    assert all(port.startswith("127.0.0.1:") for port in services["pod"]["ports"])


def test_envoy_sends_one_message_a_stream_and_says_so() -> None:
    filters = connection_manager(yaml.safe_load(TEMPLATE.read_text()))["http_filters"]
    (ext_proc,) = [each["typed_config"] for each in filters if each["name"] == "envoy.filters.http.ext_proc"]
    asks_for = {phase for phase, mode in ext_proc["processing_mode"].items() if mode not in ("SKIP", "NONE")}
    assert asks_for == {"request_header_mode"}
    key, value = ONE_MESSAGE
    assert ext_proc["grpc_service"]["initial_metadata"] == [{"key": key, "value": value}]


def test_versions_listen_where_envoy_sends_requests(services: dict[str, Any]) -> None:
    for version in ("3", "4"):
        address = _endpoints(f"fraud-detector-v{version}")[0]["socket_address"]
        listen = f"-listen={address['address']}:{address['port_value']}"
        assert listen in services[f"version-{version}"]["command"]


def test_the_document_names_the_clusters_that_are_there() -> None:
    (document,) = load_valid([HERE / "rollouts"])
    spec = document.resource.spec
    for ref in (spec.stable, spec.canary):
        assert ref is not None
        assert _endpoints(spec.upstream.format(model=spec.model, version=spec.resolve(ref)))


def test_every_mounted_file_and_volume_exists(services: dict[str, Any]) -> None:
    volumes = yaml.safe_load((HERE / "compose.yaml").read_text())["volumes"]
    for service in services.values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (HERE / source).exists() if source.startswith(".") else source in volumes
    build = services["dropout"]["build"]
    assert (HERE / build["context"] / build["dockerfile"]).is_file()


def test_everything_that_the_image_copies_exists() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (HERE / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()


def test_envoy_starts_when_its_files_are_there_and_as_the_user_of_the_sockets(services: dict[str, Any]) -> None:
    envoy, dropout = services["envoy"], services["dropout"]
    assert envoy["depends_on"]["dropout"] == {"condition": "service_healthy"}
    assert envoy["user"] == dropout["user"]
    assert _served(services)["admin"] in dropout["healthcheck"]["test"][-1]
    assert {service.get("network_mode") for name, service in services.items() if name != "pod"} == {"service:pod"}


def test_every_part_of_the_configuration_in_the_readme_exists() -> None:
    table = (HERE / "README.md").read_text().partition("## The parts of envoy.yaml")[2].partition("\n## ")[0]
    text = TEMPLATE.read_text()
    for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[2:]:
        for name in re.findall(r"`([\w.]+)", row):
            assert name in text, name
