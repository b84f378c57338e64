"""``envoy/*.yaml`` with other ports, sockets and models: what operators read is what demo and tests run,
and what ``dropout envoy init`` writes."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE
from extproc.net.endpoints import TcpEndpoint, UnixEndpoint
from extproc.net.tls import TlsFiles

TEMPLATES: Final = {"grpc": "envoy.yaml", "http": "envoy-http.yaml"}
"""The template in ``envoy/`` for each way of asking Dropout."""

PROCESSOR_CLUSTER: Final = "dropout"
"""The cluster of Dropout's workers."""

OBSERVER_CLUSTER: Final = "observer"
"""The cluster of Dropout's observer."""

OBSERVER_LOGGER: Final = "envoy.access_loggers.http_grpc"
"""The access logger that tells the observer."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is that Envoy has to do with.

    ``upstreams`` are the clusters of versions whose servers no document names. Without an ``observer`` nobody is told
    what became of requests. ``tls`` is what requests are taken over; ``ca`` signed what workers and observer show where
    they are asked over a port, in clear without one.
    """

    ingress: TcpEndpoint
    admin: TcpEndpoint
    workers: Sequence[UnixEndpoint | TcpEndpoint]
    envoy_dir: Path
    upstreams: Mapping[str, TcpEndpoint]
    observer: UnixEndpoint | TcpEndpoint | None = None
    tls: TlsFiles | None = None
    ca: Path | None = None


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
    """``configured`` on 127.0.0.1 with these ports, worker sockets and watched folder.

    ``models`` maps the cluster of each version to its port.
    """
    places = Places(
        ingress=_local(listen_port),
        admin=_local(admin_port),
        workers=[UnixEndpoint(socket) for socket in worker_sockets],
        envoy_dir=envoy_dir,
        upstreams={name: _local(port) for name, port in models.items()},
        observer=UnixEndpoint(observer_socket) if observer_socket is not None else None,
    )
    return configured(template, places)


def configured(template: Path, places: Places) -> dict[str, Any]:
    """The template's configuration with its parts at ``places``.

    Write the answer as JSON or YAML and pass the file to ``envoy -c``; the rendered files must be there before Envoy
    starts.
    """
    config: dict[str, Any] = yaml.safe_load(template.read_text(encoding="utf-8"))
    config["admin"]["address"] = _address(places.admin)
    config["dynamic_resources"]["cds_config"]["path_config_source"] = _watched(places.envoy_dir, CLUSTERS_FILE)
    resources = config["static_resources"]
    listener = resources["listeners"][0]
    listener["address"] = _address(places.ingress)
    if places.tls is not None:
        listener["filter_chains"][0]["transport_socket"] = _shown(places.tls)
    manager = connection_manager(config)
    manager["rds"]["config_source"]["path_config_source"] = _watched(places.envoy_dir, ROUTES_FILE)
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    processor, observer = clusters.pop(PROCESSOR_CLUSTER), clusters.pop(OBSERVER_CLUSTER)
    sample = next(iter(clusters.values()))
    _ask_at(processor, places.workers, places.ca)
    resources["clusters"] = [processor, *(_model(sample, name, at) for name, at in places.upstreams.items())]
    if places.observer is None:
        manager["access_log"] = [log for log in manager["access_log"] if log["name"] != OBSERVER_LOGGER]
    else:
        _ask_at(observer, [places.observer], places.ca)
        resources["clusters"].append(observer)
    return config


def connection_manager(config: Mapping[str, Any]) -> dict[str, Any]:
    """The HTTP connection manager within ``config``, to change in place."""
    filters = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    manager: dict[str, Any] = filters[0]["typed_config"]
    return manager


def _ask_at(cluster: dict[str, Any], endpoints: Sequence[UnixEndpoint | TcpEndpoint], ca: Path | None) -> None:
    """Have the cluster's first endpoints be these."""
    cluster["load_assignment"]["endpoints"][0] = _locality(endpoints)
    cluster["type"] = _kind_of(endpoints)
    if ca is not None and isinstance(endpoints[0], TcpEndpoint):
        cluster["transport_socket"] = _checked(endpoints[0].host, ca)


def _model(sample: Mapping[str, Any], name: str, at: TcpEndpoint) -> dict[str, Any]:
    assignment = {"cluster_name": name, "endpoints": [_locality([at])]}
    return {**copy.deepcopy(dict(sample)), "name": name, "type": _kind_of([at]), "load_assignment": assignment}


def _kind_of(endpoints: Sequence[UnixEndpoint | TcpEndpoint]) -> str:
    """Names are looked up again and again, addresses and sockets are what they are."""
    named = any(isinstance(each, TcpEndpoint) and not _is_address(each.host) for each in endpoints)
    return "STRICT_DNS" if named else "STATIC"


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _locality(endpoints: Sequence[UnixEndpoint | TcpEndpoint]) -> dict[str, Any]:
    return {"lb_endpoints": [{"endpoint": {"address": _address(each)}} for each in endpoints]}


def _address(endpoint: UnixEndpoint | TcpEndpoint) -> dict[str, Any]:
    if isinstance(endpoint, UnixEndpoint):
        return {"pipe": {"path": str(endpoint.path)}}
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def _shown(tls: TlsFiles) -> dict[str, Any]:
    """TLS with a certificate of Envoy's own."""
    pair = {"certificate_chain": {"filename": str(tls.certificate)}, "private_key": {"filename": str(tls.key)}}
    return _tls("DownstreamTlsContext", {"common_tls_context": {"tls_certificates": [pair]}})


def _checked(host: str, ca: Path) -> dict[str, Any]:
    """TLS to somebody whose certificate is for ``host`` and was signed by ``ca``."""
    name = {"ip_address" if _is_address(host) else "dns": host}
    names = [{"san_type": kind.upper(), "matcher": {"exact": value}} for kind, value in name.items()]
    context = {"trusted_ca": {"filename": str(ca)}, "match_typed_subject_alt_names": names}
    common = {"alpn_protocols": ["h2"], "validation_context": context}
    return _tls("UpstreamTlsContext", {"sni": host, "common_tls_context": common})


def _tls(kind: str, context: Mapping[str, Any]) -> dict[str, Any]:
    of_type = {"@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"}
    return {"name": "envoy.transport_sockets.tls", "typed_config": {**of_type, **context}}


def _local(port: int) -> TcpEndpoint:
    return TcpEndpoint("127.0.0.1", port)


def _watched(directory: Path, file: str) -> dict[str, Any]:
    return {"path": str(directory / file), "watched_directory": {"path": str(directory)}}
