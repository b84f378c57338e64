"""Uploads of the decision log: what a log service gets, in which pieces, and what becomes of what it does not take."""

from __future__ import annotations

import json
import logging
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.opa import sink as sink_module
from extproc.adapters.opa.sink import OpaLogSink, UploadError
from extproc.errors import InvalidInput
from extproc.plugins import SINK, open_adapter
from tests.support.certificates import identity
from tests.support.collector import Collector, Upload
from tests.support.pretender import Pretender
from tests.unit.datapath.test_replay import RISK, canary, log_of, replayed


@contextmanager
def opened(collector: Any, *parameters: str, scheme: str = "http", path: str = "") -> Iterator[OpaLogSink]:
    query = f"?{'&'.join(parameters)}" if parameters else ""
    with ExitStack() as stack:
        if isinstance(collector, (Collector, Pretender)):
            stack.enter_context(collector)
        sink: Any = open_adapter(SINK, f"opa+{scheme}://{collector.address}{path}{query}", "--sink")
        try:
            yield sink
        finally:
            sink.close()


def event(number: int | str, size: int = 0) -> bytes:
    """An event that gzip makes hardly smaller than ``size``."""
    return json.dumps({"decision_id": f"d-{number}", "noise": noise(number, size)}).encode()


def noise(seed: int | str, size: int) -> str:
    return f"{random.Random(seed).getrandbits(8 * size + 1):x}"[:size]


def numbers(collector: Collector) -> list[str]:
    return [each["decision_id"] for each in collector.events]


def ids(*named: int) -> list[str]:
    return [f"d-{number}" for number in named]


def test_an_upload_is_what_opa_sends() -> None:
    events = [event(1), event(2)]
    with opened(collector := Collector(), "partition-name=eu", path="/v1/control/") as sink:
        assert sink.write(events) == 0
    (upload,) = collector.uploads
    assert upload.path == "/v1/control/logs/eu"
    assert upload.headers["content-type"] == "application/json"
    assert upload.headers["content-encoding"] == "gzip"
    assert "authorization" not in upload.headers
    assert upload.texts == [each.decode() for each in events]


def test_no_upload_is_over_the_limit_and_all_events_arrive_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    sizes = [10, 3000, 50, 1500, 2100, 10, 10, 700, 3900, 5] * 8
    events = [event(number, size) for number, size in enumerate(sizes)]
    with opened(collector := Collector(), "upload-size-limit-bytes=4096") as sink:
        assert sink.write(events) == 0
        assert max(len(upload.body) for upload in collector.asked) <= 4096
        assert collector.texts == [each.decode() for each in events]
        assert len(collector.asked) < len(events) / 2
        assert not caplog.records

        assert sink.write([event(1), event(2, 12_000), event(3, 12_000), event(4)]) == 2
        assert numbers(collector)[-2:] == ids(1, 4)
        assert sink.write([event(5)]) == 0
    told, over = caplog.messages
    assert "an event has more than 4096 bytes when it is packed, see upload-size-limit-bytes; it is dropped" in told
    assert "well again" in over


def test_a_service_that_takes_less_than_the_limit_is_sent_less_from_then_on() -> None:
    def answer(upload: Upload) -> int:
        return 413 if len(upload.body) > 2000 else 200

    with opened(collector := Collector(answer)) as sink:
        assert sink.write([event(number, 500) for number in range(40)]) == 0
        refused = len(collector.asked) - len(collector.uploads)
        assert sink.write([event(number, 500) for number in range(40, 80)]) == 0
        assert len(collector.asked) - len(collector.uploads) == refused <= 6
        assert sink.write([event(80), event(81, 6000), event(82)]) == 1
    assert numbers(collector) == ids(*range(81), 82)


def test_an_event_that_a_service_refuses_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    def answer(upload: Upload) -> int:
        return 400 if any("poison" in text for text in upload.texts) else 200

    with opened(collector := Collector(answer)) as sink:
        events = [event("poison" if number in (3, 11) else number) for number in range(16)]
        assert sink.write(events) == 2
    assert numbers(collector) == ids(0, 1, 2, *range(4, 11), *range(12, 16))
    assert [message for message in caplog.messages if "answers 400 to a single event; it is dropped" in message]


