"""Our subset of Envoy's messages against envoy-data-plane, a codec that shares no code with protobuf's own."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.service.ext_proc.v3 as ext_proc
import envoy_data_plane.envoy.type.v3 as envoy_type
import orjson
import pytest
from envoy_data_plane.google.protobuf import ListValue, NullValue, Struct, Value
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from extproc._gen.envoy.config.core.v3 import base_pb2
from extproc._gen.envoy.service.ext_proc.v3 import external_processor_pb2 as ours
from extproc._gen.envoy.type.v3 import http_status_pb2
from extproc.datapath.attributes import AttributeReader
from extproc.datapath.model import Denial, Mutation, Request
from extproc.datapath.transports.grpc_codec import MalformedMessage, decode, encode
from tests.support.paths import ROOT

READER = AttributeReader()
PHASES = ("response_headers", "request_body", "response_body", "request_trailers", "response_trailers")

names = st.text(st.characters(codec="utf-8", exclude_categories=("Lu", "Lt")), min_size=1, max_size=20).filter(
    lambda name: name == name.lower()
)
values = st.binary(max_size=300)
numbers = st.integers(-(2**31), 2**31) | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda number: not number.is_integer()
)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def to_value(data: Any) -> Value:
    """``data`` as envoy-data-plane's google.protobuf.Value."""
    match data:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=data)
        case int() | float():
            return Value(number_value=float(data))
        case str():
            return Value(string_value=data)
        case list():
            return Value(list_value=ListValue(values=[to_value(item) for item in data]))
        case _:
            return Value(struct_value=to_struct(data))


def to_struct(data: dict[str, Any]) -> Struct:
    """``data`` as envoy-data-plane's google.protobuf.Struct."""
    return Struct(fields={name: to_value(value) for name, value in data.items()})


def header_map(pairs: list[tuple[str, bytes]]) -> core.HeaderMap:
    """``pairs`` as Envoy sends them."""
    return core.HeaderMap(headers=[core.HeaderValue(key=name, raw_value=value) for name, value in pairs])


def request_headers(pairs: list[tuple[str, bytes]], **fields: Any) -> bytes:
    """The message with which Envoy opens a stream."""
    headers = ext_proc.HttpHeaders(headers=header_map(pairs), end_of_stream=True)
    return bytes(ext_proc.ProcessingRequest(request_headers=headers, **fields))


def messages() -> Iterator[tuple[Descriptor, type]]:
    """Every message that we define, with envoy-data-plane's of the same name."""
    for module, theirs in ((ours, ext_proc), (base_pb2, core), (http_status_pb2, envoy_type)):
        for name, descriptor in module.DESCRIPTOR.message_types_by_name.items():
            yield descriptor, getattr(theirs, name)


def test_every_field_has_the_number_and_the_type_that_envoy_gives_it() -> None:
    kinds = {
        FieldDescriptor.TYPE_MESSAGE: "message",
        FieldDescriptor.TYPE_STRING: "string",
        FieldDescriptor.TYPE_BYTES: "bytes",
        FieldDescriptor.TYPE_BOOL: "bool",
        FieldDescriptor.TYPE_ENUM: "enum",
    }
    checked = 0
    for descriptor, theirs in messages():
        fields = {field.name: field.metadata["betterproto"] for field in dataclasses.fields(theirs)}
        for field in descriptor.fields:
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            assert fields[field.name].number == field.number, field.full_name
            assert fields[field.name].proto_type == ("map" if is_map else kinds[field.type]), field.full_name
            assert fields[field.name].group == (field.containing_oneof.name if field.containing_oneof else None)
            checked += 1
    assert checked > 35


def test_enum_values_that_are_named_have_envoys_numbers() -> None:
    for name, number in ours.CommonResponse.ResponseStatus.items():
        assert ext_proc.CommonResponseResponseStatus[name] == number


def test_the_service_has_envoys_name_and_streams_both_ways() -> None:
    method = ours.DESCRIPTOR.services_by_name["ExternalProcessor"].methods_by_name["Process"]
    assert method.full_name == "envoy.service.ext_proc.v3.ExternalProcessor.Process"
    assert method.client_streaming
    assert method.server_streaming


