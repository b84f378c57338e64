"""A token that does not hold is denied on each engine, and what was decided by one is decided so again from the log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.cli.main import main
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import PolicyEngine
from extproc.plugins import POLICY_ENGINE, open_adapter
from tests.support.clock import FakeClock
from tests.support.decisions import decisions_in
from tests.support.http import ask
from tests.support.policies import sources_of
from tests.support.rollouts import canary
from tests.systems.opa import Opa
from tests.unit.adapters.regorus.test_tokens import GUARD, NOW, PATH, PUBLIC, UNSIGNED, by_secret, signed
from tests.unit.datapath.test_replay import POLICY, log_of

GUARDED = GUARD.replace("claims] := io", "claims] = io")
TEXT = GUARDED.replace('"aud": "x"', '"aud": "x", "time": input.time')
DENIED = {
    "alg none": UNSIGNED,
    "alg none, signed with nothing": by_secret({"alg": "none"}, ""),
    "the public key as a secret": by_secret({"alg": "HS256"}, PUBLIC),
    "expired": signed(exp=NOW),
    "not yet valid": signed(nbf=NOW + 1),
    "another audience": signed(aud="y"),
    "no audience": signed(aud=None),
    "another issuer": signed(iss="other"),
    "another signature": signed()[:-4] + "AAAA",
    "garbage": "garbage",
    "nothing": "",
    "no text": 7,
    "ten megabytes": "a" * 10_000_000,
}
KEYS = {
    "no key": "",
    "a key of ten megabytes": f"-----BEGIN PUBLIC KEY-----\n{'A' * 10_000_000}\n-----END PUBLIC KEY-----\n",
    "a set without keys": '{"keys": []}',
}


def engines(opa: Opa, keys: str) -> dict[str, PolicyEngine]:
    """Each engine with the policy and these keys. On a running event loop."""
    opa.put_policy("routing", TEXT)
    ask(f"{opa.url}/v1/data/keys", json.dumps(keys), method="PUT")
    asked = open_adapter(POLICY_ENGINE, f"opa+{opa.url}", "--policy-engine")
    return {"embedded": Embedded(RegorusEngine(sources_of(TEXT, {"keys": keys}))), "OPA": asked}


def verdicts(opa: Opa, keys: str, *tokens: Any) -> list[tuple[str, Any, PolicyVerdict]]:
    async def each() -> list[tuple[str, Any, PolicyVerdict]]:
        found = []
        for name, engine in engines(opa, keys).items():
            for token in tokens:
                document = {"token": token, "time": NOW * 10**9}
                verdict = engine.known(PATH, document) or await engine.ask(PATH, document, 20.0)
                found.append((name, token, verdict._replace(revision=None)))
            await engine.close()
        return found

    return asyncio.run(each())


def test_a_token_that_holds_is_let_through_by_each_engine(opa: Opa) -> None:
    assert [verdict.reason for _, _, verdict in verdicts(opa, PUBLIC, signed())] == ["ann", "ann"]


def test_a_token_that_does_not_hold_is_denied_by_each_engine(opa: Opa) -> None:
    found = verdicts(opa, PUBLIC, *DENIED.values())
    assert [(name, token) for name, token, verdict in found if verdict != PolicyVerdict(allow=False)] == []
    assert len(found) == 2 * len(DENIED)


@pytest.mark.parametrize("keys", KEYS)
def test_with_a_key_that_is_none_every_token_is_denied_by_each_engine(opa: Opa, keys: str) -> None:
    assert {verdict for _, _, verdict in verdicts(opa, KEYS[keys], signed())} == {PolicyVerdict(allow=False)}


REQUEST = 'split(input.attributes.request.http.headers.authorization, " ")[1]'
CLOCK = FakeClock().now()


@pytest.mark.parametrize(
    ("token", "denied"),
    [(signed(exp=CLOCK + 60, nbf=CLOCK - 60), False), (signed(exp=CLOCK - 1, nbf=CLOCK - 60), True)],
    ids=["held then", "expired then"],
)
def test_what_was_decided_by_a_token_is_decided_so_again_by_the_time_in_the_log(
    token: str, denied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = GUARDED.replace("input.token", REQUEST).replace("data.keys", "data.issuer.keys")
    (tmp_path / "issuer").mkdir()
    (tmp_path / "decision.rego").write_text(text)
    (tmp_path / "issuer" / "data.json").write_text(json.dumps({"keys": PUBLIC}))
    engine = RegorusEngine(sources_of(text, {"issuer": {"keys": PUBLIC}}))
    for logged, summary in ((["authorization"], "3 decisions: 3 reproduced"), ([], "3 decisions: 0 reproduced")):
        rollout = canary(10_000, policy={**POLICY, "onError": "deny"}, log={"headers": logged})
        headers = {"x-user-id": b"u", "authorization": b"Bearer " + token.encode()}
        lines = log_of(rollout, engine, headers=headers, units=3)
        (tmp_path / "log.jsonl").write_bytes(b"".join(lines))
        with pytest.raises(SystemExit):
            main(["replay", f"{tmp_path}/log.jsonl", "--policies", str(tmp_path)])
        said = capsys.readouterr().out
        assert summary in said, said
        assert (token.encode() in b"".join(lines)) is bool(logged)
        assert {event["result"]["reason"] == "policy_deny" for event in decisions_in(b"".join(lines))} == {denied}
