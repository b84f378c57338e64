"""Kill and restore: by the store and by every ``serve`` of this host, whichever can be reached.

The emergency switch must not need the same writable file as everything else. Where the store can be read, its answer
counts: a name that it does not have, a policy that forbids it. Where it cannot, nobody is asked. What hosts hold enters
the store later, unless a restore that came after named it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from extproc.clock import Clock
from extproc.control.actions import Kill, Restore
from extproc.control.result import ActionResult
from extproc.errors import Fault, Unreachable
from extproc.snapshot.held import Answers, HeldKill

IMPATIENT_SECONDS: Final = 0.5
"""How long a kill waits for the store's lock before it goes to the hosts: longer than whoever writes in order."""


class Hosts(Protocol):
    """Every ``serve`` of this host that follows the store."""

    def kill(self, kill: HeldKill) -> Answers:
        """Leave only stable of a rollout."""
        ...

    def kills(self, key: str) -> Answers:
        """The kills of ``key`` that are in force there."""
        ...

    def restore(self, key: str, kills: tuple[str, ...], actor: str, at: float, *, stored: bool) -> Answers:
        """End ``kills``; ``stored``: the store has it already that they are over."""
        ...


class NoHosts:
    """The store is all there is."""

    def kill(self, kill: HeldKill) -> Answers:
        """Nobody."""
        return Answers()

    def kills(self, key: str) -> Answers:
        """None."""
        return Answers()

    def restore(self, key: str, kills: tuple[str, ...], actor: str, at: float, *, stored: bool) -> Answers:
        """Nobody."""
        return Answers()


@dataclass(frozen=True, slots=True)
class Reached:
    """What a kill or a restore of ``namespace/name`` reached.

    ``kills`` are the ids that it made or ended. ``result`` is what became of it in the store, or None, and ``fault``
    why. ``serves`` have it on this host, ``unkept`` of them in no file, which it would not outlive; ``silent`` gave no
    answer.
    """

    namespace: str
    name: str
    kills: tuple[str, ...]
    result: ActionResult | None
    fault: Fault | None = None
    serves: int = 0
    unkept: int = 0
    silent: int = 0

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class Emergency:
    """Kills and restores in the name of ``actor``. ``act`` does it in the store; raises as ``control.acting.act``."""

    def __init__(self, act: Callable[[Kill | Restore], ActionResult], hosts: Hosts, actor: str, clock: Clock) -> None:
        self._act = act
        self._hosts = hosts
        self._actor = actor
        self._clock = clock

    def kill(self, namespace: str, name: str) -> Reached:
        """Leave only stable.

        Raises:
            InvalidInput, Refused: as ``act`` does; nothing was killed.
            Unreachable: when neither the store nor any ``serve`` of this host has it.
        """
        kill = HeldKill(new_id(), f"{namespace}/{name}", self._actor, self._clock.now())
        result, fault = self._tried(Kill(namespace, name, kill.id))
        answers = self._hosts.kill(kill._replace(stored=result is not None))
        if result is None and not answers.reached:
            raise _neither(fault, answers)
        kills = tuple(dict.fromkeys([*([kill.id] if result is not None else []), *(one.id for one in answers.kills)]))
        return self._reached(namespace, name, kills, result, fault, answers)

    def restore(self, namespace: str, name: str) -> Reached:
        """Undo every kill, in the store and on this host. What the store has of one is undone there or not at all.

        Raises:
            InvalidInput, Refused: as ``act`` does; nothing was restored.
            Unreachable: when the store cannot be written and has one of the kills, or there is none on this host.
        """
        rollout = f"{namespace}/{name}"
        held = self._hosts.kills(rollout).kills
        ids = tuple(kill.id for kill in held)
        result, fault = self._tried(Restore(namespace, name, ids))
        if result is None and (not ids or any(kill.stored for kill in held)):
            assert fault is not None
            raise Unreachable([fault])
        stored = tuple(result.detail.get("kills", ())) if result is not None else ()
        kills = tuple(dict.fromkeys((*stored, *ids)))
        answers = self._hosts.restore(rollout, kills, self._actor, self._clock.now(), stored=result is not None)
        if result is None and not answers.reached:
            raise _neither(fault, answers)
        return self._reached(namespace, name, kills, result, fault, answers)

    def _tried(self, action: Kill | Restore) -> tuple[ActionResult | None, Fault | None]:
        try:
            return self._act(action), None
        except Unreachable as error:
            return None, error.faults[0]

    @staticmethod
    def _reached(
        namespace: str,
        name: str,
        kills: tuple[str, ...],
        result: ActionResult | None,
        fault: Fault | None,
        answers: Answers,
    ) -> Reached:
        unkept = answers.reached - answers.kept
        return Reached(namespace, name, kills, result, fault, answers.reached, unkept, answers.silent)


def new_id() -> str:
    """The id of a kill, which no other has."""
    return secrets.token_hex(8)


def _neither(fault: Fault | None, answers: Answers) -> Unreachable:
    assert fault is not None
    silent = f"; {answers.silent} serve of this host gave no answer" if answers.silent else ""
    who = "no serve of this host follows it either" if not silent else f"no serve of this host has it either{silent}"
    return Unreachable([Fault(fault.code, f"{fault.message}; {who}", fault.file, fault.line, fault.field)])
