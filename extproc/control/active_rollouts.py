"""The rollouts that are under way, kept current from the store's changes; nothing that did not change is parsed.

One that is over is under way as long as what was its end lies in a future that the clock had already seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from extproc.clock import Clock
from extproc.control.rollout import RolloutPlan, plan_of
from extproc.control.status_changes import STABLE_TRIPPED, TOLD, is_under_way
from extproc.errors import Fault, InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import parse_rollout, parse_template
from extproc.resources.rollout import Rollout
from extproc.store.ports import FollowedRollouts
from extproc.store.records import StoredRollout, StoredTemplate, UnreadableRollout
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

TemplateKey = tuple[str, str]
"""Namespace and name."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class ActiveRollout:
    """A rollout under way: its row as it was last seen, and what its document and templates ask for.

    ``templates`` are those that the plan was made from; one may be missing. Another document, or another template,
    is another ``ActiveRollout``: what is remembered about one goes with it.
    """

    row: StoredRollout
    rollout: Rollout
    plan: RolloutPlan
    templates: frozenset[TemplateKey] = frozenset()

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return self.row.key


@dataclass(slots=True)
class _Template:
    row: StoredTemplate | None
    parsed: AnalysisTemplate | None = field(default=None)


class ActiveRollouts:
    """The rollouts under way in ``store``. Use it from the store's thread.

    ``alarms`` are the rollouts, under way or not, whose stable version was tripped.
    """

    def __init__(self, store: FollowedRollouts, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._revision = 0
        self._followed: dict[str, ActiveRollout] = {}
        self._templates: dict[TemplateKey, _Template] = {}
        self._troubles = Troubles(logger.warning, clock.monotonic)
        self.alarms: set[str] = set()

    def __iter__(self) -> Iterator[ActiveRollout]:
        return iter(list(self._followed.values()))

    def __len__(self) -> int:
        return len(self._followed)

    def get(self, key: str) -> ActiveRollout | None:
        """The rollout called ``key``, if it is under way."""
        return self._followed.get(key)

    def resync(self) -> None:
        """Take over everything at the next refresh, whether it changed or not."""
        self._revision = 0

    def refresh(self) -> None:
        """Take over what changed since the last refresh. Raises ``Unreachable``; then nothing is forgotten."""
        changes = self._store.changes(self._revision)
        if changes is None:
            return
        self._refresh_templates()
        seen = set()
        for row in changes.rollouts:
            seen.add(row.key)
            if isinstance(row, UnreadableRollout):
                self._followed.pop(row.key, None)
                if not row.deleted:
                    self.leave(row.key, row.fault)
            else:
                self.put(row)
        if changes.complete:
            for key in self._followed.keys() - seen:
                del self._followed[key]
            self.alarms &= seen
        self._revision = changes.revision

    def put(self, row: StoredRollout) -> None:
        """Take over one rollout as it stands; it is forgotten if it is not under way any more."""
        before = self._followed.get(row.key)
        if not row.deleted and any(condition["type"] == STABLE_TRIPPED for condition in row.status.conditions):
            self.alarms.add(row.key)
        else:
            self.alarms.discard(row.key)
        if row.deleted or not self._is_followed(row):
            self._followed.pop(row.key, None)
            self._troubles.note(f"rollout {row.key}")
        elif before is None or before.row.document != row.document:
            self._plan(row)
        else:
            before.row = row
            self._troubles.note(f"rollout {row.key}")

    def _is_followed(self, row: StoredRollout) -> bool:
        """Whether anything may become of it: of an experiment always, as long as it is there."""
        status, is_experiment = row.status, bool(row.document.get("spec", {}).get("variants"))
        is_told = any(condition["type"] in TOLD for condition in status.conditions)
        return is_experiment or is_told or is_under_way(status) or status.is_out_of_time(self._clock.now())

    def _plan(self, row: StoredRollout) -> None:
        used: set[TemplateKey] = set()
        try:
            rollout = parse_rollout(row.document)
            plan = plan_of(rollout, self._lookup(row.namespace, used))
        except InvalidInput as error:
            # An earlier version of Dropout took it; requests are routed by its status, which nobody moves.
            self._followed.pop(row.key, None)
            self.leave(row.key, error.faults[0])
            return
        self._followed[row.key] = ActiveRollout(row, rollout, plan, frozenset(used))
        self._troubles.note(f"rollout {row.key}")

    def leave(self, key: str, fault: Fault) -> None:
        """Tell that a rollout cannot be moved, once while it lasts."""
        self._troubles.note(f"rollout {key}", f"it is left as it is: {fault}")

    def _lookup(self, namespace: str, used: set[TemplateKey]) -> Callable[[str], AnalysisTemplate | None]:
        def find(name: str) -> AnalysisTemplate | None:
            key = (namespace, name)
            used.add(key)
            if key not in self._templates:
                self._templates[key] = _template(self._store.template(*key))
            return self._templates[key].parsed

        return find

    def _refresh_templates(self) -> None:
        """Read the templates in use again: a change of one is no change of any rollout."""
        used: set[TemplateKey] = set()
        for followed in self._followed.values():
            used |= followed.templates
        kept: dict[TemplateKey, _Template] = {}
        changed: set[TemplateKey] = set()
        for key in used:
            row = self._store.template(*key)
            if row == self._templates[key].row:
                kept[key] = self._templates[key]
            else:
                kept[key] = _template(row)
                changed.add(key)
        self._templates = kept
        for followed in self if changed else ():
            if followed.templates & changed:
                self._plan(followed.row)


def _template(row: StoredTemplate | None) -> _Template:
    try:
        return _Template(row, parse_template(row.document) if row is not None else None)
    except InvalidInput:
        return _Template(row)
