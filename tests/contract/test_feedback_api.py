"""Feedback over HTTP and gRPC, on live sockets: who may send it, what is answered, and what nobody can break."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from extproc._gen.dropout.v1 import feedback_pb2 as pb
from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.control.api import feedback_http, feedback_thread
from extproc.control.api.feedback_grpc import SERVICE
from extproc.control.api.feedback_http import FeedbackApplication, parse_records
from extproc.control.api.feedback_service import LIMITS
from extproc.control.feedback import MAX_OUTCOMES, MAX_RECORDS, Code, FeedbackRecord, UnreadableRecord
from extproc.errors import InvalidInput
from tests.support.feedback import KEY
from tests.support.feedback_server import ServedFeedback


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFeedback]:
    with ServedFeedback(tmp_path_factory.mktemp("feedback")) as served:
        yield served


def labels(served: ServedFeedback) -> int:
    store = SqliteFeedback(Path(f"{served.url.removeprefix('sqlite:')}.feedback"))
    try:
        return sum(arm.total().labels for arm in store.labels(KEY, served.epoch.id).values())
    finally:
        store.close()


def record(served: ServedFeedback, **more: Any) -> dict[str, Any]:
    return {"decision_id": served.make_id(), "prediction": True, "label": False, **more}


# -- what is answered


def test_one_record_is_recorded(served: ServedFeedback) -> None:
    sent = record(served)
    assert served.post(sent) == (
        200,
        {"results": [{"decision_id": sent["decision_id"], "code": "recorded"}], "counts": {"recorded": 1}},
    )
    status, answer = served.post(sent)
    assert (status, answer["counts"]) == (200, {"feedback_duplicate": 1})
    assert answer["results"][0]["message"]


def test_each_record_of_a_batch_is_answered_for_itself_in_its_place(served: ServedFeedback) -> None:
    before = labels(served)
    good = record(served, outcomes={"amount": 12, "score": 0.5}, version="4")
    sent = [good, {**record(served), "version": "3"}, {**good}, {"decision_id": "x" * 32, "outcomes": {"a": 1}}]
    sent += [{"decision_id": 7}, {"label": True}, "text", None, {**record(served), "labels": True}]
    status, answer = served.post({"records": sent})
    assert status == 200
    invalid = ["feedback_invalid"] * 5
    codes = ["recorded", "feedback_wrong_version", "feedback_duplicate"]
    assert [result["code"] for result in answer["results"]][:3] == codes
    assert answer["results"][3]["code"] in ("feedback_unknown_key", "feedback_forged")
    assert [result["code"] for result in answer["results"]][4:] == invalid
    assert answer["counts"]["feedback_invalid"] == 5
    assert answer["results"][4]["message"].startswith("decision_id: ")
    assert "labels" in answer["results"][8]["message"]
    assert labels(served) == before + 1


@pytest.mark.parametrize(
    "fields",
    [
        {"prediction": 1, "label": 0},
        {"prediction": "true", "label": "false"},
        {"prediction": True},
        {"outcomes": {"amount": "12"}},
        {"outcomes": {"amount": True}},
        {"outcomes": {"amount": None}},
        {"outcomes": {"amount": {}}},
        {"outcomes": {"amount": 10**30}},
        {"outcomes": [1]},
        {"prediction": True, "label": True, "version": 4},
    ],
)
def test_values_of_another_type_are_not_guessed_at(served: ServedFeedback, fields: dict[str, Any]) -> None:
    decision_id = served.make_id()
    status, answer = served.post({"decision_id": decision_id, **fields})
    assert (status, answer["results"][0]["code"]) == (200, "feedback_invalid")
    assert answer["results"][0]["decision_id"] == decision_id
    assert answer["results"][0]["message"]


BAD_BODIES = [
    b"",
    b" ",
    b"{",
    b"nonsense",
    b"[]",
    b"[{}]",
    b"1",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"decision_id": "\xff"}',
    b'{"decision_id": "\\ud800"}',
    b'{"a": NaN}',
    b'{"a": 1e999}{',
    b"[" * 100_000,
    b'{"records":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"records": {}}',
    b'{"records": null}',
    b'{"records": [], "more": 1}',
    b"decision_id=x&label=true",
    b'{"records":[' + b"{}," * 300_000 + b"{}]}",
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_is_no_feedback_is_400_with_a_code(served: ServedFeedback, body: bytes) -> None:
    status, answer = served.post(body)
    assert (status, answer["code"]) == (400, "feedback_body_malformed")
    assert answer["message"]
    assert "Traceback" not in answer["message"]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["decision_id", "label", "prediction", "outcomes", "version", "records"]) | st.text(),
                inner,
            )
        ),
        max_leaves=12,
    ).map(lambda document: json.dumps(document).encode())
)
def test_any_body_is_records_or_a_sentence(body: bytes) -> None:
    assert code_of(body) in ("", "feedback_body_malformed")


def code_of(body: bytes) -> str:
    try:
        parse_records(body)
    except InvalidInput as error:
        return error.code
    return ""


def test_a_batch_has_at_most_a_thousand_records(served: ServedFeedback) -> None:
    status, answer = served.post({"records": [record(served)] * (MAX_RECORDS + 1)})
    assert (status, answer["code"]) == (400, "feedback_too_many")
    status, answer = served.post({"records": [record(served) for _ in range(MAX_RECORDS)]})
    assert (status, answer["counts"]) == (200, {"recorded": MAX_RECORDS})
    assert served.post({"records": []}) == (200, {"results": [], "counts": {}})


def test_nothing_is_validated_that_a_limit_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a body costs is bounded by its limits, whatever it holds: each fault found would be an error to build."""
    monkeypatch.setattr(feedback_http._Record, "model_validate", None)
    many = b",".join([b"0"] * 524_000)
    with pytest.raises(InvalidInput) as raised:
        parse_records(b'{"records":[' + many + b"]}")
    assert raised.value.code == "feedback_too_many"
    fields = {f"field{i}": 0 for i in range(50_000)}
    outcomes = {"decision_id": "x", "outcomes": {f"outcome{i}": "x" for i in range(MAX_OUTCOMES + 1)}}
    found = parse_records(orjson.dumps({"records": [fields, outcomes]}))
    assert [str(each) for each in found if isinstance(each, FeedbackRecord)] == []
    assert found[1] == UnreadableRecord("x", f"outcomes: there are at most {MAX_OUTCOMES} in a record")


