"""Policies of an engine that is asked over the network: what each of its adapters would have to do alike.

A request waits for its verdict as long as its document says, and a question goes on for a second at least: ended with
its request it would close its connection, and a slow engine would have to take new ones. What is asked the same at the
same time is asked once. An engine that does not answer in time is left alone until a probe, off the way of any
request, is answered; meanwhile ``onError`` decides at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import orjson

from extproc.clock import Clock
from extproc.datapath.circuit import Circuit, Probes, Sample
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_input import EVERYTHING, REPEATABLE
from extproc.datapath.ports import InputReads, PolicyEngine
from extproc.errors import DropoutError, Fault
from extproc.names import Reason
from extproc.snapshot.model import PolicyUse
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

MAX_PENDING: Final = 256
"""Questions under way; a request with another one beyond them gets ``policy_timeout`` at once."""

MIN_ASK_SECONDS: Final = 1.0
"""How long a question may go on, where no document waits longer."""

MAX_REMEMBERED: Final = 4096
MAX_CHARACTERS: Final = 1024
"""Of the texts of a verdict, for it to be remembered."""

_MAX_RULES: Final = 1024
_SHOWN: Final = 3
_HELD_UP: Final = 1.5
_NO_ANSWER: Final = (Reason.POLICY_UNAVAILABLE, Reason.POLICY_TIMEOUT)

_Asked = tuple[str, bytes]
"""A rule, and the digest of the input that it is asked about: equal ones have one verdict."""


class _Rule:
    """A rule, as documents with one timeout ask it, and its questions that others may join."""

    __slots__ = ("circuit", "joinable", "sample", "use")

    def __init__(self, use: PolicyUse, sample: Mapping[str, Any]) -> None:
        self.use = use
        self.circuit = Circuit()
        self.joinable: dict[_Asked, _Question] = {}
        self.sample = Sample(sample)

    def answered(self, document: Mapping[str, Any]) -> None:
        """In time."""
        self.circuit.note(in_time=True)
        self.sample.answered(document)

    def leave(self, asked: _Asked, question: _Question) -> None:
        """Nobody joins ``question`` any more."""
        if self.joinable.get(asked) is question:
            del self.joinable[asked]


class _Question:
    """One that is under way. Once it ``failed`` nobody joins it, and it counts for its circuit no more."""

    __slots__ = ("asked", "document", "failed", "remember", "rule", "since", "task")

    def __init__(
        self,
        rule: _Rule,
        document: Mapping[str, Any],
        asked: _Asked | None,
        since: float,
        task: asyncio.Task[PolicyVerdict],
        *,
        remember: bool,
    ) -> None:
        self.rule = rule
        self.document = document
        self.asked = asked
        self.since = since
        self.task = task
        self.remember = remember
        self.failed = False


class RemotePolicies:
    """A ``PolicySource`` before ``engine``. Every method belongs to one event loop.

    Rules fail for themselves: each, with the timeout of the documents that ask it, has a circuit of its own, so that a
    rule that is too slow, or a timeout that is too short, takes nothing from the others. ``questions`` count what
    was asked, ``joined`` requests that shared the question of another, ``remembered`` those whose verdict was at hand,
    ``openings`` circuits that opened. ``on_change`` is called when ``revision`` or ``fault`` is another one.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        clock: Clock,
        *,
        max_pending: int = MAX_PENDING,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.revision = engine.revision
        self.on_change: list[Callable[[], None]] = []
        self.questions = self.joined = self.remembered = self.openings = 0
        self.known = engine.known
        self.can_deny = engine.can_deny
        self.has = engine.has
        self._engine = engine
        self._where = engine.revision
        self._left_alone = _fault(
            Reason.POLICY_UNAVAILABLE, f"{engine.revision} is left alone: it did not answer in time"
        )
        self._clock = clock
        self._max_pending = max_pending
        self._is_closing = False
        self._under_way: set[asyncio.Task[PolicyVerdict]] = set()
        self._rules: dict[tuple[str, float], _Rule] = {}
        self._verdicts: dict[_Asked, tuple[PolicyVerdict, float]] = {}
        self._probes = Probes[_Rule](sleep)
        self._troubles = Troubles(logger.warning, clock.monotonic)

    @property
    def fault(self) -> Fault | None:
        """Why rules are not asked at the moment, if any are not."""
        paths = sorted({rule.use.path for rule in self._probes.left_alone})
        if not paths:
            return None
        others = f" and {len(paths) - _SHOWN} others" if len(paths) > _SHOWN else ""
        message = (
            f"{self._where} does not answer for {', '.join(paths[:_SHOWN])}{others} in time: it is left alone, and"
            " onError decides"
        )
        return Fault(Reason.POLICY_UNAVAILABLE, message, field="--policy-engine")

    def reads(self, path: str) -> InputReads:
        """What the engine says that the rule reads; where it knows nothing, what two requests may have in common."""
        reads = self._engine.reads(path)
        return REPEATABLE if reads is EVERYTHING else reads

    async def fetch(self, use: PolicyUse, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """The engine's verdict on ``document``, waited for at most ``within`` seconds. Never raises.

        It waits only for a question that is under way: what is remembered, and that nobody is asked, is said at once.
        """
        rule = self._rule(use, document)
        asked: _Asked | None = None
        if use.remember:
            asked = _named(use.path, document)
            known = self._verdicts.get(asked) if asked is not None else None
            if known is not None and self._clock.monotonic() - known[1] <= use.remember:
                self.remembered += 1
                return known[0]
        if rule.circuit.is_open:
            rule.sample.unanswered(document)
            return self._left_alone
        if within <= 0:
            return _fault(Reason.POLICY_TIMEOUT, f"there is no time left to ask {self._where}")
        asked = asked or _named(use.path, document)
        question = rule.joinable.get(asked) if asked is not None else None
        if question is not None:
            self.joined += 1
            question.remember |= use.remember > 0
        elif len(self._under_way) >= self._max_pending:
            return _fault(Reason.POLICY_TIMEOUT, f"{self._max_pending} questions wait for {self._where}")
        else:
            question = self._ask(rule, use, document, asked)
        began = self._clock.monotonic()
        # asyncio.wait leaves the question alone when time is up.
        await asyncio.wait((question.task,), timeout=within)
        if question.task.done():
            return question.task.result()
        # When this process was held up, what is late is not the engine: that shows when the question ends.
        is_punctual = self._clock.monotonic() - began <= _HELD_UP * within
        if within >= use.timeout and is_punctual:
            self._failed(question)
        return _fault(Reason.POLICY_TIMEOUT, f"no verdict of {self._where} within {within * 1000:.0f} ms")

    def reopen(self) -> None:
        """Open again what the engine opened by name; what cannot be opened stays as it was."""
        try:
            self._engine.reopen()
        except DropoutError as error:
            logger.warning("%s is asked as before: %s", self._where, error)

    async def close(self) -> None:
        """End what is being asked, close the engine."""
        self._is_closing = True
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._probes.close()
        await self._engine.close()

    # -- one question

    def _ask(self, rule: _Rule, use: PolicyUse, document: Mapping[str, Any], asked: _Asked | None) -> _Question:
        self.questions += 1
        answer = self._asked(use.path, document, max(MIN_ASK_SECONDS, use.timeout))
        task = asyncio.get_running_loop().create_task(answer)
        since, remember = self._clock.monotonic(), use.remember > 0
        question = _Question(rule, document, asked, since, task, remember=remember)
        self._under_way.add(task)
        if asked is not None:
            rule.joinable[asked] = question
        task.add_done_callback(partial(self._ended, question))
        return question

    async def _asked(self, path: str, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        try:
            return await self._engine.ask(path, document, within)
        except Exception as error:  # a bug of somebody's adapter: onError is for this too
            return _fault(Reason.POLICY_ERROR, f"the question to {self._where} failed: {type(error).__name__}")

    def _ended(self, question: _Question, task: asyncio.Task[PolicyVerdict]) -> None:
        """Take note of an answer, whoever still waits for it: this is called before them."""
        self._under_way.discard(task)
        if task.cancelled():
            return
        verdict, asked = task.result(), question.asked
        self._heard(verdict)
        in_time = self._clock.monotonic() - question.since <= question.rule.use.timeout
        if verdict.fault in _NO_ANSWER:
            self._failed(question)
        elif in_time and not question.failed:
            question.rule.answered(question.document)
        if asked is None:
            return
        question.rule.leave(asked, question)
        if question.remember and verdict.fault is None and _texts(verdict) <= MAX_CHARACTERS:
            self._remember(asked, verdict, question.since)

    def _failed(self, question: _Question) -> None:
        """Nobody joins what was too late for one: who comes now asks anew, on a connection that may be well."""
        if question.failed:
            return
        question.failed = True
        rule, asked = question.rule, question.asked
        rule.sample.unanswered(question.document)
        if asked is not None:
            rule.leave(asked, question)
        if rule.circuit.note(in_time=False):
            self.openings += 1
            self._probes.begin(rule, partial(self._is_well, rule), partial(self._left_alone_no_more, rule))
            self._told()

    # -- what is remembered

    def _heard(self, verdict: PolicyVerdict) -> None:
        """Of other policies than gave what is remembered: it goes, of all rules, because data are shared."""
        revision = verdict.revision or self.revision
        if revision != self.revision:
            self.revision = revision
            self._verdicts.clear()
            self._told()

    def _remember(self, asked: _Asked, verdict: PolicyVerdict, since: float) -> None:
        """From when it was asked: what changed after that may not be in it."""
        self._verdicts.pop(asked, None)
        if len(self._verdicts) >= MAX_REMEMBERED:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[asked] = (verdict, since)

    # -- the circuits

    def _rule(self, use: PolicyUse, document: Mapping[str, Any]) -> _Rule:
        rule = self._rules.get((use.path, use.timeout))
        if rule is None:
            if len(self._rules) >= _MAX_RULES:
                self._rules = {of: each for of, each in self._rules.items() if each.circuit.is_open or each.joinable}
            rule = self._rules[use.path, use.timeout] = _Rule(use, document)
        return rule

    async def _is_well(self, rule: _Rule) -> bool:
        """Whether the rule answers in time: that a server is well says nothing of a rule."""
        verdict = await self._asked(rule.use.path, rule.sample.question, rule.use.timeout)
        if verdict.fault in _NO_ANSWER:
            return False
        self._heard(verdict)
        return True

    def _left_alone_no_more(self, rule: _Rule) -> None:
        rule.circuit.close()
        self._told()

    def _told(self) -> None:
        if self._is_closing:  # that nobody probes any more is no sign of health
            return
        fault = self.fault
        self._troubles.note("policy engine", *([fault.message] if fault is not None else ()))
        for each in self.on_change:
            each()


def _named(path: str, document: Mapping[str, Any]) -> _Asked | None:
    """None for a lone surrogate or an integer over 64 bits, which are the engine's to judge."""
    try:
        return path, blake2b(orjson.dumps(document), digest_size=32).digest()
    except TypeError:
        return None


def _texts(verdict: PolicyVerdict) -> int:
    texts = (verdict.reason, verdict.body, verdict.version, *(verdict.versions or ()))
    return sum(len(text) for text in texts if text is not None)


def _fault(reason: Reason, message: str) -> PolicyVerdict:
    return PolicyVerdict(allow=False, fault=reason, message=message)
