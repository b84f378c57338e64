"""The policy shadow of ``dropout serve``: what it compares by, and where it writes what would change.

Started as ``python -m extproc.run.policy_shadow FD FD FD FD``, see ``serve.policy_shadow``; nobody types it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import orjson

import extproc
from extproc.adapters.regorus.log_policies import LogPolicies, log_policies_of
from extproc.adapters.regorus.policy import RegorusEngine
from extproc.clock import SystemClock
from extproc.datapath.comparing import DecidedAs, PolicyChange
from extproc.datapath.policy_input import InputPaths
from extproc.datapath.policy_shadow.comparison import ComparedDecision, PolicyShadow, UnplannedError
from extproc.datapath.policy_shadow.shown import ShownPlan, decode_shown
from extproc.datapath.ports import EmbeddedEngine
from extproc.datapath.pseudonym import load_or_create_key
from extproc.datapath.sinks.decision_event import POLICY_SHADOW, EventEncoder, with_custom
from extproc.datapath.sinks.event_queue import Event
from extproc.lifeline import hang_on
from extproc.metrics.catalogue import (
    LOG_ERRORS,
    POLICY_SHADOW_DECISIONS,
    POLICY_SHADOW_DIFFERENCES,
    POLICY_SHADOW_DROPPED,
    POLICY_SHADOW_FAULTS,
    POLICY_SHADOW_INFO,
    POLICY_SHADOW_UNLOGGED,
    TASK_FAILURES,
)
from extproc.metrics.counting import Dump, Metrics, Row
from extproc.resources.policies import PolicySources
from extproc.run.log_queues import masked_queues
from extproc.serve.channel import UNREADABLE
from extproc.serve.logs import configure_logging, say
from extproc.serve.policy_shadow import run_policy_shadow
from extproc.serve.worker_config import PolicyShadowConfig
from extproc.settings import settings
from extproc.state import StateFolder

logger = logging.getLogger(__name__)

LINES_A_SECOND: Final = 10
"""Differences that are logged; a policy that changes everything would write as much as the decision log itself."""

SHOWN_CHANGES: Final = 20
CLOSE_SECONDS: Final = 1.0


class PolicyShadowComparer:
    """Compares what workers show, counts and logs it; a ``serve.policy_shadow.PolicyShadowApplication``.

    A difference is an event of the decision log, masked as a decision is; where there is no such log, it is a line in
    that of the process, which names nothing of the request.
    """

    def __init__(self, config: PolicyShadowConfig) -> None:
        self._clock = SystemClock()
        self._metrics = Metrics(self._clock)
        self._shadow: PolicyShadow | None = None
        self._masks = LogPolicies(settings().evaluation_limit)
        self._queues = masked_queues(config.sinks, self._masks, config.policy_engine)
        key = load_or_create_key(StateFolder(config.state).pseudonyms)
        labels = {"app": "dropout", "version": extproc.__version__, "process": "policy-shadow"}
        self._encoder = EventEncoder(labels, key, self._reads)
        self._second, self._lines, self._logged = 0, 0, 0
        self._skipped = 0
        self._failed = False
        self._metrics.watch(POLICY_SHADOW_UNLOGGED, self._unlogged)
        for queue in self._queues:
            self._metrics.watch(LOG_ERRORS, partial(getattr, queue, "errors"), queue.name)
        self._metrics.rows(self._info)

    def engine(self, policies: str) -> EmbeddedEngine:
        """An engine of policies, which are JSON text. Raises ``InvalidInput``."""
        return RegorusEngine(PolicySources.from_json(policies))

    def use(self, engine: EmbeddedEngine) -> None:
        """Compare with these policies from now on."""
        if self._shadow is None:
            self._shadow = PolicyShadow(engine)
        else:
            self._shadow.swap(engine)

    def take(self, data: memoryview) -> bool:
        """Compare a decision, or take note of a rollout; False when its rollout is not known."""
        assert self._shadow is not None
        try:
            shown = decode_shown(data)
        except UNREADABLE:
            self._metrics.count(POLICY_SHADOW_DROPPED, "unsendable")
            return True
        if isinstance(shown, ShownPlan):
            self._shadow.learn(shown)
            return True
        try:
            self._count(self._shadow.compare(shown))
        except UnplannedError:
            self._metrics.count(POLICY_SHADOW_DROPPED, "unplanned")
            return False
        except Exception:
            self._metrics.count(TASK_FAILURES, "policy shadow")
            if not self._failed:
                self._failed = True
                logger.exception("a decision could not be compared, which is a bug; others like it are only counted")
        return True

    def _count(self, compared: ComparedDecision) -> None:
        self._metrics.count(POLICY_SHADOW_DECISIONS, compared.outcome)
        if compared.verdict.fault is not None:
            self._metrics.count(POLICY_SHADOW_FAULTS, compared.verdict.fault)
        change = compared.change
        if change is not None:
            self._metrics.count(POLICY_SHADOW_DIFFERENCES, change.rollout, change.kind)
            self._log(compared, change)

    def _log(self, compared: ComparedDecision, change: PolicyChange) -> None:
        now = self._clock.now()
        if int(now) != self._second:
            self._second, self._lines = int(now), 0
        if self._lines >= LINES_A_SECOND:
            self._skipped += 1
            return
        self._lines += 1
        self._logged += 1
        if not self._queues:
            say(_sentence(compared, change))
            return
        event = self._event(now, compared, change)
        for queue in self._queues:
            if queue.admit():
                queue.put(event)

    def _event(self, now: float, compared: ComparedDecision, change: PolicyChange) -> Event:
        """What would have been logged if these policies had decided, under an id of its own: nobody is to count it."""
        shadow, live = compared.shadow, compared.live.decision
        assert shadow is not None
        shadow.decision.decision_id = f"{live.decision_id}.policy-shadow"
        event = self._encoder.encode(now, shadow, self._logged)
        said = {
            "decision_id": live.decision_id,
            "change": change.kind,
            "live": {"policy_revision": live.policy_revision, **change.before._asdict()},
        }
        return Event(with_custom(event.body, b'"%s":%s' % (POLICY_SHADOW.encode(), orjson.dumps(said))), event.plan)

    def mask_by(self, policies: str | None) -> None:
        """The masks of what is served hold here, too, and not those of the policies that are compared."""
        self._masks.use(log_policies_of(policies))

    def retain(self, rollouts: Sequence[str]) -> None:
        """Forget what is known of others."""
        assert self._shadow is not None
        kept = frozenset(rollouts)
        self._shadow.retain(kept)
        self._metrics.retain(kept)

    def state(self) -> tuple[str, Dump, list[Mapping[str, Any]]]:
        """The revision of the policies, what was counted, and the ways in which decisions change, most first."""
        assert self._shadow is not None
        changes = sorted(self._shadow.changes.items(), key=lambda found: -found[1].decisions)[:SHOWN_CHANGES]
        described: list[Mapping[str, Any]] = [
            {
                "rollout": change.rollout,
                "kind": change.kind,
                "before": change.before._asdict(),
                "after": change.after._asdict(),
                "decisions": found.decisions,
                "examples": found.ids,
            }
            for change, found in changes
        ]
        return self._shadow.revision, self._metrics.dump(), described

    def reopen(self) -> None:
        """Have sinks open again what they opened, by their names."""
        for queue in self._queues:
            queue.reopen()

    def close(self) -> None:
        """Hand the rest of what was logged to its sinks."""
        for queue in self._queues:
            queue.close(CLOSE_SECONDS)

    def _reads(self, path: str) -> tuple[str, ...]:
        assert self._shadow is not None
        return cast(InputPaths, self._shadow.reads(path)).paths

    def _unlogged(self) -> int:
        """Lines that nobody got: none is missing among the decisions of the log."""
        return self._skipped + sum(queue.drops for queue in self._queues)

    def _info(self) -> Iterable[Row]:
        return [(POLICY_SHADOW_INFO, (self._shadow.revision,), 1.0)] if self._shadow is not None else []


def _sentence(compared: ComparedDecision, change: PolicyChange) -> str:
    """What would be otherwise, of codes and versions alone."""
    live, shadow = compared.live.decision, compared.shadow
    assert shadow is not None
    return (
        f"decision {live.decision_id} of {change.rollout}: {_decided(change.before)} would be "
        f"{_decided(change.after)} by revision {shadow.decision.policy_revision}"
    )


def _decided(decided: DecidedAs) -> str:
    what = f"version {decided.version}" if decided.http_status is None else f"status {decided.http_status}"
    copied = f", a copy to {decided.shadow}" if decided.shadow is not None else ""
    return f"{what}{copied} ({decided.reason})"


def main(arguments: list[str]) -> int:
    """Compare; ``arguments`` are the descriptors of the lifeline, what is shown, the heartbeat's page, and the pipe."""
    lifeline, shown, page, pipe = map(int, arguments)
    hang_on(lifeline)
    configure_logging("policy-shadow")
    return run_policy_shadow(shown, page, pipe, PolicyShadowComparer, settings().evaluation_limit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
