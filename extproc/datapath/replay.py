"""Logged decisions, decided again: the same ``decide`` on the facts that the log holds.

The unit is not in the log, so its buckets stand in for it; what the gatherer found out (a missing unit, features that
came too late, a policy in quarantine) is taken as it was, and so is what a policy said where none are given. Else they
are asked again, on the part of the input that was written down. Where that is not the whole of what they read, or the
rollout's document has changed what was gathered, the decision is not replayable and says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from extproc.datapath.decide import decide
from extproc.datapath.logged import (
    PLAN_MISSING,
    LoggedEvents,
    facts_of,
    left_out,
    overlay_of,
    path_of,
    reads_of,
    rollout_of,
    shown_features,
    taken_out,
    verdict_of,
)
from extproc.datapath.model import Decision, PolicyVerdict
from extproc.datapath.policy_input import EVERYTHING, InputPaths, paths_of
from extproc.datapath.ports import EmbeddedEngine
from extproc.datapath.record import FEATURES_OF, RECORD_FIELDS, record_of
from extproc.errors import DropoutError
from extproc.names import Reason
from extproc.resources.input_paths import format_path
from extproc.resources.rollout import Rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.model import CompiledRollout, PolicyUse
from extproc.store.status import Status

COMPARED: Final = (*(field for field in RECORD_FIELDS if field not in ("decision_id", "stage_us")), FEATURES_OF)
"""What a replay has to reproduce: the record without its name and its durations."""

_OURS: Final = frozenset(
    ("rollout", "buckets", "unit_fault", "per_request", "feature_fault", "too_large", "log_full", "overlay", "plan")
)
"""What the log adds to the policy's own input."""

_NEEDED: Final = (
    *(("input", name) for name in sorted(_OURS - {"rollout"})),
    *(("result", name) for name in COMPARED),
    *(("result", "policy", name) for name in ("versions", "fault")),
)
_NEEDED_OF_A_VERDICT: Final = tuple(("result", "policy", name) for name in ("allow", "version", "shadow"))
"""Where nobody is asked again."""

_BESIDE: Final = "what no policy reads is in no log, and --policies-shadow tries one beside it on live requests"

_MAX_COMPILED: Final = 1024


