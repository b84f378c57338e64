"""What the supervisor's admin endpoint shows: whether it lives, whether anybody serves, counts, what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

import extproc
from extproc.errors import Fault
from extproc.metrics.merging import Totals, merge
from extproc.net.admin import Page
from extproc.serve.messages import Description, WantDescription
from extproc.serve.supervisor.bundle_keeper import BundleKeeper
from extproc.serve.supervisor.envoy_keeper import EnvoyKeeper
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.serve.supervisor.policy_keeper import PolicyKeeper
from extproc.serve.supervisor.policy_shadow import PolicyShadowKeeper
from extproc.serve.supervisor.protection import Protection
from extproc.serve.supervisor.safety import HostSafety
from extproc.serve.supervisor.unmet import UnmetKeeper
from extproc.serve.supervisor.workers import Workers, WorkerSlot

_DESCRIPTION_SECONDS: Final = 3.0


class _Weight(msgspec.Struct, gc=False):
    """What is read of a rollout that a worker describes."""

    key: str
    weight: float


_weights: Final[Callable[[bytes], list[_Weight]]] = msgspec.json.Decoder(list[_Weight]).decode


class Pages:
    """The pages of one run; ``gather`` brings the totals up to date."""

    def __init__(
        self,
        workers: Workers,
        policies: PolicyKeeper | None,
        bundles: BundleKeeper | None,
        refusals: Sequence[FolderFaults],
        policy_shadow: PolicyShadowKeeper | None,
        protection: Protection | None,
        safety: HostSafety,
        envoy: EnvoyKeeper | None,
        unmet: UnmetKeeper,
        totals: Totals,
        gather: Callable[[], Awaitable[None]],
    ) -> None:
        self._workers = workers
        self._policies = policies
        self._bundles = bundles
        self._refusals = refusals
        self._policy_shadow = policy_shadow
        self._protection = protection
        self._safety = safety
        self._envoy = envoy
        self._unmet = unmet
        self._totals = totals
        self._gather = gather

    def routes(self) -> Mapping[str, Callable[[], Awaitable[Page]]]:
        """Each page by its path."""
        return {
            "/healthz": self._healthz,
            "/livez": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/snapshot": self._snapshot,
        }

    async def _healthz(self) -> Page:
        return Page(200, b"ok\n")

    async def _readyz(self) -> Page:
        if self._workers.phase != "kept" or not self._workers.serving:
            return Page(503, b"no worker serves\n")
        # It decides all the same, and a policy engine that is away is away for every host: it is no reason to send
        # requests elsewhere.
        faults = "".join(f"{fault}\n" for fault in self._engine_faults())
        return Page(200, f"ok\n{faults}".encode())

    def _engine_faults(self) -> list[Fault]:
        """What is wrong with the policy engine that workers ask, each once."""
        faults = (slot.engine_fault for slot in self._workers.serving)
        return list(dict.fromkeys(fault for fault in faults if fault is not None))

    async def _metrics(self) -> Page:
        await self._gather()
        text = await asyncio.to_thread(merge, self._totals.dumps())
        return Page(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _snapshot(self) -> Page:
        answers = await self._workers.ask(self._workers.serving, WantDescription(), _DESCRIPTION_SECONDS)
        described = {answer.worker: answer for answer in answers if isinstance(answer, Description)}
        newest = max(described.values(), key=lambda answer: answer.revision, default=None)
        policies = self._policies
        asked = next((slot.policy_revision for slot in self._workers.serving), "") or None
        faults = [fault for refused in self._refusals for fault in refused.faults]
        faults += self._engine_faults()
        faults += self._envoy.faults if self._envoy is not None else ()
        body = {
            "version": extproc.__version__,
            "revision": newest.revision if newest is not None else None,
            "policy_revision": policies.revision if policies is not None else asked,
            "bundles": self._bundles.described() if self._bundles is not None else (),
            "quarantined": policies.quarantined if policies is not None else (),
            "policy_shadow": self._policy_shadow.described() if self._policy_shadow is not None else None,
            "rollouts": orjson.Fragment(bytes(newest.rollouts)) if newest is not None else [],
            "errors": _each_once(
                *(newest.errors if newest is not None else ()),
                *self._unmet.entries,
                *({"rollout": None, **fault.as_dict()} for fault in faults),
            ),
            "workers": [self._worker(slot, described.get(slot.config.index)) for slot in self._workers.slots],
            "observer": self._protection.described() if self._protection is not None else None,
            "safety": self._safety.described(),
            "envoys": [
                {"address": address, "delivered": fault is None, "message": fault.message if fault is not None else ""}
                for address, fault in (self._envoy.delivered() if self._envoy is not None else {}).items()
            ],
        }
        return Page(200, orjson.dumps(body), "application/json")

    def _worker(self, slot: WorkerSlot, described: Description | None) -> dict[str, Any]:
        rollouts = _weights(described.rollouts) if described is not None else []
        return {
            "worker": slot.config.index,
            "pid": slot.child.pid,
            "address": slot.config.endpoint.target,
            "state": "starting" if slot.serving and self._workers.phase == "starting" else slot.state,
            "revision": described.revision if described is not None else slot.revision,
            "policy_revision": slot.policy_revision,
            "policy_engine": slot.engine_fault.message if slot.engine_fault is not None else None,
            "rollouts": {rollout.key: {"weight": rollout.weight} for rollout in rollouts},
        }


def _each_once(*entries: Mapping[str, Any]) -> list[orjson.Fragment]:
    """The entries without those that are there already: of a lost store worker and supervisor say the same."""
    return [orjson.Fragment(entry) for entry in dict.fromkeys(map(orjson.dumps, entries))]
