"""What rollouts ask for and nobody here does: told while it lasts and when it is over, and shown by ``/snapshot``.

A breaker without an observer, steps without a controller, features without a store, a rule that no policy has: each is
a valid document, and each is served as if that part of it were not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from extproc.control.unmet import MOST_CHARACTERS, MOST_LACKS, MOST_OF_A_NAME, Lack
from extproc.errors import Fault, Unreachable
from extproc.serve.supervisor.followed_rows import FollowedRows
from extproc.store.ports import ChangeFeed, Leases
from extproc.store.records import StoredRollout
from extproc.trouble import Troubles

REFRESH_SECONDS: Final = 5.0

UNLED_SECONDS: Final = 30.0
"""A controller that is started after ``serve``, or takes over from another, is given so long to lead."""

UnmetEntry = Mapping[str, Any]
"""A fault as JSON, and the key of the first ``rollout`` that has it."""


class WatchedStore(ChangeFeed, Leases, Protocol):
    """Rollouts, and whether anybody leads."""


class _Wants(NamedTuple):
    """What a rollout, while its canary is under way or it has variants, asks for."""

    breaker: bool
    steps: bool


class UnmetKeeper:
    """Follows the store that ``open_store`` opens, on one event loop.

    ``observed`` and ``controlled`` say whether this host has an observer, and a controller of its own. ``of_worker``
    gives what a worker lacks, None if it does not answer; ``of_envoys`` what Envoys do, blocking. ``entries`` is what
    no worker's description says.
    """

    def __init__(
        self,
        open_store: Callable[[], WatchedStore],
        *,
        observed: bool,
        controlled: bool,
        of_worker: Callable[[], Awaitable[Sequence[UnmetEntry] | None]],
        of_envoys: Callable[[], Sequence[UnmetEntry]],
        monotonic: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        self._rows = FollowedRows(open_store, _wants)
        self._observed = observed
        self._controlled = controlled
        self._of_worker = of_worker
        self._of_envoys = of_envoys
        self._monotonic = monotonic
        self._wants: dict[str, _Wants] = {}
        self._deleted: set[str] = set()
        self._led_at = monotonic()
        self._lacking: Sequence[UnmetEntry] | None = None
        self._troubles = Troubles(warn, monotonic)
        self._of_host: Sequence[UnmetEntry] = ()
        self._unready: Sequence[UnmetEntry] = ()

    @property
    def entries(self) -> Sequence[UnmetEntry]:
        """For /snapshot."""
        return (*self._of_host, *self._unready)

    async def run(self) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """See what is unmet now, and tell what was not so at the last refresh. Of a lost store others complain."""
        try:
            await asyncio.to_thread(self._read)
            self._unready = await asyncio.to_thread(self._of_envoys)
        except Unreachable:
            return
        self._of_host = list(self._of_documents())
        answer = await self._of_worker()
        self._lacking = self._lacking if answer is None else answer
        self._tell()

    def lacks(self) -> Sequence[Lack] | None:
        """What this host lacks; None before that is known."""
        if self._lacking is None:
            return None
        return [_as_told(entry) for entry in self._found()[:MOST_LACKS]]

    def _found(self) -> Sequence[UnmetEntry]:
        return (*self._of_host, *(self._lacking or ()))

    def _tell(self) -> None:
        lacking: dict[str, list[str]] = {key: [] for key in self._troubles.subjects}
        for entry in (*self._found(), *self._unready):
            lacking.setdefault(f"rollout {entry['rollout']}", []).append(entry["message"])
        for subject, messages in sorted(lacking.items()):
            if not messages and subject in self._deleted:
                self._troubles.drop(subject, "deleted, so that it asks for nothing any more")
            else:
                self._troubles.note(subject, *sorted(messages))

    def _of_documents(self) -> Iterator[UnmetEntry]:
        wants = sorted(self._wants.items())
        breaker = next((key for key, wanted in wants if wanted.breaker), None)
        if breaker is not None and not self._observed:
            message = (
                "a breaker is asked for, but serve has no --access-log-listen: no version that fails is taken away; "
                "start serve with, say, --access-log-listen unix:/run/dropout/observer.sock"
            )
            yield {"rollout": breaker, **Fault("observer_missing", message, field="spec.breaker").as_dict()}
        steps = next((key for key, wanted in wants if wanted.steps), None)
        if steps is not None and self._monotonic() - self._led_at >= UNLED_SECONDS:
            message = (
                "steps are asked for, but no controller leads on this store: start `dropout controller` with the same "
                "--store, or serve with --with-controller"
            )
            yield {"rollout": steps, **Fault("controller_missing", message, field="spec.steps").as_dict()}

    def _read(self) -> None:
        """Take over what changed in the store. Blocks."""
        if self._controlled or self._rows.store().led():
            self._led_at = self._monotonic()
        if changed := self._rows.changed(self._wants):
            self._wants = {key: wants for key, wants in {**self._wants, **changed}.items() if wants is not None}
            of_changed = {f"rollout {key}" for key in changed}
            deleted = {f"rollout {key}" for key in self._rows.deleted}
            self._deleted = ((self._deleted - of_changed) | deleted).intersection(self._troubles.subjects)


def _as_told(entry: UnmetEntry) -> Lack:
    rule, message = entry.get("rule", ""), entry["message"]
    if len(rule) > MOST_OF_A_NAME:
        message = message.replace(rule, f"{rule[:MOST_OF_A_NAME]}…")
    view = entry.get("view", "")[:MOST_CHARACTERS]
    return Lack(entry["code"], entry["field"], message[:MOST_CHARACTERS], rule[:MOST_CHARACTERS], view)


def _wants(row: StoredRollout) -> _Wants | None:
    """What the rollout in ``row`` asks for; None where that is nothing."""
    spec, status = row.document.get("spec", {}), row.status
    under_way = status.canary not in (None, status.stable, *status.aborted)
    breaker = spec.get("breaker") is not None and (under_way or bool(spec.get("variants")))
    steps = under_way and bool(spec.get("steps"))
    return _Wants(breaker, steps) if breaker or steps else None
