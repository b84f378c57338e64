"""Who is asking: the unit of a request, or why it has none."""

from __future__ import annotations

import pytest

from extproc.datapath.attributes import AttributeReader
from extproc.datapath.model import Unit
from extproc.datapath.unit import entity_of, unit_of
from extproc.names import Reason
from extproc.snapshot.model import JoinKey, UnitSource
from tests.support.ids import make_ids

HEADER = UnitSource(header="x-user-id")
COOKIE = UnitSource(cookie="user")
NONCE = make_ids().nonce()


def unit(source: UnitSource, *pairs: tuple[str, bytes]) -> Unit:
    return unit_of(source, AttributeReader().request(pairs), NONCE)


@pytest.mark.parametrize("value", [b"alice", b" a b ", b"\xff\xfe", b"a\tb", b"a:b"])
def test_the_unit_is_the_header_as_received(value: bytes) -> None:
    assert unit(HEADER, ("X-User-Id", value)) == Unit(value)


def test_the_unit_is_the_cookie_of_that_name_among_others() -> None:
    assert unit(COOKIE, ("cookie", b"users=x; user=alice=1; other"), ("cookie", b"b=c")) == Unit(b"alice=1")


@pytest.mark.parametrize(
    ("source", "pairs"),
    [
        (HEADER, []),
        (HEADER, [("x-user-id", b"")]),
        (COOKIE, [("x-user-id", b"alice")]),
        (COOKIE, [("cookie", b"user=; users=x")]),
    ],
)
def test_an_empty_unit_is_a_missing_one(source: UnitSource, pairs: list[tuple[str, bytes]]) -> None:
    assert unit(source, *pairs) == Unit(None, Reason.UNIT_MISSING)


@pytest.mark.parametrize("per_request", [False, True])
@pytest.mark.parametrize(
    ("header", "cookie", "pairs"),
    [
        ("x-user-id", None, [("x-user-id", b"a"), ("X-User-Id", b"b")]),
        ("x-user-id", None, [("x-user-id", b"a"), ("x-user-id", b"a")]),
        (None, "user", [("cookie", b"user=a; user=b")]),
        (None, "user", [("cookie", b"user=a"), ("cookie", b"user=b")]),
    ],
)
def test_two_units_are_none_and_are_not_drawn_by_the_request(
    header: str | None, cookie: str | None, pairs: list[tuple[str, bytes]], per_request: bool
) -> None:
    source = UnitSource(header, cookie, per_request)
    assert unit(source, *pairs, ("x-request-id", b"r-1")) == Unit(None, Reason.UNIT_AMBIGUOUS)


def test_a_request_without_a_unit_is_drawn_by_its_own_id_if_the_rollout_says_so() -> None:
    source = UnitSource(header="x-user-id", per_request=True)
    assert unit(source, ("x-request-id", b"r-1")) == Unit(b"r-1", Reason.UNIT_MISSING, per_request=True)
    assert unit(source) == Unit(NONCE.random(), Reason.UNIT_MISSING, per_request=True)


PAIR = (JoinKey(HEADER, is_integer=True), JoinKey(COOKIE))


@pytest.mark.parametrize(
    ("user", "cookie", "entity"),
    [
        (b"7", b"user=a b", (7, "a b")),
        (b"-9223372036854775808", b"user=7", (-(1 << 63), "7")),
        (b"007", b"user=a", (7, "a")),
        (b"9223372036854775808", b"user=a", Reason.FEATURE_TYPE),
        ("\u0667".encode(), b"user=a", Reason.FEATURE_TYPE),
        (b" 7", b"user=a", Reason.FEATURE_TYPE),
        (b"1_000", b"user=a", Reason.FEATURE_TYPE),
        (b"7.0", b"user=a", Reason.FEATURE_TYPE),
        (b"7", b"user=\xff", Reason.FEATURE_TYPE),
        (b"7", b"user=", Reason.FEATURE_ENTITY_MISSING),
        (b"7", b"user=a; user=b", Reason.FEATURE_ENTITY_MISSING),
        (b"", b"user=a", Reason.FEATURE_ENTITY_MISSING),
    ],
)
def test_an_entity_has_a_value_of_its_type_for_each_join_key_or_says_why_not(
    user: bytes, cookie: bytes, entity: tuple[str | int, ...] | Reason
) -> None:
    request = AttributeReader().request([("x-user-id", user), ("cookie", cookie)])
    assert entity_of(PAIR, request) == entity
