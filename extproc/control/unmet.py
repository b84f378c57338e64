"""What rollouts ask for that a ``serve`` does not have, or has too old: nobody else knows it, so each is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from extproc.resources.rollout import RolloutSpec

REFRESH_SECONDS: Final = 5.0

MOST_LACKS: Final = 16
"""What a ``serve`` tells of, ``MOST_CHARACTERS`` of each: an answer on one line is bounded."""

MOST_CHARACTERS: Final = 256
STALE: Final = "features_stale"

MOST_OF_A_NAME: Final = 100
"""Characters of a rule's name in a sentence: what to do stands at its end."""


@dataclass(frozen=True, slots=True, order=True)
class Lack:
    """What a ``serve`` does not have, as the fault that it says of it.

    ``rule`` is the one that no policy has, ``view`` the one of which too much is too old: the first ``MOST_CHARACTERS``
    characters of it, and of two that differ only behind them both are taken to be meant.
    """

    code: str
    field: str
    message: str
    rule: str = ""
    view: str = ""


class HostLacks(NamedTuple):
    """What one ``serve`` on ``host`` lacks."""

    host: str
    lacks: tuple[Lack, ...]


class Unmet(NamedTuple):
    """What of a document nobody does: the code of the first fault, and all in a sentence. Empty: it is all done."""

    code: str = ""
    message: str = ""


class UnmetOnHosts:
    """What each ``serve`` said last. One thread asks, any may read.

    ``ask`` gives it by a name of each that is there, None for one that says nothing; it blocks, for a bounded time.
    """

    def __init__(self, ask: Callable[[], Mapping[str, HostLacks | None]]) -> None:
        self._ask = ask
        self._said: Mapping[str, HostLacks | None] = {}

    async def follow(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(REFRESH_SECONDS)

    def refresh(self) -> None:
        """Ask now. Who is silent lacks what it did, and so do all while none is there: one may just begin anew."""
        if answers := self._ask():
            before = self._said
            self._said = {name: answer or before.get(name) for name, answer in answers.items()}

    def of(self, spec: RolloutSpec) -> Unmet | None:
        """What of ``spec`` is not done somewhere; None while one has not said yet all that it lacks."""
        return self._found(spec, lambda lack: lack.code != STALE)

    def stale(self, spec: RolloutSpec) -> Unmet | None:
        """The views of ``spec`` that are too old somewhere; None as in ``of``."""
        return self._found(spec, lambda lack: lack.code == STALE)

    def _found(self, spec: RolloutSpec, counts: Callable[[Lack], bool]) -> Unmet | None:
        said = [each for each in self._said.values() if each is not None]
        if not said or len(said) < len(self._said):
            return None
        found: dict[Lack, set[str]] = {}
        for host, lacks in said:
            for lack in lacks:
                if counts(lack) and _asks(spec, lack):
                    found.setdefault(lack, set()).add(host)
        if not found:
            return None if any(len(lacks) >= MOST_LACKS for _, lacks in said) else Unmet()
        return Unmet(min(found).code, "; ".join(_sentence(lack, hosts) for lack, hosts in sorted(found.items())))


def _asks(spec: RolloutSpec, lack: Lack) -> bool:
    match lack.code:
        case "observer_missing":
            return spec.breaker is not None
        case "feature_store_missing":
            return spec.features is not None
        case "policy_rule_missing":
            return spec.policy is not None and spec.policy.path[:MOST_CHARACTERS] == lack.rule
        case "features_stale":
            return spec.features is not None and any(
                view[:MOST_CHARACTERS] == lack.view for view in (spec.features.view, *spec.features.views.values())
            )
    return False  # of a newer serve, or of no host


def _sentence(lack: Lack, hosts: Iterable[str]) -> str:
    found = f"on {', '.join(sorted(hosts))} {lack.message}"
    return found if lack.code == STALE else f"{found}; mend that there, or leave {lack.field} out of the document"
