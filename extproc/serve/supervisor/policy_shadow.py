"""The supervisor's part in the policy shadow: its policies, its process, and what there is to say of both.

Nothing that becomes of it is a reason to hold up or to end anything else: what is wrong is told, and workers go on
writing into a socket that drops what nobody reads.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, assert_never

import msgspec
import orjson

from extproc.errors import Fault
from extproc.lifeline import Lifeline
from extproc.metrics.catalogue import (
    POLICY_SHADOW_DECISIONS,
    POLICY_SHADOW_DROPPED,
    POLICY_SHADOW_REPLACED,
    POLICY_SHADOW_UP,
    Counter,
)
from extproc.metrics.counting import Metrics
from extproc.metrics.merging import Totals
from extproc.resources.fields import format_percent
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.memory import Memory, blame
from extproc.serve.messages import (
    FROM_POLICY_SHADOW,
    Failed,
    FromPolicyShadow,
    MaskByPolicies,
    PolicyShadowState,
    Reload,
    RolloutsServed,
    StartPolicyShadow,
    SwapPolicies,
    ToPolicyShadow,
    WantPlans,
)
from extproc.serve.supervisor.auxiliary import Auxiliary, ProcessEnd
from extproc.serve.supervisor.children import CRASHES, AuxiliaryCommand
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.serve.supervisor.policy_keeper import PolicyKeeper, WatchedPolicies
from extproc.serve.supervisor.policy_trial import Sources, Trial
from extproc.serve.watchdog import PATIENCE, process_state
from extproc.serve.worker_config import PolicyShadowPlan
from extproc.settings import Settings

NAME: Final = "policy shadow"
CHECK_SECONDS: Final = 0.25


class PolicyShadowFaults(FolderFaults):
    """Of its folder, each under a code of its own: nobody is to take them for faults of the policies that decide."""

    def note(self, faults: Sequence[Fault]) -> None:
        """These are all that there are now."""
        super().note(
            [
                Fault("policy_shadow_refused", f"{fault.message} ({fault.code})", fault.file, fault.line, fault.field)
                for fault in faults
            ]
        )


class PolicyShadowKeeper:
    """The policy shadow of one run. Belongs to one event loop.

    ``inputs`` are what changed policies are tried on, ``served`` the policies that decide, whose masks hold for what is
    logged, ``rollouts`` the keys of all that are served, and ``want_plans`` has workers tell of their rollouts again.
    """

    def __init__(
        self,
        plan: PolicyShadowPlan,
        places: WatchedPolicies,
        trial: Trial,
        tuning: Settings,
        metrics: Metrics,
        totals: Totals,
        refusals: FolderFaults,
        *,
        inputs: Callable[[], Awaitable[Mapping[str, Any]]],
        served: Callable[[], str | None],
        rollouts: Callable[[], Collection[str]],
        want_plans: Callable[[], None],
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._settings = tuning
        self._metrics = metrics
        self._totals = totals
        self._served = served
        self._masked_by: str | None = None
        self._rollouts = rollouts
        self._want_plans = want_plans
        self._warn = warn
        self._page = HeartbeatPage.create()
        self._lifeline = Lifeline()
        self._policies = PolicyKeeper(
            places,
            trial,
            tuning.policy_poll,
            refusals,
            inputs=inputs,
            swap=self._swap,
            say=lambda line: say(f"policy shadow: {line}"),
            warn=lambda line: warn(f"{NAME}: {line}"),
        )
        command = AuxiliaryCommand(NAME, plan.command, (self._lifeline.fd, plan.shown, self._page.fd))
        self._process = Auxiliary[ToPolicyShadow, FromPolicyShadow](
            command, warn, FROM_POLICY_SHADOW, self._received, self._ended, self._began
        )
        self._running = False
        self._heard_at = time.monotonic()
        self._had_waited = 0.0
        self._known: Collection[str] | None = None
        self._changes = msgspec.Raw(b"[]")
        self._revision: str | None = None
        self._last_fault: Fault | None = None
        metrics.gauge(POLICY_SHADOW_UP, lambda: float(self.up))

    @property
    def up(self) -> bool:
        """Whether decisions are compared."""
        return self._revision is not None

    # -- its life

    async def follow(self) -> None:
        """Follow its folder, until cancelled."""
        await self._policies.run()

    async def sync(self) -> None:
        """Look at the folder now, and have the process open its log again."""
        self._process.send(Reload())
        await self._policies.sync()

    async def run(self) -> None:
        """Replace a process that says nothing, and tell it of rollouts that are gone, until cancelled."""
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(CHECK_SECONDS)
            if time.monotonic() - asleep > 4 * CHECK_SECONDS:
                self._hear()  # it is this process that was held up: what was said is still unread
            self.check()

    def check(self) -> None:
        """Replace it if it hangs, and tell it what is another now."""
        pid = self._process.pid
        if pid is not None and self._hangs(pid):
            self._hear()
            self._warn(f"the {NAME} hangs: it is replaced")
            self._process.replace()
        self._tell_masks()
        rollouts = self._rollouts()
        if rollouts and rollouts != self._known and self._process.send(RolloutsServed(list(rollouts))):
            self._known = rollouts

    def _tell_masks(self) -> None:
        served = self._served()
        if served is not self._masked_by and self._process.send(MaskByPolicies(served)):
            self._masked_by = served

    def _hear(self) -> None:
        """Something was heard of it: its silence begins anew."""
        pid = self._process.pid
        self._heard_at = time.monotonic()
        self._had_waited = process_state(pid).waited_seconds if pid is not None else 0.0

    def _hangs(self, pid: int) -> bool:
        """Whether it was silent for too long. In the queue for a processor, behind all workers, it says nothing."""
        limit = self._settings.hang_limit if self.up else self._settings.start_timeout
        silent = time.monotonic() - self._heard_at
        if silent <= limit:
            return False
        state = process_state(pid)
        return state.stopped or silent - (state.waited_seconds - self._had_waited) > PATIENCE * limit

    async def stop(self) -> None:
        """End it: gently, and then not."""
        await self._process.stop()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    async def _swap(self, sources: Sources) -> None:
        if sources.empty:
            return  # nobody has put a rule there yet
        if not self._running:
            self._running = True
            self._process.start()
        else:
            self._process.send(SwapPolicies(sources.body))

    def _began(self) -> None:
        self._hear()
        self._known = None
        assert self._policies.body is not None
        self._process.send(StartPolicyShadow(self._plan.config, self._policies.body, self._policies.quarantined))
        self._masked_by = None
        self._tell_masks()

    def _received(self, life: str, message: FromPolicyShadow) -> None:
        self._hear()
        match message:
            case PolicyShadowState():
                self._revision, self._changes = message.policy_revision, message.changes
                self._totals.update(life, message.dump)
            case WantPlans():
                self._want_plans()
            case Failed():
                self._last_fault = message.faults[0]
                for fault in message.faults:
                    self._warn(f"{NAME}: {fault}")
            case _:
                assert_never(message)

    def _ended(self, life: str) -> None:
        """What it died of: a rule that is to blame is not evaluated any more."""
        end, beat = self._process.last_end, self._page.read()
        assert end is not None
        self._revision, self._changes = None, msgspec.Raw(b"[]")
        self._totals.retire(life)
        self._metrics.count(POLICY_SHADOW_REPLACED)
        how = f"its process ended with status {end.status}"
        deed = self._deed(end, beat.memory) if beat.path is not None else None
        if beat.path is not None and deed is not None:
            how = f"its process ended in {beat.path}, which {deed}; the rule waits for an edit"
            self._warn(f"{NAME}: {how}")
            self._policies.take_out({beat.path})
        self._last_fault = Fault("policy_shadow_ended", how)
        self._page.end()
        self._page.beat()

    def _deed(self, end: ProcessEnd, before: Memory) -> str | None:
        if end.status == -signal.SIGPROF:
            return f"took more than {self._settings.evaluation_limit:g} s of a processor"
        return blame(before, end.peak, self._plan.config.memory, crashed=-end.status in CRASHES)

    # -- what it says

    def described(self) -> Mapping[str, Any]:
        """For /snapshot: how it stands, and what was counted since ``serve`` began."""
        fault = self._last_fault
        return {
            "pid": self._process.pid,
            "policy_revision": self._revision,
            "share": format_percent(self._plan.share),
            "quarantined": self._policies.quarantined,
            "decisions": self._sums(POLICY_SHADOW_DECISIONS),
            "dropped": self._sums(POLICY_SHADOW_DROPPED),
            "changes": orjson.Fragment(bytes(self._changes)),
            "fault": fault.as_dict() if fault is not None else None,
        }

    def _sums(self, counter: Counter) -> dict[str, int]:
        """A counter of one label, by its values."""
        sums = dict.fromkeys(counter.values, 0)
        for dump in self._totals.dumps():
            for name, labels, value in dump["counters"]:
                if name == counter.name:
                    sums[labels[0]] += int(value)
        return sums
