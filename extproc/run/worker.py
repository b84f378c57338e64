"""A worker of ``dropout serve``: what its decision path is put together from.

Started as ``python -m extproc.run.worker TRANSPORT``; nobody types it. Everything that a worker needs is imported
here, at once: the supervisor starts it before it knows what there is to serve.
"""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

import extproc
from extproc.adapters.regorus.log_policies import LogPolicies
from extproc.adapters.regorus.policy import RegorusEngine
from extproc.adapters.stores import open_store
from extproc.clock import Clock, SystemClock
from extproc.datapath.features import FeatureReader
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.policy_input import InputPaths, plain_input
from extproc.datapath.ports import DecisionRecord, DecisionSink, EmbeddedEngine, LogRoom
from extproc.datapath.pseudonym import load_or_create_key
from extproc.datapath.remote_policies import RemotePolicies
from extproc.datapath.sinks.batching_sink import BatchingSink
from extproc.datapath.sinks.decision_event import EventEncoder
from extproc.datapath.sinks.decision_log import DecisionLog
from extproc.datapath.sinks.event_queue import EventQueue
from extproc.datapath.sinks.log_room import StableIfFull, WaitIfFull
from extproc.datapath.sinks.masking import LOG_RULES
from extproc.datapath.sinks.tally import DecisionTally, Tallied
from extproc.datapath.transports.exchange import RequestHandler
from extproc.datapath.verdict_cache import VerdictCache
from extproc.decision_id import DecisionIds, KeyFile
from extproc.errors import DropoutError, Fault
from extproc.metrics.catalogue import (
    LOG_DROPS,
    LOG_ERRORS,
    POLICY_ENGINE_UP,
    POLICY_JOINED,
    POLICY_OPENINGS,
    POLICY_QUESTIONS,
    POLICY_REMEMBERED,
    POLICY_SHADOW_DROPPED,
    STREAM_ERRORS,
    TASK_FAILURES,
    VERDICT_HITS,
    VERDICT_MISSES,
)
from extproc.metrics.counting import Metrics
from extproc.names import Reason
from extproc.plugins import FEATURES, POLICY_ENGINE, open_adapter
from extproc.resources.deadline import late
from extproc.resources.policies import PolicySources
from extproc.run.feature_metrics import watch_features
from extproc.run.log_queues import masked_queues
from extproc.serve.logs import configure_logging
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker.server import server_maker
from extproc.serve.worker.worker import run_worker
from extproc.serve.worker_config import STABLE, WAIT, ShownShare, WorkerConfig
from extproc.settings import settings
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout, Overlay, Snapshot
from extproc.snapshot.trips import LocalTrip
from extproc.state import StateFolder

if TYPE_CHECKING:
    from extproc.datapath.policy_shadow.sampler import PolicyShadowSampler

logger = logging.getLogger(__name__)

_WORTH_FREEZING: Final = 1000
"""Rollouts compiled since the last freeze: a full collection walks as many in a few milliseconds."""


