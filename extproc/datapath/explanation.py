"""A decision in words: which rollout decided, what each stage did, and what came of it.

For people who ask why a request went where it went; nothing here decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from extproc.assignment import PROBE_PERCENT
from extproc.datapath.logged import left_out, overlay_of, shown_features
from extproc.datapath.model import Decision, Facts, Mutation, PolicyVerdict, Request
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.record import unit_text
from extproc.datapath.verdict import denies
from extproc.matching import MatchKey, MatchTable
from extproc.names import ARM_CONTROL, ARM_EXCLUDED, HEADER_MARK, Reason
from extproc.snapshot.model import CompiledRollout, Overlay, Snapshot

REASONS: Final[Mapping[Reason, str]] = {
    Reason.WEIGHT: "nothing stood against what the bucket says",
    Reason.KILL_SWITCH: "an operator killed the rollout: only stable is served until it is restored",
    Reason.BREAKER_OPEN: "the breaker took the version away",
    Reason.VERSION_ABORTED: "the version was aborted",
    Reason.POLICY_PIN: "the policy pins this version",
    Reason.POLICY_INELIGIBLE: "the policy does not allow every version of the rollout",
    Reason.POLICY_DENY: "the policy denies the request",
    Reason.POLICY_ERROR: "the policy could not be evaluated",
    Reason.POLICY_UNDEFINED: "the policy has no decision for this input",
    Reason.POLICY_INVALID: "the policy's decision has the wrong shape",
    Reason.POLICY_QUARANTINED: "the policy is in quarantine: an evaluation of it did not end, or ended its worker",
    Reason.POLICY_TIMEOUT: "the policy engine gave no verdict in time",
    Reason.POLICY_UNAVAILABLE: "the policy engine cannot be asked",
    Reason.HOLDOUT: "the unit is held out of everything",
    Reason.LAYER: "the unit is outside the rollout's range of its layer",
    Reason.NOT_COVERED: "the unit is not enrolled in the experiment",
    Reason.UNIT_MISSING: "the request has no unit",
    Reason.UNIT_AMBIGUOUS: "the request has more than one unit",
    Reason.FEATURE_ENTITY_MISSING: "the request does not say whose features are read",
    Reason.FEATURE_MISSING: "a feature is missing",
    Reason.FEATURE_TYPE: "the entity, or what is stored of it, is not of the type that it should be",
    Reason.FEATURE_STALE: "a feature is too old",
    Reason.FEATURE_TIMEOUT: "the features did not come in time",
    Reason.FEATURE_STORE_DOWN: "the feature store cannot be asked",
    Reason.FEATURE_LIMITED: "too many features of entities that nobody vouches for are read at the time",
    Reason.ATTRIBUTES_TOO_LARGE: "the request's headers are over the limits",
    Reason.LOG_FULL: "the decision log is full, and what cannot be written down may not be exposed",
    Reason.NO_MATCH: "no rollout matches the request",
}
"""Every reason as the end of a sentence."""
_NEARLY: Final = 3
"""Rollouts that are named because they nearly match."""


def explain(snapshot: Snapshot, decided: DecisionRecord, mutation: Mutation) -> list[str]:
    """The decision as sentences, from the match to the headers."""
    decision, request, facts, compiled, overlay = decided
    if compiled is None or facts is None:
        return [
            f"No rollout matches {_described(request)}.",
            *islice(_nearly(snapshot, request), _NEARLY),
            "Nothing is decided: the model headers are removed and Envoy's own routes apply.",
        ]
    return [
        *_match(snapshot, compiled, request),
        *_unit(compiled, facts),
        *_ranges(compiled, decision),
        *_stages(compiled, overlay, facts),
        *_outcome(compiled, decision),
        *_shadow(compiled, facts, decision),
        *_headers(mutation),
    ]


def explain_logged(event: Mapping[str, Any], decision: Decision, facts: Facts, compiled: CompiledRollout) -> list[str]:
    """A decision that a log holds, and what of it is there; ``decision`` was made again of ``facts``."""
    seed, buckets = unit_text(compiled.seed), facts.buckets
    unit = f"{event['result']['unit']!r}, which stands for it in the log" if event["result"]["unit"] else "its own draw"
    drawn = f"The unit is {unit}; under seed {seed!r} its bucket is {buckets.unit}."
    return [
        f"{compiled.key} decided, at {event['timestamp']}.",
        *((drawn,) if buckets.unit is not None else _unit(compiled, facts)),
        *_ranges(compiled, decision),
        *_stages(compiled, overlay_of(event), facts, shown_features(event)),
        *_outcome(compiled, decision),
        *_shadow(compiled, facts, decision),
        *(f"Not in the log: {left_out(pointer, compiled)}." for pointer in event.get("erased", ())),
    ]


def _match(snapshot: Snapshot, compiled: CompiledRollout, request: Request) -> Iterator[str]:
    fitting = [_entry(entry) for entry in compiled.match if _fits(entry, request)]
    yield f"{compiled.key} decides: {' and '.join(fitting)} fits {_described(request)}."
    rivals = sorted(
        key
        for key, other in snapshot.rollouts.items()
        if key != compiled.key and any(_fits(entry, request) for entry in other.match)
    )
    for key in rivals:
        same_layer = compiled.layer is not None and snapshot.rollouts[key].layer is not None
        why = "the layer's bucket chose between them" if same_layer else "it is less specific or comes later"
        yield f"{key} fits too, but {why}."


def _nearly(snapshot: Snapshot, request: Request) -> Iterator[str]:
    """The rollouts whose path fits, with what else they ask for that the request does not have."""
    for key, compiled in sorted(snapshot.rollouts.items()):
        for entry in compiled.match:
            alone = [entry._replace(host="", headers=(header,)) for header in entry.headers]
            if entry.host:
                alone.append(entry._replace(headers=()))
            lacking = [each._replace(path="", exact=False) for each in alone if not _fits(each, request)]
            if (entry.exact or entry.path) and lacking and _fits(entry._replace(host="", headers=()), request):
                yield f"{key} has the path, but asks for {' and '.join(map(_entry, lacking))}, too."
                break


def _fits(entry: MatchKey, request: Request) -> bool:
    table = MatchTable().changed([("", (), (entry,))])
    return bool(table.find(request.host, request.path, request.headers, request.repeated))


def _entry(entry: MatchKey) -> str:
    parts = []
    if entry.host:
        parts.append(f"host {entry.host}")
    if entry.exact or entry.path:
        parts.append(f"{'path' if entry.exact else 'path prefix'} {entry.path}")
    parts += [f"header {name}: {value.decode('utf-8', 'backslashreplace')}" for name, value in entry.headers]
    return " with ".join(parts) or "any path"


def _described(request: Request) -> str:
    host = f" on {request.host}" if request.host else ""
    return f"{request.method} {request.path}{host}"


def _unit(compiled: CompiledRollout, facts: Facts) -> Iterator[str]:
    source = f"header {compiled.unit.header}" if compiled.unit.header is not None else f"cookie {compiled.unit.cookie}"
    unit, seed = facts.unit, unit_text(compiled.seed)
    if unit.value is None:
        yield f"There is no unit: {REASONS[unit.fault or Reason.UNIT_MISSING]} ({source})."
    elif unit.per_request:
        yield f"There is no unit in {source}, so the request is drawn by itself: bucket {facts.buckets.unit}."
    else:
        name = unit_text(unit.value)
        yield f"The unit is {name!r}, from {source}; under seed {seed!r} its bucket is {facts.buckets.unit}."


def _ranges(compiled: CompiledRollout, decision: Decision) -> Iterator[str]:
    for arm, version, (start, end) in compiled.arms:
        share = f"{(end - start) / 100:g} %"
        owned = f"buckets {start} to {end - 1}, {share}" if end > start else f"no buckets, {share}"
        yield f"Arm {arm} owns {owned}, for version {version}."
    if not compiled.arms:
        yield f"There is nothing to draw: every unit gets version {compiled.stable}."
    if decision.bucket is not None:
        drawn = next((arm for arm, _, (start, end) in compiled.arms if start <= decision.bucket < end), None)
        nobody = "nobody: the unit is not enrolled" if compiled.experiment else f"{ARM_CONTROL}, stable"
        yield f"Bucket {decision.bucket} belongs to {drawn or nobody}."


def _stages(
    compiled: CompiledRollout, overlay: Overlay, facts: Facts, shown: Collection[str] | None = None
) -> Iterator[str]:
    """What each stage did, in the order in which they apply; stages that the rollout does not have say nothing."""
    if facts.policy_input is not None and "draw" in facts.policy_input:
        yield f"The policy reads the unit's draw, which is {facts.policy_input['draw']} of 0 to 9999."
    if facts.verdict is not None:
        yield from _policy(compiled, facts.verdict)
    if overlay.killed:
        yield f"Kill: {REASONS[Reason.KILL_SWITCH]}."
    if facts.too_large:
        yield f"Attributes: {REASONS[Reason.ATTRIBUTES_TOO_LARGE]}; only stable remains."
    if facts.log_full:
        yield f"Log: {REASONS[Reason.LOG_FULL]}; only stable remains."
    yield from _features(compiled, facts, shown)
    buckets = facts.buckets
    if compiled.holdout is not None and buckets.holdout is not None:
        out = buckets.holdout < compiled.holdout.percent
        effect = "held out; only stable remains" if out else "not held out"
        name, end = compiled.holdout.name.decode(), compiled.holdout.percent
        yield f"Holdout {name}: it takes the buckets below {end}; with bucket {buckets.holdout} the unit is {effect}."
    if compiled.layer is not None and buckets.layer is not None:
        start, end = compiled.layer.range
        effect = "inside" if buckets.layer in compiled.layer.range else "outside; only stable remains"
        name = compiled.layer.name.decode()
        yield f"Layer {name}: the rollout has buckets {start} to {end - 1}; bucket {buckets.layer} is {effect}."
    for version in sorted(compiled.aborted & compiled.versions):
        yield f"Abort: version {version} was aborted and is taken away."
    for version in sorted(overlay.tripped & compiled.versions):
        tried = f", but for {PROBE_PERCENT} of each 100 of its buckets" if version in overlay.probing else ""
        yield f"Trip: the breaker took version {version} away{tried}."


def _policy(compiled: CompiledRollout, verdict: PolicyVerdict) -> Iterator[str]:
    assert compiled.policy is not None
    name = f"Policy {compiled.policy.path}"
    why = f", because: {verdict.reason}" if verdict.reason else ""
    if verdict.fault is not None:
        effect = "the request is denied" if denies(verdict, compiled.policy.deny_on_error) else "only stable remains"
        detail = f" ({verdict.message})" if verdict.message else ""
        yield f"{name}: {REASONS[verdict.fault]}{detail}; {effect}."
    elif not verdict.allow:
        flaw = f" ({verdict.message})" if verdict.message else ""
        yield f"{name}: denied with status {verdict.http_status}{why}{flaw}."
    elif verdict.version is not None:
        known = verdict.version in compiled.versions
        outside = "" if known else ", which the rollout does not have; only stable remains"
        yield f"{name}: allowed, and pinned to version {verdict.version}{outside}{why}."
    elif verdict.versions is not None:
        removed = sorted(compiled.versions - verdict.versions - {compiled.stable})
        effect = f"version {', '.join(removed)} is taken away" if removed else "nothing is taken away"
        yield f"{name}: allowed with versions {', '.join(sorted(verdict.versions)) or 'none'}; {effect}{why}."
    else:
        yield f"{name}: allowed, with every version{why}."
    if verdict.fault is None and not verdict.shadow:
        yield f"{name}: no copy may be made."


def _features(compiled: CompiledRollout, facts: Facts, shown: Collection[str] | None) -> Iterator[str]:
    """Each with its value, as far as that is among those that may be ``shown``."""
    if compiled.features is None:
        return
    of_versions = {"": facts.features.values, **{f" of version {v}": each for v, each in facts.features.of.items()}}
    for whose, values in of_versions.items():
        for name, (value, age, source) in values.items():
            is_value = f"is {value!r}" if shown is None or name in shown else "was found"
            old = "of unknown age" if age is None else f"{age:.0f} s old"
            yield f"Feature {name}{whose} {is_value} ({source}, {old})."
    if facts.features.fault is not None:
        effect = "only stable remains" if compiled.features.missing_is_stable else "that is left to the policy"
        names = compiled.features.view.features
        missing = [f"{name}{whose}" for whose, values in of_versions.items() for name in names if name not in values]
        which = f" ({', '.join(missing)})" if missing else ""
        yield f"Features: {REASONS[facts.features.fault]}{which}; {effect}."


def _outcome(compiled: CompiledRollout, decision: Decision) -> Iterator[str]:
    because = f"{REASONS[decision.reason]} ({decision.reason})"
    if decision.denial is not None:
        yield f"The client gets {decision.denial.http_status}: {because}."
        return
    role = "stable" if decision.version == compiled.stable else "not stable"
    yield f"Version {decision.version} ({role}) serves, from {decision.upstream}: {because}."
    apart = ": decided without the bucket, so left out of comparisons" if decision.arm == ARM_EXCLUDED else ""
    if decision.taken_away:
        apart = ", whose version did not serve this: what comes of it counts apart, as taken_away"
    yield f"The arm is {decision.arm}{apart}."


def _shadow(compiled: CompiledRollout, facts: Facts, decision: Decision) -> Iterator[str]:
    """Whether a copy is made, where the rollout has a shadow."""
    shadow, bucket = compiled.shadow, facts.buckets.shadow
    if shadow is None or decision.denial is not None:
        return
    if decision.shadow is not None:
        yield f"A copy goes to {decision.shadow}."
    elif shadow.version == decision.version:
        yield f"No copy is made: version {shadow.version}, which would get it, serves."
    elif bucket is not None and bucket >= shadow.percent:
        owned = f"version {shadow.version} gets those of buckets below {shadow.percent}"
        yield f"No copy is made: {owned}, not of {bucket}."
    else:
        yield "No copy is made."


def _headers(mutation: Mutation) -> Iterator[str]:
    to = "The answer has" if mutation.denial is not None else "The request gets"
    for name, value in mutation.set_headers:
        if name == HEADER_MARK:  # of a key that nobody else has: nothing is carried out here
            continue
        yield f"{to} {name}: {value.decode('utf-8', 'backslashreplace')}"
