"""What the fields of one Rollout must say together: one of header and cookie, weights that add up, aliases that exist.

The rules read the document as written rather than the models, so that a fault in one field hides no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from extproc.assignment import BUCKETS, parse_percent
from extproc.decision_id import MAX_VARIANTS
from extproc.names import RESERVED_ARMS
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import Path, shown


def problems_between(body: Mapping[str, Any]) -> Iterator[Problem]:
    """Every rule that the document ``body`` breaks; values of the wrong type are left to the models."""
    spec = body.get("spec")
    if not isinstance(spec, dict):
        return
    if _given(spec, "variants"):
        yield from _experiment(spec)
    else:
        yield from _versions(spec)
    yield from _match(spec)
    yield from _choices(spec)
    yield from _aliases(spec)
    yield from _steps(spec)
    yield from _layer(spec)
    yield from _duplicates("feature", _list(_mapping(spec.get("features")).get("names")), ("spec", "features", "names"))


def _experiment(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Variants take the place of stable, canary and steps."""
    for role in ("stable", "canary", "steps"):
        if _given(spec, role):
            yield Problem("conflicting_fields", f"variants take the place of {role}", ("spec", role))
    path: Path = ("spec", "variants")
    variants = spec["variants"]
    if not isinstance(variants, list):
        return
    if len(variants) < 2:
        yield Problem("invalid_value", "an experiment has at least two variants", path)
    if len(variants) > MAX_VARIANTS:
        yield Problem("invalid_value", f"an experiment has at most {MAX_VARIANTS} variants", path)
    names = [_mapping(variant).get("name") for variant in variants]
    yield from _duplicates("variant", names, path, "name")
    for index, name in enumerate(names):
        if isinstance(name, str) and name in RESERVED_ARMS:
            yield Problem("reserved_name", f"no variant may be called {shown(name)}", (*path, index, "name"))
    try:
        total = sum(parse_percent(_mapping(variant).get("weight", "")) for variant in variants)
    except ValueError:
        return
    if total != BUCKETS:
        yield Problem("variant_weights", f"the weights add up to {total / 100:g}, not to 100", path)


def _versions(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Without variants there is a stable version, and a canary or a shadow beside it."""
    if _given(spec, "coverage"):
        yield Problem("conflicting_fields", "coverage is for experiments: it needs variants", ("spec", "coverage"))
    if not _given(spec, "stable"):
        message = "a rollout has stable and canary, or stable and shadow, or variants"
        yield Problem("missing_field", message, ("spec", "stable"))
        return
    if not _given(spec, "canary"):
        if not _given(spec, "shadow"):
            yield Problem("missing_field", "beside stable there is a canary or a shadow", ("spec", "canary"))
        elif _given(spec, "steps"):
            yield Problem("conflicting_fields", "steps move a canary, and there is none", ("spec", "steps"))


def _match(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Something is matched, and no header is asked for twice."""
    entries = spec.get("match")
    if entries == []:
        yield Problem("empty_match", "match names at least one path, header or host", ("spec", "match"))
    for index, entry in enumerate(_list(entries)):
        path: Path = ("spec", "match", index)
        if isinstance(entry, dict) and not any(entry.values()):
            yield Problem("empty_match", "an entry names at least one path, header or host", path)
        names = [_mapping(header).get("name") for header in _list(_mapping(entry).get("headers"))]
        lowered = [name.lower() if isinstance(name, str) else name for name in names]
        yield from _duplicates("header", lowered, (*path, "headers"), "name")


def _choices(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Units and entities are a header or a cookie; versions are named or aliased."""
    yield from _one_of(spec.get("unit"), ("header", "cookie"), ("spec", "unit"))
    entity = _mapping(spec.get("features")).get("entity")
    yield from _one_of(entity, ("header", "cookie"), ("spec", "features", "entity"))
    for name in ("stable", "canary", "shadow"):
        yield from _one_of(spec.get(name), ("alias", "version"), ("spec", name))


def _one_of(value: Any, names: tuple[str, ...], path: Path) -> Iterator[Problem]:
    """Exactly one of ``names`` is there; a misspelt one is an unknown field and no second fault."""
    if not isinstance(value, dict):
        return
    given = [name for name in names if _given(value, name)]
    if len(given) > 1:
        yield Problem("conflicting_fields", f"only one of {' and '.join(given)}", (*path, given[1]))
    elif not given and not _unknown(value, names):
        yield Problem("missing_field", f"needs {' or '.join(names)}", path)


def _aliases(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """An alias is a key of spec.aliases."""
    aliases = spec.get("aliases") or {}
    for name in ("stable", "canary", "shadow"):
        alias = _mapping(spec.get(name)).get("alias")
        if isinstance(alias, str) and isinstance(aliases, dict) and alias not in aliases:
            message = f"the alias {shown(alias)} is not in spec.aliases"
            yield Problem("alias_unresolved", message, ("spec", name, "alias"))


_STEP_KEYS = ("shadow", "pause", "setWeight", "analysis")


def _steps(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """A step is one thing to do; the arguments of an analysis have names of their own."""
    for index, step in enumerate(_list(spec.get("steps"))):
        path: Path = ("spec", "steps", index)
        yield from _one_of(step, _STEP_KEYS, path)
        yield from _arguments(_mapping(step).get("analysis"), (*path, "analysis"))
    yield from _arguments(spec.get("analysis"), ("spec", "analysis"))


def _arguments(analysis: Any, path: Path) -> Iterator[Problem]:
    names = [_mapping(argument).get("name") for argument in _list(_mapping(analysis).get("args"))]
    yield from _duplicates("argument", names, (*path, "args"), "name")


def _layer(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """A layer's range holds a bucket."""
    match _mapping(spec.get("layer")).get("range"):
        case [int(start), int(end)] if start >= end:
            yield Problem("invalid_value", f"[{start}, {end}) holds no bucket", ("spec", "layer", "range"))


def _duplicates(what: str, names: Iterable[Any], path: Path, *inner: str) -> Iterator[Problem]:
    """Every name but the first of its kind; ``inner`` leads from an item to its name."""
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        if not isinstance(name, str):
            continue
        if seen[name]:
            yield Problem("duplicate_name", f"there is already a {what} called {shown(name)}", (*path, index, *inner))
        seen[name] += 1


def _given(value: Mapping[str, Any], name: str) -> bool:
    return value.get(name) is not None


def _unknown(value: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    """Whether a field is there that may be one of ``names`` misspelt."""
    return bool(value.keys() - {*names, "missing", "percent"})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
