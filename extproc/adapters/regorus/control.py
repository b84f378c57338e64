"""Policy on control actions by regorus, in a process of its own: an evaluation that never ends is one that failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from extproc.adapters.regorus.policy import RegorusEngine, check_sources
from extproc.adapters.regorus.process import PolicyProcess
from extproc.control.policy import RULE, ActionVerdict, ControlPolicy
from extproc.datapath.model import PolicyVerdict
from extproc.errors import DropoutError, InvalidInput
from extproc.resources.policies import PolicySources
from extproc.resources.policy_places import PolicyPlaces

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 2.0
"""Of a processor, that an evaluation may take."""

REST_SECONDS: Final = 5.0
"""For how long policies whose evaluation did not end are not asked again: the controller has others to look after."""

REFRESH_SECONDS: Final = 1.0
"""How often the folder is read again, at most."""


class ControlPolicies:
    """A ``ControlPolicy`` from some ``places``, read again when it is asked; the last good ones stay in force.

    Without a rule ``control/decision``, as in an empty place, everything is allowed. Usable from several threads.

    Raises:
        InvalidInput: when the policies cannot be served, as ``PolicyPlaces.read`` and ``check_sources``.
    """

    def __init__(self, places: PolicyPlaces, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._places = places
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._refused: PolicySources | None = None
        self._engine = self._loaded(places.read(empty=True))
        self._refreshed_at = time.monotonic()

    @property
    def asked(self) -> bool:
        """Whether there is a rule that is asked."""
        return self._engine.has_rule

    @property
    def meant(self) -> bool:
        """Whether the folder has anything of the package in which that rule would be."""
        return self._engine.has_package

    def decide(self, question: Mapping[str, Any]) -> ActionVerdict:
        """See ``ControlPolicy``."""
        with self._lock:
            if time.monotonic() - self._refreshed_at >= REFRESH_SECONDS:
                self._refresh()
            return self._engine.decide(question) if self._engine.has_rule else ActionVerdict(True)

    def close(self) -> None:
        """End the process."""
        self._engine.close()

    def _refresh(self) -> None:
        try:
            sources = self._places.read(empty=self._engine.empty)
            if sources not in (self._engine.sources, self._refused):
                self._refused = sources
                engine = self._loaded(sources)
                self._engine.close()
                self._engine = engine
        except DropoutError as error:
            logger.warning("the policies on control actions stay as they were: %s", error)
        self._refreshed_at = time.monotonic()

    def _loaded(self, sources: PolicySources) -> _Engine:
        faults = check_sources(sources)
        if faults:
            raise InvalidInput(faults)
        return _Engine(sources, self._answer_seconds)


def load_control_policy(folder: str | Path) -> ControlPolicy:
    """The policy in ``folder``. Raises ``InvalidInput``."""
    return ControlPolicies(PolicyPlaces([Path(folder)]))


class _Engine:
    """One set of policies, which is left alone for a while after an evaluation that did not end."""

    def __init__(self, sources: PolicySources, answer_seconds: float) -> None:
        self._process = PolicyProcess(sources, answer_seconds)
        self._failed = ("", float("-inf"))
        self.sources = sources
        self.empty = not sources.files
        engine = RegorusEngine(sources)
        self.has_rule, self.has_package = engine.has(RULE), engine.has(RULE.partition("/")[0])
        self.close = self._process.close

    def decide(self, question: Mapping[str, Any]) -> ActionVerdict:
        """The verdict, within the time that there is."""
        why, at = self._failed
        if time.monotonic() - at < REST_SECONDS:
            return ActionVerdict(False, why, failed=True)
        try:
            return _as_control(self._process.evaluate(RULE, question))
        except (OSError, EOFError, TypeError) as error:
            why = "it takes too long" if isinstance(error, TimeoutError) else "its process ended"
            self._failed = (why, time.monotonic())
            return ActionVerdict(False, why, failed=True)


def _as_control(verdict: PolicyVerdict) -> ActionVerdict:
    """A routing verdict as one on control: it has ``allow`` and ``reason``, and nothing else."""
    if verdict.fault is not None:
        return ActionVerdict(False, verdict.message or verdict.fault, failed=True)
    if verdict != PolicyVerdict(allow=verdict.allow, reason=verdict.reason):
        return ActionVerdict(False, "the decision has a field other than allow and reason", failed=True)
    return ActionVerdict(verdict.allow, verdict.reason or "")
