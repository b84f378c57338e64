"""Entries of the access log as Envoy writes them, and what is read off them."""

from __future__ import annotations

import pytest

from extproc._gen.envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from extproc.protect.access_log import decode
from extproc.protect.outcome import NO_GRPC_STATUS


def grpc_status(kind: str, *, trailer: str = "", header: str = "") -> int | None:
    message = StreamAccessLogsMessage()
    response = message.http_logs.log_entry.add().response
    response.response_code.value = 200
    for fields, name, value in (
        (response.response_headers, "content-type", kind),
        (response.response_headers, "grpc-status", header),
        (response.response_trailers, "grpc-status", trailer),
    ):
        if value:
            fields[name] = value
    (entry,) = decode(message.SerializeToString())
    return entry.answer.grpc


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto"])
def test_the_status_of_a_grpc_call_is_in_trailers_or_among_the_headers(kind: str) -> None:
    assert grpc_status(kind, trailer="13") == grpc_status(kind, header="13") == 13
    assert grpc_status(kind, trailer="0") == 0
    assert grpc_status(kind) == NO_GRPC_STATUS


def test_what_is_no_status_of_grpc_is_unknown() -> None:
    assert {grpc_status("application/grpc", trailer=odd) for odd in ("17", "-1", "x", "9" * 5000, "²", "1.0")} == {2}


@pytest.mark.parametrize("kind", ["", "application/json", "application/grpc-web", "application/grpc-web+proto"])
def test_an_answer_that_is_no_grpc_has_no_status_of_it(kind: str) -> None:
    assert grpc_status(kind, trailer="13", header="13") is None
