"""A decision as an event of the decision log, in the shape of OPA's.

What is written is what the policy could read, as far as the rollout's ``log`` allows. The unit never is: its
pseudonym is, and its buckets, from which ``replay`` decides again. Every field is one of OPA's and has its type: who
collects OPA's events collects these. What OPA has no field for is in ``result``, where masks reach it, and in
``custom``, which is last (``with_custom``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from extproc.datapath.model import Facts, PolicyVerdict
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.pseudonym import pseudonym
from extproc.datapath.record import record_of
from extproc.datapath.sinks.event_queue import Event
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Overlay

PLAN: Final = "plan"
"""The kind of an event that is no decision."""

POLICY_SHADOW: Final = "policy_shadow"
"""What is in ``custom`` of an event that says what other policies would have decided."""

_PLAN_HEAD: Final = b'{"kind":"%s"' % PLAN.encode()

_MAX_CONSTANTS: Final = 4096

HTTP_POINTER: Final = "/input/attributes/request/http"
HEADERS_POINTER: Final = f"{HTTP_POINTER}/headers"

_PLAIN_ATTRIBUTES: Final = ("source.", "destination.", "connection.", "request.protocol", "request.scheme")
"""Envoy's attributes that cannot hold what a header or a query does; all others stay out of the log."""

_TIMERS: Final = (("policy", "timer_rego_query_eval_ns"), ("total", "timer_server_handler_ns"))
"""Timings that OPA has names for; all of them are in the record's ``stage_us``."""

_NO_OVERLAY: Final = orjson.Fragment(b'{"killed":false,"tripped":[]}')

InputPathsOf = Callable[[str], Sequence[str]]
"""From a policy's path to the dotted input paths that it can read."""


class _Constants(NamedTuple):
    """What is the same in every event of one compiled rollout, encoded once."""

    compiled: CompiledRollout
    plan: orjson.Fragment
    plan_event: bytes
    policy_input: orjson.Fragment
    ranges: orjson.Fragment
    headers: frozenset[str]
    features: frozenset[str]
    unit_pointers: frozenset[str]


class EventEncoder:
    """Makes events of decisions. Belongs to one thread: it remembers what a rollout's events have in common."""

    def __init__(self, labels: Mapping[str, str], key: bytes, input_paths: InputPathsOf) -> None:
        self._labels = orjson.Fragment(orjson.dumps(dict(labels)))
        self._key = key
        self._input_paths = input_paths
        self._constants: dict[str, _Constants] = {}
        self._second = 0
        self._second_text = ""
        self._policy_revision = ""
        self._bundles_text: orjson.Fragment | None = None

    def encode(self, at: float, decided: DecisionRecord, number: int) -> Event:
        """The event of one decision, made ``at`` Unix seconds, the ``number``-th of this worker."""
        constants = None if decided.rollout is None else self._constants_of(decided.rollout)
        event = self._event(at, decided, constants)
        event["req_id"] = number
        source = decided.request.attributes.get("source.address")
        if source is not None:
            event["requested_by"] = source
        event["custom"] = {"reads": self._reads(constants)}
        try:
            body = orjson.dumps(event)
        except TypeError:
            # Integers over 64 bits and lone surrogates, which orjson refuses and a feature or header may hold.
            body = json.dumps(event, default=_plain, separators=(",", ":")).encode()
        return Event(body, None if constants is None else constants.plan_event)

    def _event(self, at: float, decided: DecisionRecord, constants: _Constants | None) -> dict[str, Any]:
        decision, _, facts, compiled, overlay = decided
        unit = None if decision.unit is None else pseudonym(self._key, decision.unit)
        timings = decision.stage_us
        event: dict[str, Any] = {
            "decision_id": decision.decision_id,
            "timestamp": self._timestamp(at),
            "labels": self._labels,
            "bundles": self._bundles(decision.policy_revision),
            "metrics": {timer: int(timings[name] * 1000) for name, timer in _TIMERS if name in timings},
        }
        if compiled is None or facts is None or constants is None:
            event["input"] = {}
            event["result"] = record_of(decision, unit)
            return event
        erased: list[str] = []
        event["input"] = _input(constants, facts, overlay, erased)
        result = event["result"] = record_of(decision, unit, constants.features, constants.ranges)
        if compiled.policy is not None:
            event["path"] = compiled.policy.path
        if facts.verdict is not None:
            saw_unit = not constants.unit_pointers.isdisjoint(erased)
            result["policy"] = _verdict(facts.verdict, facts.unit.value if saw_unit else None, unit)
        if erased:
            event["erased"] = erased
        return event

    def _reads(self, constants: _Constants | None) -> Sequence[str]:
        """The parts of the input that the rule can read."""
        policy = constants.compiled.policy if constants is not None else None
        return () if policy is None else policy.reads or self._input_paths(policy.path)

    def _bundles(self, policy_revision: str) -> orjson.Fragment:
        if policy_revision != self._policy_revision or self._bundles_text is None:
            self._policy_revision = policy_revision
            self._bundles_text = orjson.Fragment(orjson.dumps({"policies": {"revision": policy_revision}}))
        return self._bundles_text

    def _constants_of(self, compiled: CompiledRollout) -> _Constants:
        known = self._constants.get(compiled.key)
        if known is not None and known.compiled is compiled:
            return known
        if len(self._constants) >= _MAX_CONSTANTS:
            self._constants.clear()
        headers, unit_pointers = _but_the_unit(compiled.log_headers, compiled.unit.header or "cookie")
        name = plan_name(compiled)
        made = _Constants(
            compiled,
            orjson.Fragment(orjson.dumps(name)),
            _plan_event(compiled, name),
            orjson.Fragment(orjson.dumps(dict(compiled.policy_input), default=_plain)),
            _encoded(tuple(compiled.ranges.items())),
            headers,
            compiled.log_features,
            unit_pointers,
        )
        self._constants[compiled.key] = made
        return made

    def _timestamp(self, at: float) -> str:
        """RFC 3339 in UTC with nanoseconds."""
        second = int(at)
        nanos = int((at - second) * 1e9)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{nanos:09d}Z"


