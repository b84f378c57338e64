"""A decision-log event read back: what was decided, and from what, as far as it was written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import orjson

from extproc.datapath.model import Buckets, Facts, Features, FeatureValue, PolicyVerdict, Unit
from extproc.datapath.record import FEATURES_OF, RECORD_FIELDS
from extproc.datapath.sinks.decision_event import HEADERS_POINTER, HTTP_POINTER, PLAN, POLICY_SHADOW
from extproc.errors import InvalidInput
from extproc.names import Reason
from extproc.resources.loading import parse_rollout, rollout_body
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.model import CompiledRollout, Overlay
from extproc.store.status import Status

PLAN_MISSING: Final = "plan_missing"

_HEAD_BYTES: Final = 32
_FEATURES: Final = ("/input/features/", "/input/features_of/")
_OF_THE_LOG: Final = (*_FEATURES, "/input/attributes/", "/input/unit", "/input/parsed_query")
"""Where ``spec.log`` has a word, or nothing is ever written."""


class LoggedEvents:
    """The events of a log that is read line by line. The plans that decisions name are in lines before them.

    What a policy shadow would have decided is passed over, because nobody was served by it, unless ``with_shadow``.
    """

    def __init__(self, *, with_shadow: bool = False) -> None:
        self._plans: dict[str, Any] = {}
        self._with_shadow = with_shadow

    def read(self, line: bytes) -> dict[str, Any] | None:
        """The decision in a line, with its plan as far as that is known; None for a plan, which is known from then on.

        Raises:
            ValueError: it is neither; with what it lacks, as the end of a sentence.
        """
        event = _event_of(line)
        if event.get("kind") == PLAN:
            self._plans[str(event["id"])] = event["plan"]
            return None
        self._take_plan(event.get("custom"))
        if is_of_policy_shadow(event) and not self._with_shadow:
            return None
        document = event["input"]
        if isinstance(document, dict) and isinstance(document.get("plan"), str):
            document["plan"] = self._plans.get(document["plan"], document["plan"])
        return event

    def _take_plan(self, custom: Any) -> None:
        """Of an event that brings one along, as those do that were uploaded."""
        told = custom.get("plan") if isinstance(custom, dict) else None
        if isinstance(told, dict) and "plan" in told:
            self._plans[str(told.get("id"))] = told["plan"]


def is_of_policy_shadow(event: Mapping[str, Any]) -> bool:
    """Whether it says what other policies would have decided."""
    custom = event.get("custom")
    return isinstance(custom, dict) and POLICY_SHADOW in custom


def is_plan(line: bytes) -> bool:
    """Whether it may be a plan's line, for who parses no more than he needs."""
    return b'"kind"' in line[:_HEAD_BYTES]


def _event_of(line: bytes) -> dict[str, Any]:
    try:
        event = _parsed(line)
        if event.get("kind") == PLAN:
            _, _ = event["id"], event["plan"]
            return event
        out = taken_out(event)
        event |= {root: {} for root in ("input", "result") if f"/{root}" in out}
        result, _, _ = event["result"], event["decision_id"], event["input"]
        missing = [name for name in RECORD_FIELDS if name not in result and not {"/result", f"/result/{name}"} & out]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the line is no decision-log event") from error
    if missing:
        raise ValueError(f"the result lacks {', '.join(missing)}")
    return event


def taken_out(event: Mapping[str, Any]) -> set[str]:
    """The pointers of what was removed from an event, or put in the place of what was there."""
    return {str(pointer) for name in ("erased", "masked") for pointer in event.get(name) or ()}


def rollout_of(event: Mapping[str, Any]) -> CompiledRollout:
    """The rollout as it was when it decided. Raises as the documents do, and what a plan that is none does.

    Raises:
        InvalidInput: also ``plan_missing``, when the log had none by the name that the event gives it.
    """
    plan = event["input"]["plan"]
    if isinstance(plan, str):
        message = f"its plan, {plan}, is in no line before it; keep the plans with the decisions"
        raise InvalidInput.of(PLAN_MISSING, message)
    return compile_plan(event["result"]["rollout"], plan)


