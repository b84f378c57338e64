"""Quarantine is of one set of policies: another one is not barred by it, though it has the same revision."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from extproc.errors import Fault
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.messages import Quarantine, fingerprint
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.serve.supervisor.hang_keeper import HangKeeper
from extproc.serve.supervisor.policy_keeper import PolicyKeeper
from extproc.serve.supervisor.policy_trial import Sources
from extproc.serve.supervisor.workers import Blamed
from extproc.serve.watchdog import Hung
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.settings import Settings
from tests.support.policies import engine_of

RULE = "routing/decision"
BEFORE, AFTER = Sources("r1", "one"), Sources("r1", "two")


class Supervisor:
    """The keepers of policies and of workers that hang, over one worker that takes what it is told or does not."""

    def __init__(self) -> None:
        self.sources = BEFORE
        self.told: list[Any] = []
        self.warned: list[str] = []
        self.page = HeartbeatPage.create()
        child = SimpleNamespace(page=self.page, kill=lambda: None, process=SimpleNamespace(send_signal=lambda _: None))
        config = SimpleNamespace(index=0)
        self.worker = SimpleNamespace(
            config=config, child=child, state="serving", serving=True, fingerprint=fingerprint(BEFORE.body)
        )
        self.policies = PolicyKeeper(
            SimpleNamespace(read=lambda *, empty: self.sources, listing=lambda: ()),  # type: ignore[arg-type]
            SimpleNamespace(run=self._tried),  # type: ignore[arg-type]
            1.0,
            FolderFaults("policies", refused=lambda: None, warn=self.warned.append),
            inputs=self._inputs,
            swap=self._swap,
            say=lambda _line: None,
            warn=lambda _line: None,
        )
        self.hears = True
        workers: Any = SimpleNamespace(
            slots=[self.worker], serving=[self.worker], phase="kept", tell=self._tell, ask=self._ask
        )
        self.hangs = HangKeeper(workers, self.policies, Settings(), self.warned.append)

    async def swap(self) -> None:
        """Other policies of the same revision come into force."""
        self.sources = AFTER
        await self.policies.sync()

    async def _tried(self, _sources: Sources, _inputs: Mapping[str, Any]) -> list[Fault]:
        return []

    async def _inputs(self) -> Mapping[str, Any]:
        return {}

    async def _swap(self, sources: Sources) -> None:
        if self.hears:
            self.worker.fingerprint = fingerprint(sources.body)

    def _tell(self, slots: Any, message: Any) -> None:
        self.told += [message for _ in slots]

    async def _ask(self, slots: Any, message: Any, _within: float) -> None:
        self.told += [message for _ in slots]


@pytest.fixture
async def supervisor() -> Supervisor:
    found = Supervisor()
    await found.policies.prepare()
    return found


@pytest.mark.parametrize("how", ["hangs", "ends"])
@pytest.mark.parametrize("hears", [True, False], ids=["by those in force", "by those before"])
async def test_a_rule_is_taken_out_of_the_policies_that_a_worker_had(
    supervisor: Supervisor, how: str, hears: bool
) -> None:
    supervisor.hears = hears
    await supervisor.swap()
    if how == "hangs":
        await supervisor.hangs._replace([Hung(0, RULE, "no beat")])
    else:
        supervisor.hangs.take_out(supervisor.worker, Blamed(RULE, "took all memory"))  # type: ignore[arg-type]
    assert supervisor.policies.quarantined == ([RULE] if hears else [])
    (warned,) = supervisor.warned
    assert ("quarantine" in warned) == hears
    assert ("of policies that are not in force any more" in warned) == (not hears)


async def test_other_policies_of_the_same_revision_begin_without_quarantine(supervisor: Supervisor) -> None:
    told = supervisor.policies.take_out({RULE})
    slot = PolicySlot(supervisor.page)
    slot.swap(engine_of("package routing\n\ndecision := {}\n"), fingerprint=fingerprint(BEFORE.body))
    slot.quarantine(told.fingerprint, told.paths)
    assert slot._watched is not None
    assert slot._watched.quarantined == {RULE}
    slot.swap(engine_of('package routing\n\ndecision := {"allow": true}\n'), fingerprint=fingerprint(AFTER.body))
    slot.quarantine(told.fingerprint, told.paths)
    assert slot._watched.quarantined == frozenset()
    await supervisor.swap()
    assert supervisor.policies.quarantine == Quarantine(fingerprint(AFTER.body), [])
    assert not supervisor.policies.in_force(fingerprint(BEFORE.body))
