"""What the fields of one Rollout must say together: one of header and cookie, weights that add up, aliases that exist.

The rules read the document as written rather than the models, so that a fault in one field hides no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from extproc.assignment import BUCKETS, parse_percent
from extproc.decision_id import MAX_VARIANTS
from extproc.names import RESERVED_ARMS
from extproc.resources.as_written import duplicates, exactly_one, given, items, mapping
from extproc.resources.faults import Problem
from extproc.resources.input_paths import feature_in, parse_path
from extproc.resources.marked_yaml import FieldPath, shown
from extproc.resources.rollout import Rollout
from extproc.resources.steps import STEP_FIELDS

MAX_UPSTREAM_LENGTH: Final = 256
_SERVER: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|(?=[^:]*:[^:]*:)[0-9A-Fa-f:.]+")
"""A name that DNS may have, or an address."""


def problems_between(body: Mapping[str, Any]) -> Iterator[Problem]:
    """Every rule that the document ``body`` breaks; values of the wrong type are left to the models."""
    spec = body.get("spec")
    if not isinstance(spec, dict):
        return
    if given(spec, "variants"):
        yield from _experiment(spec)
    else:
        yield from _versions(spec)
    yield from _match(spec)
    yield from _choices(spec)
    yield from _aliases(spec)
    yield from _steps(spec)
    yield from _deadline(spec)
    yield from _layer(spec)
    yield from _reads(spec)
    yield from duplicates("feature", items(mapping(spec.get("features")).get("names")), ("spec", "features", "names"))


def _experiment(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Variants take the place of stable, canary and steps."""
    for role in ("stable", "canary", "steps"):
        if given(spec, role):
            yield Problem("conflicting_fields", f"variants take the place of {role}", ("spec", role))
    path: FieldPath = ("spec", "variants")
    variants = spec["variants"]
    if not isinstance(variants, list):
        return
    if len(variants) < 2:
        yield Problem("invalid_value", "an experiment has at least two variants", path)
    if len(variants) > MAX_VARIANTS:
        yield Problem("invalid_value", f"an experiment has at most {MAX_VARIANTS} variants", path)
    names = [mapping(variant).get("name") for variant in variants]
    yield from duplicates("variant", names, path, "name")
    for index, name in enumerate(names):
        if isinstance(name, str) and name in RESERVED_ARMS:
            yield Problem("reserved_name", f"no variant may be called {shown(name)}", (*path, index, "name"))
    try:
        total = sum(parse_percent(mapping(variant).get("weight", "")) for variant in variants)
    except ValueError:
        return
    if total != BUCKETS:
        yield Problem("variant_weights", f"the weights add up to {total / 100:g}, not to 100", path)


