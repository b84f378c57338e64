"""Verdicts of a real OPA, beyond the contract, through what stands before it; and of servers that are no OPA."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.opa.policy import MAX_ANSWER_BYTES
from extproc.cli.main import main
from extproc.clock import SystemClock
from extproc.datapath.circuit import MOST_FAILED
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import PolicyEngine
from extproc.datapath.remote_policies import RemotePolicies
from extproc.errors import InvalidInput
from extproc.names import Reason
from extproc.plugins import POLICY_ENGINE, open_adapter
from extproc.snapshot.model import PolicyUse
from tests.support.certificates import identity
from tests.support.dropout import DropoutServer
from tests.support.pretender import Pretender
from tests.support.process import wait_for
from tests.support.rollouts import CANARY, document
from tests.systems.opa import PINNED, BundledOpa, Opa

PATH = "routing/decision"
Start = Callable[[AbstractContextManager[Any]], Any]


def opened(address: str, parameters: str = "", *, scheme: str = "http") -> PolicyEngine:
    return open_adapter(POLICY_ENGINE, f"opa+{scheme}://{address}{parameters}", "--policy-engine")


def address_of(server: Opa) -> str:
    return f"127.0.0.1:{server.port}"


class Waiting(Opa):
    """An OPA whose bundle does not come: it serves, and knows no rule."""

    def prepare(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        text = f"services: {{s: {{url: '{url}'}}}}\nbundles: {{main: {{service: s, resource: b.tar.gz}}}}\n"
        (self.folder / "opa.yaml").write_text(text)

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "-c", self.folder / "opa.yaml"]


class Guarded(Opa):
    """An OPA that answers who shows the token ``geheim``, over TLS of an authority that nobody else knows."""

    allowed = 'input.identity == "geheim"'

    def prepare(self) -> None:
        rules = "".join(f"allow if {each}\n\n" for each in (self.allowed, 'input.path == ["health"]'))
        (self.folder / "authz.rego").write_text(f"package system.authz\n\ndefault allow := false\n\n{rules}")
        self.authority = identity("authority")
        identity("127.0.0.1", self.authority).write(self.folder)
        (self.folder / "ca.crt").write_bytes(self.authority.pem)

    def command(self) -> Sequence[str | Path]:
        tls = [f"--tls-cert-file={self.folder}/tls.crt", f"--tls-private-key-file={self.folder}/tls.key"]
        asks = ["--authentication=token", "--authorization=basic", self.folder / "authz.rego"]
        return [*super().command(), *tls, *asks]

    def ready(self) -> bool:
        trusting = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain:
            trusting.wrap_socket(plain, server_hostname="127.0.0.1").close()
        return True


class Knowing(Guarded):
    """An OPA that answers whose certificate of its own authority names ``dropout``."""

    allowed = 'input.identity == "CN=dropout"'

    def prepare(self) -> None:
        super().prepare()
        for name in ("dropout", "stranger"):
            (self.folder / name).mkdir(exist_ok=True)
            identity(name, self.authority).write(self.folder / name)

    def command(self) -> Sequence[str | Path]:
        asks = ["--authentication=tls", f"--tls-ca-cert-file={self.folder}/ca.crt"]
        return [*(each for each in super().command() if each != "--authentication=token"), *asks]

    def ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20):
            return True

    def shown(self, cert: str, key: str = "") -> str:
        """The parameters of who shows a certificate, with its own key or another's."""
        pair = f"cert={self.folder}/{cert}/tls.crt&key={self.folder}/{key or cert}/tls.key"
        return f"?ca={self.folder}/ca.crt&{pair}"


class OnSocket(BundledOpa):
    """An OPA that listens on a socket of Unix alone."""

    @property
    def socket(self) -> Path:
        return self.folder / "opa.sock"

    def command(self) -> Sequence[str | Path]:
        return [f"unix://{self.socket}" if each == f"127.0.0.1:{self.port}" else each for each in super().command()]

    def ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(self.socket))
        return True


