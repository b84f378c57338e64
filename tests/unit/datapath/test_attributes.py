"""What a transport received, read into a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.datapath.attributes import AttributeLimits, AttributeReader
from extproc.datapath.model import Request


def read(*pairs: tuple[str, bytes], **limits: int) -> Request:
    """The request that ``pairs`` describe."""
    return AttributeReader(AttributeLimits(**limits)).request(pairs)


def test_pseudo_headers_become_method_path_host_and_scheme_and_stay_headers() -> None:
    pairs = ((":method", b"POST"), (":path", b"/v1/m?x=1"), (":authority", b"models.example"), (":scheme", b"https"))
    request = read(*pairs, ("x-user-id", b"u1"))
    assert (request.method, request.path, request.host, request.scheme) == (
        "POST",
        "/v1/m?x=1",
        "models.example",
        "https",
    )
    assert request.headers == {**dict(pairs), "x-user-id": b"u1"}
    assert not request.repeated
    assert not request.too_large


def test_what_is_missing_is_the_empty_string() -> None:
    request = read()
    assert (request.method, request.path, request.host, request.scheme) == ("", "", "", "")
    assert request.headers == {}
    assert request.attributes == {}


def test_names_are_lowered() -> None:
    assert read(("X-User-ID", b"U1"), ("x-other", b"1")).headers == {"x-user-id": b"U1", "x-other": b"1"}


def test_a_name_that_came_twice_is_joined_and_keeps_its_values() -> None:
    request = read(("x-user-id", b"a"), ("x-once", b"1"), ("X-User-Id", b"b"))
    assert request.headers == {"x-user-id": b"a,b", "x-once": b"1"}
    assert request.repeated == {"x-user-id": (b"a", b"b")}


def test_cookie_crumbs_are_joined_as_one_cookie() -> None:
    request = read(("cookie", b"a=1"), ("cookie", b"b=2"))
    assert request.headers["cookie"] == b"a=1; b=2"
    assert request.repeated == {"cookie": (b"a=1", b"b=2")}


def test_bytes_that_are_not_utf_8_stay_as_they_came() -> None:
    request = read(("x-user-id", b"\xff\xfe"), (":path", b"/caf\xe9"))
    assert request.headers["x-user-id"] == b"\xff\xfe"
    assert request.headers[":path"] == b"/caf\xe9"
    assert request.path == "/caf\ufffd"


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (b"Models.Example.COM", "models.example.com"),
        (b"models.example.com:8443", "models.example.com"),
        (b"models.example.com:", "models.example.com"),
        (b"10.0.0.1:80", "10.0.0.1"),
        (b"[2001:DB8::1]:80", "[2001:db8::1]"),
        (b"[2001:db8::1]", "[2001:db8::1]"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"a:b", "a"),
        (b"models.example.com:8443x", "models.example.com"),
        (b"models.example.com:80:90", "models.example.com:80:90"),
        (b"[2001:db8::1", "[2001:db8::1"),
        (b"[2001:db8::1].example.com", "[2001:db8::1]"),
        (b"\xe2\x84\xaa.example.com", "\u212a.example.com"),
        (b"", ""),
    ],
)
def test_the_host_is_lower_case_without_its_port(authority: bytes, host: str) -> None:
    assert read((":authority", authority)).host == host


def test_the_host_header_stands_in_for_a_missing_authority() -> None:
    assert read(("host", b"a.example:80")).host == "a.example"
    assert read((":authority", b"b.example"), ("host", b"a.example")).host == "b.example"


def test_too_many_headers_are_too_large_and_are_kept() -> None:
    pairs = [(f"x-{number}", b"1") for number in range(1000)]
    request = read(*pairs)
    assert request.too_large
    assert len(request.headers) == 1000
    assert not read(*pairs[:93]).too_large
    assert read(*pairs[:94]).too_large


def test_repetitions_count_each_time() -> None:
    assert read(*[("x-same", b"")] * 94).too_large
    assert read(*[("x" * 700, b"")] * 90).full


def test_what_leaves_no_room_for_our_headers_is_full() -> None:
    assert not read(*[(f"x-{number}", b"1") for number in range(93)]).full
    assert read(*[(f"x-{number}", b"1") for number in range(94)]).full
    assert not read(("x-user-id", b"u" * 60_000)).full
    assert read(("x-user-id", b"u" * 60_410)).full


def test_a_header_of_60_kb_is_too_large_and_is_kept() -> None:
    request = read(("x-user-id", b"u" * 60_000))
    assert request.too_large
    assert len(request.headers["x-user-id"]) == 60_000


def test_the_limit_counts_names_and_values() -> None:
    assert not read(("abcd", b"123456"), total_bytes=10).too_large
    assert read(("abcd", b"1234567"), total_bytes=10).too_large


def test_attributes_are_handed_on() -> None:
    request = AttributeReader().request([], {"source.address": "10.0.0.1:5"})
    assert request.attributes == {"source.address": "10.0.0.1:5"}


@given(st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=40)), max_size=300))
def test_any_headers_make_a_request_with_every_name_once(pairs: list[tuple[str, bytes]]) -> None:
    request = AttributeReader().request(pairs)
    assert set(request.headers) == {name.lower() for name, _ in pairs}
    assert set(request.repeated) <= set(request.headers)
    for text in (request.method, request.path, request.host, request.scheme):
        text.encode()
    if len(pairs) > 93:
        assert request.too_large
        assert request.full
