"""Feature stores over HTTP, beyond the contract: what a server may do to whoever asks it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.adapters.rest import connection as adapter
from extproc.clock import SystemClock
from extproc.datapath.features import FeatureReader
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow, FeatureStore
from extproc.errors import DropoutError, InvalidInput
from extproc.names import Reason
from extproc.plugins import FEATURES, open_adapter
from extproc.snapshot.model import FeatureNeed, FeatureView, JoinKey, UnitSource
from tests.support.certificates import identity
from tests.support.feature_server import Asked, Saying, answering, send, told
from tests.support.local_http import LocalHttpServer, QuietHandler

VIEW = FeatureView("user_risk", ("score", "country"), ("user",))
TEMPLATE = """
request:
  path: /features
  body: {view: "{{view}}", user: "{{join_keys.user}}"}
response:
  value: /features/{{feature}}
  joinKey: /user
  time: {at: /at}
views:
  user_risk: {joinKeys: {user: string}, features: {score: number, country: string}}
"""
BATCHED = """
request: {path: /f, batch: 4, body: {users: ["{{join_keys.user}}"]}}
response: {value: "/rows/{{row}}/{{feature}}", joinKey: "/rows/{{row}}/user"}
"""
GOOD = {"user": "u-1", "features": {"score": 0.5, "country": "DE"}, "at": "2026-11-30T12:00:00Z"}


def key(user: str | int = "u-1", view: FeatureView = VIEW) -> FeatureKey:
    return FeatureKey(view, (user,))


def opened(url: str, folder: Path, template: str = TEMPLATE, more: str = "") -> FeatureStore:
    file = folder / "template.yaml"
    file.write_text(template)
    return open_adapter(FEATURES, f"{url}?template={file}{more}", "--features")


async def ask(store: FeatureStore, keys: Sequence[FeatureKey] = (key(),)) -> dict[FeatureKey, FeatureAnswer]:
    return {answer.key: answer async for answer in store.read(keys)}


def code(answer: FeatureAnswer) -> str:
    assert answer.rows is None
    assert isinstance(answer.fault, DropoutError), answer.fault
    return answer.fault.code


async def fault_of(say: Saying, folder: Path, template: str = TEMPLATE) -> DropoutError:
    """What is said of an entity whose store answers with ``say``."""
    async with told(say) as server:
        store = opened(server.url, folder, template)
        answer = (await ask(store))[key()]
        await store.close()
    assert answer.rows is None, answer
    assert isinstance(answer.fault, DropoutError)
    assert "u-1" not in str(answer.fault)
    return answer.fault


async def test_a_good_answer_is_values_with_their_time(tmp_path: Path) -> None:
    async with told(answering(GOOD)) as server:
        store = opened(server.url, tmp_path)
        answer = (await ask(store))[key()]
        await store.close()
    at = 1_796_040_000.0
    assert answer.rows == {"score": FeatureRow(0.5, at), "country": FeatureRow("DE", at)}
    assert [(each.line, each.json) for each in server.asked] == [
        ("POST /features", {"view": "user_risk", "user": "u-1"})
    ]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"<html><body>Sign in</body></html>", 200, "features_corrupt"),
        (b"", 200, "features_corrupt"),
        (b"", 204, "features_corrupt"),
        (b'{"user": "u-1", "features": {"score": 0.5', 200, "features_corrupt"),
        (b"\xff\xfe", 200, "features_corrupt"),
        (b"[" * 100_000, 200, "features_corrupt"),
        (b"1" * 10_000, 200, "features_corrupt"),
        (b"null", 200, "features_corrupt"),
        ([], 200, "features_corrupt"),
        ({}, 200, "features_corrupt"),
        ({"user": "u-1", "features": []}, 200, "features_corrupt"),
        ({"user": "u-1", "features": "none"}, 200, "features_corrupt"),
        ({"user": "u-1", "feature": {}}, 200, "features_corrupt"),
        ({**GOOD, "user": "u-2"}, 200, "feature_type"),
        ({**GOOD, "at": "2026-11-30T12:00:00"}, 200, "feature_type"),
        ({**GOOD, "at": "yesterday"}, 200, "feature_type"),
        ({**GOOD, "at": 1_796_040_000}, 200, "feature_type"),
        ({**GOOD, "features": {"score": "high"}}, 200, "feature_type"),
        ({**GOOD, "features": {"score": True}}, 200, "feature_type"),
        ({**GOOD, "features": {"country": {"code": "DE"}}}, 200, "feature_type"),
        (GOOD, 401, "features_refused"),
        (GOOD, 403, "features_refused"),
        (GOOD, 400, "features_entity"),
        (GOOD, 404, "features_unreachable"),
        (GOOD, 429, "features_unreachable"),
        (GOOD, 500, "features_unreachable"),
        (GOOD, 503, "features_unreachable"),
    ],
)
async def test_what_is_no_answer_is_a_fault_with_its_code(
    body: Any, status: int, expected: str, tmp_path: Path
) -> None:
    assert (await fault_of(answering(body, status), tmp_path)).code == expected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_so_that_nobody_else_is_shown_the_token(status: int, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("geheim")
    async with (
        told(answering(GOOD)) as other,
        told(answering(b"", status, location=f"{other.url}/features")) as server,
    ):
        store = opened(server.url, tmp_path, more=f"&token-file={tmp_path}/token")
        answer = (await ask(store))[key()]
        await store.close()
    assert code(answer) == "features_unreachable"
    assert "redirect" in str(answer.fault)
    assert [each.headers["authorization"] for each in server.asked] == ["Bearer geheim"]
    assert other.asked == []


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_of_ten_megabytes_is_not_read_to_its_end(announced: bool, tmp_path: Path) -> None:
    sent = 0

    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        size = 10 << 20 if announced else 1 << 30
        length = f"content-length: {size}\r\n" if announced else "connection: close\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while sent < size:
            writer.write(b" " * 65_536)
            await writer.drain()
            sent += 65_536
        writer.close()

    fault = await fault_of(say, tmp_path)
    assert (fault.code, "1048576" in str(fault)) == ("feature_type", True)
    assert sent < 1 << 30


async def test_a_packed_answer_that_nobody_asked_for_is_not_unpacked(tmp_path: Path) -> None:
    say = answering(b"\x1f\x8b\x08\x00", content_encoding="gzip")
    assert (await fault_of(say, tmp_path)).code == "features_corrupt"


@pytest.mark.parametrize("said", ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{"])
async def test_a_store_that_stops_talking_is_not_waited_for(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "ANSWER_SECONDS", 0.1)

    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(said.encode())

    fault = await fault_of(say, tmp_path)
    assert (fault.code, "within" in str(fault)) == ("features_unreachable", True)


async def test_a_store_that_says_a_byte_now_and_then_is_not_waited_for_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "ANSWER_SECONDS", 0.2)

    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    assert (await fault_of(say, tmp_path)).code == "features_unreachable"


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/9 x\r\n\r\n"]
)
async def test_a_connection_that_breaks_in_the_middle_is_a_fault(said: bytes, tmp_path: Path) -> None:
    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.transport.abort()

    assert (await fault_of(say, tmp_path)).code == "features_unreachable"


async def test_a_connection_that_was_closed_while_it_was_idle_is_made_anew_and_the_question_asked_once_more(
    tmp_path: Path,
) -> None:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.connections) == 1 and len(server.asked) == 2:
            writer.transport.abort()  # as one that was to be closed by then
        else:
            await send(writer, b'{"user": "u-1", "features": {"score": 0.5}}')

    async with told(say) as server:
        store = opened(server.url, tmp_path)
        for _ in range(3):
            assert (await ask(store))[key()].rows == {"score": FeatureRow(0.5, None)}
        await store.close()
    assert (len(server.connections), len(server.asked)) == (2, 4)


async def test_no_answer_ever_belongs_to_another_entity_wherever_a_read_is_given_up(tmp_path: Path) -> None:
    template = "request: {path: /f, body: {user: '{{entity}}'}}\nresponse: {value: '/{{feature}}'}"
    view = FeatureView("user_risk", ("user",), ("user",))

    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        body = b'{"user": "%s"}' % asked.json["user"].encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        for byte in body:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async with told(say) as server:
        store = opened(server.url, tmp_path, template)
        for turns in range(60):
            given_up = [asyncio.ensure_future(ask(store, [key(f"a-{turns}-{n}", view)])) for n in range(2)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for each in given_up:
                each.cancel()
            wanted = [key(f"b-{turns}-{n}", view) for n in range(3)]
            found = await ask(store, wanted)
            assert {each: found[each].rows for each in wanted} == {
                each: {"user": FeatureRow(each.entity[0], None)} for each in wanted
            }
            await asyncio.gather(*given_up, return_exceptions=True)
        await store.close()


async def test_nan_and_infinities_count_as_missing_and_never_reach_a_policy(tmp_path: Path) -> None:
    for written in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"NaN"', b'"-Infinity"'):
        body = b'{"user": "u-1", "features": {"score": %s, "country": "DE"}}' % written
        async with told(answering(body)) as server:
            store = opened(server.url, tmp_path)
            assert (await ask(store))[key()].rows == {"country": FeatureRow("DE", None)}
            await store.close()


async def test_entities_of_a_view_go_out_together_as_far_as_the_template_says(tmp_path: Path) -> None:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        rows = ",".join(f'{{"user": "{user}", "score": "{user}"}}' for user in asked.json["users"])
        await send(writer, f'{{"rows": [{rows}]}}'.encode())

    async with told(say) as server:
        store = opened(server.url, tmp_path, BATCHED)
        keys = [key(f"u-{number}") for number in range(10)]
        found = await ask(store, keys)
        await store.close()
    assert [found[each].rows for each in keys] == [{"score": FeatureRow(each.entity[0], None)} for each in keys]
    assert sorted(len(each.json["users"]) for each in server.asked) == [2, 4, 4]


@pytest.mark.parametrize("rows", [[], [{"user": "u-1", "score": 1}], [{"user": "u-1"}] * 3])
async def test_a_list_with_more_or_fewer_entities_than_were_asked_about_is_nobodys(
    rows: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    template = BATCHED.replace(', joinKey: "/rows/{{row}}/user"', "")
    async with told(answering({"rows": rows})) as server:
        store = opened(server.url, tmp_path, template)
        found = await ask(store, [key("u-1"), key("u-2")])
        await store.close()
    assert {code(answer) for answer in found.values()} == {"features_corrupt"}


@pytest.mark.parametrize("status", [200, 400, 422, 500])
async def test_an_entity_that_the_store_cannot_stand_takes_nobodys_features_but_its_own(
    status: int, tmp_path: Path
) -> None:
    """Clients choose who they are: with 200 the store takes the one for somebody else."""

    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        users = asked.json["users"]
        if "bad" in users and status != 200:
            await send(writer, b"invalid literal", status)
            return
        rows = ",".join(f'{{"user": "{user.replace("bad", "0")}", "score": 1}}' for user in users)
        await send(writer, f'{{"rows": [{rows}]}}'.encode())

    async with told(say) as server:
        store = opened(server.url, tmp_path, BATCHED)
        found = await ask(store, [key("u-1"), key("bad"), key("u-2")])
        await store.close()
    assert found[key("u-1")].rows == found[key("u-2")].rows == {"score": FeatureRow(1, None)}
    assert code(found[key("bad")]) == ("feature_type" if status == 200 else "features_entity")
    assert isinstance(found[key("bad")].fault, InvalidInput)  # which says nothing of the store


async def test_entities_whose_answers_are_too_long_together_are_asked_about_alone(tmp_path: Path) -> None:
    """Vectors of a batch may be; one that is too long by itself is nobody else's matter."""

    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        users = asked.json["users"]
        size = (adapter.MAX_ANSWER_BYTES * 3) // (1 if "long" in users else 4)
        rows = ",".join(f'{{"user": "{user}", "score": "{"x" * size}"}}' for user in users)
        await send(writer, f'{{"rows": [{rows}]}}'.encode())

    async with told(say) as server:
        store = opened(server.url, tmp_path, BATCHED)
        found = await ask(store, [key("u-1"), key("long"), key("u-2")])
        await store.close()
    assert (code(found[key("long")]), len(server.asked)) == ("feature_type", 4)
    assert isinstance(found[key("long")].fault, InvalidInput)
    for user in ("u-1", "u-2"):
        assert found[key(user)].rows is not None