class Probed(RemotePolicies):
    """With probes that go out when the test says so."""

    def __init__(self, engine: PolicyEngine) -> None:
        self._go = asyncio.Event()
        self._settled = asyncio.Event()
        super().__init__(engine, SystemClock(), sleep=self._sleep_until_told)
        self.on_change.append(self._settled.set)

    async def _sleep_until_told(self, seconds: float) -> None:
        self._settled.set()
        await self._go.wait()
        self._go.clear()

    async def probe(self) -> bool:
        """Let a probe go out; whether it was answered, and requests are again."""
        await self._settled.wait()
        self._settled.clear()
        self._go.set()
        await self._settled.wait()
        return self.fault is None


async def fetch(policies: RemotePolicies, within: float = 20.0, **document: Any) -> PolicyVerdict:
    return await policies.fetch(PolicyUse(PATH, None, timeout=within), document, within)


async def faults(policies: RemotePolicies, within: float = 20.0) -> list[Reason | None]:
    """Of as many requests as open a circuit, one after another, and one more."""
    return [(await fetch(policies, within, number=number)).fault for number in range(MOST_FAILED + 1)]


async def test_a_server_that_hangs_is_left_alone_and_answers_again_after_a_probe(start: Start) -> None:
    server = start(Opa())
    server.put_policy("routing", PINNED)
    policies = Probed(opened(address_of(server)))
    assert (await fetch(policies)).version == "4"
    server.hang()
    *late, alone = await faults(policies, 0.02)
    assert (set(late), alone) == ({Reason.POLICY_TIMEOUT}, Reason.POLICY_UNAVAILABLE)
    assert not await policies.probe()
    server.go_on()
    while not await policies.probe():  # of 20 ms each, on a machine that may be busy
        pass
    assert (await fetch(policies)).version == "4"
    await policies.close()


async def test_a_server_that_is_stopped_is_left_alone_and_one_that_is_started_in_its_place_is_asked(
    start: Start,
) -> None:
    server = start(Opa())
    policies = Probed(opened(address_of(server)))
    assert (await fetch(policies)).fault is Reason.POLICY_UNDEFINED
    server.stop()
    assert set(await faults(policies)) == {Reason.POLICY_UNAVAILABLE}
    assert not await policies.probe()
    server.start()
    server.put_policy("routing", PINNED)
    assert await policies.probe()
    assert (await fetch(policies)).version == "4"
    await policies.close()


async def test_a_restart_under_load_fails_no_request_and_the_first_probe_after_it_ends_the_fault(start: Start) -> None:
    server = start(BundledOpa())
    policies = Probed(opened(address_of(server)))
    seen: list[PolicyVerdict] = []
    done = asyncio.Event()

    async def client(name: int) -> None:
        number = 0
        while not done.is_set():
            seen.append(await fetch(policies, client=name, number=(number := number + 1)))
            await asyncio.sleep(0.001)

    clients = [asyncio.create_task(client(name)) for name in range(8)]
    while not seen:  # noqa: ASYNC110 - by the clients
        await asyncio.sleep(0.001)
    await asyncio.to_thread(server.stop)
    while policies.fault is None:  # noqa: ASYNC110 - by the clients
        await asyncio.sleep(0.001)
    await asyncio.to_thread(server.start)
    assert await policies.probe()
    answered = len(seen)
    while len(seen) < answered + 50:  # noqa: ASYNC110 - by the clients
        await asyncio.sleep(0.001)
    done.set()
    await asyncio.gather(*clients)
    assert {verdict.fault for verdict in seen} == {None, Reason.POLICY_UNAVAILABLE}
    assert {verdict.fault for verdict in seen[-20:]} == {None}
    await policies.close()


async def test_decisions_carry_the_revisions_of_bundles_and_another_one_drops_what_was_remembered(start: Start) -> None:
    server = start(BundledOpa())
    policies = Probed(opened(address_of(server)))
    use = PolicyUse(PATH, None, timeout=20.0, remember=3600.0)
    first = await policies.fetch(use, {}, 20.0)
    revision = f"{server.folder}/main.tar.gz=r1"
    assert (first.version, first.revision, policies.revision) == ("4", revision, revision)
    server.stop()
    assert (await policies.fetch(use, {}, 20.0), policies.remembered) == (first, 1)
    server.rules, server.revision = PINNED.replace('"4"', '"5"'), "r2"
    server.start()
    assert (await policies.fetch(use, {"other": 1}, 20.0)).version == "5"
    assert (await policies.fetch(use, {}, 20.0)).version == "5"
    assert policies.revision == revision.replace("r1", "r2")
    await policies.close()


