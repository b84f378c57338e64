"""JSON Schemas (draft 7) of what a policy is given and what it may answer; ``opa check --schema`` takes the first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from extproc.suggestions import close_to

JsonSchema = dict[str, Any]

_DRAFT: Final = "http://json-schema.org/draft-07/schema#"


def _object(properties: JsonSchema, *, required: list[str] | None = None, description: str = "") -> JsonSchema:
    made: JsonSchema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        made["required"] = required
    if description:
        made["description"] = description
    return made


def _string(description: str) -> JsonSchema:
    return {"type": "string", "description": description}


_ADDRESS: Final = _object(
    {
        "address": _object(
            {
                "socketAddress": _object(
                    {
                        "address": _string("The IP address, without brackets."),
                        "portValue": {"type": "integer", "description": "The port."},
                    }
                )
            }
        )
    },
    description="There if Envoy is asked for the attribute source.address or destination.address.",
)

_HTTP: Final = _object(
    {
        "method": _string("GET, POST, ..."),
        "path": _string("The path with its query, as received."),
        "host": _string("The host without its port, lower case."),
        "scheme": _string("http or https."),
        "protocol": _string("HTTP/1.1, HTTP/2, ...; there if Envoy is asked for request.protocol."),
        "id": _string("The header x-request-id, if there is one."),
        "headers": {
            "type": "object",
            "propertyNames": {"pattern": "^[^A-Z]*$"},
            "additionalProperties": {"type": "string"},
            "description": (
                "By lower-case name, pseudo-headers such as :path included; repeated ones joined by a comma; bytes "
                "that are not UTF-8 replaced."
            ),
        },
    },
    description="The request.",
)

_ROLLOUT: Final = _object(
    {
        "namespace": _string("The rollout's namespace."),
        "name": _string("The rollout's name."),
        "model": _string("The registered model."),
        "stable": _string("The version that is stable now; of an experiment, the last variant's."),
        "canary": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "description": "The canary's version, null when there is none.",
        },
        "versions": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Every version of the rollout, sorted.",
        },
    },
    required=["namespace", "name", "model", "stable", "canary", "versions"],
    description="The rollout that decides, as it stands.",
)

POLICY_INPUT_SCHEMA: Final[JsonSchema] = {
    "$schema": _DRAFT,
    "title": "Dropout policy input",
    **_object(
        {
            "attributes": _object(
                {
                    "request": _object(
                        {"http": _HTTP, "time": _string("When the request is decided, RFC 3339 in UTC.")},
                        required=["http"],
                    ),
                    "source": _ADDRESS,
                    "destination": _ADDRESS,
                    "envoy": {
                        "type": "object",
                        "additionalProperties": True,
                        "description": "The attributes that Envoy is asked for, by Envoy's names: source.address, ...",
                    },
                },
                required=["request"],
                description="The request as OPA-Envoy shows it.",
            ),
            "parsed_path": {
                "type": "array",
                "items": {"type": "string"},
                "description": "The segments of the path, decoded.",
            },
            "parsed_query": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "string"}},
                "description": "The parameters of the query, decoded, each with its values in order.",
            },
            "version": _object({"encoding": _string("protojson"), "ext_proc": _string("v3")}),
            "rollout": _ROLLOUT,
            "unit": {
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "description": "The unit that is assigned, null when the request names none (or names it twice).",
            },
            "draw": {
                "type": "integer",
                "minimum": 0,
                "maximum": 9999,
                "description": (
                    "A bucket of the unit's own that says nothing about its arm: below 1000 is a tenth of the units. "
                    "It is not there when the request has no unit."
                ),
            },
            "features": {
                "type": "object",
                "additionalProperties": True,
                "description": "The features that were found, by name; one that is missing or too old is not there.",
            },
            "features_of": {
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": True},
                "description": (
                    "By each version that the request may get the features of its view, as features has stable's."
                ),
            },
            "time": {
                "type": "integer",
                "description": "When the request is decided, in nanoseconds since 1970: for time.weekday and friends.",
            },
        },
        required=[
            "attributes",
            "parsed_path",
            "parsed_query",
            "version",
            "rollout",
            "unit",
            "features",
            "features_of",
            "time",
        ],
        description="What a policy finds in input.",
    ),
}

POLICY_DECISION_SCHEMA: Final[JsonSchema] = {
    "$schema": _DRAFT,
    "title": "Dropout policy decision",
    **_object(
        {
            "allow": {
                "type": "boolean",
                "description": "False answers the client with http_status instead of a route.",
            },
            "versions": {
                "type": "array",
                "items": {"type": "string"},
                "description": (
                    "The versions that remain; stable always does, names that are not of the rollout are passed over. "
                    "May be a set. Without it every version remains."
                ),
            },
            "version": _string(
                "A pin: this version whatever the bucket or the weight, unless another stage removed it. Wins over "
                "versions."
            ),
            "shadow": {"type": "boolean", "description": "False forbids a shadow copy of this request."},
            "reason": _string("Why, in your words; it goes to the decision log, and to the client when denied."),
            "http_status": {
                "type": "integer",
                "description": "Of the answer when denied; 403 is sent in place of anything outside 400 to 599.",
                "default": 403,
            },
            "body": _string("Of the answer when denied; a JSON object with the reason and decision id by default."),
        },
        required=["allow"],
        description="What the rule of a policy may answer.",
    ),
}


def misspelt(path: Sequence[str], schema: JsonSchema) -> str | None:
    """What is wrong with ``input.<path>`` by a schema of the input: the first part that is not there.

    The only names that the schemas have a pattern for are those of headers, which are in lower case.
    """
    for depth, part in enumerate(path):
        known = schema.get("properties", {})
        if part not in known and schema.get("additionalProperties") is False:
            close = close_to(part, known)
            hint = f"did you mean {close}?" if close is not None else f"{', '.join(known)} are there"
            return f"there is no input.{'.'.join(path[: depth + 1])}; {hint}"
        if not re.search(schema.get("propertyNames", {}).get("pattern", ""), part):
            return f"there is no input.{'.'.join(path[: depth + 1])}, whose name is in lower case; write {part.lower()}"
        below = known.get(part, schema.get("additionalProperties"))
        schema = below if isinstance(below, dict) else {}
    return None
