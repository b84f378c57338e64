"""What a host holds by itself of kills and trips, in force whatever the store says, until the store has it.

Absence says nothing here: a kill is over when somebody ended it by its id, a trip when a probe lifted it or its attempt
is over, and an entry goes only when the store has been told what there was to tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from extproc.snapshot.trips import LocalTrip

MOST_KILLS: Final = 32
"""Kills that count of one rollout: who kills it once more changes nothing."""

TripKey = tuple[str, str]
"""A rollout (``namespace/name``) and a version."""


class HeldTrip(NamedTuple):
    """A trip; not ``in_force`` when only the store is still to be told of it.

    ``stored``: the store was told, and said what it makes of it. ``lifted`` is when (Unix seconds) its probe went well,
    while the store does not know that; 0 if it did not.
    """

    trip: LocalTrip
    in_force: bool = True
    stored: bool = False
    lifted: float = 0.0

    @property
    def key(self) -> TripKey:
        """What it is about: of a version one trip is held, the newest."""
        return self.trip.rollout, self.trip.version

    @property
    def waits(self) -> bool:
        """Whether the store is still to be told of it."""
        return not self.stored or self.lifted > 0


class HeldKill(NamedTuple):
    """The kill ``id`` of ``rollout`` (``namespace/name``): by whom and when (Unix seconds).

    ``stored``: the store has it. Once it was ended (``ended_at``, Unix seconds, is not 0) it is no more in force, and
    stays only until the store knows that.
    """

    id: str
    rollout: str
    actor: str
    at: float
    stored: bool = False
    ended_by: str = ""
    ended_at: float = 0.0

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    @property
    def in_force(self) -> bool:
        """Whether it leaves only stable."""
        return not self.ended_at

    @property
    def waits(self) -> bool:
        """Whether the store is still to be told of it."""
        return not self.stored or self.ended_at > 0


class Answers(NamedTuple):
    """What those said that were asked to hold or to end a kill, and reached. ``silent`` are there and gave no answer.

    ``kills`` are the kills that they hold, or the ids that they ended; ``kept`` is how many have them in their file.
    """

    reached: int = 0
    silent: int = 0
    kept: int = 0
    kills: tuple[HeldKill, ...] = ()
    ended: tuple[str, ...] = ()


HeldEntry = HeldTrip | HeldKill
HeldKey = TripKey | str
Held = Mapping[HeldKey, HeldEntry]


def trips_in_force(held: Held) -> list[LocalTrip]:
    """The trips that workers are to go by."""
    return [entry.trip for entry in held.values() if isinstance(entry, HeldTrip) and entry.in_force]


def kills_in_force(held: Held, key: str | None = None) -> list[HeldKill]:
    """The kills that are in force, of ``key`` or of all."""
    kills = (entry for entry in held.values() if isinstance(entry, HeldKill) and entry.in_force)
    return [kill for kill in kills if key in (None, kill.rollout)]


def joined(found: HeldEntry | None, ours: HeldEntry) -> HeldEntry:
    """What is known of one entry, of what stands in the file and what this process knows: no end is forgotten."""
    if isinstance(found, HeldKill) and isinstance(ours, HeldKill):
        ended = ours if ours.ended_at else found
        return ours._replace(stored=ours.stored or found.stored, ended_by=ended.ended_by, ended_at=ended.ended_at)
    if isinstance(found, HeldTrip) and isinstance(ours, HeldTrip) and found.trip.at == ours.trip.at:
        return ours._replace(stored=ours.stored or found.stored)
    return ours


def to_rows(held: Iterable[HeldEntry]) -> list[list[Any]]:
    """The entries as JSON, those first that must not be lost: kills, then what the store does not have."""
    ordered = sorted(held, key=lambda entry: (isinstance(entry, HeldTrip), not entry.waits))
    return [["trip", list(one.trip), *one[1:]] if isinstance(one, HeldTrip) else ["kill", *one] for one in ordered]


def from_rows(rows: Sequence[Any]) -> dict[HeldKey, HeldEntry]:
    """The reverse of ``to_rows``. Of what a newer version wrote, kills and trips hold by what is known of them here.

    Raises:
        ValueError, TypeError: for anything else.
    """
    entries = [_entry(*row) for row in rows if row[0] in ("kill", "trip")]
    return {entry.key: entry for entry in entries}


def _entry(kind: str, first: Any, *rest: Any) -> HeldEntry:
    if kind == "trip":
        rollout, version, attempt, probing, probes, at, why, *_ = first
        trip = LocalTrip(str(rollout), str(version), int(attempt), bool(probing), int(probes), float(at), str(why))
        in_force, stored, lifted, *_ = rest
        return HeldTrip(trip, bool(in_force), bool(stored), float(lifted))
    rollout, actor, made_at, stored, ended_by, ended_at, *_ = rest
    return HeldKill(str(first), str(rollout), str(actor), float(made_at), bool(stored), str(ended_by), float(ended_at))
