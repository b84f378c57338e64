"""JSON Schema (draft 7) of what a policy on control actions is asked; ``opa check --schema`` takes it."""

from __future__ import annotations

from typing import Any, Final

from extproc.resources.policy_schema import JsonSchema

CONTROL_ACTIONS: Final = (
    "apply",
    "delete",
    "adopt",
    "set-weight",
    "promote",
    "undo",
    "pause",
    "resume",
    "abort",
    "retry",
    "kill",
    "restore",
    "advance",
)
"""What is asked about; ``advance`` is a step that the controller takes by itself."""


def _object(properties: dict[str, Any], required: list[str], description: str) -> JsonSchema:
    body: JsonSchema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**body, "required": required, "description": description}


def _or_null(kind: JsonSchema, description: str) -> JsonSchema:
    return {"anyOf": [kind, {"type": "null"}], "description": description}


_ANYTHING: Final[JsonSchema] = {"type": "object", "additionalProperties": True}

CONTROL_INPUT_SCHEMA: Final[JsonSchema] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Dropout control policy input",
    **_object(
        {
            "actor": {
                "type": "string",
                "description": "Who acts: a user of the system, or controller@HOST.",
            },
            "action": {"type": "string", "enum": list(CONTROL_ACTIONS), "description": "What they want to do."},
            "arguments": {
                "type": "object",
                "properties": {
                    "weight": {"type": "number", "description": "Of set-weight and advance, in percent."},
                    "full": {"type": "boolean", "description": "Of promote: make the canary stable now."},
                    "without": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "Of promote: hosts whose silent observers are not waited for.",
                    },
                },
                "additionalProperties": False,
                "description": "What they want it done with.",
            },
            "rollout": _object(
                {
                    "namespace": {"type": "string", "description": "The rollout's namespace."},
                    "name": {"type": "string", "description": "The rollout's name."},
                    "spec": {**_ANYTHING, "description": "Its document's spec; of apply, the one that is applied."},
                    "status": _or_null(
                        _ANYTHING,
                        "Where it stands, as `dropout rollout get -o json` says; null before its first apply.",
                    ),
                    "appliedBy": _or_null(
                        {"type": "string"}, "Who applied its document last, as far as its history goes back."
                    ),
                },
                ["namespace", "name", "spec", "status", "appliedBy"],
                "The rollout as it stands.",
            ),
            "time": {"type": "integer", "description": "Now, in nanoseconds since 1970."},
        },
        ["actor", "action", "arguments", "rollout", "time"],
        "What a policy on control actions finds in input.",
    ),
}
