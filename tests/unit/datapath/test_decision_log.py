"""The decision log: what an event holds, what it never holds, and what becomes of it when the disk will not have it."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.datapath import decision_log
from extproc.datapath.decision_log import DecisionLog, check_log_path, open_log
from extproc.datapath.model import Buckets, Facts, Features, FeatureValue, PolicyVerdict, Request, Unit
from extproc.datapath.pseudonym import pseudonym
from extproc.datapath.record import RECORD_FIELDS, record_of, unit_text
from extproc.errors import Unreachable
from extproc.names import Reason
from extproc.snapshot.model import Overlay, UnitSource
from tests.support.clock import FakeClock
from tests.support.decisions import KEY, make_decided, make_decision, make_facts, make_request, make_rollout

LABELS = {"app": "dropout", "worker": "0"}
READS = ("attributes.request.http.headers.x-region", "features.risk_score")


def open_decision_log(path: Path, **changes: Any) -> DecisionLog:
    options = {"reads": lambda path: READS, "flush_seconds": 0.0, "retry_seconds": 0.0, **changes}
    return DecisionLog(path, LABELS, KEY, FakeClock(1_800_000_000.25), **options)


def logged(path: Path, **changes: Any) -> dict[str, Any]:
    """The event of one decision, as it stands in the file."""
    log = open_decision_log(path)
    log.record(make_decided(**changes))
    log.close()
    assert (log.drops, log.errors) == (0, 0)
    event: dict[str, Any] = json.loads(path.read_bytes())
    return event


def with_input(**document: Any) -> Any:
    return make_facts(policy_input=document)


def http(**fields: Any) -> dict[str, Any]:
    return {"request": {"http": fields}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def test_an_event_has_the_shape_of_an_opa_decision_log_event(path: Path) -> None:
    event = logged(path, request=make_request(attributes={"source.address": "10.0.0.1:4242"}))

    assert event["decision_id"] == "d-1"
    assert event["timestamp"] == "2027-01-15T08:00:00.250000000Z"
    assert event["labels"] == LABELS
    assert event["path"] == "routing/decision"
    assert event["bundles"] == {"policies": {"revision": "abc123"}}
    assert event["requested_by"] == "10.0.0.1:4242"
    assert event["metrics"] == {"timer_rego_query_eval_ns": 21_700, "timer_server_handler_ns": 44_000}
    assert event["reads"] == list(READS)
    assert "erased" not in event


def test_the_result_has_exactly_the_fields_of_the_record(path: Path) -> None:
    result = logged(path)["result"]

    assert tuple(result) == RECORD_FIELDS
    assert result["ranges"] == {"canary": [0, 500]}
    assert result["features"] == {"risk_score": {"value": 0.2, "age": 12.5, "source": "cache"}}
    assert result["reason"] == "weight"
    assert result["fallbacks"] == []


def test_the_input_holds_the_facts_that_replay_needs(path: Path) -> None:
    facts = make_facts(
        unit=Unit(b"r-1", Reason.UNIT_MISSING, per_request=True),
        buckets=Buckets(unit=1, holdout=2, layer=3, shadow=4),
        features=Features({}, Reason.FEATURE_STALE),
    )
    document = logged(path, facts=facts, overlay=Overlay(killed=True, tripped=frozenset({"4"})))["input"]

    assert document["buckets"] == {"unit": 1, "holdout": 2, "layer": 3, "shadow": 4}
    assert document["unit_fault"] == "unit_missing"
    assert document["per_request"] is True
    assert document["feature_fault"] == "feature_stale"
    assert document["too_large"] is False
    assert document["overlay"] == {"killed": True, "tripped": ["4"]}
    assert document["plan"] == json.loads(make_rollout().plan)
    assert document["rollout"]["versions"] == ["3", "4"]


def test_the_unit_is_written_as_a_pseudonym_that_stays_the_same(path: Path) -> None:
    first = logged(path)["result"]["unit"]
    assert first == pseudonym(KEY, b"alice") != pseudonym(b"other" * 6, b"alice")
    assert b"alice" not in path.read_bytes()


def test_a_policy_that_reads_the_unit_leaves_no_unit_in_the_log(path: Path) -> None:
    facts = make_facts(
        policy_input={"unit": "alice"},
        verdict=PolicyVerdict(allow=False, reason="alice may not", body="sorry alice", message="alice"),
    )
    event = logged(path, facts=facts)

    assert event["erased"] == ["/input/unit"]
    assert event["policy"]["reason"] == f"{pseudonym(KEY, b'alice')} may not"
    assert b"alice" not in path.read_bytes()


def test_the_unit_header_is_withheld_even_if_the_document_lists_it(path: Path) -> None:
    rollout = make_rollout(log_headers=frozenset({"x-user-id", "x-region"}))
    headers = {"x-user-id": "alice", "x-region": "eu"}
    event = logged(path, rollout=rollout, facts=with_input(attributes=http(headers=headers)))

    assert event["input"]["attributes"]["request"]["http"]["headers"] == {"x-region": "eu"}
    assert event["erased"] == ["/input/attributes/request/http/headers/x-user-id"]


def test_a_unit_cookie_withholds_all_cookies(path: Path) -> None:
    rollout = make_rollout(log_headers=frozenset({"cookie"}), unit=UnitSource(cookie="uid"))
    event = logged(path, rollout=rollout, facts=with_input(attributes=http(headers={"cookie": "uid=alice"})))

    assert b"alice" not in path.read_bytes()
    assert event["erased"] == ["/input/attributes/request/http/headers/cookie"]


def test_headers_that_the_document_does_not_list_are_erased_and_said_to_be(path: Path) -> None:
    headers = {":method": "POST", "x-region": "eu", "authorization": "Bearer secret", "x/y~z": "odd"}
    event = logged(path, facts=with_input(attributes=http(method="POST", host="models", headers=headers)))

    kept = event["input"]["attributes"]["request"]["http"]
    assert kept == {"method": "POST", "host": "models", "headers": {":method": "POST", "x-region": "eu"}}
    assert event["erased"] == [
        "/input/attributes/request/http/headers/authorization",
        "/input/attributes/request/http/headers/x~1y~0z",
    ]


def test_a_query_is_never_written(path: Path) -> None:
    attributes = http(path="/v1?token=secret", headers={":path": "/v1?token=secret"})
    event = logged(
        path, facts=with_input(attributes=attributes, parsed_query={"token": ["secret"]}, parsed_path=["v1"])
    )

    assert b"secret" not in path.read_bytes()
    assert event["input"]["attributes"]["request"]["http"] == {"path": "/v1", "headers": {":path": "/v1"}}
    assert event["input"]["parsed_path"] == ["v1"]
    assert set(event["erased"]) == {
        "/input/parsed_query",
        "/input/attributes/request/http/path",
        "/input/attributes/request/http/headers/:path",
    }


def test_a_policy_that_reads_the_units_header_leaves_no_unit_in_its_words(path: Path) -> None:
    document = {"attributes": http(headers={"x-user-id": "alice"})}
    logged(path, facts=make_facts(policy_input=document, verdict=PolicyVerdict(reason="hello alice")))
    assert b"alice" not in path.read_bytes()


def test_a_policy_that_does_not_see_the_unit_keeps_its_words(path: Path) -> None:
    event = logged(path, facts=make_facts(verdict=PolicyVerdict(reason="alice is a common name")))
    assert event["policy"]["reason"] == "alice is a common name"


def test_envoys_attributes_that_may_hold_a_header_or_a_query_are_erased(path: Path) -> None:
    envoy = {"source.address": "10.0.0.1:1", "request.url_path": "/v1", "request.query": "token=secret"}
    event = logged(path, facts=with_input(attributes={"envoy": envoy}))
    assert event["input"]["attributes"]["envoy"] == {"source.address": "10.0.0.1:1"}
    assert event["erased"] == ["/input/attributes/envoy/request.url_path", "/input/attributes/envoy/request.query"]


def test_the_request_id_is_a_header_like_any_other(path: Path) -> None:
    attributes = http(id="r-1")
    assert logged(path, facts=with_input(attributes=attributes))["erased"] == ["/input/attributes/request/http/id"]
    path.unlink()
    allowed = make_rollout(log_headers=frozenset({"x-request-id"}))
    event = logged(path, rollout=allowed, facts=with_input(attributes=attributes))
    assert event["input"]["attributes"]["request"]["http"] == {"id": "r-1"}


def test_a_feature_that_may_not_be_written_keeps_its_age_and_source(path: Path) -> None:
    found = {"income": FeatureValue(99_999, 3.0, "store"), "risk_score": FeatureValue(0.2, 1.0, "cache")}
    facts = make_facts(features=Features(found), policy_input={"features": {"income": 99_999, "risk_score": 0.2}})
    event = logged(path, facts=facts, decision=make_decision(features=found))

    assert event["result"]["features"] == {
        "income": {"age": 3.0, "source": "store"},
        "risk_score": {"value": 0.2, "age": 1.0, "source": "cache"},
    }
    assert event["input"]["features"] == {"risk_score": 0.2}
    assert event["erased"] == ["/input/features/income"]
    assert b"99999" not in path.read_bytes()


def test_a_decision_without_a_rollout_is_logged_too(path: Path) -> None:
    nothing = make_decision(rollout=None, arm=None, unit=None, version=None, reason=Reason.NO_MATCH, ranges={})
    event = logged(path, decision=nothing, facts=None, rollout=None)

    assert event["result"]["reason"] == "no_match"
    assert event["input"] == {}
    assert "path" not in event


def test_the_verdict_is_written_with_the_reason_in_the_policys_words(path: Path) -> None:
    verdict = PolicyVerdict(allow=False, versions=frozenset({"4", "3"}), reason="risk above 0.9", http_status=451)
    written = logged(path, facts=make_facts(verdict=verdict))["policy"]

    assert written["versions"] == ["3", "4"]
    assert (written["allow"], written["http_status"], written["reason"]) == (False, 451, "risk above 0.9")


@pytest.mark.parametrize("value", [2**70, "lone \udce9 surrogate"])
def test_a_value_that_the_fast_encoder_refuses_is_written_all_the_same(path: Path, value: object) -> None:
    event = logged(path, facts=with_input(features={"risk_score": value}))
    assert event["input"]["features"]["risk_score"] == value
    assert event["result"]["ranges"] == {"canary": [0, 500]}


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    logged(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_close_writes_everything_that_was_queued(path: Path) -> None:
    log = open_decision_log(path)
    for number in range(1_000):
        log.record(make_decided(decision=make_decision(decision_id=f"d-{number}")))
    log.close()
    ids = [orjson.loads(line)["decision_id"] for line in path.read_bytes().splitlines()]
    assert ids == [f"d-{number}" for number in range(1_000)]


def test_after_a_rename_and_reopen_decisions_go_to_a_new_file(path: Path) -> None:
    log = open_decision_log(path)
    record(log)
    wait_for_lines(path, 1)
    old = path.rename(path.with_suffix(".1"))
    log.reopen()
    record(log)
    log.close()
    assert path.read_bytes().count(b"\n") == 1
    assert old.read_bytes().count(b"\n") == 1


def test_a_line_that_was_cut_off_is_not_gone_on_with_by_another_worker(path: Path) -> None:
    first, second = decision_log._LogFile(path), decision_log._LogFile(path)
    write = os.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision_log.os, "write", lambda descriptor, data: write(descriptor, data[:12]))
        kept = [b"a line\n", b"another line\n"]
        with pytest.raises(OSError, match="only a part"):
            first.write(kept)
    second.write([b"of another worker\n"])
    first.write(kept)
    assert path.read_bytes() == b"a line\nof another worker\nanother line\n"
    first.close()
    second.close()


def test_several_logs_share_a_file_in_whole_lines(path: Path) -> None:
    logs = [open_decision_log(path) for _ in range(3)]
    for _ in range(300):
        for log in logs:
            record(log)
    for log in logs:
        log.close()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 900
    assert all(orjson.loads(line)["decision_id"] == "d-1" for line in lines)


def test_a_full_queue_drops_and_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log.os, "write", no_space)
    log = open_decision_log(path, max_queue=10, retry_seconds=60.0)
    record(log)
    wait_for(lambda: log.errors == 1)
    for _ in range(25):
        record(log)
    assert log.drops == 15
    log.close()
    assert log.drops == 26


def test_a_queue_is_full_of_a_few_large_decisions_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    full.set()
    write = os.write
    monkeypatch.setattr(decision_log.os, "write", lambda fd, data: no_space() if full.is_set() else write(fd, data))
    log = open_decision_log(path, max_queue_bytes=250_000, retry_seconds=0.001)
    record(log)
    wait_for(lambda: log.errors > 0)
    talkative = make_facts(verdict=PolicyVerdict(reason="r" * 50_000, body="b" * 50_000))
    for _ in range(3):
        record(log, facts=talkative)
    assert log.drops == 0
    record(log, facts=talkative)
    record(log)
    assert log.drops == 2
    full.clear()
    wait_for_lines(path, 4)
    record(log, facts=talkative)
    log.close()
    assert log.drops == 2


def test_a_decision_that_no_encoder_takes_is_dropped_counted_and_told_of_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    log = open_decision_log(path)
    for _ in range(3):
        record(log, facts=with_input(features={"risk_score": value}))
    record(log)
    log.close()
    assert (log.drops, path.read_bytes().count(b"\n")) == (3, 1)
    assert len(caplog.records) == 1
    while value:  # piece by piece: the interpreter would free it in one deep recursion
        value = value.pop()


def test_a_disk_that_has_room_again_gets_what_was_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    full.set()
    write = os.write
    monkeypatch.setattr(decision_log.os, "write", lambda fd, data: no_space() if full.is_set() else write(fd, data))
    log = open_decision_log(path, retry_seconds=0.001)
    record(log)
    wait_for(lambda: log.errors > 2)
    full.clear()
    wait_for_lines(path, 1)
    log.close()
    assert log.drops == 0


def test_a_line_that_was_cut_off_is_taken_back_and_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, cuts = os.write, [100]

    def cut_once(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: cuts.pop()] if cuts else data)

    monkeypatch.setattr(decision_log.os, "write", cut_once)
    log = open_decision_log(path)
    record(log)
    (line,) = wait_for_lines(path, 1)
    log.close()
    assert orjson.loads(line)["decision_id"] == "d-1"
    assert (log.errors, log.drops) == (1, 0)


def test_a_log_that_cannot_be_opened_is_an_error_before_serving_and_a_count_while(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "decisions.jsonl"
    with pytest.raises(Unreachable) as raised:
        check_log_path(path)
    assert raised.value.code == "decision_log_unwritable"
    log = open_decision_log(path)
    record(log)
    log.close()
    assert log.drops == 1
    assert log.errors >= 1


def test_a_raw_unit_is_shown_with_what_is_not_utf8_escaped() -> None:
    assert unit_text(b"caf\xe9") == "caf\\xe9"
    assert record_of(make_decision(), "alice")["unit"] == "alice"


def record(log: DecisionLog, request: Request | None = None, facts: Facts | None = None) -> None:
    log.record(make_decided(request=request or make_request(), facts=facts or make_facts()))


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def wait_for_lines(path: Path, count: int) -> list[bytes]:
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)
    return path.read_bytes().splitlines()


def wait_for(condition: Any) -> None:
    """The writing thread has its own pace: look again until it got there, five seconds at most."""
    pause = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("the writing thread never got there")


def test_a_pipe_that_nobody_reads_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreachable) as error:
        check_log_path(tmp_path / "pipe")
    assert error.value.code == "decision_log_unwritable"


def test_a_pipe_is_written_like_a_file_and_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = open_log(tmp_path / "pipe")
    assert os.get_blocking(writer)
    os.write(writer, b"line\n")
    assert os.read(reader, 100) == b"line\n"
    os.close(reader)
    os.close(writer)
