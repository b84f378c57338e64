"""The rendered routes and clusters against envoy-data-plane, which knows every field of Envoy's messages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from extproc.envoy.render import render_clusters, render_routes
from extproc.snapshot.model import CompiledRollout
from tests.support.rollouts import MARKS, canary, experiment

for package in ("extensions.clusters.composite", "extensions.retry.host.previous_hosts", "type.matcher"):
    # What the rendered messages hold as Any is looked up among the messages that were imported.
    import_module(f"envoy_data_plane.envoy.{package}.v3")

MATCH = {
    "path": {"type": "Exact", "value": "/v1"},
    "headers": [{"name": "x-model", "value": "größe"}],
    "hosts": ["*.example.com", "a.example.com"],
}
GIVEN = [
    [],
    [canary()],
    [
        canary(),
        canary(name="other", match=[MATCH], policy={"noAnswer": "deny"}),
        canary(name="all", match=[{"path": {"value": "/"}}]),
    ],
    [experiment()],
]


def bare(resource: dict[str, Any]) -> dict[str, Any]:
    """The message without its type, which both kinds of file say."""
    return {name: value for name, value in resource.items() if name != "@type"}


@pytest.mark.parametrize("rollouts", GIVEN)
def test_every_field_of_the_routes_is_one_of_envoys(rollouts: Sequence[CompiledRollout]) -> None:
    routes = render_routes(rollouts, MARKS)
    assert routes["@type"] == "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    assert RouteConfiguration.from_dict(bare(routes)).to_dict() == bare(routes)


@pytest.mark.parametrize("rollouts", GIVEN)
def test_every_field_of_the_clusters_is_one_of_envoys(rollouts: Sequence[CompiledRollout]) -> None:
    for cluster in render_clusters(rollouts):
        assert cluster["@type"] == "type.googleapis.com/envoy.config.cluster.v3.Cluster"
        assert Cluster.from_dict(bare(cluster)).to_dict() == bare(cluster)


def test_a_field_that_envoy_does_not_know_is_found() -> None:
    routes = bare(render_routes([canary()], MARKS))
    table = routes["virtualHosts"][0]["matcher"]["matcherList"]["matchers"][0]["onMatch"]["matcher"]["matcherTree"]
    table["input"]["typedConfig"]["headerNam"] = table["input"]["typedConfig"].pop("headerName")
    with pytest.raises(KeyError, match="header_nam"):
        RouteConfiguration.from_dict(routes)
