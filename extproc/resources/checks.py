"""What rollouts say together: one name each, matches that do not collide, layer ranges that do not overlap.

Rollouts are compared through tables and sorted ranges, never pair by pair: ten thousand take well under a second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from extproc.errors import Fault
from extproc.resources.marked_yaml import Path, dotted
from extproc.resources.rollout import MatchKey, Rollout

Placed = tuple[Rollout, str | None, int | None]
"""A rollout, its file, and the line where its document begins; both None when it comes from a store."""


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


def check_together(rollouts: Sequence[Placed]) -> list[Fault]:
    """The faults between ``rollouts``; each is that of the later one, so the accepted ones go first."""
    return [conflict.fault() for conflict in find_conflicts(rollouts)]


def find_conflicts(rollouts: Sequence[Placed]) -> list[Conflict]:
    """Every conflict, as that of the later rollout with an earlier one.

    Codes: ``duplicate_rollout``, ``match_collision``, ``layer_overlap``. A rollout that conflicts with many is
    reported with one of them.
    """
    return [*_duplicates(rollouts), *_collisions(rollouts), *_overlaps(rollouts)]


def _duplicates(rollouts: Sequence[Placed]) -> Iterator[Conflict]:
    """Two documents with one name."""
    first: dict[str, int] = {}
    for index, (rollout, _, _) in enumerate(rollouts):
        earlier = first.setdefault(rollout.key, index)
        if earlier != index:
            message = f"{_called(rollouts[index])} is also {_place(rollouts[earlier])}"
            yield _conflict(rollouts, "duplicate_rollout", message, earlier, index, ("metadata", "name"))


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
                yield _conflict(rollouts, "match_collision", message, earlier, index, ("spec", "match", number))


def _share_layer(one: Rollout, other: Rollout) -> bool:
    """Whether a layer chooses between the two; that their ranges are disjoint is checked by the layer."""
    return one.spec.layer is not None and other.spec.layer is not None and one.spec.layer.name == other.spec.layer.name


def _overlaps(rollouts: Sequence[Placed]) -> Iterator[Conflict]:
    """Two rollouts that claim the same bucket of a layer."""
    layers: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for index, (rollout, _, _) in enumerate(rollouts):
        if rollout.spec.layer is not None:
            layers[rollout.spec.layer.name].append((*rollout.spec.layer.range, index))
    for name, claims in layers.items():
        claims.sort()
        _, reach, holder = claims[0]
        for start, end, index in claims[1:]:
            if start < reach and rollouts[holder][0].key != rollouts[index][0].key:
                earlier, later = sorted((holder, index))
                message = (
                    f"{_called(rollouts[later])} and {_called(rollouts[earlier])} "
                    f"both claim buckets [{start}, {min(end, reach)}) of the layer {name!r}"
                )
                yield _conflict(rollouts, "layer_overlap", message, earlier, later, ("spec", "layer", "range"))
            if end > reach:
                reach, holder = end, index


def _conflict(rollouts: Sequence[Placed], code: str, message: str, first: int, second: int, path: Path) -> Conflict:
    _, file, line = rollouts[second]
    return Conflict(code, message, first, second, path, file, line)


def _called(placed: Placed) -> str:
    """``namespace/name (file:line)``."""
    return f"{placed[0].key} ({_place(placed)})"


def _place(placed: Placed) -> str:
    _, file, line = placed
    return f"{file}:{line}" if file is not None else "in the store"
