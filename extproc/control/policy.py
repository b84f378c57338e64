"""Policy on control actions: whoever asks, and whatever way they came, ``act`` asks it before anything is written.

Taking a version out of traffic must stay possible when a policy is broken: ``kill``, ``abort``, ``undo`` and what else
only takes away are refused only by one that says no. What a breaker or the controller takes away by itself is never
asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol

from extproc.control.actions import ACTIONS, Verb
from extproc.control.applied import Applied, who_applied
from extproc.control.as_json import status_json, timestamp
from extproc.control.claims import Claims, entries_of
from extproc.control.effect import Effect, effect_json
from extproc.errors import Fault, Refused, Unreachable
from extproc.store.ports import WritableRollouts
from extproc.store.records import HistoryEntry, StoredRollout, UnreadableRollout, Write

RULE: Final = "control/decision"
"""The rule that is asked: ``decision`` of package ``control``."""

MAX_REASON: Final = 1000
"""Characters of a policy's reason that are kept."""

_SAFE: Final = frozenset(row.verb for row in ACTIONS.values() if row.safe)
"""What a policy that fails does not hold up, beside what else only takes away and leaves stable."""


class ActionVerdict(NamedTuple):
    """Whether an action may be done, and why (not). ``failed``: the policy gave no valid answer."""

    allow: bool
    reason: str = ""
    failed: bool = False


class ControlPolicy(Protocol):
    """Answers whether an action may be done. Blocks, for a bounded time."""

    def decide(self, question: Mapping[str, Any]) -> ActionVerdict:
        """The verdict on ``question``, a JSON object. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class InGroups:
    """A ``ControlPolicy`` that is told the groups of who acts."""

    policy: ControlPolicy
    groups: Sequence[str]

    def decide(self, question: Mapping[str, Any]) -> ActionVerdict:
        """See ``ControlPolicy``."""
        return self.policy.decide({**question, "groups": list(self.groups)})


@dataclass(frozen=True)
class Asked:
    """The policy on control actions, and who acts when."""

    store: WritableRollouts
    policy: ControlPolicy | None
    actor: str
    now: float

    def claims(self) -> Claims:
        """Whose requests are whose; read once."""
        return self._claims

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self.store.documents().rollouts, self.store.deleted(), self.now)

    def about(
        self,
        verb: Verb,
        row: StoredRollout | UnreadableRollout | None,
        effect: Callable[[], Effect],
        *,
        arguments: Mapping[str, Any] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        """Ask whether ``verb`` may be done to the rollout in ``row``, or to the one that ``document`` would create.

        ``effect`` says what it comes to. Whose requests the rollout has is looked up for what gives somebody more.

        Raises:
            Refused: ``control_denied``; it is written into the history of a rollout that can be read, if that can be
                written: where it cannot, a denial is one all the same.
        """
        if denied := self.denials(verb, row, effect, arguments=arguments, document=document):
            raise Refused(denied)

    def denials(
        self,
        verb: Verb,
        row: StoredRollout | UnreadableRollout | None,
        effect: Callable[[], Effect],
        *,
        arguments: Mapping[str, Any] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> Sequence[Fault]:
        """As ``about``, where more than one action is asked about: what speaks against this one, if anything."""
        if self.policy is None:
            return ()
        applied = who_applied(self.store, row) if row is not None else None
        comes_to = effect()
        body = document if document is not None else row.document if isinstance(row, StoredRollout) else {}
        asked = question(self.actor, verb, row, applied, comes_to, self.now, arguments, body)
        if comes_to.gives_more or comes_to.makes_stable:
            others = self.claims().taken(_key(asked["rollout"]), entries_of(body))
            asked["rollout"]["inPlaceOf"] = [_described(other) for other in others]
        refused = denial(self.policy, asked)
        if refused is None:
            return ()
        if isinstance(row, StoredRollout):
            message = f"denied: {refused.faults[0].message}"
            entry = HistoryEntry(self.now, row.namespace, row.name, self.actor, verb, message, {"denied": True})
            with suppress(Unreachable):
                self.store.write([Write(row.namespace, row.name, row.resource_version, history=[entry])])
        return refused.faults


def question(
    actor: str,
    verb: Verb,
    row: StoredRollout | UnreadableRollout | None,
    applied: Applied | None,
    effect: Effect,
    now: float,
    arguments: Mapping[str, Any] | None = None,
    document: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a policy is asked: may ``actor`` do ``verb``, with this ``effect``, to what was ``applied`` in ``row``?

    ``document`` is the one that is to be applied, if not that of ``row``.
    """
    readable = row if isinstance(row, StoredRollout) else None
    body = document if document is not None else (readable.document if readable is not None else {})
    metadata = body.get("metadata", {})
    return {
        "actor": actor,
        "groups": [],
        "action": verb,
        "arguments": dict(arguments or {}),
        "effect": effect_json(effect),
        "rollout": {
            "namespace": row.namespace if row is not None else metadata.get("namespace", "default"),
            "name": row.name if row is not None else metadata.get("name"),
            "spec": body.get("spec", {}),
            "status": status_json(readable.status) if readable is not None else None,
            "appliedBy": applied.by if applied is not None else None,
            "appliedAt": timestamp(applied.at) if applied is not None else None,
            "inPlaceOf": [],
        },
        "time": int(now * 1e9),
    }


def _described(other: StoredRollout) -> dict[str, Any]:
    status = other.status
    return {"namespace": other.namespace, "name": other.name, "stable": status.stable, "deleted": other.deleted}


def denial(policy: ControlPolicy, asked: Mapping[str, Any]) -> Refused | None:
    """Why the action that ``asked`` is about may not be done: ``control_denied``, with the policy's reason."""
    verdict = policy.decide(asked)
    verb = asked["action"]
    if verdict.allow or (verdict.failed and (verb in _SAFE or _only_takes_away(asked))):
        return None
    reason = verdict.reason[:MAX_REASON] or "the policy gives no reason"
    what = f"the policy on control actions failed: {reason}" if verdict.failed else reason
    return Refused.of("control_denied", f"{asked['actor']} may not {verb} {_key(asked['rollout'])}: {what}")


def _only_takes_away(asked: Mapping[str, Any]) -> bool:
    """Whether nobody gets more by it, and stable is still there."""
    return bool(asked["effect"] == effect_json(Effect(takes_away=True))) and asked["action"] != "delete"


def _key(rollout: Mapping[str, Any]) -> str:
    return f"{rollout['namespace']}/{rollout['name']}"
