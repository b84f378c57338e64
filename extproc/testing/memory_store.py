"""A store of rollouts in memory. It keeps the contract of stores, and forgets nothing but what is too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any, NamedTuple

import orjson

from extproc.clock import Clock, SystemClock
from extproc.decision_id import random_number
from extproc.errors import Unreachable
from extproc.store.epoch_records import EpochRecord
from extproc.store.history import MOST_ASIDES, MOST_MOVES
from extproc.store.records import (
    REMEMBERED_TOKENS,
    Changes,
    Documents,
    HistoryEntry,
    Lease,
    StoredRollout,
    StoredTemplate,
    StoreLimits,
    TemplateWrite,
    Tombstone,
    UnreadableRollout,
    Write,
)
from extproc.store.rows import RolloutRow, parse_row, parse_template, stops_in, there, tombstone_of
from extproc.store.status import StopsFound
from extproc.store.turns import Turns
from extproc.store.writing import (
    change_row,
    changes_documents,
    check_held,
    check_together,
    done,
    gives_documents,
    were_done,
)

_Key = tuple[str, str]


class _Told(NamedTuple):
    """An entry of a history, and whether it moved the rollout."""

    moved: bool
    entry: HistoryEntry


@dataclass
class _Content:
    """What is in a store, all of it replaced and nothing changed, so that a copy is cheap and stays as it was."""

    identity: object = field(default_factory=object)
    revision: int = 1
    documents: int = 1
    rows: dict[_Key, RolloutRow] = field(default_factory=dict)
    routed: dict[_Key, int] = field(default_factory=dict)
    """The revision at which what routes changed last."""
    templates: dict[_Key, tuple[bytes, str | None]] = field(default_factory=dict)
    aborted: dict[_Key, tuple[str, ...]] = field(default_factory=dict)
    epochs: dict[_Key, tuple[EpochRecord, ...]] = field(default_factory=dict)
    history: dict[_Key, tuple[_Told, ...]] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    lease: Lease = field(default=Lease())

    def copy(self) -> _Content:
        copied: dict[str, Any] = {name: dict(value) for name, value in vars(self).items() if isinstance(value, dict)}
        return replace(self, **copied)

    def row(self, key: _Key, base: int) -> StoredRollout | UnreadableRollout | None:
        return parse_row(self.rows[key], base) if key in self.rows else None

    def routed_after(self, since: int) -> list[RolloutRow]:
        return [row for key, row in self.rows.items() if self.routed[key] > since]

    def live(self) -> list[RolloutRow]:
        return [row for _, row in sorted(self.rows.items()) if row.deleted_at is None]

    def size(self) -> tuple[int, int]:
        """How many rollouts there are, and the bytes of their and the templates' documents."""
        documents = [row.document for row in self.live()], [text for text, _ in self.templates.values()]
        return len(documents[0]), sum(len(each) for part in documents for each in part)


class MemoryPlace:
    """Where a store in memory is, as a path is where one in a file is: each ``MemoryStore`` on it has the same."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.content: _Content | None = _Content()
        self.fault = ""
        """The code that whatever is asked raises."""
        self.writable = True

    def replace(self) -> None:
        """Put an empty store in the place of the one that there is."""
        self.content = _Content()

    def remove(self) -> None:
        """Take the store away."""
        self.content = None

    def damage(self, namespace: str, name: str, what: str = "document", *, seen: bool = True) -> None:
        """Make the ``document`` or the ``status`` of a rollout unreadable; ``seen``: as a change."""
        with self.lock:
            assert self.content is not None
            content = self.content.copy()
            content.revision += seen
            row = content.rows[namespace, name]
            damaged: dict[str, Any] = {what: b"{", "revision": content.revision if seen else row.revision}
            content.rows[namespace, name] = row._replace(**damaged)
            content.routed[namespace, name] = damaged["revision"]
            self.content = content

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else writes all the while."""
        self.writable = False
        yield
        self.writable = True