def test_request_drain_cannot_be_set() -> None:
    assert 12 not in ours.ProcessingResponse.DESCRIPTOR.fields_by_number
    assert 11 not in ours.ProcessingResponse.DESCRIPTOR.fields_by_number


def test_generated_code_is_what_the_proto_files_say() -> None:
    check = [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"]
    answer = subprocess.run(check, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_generated_code_imports_no_package_called_envoy() -> None:
    for path in (ROOT / "extproc" / "_gen").rglob("*.py*"):
        if path.suffix in (".py", ".pyi"):
            text = path.read_text()
            assert "\nimport envoy" not in text, path
            assert "\nfrom envoy" not in text, path
    importlib.import_module("extproc._gen.envoy.service.ext_proc.v3.external_processor_pb2")


@given(
    pairs=st.lists(st.tuples(names, values), max_size=30, unique_by=lambda pair: pair[0]),
    attributes=st.none() | st.dictionaries(st.text(max_size=20), plain, max_size=4),
)
def test_request_headers_from_envoy_become_the_same_request(
    pairs: list[tuple[str, bytes]], attributes: dict[str, Any] | None
) -> None:
    fields = {} if attributes is None else {"attributes": {"envoy.filters.http.ext_proc": to_struct(attributes)}}
    metadata = core.Metadata(filter_metadata={"some.filter": to_struct({"x": 1})})
    protocol = ext_proc.ProtocolConfiguration(send_body_without_waiting_for_header_response=True)
    data = request_headers(pairs, metadata_context=metadata, protocol_config=protocol, **fields)
    request = decode(data, READER)
    assert isinstance(request, Request)
    assert request.headers == dict(pairs)
    assert request.attributes == (attributes or {})


def test_attributes_of_other_filters_are_not_ours() -> None:
    data = request_headers([], attributes={"some.other.filter": to_struct({"source.address": "10.0.0.1"})})
    request = decode(data, READER)
    assert isinstance(request, Request)
    assert request.attributes == {}


def test_attributes_that_json_lacks_become_none_and_whole_numbers_integers() -> None:
    found = {"nan": float("nan"), "inf": float("inf"), "port": 8080}
    data = request_headers([], attributes={"envoy.filters.http.ext_proc": to_struct(found)})
    request = decode(data, READER)
    assert isinstance(request, Request)
    assert request.attributes == {"nan": None, "inf": None, "port": 8080}
    assert isinstance(request.attributes["port"], int)


def test_an_attribute_beyond_all_integers_can_still_be_written_as_json() -> None:
    data = request_headers([], attributes={"envoy.filters.http.ext_proc": to_struct({"huge": 1e22, "big": 2.0**52})})
    request = decode(data, READER)
    assert isinstance(request, Request)
    assert orjson.loads(orjson.dumps(dict(request.attributes))) == {"huge": 1e22, "big": 2**52}


def test_a_header_in_value_instead_of_raw_value_is_read_too() -> None:
    header_values = [core.HeaderValue(key="x-user-id", value="ünit"), core.HeaderValue(key="x-empty")]
    headers = ext_proc.HttpHeaders(headers=core.HeaderMap(headers=header_values))
    request = decode(bytes(ext_proc.ProcessingRequest(request_headers=headers)), READER)
    assert isinstance(request, Request)
    assert request.headers == {"x-user-id": "ünit".encode(), "x-empty": b""}


def phase_message(phase: str) -> Any:
    """Something of the kind that ``phase`` carries."""
    if phase.endswith("body"):
        return ext_proc.HttpBody(body=b"x" * 500, end_of_stream=True)
    if phase.endswith("trailers"):
        return ext_proc.HttpTrailers(trailers=header_map([("x", b"1")]))
    return ext_proc.HttpHeaders(headers=header_map([(":status", b"200")]), end_of_stream=True)


@pytest.mark.parametrize("phase", PHASES)
def test_every_other_phase_gets_the_empty_reply_of_its_own_kind(phase: str) -> None:
    reply = decode(bytes(ext_proc.ProcessingRequest(**{phase: phase_message(phase)})), READER)
    assert isinstance(reply, bytes)
    parsed = ext_proc.ProcessingResponse.parse(reply)
    kind = {"h": ext_proc.HeadersResponse, "b": ext_proc.BodyResponse, "t": ext_proc.TrailersResponse}
    assert parsed == ext_proc.ProcessingResponse(**{phase: kind[phase.split("_")[1][0]]()})
    assert getattr(parsed, phase) is not None


@pytest.mark.parametrize("phase", ["request_headers", *PHASES])
def test_in_observability_mode_nothing_is_asked(phase: str) -> None:
    message = ext_proc.ProcessingRequest(**{phase: phase_message(phase)}, observability_mode=True)
    assert decode(bytes(message), READER) is None


@pytest.mark.parametrize(
    "data", [b"", b"\x50\x01", b"garbage", b"\x12\xff\xff\xff\xff\x0f", b"\x12\x05ab", b"\xa2\x06\x03abc"]
)
def test_bytes_without_a_phase_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data, READER)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_malformed_or_mean_something(data: bytes) -> None:
    try:
        meaning = decode(data, READER)
    except MalformedMessage:
        return
    assert meaning is None or isinstance(meaning, bytes | Request)


@given(st.data())
def test_a_damaged_message_is_malformed_or_means_something(data: st.DataObject) -> None:
    whole = request_headers([(":path", b"/a"), ("x-user-id", b"u" * 200), ("x-empty", b"")])
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :]
    try:
        meaning = decode(damaged, READER)
    except MalformedMessage:
        return
    assert meaning is None or isinstance(meaning, bytes | Request)


