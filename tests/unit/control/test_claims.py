"""Whose requests a match takes: held against what requests find, before and after."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.control import claims as module
from extproc.control.claims import Claims, entries_of, let_go
from extproc.matching import MatchKey, MatchTable
from extproc.store.records import StoredRollout
from extproc.store.status import Status

PATHS = ["", "/a", "/a/b", "/a:b", "/a/b/c", "/ab", "/b"]
HOSTS = ["", "x.org", "*.x.org", "y.x.org", "*.y.x.org", "z.y.x.org"]
HEADERS = st.dictionaries(st.sampled_from(["h", "i"]), st.sampled_from(["1", "2"]))


@st.composite
def matches(draw: st.DrawFn) -> dict[str, Any]:
    path = {"type": draw(st.sampled_from(["PathPrefix", "Exact"])), "value": draw(st.sampled_from(PATHS)) or "/"}
    headers = [{"name": name, "value": value} for name, value in draw(HEADERS).items()]
    return {"hosts": [host for host in [draw(st.sampled_from(HOSTS))] if host], "path": path, "headers": headers}


DOCUMENTS = st.lists(matches(), min_size=1, max_size=2).map(lambda match: {"spec": {"match": match}})


def row(name: str, document: dict[str, Any], status: Status | None = None, *, deleted: bool = False) -> StoredRollout:
    return StoredRollout("n", name, document, status or Status("3"), 1, deleted=deleted)


@settings(max_examples=400)
@given(
    st.lists(DOCUMENTS, min_size=1, max_size=4),
    DOCUMENTS,
    st.sampled_from([host for host in HOSTS if not host.startswith("*")]),
    st.sampled_from(PATHS).map(lambda path: path or "/"),
    HEADERS,
)
def test_whoever_loses_a_request_to_a_match_or_gets_it_back_is_named(
    others: list[dict[str, Any]], document: dict[str, Any], host: str, path: str, headers: dict[str, str]
) -> None:
    rows = [row(str(number), other) for number, other in enumerate(others)]
    entries = entries_of(document)
    without = MatchTable().changed((one.key, [], entries_of(one.document)) for one in rows)
    with_it = without.changed([("n/it", [], entries)])
    sent = {name: value.encode() for name, value in headers.items()}
    before, after = without.find(host, path, sent), with_it.find(host, path, sent)
    claims = Claims(rows, [], 0.0)
    if "n/it" in after:
        assert {*before} <= {one.key for one in claims.taken("n/it", entries)}
        assert {*before} <= {one.key for one in claims.given("n/it", entries)}
    gone = [
        row(one.name, {}, Status("3", applied=let_go(one.status, entries_of(one.document), (), 0.0)), deleted=True)
        for one in rows
    ]
    if "n/it" in after:
        assert {*before} <= {one.key for one in Claims([], gone, 1.0).taken("n/it", entries)}


def test_what_is_held_again_is_not_let_go_and_what_was_let_go_is_forgotten_after_a_month() -> None:
    one, other = MatchKey("", False, "/a", ()), MatchKey("x.org", True, "/b", (("h", b"1"),))
    status = Status("3", applied=let_go(Status("3"), [one, other], [other], 100.0))
    assert Claims([row("a", {}, status)], [], 200.0).taken("n/b", [one])
    assert not Claims([row("a", {}, status)], [], 200.0).taken("n/b", [other])
    assert not Claims([row("a", {}, status)], [], 101.0 + module.REMEMBERED_SECONDS).taken("n/b", [one])
    assert let_go(status, [other], [one, other], 200.0) == {}


def test_nobody_has_forgotten_what_they_let_go_by_letting_go_of_much() -> None:
    one = MatchKey("", False, "/a", ())
    status = Status("3", applied=let_go(Status("3"), [one], [], 100.0))
    flood = [MatchKey("", False, f"/flood/{number}", ()) for number in range(3 * module.MAX_MATCHES)]
    status = Status("3", applied=let_go(status, flood, [], 101.0))
    assert Claims([row("a", {}, status)], [], 200.0).taken("n/b", [one])