class MemoryStore:
    """A ``RolloutStore`` at ``place``, which is its own unless it is given. ``new_number`` gives numbers for epochs."""

    def __init__(
        self,
        place: MemoryPlace | None = None,
        *,
        clock: Clock | None = None,
        new_number: Callable[[], int] = random_number,
        limits: StoreLimits = StoreLimits(),  # noqa: B008 - frozen
    ) -> None:
        self.place = place or MemoryPlace()
        self._limits = limits
        self._clock = clock or SystemClock()
        self._new_number = new_number
        self._turns = Turns()
        self._seen = self._there()

    # Reading

    def changes(self, since: int) -> Changes | None:
        """See ``ChangeFeed``."""
        content = self._content()
        if content.revision == since and not self._turns.whole:
            return None
        complete = self._turns.is_complete(since, content.revision)
        rows = content.live() if complete else content.routed_after(since)
        if not rows and not complete and content.documents <= since:
            return None
        rows.sort(key=lambda row: row.revision)
        return Changes(content.revision, self._stream(rows, self._turns.base), complete)

    def _stream(self, rows: Sequence[RolloutRow], base: int) -> Iterator[StoredRollout | UnreadableRollout]:
        for row in rows:
            if self._turns.base != base:
                raise self._recreated()
            yield parse_row(row, base)
        self._turns.taken(base)

    def stops(self, since: int) -> StopsFound:
        """See ``ChangeFeed``."""
        content = self._there()
        if not self._is_same(content):
            raise self._recreated()
        rows = [row for row in content.routed_after(since) if row.deleted_at is None]
        found = stops_in((*row[:2], content.routed[row[:2]], row.status) for row in rows)
        return StopsFound(content.revision, found)

    def get(self, namespace: str, name: str) -> StoredRollout | None:
        """See ``Rollouts``."""
        content = self._content()
        return there(content.row((namespace, name), self._turns.base))

    def documents(self) -> Documents:
        """See ``Rollouts``."""
        content = self._content()
        rows = (parse_row(row, self._turns.base) for row in content.live())
        templates = (parse_template(*key, *written) for key, written in sorted(content.templates.items()))
        return Documents.of(self._turns.base + content.documents, rows, templates)

    def deleted(self) -> Sequence[StoredRollout]:
        """See ``Rollouts``."""
        gone = [parse_row(row, self._turns.base) for row in self._content().rows.values() if row.deleted_at is not None]
        return [row for row in gone if isinstance(row, StoredRollout)]

    def template(self, namespace: str, name: str) -> StoredTemplate | None:
        """See ``Rollouts``."""
        key = (namespace, name)
        written = self._content().templates.get(key)
        return None if written is None else parse_template(*key, *written)

    def epochs(self, number: int) -> Sequence[EpochRecord]:
        """See ``Epochs``."""
        content = self._content()
        return _in_order(each for key in content.epochs for each in _epochs(content, key) if each.number == number)

    def epochs_of(self, namespace: str, name: str) -> Sequence[EpochRecord]:
        """See ``Epochs``."""
        return _in_order(_epochs(self._content(), (namespace, name)))

    def tombstone(self, namespace: str, name: str) -> Tombstone:
        """See ``Rollouts``."""
        content, key = self._content(), (namespace, name)
        epochs = _in_order(content.epochs.get(key, ()))
        last = max((each.epoch for each in epochs), default=0)
        return tombstone_of(content.row(key, self._turns.base), content.aborted.get(key, ()), last, lambda: epochs)

    def history(self, namespace: str, name: str, limit: int = 100) -> Sequence[HistoryEntry]:
        """See ``Rollouts``."""
        told = self._content().history.get((namespace, name), ())
        return [each.entry for each in told[max(0, len(told) - limit) :]]

    # Writing

    def write(
        self,
        writes: Sequence[Write],
        *,
        templates: Sequence[TemplateWrite] = (),
        documents_at: int | None = None,
        lease: Lease | None = None,
    ) -> Sequence[StoredRollout]:
        """See ``RolloutWriter``."""
        with self._writing() as content:
            if were_done(writes, content.tokens.__contains__):
                return [done(content.row((write.namespace, write.name), self._turns.base), write) for write in writes]
            check_together(documents_at, self._turns.base + content.documents)
            check_held(lease, content.lease)
            rows = [self._write_row(content, write) for write in writes]
            content.revision += bool(templates)
            for each in templates:
                content.templates.pop((each.namespace, each.name), None)
                if each.document is not None:
                    content.templates[each.namespace, each.name] = orjson.dumps(each.document), each.source
            tokens = tuple(write.token for write in writes if write.token)
            content.tokens = (*content.tokens, *tokens)[-max(REMEMBERED_TOKENS, len(tokens)) :]
            if changes_documents(writes, templates):
                content.documents = content.revision
            if gives_documents(writes, templates):
                self._limits.check(*content.size())
        return rows

    def acquire(self, holder: str, seconds: float) -> Lease | None:
        """See ``Leases``."""
        with self._writing() as content:
            lease = content.lease.taken(holder, seconds, self._clock.monotonic())
            content.lease = lease or content.lease
        return lease

    def led(self) -> bool:
        """See ``Leases``."""
        return self._content().lease.leads(self._clock.monotonic())

    def release(self, lease: Lease) -> None:
        """See ``Leases``."""
        with self._writing() as content:
            if content.lease.is_still(lease):
                content.lease = content.lease.released()

    def close(self) -> None:
        """Nothing to let go of."""

    def _write_row(self, content: _Content, write: Write) -> StoredRollout:
        key = (write.namespace, write.name)
        found, at = content.row(key, self._turns.base), self._clock.now()
        content.revision += 1
        known = {each.number for records in content.epochs.values() for each in records}
        version = self._turns.base + content.revision
        change = change_row(found, write, version, at, self._new_number, known.__contains__)
        if write.status is not None:
            content.aborted[key] = tuple(sorted(change.after.status.aborted))
        begun = {each.epoch for each in change.epochs}
        kept = (each for each in content.epochs.get(key, ()) if each.epoch not in begun)
        content.epochs[key] = (*kept, *change.epochs)
        row = RolloutRow.of(change.after, self._turns.base, at)
        content.rows[key] = row
        if not change.analysis_only:
            content.routed[key] = content.revision
        told = content.history.get(key, ())
        for entry in write.history:
            told = _told(told, _Told(change.moved, replace(entry, detail=_as_json(entry.detail))))
        content.history[key] = told
        read = parse_row(row, self._turns.base)
        assert isinstance(read, StoredRollout), "a row that was just written can be read"
        return read

    # The place

    @contextmanager
    def _writing(self) -> Iterator[_Content]:
        """What is to be in the store from then on, unless something is raised."""
        with self.place.lock:
            content = self._content().copy()
            if not self.place.writable:
                raise Unreachable.of("store_locked", "somebody else writes")
            yield content
            self.place.content = self._seen = content

    def _content(self) -> _Content:
        """What is in the store that is there, be it another one."""
        content = self._there()
        if not self._is_same(content):
            if not content.live():
                raise self._recreated()
            self._turns.turn()
        self._seen = content
        return content

    def _there(self) -> _Content:
        if self.place.fault:
            raise Unreachable.of(self.place.fault, "the store is away")
        if self.place.content is None:
            raise Unreachable.of("store_unreachable", "there is no store")
        return self.place.content

    def _is_same(self, content: _Content) -> bool:
        return content.identity is self._seen.identity and content.revision >= self._seen.revision

    @staticmethod
    def _recreated() -> Unreachable:
        return Unreachable.of("store_recreated", "another store took its place")


