"""What rollouts say together: one name each, matches that do not collide, layer ranges that do not overlap.

Rollouts are compared through tables and sorted ranges, never pair by pair: ten thousand take well under a second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from extproc.errors import Fault
from extproc.resources.marked_yaml import Path, dotted
from extproc.resources.rollout import Rollout
from extproc.snapshot.matching import MatchKey

Placed = tuple[Rollout, str | None, int | None]
"""A rollout, its file, and the line where its document begins; both None when it comes from a store."""

_NAME: Path = ("metadata", "name")
_RANGE: Path = ("spec", "layer", "range")


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two rollouts that cannot both be: indices into what was checked, and the field of the second at fault."""

    code: str
    message: str
    first: int
    second: int
    path: Path
    file: str | None
    line: int | None

    def fault(self, line: int | None = None) -> Fault:
        """The conflict as a fault of the second rollout, at ``line`` if the field's own is known."""
        return Fault(self.code, self.message, self.file, self.line if line is None else line, dotted(self.path))


def find_conflicts(rollouts: Sequence[Placed]) -> list[Conflict]:
    """Every conflict, as that of the later rollout with an earlier one, so the accepted ones go first.

    Codes: ``duplicate_rollout``, ``match_collision``, ``layer_overlap``. A rollout that conflicts with many may be
    reported with one of them only; without every ``second`` no conflict is left.
    """
    return [*_duplicates(rollouts), *_collisions(rollouts), *_overlaps(rollouts)]


def conflict_paths(rollout: Rollout) -> list[Path]:
    """The fields that a conflict of ``rollout`` may name."""
    return [_NAME, _RANGE, *(_match_path(number) for number in range(len(rollout.spec.match)))]


def _match_path(number: int) -> Path:
    return ("spec", "match", number)


def _duplicates(rollouts: Sequence[Placed]) -> Iterator[Conflict]:
    """Two documents with one name."""
    first: dict[str, int] = {}
    for index, (rollout, _, _) in enumerate(rollouts):
        earlier = first.setdefault(rollout.key, index)
        if earlier != index:
            message = f"{_called(rollouts[index])} is also {_place(rollouts[earlier])}"
            yield _conflict(rollouts, "duplicate_rollout", message, earlier, index, _NAME)


def _collisions(rollouts: Sequence[Placed]) -> Iterator[Conflict]:
    """Two rollouts with an identical match entry, unless one layer decides between them.

    It is enough to compare with the first that has the entry: it shares its layer with all others or with none that
    may be there. Documents of one name are duplicates, which is said already.
    """
    first: dict[MatchKey, int] = {}
    reported: set[tuple[int, int]] = set()
    for index, (rollout, _, _) in enumerate(rollouts):
        for number, entry in enumerate(rollout.spec.match):
            for key in entry.match_keys():
                earlier = first.setdefault(key, index)
                other = rollouts[earlier][0]
                if other.key == rollout.key or _share_layer(other, rollout) or (earlier, index) in reported:
                    continue
                reported.add((earlier, index))
                message = (
                    f"{_called(rollouts[index])} matches the same requests as {_called(rollouts[earlier])}; "
                    "that is possible only in one layer, with ranges that do not overlap"
                )
                yield _conflict(rollouts, "match_collision", message, earlier, index, _match_path(number))


def _share_layer(one: Rollout, other: Rollout) -> bool:
    """Whether a layer chooses between the two; that their ranges are disjoint is checked by the layer."""
    return one.spec.layer is not None and other.spec.layer is not None and one.spec.layer.name == other.spec.layer.name


def _overlaps(rollouts: Sequence[Placed]) -> Iterator[Conflict]:
    """Two rollouts that claim the same bucket of a layer."""
    layers: dict[str, list[_Claim]] = defaultdict(list)
    for index, (rollout, _, _) in enumerate(rollouts):
        layer = rollout.spec.layer
        if layer is None:
            continue
        held = _claim(layers[layer.name], _Claim(*layer.range, index))
        if held is not None and rollouts[held.holder][0].key != rollout.key:
            message = (
                f"{_called(rollouts[index])} and {_called(rollouts[held.holder])} "
                f"both claim bucket {max(held.start, layer.range[0])} of the layer {layer.name!r}"
            )
            yield _conflict(rollouts, "layer_overlap", message, held.holder, index, _RANGE)


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


def _conflict(rollouts: Sequence[Placed], code: str, message: str, first: int, second: int, path: Path) -> Conflict:
    _, file, line = rollouts[second]
    return Conflict(code, message, first, second, path, file, line)


def _called(placed: Placed) -> str:
    """``namespace/name (file:line)``."""
    return f"{placed[0].key} ({_place(placed)})"


def _place(placed: Placed) -> str:
    _, file, line = placed
    return f"{file}:{line}" if file is not None else "in the store"