legal = st.binary(min_size=1, max_size=200).map(lambda raw: raw.replace(b"\x00", b"0"))
tokens = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)


@given(
    headers=st.lists(st.tuples(tokens, legal), max_size=8),
    removed=st.lists(tokens, max_size=8),
)
def test_envoy_reads_the_reply_as_the_mutation_says(headers: list[tuple[str, bytes]], removed: list[str]) -> None:
    for _ in range(2):  # the second time from the bytes that were kept
        reply = ext_proc.ProcessingResponse.parse(encode(Mutation(tuple(headers), tuple(removed))))
        common = ext_proc.CommonResponse(
            clear_route_cache=True,
            header_mutation=ext_proc.HeaderMutation(
                set_headers=[
                    core.HeaderValueOption(header=core.HeaderValue(key=name, raw_value=value))
                    for name, value in headers
                ],
                remove_headers=removed,
            ),
        )
        wanted = ext_proc.HeadersResponse(response=common) if headers or removed else ext_proc.HeadersResponse()
        assert reply == ext_proc.ProcessingResponse(request_headers=wanted)


@given(first=legal, second=legal)
def test_two_replies_on_one_route_differ_in_the_last_value_alone(first: bytes, second: bytes) -> None:
    for value in (first, second):
        reply = ext_proc.ProcessingResponse.parse(encode(Mutation((("a", b"1"), ("id", value)), ("b",))))
        assert reply.request_headers is not None
        assert reply.request_headers.response is not None
        mutation = reply.request_headers.response.header_mutation
        assert mutation is not None
        assert [option.header and option.header.raw_value for option in mutation.set_headers] == [b"1", value]


def test_an_empty_mutation_is_an_empty_reply_to_request_headers() -> None:
    reply = ext_proc.ProcessingResponse.parse(encode(Mutation()))
    assert reply == ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse())


@given(status=st.integers(400, 599), body=st.text(max_size=200))
def test_envoy_reads_a_denial_as_an_immediate_response(status: int, body: str) -> None:
    mutation = Mutation((("x-decision-id", b"d1"),), denial=Denial(status, "because", body))
    immediate = ext_proc.ProcessingResponse.parse(encode(mutation)).immediate_response
    assert immediate is not None
    assert immediate.status is not None
    assert immediate.headers is not None
    assert int(immediate.status.code) == status
    assert immediate.body == body.encode()
    assert immediate.details == "dropout_policy_deny"
    assert immediate.headers.set_headers == [
        core.HeaderValueOption(header=core.HeaderValue(key="x-decision-id", raw_value=b"d1"))
    ]