async def test_a_server_that_waits_for_its_bundles_is_not_taken_to_have_no_opinion(start: Start) -> None:
    engine = opened(address_of(start(Waiting())))
    verdict = await engine.ask(PATH, {}, 20.0)
    assert (verdict.allow, verdict.fault) == (False, Reason.POLICY_UNAVAILABLE)
    assert "has not activated all of its bundles" in (verdict.message or "")
    await engine.close()


async def test_what_one_input_spoils_is_an_error_of_it_and_says_nothing_against_the_server(opa: Opa) -> None:
    rules = "".join(f'decision := {{"allow": {allow}}} if input.number >= 0\n\n' for allow in ("true", "false"))
    opa.put_policy("routing", f"package routing\n\n{rules}")
    policies = Probed(opened(address_of(opa)))
    assert set(await faults(policies)) == {Reason.POLICY_ERROR}
    verdict = await fetch(policies, number=1)
    assert (verdict.allow, policies.fault) == (False, None)
    assert "500: error(s) occurred while evaluating query: eval_conflict_error" in (verdict.message or "")
    await policies.close()


async def test_an_answer_that_is_too_long_is_an_error_and_is_not_read_to_its_end(start: Start) -> None:
    body = b'{"result": {"allow": true, "reason": "' + b"x" * (8 * MAX_ANSWER_BYTES) + b'"}}'
    engine = opened(start(Pretender(body)).address)
    verdict = await engine.ask(PATH, {}, 20.0)
    assert (verdict.fault, verdict.allow) == (Reason.POLICY_ERROR, False)
    assert f"more than {MAX_ANSWER_BYTES} bytes" in (verdict.message or "")
    await engine.close()


async def test_a_server_with_certificates_of_its_own_is_believed_by_them_and_shown_the_token_of_the_file(
    start: Start, tmp_path: Path
) -> None:
    server = start(Guarded())
    ca, token = server.folder / "ca.crt", tmp_path / "token"
    token.write_text("geheim\n")
    address = address_of(server)
    known = opened(address, f"?token-file={token}&ca={ca}", scheme="https")
    stranger = opened(address, f"?ca={ca}", scheme="https")
    (tmp_path / "other.crt").write_bytes(identity("another authority").pem)
    deceived = [opened(address, parameters, scheme="https") for parameters in ("", f"?ca={tmp_path}/other.crt")]
    assert (await known.ask(PATH, {}, 20.0)).fault is Reason.POLICY_UNDEFINED
    refused = await stranger.ask(PATH, {}, 20.0)
    assert (refused.allow, refused.fault) == (False, Reason.POLICY_UNAVAILABLE)
    assert "401" in (refused.message or "")
    for engine in deceived:
        verdict = await engine.ask(PATH, {}, 20.0)
        assert verdict.fault is Reason.POLICY_UNAVAILABLE
        assert "certificate verify failed" in (verdict.message or "")
    token.write_text("falsch")
    known.reopen()
    assert "401" in ((await known.ask(PATH, {}, 20.0)).message or "")
    token.write_text("")
    with pytest.raises(InvalidInput, match="holds no secret"):
        known.reopen()
    token.write_text("geheim")
    known.reopen()
    assert (await known.ask(PATH, {}, 20.0)).fault is Reason.POLICY_UNDEFINED
    for engine in (known, stranger, *deceived):
        await engine.close()


async def test_a_server_that_knows_certificates_answers_who_shows_one_that_it_lets_in(start: Start) -> None:
    server = start(Knowing())
    engines = {
        name: opened(address_of(server), parameters, scheme="https")
        for name, parameters in (
            ("let in", server.shown("dropout")),
            ("known", server.shown("stranger")),
            ("unknown", f"?ca={server.folder}/ca.crt"),
        )
    }
    said = {name: await engine.ask(PATH, {}, 20.0) for name, engine in engines.items()}
    assert [said[name].fault for name in said] == [Reason.POLICY_UNDEFINED, *[Reason.POLICY_UNAVAILABLE] * 2]
    assert "401" in (said["known"].message or "")
    assert "certificate required" in (said["unknown"].message or "")
    identity("stranger", server.authority).write(server.folder / "dropout")  # a certificate that was renewed
    engines["let in"].reopen()
    assert "401" in ((await engines["let in"].ask(PATH, {}, 20.0)).message or "")
    with pytest.raises(InvalidInput, match="a certificate and its private key"):
        opened(address_of(server), server.shown("dropout", "stranger"), scheme="https")
    for engine in engines.values():
        await engine.close()