def _versions(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Without variants there is a stable version, and maybe a canary or a shadow beside it."""
    if given(spec, "coverage"):
        yield Problem("conflicting_fields", "coverage is for experiments: it needs variants", ("spec", "coverage"))
    if given(mapping(spec.get("analysis")), "onFailed"):
        message = "onFailed is for experiments: a canary whose analysis fails is aborted"
        yield Problem("conflicting_fields", message, ("spec", "analysis", "onFailed"))
    if not given(spec, "stable"):
        message = "a rollout has stable, with a canary or a shadow beside it or alone, or it has variants"
        yield Problem("missing_field", message, ("spec", "stable"))
        return
    if given(spec, "steps") and not given(spec, "canary"):
        yield Problem("conflicting_fields", "steps move a canary, and there is none", ("spec", "steps"))


def _match(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Something is matched, and no header is asked for twice."""
    entries = spec.get("match")
    if entries == []:
        yield Problem("empty_match", "match names at least one path, header or host", ("spec", "match"))
    for index, entry in enumerate(items(entries)):
        path: FieldPath = ("spec", "match", index)
        if isinstance(entry, dict) and not any(entry.values()):
            yield Problem("empty_match", "an entry names at least one path, header or host", path)
        names = [mapping(header).get("name") for header in items(mapping(entry).get("headers"))]
        lowered = [name.lower() if isinstance(name, str) else name for name in names]
        yield from duplicates("header", lowered, (*path, "headers"), "name")


def _choices(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Units, entities and their join keys are a header or a cookie; versions are named or aliased."""
    yield from exactly_one(spec.get("unit"), ("header", "cookie"), ("spec", "unit"))
    entity = mapping(spec.get("features")).get("entity")
    path: FieldPath = ("spec", "features", "entity")
    yield from exactly_one(entity, ("header", "cookie", "keys"), path)
    keys = items(mapping(entity).get("keys"))
    for index, key in enumerate(keys):
        yield from exactly_one(key, ("header", "cookie"), (*path, "keys", index), "name", "type")
    yield from duplicates("join key", [mapping(key).get("name") for key in keys], (*path, "keys"), "name")
    for name in ("stable", "canary", "shadow"):
        yield from exactly_one(spec.get(name), ("alias", "version"), ("spec", name))


def _aliases(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """An alias is a key of spec.aliases."""
    aliases = spec.get("aliases") or {}
    for name in ("stable", "canary", "shadow"):
        alias = mapping(spec.get(name)).get("alias")
        if isinstance(alias, str) and isinstance(aliases, dict) and alias not in aliases:
            message = f"the alias {shown(alias)} is not in spec.aliases"
            yield Problem("alias_unresolved", message, ("spec", name, "alias"))


def _steps(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """A step is one thing to do; what an analysis names has names of its own."""
    for index, step in enumerate(items(spec.get("steps"))):
        path: FieldPath = ("spec", "steps", index)
        yield from exactly_one(step, STEP_FIELDS, path)
        yield from _analysis(mapping(step).get("analysis"), (*path, "analysis"))
    yield from _analysis(spec.get("analysis"), ("spec", "analysis"))


def _deadline(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """A deadline is for what moves by itself."""
    if given(spec, "progressDeadline") and not spec.get("steps"):
        message = "progressDeadline needs steps: nothing else moves by itself"
        yield Problem("conflicting_fields", message, ("spec", "progressDeadline"))
    if given(spec, "progressDeadlineAbort") and not given(spec, "progressDeadline"):
        message = "progressDeadlineAbort needs progressDeadline"
        yield Problem("conflicting_fields", message, ("spec", "progressDeadlineAbort"))


def _analysis(analysis: Any, path: FieldPath) -> Iterator[Problem]:
    templates = [mapping(ref).get("templateName") for ref in items(mapping(analysis).get("templates"))]
    yield from duplicates("template", templates, (*path, "templates"), "templateName")
    names = [mapping(argument).get("name") for argument in items(mapping(analysis).get("args"))]
    yield from duplicates("argument", names, (*path, "args"), "name")


def _reads(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """A feature that a rule is told of is one that is read."""
    path: FieldPath = ("spec", "policy", "reads")
    reads = items(mapping(spec.get("policy")).get("reads"))
    yield from duplicates("part", reads, path)
    names = items(mapping(spec.get("features")).get("names"))
    for index, read in enumerate(reads):
        try:
            parts = parse_path(read) if isinstance(read, str) else ()
        except ValueError:
            continue
        named = feature_in(parts)
        if named is not None and not (set(named) or set(names)) & set(names):
            message = f"{shown(read)} is never there: spec.features.names does not have it"
            yield Problem("invalid_value", message, (*path, index))


def _layer(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """A layer's range holds a bucket."""
    match mapping(spec.get("layer")).get("range"):
        case [int(start), int(end)] if start >= end:
            yield Problem("invalid_value", f"[{start}, {end}) holds no bucket", ("spec", "layer", "range"))


def problems_beyond(rollout: Rollout) -> Iterator[Problem]:
    """Clusters are short enough to be a header's value, their characters legal by the fields' types; hosts are some."""
    longest = max((rollout.upstream_of(version) for version in rollout.spec.versions()), key=len)
    if len(longest) > MAX_UPSTREAM_LENGTH:
        message = f"the cluster {shown(longest)} would have more than {MAX_UPSTREAM_LENGTH} characters"
        yield Problem("invalid_value", message, ("spec", "upstream"))
    for version in rollout.spec.versions():
        address = rollout.address_of(version)
        if address is not None and not _SERVER.fullmatch(address[0]):
            message = f"the servers of version {shown(version)} would be at {shown(address[0])}, which is no host"
            yield Problem("invalid_value", message, ("spec", "endpoints", "host"))
            return
