"""The route and cluster files: what is in them, and that a real Envoy accepts them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters.stores import open_store
from extproc.cli.envoy import envoy
from extproc.envoy.bootstrap import PROCESSOR_CLUSTER, bootstrap, connection_manager
from extproc.envoy.files import write_envoy_dir
from extproc.envoy.render import render_clusters, render_routes
from extproc.errors import Unreachable
from extproc.names import OWN_HEADERS
from extproc.resources.folders import FolderIdentity, FolderListing, list_folder
from extproc.resources.loading import parse_rollout
from extproc.run import envoy_files
from extproc.run.envoy_files import RenderedEnvoyFiles
from extproc.settings import Settings
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.model import CompiledRollout
from extproc.store.records import Write
from extproc.store.status import Status
from tests.support.envoy import TEMPLATE, TEMPLATES, validate
from tests.support.rollouts import CANARY, MARKS, canary, document, experiment

LONG_HOST = ".".join(["a" * 63] * 3 + ["b" * 61])
"""The longest that a document may ask for."""


def _decided(routes: dict[str, Any], key: str, version: str) -> dict[str, Any]:
    """The route of a request that ``key`` decided to be served by ``version``."""
    tree = routes["virtualHosts"][0]["matcher"]["matcherList"]["matchers"][0]["onMatch"]["matcher"]
    tree = tree["matcherTree"]["exactMatchMap"]["map"][key]["matcher"]
    found = tree["matcherTree"]["exactMatchMap"]["map"].get(version, tree["onNoMatch"])
    route: dict[str, Any] = found["action"]["typedConfig"]
    return route


def _undecided(routes: dict[str, Any], path: str = "/v1/models/fraud-detector") -> list[dict[str, Any]]:
    """The routes that are tried for an undecided request whose longest known path is ``path``."""
    found = routes["virtualHosts"][0]["matcher"]["onNoMatch"]
    if "matcher" in found:
        found = found["matcher"]["matcherTree"]["prefixMatchMap"]["map"][path]
    listed: list[dict[str, Any]] = found["action"]["typedConfig"]["routes"]
    return listed


def _promoted() -> CompiledRollout:
    return compile_rollout(parse_rollout(document(CANARY)), Status(stable="4", canary="4"), now=0.0)


def test_a_version_goes_to_its_own_cluster_with_stable_behind_it() -> None:
    routes = render_routes([canary(500)], MARKS)
    to_canary = _decided(routes, "payments/fraud-detector", "4")
    assert to_canary["route"]["cluster"] == "fraud-detector-v4-or-fraud-detector-v3"
    assert "retriable-status-codes" in to_canary["route"]["retryPolicy"]["retryOn"]
    assert _decided(routes, "payments/fraud-detector", "3")["route"]["cluster"] == "fraud-detector-v3"
    assert [cluster["name"] for cluster in render_clusters([canary(500)])] == ["fraud-detector-v4-or-fraud-detector-v3"]


def test_a_version_that_is_not_rendered_goes_to_its_rollouts_stable() -> None:
    assert _decided(render_routes([canary()], MARKS), "payments/fraud-detector", "99")["route"]["cluster"] == (
        "fraud-detector-v3"
    )


def test_undecided_requests_follow_a_promotion() -> None:
    assert {route["route"]["cluster"] for route in _undecided(render_routes([canary(10000)], MARKS))} == {
        "fraud-detector-v3"
    }
    assert {route["route"]["cluster"] for route in _undecided(render_routes([_promoted()], MARKS))} == {
        "fraud-detector-v4"
    }


def test_after_a_promotion_the_next_canary_falls_back_to_the_new_stable() -> None:
    body = {**CANARY, "canary": {"version": "5"}}
    next_canary = compile_rollout(parse_rollout(document(body)), Status(stable="4", canary="5", weight=500), now=0.0)
    routes = render_routes([next_canary], MARKS)
    to_canary = _decided(routes, "payments/fraud-detector", "5")["route"]["cluster"]
    assert to_canary == "fraud-detector-v5-or-fraud-detector-v4"
    (fallback,) = render_clusters([next_canary])
    assert fallback["name"] == to_canary
    assert "fraud-detector-v3" not in orjson.dumps(fallback).decode()
    assert {route["route"]["cluster"] for route in _undecided(routes)} == {"fraud-detector-v4"}


def test_an_experiments_default_is_its_last_variant() -> None:
    assert {route["route"]["cluster"] for route in _undecided(render_routes([experiment()], MARKS))} == {
        "fraud-detector-v3"
    }


def test_undecided_requests_are_matched_in_the_gateway_apis_order() -> None:
    def at(name: str, **entry: Any) -> CompiledRollout:
        return canary(name=name, match=[entry])

    prefix = {"type": "PathPrefix", "value": "/v1/models"}
    header = {"name": "x-model", "value": "a"}
    given = [
        at("any-path", headers=[header]),
        at("short", path={"type": "PathPrefix", "value": "/v1"}),
        at("long", path=prefix),
        at("long-and-header", path=prefix, headers=[header]),
        at("exact", path={"type": "Exact", "value": "/v1"}),
        at("wildcard", path=prefix, hosts=["*.example.com"]),
        at("longer-wildcard", path=prefix, hosts=["*.eu.example.com"]),
        at("host", path={"type": "PathPrefix", "value": "/v1"}, hosts=["a.example.com"]),
    ]
    names = dict.fromkeys(
        route["name"].partition("/")[2]
        for path in ("/v1/models", "/v1", "/")
        for route in _undecided(render_routes(given, MARKS), path)
    )
    assert [name.removesuffix("@default") for name in names] == [
        "host",
        "longer-wildcard",
        "wildcard",
        "exact",
        "long-and-header",
        "long",
        "short",
        "any-path",
    ]


def test_the_timeouts_of_a_rollout_are_those_of_its_routes_and_of_no_others() -> None:
    routes = render_routes(
        [canary(timeout="1m30s", idleTimeout="0s"), canary(name="other", match=[{"path": {"value": "/other"}}])], MARKS
    )

    def timeouts(route: dict[str, Any]) -> tuple[str | None, str | None]:
        return route["route"].get("timeout"), route["route"].get("idleTimeout")

    of_one = [_decided(routes, "payments/fraud-detector", version) for version in ("3", "4", "99")]
    assert {timeouts(route) for route in [*of_one, *_undecided(routes)]} == {("90s", "0s")}
    of_other = [_decided(routes, "payments/other", version) for version in ("3", "4", "99")]
    assert {timeouts(route) for route in [*of_other, *_undecided(routes, "/other")]} == {(None, None)}


def test_routes_mirror_only_to_the_cluster_that_the_decision_names() -> None:
    host = render_routes([canary()], MARKS)["virtualHosts"][0]
    assert [policy["clusterHeader"] for policy in host["requestMirrorPolicies"]] == ["x-model-shadow"]


def test_routes_give_the_client_the_decisions_id_and_no_other() -> None:
    host = render_routes([canary()], MARKS)["virtualHosts"][0]
    assert host["responseHeadersToRemove"] == ["x-decision-id"]
    (added,) = host["responseHeadersToAdd"]
    assert added["header"] == {"key": "x-decision-id", "value": "%REQ(x-decision-id)%"}


def test_an_undecided_request_is_tried_against_few_routes_however_many_rollouts_there_are() -> None:
    several = [canary(name=f"m{number}", match=[{"path": {"value": f"/v1/models/m{number}"}}]) for number in range(200)]
    assert len(_undecided(render_routes(several, MARKS), "/v1/models/m77")) == 4  # m77 and m7, two routes each


def test_many_entries_without_a_path_are_listed_once() -> None:
    several = [
        canary(
            name=f"m{number}",
            match=[{"headers": [{"name": "x-model", "value": str(number)}]}, {"path": {"value": f"/m{number}"}}],
        )
        for number in range(50)
    ]
    assert len(_undecided(render_routes(several, MARKS))) == 50 + 2 * 50


DENIES = {"policy": {"noAnswer": "deny"}}


@pytest.mark.parametrize(
    ("policy", "denies"),
    [
        (None, False),
        ({}, False),
        ({"onError": "stable"}, False),
        ({"onError": "deny"}, True),
        ({"onError": "deny", "noAnswer": "stable"}, False),
        ({"onError": "stable", "noAnswer": "deny"}, True),
    ],
)
def test_an_undecided_request_is_denied_where_the_policy_says_so(policy: dict[str, str] | None, denies: bool) -> None:
    for route in _undecided(render_routes([canary(policy=policy)], MARKS)):
        assert ("directResponse" in route) is denies
        assert ("route" in route) is not denies
        assert set(route["requestHeadersToRemove"]) == set(OWN_HEADERS)


def test_of_rollouts_that_share_an_entry_any_denies_what_is_undecided() -> None:
    layers = [{"layer": {"name": "l", "range": [0, 5000]}}, {"layer": {"name": "l", "range": [5000, 10000]}}]
    shared = [canary(name="a", **layers[0]), canary(name="b", **layers[1], **DENIES)]
    assert all("directResponse" in route for route in _undecided(render_routes(shared, MARKS)))


def test_another_rollouts_denial_is_its_own() -> None:
    given = [canary(name="a"), canary(name="b", match=[{"path": {"value": "/v1/models"}}], **DENIES)]
    routes = _undecided(render_routes(given, MARKS))
    assert [("directResponse" in route) for route in routes] == [False, False, True, True]


def test_files_are_replaced_only_when_the_routes_change(tmp_path: Path) -> None:
    assert write_envoy_dir(tmp_path, [canary(100)], MARKS)
    files = [tmp_path / "rds.json", tmp_path / "cds.json"]
    before = [file.stat().st_ino for file in files]
    assert not write_envoy_dir(tmp_path, [canary(9000)], MARKS)
    assert [file.stat().st_ino for file in files] == before
    assert write_envoy_dir(tmp_path, [_promoted()], MARKS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cds.json", "rds.json"]


def test_the_routes_which_hold_the_mark_are_for_owner_and_group_and_stay_what_somebody_made_them(
    tmp_path: Path,
) -> None:
    def modes() -> list[int]:
        return [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("rds.json", "cds.json")]

    write_envoy_dir(tmp_path, [canary(100)], MARKS)
    assert MARKS[0] in (tmp_path / "rds.json").read_text()
    assert MARKS[0] not in (tmp_path / "cds.json").read_text()
    assert modes() == [0o640, 0o644]
    (tmp_path / "rds.json").chmod(0o600)
    write_envoy_dir(tmp_path, [_promoted()], MARKS)
    assert modes() == [0o600, 0o644]
    (tmp_path / "rds.json").chmod(0o666)
    write_envoy_dir(tmp_path, [canary(100)], MARKS)
    assert modes() == [0o640, 0o644]


def test_routes_for_several_keys_take_the_mark_of_each(tmp_path: Path) -> None:
    (matcher,) = render_routes([canary()], ("a", "b"))["virtualHosts"][0]["matcher"]["matcherList"]["matchers"]
    either = matcher["predicate"]["orMatcher"]["predicate"]
    assert [each["singlePredicate"]["valueMatch"]["exact"] for each in either] == ["a", "b"]


def test_a_fallback_cluster_outlives_the_routes_that_name_it_by_one_change(tmp_path: Path) -> None:
    def names() -> set[str]:
        return {cluster["name"] for cluster in orjson.loads((tmp_path / "cds.json").read_bytes())["resources"]}

    write_envoy_dir(tmp_path, [canary(100)], MARKS)
    write_envoy_dir(tmp_path, [_promoted()], MARKS)
    assert names() == {"fraud-detector-v4-or-fraud-detector-v3"}
    write_envoy_dir(tmp_path, [], MARKS)
    assert names() == set()


def test_a_versions_own_cluster_comes_before_the_routes_to_it_and_goes_after_them(tmp_path: Path) -> None:
    def named() -> set[str]:
        return {cluster["name"] for cluster in orjson.loads((tmp_path / "cds.json").read_bytes())["resources"]}

    def at(port: int, stable: str, version: str) -> CompiledRollout:
        body = {**CANARY, "endpoints": {"host": "{model}-v{version}.models.svc", "port": port}}
        return compile_rollout(parse_rollout(document(body)), Status(stable=stable, canary=version), now=0.0)

    def cluster(stable: str, version: str = "") -> str:
        return f"fraud-detector-v{version}-or-fraud-detector-v{stable}" if version else f"fraud-detector-v{stable}"

    assert write_envoy_dir(tmp_path, [at(8080, "3", "4")], MARKS)
    assert named() == {cluster("3"), cluster("4"), cluster("3", "4")}
    assert write_envoy_dir(tmp_path, [at(8081, "3", "4")], MARKS)
    assert b"8081" in (tmp_path / "cds.json").read_bytes()
    assert not write_envoy_dir(tmp_path, [at(8081, "3", "4")], MARKS)
    write_envoy_dir(tmp_path, [at(8081, "4", "5")], MARKS)
    assert named() == {cluster("4"), cluster("5"), cluster("4", "5"), cluster("3"), cluster("3", "4")}
    write_envoy_dir(tmp_path, [at(8081, "5", "5")], MARKS)
    assert named() == {cluster("5"), cluster("4"), cluster("4", "5")}


def test_a_garbled_file_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "cds.json").write_text('{"resources": 3')
    (tmp_path / "rds.json").write_text("[]")
    assert write_envoy_dir(tmp_path, [canary()], MARKS)
    assert orjson.loads((tmp_path / "cds.json").read_bytes())["resources"]


DEEP = b'{"a":' * 1020 + b"1" + b"}" * 1020
DEEP_CLUSTER = b'{"resources": [{"name": "kept", "x": %b}]}' % (b"[" * 500 + b"]" * 500)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3) | st.sampled_from(["a-or-b", "a", "b"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["resources", "name", "cluster", "clusterType", "typedConfig", "clusters"]), children
        )
    ),
)


def rewritten(folder: Path, routes: bytes, clusters: bytes) -> None:
    """Whatever is in the two files, they are afterwards what they are in an empty folder."""
    with TemporaryDirectory(dir=folder) as given, TemporaryDirectory(dir=folder) as empty:
        (Path(given) / "rds.json").write_bytes(routes)
        (Path(given) / "cds.json").write_bytes(clusters)
        assert write_envoy_dir(Path(given), [canary()], MARKS)
        write_envoy_dir(Path(empty), [canary()], MARKS)
        assert (Path(given) / "rds.json").read_bytes() == (Path(empty) / "rds.json").read_bytes()
        told, wanted = (orjson.loads((Path(of) / "cds.json").read_bytes())["resources"] for of in (given, empty))
        assert told[: len(wanted)] == wanted


@pytest.mark.parametrize("clusters", [DEEP, DEEP_CLUSTER, b'{"resources": [{"name": ["x"]}]}', b""])
@pytest.mark.parametrize("routes", [DEEP, b'{"cluster": "kept"}', b"\xff", b""])
def test_no_content_of_the_files_is_a_surprise(tmp_path: Path, routes: bytes, clusters: bytes) -> None:
    rewritten(tmp_path, routes, clusters)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | ANYTHING.map(orjson.dumps), st.binary() | ANYTHING.map(orjson.dumps))
def test_no_content_at_all_is_a_surprise(tmp_path: Path, routes: bytes, clusters: bytes) -> None:
    rewritten(tmp_path, routes, clusters)


def test_what_is_no_regular_file_is_none_and_makes_room(tmp_path: Path) -> None:
    for name in ("rds.json", "cds.json"):
        os.mkfifo(tmp_path / name)
    assert write_envoy_dir(tmp_path, [canary()], MARKS)
    assert all((tmp_path / name).is_file() for name in ("rds.json", "cds.json"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unreachable) as caught:
        write_envoy_dir(tmp_path / "file", [canary()], MARKS)
    assert caught.value.code == "envoy_dir_unwritable"


def _with_rendered(tmp_path: Path, rollouts: list[CompiledRollout], marks: Sequence[str] = MARKS) -> dict[str, Any]:
    """The bootstrap with the rendered resources in place, which --mode validate looks into; files it does not."""
    write_envoy_dir(tmp_path, rollouts, marks)
    config = bootstrap(
        TEMPLATE,
        listen_port=10000,
        admin_port=10001,
        worker_sockets=[tmp_path / "0.sock"],
        envoy_dir=tmp_path,
        models={"fraud-detector-v3": 9003, "fraud-detector-v4": 9004},
    )
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"], config["dynamic_resources"]
    routes = orjson.loads((tmp_path / "rds.json").read_bytes())["resources"][0]
    clusters = orjson.loads((tmp_path / "cds.json").read_bytes())["resources"]
    manager["route_config"] = {key: value for key, value in routes.items() if key != "@type"}
    config["static_resources"]["clusters"] += [{k: v for k, v in c.items() if k != "@type"} for c in clusters]
    return config


def test_envoy_accepts_rendered_routes_and_clusters(tmp_path: Path) -> None:
    entry = {
        "path": {"type": "Exact", "value": "/v1"},
        "headers": [{"name": "x-model", "value": "größe"}],
        "hosts": ["*.example.com", "a.example.com", LONG_HOST, f"*.{LONG_HOST[2:]}"],
    }
    several = [
        canary(),
        canary(name="other", match=[entry], **DENIES),
        canary(name="all", match=[{"path": {"value": "/"}}]),
        canary(name="quick", match=[{"path": {"value": "/quick"}}], timeout="1ms", idleTimeout="0s"),
        canary(name="slow", match=[{"path": {"value": "/slow"}}], timeout="8760h", idleTimeout="8760h"),
        canary(
            name="served", match=[{"path": {"value": "/s"}}], model="own", endpoints={"host": "v{version}", "port": 1}
        ),
    ]
    assert validate(_with_rendered(tmp_path, several, ("old", "new")), tmp_path) == ""


def test_envoy_accepts_no_rollouts_at_all(tmp_path: Path) -> None:
    assert validate(_with_rendered(tmp_path, []), tmp_path) == ""


@pytest.mark.parametrize("transport", TEMPLATES)
def test_envoy_accepts_the_configuration_as_it_is_shipped(transport: str, tmp_path: Path) -> None:
    write_envoy_dir(tmp_path, [canary()], MARKS)
    text = TEMPLATES[transport].read_text().replace("/run/dropout/envoy", str(tmp_path))
    assert validate(yaml.safe_load(text), tmp_path) == ""


def test_the_two_configurations_differ_only_in_how_dropout_is_asked() -> None:
    configs = [yaml.safe_load(TEMPLATES[transport].read_text()) for transport in ("grpc", "http")]
    for config in configs:
        filters = connection_manager(config)["http_filters"]
        for name in ("grpc_service", "http_service"):
            filters[0]["typed_config"].pop(name, None)
        for name in ("layered_runtime", "bootstrap_extensions"):
            config.pop(name, None)
        resources = config["static_resources"]
        del resources["listeners"][1:]
        resources["clusters"] = [cluster for cluster in resources["clusters"] if cluster["name"] != PROCESSOR_CLUSTER]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("transport", TEMPLATES)
def test_a_decision_is_there_before_the_shipped_configuration_gives_it_up(transport: str) -> None:
    filters = connection_manager(yaml.safe_load(TEMPLATES[transport].read_text()))["http_filters"]
    waited = float(filters[0]["typed_config"]["message_timeout"].removesuffix("s"))
    assert Settings().decision_deadline == pytest.approx(0.8 * waited)


def test_the_shipped_configuration_strips_and_allows_exactly_our_headers() -> None:
    config = yaml.safe_load(TEMPLATE.read_text())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    early = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    assert {mutation["remove"] for mutation in early if "remove" in mutation} == set(OWN_HEADERS)
    (alike,) = [mutation["remove_on_match"]["key_matcher"]["safe_regex"]["regex"] for mutation in early[7:]]
    for name in OWN_HEADERS:
        assert re.fullmatch(alike, name.replace("-", "_"))
        assert re.fullmatch(alike, name)
    assert not re.fullmatch(alike, "x-model")
    rules = manager["http_filters"][0]["typed_config"]["mutation_rules"]
    assert rules == {"disallow_all": True, "allow_expression": {"regex": "x-model-.*|x-decision-id"}}


def _render(*arguments: str) -> Result:
    return CliRunner().invoke(envoy, ["render", *arguments])


def test_documents_are_rendered_as_their_first_apply_would_adopt_them(tmp_path: Path) -> None:
    (tmp_path / "rollout.yaml").write_text(yaml.safe_dump(document(CANARY)))
    arguments = ("--rollouts", str(tmp_path / "rollout.yaml"), "--out", str(tmp_path / "envoy"), "-o", "json")
    answer = orjson.loads(_render(*arguments).output)
    assert (answer["rollouts"], answer["written"]) == (1, True)
    routes = orjson.loads((tmp_path / "envoy" / "rds.json").read_bytes())["resources"][0]
    assert {route["route"]["cluster"] for route in _undecided(routes)} == {"fraud-detector-v3"}
    assert orjson.loads(_render(*arguments).output)["written"] is False


def test_a_stores_rollouts_are_rendered_by_their_status(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'dropout.db'}"
    store = open_store(url, create=True)
    promoted = Status(stable="4", canary="4")
    store.write([Write("payments", "fraud-detector", expect=None, document=document(CANARY), status=promoted)])
    store.close()
    result = _render("--store", url, "--out", str(tmp_path / "envoy"))
    assert result.output == f"{tmp_path / 'envoy'}: wrote the routes of 1 rollout.\n"
    routes = orjson.loads((tmp_path / "envoy" / "rds.json").read_bytes())["resources"][0]
    assert {route["route"]["cluster"] for route in _undecided(routes)} == {"fraud-detector-v4"}


def test_a_store_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    result = _render("--store", f"sqlite:{tmp_path / 'none.db'}", "--out", str(tmp_path / "envoy"))
    assert isinstance(result.exception, Unreachable)
    assert not (tmp_path / "envoy").exists()


def test_serve_writes_again_what_somebody_else_removed_or_changed(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'dropout.db'}"
    open_store(url, create=True).close()
    said = list[str]()
    files = RenderedEnvoyFiles(url, tmp_path / "ids", tmp_path, said.append, said.append)
    files.write()
    routes, clusters = tmp_path / "rds.json", tmp_path / "cds.json"
    written = routes.read_bytes(), clusters.read_bytes()
    for file in (routes, clusters):
        file.unlink()
        files.write()
        assert (routes.read_bytes(), clusters.read_bytes()) == written
        file.write_text("{")
        files.write()
        assert (routes.read_bytes(), clusters.read_bytes()) == written
    before = routes.stat().st_ino
    files.write()
    assert routes.stat().st_ino == before
    assert not said


def test_serve_writes_what_it_could_not_write_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:{tmp_path / 'dropout.db'}"
    store = open_store(url, create=True)
    said, warned = list[str](), list[str]()
    files = RenderedEnvoyFiles(url, tmp_path / "ids", tmp_path / "envoy", said.append, warned.append)
    files.write()
    (tmp_path / "envoy").rename(tmp_path / "away")
    (tmp_path / "envoy").write_text("in the way")
    store.write([Write("payments", "fraud-detector", None, document(CANARY), Status(stable="3", canary="4"))])
    with pytest.raises(Unreachable):
        files.write()
    (tmp_path / "envoy").unlink()
    (tmp_path / "away").rename(tmp_path / "envoy")
    files.write()
    routes = orjson.loads((tmp_path / "envoy" / "rds.json").read_bytes())["resources"][0]
    assert _decided(routes, "payments/fraud-detector", "4")
    assert not warned
    (tmp_path / "envoy").rename(tmp_path / "away")
    files.write()
    again = "an Envoy that watched one of that name before must be started again"
    assert said == [f"envoy: made the folder {tmp_path / 'envoy'}: {again}"], "that is how a first start begins"
    anew = f"envoy: the folder {tmp_path / 'envoy'} was removed and made anew: {again}"
    assert warned == [anew]
    with monkeypatch.context() as patched:  # as file systems do that give a number out again at once
        patched.setattr(envoy_files, "list_folder", lambda *given: with_one_identity(list_folder(*given)))
        files.write()
        warned.clear()
        rmtree(tmp_path / "envoy")
        files.write()
    assert warned == [anew]
    store.close()


def with_one_identity(listing: FolderListing) -> FolderListing:
    return replace(listing, folders=dict.fromkeys(listing.folders, FolderIdentity(1, 1)))