class DecisionApplication:
    """The decision path of one worker, as ``serve.worker.application.Application`` wants it."""

    def __init__(self, config: WorkerConfig, policies: PolicySlot) -> None:
        clock = SystemClock()
        self._clock = clock
        self._policies = policies
        self._remote: RemotePolicies | None = None
        if config.policy_engine:
            self._remote = RemotePolicies(open_adapter(POLICY_ENGINE, config.policy_engine, "--policy-engine"), clock)
            policies.use_remote(self._remote)
        self._store = open_store(config.store)
        self._holder = SnapshotHolder(self._store, clock)
        self._frozen_at = 0
        self._deadline = config.decision_deadline
        self._metrics = Metrics(clock)
        self._traffic = _Traffic()
        self._verdicts = VerdictCache(settings().verdict_cache_entries)
        self._features = _open_features(config.features, clock, config.decision_deadline) if config.features else None
        self._log_policies = LogPolicies(settings().evaluation_limit)
        self._log = self._open_log(config) if config.sinks else None
        self._unanswered_of: tuple[object, object] = (None, None)
        self._unanswered: list[dict[str, Any]] = []
        self._id_keys = KeyFile(StateFolder(config.state).ids, clock)
        self._holder.on_swap.append(self._swapped)
        self._watch()
        sinks: list[DecisionSink] = [self._metrics, self._traffic]
        self._tally = DecisionTally(clock) if config.observed else None
        if self._tally is not None:
            sinks.append(self._tally)
        if self._log is not None:
            sinks.append(self._log)
        self._sampler = self._sample(config.policy_shadow) if config.policy_shadow is not None else None
        if self._sampler is not None:
            sinks.append(self._sampler)
        self._noted = BatchingSink(sinks)
        queues = self._log.queues if self._log is not None else ()
        self._pipeline = Pipeline(
            self._holder,
            policies,
            self._features,
            DecisionIds(self._id_keys, config.index, clock),
            clock,
            self._noted,
            config.decision_deadline,
            _room(config.log_full, queues, lambda: self._noted.waiting) if queues else None,
        )

    def _open_log(self, config: WorkerConfig) -> DecisionLog:
        queues = masked_queues(config.sinks, self._log_policies, config.policy_engine)
        key = load_or_create_key(StateFolder(config.state).pseudonyms)
        labels = {"app": "dropout", "id": str(uuid4()), "version": extproc.__version__, "worker": str(config.index)}
        return DecisionLog(EventEncoder(labels, key, self._reads), queues, self._clock)

    def _sample(self, shown: ShownShare) -> PolicyShadowSampler:
        from extproc.datapath.policy_shadow.sampler import PolicyShadowSampler  # most workers show nobody anything

        sampler = PolicyShadowSampler(socket.socket(fileno=shown.fd), shown.share, self._clock)
        for why in sampler.dropped:
            self._metrics.watch(POLICY_SHADOW_DROPPED, partial(sampler.dropped.__getitem__, why), why)
        return sampler

    def _reads(self, path: str) -> tuple[str, ...]:
        engine = self._policies.current
        return cast(InputPaths, engine.reads(path)).paths if engine is not None else ()

    def _watch(self) -> None:
        """Have what others count read at every dump."""
        verdicts = self._verdicts
        self._metrics.watch(VERDICT_HITS, lambda: verdicts.hits)
        self._metrics.watch(VERDICT_MISSES, lambda: verdicts.misses)
        if self._features is not None:
            watch_features(self._metrics, self._features)
        if self._remote is not None:
            self._watch_remote(self._remote)
        for queue in self._log.queues if self._log is not None else ():
            self._metrics.watch(LOG_DROPS, partial(getattr, queue, "drops"), queue.name)
            self._metrics.watch(LOG_ERRORS, partial(getattr, queue, "errors"), queue.name)

    def _watch_remote(self, remote: RemotePolicies) -> None:
        self._metrics.watch(POLICY_QUESTIONS, lambda: remote.questions)
        self._metrics.watch(POLICY_JOINED, lambda: remote.joined)
        self._metrics.watch(POLICY_REMEMBERED, lambda: remote.remembered)
        self._metrics.watch(POLICY_OPENINGS, lambda: remote.openings)
        self._metrics.gauge(POLICY_ENGINE_UP, lambda: float(remote.fault is None))

    def _swapped(self, snapshot: Snapshot) -> None:
        self._noted.flush()  # what was decided from the one before counts as that one's
        self._metrics.snapshot(snapshot.revision)
        self._metrics.retain(snapshot.rollouts.keys())
        if self._features is not None:
            self._features.views.retain(_views(snapshot))
        if self._tally is not None:
            self._tally.retain(snapshot.rollouts)
        if self._sampler is not None:
            self._sampler.retain(snapshot.rollouts)

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

    def engine(self, sources: str) -> EmbeddedEngine:
        """An engine of ``sources``, to be put in force at once."""
        self._noted.flush()  # what is logged of a policy's input is what the policy reads that was asked
        parsed = PolicySources.from_json(sources)
        engine = RegorusEngine(parsed)
        self._log_policies.use(parsed if any(map(engine.has, LOG_RULES)) else None)
        return self._verdicts.before(engine)

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
        for compiled in self._holder.current.rollouts.values():
            if compiled.policy is not None and compiled.policy.path not in trials:
                reads = engine.reads(compiled.policy.path)
                trials[compiled.policy.path] = plain_input(compiled, self._clock.now(), reads)
        return trials

    @property
    def process(self) -> RequestHandler:
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
        errors.extend(self.unanswered())
        errors.extend(self._ended_early(snapshot))
        if self._features is not None and self._features.reads.is_left_alone:
            message = "the feature store does not answer: it is left alone until it does, and features are missing"
            errors.append({"rollout": None, **Fault(Reason.FEATURE_STORE_DOWN, message, field="--features").as_dict()})
        rollouts = (_described(compiled, snapshot.overlay_of(key)) for key, compiled in snapshot.rollouts.items())
        return {"rollouts": rollouts, "errors": errors}

    def unanswered(self) -> list[dict[str, Any]]:
        """What rollouts ask for and nobody has: each once, with the first rollout that asks.

        It is asked for every few seconds, beside requests: rollouts are gone through when they or the policies changed.
        """
        of = (self._holder.current.rollouts, self._policies.current)
        if any(one is not other for one, other in zip(of, self._unanswered_of, strict=True)):
            self._unanswered_of, self._unanswered = of, list(self._never_answered(self._holder.current))
        return [*self._unanswered, *self._stale()]

    def _never_answered(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        engine = self._policies.current
        where, way_out = "no policy has it", "write it"
        if engine is None:
            where, way_out = "no policies are served", "start serve with, say, --policies /etc/dropout/policies"
        named = set[str]()
        features_answered = self._features is not None
        for key, compiled in snapshot.rollouts.items():
            policy = compiled.policy
            if policy is not None and policy.path not in named and (engine is None or not engine.has(policy.path)):
                named.add(policy.path)
                message = f"the rule {policy.path} is asked, but {where}: every request ends at onError; {way_out}"
                fault = Fault("policy_rule_missing", message, field="spec.policy.path")
                yield {"rollout": key, "rule": policy.path, **fault.as_dict()}
            if compiled.features is not None and not features_answered:
                features_answered = True
                message = (
                    "features are asked for, but serve has no --features: every one is missing; name their store by "
                    "--features or DROPOUT_FEATURES, such as sqlite:/var/lib/dropout/features.db"
                )
                yield {"rollout": key, **Fault("feature_store_missing", message, field="spec.features").as_dict()}

    def _stale(self) -> Iterator[dict[str, Any]]:
        """Each view of which too much is too old, with the first rollout that reads it and minds."""
        stale = self._features.stale_views() if self._features is not None else set()
        for key, compiled in self._holder.current.rollouts.items() if stale else ():
            need = compiled.features
            if need is None or need.max_age is None:
                continue
            for view in sorted(stale & need.view_names):
                stale.remove(view)
                message = (
                    f"values of the view {view} are older than maxAge in too many reads: see whether the job that "
                    "writes them still runs"
                )
                yield {
                    "rollout": key,
                    "view": view,
                    **Fault("features_stale", message, field="spec.features").as_dict(),
                }

    def _ended_early(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        """Rollouts in the store from before that wait longer than they may: features are missing at the deadline."""
        for key, compiled in snapshot.rollouts.items():
            if compiled.features is not None and compiled.features.timeout > self._deadline:
                yield {"rollout": key, **late("features", compiled.features.timeout, self._deadline).as_dict()}

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

    def watch_engine(self, tell: Callable[[str, Fault | None], object]) -> None:
        """Of ``RemotePolicies``; another revision is noted for the metrics, too."""
        remote = self._remote
        if remote is None:
            return
        noted = remote.revision

        def told() -> None:
            nonlocal noted
            if remote.revision != noted:
                noted = remote.revision
                self._metrics.policy(noted)
            tell(noted, remote.fault)

        remote.on_change.append(told)
        told()

    def hold(self, trips: Sequence[LocalTrip], killed: Sequence[str]) -> None:
        """Beside what the store says, until the next of its kind."""
        self._holder.hold(trips, frozenset(killed))

    def listening(self) -> None:
        """Tell of every unit again."""
        if self._tally is not None:
            self._tally.begin_anew()

    def tell_plans(self) -> None:
        """Tell of every rollout again."""
        if self._sampler is not None:
            self._sampler.tell_again()

    def take_decided(self) -> Tallied | None:
        """The tally since the last time."""
        self._noted.flush()
        tallied = self._tally.take() if self._tally is not None else None
        return tallied if tallied is not None and tallied.counts else None

    def reload(self) -> None:
        """Read the keys and have sinks open again what they opened, by their names; the store needs no telling."""
        try:
            self._id_keys.reload()
        except DropoutError as error:
            logger.warning("the keys of decision ids stay as they were: %s", error)
        if self._log is not None:
            self._log.reopen()
        if self._remote is not None:
            self._remote.reopen()

    async def close(self, within: float) -> None:
        """Hand the rest of the log to its sinks, let go of the stores."""
        self._noted.flush()
        if self._log is not None:
            await self._log.close(within)
        if self._features is not None:
            await self._features.close()
        if self._remote is not None:
            await self._remote.close()
        self._store.close()


def _open_features(url: str, clock: Clock, deadline: float) -> FeatureReader:
    tuning = settings()
    return FeatureReader(
        open_adapter(FEATURES, url, "--features"),
        clock,
        max_bytes=tuning.feature_cache_bytes,
        max_entries=tuning.feature_cache_entries,
        max_age=tuning.feature_cache,
        deadline=deadline,
        skew=tuning.feature_skew,
        stale_share=tuning.feature_stale_share,
        trusted=[name for each in tuning.trusted_headers.split(",") if (name := each.strip().lower())],
        others_reads=tuning.untrusted_reads,
    )


def _views(snapshot: Snapshot) -> set[str]:
    """The views that rollouts read."""
    needs = (compiled.features for compiled in snapshot.rollouts.values())
    return {view for need in needs if need is not None for view in need.view_names}


def _room(when_full: str, queues: Sequence[EventQueue], noted: Callable[[], int]) -> LogRoom | None:
    if when_full == WAIT:
        return WaitIfFull(queues, noted)
    return StableIfFull(queues, noted) if when_full == STABLE else None


class _Traffic:
    """Counts decisions, so that a draining worker knows when requests stop coming."""

    def __init__(self) -> None:
        self.decided = 0

    def record(self, decided: DecisionRecord) -> None:
        self.decided += 1


def _described(compiled: CompiledRollout, overlay: Overlay) -> dict[str, Any]:
    return {
        "key": compiled.key,
        "model": compiled.model,
        "stable": compiled.stable,
        "canary": compiled.canary,
        "weight": compiled.weight / 100,
        "epoch": compiled.epoch,
        "arms": {arm: list(span) for arm, span in compiled.ranges.items()},
        "killed": overlay.killed,
        "tripped": sorted(overlay.tripped),
        "probing": sorted(overlay.probing),
        "aborted": sorted(compiled.aborted),
    }


def main(arguments: list[str]) -> int:
    """Serve; ``arguments`` are the transport and the descriptors of the pipe and of the heartbeat's page."""
    configure_logging("worker")
    transport, pipe, page = arguments
    return run_worker(int(pipe), int(page), DecisionApplication, server_maker(transport))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