def compile_plan(key: str, plan: Mapping[str, Any]) -> CompiledRollout:
    """The rollout ``key`` by its ``CompiledRollout.plan``. Raises as documents do, and what one that is none does."""
    namespace, _, name = key.partition("/")
    body = rollout_body(namespace, name, plan["spec"])
    return compile_rollout(parse_rollout(body), Status.from_dict(plan["status"]), now=0.0)


def facts_of(event: Mapping[str, Any], verdict: PolicyVerdict | None) -> Facts:
    """The facts that were gathered, with ``verdict`` for the policy's word. A feature that was withheld is None."""
    document = event["input"]
    result = event["result"]
    features_of = {version: _features(values) for version, values in result.get(FEATURES_OF, {}).items()}
    return Facts(
        unit=Unit(None, reason_of(document["unit_fault"]), document["per_request"]),
        buckets=Buckets(**document["buckets"]),
        features=Features(_features(result["features"]), reason_of(document["feature_fault"]), features_of),
        verdict=verdict,
        policy_input=document,
        too_large=document["too_large"],
        log_full=document.get("log_full", False),
    )


def _features(logged: Mapping[str, Mapping[str, Any]]) -> dict[str, FeatureValue]:
    return {
        name: FeatureValue(feature.get("value"), feature["age"], feature["source"]) for name, feature in logged.items()
    }


def shown_features(event: Mapping[str, Any]) -> set[str]:
    """The features whose values were written down."""
    result = event["result"]
    views = (result["features"], *result.get(FEATURES_OF, {}).values())
    return {name for values in views for name, feature in values.items() if "value" in feature}


def verdict_of(event: Mapping[str, Any]) -> PolicyVerdict | None:
    """What the policy said then; None where none was asked."""
    logged = event.get("policy") or event["result"].get("policy")
    return None if logged is None else PolicyVerdict.from_json(logged)


def overlay_of(event: Mapping[str, Any]) -> Overlay:
    """What was taken away; which versions were probed is only there if any were."""
    logged = event["input"]["overlay"]
    return Overlay(logged["killed"], frozenset(logged["tripped"]), frozenset(logged.get("probing", ())))


def reads_of(event: Mapping[str, Any]) -> list[str]:
    """The parts of the input that the rule could read."""
    reads: list[str] = event["custom"]["reads"] if "custom" in event else event["reads"]
    return reads


def reason_of(text: str | None) -> Reason | None:
    """The reason that ``text`` names, if any. Raises ValueError for text that is none."""
    return None if text is None else Reason(text)


def path_of(pointer: str) -> tuple[str, ...]:
    """The path in the input that a JSON pointer into the event names."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[2:])


def left_out(pointer: str, compiled: CompiledRollout) -> str:
    """What was left out at ``pointer``, and what to write in the document so that it is in the log from then on."""
    *_, name = path_of(pointer) or ("",)
    written = compiled.log_features if pointer.startswith(_FEATURES) else compiled.log_headers
    if name in written or not pointer.startswith(_OF_THE_LOG):
        return f"{pointer} (a mask took it out)"
    return f"{pointer} ({_way_into_the_log(pointer, name, compiled.unit.header or 'cookie')})"


def _way_into_the_log(pointer: str, name: str, unit_header: str) -> str:
    if pointer.startswith(_FEATURES):
        return f"add {name} to spec.log.features"
    if pointer == f"{HTTP_POINTER}/id":
        return "add x-request-id to spec.log.headers"
    if pointer.startswith(f"{HEADERS_POINTER}/") and not name.startswith(":") and name != unit_header:
        return f"add {name} to spec.log.headers"
    return "no log ever holds it"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        event = json.loads(line)  # lone surrogates and large integers
    if not isinstance(event, dict):
        raise TypeError("an event is an object")
    return event
