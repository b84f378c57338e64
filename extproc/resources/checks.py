"""What documents say together: one name each, matches that do not collide, what is shared is shared well.

Rollouts are compared through tables and sorted ranges, never pair by pair: ten thousand take well under a second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from extproc.errors import Fault
from extproc.matching import MatchKey
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.document import Resource
from extproc.resources.loaded import Placed
from extproc.resources.marked_yaml import FieldPath, dotted
from extproc.resources.rollout import Rollout
from extproc.resources.uses import UNKNOWN_ARGUMENT, misuses, uses

_NAME: FieldPath = ("metadata", "name")
_RANGE: FieldPath = ("spec", "layer", "range")
_UNIT: FieldPath = ("spec", "unit")
_ENDPOINTS: FieldPath = ("spec", "endpoints")
_ANY_VERSION = "{version}"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two documents that cannot both be: indices into what was checked, and the field of the second at fault.

    ``first_path`` is the field of the first that it is held against.
    """

    code: str
    message: str
    first: int
    second: int
    path: FieldPath
    first_path: FieldPath
    file: str | None
    line: int | None

    def fault(self, line: int | None = None) -> Fault:
        """The conflict as a fault of the second document, at ``line`` if the field's own is known."""
        return Fault(self.code, self.message, self.file, self.line if line is None else line, dotted(self.path))


def find_conflicts(resources: Sequence[Placed]) -> list[Conflict]:
    """Every conflict, as that of the later document with an earlier one, so the accepted ones go first.

    Codes: ``duplicate_rollout``, ``duplicate_template``, ``match_collision``, ``layer_overlap``, ``unit_differs``,
    ``endpoints_differ``, and those of ``uses.misuses``. A rollout that conflicts with many may be reported with one of
    them only; without every ``second`` no conflict is left.
    """
    return [
        *_duplicates(resources),
        *_collisions(resources),
        *_overlaps(resources),
        *_units(resources),
        *_endpoints(resources),
        *_misuses(resources),
    ]


def _match_path(number: int) -> FieldPath:
    return ("spec", "match", number)


def _rollouts(resources: Sequence[Placed]) -> Iterator[tuple[int, Rollout]]:
    """The rollouts among ``resources``, with their indices."""
    for index, (resource, _, _) in enumerate(resources):
        if isinstance(resource, Rollout):
            yield index, resource


def _duplicates(resources: Sequence[Placed]) -> Iterator[Conflict]:
    """Two documents of one kind with one name."""
    first: dict[tuple[type[Resource], str], int] = {}
    for index, (resource, _, _) in enumerate(resources):
        earlier = first.setdefault((type(resource), resource.key), index)
        if earlier != index:
            code = "duplicate_rollout" if isinstance(resource, Rollout) else "duplicate_template"
            message = f"{_called(resources[index])} is also {_place(resources[earlier])}"
            yield _conflict(resources, code, message, earlier, index, _NAME)


def _collisions(resources: Sequence[Placed]) -> Iterator[Conflict]:
    """Two rollouts with an identical match entry, unless one layer decides between them.

    It is enough to compare with the first that has the entry: it shares its layer with all others or with none that
    may be there. Documents of one name are duplicates, which is said already.
    """
    first: dict[MatchKey, tuple[int, Rollout]] = {}
    reported: set[tuple[int, int]] = set()
    for index, rollout in _rollouts(resources):
        for number, entry in enumerate(rollout.spec.match):
            for key in entry.match_keys():
                earlier, other = first.setdefault(key, (index, rollout))
                if other.key == rollout.key or _share_layer(other, rollout) or (earlier, index) in reported:
                    continue
                reported.add((earlier, index))
                message = (
                    f"{_called(resources[index])} matches the same requests as {_called(resources[earlier])}; "
                    "that is possible only in one layer, with ranges that do not overlap"
                )
                yield _conflict(resources, "match_collision", message, earlier, index, _match_path(number))


def _share_layer(one: Rollout, other: Rollout) -> bool:
    """Whether a layer chooses between the two; that their ranges are disjoint is checked by the layer."""
    return one.spec.layer is not None and other.spec.layer is not None and one.spec.layer.name == other.spec.layer.name


def _overlaps(resources: Sequence[Placed]) -> Iterator[Conflict]:
    """Two rollouts that claim the same bucket of a layer."""
    layers: dict[str, list[_Claim]] = defaultdict(list)
    for index, rollout in _rollouts(resources):
        layer = rollout.spec.layer
        if layer is None:
            continue
        held = _claim(layers[layer.name], _Claim(*layer.range, index))
        if held is not None and resources[held.holder][0].key != rollout.key:
            message = (
                f"{_called(resources[index])} and {_called(resources[held.holder])} "
                f"both claim bucket {max(held.start, layer.range[0])} of the layer {layer.name!r}"
            )
            yield _conflict(resources, "layer_overlap", message, held.holder, index, _RANGE)