async def test_what_is_posted_is_not_read_where_it_is_received() -> None:
    """The event loop that serves the control API hands a body on as it came."""
    read: list[Any] = []
    sent: list[Any] = []

    async def record(batch: Any) -> list[Any]:
        read.append(batch)
        return []

    async def receive() -> dict[str, Any]:
        return {"body": b"nonsense"}

    async def send(event: Any) -> None:
        sent.append(event)

    await FeedbackApplication(record)({"path": "/v1/feedback", "method": "POST"}, receive, send)
    assert sent[0]["status"] == 200
    with pytest.raises(InvalidInput):
        read[0]()


def test_a_body_has_at_most_a_mebibyte(served: ServedFeedback) -> None:
    status, answer = served.post(b" " * (LIMITS.body_bytes + 1))
    assert (status, answer["code"]) == (413, "body_too_large")


def test_what_became_of_records_is_counted_by_code(served: ServedFeedback) -> None:
    before = Counter(served.counted)
    served.post({"records": [record(served), {"decision_id": "short"}, {}, {}]})
    assert served.counted - before == {"recorded": 1, "feedback_malformed": 1, "feedback_invalid": 2}


# -- who may


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic {token}"},
        {"authorization": "{token}"},
        {"authorization": "Bearer {token}x"},
        {"authorization": "Bearer {token},Bearer {token}"},
        {"authorization": "Bearer \xff"},
        {"x-authorization": "Bearer {token}"},
    ],
)
def test_without_the_token_nothing_is_taken(served: ServedFeedback, headers: dict[str, str]) -> None:
    before = labels(served)
    connection = served.connect()
    given = {name: value.replace("{token}", served.token).encode("latin-1") for name, value in headers.items()}
    connection.request("POST", "/v1/feedback", json.dumps(record(served)), given)
    answer = connection.getresponse()
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert json.loads(answer.read())["code"] == "unauthorized"
    connection.close()
    assert labels(served) == before


