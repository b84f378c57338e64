"""JSON Schema (draft 7) of what a policy on control actions is asked; ``opa check --schema`` takes it."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

from extproc.resources.policy_schema import JsonSchema

ControlAction = Literal[
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
]
"""What is asked about; ``advance`` is a step that the controller takes by itself."""

CONTROL_ACTIONS: Final[tuple[ControlAction, ...]] = get_args(ControlAction)


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
                "description": "Who acts: a user, the name of a token or of a certificate, or controller@HOST.",
            },
            "groups": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Theirs: as the system, their token's line or their certificate's organizations say.",
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
            "effect": _object(
                {
                    "givesMore": {
                        "type": "boolean",
                        "description": "A version that is not stable can get a larger share, copies included.",
                    },
                    "makesStable": {
                        "type": "boolean",
                        "description": "Another version, or another cluster, can come to serve everything.",
                    },
                    "takesAway": {"type": "boolean", "description": "A version gets less, or will."},
                },
                ["givesMore", "makesStable", "takesAway"],
                "What it comes to, at once or by what follows with nobody's further word.",
            ),
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
                        {"type": "string"},
                        "Who applied its document, before this action; null where that is not known any more.",
                    ),
                    "appliedAt": _or_null({"type": "string"}, "When, in RFC 3339."),
                    "inPlaceOf": {
                        "type": "array",
                        "items": _object(
                            {
                                "namespace": {"type": "string", "description": "The other's namespace."},
                                "name": {"type": "string", "description": "The other's name."},
                                "stable": {
                                    "type": "string",
                                    "description": "The version that is or was stable there.",
                                },
                                "deleted": {"type": "boolean", "description": "It is not there any more."},
                            },
                            ["namespace", "name", "stable", "deleted"],
                            "Another rollout.",
                        ),
                        "description": "Of what gives more or makes stable: other rollouts that would have requests of"
                        " its match, or had them in the last 30 days; none of the controller's own steps.",
                    },
                },
                ["namespace", "name", "spec", "status", "appliedBy", "appliedAt", "inPlaceOf"],
                "The rollout as it stands.",
            ),
            "time": {"type": "integer", "description": "Now, in nanoseconds since 1970."},
        },
        ["actor", "action", "arguments", "effect", "rollout", "time"],
        "What a policy on control actions finds in input.",
    ),
}
