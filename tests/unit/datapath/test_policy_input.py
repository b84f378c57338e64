"""The input of a policy has OPA-Envoy's shape, and holds what the policy can read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from extproc.assignment import policy_bucket
from extproc.datapath.model import NO_FEATURES, Features, FeatureValue, Request, Unit
from extproc.datapath.policy_input import (
    EVERYTHING,
    REPEATABLE,
    InputPaths,
    build_input,
    format_path,
    parse_path,
    parsed_path,
    parsed_query,
)
from extproc.names import Reason
from extproc.resources.policy_schema import POLICY_INPUT_SCHEMA
from extproc.snapshot.model import FeatureNeed, FeatureView
from tests.support.decisions import make_rollout

SCHEMA = Draft7Validator(POLICY_INPUT_SCHEMA)
ROLLOUT = make_rollout(
    features=FeatureNeed((), FeatureView("user_risk", ("risk_score", "vip")), None, 0.005, missing_is_stable=False)
)
REQUEST = Request(
    method="POST",
    path="/v1/models/fraud%2Ddetector?page=2&page=3&q=a+b",
    host="models.example",
    scheme="https",
    headers={
        ":path": b"/v1/models/fraud%2Ddetector?page=2&page=3&q=a+b",
        "x-request-id": b"r-1",
        "x-region": b"eu",
        "x-bytes": b"caf\xe9",
    },
    attributes={"source.address": "10.1.2.3:4567", "request.protocol": "HTTP/2"},
)
FEATURES = Features({"risk_score": FeatureValue(0.2, 1.0, "cache"), "vip": FeatureValue(None, 1.0, "store")})
NOW = 1_763_640_000.25


def built(reads: InputPaths, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"request": REQUEST, "unit": Unit(b"alice"), "features": FEATURES}
    given |= changes
    return build_input(given["request"], ROLLOUT, given["unit"], given["features"], NOW, reads)


def test_the_whole_input_has_the_shape_that_opa_envoy_authors_know() -> None:
    document = built(EVERYTHING)
    assert document == {
        "attributes": {
            "request": {
                "http": {
                    "method": "POST",
                    "path": "/v1/models/fraud%2Ddetector?page=2&page=3&q=a+b",
                    "host": "models.example",
                    "scheme": "https",
                    "protocol": "HTTP/2",
                    "id": "r-1",
                    "headers": {
                        ":path": "/v1/models/fraud%2Ddetector?page=2&page=3&q=a+b",
                        "x-request-id": "r-1",
                        "x-region": "eu",
                        "x-bytes": "caf\ufffd",
                    },
                },
                "time": "2025-11-20T12:00:00.250000Z",
            },
            "source": {"address": {"socketAddress": {"address": "10.1.2.3", "portValue": 4567}}},
            "envoy": {"source.address": "10.1.2.3:4567", "request.protocol": "HTTP/2"},
        },
        "parsed_path": ["v1", "models", "fraud-detector"],
        "parsed_query": {"page": ["2", "3"], "q": ["a b"]},
        "version": {"encoding": "protojson", "ext_proc": "v3"},
        "rollout": dict(ROLLOUT.policy_input),
        "unit": "alice",
        "draw": policy_bucket(ROLLOUT.seed, b"alice"),
        "features": {"risk_score": 0.2, "vip": None},
        "features_of": {"3": {"risk_score": 0.2, "vip": None}, "4": {"risk_score": 0.2, "vip": None}},
        "time": 1_763_640_000_250_000_000,
    }
    SCHEMA.validate(document)


def test_a_draw_is_made_for_those_who_read_it_and_for_a_request_that_is_a_unit_of_its_own() -> None:
    assert "draw" not in built(InputPaths([("unit",), ("rollout",)]))
    assert built(InputPaths([("draw",)]), unit=Unit(b"r-1", Reason.UNIT_MISSING, per_request=True)) == {
        "draw": policy_bucket(ROLLOUT.seed, b"r-1")
    }


def test_the_schema_is_a_schema() -> None:
    Draft7Validator.check_schema(POLICY_INPUT_SCHEMA)


def test_an_input_of_little_fits_the_schema_too() -> None:
    bare = Request("GET", "/", "", "", {})
    document = built(EVERYTHING, request=bare, unit=Unit(None, Reason.UNIT_MISSING), features=NO_FEATURES)
    SCHEMA.validate(document)
    assert document["unit"] is None
    assert "draw" not in document  # null would be less than any number
    assert document["attributes"] == {
        "request": {
            "http": {"method": "GET", "path": "/", "host": "", "scheme": "", "headers": {}},
            "time": "2025-11-20T12:00:00.250000Z",
        },
        "envoy": {},
    }


def test_only_what_is_read_is_built() -> None:
    reads = InputPaths.parse(
        ["features.risk_score", "rollout.stable", "attributes.request.http.headers.x-region", "time"]
    )
    assert built(reads) == {
        "attributes": {"request": {"http": {"headers": {"x-region": "eu"}}}},
        "rollout": {"stable": "3"},
        "features": {"risk_score": 0.2},
        "time": 1_763_640_000_250_000_000,
    }


def test_each_version_has_the_features_of_its_view() -> None:
    features = FEATURES._replace(of={"4": {"risk_score": FeatureValue(0.7, 1.0, "store")}})
    whole = {"3": {"risk_score": 0.2, "vip": None}, "4": {"risk_score": 0.7}}
    assert built(EVERYTHING, features=features)["features_of"] == whole
    for read, there in (
        ('features_of["4"].risk_score', {"4": {"risk_score": 0.7}}),
        ('features_of["4"].unknown', {"4": {}}),
        ('features_of["9"]', {}),
        ("features_of", whole),
    ):
        assert built(InputPaths.parse([read]), features=features) == {"features_of": there}


def test_a_policy_that_reads_nothing_gets_nothing() -> None:
    assert built(InputPaths([])) == {}


def test_containers_of_what_is_read_are_there_even_if_it_is_not() -> None:
    reads = InputPaths.parse(["features.unknown", "attributes.request.http.headers.x-none", "rollout.nothing"])
    assert built(reads) == {
        "attributes": {"request": {"http": {"headers": {}}}},
        "rollout": {},
        "features": {},
    }


def test_reads_that_are_not_known_get_everything() -> None:
    class Unknown:
        def reads(self, *path: str) -> bool:
            return True

    document = build_input(REQUEST, ROLLOUT, Unit(b"alice"), FEATURES, NOW, Unknown())
    assert document == built(EVERYTHING)


@pytest.mark.parametrize(
    ("unit", "seen"),
    [
        (Unit(b"alice"), "alice"),
        (Unit(b"\xff\x00"), "\ufffd\x00"),
        (Unit(None, Reason.UNIT_MISSING), None),
        (Unit(b"r-1", per_request=True), None),
        (Unit(b"a", Reason.UNIT_AMBIGUOUS), None),
    ],
)
def test_the_unit_is_text_and_null_without_one_of_its_own(unit: Unit, seen: str | None) -> None:
    assert built(InputPaths([("unit",)]), unit=unit) == {"unit": seen}


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("10.0.0.1:80", {"address": "10.0.0.1", "portValue": 80}),
        ("[2001:db8::1]:443", {"address": "2001:db8::1", "portValue": 443}),
        ("/run/envoy.sock", {"address": "/run/envoy.sock"}),
        ("x:٣", {"address": "x:٣"}),
        ("1.2.3.4:" + "9" * 4301, {"address": "1.2.3.4:" + "9" * 4301}),
    ],
)
def test_addresses_are_read_as_envoy_writes_them(address: str, seen: dict[str, Any]) -> None:
    request = Request("GET", "/", "h", "http", {}, attributes={"destination.address": address})
    document = built(InputPaths([("attributes", "destination")]), request=request)
    assert document == {"attributes": {"destination": {"address": {"socketAddress": seen}}}}


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", [""]),
        ("", [""]),
        ("/a/b", ["a", "b"]),
        ("/a/b/", ["a", "b", ""]),
        ("//a//b", ["a", "", "b"]),
        ("/a%2Fb?c/d", ["a", "b"]),
        ("/caf%C3%A9/%ff/%zz", ["café", "\ufffd", "%zz"]),
    ],
)
def test_paths_are_parsed_as_opa_envoy_does(path: str, segments: list[str]) -> None:
    assert parsed_path(path) == segments


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("?", {}),
        ("?a", {"a": [""]}),
        ("?a=1&b=&a=2", {"a": ["1", "2"], "b": [""]}),
        ("?a%20b=%C3%A9+x", {"a b": ["é x"]}),
        ("?%ff=%ff", {"\ufffd": ["\ufffd"]}),
    ],
)
def test_queries_are_lists_of_decoded_values(query: str, parameters: dict[str, list[str]]) -> None:
    assert parsed_query(f"/p{query}") == parameters


def test_reads_know_what_lies_above_and_below() -> None:
    reads = InputPaths([("features", "risk"), ("rollout",), ("rollout", "stable")])
    assert reads.paths == ("features.risk", "rollout")
    assert reads.include("features")
    assert reads.include("features", "risk", "deeper")
    assert not reads.include("features", "other")
    assert reads.include("rollout", "anything")
    assert reads.include()
    assert not InputPaths([]).include()
    assert reads.below("features") == {"risk"}
    assert reads.below("rollout") is None
    assert reads.below("unit") == frozenset()


PARTS = st.text(min_size=1, max_size=6) | st.sampled_from(["x-user-id", "a.b", 'q"', "[0]", "\\"])


@given(st.lists(PARTS, max_size=4))
def test_a_path_is_read_back_from_its_text(path: list[str]) -> None:
    assert parse_path(format_path(tuple(path))) == tuple(path)


@given(st.text(max_size=12))
def test_text_that_is_no_path_is_refused(text: str) -> None:
    try:
        path = parse_path(text)
    except ValueError:
        return
    assert parse_path(format_path(path)) == path


@given(
    st.binary(max_size=60),
    st.dictionaries(st.text("abc-:", min_size=1, max_size=6), st.binary(max_size=12), max_size=5),
    st.binary(max_size=8),
)
def test_no_bytes_of_a_client_keep_the_input_from_being_json(
    path: bytes, headers: dict[str, bytes], unit: bytes
) -> None:
    text = path.decode("utf-8", "replace")
    document = built(EVERYTHING, request=Request("GET", text, "h", "http", headers), unit=Unit(unit))
    assert orjson.loads(orjson.dumps(document)) == document
    SCHEMA.validate(document)


def test_what_no_two_requests_have_in_common_is_left_out_and_nothing_else() -> None:
    everything, repeatable = built(EVERYTHING), built(REPEATABLE)
    del everything["time"], everything["attributes"]["request"]["time"]
    http = everything["attributes"]["request"]["http"]
    del http["id"], http["headers"]["x-request-id"]
    assert repeatable == everything


def test_paths_with_exceptions_are_written_and_read_back() -> None:
    assert REPEATABLE.paths[:2] == ("", "!attributes.request.http.headers.x-request-id")
    again = InputPaths.parse(REPEATABLE.paths)
    assert again.paths == REPEATABLE.paths
    for reads in (REPEATABLE, again):
        assert not reads.include("time")
        assert not reads.include("attributes", "request", "http", "headers", "x-request-id")
        assert reads.include("attributes", "request", "http", "headers")
        assert not reads.include_whole("attributes", "request", "http", "headers")
        assert reads.include_whole("attributes", "request", "http", "headers", "x-tenant")
        assert reads.include_whole("features")
    assert InputPaths([("!x", "!y")]).paths == ('["!x"]["!y"]',)


def test_what_is_within_both_is_the_longer_of_each_two() -> None:
    mine = InputPaths([("features",), ("attributes", "request", "http", "headers", "x-a"), ("unit",)])
    others = InputPaths([("features", "risk"), ("attributes", "request", "http"), ("time",)])
    both = ("attributes.request.http.headers.x-a", "features.risk")
    assert mine.within(others).paths == others.within(mine).paths == both