class Difference(NamedTuple):
    """One field of the record that came out differently."""

    field: str
    logged: Any
    replayed: Any


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one line of the log.

    ``differences`` is empty for a decision that was reproduced. ``not_replayable`` says why nothing could be
    compared, ``fault`` why the line is no event. ``rollout`` decided, if any did.
    """

    line: int
    decision_id: str | None = None
    rollout: str | None = None
    differences: tuple[Difference, ...] = ()
    not_replayable: str | None = None
    fault: str | None = None


class NotReplayableError(Exception):
    """Something that the decision was made from is not in the log, or would not be gathered the same way."""


class BadEventError(Exception):
    """A line is no event that can be decided again."""


class Replay:
    """Decides logged events again, with ``engine`` for the policies; without one, what they said then is a fact.

    ``rollouts`` (by ``namespace/name``) take the place of the specs in the log, whose status stays; None decides by
    the specs in the log.
    """

    def __init__(self, engine: EmbeddedEngine | None, rollouts: Mapping[str, Rollout] | None = None) -> None:
        self._engine = engine
        self._rollouts = rollouts
        self._events = LoggedEvents()
        self._compiled: dict[tuple[str, bytes], tuple[CompiledRollout, CompiledRollout]] = {}

    def lines(self, lines: Iterable[bytes]) -> Iterator[Replayed]:
        """Replay a log line by line; it holds no more than the plans. Blank lines and plans count for nothing."""
        for number, line in enumerate(lines, start=1):
            replayed = self._line(number, line) if line.strip() else None
            if replayed is not None:
                yield replayed

    def _line(self, number: int, line: bytes) -> Replayed | None:
        decision_id = rollout = None
        try:
            event = read_event(self._events, line)
            if event is None:
                return None
            decision_id, rollout = event["decision_id"], event["result"].get("rollout")
            differences = self._differences(event)
        except NotReplayableError as error:
            return Replayed(number, decision_id, rollout, not_replayable=str(error))
        except BadEventError as error:
            return Replayed(number, decision_id, rollout, fault=str(error))
        return Replayed(number, decision_id, rollout, differences=differences)

    def _differences(self, event: Mapping[str, Any]) -> tuple[Difference, ...]:
        with _failures():
            result, decision = event["result"], self._decide(event)
            if decision is None:
                return _compare(result, _nothing(result))
            return _compare(result, record_of(decision, result["unit"], shown_features(event)))

    def decide(self, event: Mapping[str, Any]) -> Decision | None:
        """The decision of ``event``, made again; None where no rollout matched.

        Raises:
            NotReplayableError, BadEventError: it cannot be made, and why.
        """
        with _failures():
            return self._decide(event)

    def _decide(self, event: Mapping[str, Any]) -> Decision | None:
        result = event["result"]
        lacking = sorted(pointer for pointer in taken_out(event) if self._is_made_from(pointer))
        if lacking:
            raise NotReplayableError(f"what it is made from was taken out of the log: {', '.join(lacking)}")
        if result["rollout"] is None:
            if self._rollouts is not None:
                raise NotReplayableError("no rollout matched, and what other rollouts would match is not in the log")
            return None
        compiled = self._plan(event)
        return decide(
            compiled,
            overlay_of(event),
            facts_of(event, self._verdict(compiled, event)),
            revision=result["revision"],
            policy_revision=result["policy_revision"],
        )

    def _is_made_from(self, pointer: str) -> bool:
        """Whether a decision is made from what is at, above or below ``pointer``, or compared with it."""
        parts = tuple(pointer.split("/")[1:])
        needed = _NEEDED if self._engine is not None else (*_NEEDED, *_NEEDED_OF_A_VERDICT)
        return any(parts[: len(place)] == place[: len(parts)] for place in needed)

    def _plan(self, event: Mapping[str, Any]) -> CompiledRollout:
        """The rollout to decide with: the logged one, or the one that takes its place."""
        cached = _named(event)
        if cached not in self._compiled:
            if len(self._compiled) >= _MAX_COMPILED:
                self._compiled.clear()
            self._compiled[cached] = self._compile(event)
        logged, compiled = self._compiled[cached]
        changed = _gathered_otherwise(logged, compiled)
        if changed:
            raise NotReplayableError(f"the document changed {changed}, so other facts would be gathered")
        return compiled

    def _compile(self, event: Mapping[str, Any]) -> tuple[CompiledRollout, CompiledRollout]:
        logged = rollout_of(event)
        if self._rollouts is None:
            return logged, logged
        document = self._rollouts.get(logged.key)
        if document is None:
            raise NotReplayableError(f"there is no document of {logged.key}")
        status = Status.from_dict(event["input"]["plan"]["status"])
        return logged, compile_rollout(document, status, now=0.0)

    def _verdict(self, compiled: CompiledRollout, event: Mapping[str, Any]) -> PolicyVerdict | None:
        """What the policy says now; what it was found to be then, where it was not asked."""
        if compiled.policy is None:
            return None
        logged = verdict_of(event)
        if logged is None:
            raise NotReplayableError("no policy was asked, so its input is not in the log")
        if self._engine is None:
            self._check_same_question(compiled.policy, event)
            return logged
        if logged.fault is Reason.POLICY_QUARANTINED or (logged.fault is not None and not reads_of(event)):
            return logged
        self._check_reads(self._engine, compiled, event)
        document = {name: value for name, value in event["input"].items() if name not in _OURS}
        document["rollout"] = compiled.policy_input
        if compiled.policy.reads is not None:
            document = _told(document, paths_of(compiled.policy.reads))
        return self._engine.evaluate(compiled.policy.path, document)

    def _check_same_question(self, use: PolicyUse, event: Mapping[str, Any]) -> None:
        """Where nobody is asked again, a document that asks otherwise has no answer."""
        logged, _ = self._compiled[_named(event)]
        if logged.policy is None or (logged.policy.path, logged.policy.reads) != (use.path, use.reads):
            raise NotReplayableError("the document asks its policy otherwise than it did, and no --policies are asked")

    def _check_reads(self, engine: EmbeddedEngine, compiled: CompiledRollout, event: Mapping[str, Any]) -> None:
        """Every part of the input that the policy reads now has to be in the log."""
        assert compiled.policy is not None
        reads = _reads(engine, compiled.policy)
        out = (pointer for pointer in sorted(taken_out(event)) if pointer.startswith("/input"))
        lacking = [pointer for pointer in out if reads.include(*path_of(pointer))]
        if lacking:
            names = ", ".join(left_out(pointer, compiled) for pointer in lacking)
            raise NotReplayableError(f"the policy reads what was left out of the log: {names}")
        # The rollout is made from the plan, so it is there whatever was read.
        known = InputPaths.parse([*reads_of(event), "rollout"])
        for wanted in reads.raw_paths:
            if not known.include_whole(*wanted):
                name = format_path(wanted) or "as a whole"
                raise NotReplayableError(
                    f"the policy reads input {name}, which it did not when this was logged: {_BESIDE}"
                )


def _reads(engine: EmbeddedEngine, use: PolicyUse) -> InputPaths:
    """What the rule reads now of what its document tells it."""
    found = engine.reads(use.path)
    reads = found if isinstance(found, InputPaths) else EVERYTHING
    return reads if use.reads is None else reads.within(paths_of(use.reads))


def _named(event: Mapping[str, Any]) -> tuple[str, bytes]:
    """The plan of an event, by which what is compiled of it is kept."""
    return event["result"]["rollout"], orjson.dumps(event["input"]["plan"])


def _told(document: Mapping[str, Any], reads: InputPaths, *above: str) -> dict[str, Any]:
    """The parts of ``document`` that a rule is told."""
    return {
        name: value
        if not isinstance(value, Mapping) or reads.include_whole(*above, name)
        else _told(value, reads, *above, name)
        for name, value in document.items()
        if reads.include(*above, name)
    }


def read_event(events: LoggedEvents, line: bytes) -> dict[str, Any] | None:
    """The decision in a line, as ``LoggedEvents`` has it. Raises ``BadEventError``."""
    try:
        return events.read(line)
    except ValueError as error:
        raise BadEventError(str(error)) from error


@contextmanager
def _failures() -> Iterator[None]:
    """Whatever an event has that nothing can be decided from, said as ``decide`` says it."""
    try:
        yield
    except DropoutError as error:
        why = error.faults[0].message if error.code == PLAN_MISSING else f"the plan is refused: {error}"
        raise NotReplayableError(why) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadEventError(f"the event lacks what a decision is made from: {error!r}") from error


def _nothing(result: Mapping[str, Any]) -> dict[str, Any]:
    """Without a rollout there is nothing to decide again but that nothing was decided."""
    nothing = dict.fromkeys(COMPARED)
    nothing |= {"epoch": 0, "ranges": {}, "features": {}, "fallbacks": [], "reason": Reason.NO_MATCH}
    return nothing | {name: result[name] for name in ("revision", "policy_revision")}


def _gathered_otherwise(logged: CompiledRollout, compiled: CompiledRollout) -> str | None:
    """What the document says differently about what is gathered before a decision."""
    if compiled is logged:
        return None
    if (logged.unit, logged.seed) != (compiled.unit, compiled.seed):
        return "unit or seed"
    for what, before, now in (("holdout", logged.holdout, compiled.holdout), ("layer", logged.layer, compiled.layer)):
        if now is not None and (before is None or before.name != now.name):
            return what
    if compiled.shadow is not None and logged.shadow is None:
        return "shadow"
    if compiled.features is None:
        return None
    need, before_need = compiled.features, logged.features
    if before_need is None or any(
        getattr(need, name) != getattr(before_need, name) for name in ("entity", "view", "of_versions", "max_age")
    ):
        return "features"
    return None


def _compare(logged: Mapping[str, Any], replayed: Mapping[str, Any]) -> tuple[Difference, ...]:
    again = orjson.loads(orjson.dumps({name: replayed.get(name) for name in COMPARED}, default=str))
    differences = []
    for name in COMPARED:
        before, now = logged.get(name), again[name]
        if name == "features":
            before, now = _without_ages(before or {}), _without_ages(now)
        elif name == FEATURES_OF:
            before, now = _by_version(before), _by_version(now)
        if before != now:
            differences.append(Difference(name, before, now))
    return tuple(differences)


def _by_version(features: Mapping[str, Any] | None) -> dict[str, Any]:
    return {version: _without_ages(values) for version, values in (features or {}).items()}


def _without_ages(features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: value for key, value in feature.items() if key != "age"} for name, feature in features.items()}
