"""The contract of a policy engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import PolicyEngine
from extproc.names import Reason

_SECONDS: Final = 20.0
_PATH: Final = "routing/decision"
_RULES: Final = """package routing

default decision := {"allow": true}

decision := {"allow": false, "reason": "no minors", "http_status": 451} if input.features.age < 18

decision := {"allow": true, "versions": ["3", "4"], "shadow": false} if input.rollout.model == "ü|\\u2028"

decision := "yes" if input.wanted == "text"

decision := {"allow": true, "vresion": "4"} if input.wanted == "misspelt"

sometimes := {"allow": true} if input.wanted == "sometimes"
"""


class PolicyEngineContract:
    """What every policy engine does. ``make`` and ``make_unreachable`` are called on a running event loop."""

    def make(self, module: str) -> PolicyEngine:
        """An engine of the one Rego module."""
        raise NotImplementedError

    def make_unreachable(self) -> PolicyEngine | None:
        """An engine whose server is not there; None where that cannot be."""
        raise NotImplementedError

    def test_a_verdict_is_what_the_rule_says_of_the_input(self) -> None:
        """Denials with their text and status, versions, and the default."""
        expected: list[tuple[Mapping[str, Any], PolicyVerdict]] = [
            ({}, PolicyVerdict()),
            ({"features": {"age": 17}}, PolicyVerdict(allow=False, reason="no minors", http_status=451)),
            ({"features": {"age": 18.5}}, PolicyVerdict()),
            ({"rollout": {"model": "ü|\u2028"}}, PolicyVerdict(versions=frozenset({"3", "4"}), shadow=False)),
        ]

        async def ask(engine: PolicyEngine) -> None:
            for document, verdict in expected:
                assert (await _verdict(engine, _PATH, document))._replace(revision=None) == verdict

        self._run(ask)

    def test_what_has_no_value_is_undefined_and_what_has_the_wrong_shape_is_invalid(self) -> None:
        """Neither is an error, and a rule that is not there is as undefined as one that says nothing."""

        async def ask(engine: PolicyEngine) -> None:
            for path in ("routing/sometimes", "routing/no_such_rule", "no_such_package/decision"):
                assert (await _verdict(engine, path, {})).fault is Reason.POLICY_UNDEFINED
            sometimes = await _verdict(engine, "routing/sometimes", {"wanted": "sometimes"})
            assert sometimes._replace(revision=None) == PolicyVerdict()
            for wanted in ("text", "misspelt"):
                assert (await _verdict(engine, _PATH, {"wanted": wanted})).fault is Reason.POLICY_INVALID

        self._run(ask)

    def test_a_rule_that_can_deny_is_known_to_or_not_known_at_all(self) -> None:
        """Else its errors would let pass what it was to refuse."""

        async def ask(engine: PolicyEngine) -> None:
            assert engine.can_deny(_PATH)
            assert engine.has(_PATH)
            assert engine.revision

        self._run(ask)

    def test_many_questions_at_once_each_get_their_own_answer(self) -> None:
        """However they are carried."""

        async def ask(engine: PolicyEngine) -> None:
            ages = range(10, 30)
            verdicts = await asyncio.gather(*(_verdict(engine, _PATH, {"features": {"age": age}}) for age in ages))
            assert [verdict.allow for verdict in verdicts] == [age >= 18 for age in ages]

        self._run(ask)

    def test_no_input_makes_it_raise_and_no_question_outlasts_its_time(self) -> None:
        """What cannot be asked is a fault."""

        async def ask(engine: PolicyEngine) -> None:
            for document in ({"x": "\ud800"}, {"x": float("nan")}, {"x": 1 << 80}, {"x": {1, 2}}):
                assert isinstance(await _verdict(engine, _PATH, document), PolicyVerdict)
            known = engine.known(_PATH, {})
            late = await engine.ask(_PATH, {}, 0.0)
            assert late == known or late.fault is Reason.POLICY_TIMEOUT
            assert (await _verdict(engine, _PATH, {})).fault is None

        self._run(ask)

    def test_one_that_is_not_there_may_have_denied(self) -> None:
        """Its fault says so, so that it is left alone for a while, and is no way past it."""

        async def ask() -> None:
            engine = self.make_unreachable()
            if engine is None:
                return
            verdict = await asyncio.wait_for(engine.ask(_PATH, {}, _SECONDS), _SECONDS)
            assert (verdict.allow, verdict.fault in (Reason.POLICY_UNAVAILABLE, Reason.POLICY_TIMEOUT)) == (False, True)
            assert verdict.message
            await engine.close()

        asyncio.run(ask())

    def test_one_that_was_never_asked_opens_its_files_again_and_closes(self) -> None:
        """Twice, too."""

        async def ask(engine: PolicyEngine) -> None:
            engine.reopen()
            await engine.close()

        self._run(ask)

    def _run(self, ask: Callable[[PolicyEngine], Awaitable[None]]) -> None:
        async def with_engine() -> None:
            engine = self.make(_RULES)
            try:
                await asyncio.wait_for(ask(engine), _SECONDS)
            finally:
                await engine.close()

        asyncio.run(with_engine())


async def _verdict(engine: PolicyEngine, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
    """As a request gets it."""
    known = engine.known(path, document)
    return known if known is not None else await engine.ask(path, document, _SECONDS)