async def test_those_who_come_at_once_are_one_request_and_none_of_them_shuts_the_store_for_the_others(
    tmp_path: Path,
) -> None:
    """Forty entities that the store cannot stand would open the circuit, if it were the store that was at fault."""

    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        users = asked.json["users"]
        if any(user.startswith("bad") for user in users):
            await send(writer, b"invalid literal", 422)
            return
        rows = ",".join(f'{{"user": "{user}", "score": 1, "country": "DE"}}' for user in users)
        await send(writer, f'{{"rows": [{rows}]}}'.encode())

    need = FeatureNeed((JoinKey(UnitSource(header="x-user-id")),), VIEW, None, 20.0, missing_is_stable=True)
    async with told(say) as server:
        store = opened(server.url, tmp_path, BATCHED.replace("batch: 4", "batch: 64"))
        reader = FeatureReader(store, SystemClock())
        good = await asyncio.gather(*(reader.fetch(need, (f"u-{number}",)) for number in range(40)))
        assert ({found.fault for found in good}, len(server.asked)) == ({None}, 1)
        bad = [await reader.fetch(need, (f"bad-{number}",)) for number in range(40)]
        assert {found.fault for found in bad} == {Reason.FEATURE_TYPE}
        assert (await reader.fetch(need, ("u-41",))).fault is None
        await reader.close()