def is_plan_event(event: bytes) -> bool:
    """Whether an event of ours is a plan, and no decision."""
    return event.startswith(_PLAN_HEAD)


def with_custom(event: bytes, member: bytes) -> bytes:
    """``event`` with one more member, ``b'"name":value'``, in its ``custom``, which is not empty and the last field."""
    return b"%s,%s}}" % (event[:-2], member)


def plan_name(compiled: CompiledRollout) -> str:
    """What events call its plan: 16 hexadecimal digits, the same for the same plan in every worker."""
    return blake2b(b"%s\n%s" % (compiled.key.encode(), compiled.plan), digest_size=8).hexdigest()


def _plan_event(compiled: CompiledRollout, name: str) -> bytes:
    """What it was decided by, spec and status, told once and not in every event."""
    return orjson.dumps({"kind": PLAN, "id": name, "rollout": compiled.key, "plan": orjson.Fragment(compiled.plan)})


@lru_cache(_MAX_CONSTANTS)
def _but_the_unit(log_headers: frozenset[str], unit_header: str) -> tuple[frozenset[str], frozenset[str]]:
    """The headers that may be logged, and where the unit is in the input: it stays out whatever the document says."""
    return log_headers - {unit_header}, frozenset(("/input/unit", f"{HEADERS_POINTER}/{_pointer(unit_header)}"))


@lru_cache(_MAX_CONSTANTS)
def _encoded(ranges: tuple[tuple[str, tuple[int, int]], ...]) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps({arm: [*span] for arm, span in ranges}))


def _input(constants: _Constants, facts: Facts, overlay: Overlay, erased: list[str]) -> dict[str, Any]:
    """What the policy read, pruned, and the facts that ``decide`` had; ``erased`` gets what was taken out."""
    document = {} if facts.policy_input is None else _pruned(constants, facts.policy_input, erased)
    document["rollout"] = constants.policy_input
    unit, holdout, layer, shadow, _ = facts.buckets
    document["buckets"] = {"unit": unit, "holdout": holdout, "layer": layer, "shadow": shadow}
    document["unit_fault"] = facts.unit.fault
    document["per_request"] = facts.unit.per_request
    document["feature_fault"] = facts.features.fault
    document["too_large"] = facts.too_large
    if facts.log_full:
        document["log_full"] = True
    document["overlay"] = _NO_OVERLAY if overlay is NO_OVERLAY else _overlay(overlay)
    document["plan"] = constants.plan
    return document