def _units(resources: Sequence[Placed]) -> Iterator[Conflict]:
    """Two rollouts that share a layer or a holdout and hash different units: nobody is the same in both.

    It is enough to compare with the first of each: units that differ from one another differ from that, too.
    """
    first: dict[tuple[str, str], tuple[int, Rollout]] = {}
    for index, rollout in _rollouts(resources):
        shared = {"layer": rollout.spec.layer, "holdout": rollout.spec.holdout}
        for what, part in shared.items():
            if part is None:
                continue
            earlier, other = first.setdefault((what, part.name), (index, rollout))
            if other.key != rollout.key and _hashed(other) != _hashed(rollout):
                message = (
                    f"{_called(resources[index])} hashes {_hashed(rollout)}, and {_called(resources[earlier])} "
                    f"{_hashed(other)}; in one {what}, here {part.name!r}, all hash the same unit"
                )
                yield _conflict(resources, "unit_differs", message, earlier, index, _UNIT)
                break


def _hashed(rollout: Rollout) -> str:
    unit = rollout.spec.unit
    return f"header {unit.header}" if unit.header is not None else f"cookie {unit.cookie}"


def _endpoints(resources: Sequence[Placed]) -> Iterator[Conflict]:
    """Two rollouts that say of one cluster that its servers are in different places.

    Besides the versions that they name, any version counts: which one is served changes, the documents do not.
    """
    first: dict[str, tuple[int, Rollout, tuple[str, int]]] = {}
    for index, rollout in _rollouts(resources):
        for version in (_ANY_VERSION, *rollout.spec.versions()):
            address, cluster = rollout.address_of(version), rollout.upstream_of(version)
            if address is None:
                continue
            earlier, other, known = first.setdefault(cluster, (index, rollout, address))
            if other.key != rollout.key and known != address:
                message = (
                    f"{_called(resources[index])} has the servers of the cluster {cluster!r} at {_at(address)}, and "
                    f"{_called(resources[earlier])} at {_at(known)}; "
                    "give both the same endpoints, or one another upstream"
                )
                yield _conflict(resources, "endpoints_differ", message, earlier, index, _ENDPOINTS)
                break


def _at(address: tuple[str, int]) -> str:
    host, port = address
    return f"{host}, port {port}"


def _misuses(resources: Sequence[Placed]) -> Iterator[Conflict]:
    """A rollout and a template that do not agree. A template that is not there yet may still come."""
    templates = {
        resource.key: (index, resource)
        for index, (resource, _, _) in enumerate(resources)
        if isinstance(resource, AnalysisTemplate)
    }
    if not templates:
        return
    for index, rollout in _rollouts(resources):
        for analysis, path, in_step in uses(rollout):
            named = [f"{rollout.metadata.namespace}/{ref.template_name}" for ref in analysis.templates]
            found = [templates.get(key) for key in named]
            for misuse in misuses(analysis, [known and known[1] for known in found], in_step):
                place = found[misuse.template]
                assert place is not None
                if index > place[0]:
                    used = (*path, *misuse.path)
                    yield _conflict(resources, misuse.code, misuse.message, place[0], index, used, misuse.template_path)
                elif misuse.code != UNKNOWN_ARGUMENT:  # an argument that a template no longer has does no harm
                    message = f"{misuse.message}; {_called(resources[index])} uses it"
                    yield _conflict(resources, misuse.code, message, index, place[0], misuse.template_path, path)


class _Claim(NamedTuple):
    """The buckets ``[start, end)`` belong to the rollout at the index ``holder``."""

    start: int
    end: int
    holder: int


def _claim(claims: list[_Claim], new: _Claim) -> _Claim | None:
    """Add to the sorted, disjoint ``claims`` what is free of ``new``; the first claim that has some of it, if any."""
    first = last = bisect_right(claims, new.start, key=lambda claim: claim.end)
    free, parts = new.start, list[_Claim]()
    while last < len(claims) and claims[last].start < new.end:
        if free < claims[last].start:
            parts.append(_Claim(free, claims[last].start, new.holder))
        parts.append(claims[last])
        free = claims[last].end
        last += 1
    if free < new.end:
        parts.append(_Claim(free, new.end, new.holder))
    held = claims[first] if last > first else None
    claims[first:last] = parts
    return held


def _conflict(
    resources: Sequence[Placed],
    code: str,
    message: str,
    first: int,
    second: int,
    path: FieldPath,
    first_path: FieldPath | None = None,
) -> Conflict:
    _, file, line = resources[second]
    return Conflict(code, message, first, second, path, first_path or path, file, line)


def _called(placed: Placed) -> str:
    """``namespace/name (file:line)``."""
    return f"{placed[0].key} ({_place(placed)})"


def _place(placed: Placed) -> str:
    _, file, line = placed
    return f"{file}:{line}" if file is not None else "in the store"
