"""Policy on control actions: whoever asks, and whatever way they came, ``act`` asks it before anything is written.

Taking a version out of traffic must stay possible when a policy is broken: ``kill``, ``abort`` and ``undo`` are
refused only by one that says no. What a breaker or the controller takes away by itself is never asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from extproc.control.described import status_json
from extproc.errors import Refused, Unreachable
from extproc.snapshot.store import HistoryEntry, RolloutStore, StoredRollout, UnreadableRollout, Write

RULE: Final = "control/decision"
"""The rule that is asked: ``decision`` of package ``control``."""

MAX_REASON: Final = 1000
"""Characters of a policy's reason that are kept."""

PAST: Final = 1000
"""Entries of history that are looked through for who applied a document: all that are kept."""

SAFE_ACTIONS: Final = frozenset({"kill", "abort", "undo"})
"""What a policy that fails does not hold up."""


class Verdict(NamedTuple):
    """Whether an action may be done, and why (not). ``failed``: the policy gave no valid answer."""

    allow: bool
    reason: str = ""
    failed: bool = False


class ControlPolicy(Protocol):
    """Answers whether an action may be done. Blocks, for a bounded time."""

    def decide(self, question: Mapping[str, Any]) -> Verdict:
        """The verdict on ``question``, a JSON object. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """The policy on control actions, and who acts when."""

    store: RolloutStore
    policy: ControlPolicy | None
    actor: str
    now: float

    def about(
        self,
        verb: str,
        row: StoredRollout | UnreadableRollout | None,
        *,
        arguments: Mapping[str, Any] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        """Ask whether ``verb`` may be done to the rollout in ``row``, or to the one that ``document`` would create.

        Raises:
            Refused: ``control_denied``; it is written into the history of a rollout that can be read, if that can be
                written: where it cannot, a denial is one all the same.
        """
        if self.policy is None:
            return
        past = self.store.history(row.namespace, row.name, PAST) if row is not None else ()
        refused = denial(self.policy, question(self.actor, verb, row, past, self.now, arguments, document))
        if refused is None:
            return
        if isinstance(row, StoredRollout):
            message = f"denied: {refused.faults[0].message}"
            entry = HistoryEntry(self.now, row.namespace, row.name, self.actor, verb, message, {"denied": True})
            with suppress(Unreachable):
                self.store.write([Write(row.namespace, row.name, row.resource_version, history=[entry])])
        raise refused


def question(
    actor: str,
    verb: str,
    row: StoredRollout | UnreadableRollout | None,
    past: Sequence[HistoryEntry],
    now: float,
    arguments: Mapping[str, Any] | None = None,
    document: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a policy is asked: may ``actor`` do ``verb`` to the rollout in ``row``, whose history is ``past``?

    ``document`` is the one that is to be applied, if not that of ``row``.
    """
    readable = row if isinstance(row, StoredRollout) else None
    body = document if document is not None else (readable.document if readable is not None else {})
    applied = [entry.actor for entry in past if entry.action == "apply" and not entry.detail.get("denied")]
    metadata = body.get("metadata", {})
    return {
        "actor": actor,
        "action": verb,
        "arguments": dict(arguments or {}),
        "rollout": {
            "namespace": row.namespace if row is not None else metadata.get("namespace", "default"),
            "name": row.name if row is not None else metadata.get("name"),
            "spec": body.get("spec", {}),
            "status": status_json(readable.status) if readable is not None else None,
            "appliedBy": applied[-1] if applied else None,
        },
        "time": int(now * 1e9),
    }


def denial(policy: ControlPolicy, asked: Mapping[str, Any]) -> Refused | None:
    """Why the action that ``asked`` is about may not be done: ``control_denied``, with the policy's reason."""
    verdict = policy.decide(asked)
    verb = asked["action"]
    if verdict.allow or (verdict.failed and verb in SAFE_ACTIONS):
        return None
    reason = verdict.reason[:MAX_REASON] or "the policy gives no reason"
    what = f"the policy on control actions failed: {reason}" if verdict.failed else reason
    return Refused.of("control_denied", f"{asked['actor']} may not {verb} {_key(asked['rollout'])}: {what}")


def _key(rollout: Mapping[str, Any]) -> str:
    return f"{rollout['namespace']}/{rollout['name']}"