def test_where_everything_is_refused_an_event_is_dropped_only_when_it_was_tried_again() -> None:
    with opened(collector := Collector(lambda upload: 422)) as sink:
        events = [event(1)]
        for _ in range(sink_module.REFUSED_TRIES - 1):
            with pytest.raises(UploadError, match="answers 422 to a single event"):
                sink.write(events)
        assert sink.write(events) == 1
        with pytest.raises(UploadError):
            sink.write([event(2)])
    assert collector.uploads == []


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
def test_what_was_taken_before_a_failure_is_not_sent_again(status: int) -> None:
    answers = iter([200, status, 200, 200, 200])
    events = [event(number, 1500) for number in range(3)]
    with opened(collector := Collector(lambda upload: next(answers)), "upload-size-limit-bytes=1024") as sink:
        with pytest.raises(UploadError, match=f"answers {status}"):
            sink.write(events)
        assert sink.write(events) == 0
        assert sink.write([event(9)]) == 0
    assert numbers(collector) == ids(0, 1, 2, 9)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_whatever_says_well_done_is_well_done(status: int) -> None:
    with opened(
        collector := Collector(lambda upload: (status, {"content-length": "0"} if status == 204 else {}))
    ) as sink:
        assert sink.write([event(1)]) == 0
        assert sink.write([event(2)]) == 0
    assert numbers(collector) == ids(1, 2)


def test_what_was_not_answered_for_is_sent_again() -> None:
    answers = iter([None, 200])
    events = [event(1), event(2)]
    with opened(collector := Collector(lambda upload: next(answers))) as sink:
        with pytest.raises(UploadError, match="cannot be told"):
            sink.write(events)
        assert sink.write(events) == 0
    assert len(collector.asked) == 2
    assert numbers(collector) == ids(1, 2)


def test_a_service_that_hangs_or_drips_or_is_none_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "ANSWER_SECONDS", 0.05)
    free = threading.Event()
    with opened(Collector(lambda upload: free.wait() and 200)) as sink:
        with pytest.raises(UploadError, match="did not answer within"):
            sink.write([event(1)])
        free.set()
    monkeypatch.setattr(sink_module, "ANSWER_SECONDS", 10.0)
    with opened(gone := Collector()) as sink:
        pass
    with (
        opened(type("Gone", (), {"address": gone.address})) as sink,
        pytest.raises(UploadError, match="cannot be told"),
    ):
        sink.write([event(1)])


def test_an_answer_without_an_end_holds_nobody_up() -> None:
    with opened(Pretender(b"{}", transfer_encoding="chunked")) as sink:
        assert sink.write([event(1)]) == 0
        assert sink.write([event(2)]) == 0
    with opened(Pretender(b"x" * (1 << 20))) as sink:
        assert sink.write([event(1)]) == 0


