"""What ``dropout policy check`` finds beyond what keeps policies from being served: by the schema, a trial, and OPA."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.control.policy import RULE
from extproc.datapath.policy_input import EVERYTHING, plain_input
from extproc.errors import Fault
from extproc.names import Reason
from extproc.resources.control_schema import CONTROL_INPUT_SCHEMA
from extproc.resources.document import API_VERSION
from extproc.resources.folders import list_folder
from extproc.resources.input_paths import feature_in
from extproc.resources.loading import load_valid, of_kind, parse_rollout
from extproc.resources.marked_yaml import dotted
from extproc.resources.policies import PolicySources
from extproc.resources.policy_schema import POLICY_DECISION_SCHEMA, POLICY_INPUT_SCHEMA, misspelt
from extproc.resources.rollout import PolicySpec, Rollout
from extproc.run.processes import POLICY_TRIAL
from extproc.serve.supervisor.policy_trial import Sources, Trial
from extproc.settings import settings
from extproc.snapshot.compile import compile_rollout
from extproc.store.status import Status
from extproc.suggestions import close_to, did_you_mean

CONTROL_DECISION_FIELDS: Final = ("allow", "reason")
"""What a decision on a control action has."""

_AT: Final = 1_763_640_000.0
_ROLLOUT: Final = {
    "apiVersion": API_VERSION,
    "kind": "Rollout",
    "metadata": {"name": "trial"},
    "spec": {
        "model": "trial",
        "match": [{"path": {"value": "/"}}],
        "unit": {"header": "x-user-id"},
        "stable": {"version": "1"},
        "canary": {"version": "2"},
    },
}


@cache
def _plain() -> dict[str, Any]:
    """The input of a plain request to a rollout with a canary."""
    return plain_input(compile_rollout(parse_rollout(_ROLLOUT), Status("1", "2"), _AT), _AT, EVERYTHING)


def misspelt_reads(engine: RegorusEngine) -> Iterator[Fault]:
    """What decisions read that their input never has: ``policy_input_unknown``."""
    told: set[tuple[str, int, str]] = set()
    for path in engine.decisions():
        schema = CONTROL_INPUT_SCHEMA if path == RULE else POLICY_INPUT_SCHEMA
        for read, file, line in engine.places(path):
            message = misspelt(read, schema)
            if message is not None and (file, line, message) not in told:
                told.add((file, line, message))
                yield Fault("policy_input_unknown", message, file, line)


def unknown_fields(engine: RegorusEngine) -> Iterator[Fault]:
    """Fields of a decision, rules or written in it, that none has: ``policy_field_unknown``."""
    told: set[tuple[str, str]] = set()
    for path in engine.decisions():
        schema = CONTROL_DECISION_FIELDS if path == RULE else POLICY_DECISION_SCHEMA["properties"]
        for name, file, line in engine.fields(path):
            if name not in schema and (path, name) not in told:
                told.add((path, name))
                message = (
                    f"{name} is a field of the decision {path} here, which makes it invalid: a decision has only "
                    f"{', '.join(schema)}"
                    f"{did_you_mean(name, schema) or '; a rule that is no answer belongs into another package'}"
                )
                yield Fault("policy_field_unknown", message, file, line)


def trial_faults(sources: PolicySources, engine: RegorusEngine) -> list[Fault]:
    """What the trial before they are served would refuse them for, on a plain input."""
    faults = _tried(sources, engine.decisions())
    slow = next((fault.field for fault in faults if fault.code == "policy_too_slow" and fault.field), None)
    return _tried(sources, engine.asked_by(slow), slow) or faults if slow is not None else faults


def _tried(sources: PolicySources, paths: Iterable[str], entry: str | None = None) -> list[Fault]:
    """What a trial of each of the rules finds; by the input of the decision ``entry`` where they are asked by it."""
    trial = Trial(POLICY_TRIAL, settings().trial_limit)
    inputs = {path: {} if RULE in (path, entry) else _plain() for path in paths}
    return asyncio.run(trial.run(Sources(sources.revision, sources.to_json()), inputs))


def missing_rules(engine: RegorusEngine, rollouts: Path) -> Iterator[Fault]:
    """The rules that the documents in ``rollouts``, a file or a folder, ask for and no file gives.

    Code: ``policy_rule_missing``.

    Raises:
        InvalidInput: as ``load_valid``.
    """
    for document in of_kind(load_valid([rollouts]), Rollout):
        policy = document.resource.spec.policy
        if policy is not None and not engine.has(policy.path):
            message = f"the rule {policy.path} is asked, but no file gives it{_meant(engine, policy.path)}"
            at = ("spec", "policy", "path")
            yield Fault("policy_rule_missing", message, document.file, document.line_at(at), dotted(at))


def missing_features(engine: RegorusEngine, rollouts: Path) -> Iterator[Fault]:
    """Notes on features that a rule reads and that a document which asks it does not: ``policy_feature_missing``.

    Raises:
        InvalidInput: as ``load_valid``.
    """
    for document in of_kind(load_valid([rollouts]), Rollout):
        policy, features = document.resource.spec.policy, document.resource.spec.features
        asked = features.names if features is not None else ()
        for read, file, line in engine.places(policy.path) if policy is not None else ():
            for name in set(feature_in(read) or ()) - set(asked):
                key = document.resource.key
                message = f"{key} asks for no feature {name} (spec.features), so that it never is there"
                yield Fault("policy_feature_missing", f"{message}{did_you_mean(name, asked)}", file, line)


def default_missing(engine: RegorusEngine) -> Iterator[Fault]:
    """A note where no file gives the rule that is asked unless a document names another: ``policy_rule_missing``."""
    asked = PolicySpec().path
    if set(engine.decisions()) - {RULE} and not engine.has(asked):
        message = f"no file gives {asked}, which is asked where a rollout does not name another rule (policy.path)"
        yield Fault("policy_rule_missing", f"{message}{_meant(engine, asked)}")


def _meant(engine: RegorusEngine, path: str) -> str:
    """The rule of that name in a package of nearly that name, or of nearly that name in that package."""
    package, _, name = path.rpartition("/")
    there = [known.rpartition("/") for known in sorted({*engine.decisions(), *engine.rules()} - {RULE})]
    other = close_to(package, [of for of, _, known in there if known == name])
    if other is not None:
        return f"; did you mean {f'{other}/{name}'!r}?"
    return did_you_mean(path, [f"{of}/{known}" for of, _, known in there if of == package])


def invalid_answers(engine: RegorusEngine) -> Iterator[Fault]:
    """Rules, of which a trial has shown that they end, whose answer to a plain request is no decision."""
    for path in engine.decisions():
        if path == RULE:
            continue
        verdict = engine.evaluate(path, _plain())
        if verdict.fault is Reason.POLICY_INVALID:
            message = f"what it answers to a plain request is no decision: {verdict.message}"
            yield Fault(Reason.POLICY_INVALID.value, message, field=path)


def undefined_answers(engine: RegorusEngine) -> Iterator[Fault]:
    """Notes on rules that answer nothing to a plain request: ``policy_undefined``."""
    for path in engine.decisions():
        if path != RULE and engine.evaluate(path, _plain()).fault is Reason.POLICY_UNDEFINED:
            message = f"{path} has no value for a plain request, which then goes to stable: give it a default"
            yield Fault(Reason.POLICY_UNDEFINED.value, message)


def unread_files(directory: Path, sources: PolicySources) -> Iterator[Fault]:
    """Notes on files that look like data and are not read: ``policy_data_unread``."""
    if directory.is_file():
        return
    listing = list_folder(directory, lambda name: name.endswith((".json", ".yaml", ".yml")))
    read = set(sources.data_files.values())
    for file in listing.files:
        name = Path(file).relative_to(directory).as_posix()
        if name not in read:
            message = "the file is not read: data is in data.json, data.yaml or data.yml"
            yield Fault("policy_data_unread", message, name)
