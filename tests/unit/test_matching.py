"""Matching: the Gateway API's precedence, by exact tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.matching import MatchKey, MatchTable


def prefix(value: str, host: str = "", **headers: str) -> MatchKey:
    return MatchKey(host, False, value.rstrip("/"), tuple(sorted((k, v.encode()) for k, v in headers.items())))


def exact(value: str, host: str = "", **headers: str) -> MatchKey:
    return MatchKey(host, True, value, tuple(sorted((k, v.encode()) for k, v in headers.items())))


def table(**entries: MatchKey | list[MatchKey]) -> MatchTable:
    return MatchTable().changed(
        (key, (), entry if isinstance(entry, list) else [entry]) for key, entry in entries.items()
    )


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        ("/v1/models/fraud", True),
        ("/v1/models/fraud?debug=1", True),
        ("/v1/models/fraud/predict", True),
        ("/v1/models/fraud:predict", True),
        ("/v1/models/fraud:predict?x=/y", True),
        ("/v1/models/fraud-2", False),
        ("/v1/models/Fraud", False),
        ("/v1/models", False),
        ("/v1/models/frau%64", False),
        ("/v1/models/fraud#x/y", True),
        ("/v1/models#/fraud", False),
        ("", False),
        ("*", False),
    ],
)
def test_a_prefix_ends_at_a_segment_or_a_colon(path: str, matches: bool) -> None:
    assert bool(table(a=prefix("/v1/models/fraud")).find("", path, {})) is matches


@pytest.mark.parametrize("path", ["/", "/anything", "/a/b?c", "//"])
def test_the_prefix_slash_matches_every_path(path: str) -> None:
    assert table(a=prefix("/")).find("", path, {}) == ("a",)


@pytest.mark.parametrize("path", ["", "*", "a", "?/", "#/"])
def test_what_does_not_begin_with_a_slash_is_no_path(path: str) -> None:
    assert table(a=prefix("/")).find("", path, {}) == ()


@pytest.mark.parametrize("host", ["x:b.example.com", "b.example.com:80:90", "[::1.example.com]"])
def test_what_has_a_colon_left_is_no_named_host(host: str) -> None:
    found = table(named=prefix("/", "*.example.com"), any=prefix("/v1"))
    assert found.find(host, "/v1", {}) == ("any",)
    assert found.find(host, "/", {}) == ()


def test_an_exact_path_comes_before_a_prefix_and_a_longer_prefix_before_a_shorter() -> None:
    found = table(short=prefix("/v1"), long=prefix("/v1/models"), whole=exact("/v1/models/x"))
    assert found.find("", "/v1/models/x?q", {}) == ("whole",)
    assert found.find("", "/v1/models/x/y", {}) == ("long",)
    assert found.find("", "/v1/other", {}) == ("short",)
    assert found.find("", "/v2", {}) == ()


def test_an_exact_host_comes_before_a_wildcard_before_none() -> None:
    found = table(
        any=exact("/p"),
        wide=prefix("/", "*.example.com"),
        near=prefix("/", "*.api.example.com"),
        here=prefix("/", "eu.api.example.com"),
    )
    assert found.find("eu.api.example.com", "/p", {}) == ("here",)
    assert found.find("us.api.example.com", "/p", {}) == ("near",)
    assert found.find("www.example.com", "/p", {}) == ("wide",)
    assert found.find("example.com", "/p", {}) == ("any",)
    assert found.find("example.com", "/q", {}) == ()


def test_more_headers_come_before_fewer_and_the_smaller_name_breaks_a_tie() -> None:
    found = table(
        plain=prefix("/v1"),
        one=prefix("/v1", a="1"),
        tie=prefix("/v1", b="1"),
        both=prefix("/v1", a="1", b="1"),
    )
    assert found.find("", "/v1", {}) == ("plain",)
    assert found.find("", "/v1", {"a": b"1", "b": b"2"}) == ("one",)
    assert found.find("", "/v1", {"a": b"2", "b": b"1"}) == ("tie",)
    assert found.find("", "/v1", {"a": b"1", "b": b"1"}) == ("both",)
    without_both = found.changed([("both", [prefix("/v1", a="1", b="1")], [])])
    assert without_both.find("", "/v1", {"a": b"1", "b": b"1"}) == ("one",)


@pytest.mark.parametrize("bystanders", [0, 100])
def test_a_header_that_came_more_than_once_has_each_of_its_values(bystanders: int) -> None:
    others = {f"z{number}": prefix("/v1", a=str(number + 9), b="-") for number in range(bystanders)}
    found = table(plain=prefix("/v1"), one=prefix("/v1", a="1"), both=prefix("/v1", a="1", b="2"), **others)

    def with_values(**sent: tuple[bytes, ...]) -> tuple[str, ...]:
        return found.find("", "/v1", {name: b",".join(values) for name, values in sent.items()}, sent)

    assert with_values(a=(b"1", b"1")) == ("one",)
    assert with_values(a=(b"2", b"1")) == ("one",)
    assert with_values(a=(b"", b"1"), b=(b"1", b"2", b"3")) == ("both",)
    assert with_values(a=(b"2", b"3")) == ("plain",)
    assert found.find("", "/v1", {"a": b"1,1"}) == ("plain",)


def test_a_missing_header_is_not_an_empty_one() -> None:
    found = table(a=prefix("/", h=""))
    assert found.find("", "/", {"h": b""}) == ("a",)
    assert found.find("", "/", {}) == ()


def test_a_longer_prefix_whose_headers_do_not_match_gives_way_to_a_shorter() -> None:
    found = table(long=prefix("/v1/models", a="1"), short=prefix("/v1"))
    assert found.find("", "/v1/models/x", {}) == ("short",)


def test_rollouts_of_one_layer_share_an_entry_in_the_order_of_their_names() -> None:
    assert table(b=prefix("/v1"), a=prefix("/v1")).find("", "/v1", {}) == ("a", "b")


def test_a_changed_table_leaves_the_one_before_as_it_was() -> None:
    before = table(a=prefix("/v1"), b=prefix("/v2"))
    after = before.changed([("a", [prefix("/v1")], [prefix("/v3")])])
    assert [before.find("", path, {}) for path in ("/v1", "/v3")] == [("a",), ()]
    assert [after.find("", path, {}) for path in ("/v1", "/v3", "/v2")] == [(), ("a",), ("b",)]


segments = st.lists(st.sampled_from(["a", "b", "a:b", ""]), max_size=4)
paths = segments.map(lambda parts: "/" + "/".join(parts))
entries = st.builds(
    lambda host, is_exact, path, headers: exact(path, host, **headers) if is_exact else prefix(path, host, **headers),
    st.sampled_from(["", "x.y", "*.y"]),
    st.booleans(),
    paths,
    st.dictionaries(st.sampled_from(["h", "i"]), st.sampled_from(["1", "2"]), max_size=2),
)


def _rank(entry: MatchKey, host: str, path: str, headers: dict[str, list[bytes]]) -> tuple[Any, ...] | None:
    """The precedence by definition, looked at one entry after another."""
    wildcard = entry.host.startswith("*")
    if entry.host and not (host.endswith(entry.host[1:]) if wildcard else host == entry.host):
        return None
    if any(value not in headers.get(name, ()) for name, value in entry.headers):
        return None
    if entry.exact:
        if path != entry.path:
            return None
    elif path != entry.path and not path.startswith((entry.path + "/", entry.path + ":")):
        return None
    return (bool(entry.host) and not wildcard, len(entry.host), entry.exact, len(entry.path), len(entry.headers))


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), entries), max_size=8, unique_by=lambda pair: pair[0]),
    st.sampled_from(["x.y", "z.y", "q", ""]),
    paths,
    st.dictionaries(st.sampled_from(["h", "i"]), st.lists(st.sampled_from([b"1", b"2", b"3"]), min_size=1, max_size=3)),
)
def test_the_table_agrees_with_looking_at_every_entry(
    owned: list[tuple[str, MatchKey]], host: str, path: str, headers: dict[str, list[bytes]]
) -> None:
    made = MatchTable().changed((key, (), [entry]) for key, entry in owned)
    joined = {name: b",".join(values) for name, values in headers.items()}
    repeated = {name: tuple(values) for name, values in headers.items() if len(values) > 1}
    found = made.find(host, path, joined, repeated)
    ranked = [(rank, key, entry) for key, entry in owned if (rank := _rank(entry, host, path, headers)) is not None]
    if not ranked:
        assert found == ()
        return
    best = max(rank for rank, _, _ in ranked)
    winners = sorted((key, entry) for rank, key, entry in ranked if rank == best)
    assert found == tuple(key for key, entry in winners if entry == winners[0][1])
