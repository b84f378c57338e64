"""The worker's side: a share of its decisions is shown to the policy shadow, and nothing ever waits for that.

A decision is chosen by its own id, not by its unit: nobody is served otherwise for it, so a person need not be met
again, and by units a customer with half of the traffic would be all of it or none. The same decision is chosen by
whoever looks, so a log tells which were.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Container
from typing import Final

from extproc.assignment import bucket_of
from extproc.clock import Clock
from extproc.datapath.model import Features
from extproc.datapath.policy_shadow.shown import ShownDecision, ShownPlan, encode_shown
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.sinks.decision_event import plan_name
from extproc.snapshot.model import CompiledRollout

FULL_SECONDS: Final = 0.05
"""Once there is no room, nothing is written for as long: to make a message that nobody takes costs as much as one."""

DROPS: Final = ("full", "unsendable", "gone")
"""Why a decision is not shown: no room, no message that can be sent, and nobody there."""

_SEED: Final = b"policy-shadow"


def is_chosen(decision_id: str, share: int) -> bool:
    """Whether a decision is within ``share`` (hundredths of a percent)."""
    return bucket_of(_SEED, decision_id.encode()) < share


class PolicyShadowSampler:
    """Sends ``share`` (hundredths of a percent) of the decisions for which a rule was asked; a ``DecisionSink``.

    ``to`` is one end of a pair of sockets that keep messages apart. What it has no room for is dropped and counted in
    ``dropped``, by the words of ``DROPS``. Nothing is sent before somebody is there: ``tell_again`` says so.
    """

    def __init__(self, to: socket.socket, share: int, clock: Clock) -> None:
        to.setblocking(False)
        self._to = to
        self._share = share
        self._clock = clock
        self._told: dict[str, tuple[CompiledRollout, str]] | None = None
        self._full_until = 0.0
        self.dropped = dict.fromkeys(DROPS, 0)

    def record(self, decided: DecisionRecord) -> None:
        """Show the decision, if it is one of the share."""
        facts = decided.facts
        if self._told is None or facts is None or facts.verdict is None or decided.request.full:
            return  # what has no room for headers goes to stable whatever a policy says
        if is_chosen(decided.decision.decision_id, self._share):
            why_not = self._show(decided, self._told)
            if why_not is not None:
                self.dropped[why_not] += 1

    def tell_again(self) -> None:
        """Somebody is there, or another one, who knows no rollout."""
        self._told = {}

    def retain(self, rollouts: Container[str]) -> None:
        """Forget what was told of rollouts that are not among ``rollouts``."""
        if self._told is not None:
            self._told = {key: told for key, told in self._told.items() if key in rollouts}

    def _show(self, decided: DecisionRecord, known: dict[str, tuple[CompiledRollout, str]]) -> str | None:
        """Why it could not be."""
        if self._full_until and self._clock.monotonic() < self._full_until:
            return "full"
        try:
            compiled = decided.rollout
            assert compiled is not None
            told = known.get(compiled.key)
            if told is None or told[0] is not compiled:
                name = plan_name(compiled)
                self._to.send(encode_shown(ShownPlan(name, compiled.key, compiled.plan)))
                known[compiled.key] = told = compiled, name
            self._to.send(encode_shown(self._shown(decided, told[1])))
        except BlockingIOError:
            self._full_until = self._clock.monotonic() + FULL_SECONDS
            return "full"
        except OSError as error:
            return "unsendable" if error.errno == errno.EMSGSIZE else "gone"
        except Exception:  # a number over 64 bits, a lone surrogate, a bug: nothing of it is the worker's trouble
            return "unsendable"
        self._full_until = 0.0
        return None

    def _shown(self, decided: DecisionRecord, plan: str) -> ShownDecision:
        decision, request, facts, _, overlay = decided
        assert facts is not None
        assert facts.verdict is not None
        asked = facts.policy_input or {}
        return ShownDecision(
            decision.decision_id,
            plan,
            asked["time"] / 1e9 if "time" in asked else self._clock.now(),
            decision.revision,
            decision.policy_revision,
            request.method,
            request.path,
            request.host,
            request.scheme,
            request.headers,
            dict(request.attributes) if request.attributes else {},
            facts.unit,
            facts.buckets,
            Features(
                dict(facts.features.values),
                facts.features.fault,
                {version: dict(values) for version, values in facts.features.of.items()},
            ),
            facts.too_large,
            facts.log_full,
            overlay,
            facts.verdict,
        )
