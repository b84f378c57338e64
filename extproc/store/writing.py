"""What a write is refused for, and what it makes of a store, before any of it is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from extproc.errors import Refused, Unreachable
from extproc.store.epoch_records import EpochRecord
from extproc.store.epochs import epochs_begun, free_numbers, with_numbers
from extproc.store.history import moves
from extproc.store.parts import routes_alike
from extproc.store.records import Lease, StoredRollout, TemplateWrite, UnreadableRollout, Write


def were_done(writes: Sequence[Write], knows: Callable[[str], bool]) -> bool:
    """Whether ``writes``, of one transaction, were done already; ``knows`` says whether a token is remembered."""
    return bool(writes) and all(write.token and knows(write.token) for write in writes)


def done(found: StoredRollout | UnreadableRollout | None, write: Write) -> StoredRollout:
    """What there is of a ``write`` that was done before: the row as it was ``found``.

    Raises:
        Refused: ``conflict``, when the row is forgotten.
        Unreachable: ``store_corrupt``, when it is damaged.
    """
    if isinstance(found, UnreadableRollout):
        raise Unreachable([found.fault])
    if found is None:
        raise Refused.of("conflict", f"{write.namespace}/{write.name} was deleted long ago; try again")
    return found


def check_together(documents_at: int | None, at: int) -> None:
    """Let what was checked at ``documents_at`` be written, where documents changed ``at`` last.

    Raises:
        Refused: ``conflict``.
    """
    if documents_at is not None and documents_at != at:
        raise Refused.of("conflict", "another document was applied or deleted at the same time; try again")


def check_held(lease: Lease | None, there: Lease) -> None:
    """Let who leads by ``lease`` write, where the lease that is ``there`` is still that one.

    Raises:
        Refused: ``lease_lost``.
    """
    if lease is not None and not there.is_still(lease):
        raise Refused.of("lease_lost", "another controller leads by now")


def gives_documents(writes: Sequence[Write], templates: Sequence[TemplateWrite]) -> bool:
    """Whether a document is written, so that there may be more than the limits."""
    return bool(templates) or any(write.document is not None for write in writes)


def changes_documents(writes: Sequence[Write], templates: Sequence[TemplateWrite]) -> bool:
    """Whether what was checked together before is so no more: a document was written or deleted."""
    return gives_documents(writes, templates) or any(write.delete for write in writes)


class RowChange(NamedTuple):
    """What a write makes of a row: ``after``, and the ``epochs`` that begin with it.

    ``analysis_only``: nothing else changed, see ``store.parts``. ``moved``: see ``store.history``.
    """

    after: StoredRollout
    epochs: Sequence[EpochRecord]
    analysis_only: bool
    moved: bool


def change_row(
    found: StoredRollout | UnreadableRollout | None,
    write: Write,
    resource_version: int,
    at: float,
    new_number: Callable[[], int],
    knows_number: Callable[[int], bool],
) -> RowChange:
    """What ``write`` makes ``at`` (Unix seconds) of the row that was ``found``, if it is where the write expects it.

    ``new_number`` gives numbers for epochs that begin, ``knows_number`` says whether one is an epoch's in this store.

    Raises:
        Refused: ``conflict``.
        Unreachable: ``store_corrupt``, when a damaged row is to keep what cannot be read.
    """
    before, write = _checked(found, write)
    after = _row_after(before, write, resource_version)
    epochs: Sequence[EpochRecord] = ()
    if write.status is not None:
        status = before.status if before is not None else None
        after = with_numbers(status, after, free_numbers(after, new_number, knows_number))
        epochs = tuple(epochs_begun(status, after, at))
    return RowChange(after, epochs, routes_alike(before, after), moves(before, after))


def _checked(found: StoredRollout | UnreadableRollout | None, write: Write) -> tuple[StoredRollout | None, Write]:
    """The row that ``write`` is done to, if what was ``found`` is where it expects it; one that is damaged is none."""
    at = None if found is None or found.deleted else found.resource_version
    if at != write.expect:
        raise Refused.of("conflict", f"{write.namespace}/{write.name} was changed at the same time; try again")
    if not isinstance(found, UnreadableRollout):
        return found, write
    if write.document is None or write.status is None:
        raise Unreachable([found.fault])
    return None, replace(write, source=write.source or found.source)


def _row_after(before: StoredRollout | None, write: Write, resource_version: int) -> StoredRollout:
    """The row once ``write`` was done to ``before``; what the write leaves out stays.

    Raises:
        ValueError: when there would be a rollout without a document or a status.
    """
    document, source = write.document, write.source
    status = write.at_commit(write.status) if write.status is not None else None
    if before is not None and not before.deleted:
        document = before.document if document is None else document
        source = before.source if source is None else source
        status = status or before.status
    if document is None or status is None:
        raise ValueError(f"{write.namespace}/{write.name} does not exist: it needs a document and a status")
    if write.delete:
        document = {}
    return StoredRollout(write.namespace, write.name, document, status, resource_version, source, write.delete)