def _overlay(overlay: Overlay) -> dict[str, Any]:
    probing = {"probing": sorted(overlay.probing)} if overlay.probing else {}
    return {"killed": overlay.killed, "tripped": sorted(overlay.tripped), **probing}


def _pruned(constants: _Constants, policy_input: Mapping[str, Any], erased: list[str]) -> dict[str, Any]:
    """A copy of the policy's input without what ``spec.log`` withholds, and without the unit."""
    document = dict(policy_input)
    if document.get("unit") is not None:
        del document["unit"]
        erased.append("/input/unit")
    if document.get("parsed_query"):
        del document["parsed_query"]
        erased.append("/input/parsed_query")
    features = document.get("features")
    if features:
        document["features"] = _allowed(features, constants.features, "/input/features", erased)
    by_version = document.get("features_of")
    if by_version:
        document["features_of"] = {
            version: _allowed(values, constants.features, f"/input/features_of/{_pointer(version)}", erased)
            for version, values in by_version.items()
        }
    attributes = document.get("attributes")
    if attributes:
        document["attributes"] = _pruned_attributes(constants, attributes, erased)
    return document


def _pruned_attributes(constants: _Constants, attributes: Mapping[str, Any], erased: list[str]) -> Mapping[str, Any]:
    request, envoy = attributes.get("request"), attributes.get("envoy")
    if request and "http" in request:
        attributes = {**attributes, "request": {**request, "http": _pruned_http(constants, request["http"], erased)}}
    if envoy:
        allowed = [name for name in envoy if name.startswith(_PLAIN_ATTRIBUTES)]
        attributes = {**attributes, "envoy": _allowed(envoy, allowed, "/input/attributes/envoy", erased)}
    return attributes


def _pruned_http(constants: _Constants, http: Mapping[str, Any], erased: list[str]) -> dict[str, Any]:
    pruned = dict(http)
    path = pruned.get("path")
    if path is not None and "?" in path:
        pruned["path"] = path.partition("?")[0]
        erased.append(f"{HTTP_POINTER}/path")
    if "id" in pruned and "x-request-id" not in constants.headers:
        del pruned["id"]
        erased.append(f"{HTTP_POINTER}/id")
    headers = pruned.get("headers")
    if headers:
        pruned["headers"] = _pruned_headers(constants.headers, headers, erased)
    return pruned


def _pruned_headers(allowed: Collection[str], headers: Mapping[str, Any], erased: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in headers.items():
        if name in allowed or (name.startswith(":") and "?" not in str(value)) or name == "host":
            kept[name] = value
            continue
        erased.append(f"{HEADERS_POINTER}/{_pointer(name)}")
        if name.startswith(":"):
            kept[name] = str(value).partition("?")[0]
    return kept


def _allowed(values: Mapping[str, Any], allowed: Collection[str], where: str, erased: list[str]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if name in allowed}
    if len(kept) != len(values):
        erased += [f"{where}/{_pointer(name)}" for name in values if name not in kept]
    return kept


def _verdict(verdict: PolicyVerdict, unit: bytes | None, alias: str | None) -> dict[str, Any]:
    """The policy's answer. ``unit`` is the one that the policy saw, if it did: its texts may have repeated it."""
    written: dict[str, Any] = {
        "allow": verdict.allow,
        "versions": None if verdict.versions is None else sorted(verdict.versions),
        "version": verdict.version,
        "shadow": verdict.shadow,
        "reason": verdict.reason,
        "http_status": verdict.http_status,
        "body": verdict.body,
        "fault": verdict.fault,
        "message": verdict.message,
    }
    if unit:
        secret = unit.decode("utf-8", "replace")
        for name in ("reason", "body", "message"):
            written[name] = written[name] and written[name].replace(secret, alias or "")
    return written


def _pointer(name: str) -> str:
    """``name`` as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _plain(value: Any) -> Any:
    """What the JSON encoders do not know by themselves."""
    if isinstance(value, orjson.Fragment):
        return json.loads(orjson.dumps(value))
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
