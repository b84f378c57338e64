"""What the supervisor's admin endpoint shows: whether it lives, whether anybody serves, counts, what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from extproc.metrics import Totals
from extproc.serve.admin import Page
from extproc.serve.policy_keeper import PolicyKeeper
from extproc.serve.protection import Protection
from extproc.serve.refusals import Refusals
from extproc.serve.safety import HostSafety
from extproc.serve.workers import Slot, Workers

_DESCRIPTION_SECONDS: Final = 3.0


class Pages:
    """The pages of one run; ``gather`` brings the totals up to date."""

    def __init__(
        self,
        workers: Workers,
        policies: PolicyKeeper | None,
        refusals: Sequence[Refusals],
        protection: Protection | None,
        safety: HostSafety,
        totals: Totals,
        gather: Callable[[], Awaitable[None]],
    ) -> None:
        self._workers = workers
        self._policies = policies
        self._refusals = refusals
        self._protection = protection
        self._safety = safety
        self._totals = totals
        self._gather = gather

    def routes(self) -> Mapping[str, Callable[[], Awaitable[Page]]]:
        """Each page by its path."""
        return {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/snapshot": self._snapshot,
        }

    async def _healthz(self) -> Page:
        return Page(200, b"ok\n")

    async def _readyz(self) -> Page:
        if self._workers.phase != "kept" or not self._workers.serving:
            return Page(503, b"no worker serves\n")
        return Page(200, b"ok\n")

    async def _metrics(self) -> Page:
        await self._gather()
        text = await asyncio.to_thread(self._totals.exposition)
        return Page(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _snapshot(self) -> Page:
        descriptions = await self._workers.ask(self._workers.serving, "describe", _DESCRIPTION_SECONDS)
        answers = {answer["worker"]: answer for answer in descriptions}
        newest: Mapping[str, Any] = max(answers.values(), key=lambda answer: answer["revision"], default={})
        policies = self._policies
        faults = [fault for refused in self._refusals for fault in refused.faults]
        body = {
            "revision": newest.get("revision"),
            "policy_revision": policies.revision if policies is not None else None,
            "quarantined": policies.quarantined if policies is not None else (),
            "rollouts": newest.get("rollouts", []),
            "errors": [*newest.get("errors", []), *({"rollout": None, **fault.as_dict()} for fault in faults)],
            "workers": [self._worker(slot, answers.get(slot.config.index)) for slot in self._workers.slots],
            "observer": self._protection.described() if self._protection is not None else None,
            "safety": self._safety.described(),
        }
        return Page(200, orjson.dumps(body), "application/json")

    def _worker(self, slot: Slot, described: Mapping[str, Any] | None) -> dict[str, Any]:
        rollouts = described["rollouts"] if described is not None else []
        return {
            "worker": slot.config.index,
            "pid": slot.child.pid,
            "address": slot.config.endpoint.target,
            "state": "starting" if slot.serving and self._workers.phase == "starting" else slot.state,
            "revision": described["revision"] if described is not None else slot.revision,
            "policy_revision": slot.policy_revision,
            "rollouts": {rollout["key"]: {"weight": rollout["weight"]} for rollout in rollouts},
        }