async def test_an_answer_without_a_body_leaves_a_connection_that_goes_on(tmp_path: Path) -> None:
    """Also where the server says that it keeps the connection, and closes it (aiohttp#3507)."""

    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.asked) % 2:
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: keep-alive\r\n\r\n")
            writer.close()
        else:
            await send(writer, orjson.dumps(GOOD))

    async with told(say) as server:
        store = opened(server.url, tmp_path)
        for _ in range(3):
            assert code((await ask(store))[key()]) == "features_corrupt"
            assert (await ask(store))[key()].rows is not None
        await store.close()


async def test_a_store_that_answers_nobody_is_at_fault_itself(tmp_path: Path) -> None:
    async with told(answering(b"", 500)) as server:
        store = opened(server.url, tmp_path, BATCHED)
        found = await ask(store, [key("u-1"), key("u-2")])
        await store.close()
    assert {code(answer) for answer in found.values()} == {"features_unreachable"}
    assert len(server.asked) == 3


async def test_what_was_encoded_is_sent_as_it_is(tmp_path: Path) -> None:
    """A client that takes ``%3B`` for ``;`` asks about somebody else where the server does not (yarl#420, yarl#509)."""
    template = "request: {method: GET, path: '/u/{{entity}}', query: {q: '{{entity}}'}}\nresponse: {value: /a}"
    async with told(answering({"a": 1})) as server:
        store = opened(server.url, tmp_path, template)
        await ask(store, [key("a;b %2F+&=#?/\\\n\0ü~")])
        await store.close()
    encoded = "a%3Bb%20%252F%2B%26%3D%23%3F%2F%5C%0A%00%C3%BC~"
    assert [each.line for each in server.asked] == [f"GET /u/{encoded}?q={encoded}"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_store_that_hangs_up_on_everybody_is_asked_twice_and_no_more(method: str, tmp_path: Path) -> None:
    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    template = f"request: {{method: {method}, path: '/u/{{{{entity}}}}'}}\nresponse: {{value: /a}}"
    async with told(say) as server:
        store = opened(server.url, tmp_path, template)
        for _ in range(3):
            assert code((await ask(store))[key()]) == "features_unreachable"
        await store.close()
    assert len(server.asked) == 6


async def test_those_who_waited_in_vain_for_a_connection_take_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four times as many as there are connections, all late, and some of them given up (aiohttp#9670)."""
    monkeypatch.setattr(adapter, "ANSWER_SECONDS", 0.2)
    hung = True

    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if not hung:
            await send(writer, b'{"user": "%s", "features": {}}' % asked.json["user"].encode())

    keys = [key(f"u-{number}") for number in range(64)]
    async with told(say) as server:
        store = opened(server.url, tmp_path)
        for _ in range(3):
            given_up = asyncio.ensure_future(ask(store, keys))
            await asyncio.sleep(0)
            late = asyncio.ensure_future(ask(store, keys))
            given_up.cancel()
            assert {code(answer) for answer in (await late).values()} == {"features_unreachable"}
        hung = False
        monkeypatch.setattr(adapter, "ANSWER_SECONDS", 20.0)
        await store.close()
        store = opened(server.url, tmp_path)
        assert [answer.rows for answer in (await ask(store, keys)).values()] == [{}] * 64
        await store.close()


async def test_requests_beside_each_other_are_bounded(tmp_path: Path) -> None:
    under_way = most = 0
    full = asyncio.Event()

    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == adapter.MAX_CONNECTIONS:
            full.set()
        await full.wait()
        under_way -= 1
        await send(writer, b'{"user": "%s", "features": {}}' % asked.json["user"].encode())

    async with told(say) as server:
        store = opened(server.url, tmp_path)
        found = await ask(store, [key(f"u-{number}") for number in range(64)])
        await store.close()
    assert [answer.rows for answer in found.values()] == [{}] * 64
    assert most == adapter.MAX_CONNECTIONS


async def test_a_status_that_means_nobody_is_nobodys_features(tmp_path: Path) -> None:
    template = TEMPLATE.replace("  joinKey: /user\n", "  absent: [404]\n")
    async with told(answering(b"no such user", 404)) as server:
        store = opened(server.url, tmp_path, template)
        assert (await ask(store))[key()].rows == {}
        await store.close()


async def test_a_view_that_the_template_does_not_name_is_not_asked_about(tmp_path: Path) -> None:
    async with told(answering(GOOD)) as server:
        store = opened(server.url, tmp_path)
        views = {
            FeatureView("user_rsik", ("score",), ("user",)): "feature_view_unknown",
            FeatureView("user_risk", ("scroe",), ("user",)): "feature_unknown",
            FeatureView("user_risk", ("score",), ("customer",)): "join_key_unknown",
            FeatureView("user_risk", ("score",), ("user",), ("user",)): "join_key_type",
        }
        found = await ask(store, [key("u-1", view) for view in views])
        await store.close()
    assert {each.view: code(answer) for each, answer in found.items()} == views
    assert server.asked == []


async def test_a_token_and_certificates_are_read_again_when_they_were_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    async with told(answering(GOOD)) as server:
        store = opened(server.url, tmp_path, more=f"&token-file={token}")
        await ask(store)
        monkeypatch.setattr(adapter, "REREAD_SECONDS", -1.0)
        token.write_text("")  # as it is while somebody writes it
        await ask(store)
        token.write_text("second")
        while server.asked[-1].headers["authorization"] != "Bearer second":
            await ask(store)
        await store.close()
    assert {each.headers["authorization"] for each in server.asked} == {"Bearer first", "Bearer second"}


def test_a_store_is_believed_and_shown_what_the_url_names(tmp_path: Path) -> None:
    """A certificate of an authority of one's own, and one for whoever asks; without them, nothing is asked."""
    authority, client = identity("authority"), identity("client")
    server_identity = identity("server", authority)
    server_identity.write(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "client.crt").write_bytes(client.pem)
    (tmp_path / "client.key").write_bytes(client.key_pem)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "client.crt"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    asked: list[str] = []

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802  # http.server's name
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(b'{"user": "u-1", "features": {"score": 0.5}}')

    async def outcome(url: str, more: str) -> str:
        store = opened(url, tmp_path, more=more)
        answer = (await ask(store))[key()]
        await store.close()
        return "read" if answer.rows else code(answer)

    with LocalHttpServer(Handler, tls=tls) as server:
        url, shown = f"https://{server.address}", f"&cert={tmp_path}/client.crt&key={tmp_path}/client.key"
        ca = f"&ca={tmp_path}/ca.crt"
        assert asyncio.run(outcome(url, ca + shown)) == "read"
        assert asyncio.run(outcome(url, ca)) == "features_unreachable"
        assert asyncio.run(outcome(url, shown)) == "features_unreachable"
    assert asked == ["/features"]