def test_two_tokens_are_none_and_a_trailer_is_none(served: ServedFeedback) -> None:
    host, port = served.address.split(":")
    body = json.dumps(record(served)).encode()
    token = served.token.encode()
    twice = b"authorization: Bearer %b\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (
        token,
        token,
        len(body),
        body,
    )
    trailing = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nauthorization: Bearer %b\r\n\r\n" % (
        len(body),
        body,
        token,
    )
    for rest in (twice, trailing):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"POST /v1/feedback HTTP/1.1\r\nhost: localhost\r\n" + rest)
            assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_the_scheme_is_known_in_any_case(served: ServedFeedback) -> None:
    assert served.post(record(served), authorization=f"bearer {served.token}")[0] == 200


def test_an_id_is_no_authorisation(served: ServedFeedback) -> None:
    sent = record(served)
    assert served.post(sent, token=sent["decision_id"])[0] == 401


# -- HTTP


def test_connections_are_kept_and_other_pages_are_not_there(served: ServedFeedback) -> None:
    connection = served.connect()
    for method, path, status in [("GET", "/v1/feedback", 405), ("POST", "/", 404), ("DELETE", "/v1/feedback", 405)]:
        connection.request(method, path, headers={"authorization": f"Bearer {served.token}"})
        answer = connection.getresponse()
        code = json.loads(answer.read())["code"]
        assert (answer.status, code) == (status, "method_not_allowed" if status == 405 else "not_found")
    for _ in range(3):
        connection.request(
            "POST", "/v1/feedback", json.dumps(record(served)), {"authorization": f"Bearer {served.token}"}
        )
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["counts"]) == (200, {"recorded": 1})
    connection.close()


def test_many_callers_at_once_are_all_answered(served: ServedFeedback) -> None:
    before = labels(served)
    codes: list[int] = []

    def send(batch: list[dict[str, Any]]) -> None:
        codes.append(served.post({"records": batch})[0])

    batches = [[record(served) for _ in range(20)] for _ in range(30)]
    threads = [threading.Thread(target=send, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 30
    assert labels(served) == before + 600


def test_a_flood_of_forged_feedback_grows_nothing(served: ServedFeedback) -> None:
    served.post(record(served))
    file = Path(f"{served.url.removeprefix('sqlite:')}.feedback")

    def sizes() -> tuple[int, int]:
        log = file.with_name(f"{file.name}-wal")
        return file.stat().st_size, log.stat().st_size if log.exists() else 0

    def flood(batches: int) -> None:
        connection = served.connect()
        for _ in range(batches):
            forged = [{"decision_id": os.urandom(16).hex(), "label": True, "prediction": True} for _ in range(1000)]
            connection.request("POST", "/v1/feedback", json.dumps({"records": forged}), authorized)
            answer = connection.getresponse()
            assert answer.status == 200
            assert "recorded" not in json.loads(answer.read())["counts"]
        connection.close()

    authorized = {"authorization": f"Bearer {served.token}"}
    flood(20)
    before, size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sizes()
    flood(80)
    assert sizes() == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


# -- when it cannot


def test_a_store_that_is_away_is_503_and_nothing_is_lost(tmp_path: Path) -> None:
    with ServedFeedback(tmp_path) as served:
        sent, file = record(served), tmp_path / "dropout.db.feedback"
        file.rename(tmp_path / "away")
        status, answer = served.post(sent)
        assert (status, answer["code"]) == (503, "feedback_store_unreachable")
        with pytest.raises(grpc.RpcError) as raised:
            ask(served, [pb.FeedbackRecord(decision_id=sent["decision_id"], prediction=True, label=True)])
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "feedback_store_unreachable" in str(raised.value.details())
        (tmp_path / "away").rename(file)
        assert served.post(sent)[1]["counts"] == {"recorded": 1}


def test_more_than_may_wait_are_turned_away_and_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_thread, "MAX_WAITING", 2)
    with ServedFeedback(tmp_path) as served:
        hold, begun = threading.Event(), threading.Event()

        def holding(*_: Any) -> Any:
            begun.set()
            hold.wait(20)
            return []

        thread = served.service._thread
        with monkeypatch.context() as held:
            held.setattr(thread._feedback, "record", holding)
            waiting = [asyncio.run_coroutine_threadsafe(thread.record(list), served.loop) for _ in range(2)]
            assert begun.wait(10)
            status, answer = served.post(record(served))
            assert (status, answer["code"]) == (503, "feedback_busy")
            hold.set()
            assert [each.result(10) for each in waiting] == [[], []]
        assert served.post(record(served))[1]["counts"] == {"recorded": 1}


def test_a_batch_that_takes_too_long_is_answered_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_thread, "CALL_SECONDS", 0.05)
    with ServedFeedback(tmp_path) as served:
        hold = threading.Event()
        real, sent = served.service._thread._feedback.record, record(served)

        def slow(records: Any) -> Any:
            hold.wait(20)
            return real(records)

        monkeypatch.setattr(served.service._thread._feedback, "record", slow)
        status, answer = served.post(sent)
        assert (status, answer["code"]) == (503, "feedback_busy")
        hold.set()
        monkeypatch.setattr(feedback_thread, "CALL_SECONDS", 10.0)
        assert served.post(sent)[1]["counts"] == {"feedback_duplicate": 1}
        assert labels(served) == 1