async def test_a_server_on_a_socket_is_asked_and_asked_again_when_it_is_back(start: Start) -> None:
    server = start(OnSocket())
    policies = Probed(open_adapter(POLICY_ENGINE, f"opa+unix://{server.socket}", "--policy-engine"))
    assert (await fetch(policies)).version == "4"
    server.stop()
    assert set(await faults(policies)) == {Reason.POLICY_UNAVAILABLE}
    assert f"OPA at {server.socket}" in (await fetch(policies, number=99)).message
    server.start()
    assert await policies.probe()
    assert (await fetch(policies)).version == "4"
    await policies.close()


async def test_a_token_that_was_renewed_is_shown_without_a_word(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretender = start(Pretender(b'{"result": {"allow": true}}'))
    (tmp_path / "token").write_text("one")
    engine = opened(pretender.address, f"?token-file={tmp_path}/token")
    await engine.ask(PATH, {}, 20.0)
    (tmp_path / "token").write_text("two")
    await engine.ask(PATH, {}, 20.0)
    monkeypatch.setattr("extproc.adapters.opa.policy.REREAD_SECONDS", -1.0)
    while pretender.asked[-1]["authorization"] != "Bearer two":
        await engine.ask(PATH, {}, 20.0)
    assert [asked["authorization"] for asked in pretender.asked[:2]] == ["Bearer one"] * 2
    (tmp_path / "token").write_text("")
    for _ in range(3):
        assert (await engine.ask(PATH, {}, 20.0)).fault is None
    assert pretender.asked[-1]["authorization"] == "Bearer two"
    await engine.close()


async def test_a_server_that_closes_what_it_promised_to_keep_is_asked_over_another_connection() -> None:
    body = b'{"result": {"allow": true}}'
    head = b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(head + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        engine = opened(f"127.0.0.1:{port}")
        for number in range(50):
            assert await engine.ask(PATH, {"x": {"n": number}}, 20.0) == PolicyVerdict(revision=engine.revision)
        await engine.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"{}"),
        (200, b'{"status": "ok"}'),
        (200, b'["result"]'),
        (200, b'{"result": {"allow": tr'),
        (200, b"\xff\xfe"),
        (200, b"[" * 100_000),
        (200, b""),
        (404, b'{"code": "undefined_document"}'),
        (500, b"<html>it broke</html>"),
        (500, b'{"code": "internal_error", "errors": [{"code": "eval_cancel_error"}]}'),
        (500, b'{"code": "internal_error", "errors": "many"}'),
        (503, b'{"error": "no healthy upstream"}'),
        (307, b'{"result": {"allow": true}}'),
    ],
)
async def test_a_server_that_is_no_opa_or_broken_may_have_denied_and_is_left_alone(
    status: int, body: bytes, start: Start
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        pretender = start(Pretender(body, status, location=location))
        policies = Probed(opened(pretender.address))
        assert set(await faults(policies)) == {Reason.POLICY_UNAVAILABLE}
        assert not (await fetch(policies)).allow
        assert len(pretender.asked) == MOST_FAILED
        with pytest.raises(BlockingIOError):  # nobody was told what the input is
            elsewhere.accept()
        await policies.close()


async def test_the_message_of_a_server_is_a_line_that_is_not_long(start: Start) -> None:
    body = b'{"code": "x", "message": "\\n\\u001b[31m' + b"x" * 10_000 + b'"}'
    engine = opened(start(Pretender(body, 403)).address)
    message = (await engine.ask(PATH, {}, 20.0)).message or ""
    assert message.isprintable()
    assert len(message) < 400
    await engine.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("opa+http://user:geheim@127.0.0.1", "secret_in_url"),
        ("opa+http://127.0.0.1:8181/v1/data", "url_invalid"),
        ("opa+http://", "url_invalid"),
        ("opa+http://127.0.0.1?ca=/etc/ssl/ca.crt", "url_invalid"),
        ("opa+http://127.0.0.1?cert=/etc/ssl/a.crt&key=/etc/ssl/a.key", "url_invalid"),
        ("opa+https://127.0.0.1?cert=/etc/ssl/a.crt", "url_invalid"),
        (f"opa+https://127.0.0.1?cert={__file__}&key={__file__}", "file_unreadable"),
        ("opa+unix://run/opa.sock", "url_invalid"),
        ("opa+unix:///", "url_invalid"),
        ("opa+unix:///run/opa.sock?ca=/etc/ssl/ca.crt", "url_invalid"),
        ("opa+https://127.0.0.1?token=geheim", "url_parameter"),
        ("opa+http://127.0.0.1?token-file=/nowhere/at/all", "file_unreadable"),
        ("opa+https://127.0.0.1?ca=/nowhere/at/all", "file_unreadable"),
        (f"opa+https://127.0.0.1?ca={__file__}", "file_unreadable"),
        ("http://127.0.0.1:8181", "policy_engine_url"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_before_anybody_is_asked(url: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        open_adapter(POLICY_ENGINE, url, "--policy-engine")
    assert refused.value.code == expected
    assert "geheim" not in str(refused.value)


def test_serve_ends_at_on_error_says_so_and_goes_on_by_itself_when_its_opa_is_back(start: Start) -> None:
    policies = start(BundledOpa())
    revision = f"{policies.folder}/main.tar.gz=r1"
    server = DropoutServer("--policy-engine", f"opa+{policies.url}", workers=1)
    server.write_rollout(policy={"path": PATH, "onError": "stable", "timeout": "3s"})
    with server:
        assert server.ask()["x-model-version"] == "4"
        assert server.snapshot()["errors"] == []
        assert server.metric("dropout_policy_engine_up") == 1
        wait_for(lambda: server.snapshot()["policy_revision"] == revision, "the bundle's revision")
        policies.stop()
        for _ in range(MOST_FAILED + 1):
            assert server.ask()["x-model-version"] == "3"
        wait_for(lambda: server.snapshot()["errors"], "the fault")
        (fault,) = server.snapshot()["errors"]
        assert (fault["code"], fault["field"], fault["rollout"]) == ("policy_unavailable", "--policy-engine", None)
        status, body = server.get("/readyz")
        assert (status, body.decode()) == (200, f"ok\n--policy-engine: {fault['message']} (policy_unavailable)\n")
        assert server.metric("dropout_decisions_total", reason="policy_unavailable") == MOST_FAILED + 1
        assert server.metric("dropout_policy_engine_up") == 0
        policies.start()
        wait_for(lambda: server.snapshot()["errors"] == [], "a probe")
        assert server.get("/readyz") == (200, b"ok\n")
        assert server.ask()["x-model-version"] == "4"
        assert server.metric("dropout_policy_info", revision=revision) == 1
        assert server.metric("dropout_policy_openings_total") == 1


def test_explain_says_what_an_opa_says_and_replay_takes_it_from_the_log(
    opa: Opa, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = '{"allow": true, "version": "4", "reason": concat(" ", object.keys(input))}'
    opa.put_policy("routing", f"package routing\n\ndecision := {rule}\n")
    asked = {**CANARY, "policy": {"path": PATH, "reads": ["unit"]}}
    (tmp_path / "rollout.yaml").write_text(yaml.safe_dump(document(asked)))
    engine = ["--policy-engine", f"opa+{opa.url}"]
    request = ["--rollouts", str(tmp_path), "--path", "/v1/models/fraud-detector", "-H", "x-user-id: alice"]
    with pytest.raises(SystemExit):
        main(["explain", *engine, *request])
    said = capsys.readouterr().out
    assert "allowed, and pinned to version 4, because: unit." in said
    with pytest.raises(SystemExit) as refused:
        main(["explain", *engine, "--policies", str(tmp_path), *request])
    assert refused.value.code == 2
    assert "policies_twice" in capsys.readouterr().err
    server = DropoutServer(*engine, "--sink", f"file:{tmp_path}/log.jsonl", workers=1)
    server.write_rollout(policy={"path": PATH, "reads": ["unit"], "timeout": "3s"})
    with server:
        assert server.ask()["x-model-version"] == "4"
    opa.clear()
    with pytest.raises(SystemExit) as ended:
        main(["replay", f"{tmp_path}/log.jsonl"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("1 decisions: 1 reproduced")
