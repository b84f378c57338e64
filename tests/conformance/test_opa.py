"""Verdicts of a real OPA, beyond the contract: one that hangs, is restarted, or wants to know who asks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from extproc.adapters.opa import policy
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import PolicyEngine
from extproc.errors import InvalidInput
from extproc.names import Reason
from extproc.plugins import POLICY_ENGINE, open_adapter
from tests.support.dropout import DropoutServer
from tests.systems.opa import Opa

PATH = "routing/decision"
PINNED = 'package routing\n\ndecision := {"allow": true, "version": "4"}\n'
Start = Callable[[AbstractContextManager[Opa]], Opa]


def opened(opa: Opa, parameters: str = "") -> PolicyEngine:
    return open_adapter(POLICY_ENGINE, f"opa+{opa.url}{parameters}", "--policy-engine")


async def test_a_server_that_hangs_costs_each_request_its_time_and_no_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    opa = start(Opa())
    opa.put_policy("routing", PINNED)
    engine = opened(opa)
    assert (await engine.ask(PATH, {}, 20.0)).version == "4"
    monkeypatch.setattr(policy, "MAX_PENDING", 8)
    os.kill(opa.pid, signal.SIGSTOP)
    verdicts = await asyncio.gather(*(engine.ask(PATH, {}, 0.01) for _ in range(20)))
    assert {verdict.fault for verdict in verdicts} == {Reason.POLICY_TIMEOUT}
    assert sum("no verdict of" in (verdict.message or "") for verdict in verdicts) == 8
    os.kill(opa.pid, signal.SIGCONT)
    async with asyncio.timeout(20):  # until those that nobody waits for any more have ended
        while (await engine.ask(PATH, {}, 20.0)).fault is Reason.POLICY_TIMEOUT:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)
    assert (await engine.ask(PATH, {}, 20.0)).version == "4"
    await engine.close()


async def test_a_server_that_was_restarted_is_asked_again(start: Start) -> None:
    opa = start(Opa())
    engine = opened(opa)
    assert (await engine.ask(PATH, {}, 20.0)).fault is Reason.POLICY_UNDEFINED
    opa.stop()
    assert (await engine.ask(PATH, {}, 20.0)).fault is Reason.POLICY_ERROR
    opa.start()
    opa.put_policy("routing", PINNED)
    assert await engine.ask(PATH, {}, 20.0) == PolicyVerdict(version="4")
    await engine.close()


class Guarded(Opa):
    """An OPA that answers who shows a token."""

    def prepare(self) -> None:
        allowed = ('input.identity == "geheim"', 'input.path == ["health"]')
        rules = "".join(f"allow if {each}\n\n" for each in allowed)
        rule = f"package system.authz\n\ndefault allow := false\n\n{rules}"
        (self.folder / "authz.rego").write_text(rule)

    def command(self) -> list[str | Path]:
        return [*super().command(), "--authentication=token", "--authorization=basic", self.folder / "authz.rego"]


async def test_a_server_that_asks_who_we_are_is_shown_the_token_of_the_file(start: Start, tmp_path: Path) -> None:
    opa = start(Guarded())
    (tmp_path / "token").write_text("geheim\n")
    known, stranger = opened(opa, f"?token-file={tmp_path}/token"), opened(opa)
    assert (await known.ask(PATH, {}, 20.0)).fault is Reason.POLICY_UNDEFINED
    refused = await stranger.ask(PATH, {}, 20.0)
    assert (refused.allow, refused.fault) == (False, Reason.POLICY_ERROR)
    assert "401" in (refused.message or "")
    await known.close()
    await stranger.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("opa+http://user:geheim@127.0.0.1", "secret_in_url"),
        ("opa+http://127.0.0.1:8181/v1/data", "url_invalid"),
        ("opa+http://", "url_invalid"),
        ("opa+https://127.0.0.1?token=geheim", "url_parameter"),
        ("opa+http://127.0.0.1?token-file=/nowhere/at/all", "file_unreadable"),
        ("http://127.0.0.1:8181", "policy_engine_url"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_before_anybody_is_asked(url: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        open_adapter(POLICY_ENGINE, url, "--policy-engine")
    assert refused.value.code == expected
    assert "geheim" not in str(refused.value)


def test_requests_are_decided_by_an_opa_that_serve_is_pointed_to_and_end_at_on_error_without_it(start: Start) -> None:
    opa = start(Opa())
    opa.put_policy("routing", PINNED)
    server = DropoutServer("--policy-engine", f"opa+{opa.url}", workers=1)
    server.write_rollout(policy={"path": PATH, "onError": "stable", "timeout": "3s"})
    with server:
        assert server.ask()["x-model-version"] == "4"
        assert server.snapshot()["errors"] == []
        opa.stop()
        assert server.ask()["x-model-version"] == "3"
        assert server.metric("dropout_decisions_total", reason="policy_error") >= 1
