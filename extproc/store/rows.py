"""A rollout as a row of bytes, and how it is read, whatever is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import orjson

from extproc.errors import Fault, Unreachable
from extproc.store.epoch_records import EpochRecord
from extproc.store.epochs import status_of_unreadable
from extproc.store.records import StoredRollout, StoredTemplate, Tombstone, UnreadableRollout
from extproc.store.status import NO_STOPS, Status, Stops, StopsAt


class RolloutRow(NamedTuple):
    """What is kept of a rollout; ``deleted_at`` (Unix seconds) is None while it is there."""

    namespace: str
    name: str
    document: bytes
    status: bytes
    revision: int
    source: str | None
    deleted_at: float | None

    @classmethod
    def of(cls, row: StoredRollout, base: int, now: float) -> Self:
        """The row of ``row``, whose resource version is ``base`` more than its revision, as of ``now``."""
        return cls(
            row.namespace,
            row.name,
            orjson.dumps(row.document),
            orjson.dumps(row.status.as_dict()),
            row.resource_version - base,
            row.source,
            now if row.deleted else None,
        )


def parse_row(row: RolloutRow, base: int) -> StoredRollout | UnreadableRollout:
    """The rollout in ``row``; ``base`` is added to its revision."""
    namespace, name, document, status, revision, source, deleted_at = row
    deleted = deleted_at is not None
    resource_version = base + revision if isinstance(revision, int) else base
    try:
        return StoredRollout(
            namespace=namespace,
            name=name,
            document=_json_object(document),
            status=Status.from_dict(orjson.loads(status)),
            resource_version=resource_version,
            source=source,
            deleted=deleted,
        )
    except (ValueError, TypeError, KeyError) as error:
        message = f"the row of {namespace}/{name} cannot be read; `dropout apply --repair` makes it anew: {error}"
        fault = Fault("store_corrupt", message)
        return UnreadableRollout(namespace, name, fault, resource_version, source, deleted, read_stops(status))


def read_stops(status: bytes) -> Stops:
    """What of a stored status takes something away; nothing if it is damaged."""
    try:
        return Stops.found_in(orjson.loads(status))
    except (ValueError, TypeError):
        return NO_STOPS


def there(found: StoredRollout | UnreadableRollout | None) -> StoredRollout | None:
    """What there is of a rollout whose row was ``found``: nothing, once it is deleted.

    Raises:
        Unreachable: ``store_corrupt``, when it is damaged.
    """
    if found is None or found.deleted:
        return None
    if isinstance(found, UnreadableRollout):
        raise Unreachable([found.fault])
    return found


def tombstone_of(
    found: StoredRollout | UnreadableRollout | None,
    aborted: Sequence[str],
    last_epoch: int,
    epochs: Callable[[], Sequence[EpochRecord]],
) -> Tombstone:
    """What is left of a rollout whose row was ``found``: the tombstones ``aborted``, and what its row or epochs say.

    Epochs are remembered for longer than the row: ``last_epoch`` (0 if there is none) counts, so that one number does
    not come to mean two of them. ``epochs`` gives all of them, the oldest first.
    """
    if found is None:
        return Tombstone(tuple(aborted), last_epoch)
    if isinstance(found, UnreadableRollout):
        return Tombstone(tuple(aborted), last_epoch, status_of_unreadable(epochs()))
    return Tombstone(tuple(aborted), max(last_epoch, found.status.epoch), found.status)


def stops_in(rows: Iterable[tuple[str, str, int, bytes]]) -> Sequence[StopsAt]:
    """Those that stop something of ``rows``: namespace, name, the revision at which what routes changed, status."""
    found = [StopsAt(f"{namespace}/{name}", revision, read_stops(status)) for namespace, name, revision, status in rows]
    return [each for each in found if each.stops != NO_STOPS]


def parse_template(namespace: str, name: str, document: bytes, source: str | None) -> StoredTemplate:
    """The template in a row; its document is {} if it is damaged."""
    return StoredTemplate(namespace, name, object_or_empty(document), source)


def object_or_empty(text: bytes) -> dict[str, Any]:
    """The JSON object in ``text``, an empty one if it is damaged."""
    try:
        return _json_object(text)
    except ValueError:
        return {}


def _json_object(text: bytes) -> dict[str, Any]:
    """The JSON object in ``text``. Raises ValueError."""
    found = orjson.loads(text)
    if type(found) is not dict:
        raise ValueError("it is no object")
    return found
