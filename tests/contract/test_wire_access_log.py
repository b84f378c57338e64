"""Our subset of Envoy's access log against envoy-data-plane, a codec that shares no code with protobuf's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.data.accesslog.v3 as data
import envoy_data_plane.envoy.service.accesslog.v3 as als
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from extproc._gen.envoy.data.accesslog.v3 import accesslog_pb2
from extproc._gen.envoy.service.accesslog.v3 import als_pb2
from extproc.protect.access_log import METHOD, SERVICE, LogEntry, decode
from extproc.protect.outcome import CLIENT_LEFT, UPSTREAM_FAULTS, RequestEnd

NAMES = {
    "HTTPAccessLogEntry": "HttpAccessLogEntry",
    "HTTPRequestProperties": "HttpRequestProperties",
    "HTTPResponseProperties": "HttpResponseProperties",
    "HTTPAccessLogEntries": "StreamAccessLogsMessageHttpAccessLogEntries",
}
"""What envoy-data-plane calls messages that it does not call by Envoy's name."""

FLAGS = [field.name for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields]


def messages() -> Iterator[tuple[Descriptor, type]]:
    """Every message that we define, with envoy-data-plane's of the same name."""
    for module, theirs in ((accesslog_pb2, data), (als_pb2, als)):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            for message in (descriptor, *(t for t in descriptor.nested_types if not t.GetOptions().map_entry)):
                yield message, getattr(theirs, NAMES.get(message.name, message.name))


def test_every_field_has_the_number_and_the_type_that_envoy_gives_it() -> None:
    kinds = {
        FieldDescriptor.TYPE_MESSAGE: "message",
        FieldDescriptor.TYPE_STRING: "string",
        FieldDescriptor.TYPE_BOOL: "bool",
        FieldDescriptor.TYPE_UINT32: "uint32",
        FieldDescriptor.TYPE_ENUM: "enum",
    }
    checked = 0
    for descriptor, theirs in messages():
        fields = {field.name: field.metadata["betterproto"] for field in dataclasses.fields(theirs)}
        for field in descriptor.fields:
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            assert fields[field.name].number == field.number, field.full_name
            assert fields[field.name].proto_type == ("map" if is_map else kinds[field.type]), field.full_name
            checked += 1
    assert checked >= 29


def test_every_kind_of_entry_has_envoys_number() -> None:
    kinds = accesslog_pb2.AccessLogType.items()
    assert {data.AccessLogType[name].value for name, _ in kinds} == {number for _, number in kinds}


def test_the_service_has_envoys_name_and_streams_one_way() -> None:
    method = als_pb2.DESCRIPTOR.services_by_name["AccessLogService"].methods_by_name[METHOD]
    assert method.full_name == f"{SERVICE}.{METHOD}" == "envoy.service.accesslog.v3.AccessLogService.StreamAccessLogs"
    assert method.client_streaming
    assert not method.server_streaming


def test_every_flag_that_means_something_is_one_of_envoys() -> None:
    assert set(FLAGS) == UPSTREAM_FAULTS | CLIENT_LEFT


texts = st.text(max_size=30)
answers = st.builds(
    RequestEnd,
    st.integers(0, 599),
    st.lists(st.sampled_from(FLAGS), unique=True, max_size=4),
    texts,
    texts,
    st.integers(0, 5),
    st.integers(0, 10**9).map(lambda micros: micros / 1000),
)
entries = st.builds(LogEntry, texts, texts, texts, answers)
END = data.AccessLogType.DownstreamEnd


def as_envoy_sends(
    entry: LogEntry, kind: data.AccessLogType = END, *, intermediate: bool = False
) -> data.HttpAccessLogEntry:
    """An entry with everything else that Envoy puts into it."""
    headers = {"x-decision-id": entry.decision_id, "x-model-rollout": entry.rollout, "x-model-version": entry.version}
    answer = entry.answer
    return data.HttpAccessLogEntry(
        common_properties=data.AccessLogCommon(
            downstream_remote_address=core.Address(socket_address=core.SocketAddress(address="10.0.0.1")),
            upstream_cluster=answer.cluster,
            route_name=answer.route,
            response_flags=data.ResponseFlags(**dict.fromkeys(answer.flags, True), delay_injected=True),
            duration=timedelta(milliseconds=answer.milliseconds),
            upstream_request_attempt_count=answer.attempts,
            stream_id="abc",
            intermediate_log_entry=intermediate,
            access_log_type=kind,
        ),
        protocol_version=data.HttpAccessLogEntryHttpVersion.HTTP11,
        request=data.HttpRequestProperties(path="/v1", authority="models", request_headers={**headers, "x-a": "b"}),
        response=data.HttpResponseProperties(
            response_code=answer.status or None, response_code_details="via_upstream", response_body_bytes=12
        ),
    )


@given(st.lists(entries, max_size=5))
def test_what_envoy_logs_is_read_as_it_is(batch: list[LogEntry]) -> None:
    message = als.StreamAccessLogsMessage(
        identifier=als.StreamAccessLogsMessageIdentifier(node=core.Node(id="ingress"), log_name="dropout"),
        http_logs=als.StreamAccessLogsMessageHttpAccessLogEntries(log_entry=[as_envoy_sends(one) for one in batch]),
    )
    read = decode(bytes(message))
    assert len(read) == len(batch)
    for found, sent in zip(read, batch, strict=True):
        assert found[:3] == sent[:3]
        assert found.answer[:5] == (sent.answer.status, sorted(sent.answer.flags, key=FLAGS.index), *sent.answer[2:5])
        assert found.answer.grpc is None
        assert found.answer.milliseconds == pytest.approx(sent.answer.milliseconds, abs=1e-6)


@pytest.mark.filterwarnings("ignore:AccessLogCommon.intermediate_log_entry")
@pytest.mark.parametrize("intermediate", [False, True])
@pytest.mark.parametrize("kind", [*data.AccessLogType, data.AccessLogType(99)])
def test_only_what_is_written_at_the_end_of_a_request_is_its_end(
    kind: data.AccessLogType, *, intermediate: bool
) -> None:
    entry = as_envoy_sends(
        LogEntry("a", "b", "c", RequestEnd(200, [], "", "", 1, 1.0)), kind, intermediate=intermediate
    )
    logs = als.StreamAccessLogsMessageHttpAccessLogEntries(log_entry=[entry])
    (read,) = decode(bytes(als.StreamAccessLogsMessage(http_logs=logs)))
    assert read.ended is (kind in (END, data.AccessLogType.NotSet) and not intermediate)


def test_entries_of_tcp_and_empty_messages_hold_nothing() -> None:
    tcp = als.StreamAccessLogsMessageTcpAccessLogEntries(log_entry=[data.TcpAccessLogEntry()])
    assert decode(bytes(als.StreamAccessLogsMessage(tcp_logs=tcp))) == []
    assert decode(b"") == []
    assert decode(bytes(als.StreamAccessLogsMessage())) == []


def test_an_entry_that_says_nothing_is_one() -> None:
    entry = als.StreamAccessLogsMessageHttpAccessLogEntries(log_entry=[data.HttpAccessLogEntry()])
    (read,) = decode(bytes(als.StreamAccessLogsMessage(http_logs=entry)))
    assert read == LogEntry("", "", "", RequestEnd(0, [], "", "", 0, 0.0))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_malformed_or_entries(raw: bytes) -> None:
    try:
        found = decode(raw)
    except DecodeError:
        return
    assert all(isinstance(entry, LogEntry) for entry in found)
