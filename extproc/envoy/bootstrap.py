"""``envoy/*.yaml`` with other ports, sockets and models: what operators read is what demo and tests run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE

TEMPLATES: Final = {"grpc": "envoy.yaml", "http": "envoy-http.yaml"}
"""The template in ``envoy/`` for each way of asking Dropout."""

PROCESSOR_CLUSTER: Final = "dropout"
"""The cluster of Dropout's workers."""

OBSERVER_CLUSTER: Final = "observer"
"""The cluster of Dropout's observer."""

OBSERVER_LOGGER: Final = "envoy.access_loggers.http_grpc"
"""The access logger that tells the observer."""


def bootstrap(
    template: Path,
    *,
    listen_port: int,
    admin_port: int,
    worker_sockets: Sequence[Path],
    envoy_dir: Path,
    models: Mapping[str, int],
    observer_socket: Path | None = None,
) -> dict[str, Any]:
    """The template's configuration on 127.0.0.1 with these ports, worker sockets and watched folder.

    ``models`` maps the cluster of each version to its port and replaces the template's own. Without ``observer_socket``
    nobody is told what became of requests. Write the answer as JSON and pass the file to ``envoy -c``. ``envoy_dir``
    must hold the rendered files before Envoy starts.
    """
    config: dict[str, Any] = yaml.safe_load(template.read_text(encoding="utf-8"))
    config["admin"]["address"] = _tcp(admin_port)
    config["dynamic_resources"]["cds_config"]["path_config_source"] = _watched(envoy_dir, CLUSTERS_FILE)
    resources = config["static_resources"]
    resources["listeners"][0]["address"] = _tcp(listen_port)
    manager = connection_manager(config)
    manager["rds"]["config_source"]["path_config_source"] = _watched(envoy_dir, ROUTES_FILE)
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    processor, observer = clusters.pop(PROCESSOR_CLUSTER), clusters.pop(OBSERVER_CLUSTER)
    workers = [{"pipe": {"path": str(socket)}} for socket in worker_sockets]
    processor["load_assignment"]["endpoints"][0] = _locality(workers)
    sample = next(iter(clusters.values()))
    resources["clusters"] = [processor, *(_model(sample, name, port) for name, port in models.items())]
    if observer_socket is None:
        manager["access_log"] = [log for log in manager["access_log"] if log["name"] != OBSERVER_LOGGER]
    else:
        observer["load_assignment"] = _assignment(OBSERVER_CLUSTER, [{"pipe": {"path": str(observer_socket)}}])
        resources["clusters"].append(observer)
    return config


def connection_manager(config: Mapping[str, Any]) -> dict[str, Any]:
    """The HTTP connection manager within ``config``, to change in place."""
    filters = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    manager: dict[str, Any] = filters[0]["typed_config"]
    return manager


def _model(sample: Mapping[str, Any], name: str, port: int) -> dict[str, Any]:
    return {**copy.deepcopy(dict(sample)), "name": name, "load_assignment": _assignment(name, [_tcp(port)])}


def _assignment(cluster: str, addresses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"cluster_name": cluster, "endpoints": [_locality(addresses)]}


def _locality(addresses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}


def _tcp(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _watched(directory: Path, file: str) -> dict[str, Any]:
    return {"path": str(directory / file), "watched_directory": {"path": str(directory)}}