def _epochs(content: _Content, key: _Key) -> Iterator[EpochRecord]:
    """Those of a rollout, each until any later one began or the rollout was deleted."""
    row, epochs = content.rows.get(key), content.epochs.get(key, ())
    gone = row.deleted_at if row is not None else None
    for each in epochs:
        yield replace(each, until=min((later.began for later in epochs if later.epoch > each.epoch), default=gone))


def _in_order(epochs: Iterator[EpochRecord] | Sequence[EpochRecord]) -> Sequence[EpochRecord]:
    return sorted(epochs, key=lambda each: (each.began, each.epoch))


def _told(told: tuple[_Told, ...], new: _Told) -> tuple[_Told, ...]:
    """The history with one entry more, or counted once more, and without what is too much of its kind."""
    if not new.moved:
        moved = next((at for at in range(len(told), 0, -1) if told[at - 1].moved), 0)
        for at in range(moved, len(told)):
            if _same(told[at].entry, new.entry):
                return (*told[:at], told[at]._replace(entry=_again(told[at].entry, new.entry)), *told[at + 1 :])
    of_its_kind = [at for at, each in enumerate(told) if each.moved == new.moved and _same_kind(each, new)]
    most = MOST_MOVES if new.moved else MOST_ASIDES
    if len(of_its_kind) >= most:
        told = (*told[: of_its_kind[0]], *told[of_its_kind[0] + 1 :])
    return (*told, new)


def _same(one: HistoryEntry, other: HistoryEntry) -> bool:
    return (one.actor, one.action, one.message) == (other.actor, other.action, other.message)


def _same_kind(one: _Told, other: _Told) -> bool:
    return not other.moved or one.entry.action == other.entry.action


def _again(before: HistoryEntry, now: HistoryEntry) -> HistoryEntry:
    first = before.at if before.first_at is None else before.first_at
    return replace(now, count=before.count + 1, first_at=first)


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(orjson.dumps(value))
    return found