def test_nobody_whom_a_redirect_names_is_told_anything(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    with Collector() as other:
        away = Pretender(b"", 307, location=f"http://{other.address}/logs")
        with opened(away, f"token-file={tmp_path}/token") as sink, pytest.raises(UploadError, match="a redirect"):
            sink.write([event(1)])
    assert other.asked == []


def test_a_token_that_is_renewed_is_shown_from_the_next_upload_on(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    def answer(upload: Upload) -> int:
        return 200 if upload.headers["authorization"] == "Bearer new" else 401

    with opened(collector := Collector(answer), f"token-file={token}") as sink:
        events = [event(1)]
        with pytest.raises(UploadError, match="answers 401: is it the right token"):
            sink.write(events)
        token.write_text("new\n")
        assert sink.write(events) == 0
        token.unlink()  # it is being replaced: the last one is good until it is refused
        assert sink.write([event(2)]) == 0
    assert numbers(collector) == ids(1, 2)


def test_certificates_that_are_renewed_are_believed_from_the_next_upload_on(tmp_path: Path) -> None:
    authority, ca = identity("authority"), tmp_path / "ca.crt"
    identity("127.0.0.1", authority).write(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    ca.write_bytes(identity("another").pem)
    with opened(collector := Collector(tls=tls), f"ca={ca}", scheme="https") as sink:
        events = [event(1)]
        with pytest.raises(UploadError, match=r"[Cc]ertificate"):
            sink.write(events)
        ca.write_bytes(authority.pem)
        assert sink.write(events) == 0
    assert numbers(collector) == ids(1)


def test_failures_are_tried_again_later_and_later_up_to_the_longest_delay_or_when_the_service_says() -> None:
    answers: Callable[[Upload], Any] = lambda upload: (503, {"Retry-After": "3"})  # noqa: E731
    with opened(Collector(answers), "min-delay-seconds=1", "max-delay-seconds=4") as sink:
        waits = [sink.retry_seconds(failures) for failures in (1, 2, 5, 50, 5000)]
        assert [0.08, 0.12, 0.5, 3.2, 3.2] <= waits <= [0.12, 0.2, 0.9, 4.8, 4.8]
        assert all(1 <= sink.gather_seconds() <= 4 for _ in range(20))
        with pytest.raises(UploadError):
            sink.write([event(1)])
        assert sink.retry_seconds(1) == 3


def test_a_plan_goes_with_the_first_event_that_names_it_and_the_log_can_be_decided_again() -> None:
    lines = [line.rstrip(b"\n") for line in log_of(canary(5000), RISK, units=4)]
    plan = json.loads(lines[0])
    with opened(collector := Collector()) as sink:
        assert sink.write([lines[0]]) == 0
        assert sink.write([event(0), *lines[1:]]) == 0
    assert [each["custom"].get("plan") for each in collector.events[1:]] == [plan, None, None, None]
    answers = replayed([text.encode() for text in collector.texts[1:]], RISK)
    assert [(answer.fault, answer.not_replayable, answer.differences) for answer in answers] == [(None, None, ())] * 4


def test_a_plan_that_has_no_room_costs_no_event() -> None:
    plan = b'{"kind":"plan","id":"1","rollout":"a/b","plan":{"spec":"%s"}}' % noise(1, 4000).encode()
    decision = b'{"input":{"plan":"1"},"custom":{"reads":[]}}'
    with opened(collector := Collector(), "upload-size-limit-bytes=1024") as sink:
        assert sink.write([plan, decision, decision]) == 0
    assert collector.texts == [decision.decode()] * 2


def test_plans_that_no_event_comes_for_take_up_a_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "MAX_PLANS", 2)
    plans = [b'{"kind":"plan","id":"%d","rollout":"a/b","plan":{}}' % number for number in range(3)]
    decision = b'{"input":{"plan":"%d"},"custom":{"reads":[]}}'
    with opened(collector := Collector()) as sink:
        assert sink.write([*plans, decision % 0, decision % 2, decision % 1]) == 0
    assert [each["custom"].get("plan", {}).get("id") for each in collector.events] == [None, "2", "1"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("opa+http://", "url_invalid"),
        ("opa+http://user@host", "url_invalid"),
        ("opa+http://host?ca=/etc/hosts", "url_invalid"),
        ("opa+https://u:p@host", "secret_in_url"),
        ("opa+http://host?upload-size-limit-bytes=10", "url_parameter"),
        ("opa+http://host?upload-size-limit-bytes=1e5", "url_parameter"),
        ("opa+http://host?max-delay-seconds=nan", "url_parameter"),
        ("opa+http://host?min-delay-seconds=-1", "url_parameter"),
        ("opa+http://host?min-delay-seconds=9&max-delay-seconds=3", "url_parameter"),
        ("opa+http://host?max-delay=3", "url_parameter"),
        ("opa+http://host?token-file=/nowhere", "file_unreadable"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_by_name(url: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        open_adapter(SINK, url, "--sink")
    assert refused.value.code == code


def test_nothing_is_said_of_events_in_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(Pretender(event("secret"), 500)) as sink, pytest.raises(UploadError) as raised:
        sink.write([event("secret")])
    assert "secret" not in caplog.text + str(raised.value)
