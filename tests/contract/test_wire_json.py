"""The JSON codec against the protobuf codec: for any request the same question, for any mutation the same answer."""

from __future__ import annotations

import base64
from typing import Any

import envoy_data_plane.envoy.service.ext_proc.v3 as ext_proc
import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc._gen.envoy.service.ext_proc.v3 import external_processor_pb2 as ours
from extproc.datapath.attributes import AttributeReader
from extproc.datapath.model import Denial, Mutation, Request
from extproc.datapath.mutation import STRIPPED
from extproc.datapath.transports import grpc_codec, http_codec
from extproc.datapath.transports.exchange import OTHER_PHASES, MalformedMessage
from extproc.names import OWN_HEADERS
from tests.contract.test_wire_messages import plain, request_headers, to_struct

READER = AttributeReader()

names = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["cookie", "Cookie", "x-user-id", ":path"])
pairs = st.lists(st.tuples(names, st.binary(max_size=300)), max_size=20)
tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-!#$%&'*+.^_`|~", min_size=1, max_size=20)
legal = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40).map(str.encode)


def as_json(data: bytes) -> bytes:
    """The message as Envoy writes it over HTTP."""
    return json_format.MessageToJson(ours.ProcessingRequest.FromString(data), preserving_proto_field_name=True).encode()


def as_protobuf(reply: bytes) -> ours.ProcessingResponse:
    """The reply as Envoy reads it: by protobuf's own reader of JSON, to which unknown fields are errors."""
    return json_format.Parse(reply, ours.ProcessingResponse())


def asks(codec: Any, data: bytes) -> tuple[Any, ...]:
    """What a message asks for, comparable."""
    asked = codec.decode(data, READER)
    assert isinstance(asked, Request)
    return (
        *(asked.method, asked.path, asked.host, asked.scheme, list(asked.headers.items())),
        *(asked.repeated, asked.too_large, dict(asked.attributes), repr(sorted(asked.attributes.items()))),
    )


@given(headers=pairs, attributes=st.dictionaries(st.text(max_size=8), plain, max_size=4))
def test_both_codecs_read_the_same_request(headers: list[tuple[str, bytes]], attributes: dict[str, Any]) -> None:
    fields = {"attributes": {"envoy.filters.http.ext_proc": to_struct(attributes)}} if attributes else {}
    data = request_headers(headers, **fields)
    assert asks(http_codec, as_json(data)) == asks(grpc_codec, data)


@given(
    headers=st.lists(st.tuples(tokens, legal), max_size=6).map(tuple),
    removed=st.lists(st.sampled_from(OWN_HEADERS), unique=True).map(tuple),
    denial=st.none() | st.builds(Denial, st.integers(400, 599), body=st.none() | st.text(max_size=50)),
)
def test_both_codecs_write_the_same_mutation(
    headers: tuple[tuple[str, bytes], ...], removed: tuple[str, ...], denial: Denial | None
) -> None:
    mutation = Mutation(headers, removed, denial)
    by_grpc = ours.ProcessingResponse.FromString(grpc_codec.encode(mutation))
    for _ in range(2):  # the second time from what was kept of the first
        assert as_protobuf(http_codec.encode(mutation)) == by_grpc


@pytest.mark.parametrize("mutation", [STRIPPED, Mutation()])
def test_both_codecs_leave_a_request_alone_in_the_same_way(mutation: Mutation) -> None:
    by_grpc = ours.ProcessingResponse.FromString(grpc_codec.encode(mutation))
    assert as_protobuf(http_codec.encode(mutation)) == by_grpc


@pytest.mark.parametrize("phase", OTHER_PHASES)
def test_every_other_phase_gets_the_empty_reply_of_its_own_kind(phase: str) -> None:
    reply = http_codec.decode(orjson.dumps({phase: {}}), READER)
    assert isinstance(reply, bytes)
    assert as_protobuf(reply).WhichOneof("response") == phase


def test_in_observability_mode_nothing_is_asked() -> None:
    data = as_json(bytes(ext_proc.ProcessingRequest(request_headers=ext_proc.HttpHeaders(), observability_mode=True)))
    assert http_codec.decode(data, READER) is None


def with_entry(entry: Any) -> Any:
    return {"request_headers": {"headers": {"headers": [entry]}}}


MALFORMED: dict[str, Any] = {
    "no phase": {},
    "a list": [],
    "a number": 1,
    "null": None,
    "a phase that is a string": {"request_headers": "x"},
    "a phase that is true": {"request_headers": True},
    "headers that are a string": {"request_headers": {"headers": "x"}},
    "headers that are a list": {"request_headers": {"headers": ["x"]}},
    "entries that are a string": {"request_headers": {"headers": {"headers": "x"}}},
    "entries that are an object": {"request_headers": {"headers": {"headers": {"a": "b"}}}},
    "an entry that is a number": with_entry(1),
    "an entry that is null": with_entry(None),
    "a key that is a number": with_entry({"key": 1, "raw_value": "YQ=="}),
    "a key that is a list": with_entry({"key": ["a"], "raw_value": "YQ=="}),
    "a value that is a number": with_entry({"key": "a", "raw_value": 1}),
    "a value that is an object": with_entry({"key": "a", "raw_value": {"b": 1}}),
    "a value that is no base64": with_entry({"key": "a", "raw_value": "%%%%"}),
    "a value whose base64 is cut off": with_entry({"key": "a", "raw_value": "YWJ"}),
    "a value that is not ASCII": with_entry({"key": "a", "raw_value": "é==="}),
    "a plain value that is a number": with_entry({"key": "a", "value": 1}),
    "attributes that are a list": {"request_headers": {}, "attributes": [1]},
    "attributes of ours that are a string": {
        "request_headers": {},
        "attributes": {"envoy.filters.http.ext_proc": "x"},
    },
    "another phase that is a number": {"response_headers": 1},
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
def test_a_message_of_wrong_types_is_malformed(message: Any) -> None:
    with pytest.raises(MalformedMessage):
        http_codec.decode(orjson.dumps(message), READER)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"request_headers": {}',
        b"[" * 100_000,
        b'{"request_headers":' * 5000,
        b'{"request_headers":{},"attributes":{"envoy.filters.http.ext_proc":{"a":%s%s}}}' % (b"[" * 900, b"]" * 900),
        b'{"request_headers":{"headers":{"headers":[{"key":"\\ud800","raw_value":""}]}}}',
        b"NaN",
    ],
    ids=range(9),
)
def test_what_is_no_message_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        http_codec.decode(data, READER)


def test_headers_that_envoy_leaves_out_because_they_are_empty_are_there() -> None:
    entries = [{"key": "a"}, {"raw_value": base64.b64encode(b"b").decode()}, {"key": "c", "value": "d"}]
    asked = http_codec.decode(orjson.dumps({"request_headers": {"headers": {"headers": entries}}}), READER)
    assert isinstance(asked, Request)
    assert asked.headers == {"a": b"", "": b"b", "c": b"d"}


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["request_headers", "headers", "key", "raw_value", "attributes", "envoy.filters.http.ext_proc"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(message=json)
def test_any_json_is_malformed_or_means_something(message: Any) -> None:
    try:
        http_codec.decode(orjson.dumps(message), READER)
    except MalformedMessage:
        return
