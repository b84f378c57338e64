"""One hash, two lanes: Envoy's hashed weighted clusters put a unit where Python does, so neither moves a user."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import Any

from extproc.assignment import BUCKETS
from tests.support.envoy import EnvoyProcess, Upstreams, free_port, running
from tests.support.paths import vectors

VECTORS = vectors("assignment-v1")
SLICE = 100
_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def hashed_route(number: int, seed: str, upstream: str) -> dict[str, Any]:
    """A route that spreads the unit in x-user-id over slices of a hundred buckets and says which one it took."""
    slices = [
        {
            "name": upstream,
            "weight": SLICE,
            "response_headers_to_add": [{"header": {"key": "x-slice", "value": str(start // SLICE)}}],
        }
        for start in range(0, BUCKETS, SLICE)
    ]
    rewrite = {"pattern": {"regex": "^(.*)$"}, "substitution": f"{seed}:\\1"}
    return {
        "match": {"prefix": f"/{number}/"},
        "route": {
            "weighted_clusters": {"clusters": slices, "use_hash_policy": True},
            "hash_policy": [{"header": {"header_name": "x-user-id", "regex_rewrite": rewrite}}],
        },
    }


def envoy_config(seeds: list[str], upstream: str, port: int) -> dict[str, Any]:
    """A plain Envoy, without Dropout."""
    routes = [hashed_route(number, seed, upstream) for number, seed in enumerate(seeds)]
    router = {"@type": f"{_FILTERS}.http.router.v3.Router"}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    endpoint = {"endpoint": {"address": address(port)}}
    return {
        "admin": {"address": address(free_port())},
        "static_resources": {
            "listeners": [
                {
                    "name": "ingress",
                    "address": address(free_port()),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": upstream,
                    "load_assignment": {"cluster_name": upstream, "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        },
    }


def test_envoy_puts_every_vector_into_the_bucket_that_python_computes(tmp_path: Path) -> None:
    vectors = [v for v in VECTORS if _HEADER_VALUE.fullmatch(v.get("unit", "")) and v["seed"].isascii()]
    assert len(vectors) > 300
    seeds = sorted({vector["seed"] for vector in vectors})
    upstreams = Upstreams("model").start()
    envoy = EnvoyProcess(envoy_config(seeds, "model", upstreams.ports["model"]), tmp_path)
    wrong = []
    try:
        with running(envoy):
            connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=60)
            for vector in vectors:
                path = f"/{seeds.index(vector['seed'])}/"
                connection.request("GET", path, headers={"x-user-id": vector["unit"]})
                answer = connection.getresponse()
                answer.read()
                if int(answer.headers["x-slice"]) != vector["bucket"] // SLICE:
                    wrong.append((vector, answer.headers["x-slice"]))
            connection.close()
    finally:
        upstreams.stop()
    assert wrong == []
