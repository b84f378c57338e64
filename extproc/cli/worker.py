"""A worker of ``dropout serve``: what its decision path is put together from.

Started as ``python -m extproc.cli.worker TRANSPORT``; nobody types it. Everything that a worker needs is imported
here, at once: the supervisor starts it before it knows what there is to serve.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from extproc.adapters.regorus_policy import RegorusEngine
from extproc.adapters.sqlite_features import open_features
from extproc.adapters.stores import beside, open_store
from extproc.clock import Clock, SystemClock
from extproc.datapath.decision_log import DecisionLog
from extproc.datapath.features import FeatureReader
from extproc.datapath.later import Later
from extproc.datapath.model import NO_FEATURES, Request, Unit
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.policy_input import Reads, build_input
from extproc.datapath.ports import Decided, DecisionSink, InputReads, PolicyEngine
from extproc.datapath.pseudonym import load_or_create_key
from extproc.datapath.tally import Tally
from extproc.datapath.transports.exchange import Process
from extproc.datapath.verdict_cache import VerdictCache
from extproc.decision_id import DecisionIds, KeyFile
from extproc.errors import DropoutError, Fault
from extproc.metrics import (
    CACHE_BYTES,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_REFUSED,
    FEATURE_ERRORS,
    LOG_DROPS,
    LOG_ERRORS,
    STREAM_ERRORS,
    TASK_FAILURES,
    VERDICT_HITS,
    VERDICT_MISSES,
    Metrics,
)
from extproc.resources.deadline import late_features
from extproc.resources.policies import PolicySources
from extproc.serve.logs import configure_logging
from extproc.serve.server import server_maker
from extproc.serve.worker import PolicySlot, run_worker
from extproc.serve.worker_config import WorkerConfig
from extproc.settings import settings
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout, Overlay, Snapshot
from extproc.snapshot.trips import LocalTrip

logger = logging.getLogger(__name__)

_TRIAL_PATH: Final = "/"
_WORTH_FREEZING: Final = 1000
"""Rollouts compiled since the last freeze: a full collection walks as many in a few milliseconds."""


class RouterApplication:
    """The decision path of one worker, as ``serve.worker.Application`` wants it."""

    def __init__(self, config: WorkerConfig, policies: PolicySlot) -> None:
        clock = SystemClock()
        self._clock = clock
        self._policies = policies
        self._store = open_store(config.store)
        self._holder = SnapshotHolder(self._store, clock)
        self._frozen_at = 0
        self._deadline = config.decision_deadline
        self._metrics = Metrics(clock)
        self._traffic = _Traffic()
        self._verdicts = VerdictCache(settings().verdict_cache_entries)
        self._features = _open_features(config.features, clock, config.decision_deadline) if config.features else None
        self._log = self._open_log(config) if config.decision_log else None
        self._id_keys = KeyFile(beside(config.store, ".ids"), clock)
        self._holder.on_swap.append(self._swapped)
        self._watch()
        sinks: list[DecisionSink] = [self._metrics, self._traffic]
        self._tally = Tally(clock) if config.observed else None
        if self._tally is not None:
            sinks.append(self._tally)
        if self._log is not None:
            sinks.append(self._log)
        self._noted = Later(sinks)
        self._pipeline = Pipeline(
            self._holder,
            policies,
            self._features,
            DecisionIds(self._id_keys, config.index, clock),
            clock,
            self._noted,
        )

    def _open_log(self, config: WorkerConfig) -> DecisionLog:
        assert config.decision_log is not None
        key = load_or_create_key(beside(config.store, ".key"))
        labels = {"app": "dropout", "worker": str(config.index)}
        return DecisionLog(Path(config.decision_log), labels, key, self._clock, reads=self._reads)

    def _reads(self, path: str) -> tuple[str, ...]:
        engine = self._policies.current
        return cast(Reads, engine.reads(path)).paths if engine is not None else ()

    def _watch(self) -> None:
        """Have what others count read at every dump."""
        verdicts = self._verdicts
        self._metrics.watch(VERDICT_HITS, lambda: verdicts.hits)
        self._metrics.watch(VERDICT_MISSES, lambda: verdicts.misses)
        if self._features is not None:
            features = self._features
            self._metrics.watch(CACHE_HITS, lambda: features.hits)
            self._metrics.watch(CACHE_MISSES, lambda: features.misses)
            self._metrics.watch(CACHE_REFUSED, lambda: features.cache.refused)
            self._metrics.gauge(CACHE_BYTES, lambda: features.cache.bytes)
            self._metrics.watch(FEATURE_ERRORS, lambda: features.errors)
        if self._log is not None:
            log = self._log
            self._metrics.watch(LOG_DROPS, lambda: log.drops)
            self._metrics.watch(LOG_ERRORS, lambda: log.errors)

    def _swapped(self, snapshot: Snapshot) -> None:
        self._noted.flush()  # what was decided from the one before counts as that one's
        self._metrics.snapshot(snapshot.revision)
        self._metrics.retain(snapshot.rollouts.keys())
        if self._tally is not None:
            self._tally.retain(snapshot.rollouts)

    def _freeze_many(self, _snapshot: Snapshot) -> None:
        """Keep full collections from walking ten thousand rollouts.

        Whatever lives at that moment is never collected again, requests with their cycles too, so a few rollouts are
        not worth it, and what is garbage already goes first.
        """
        if self._holder.compiled - self._frozen_at >= _WORTH_FREEZING:
            self._frozen_at = self._holder.compiled
            gc.collect(1)
            gc.freeze()

    @property
    def decided(self) -> int:
        """Requests decided so far."""
        return self._traffic.decided

    @property
    def revision(self) -> int:
        """The store's revision that requests are decided from."""
        return self._holder.current.revision

    def engine(self, sources: str) -> PolicyEngine:
        """An engine of ``sources``, to be put in force at once."""
        self._noted.flush()  # what is logged of a policy's input is what the policy reads that was asked
        return self._verdicts.before(RegorusEngine(PolicySources.from_json(sources)))

    def load(self) -> None:
        """The first snapshot."""
        self._holder.load()
        self._frozen_at = self._holder.compiled  # the worker freezes what there is when it has started
        self._holder.on_swap.append(self._freeze_many)

    def trials(self) -> dict[str, Any]:
        """For each rule that a rollout asks, the input of a plain request to the first rollout that asks it."""
        engine = self._policies.current
        if engine is None:
            return {}
        trials: dict[str, Any] = {}
        for rollout in self._holder.current.rollouts.values():
            if rollout.policy is not None and rollout.policy.path not in trials:
                trials[rollout.policy.path] = self._trial_input(rollout, engine.reads(rollout.policy.path))
        return trials

    def _trial_input(self, rollout: CompiledRollout, reads: InputReads) -> dict[str, Any]:
        request = Request(method="POST", path=_TRIAL_PATH, host="trial", scheme="http", headers={":path": b"/"})
        return build_input(request, rollout, Unit(b"trial"), NO_FEATURES, self._clock.now(), reads)

    @property
    def process(self) -> Process:
        """What replies to one request's headers."""
        return self._pipeline.process

    def count_fault(self, fault: str) -> None:
        """Count it; what it was is no label, because it is the peer's doing."""
        del fault
        self._metrics.count(STREAM_ERRORS)

    def count_failure(self, task: str) -> None:
        """Count it by the work that failed."""
        self._metrics.count(TASK_FAILURES, task)

    async def follow(self) -> None:
        """Follow the store."""
        await self._holder.follow()

    def describe(self) -> dict[str, Any]:
        """For /snapshot: what is wrong, and every rollout, described as it is iterated over."""
        snapshot = self._holder.current
        errors = [{"rollout": key, **fault.as_dict()} for key, fault in self._holder.errors.items()]
        if self._holder.store_fault is not None:
            errors.append({"rollout": None, **self._holder.store_fault.as_dict()})
        errors.extend(self._never_answered(snapshot))
        errors.extend(self._ended_early(snapshot))
        rollouts = (_described(rollout, snapshot.overlay_of(key)) for key, rollout in snapshot.rollouts.items())
        return {"rollouts": rollouts, "errors": errors}

    def _never_answered(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        """What rollouts ask for and nobody has: each once, with the first rollout that asks."""
        engine = self._policies.current
        where = "no policies are served" if engine is None else "no policy has it"
        answered = set(engine.paths) if engine is not None else set[str]()
        features_answered = self._features is not None
        for key, rollout in snapshot.rollouts.items():
            policy = rollout.policy
            if policy is not None and policy.path not in answered:
                answered.add(policy.path)
                message = f"The rule {policy.path} is asked, but {where}: every request ends at onError."
                yield {"rollout": key, **Fault("policy_rule_missing", message, field="spec.policy.path").as_dict()}
            if rollout.features is not None and not features_answered:
                features_answered = True
                message = "Features are asked for, but serve has no --features: every one is missing."
                yield {"rollout": key, **Fault("feature_store_missing", message, field="spec.features").as_dict()}

    def _ended_early(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        """Rollouts in the store from before that wait longer than they may: features are missing at the deadline."""
        for key, rollout in snapshot.rollouts.items():
            if rollout.features is not None and rollout.features.timeout > self._deadline:
                yield {"rollout": key, **late_features(rollout.features.timeout, self._deadline).as_dict()}

    def dump(self) -> dict[str, Any]:
        """The metrics, of every decision that was answered."""
        self._noted.flush()
        self._metrics.snapshot_confirmed(self._holder.confirmed_at)
        return self._metrics.dump()

    def rollouts(self) -> list[str]:
        """The keys of all rollouts."""
        return list(self._holder.current.rollouts)

    def policies_swapped(self, revision: str) -> None:
        """Note it for the metrics."""
        if revision:
            self._metrics.policy(revision)

    def hold(self, trips: Sequence[LocalTrip], killed: Sequence[str]) -> None:
        """Beside what the store says, until the next of its kind."""
        self._holder.hold(trips, frozenset(killed))

    def listening(self) -> None:
        """Tell of every unit again."""
        if self._tally is not None:
            self._tally.begin_anew()

    def take_decided(self) -> dict[str, Any] | None:
        """The tally since the last time."""
        self._noted.flush()
        tallied = self._tally.take() if self._tally is not None else None
        return {"counts": tallied.counts, "units": tallied.units} if tallied is not None and tallied.counts else None

    def reload(self) -> None:
        """Read the keys and open the decision log again, by their names; the store needs no telling."""
        try:
            self._id_keys.reload()
        except DropoutError as error:
            logger.warning("The keys of decision ids stay as they were: %s", error)
        if self._log is not None:
            self._log.reopen()

    def close(self) -> None:
        """Write the rest of the log, let go of the stores."""
        self._noted.flush()
        if self._log is not None:
            self._log.close()
        if self._features is not None:
            self._features.close()
        self._store.close()


def _open_features(url: str, clock: Clock, deadline: float) -> FeatureReader:
    tuning = settings()
    return FeatureReader(
        open_features(url),
        clock,
        max_bytes=tuning.feature_cache_bytes,
        max_age=tuning.feature_cache,
        deadline=deadline,
    )


class _Traffic:
    """Counts decisions, so that a draining worker knows when requests stop coming."""

    def __init__(self) -> None:
        self.decided = 0

    def record(self, decided: Decided) -> None:
        self.decided += 1


def _described(rollout: CompiledRollout, overlay: Overlay) -> dict[str, Any]:
    return {
        "key": rollout.key,
        "model": rollout.model,
        "stable": rollout.stable,
        "canary": rollout.canary,
        "weight": rollout.weight / 100,
        "epoch": rollout.epoch,
        "arms": {arm: list(span) for arm, span in rollout.ranges.items()},
        "killed": overlay.killed,
        "tripped": sorted(overlay.tripped),
        "probing": sorted(overlay.probing),
        "aborted": sorted(rollout.aborted),
    }


def main(arguments: list[str]) -> int:
    """Serve; ``arguments`` are the transport and the descriptors of the pipe and of the heartbeat's page."""
    configure_logging()
    transport, pipe, page = arguments
    return run_worker(int(pipe), int(page), RouterApplication, server_maker(transport))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