def test_an_address_in_use_is_a_sentence(served: ServedFeedback, tmp_path: Path) -> None:
    port = int(served.address.rpartition(":")[2])
    with ServedFeedback(tmp_path) as other, pytest.raises(InvalidInput) as raised:
        other.call(other.listen(port))
    assert raised.value.code == "address_in_use"


def test_when_it_stops_nobody_is_let_in_any_more(tmp_path: Path) -> None:
    with ServedFeedback(tmp_path) as served:
        idle = served.connect()
        idle.connect()
        served.call(served.service.stop(1.0))
        with pytest.raises(ConnectionRefusedError):
            served.connect().connect()
        assert idle.sock.recv(1) == b""


# -- gRPC


def ask(served: ServedFeedback, records: list[pb.FeedbackRecord], raw: bytes | None = None) -> pb.RecordResponse:
    with grpc.insecure_channel(served.socket, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Record", response_deserializer=pb.RecordResponse.FromString)
        request = pb.RecordRequest(records=records).SerializeToString() if raw is None else raw
        answer: pb.RecordResponse = call(request, timeout=60)
        return answer


def test_the_same_over_grpc(served: ServedFeedback) -> None:
    decided = served.make_id()
    good = pb.FeedbackRecord(decision_id=decided, prediction=True, label=False, outcomes={"amount": 2.5}, version="4")
    half = pb.FeedbackRecord(decision_id=served.make_id(), label=False)
    answer = ask(served, [good, good, half, pb.FeedbackRecord(decision_id="x")])
    assert [result.code for result in answer.results] == [
        Code.RECORDED,
        Code.DUPLICATE,
        Code.INVALID,
        Code.MALFORMED,
    ]
    assert answer.results[0].decision_id == decided
    assert dict(answer.counts) == dict.fromkeys((Code.RECORDED, Code.DUPLICATE, Code.INVALID, Code.MALFORMED), 1)
    assert served.post({"decision_id": decided, "outcomes": {"a": 1}})[1]["counts"] == {"feedback_duplicate": 1}


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x02\x0a\xff", b"\x0a\x03\x0a\x01\xff"])
def test_a_message_that_is_none_is_an_invalid_argument(served: ServedFeedback, raw: bytes) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        ask(served, [], raw)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "message_malformed" in str(raised.value.details())


def test_a_batch_over_grpc_has_a_limit_too(served: ServedFeedback) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        ask(served, [pb.FeedbackRecord(decision_id="x")] * (MAX_RECORDS + 1))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "feedback_too_many" in str(raised.value.details())


def test_fallbacks_are_marked_through_the_service(served: ServedFeedback) -> None:
    sent = record(served)
    served.call(served.service.mark_fallbacks([sent["decision_id"], "nonsense"]))
    assert served.post(sent)[1]["counts"] == {"feedback_served_by_fallback": 1}


def test_epochs_are_found_in_a_store_that_took_the_place_of_another(tmp_path: Path) -> None:
    with ServedFeedback(tmp_path) as served:
        before = record(served)
        assert served.post(record(served))[1]["counts"] == {"recorded": 1}
        (tmp_path / "new").mkdir()
        other = ServedFeedback(tmp_path / "new")
        other.loop.close()
        (tmp_path / "new" / "dropout.db").rename(tmp_path / "dropout.db")
        served.epoch = other.epoch
        assert served.post(record(served))[1]["counts"] == {"recorded": 1}
        assert served.post(before)[1]["counts"] == {"feedback_unknown_epoch": 1}


def count(_code: Code, _records: int) -> None:
    """Nobody listens."""
