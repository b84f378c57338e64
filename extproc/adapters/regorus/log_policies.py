"""Masks and drops of the decision log, asked in a process of its own.

An evaluation holds the interpreter: in the worker it would hold up requests, and one without an end would end the
worker. Here it ends its process, and costs the event.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from extproc.adapters.regorus.policy import UNDEFINED, RegorusEngine, explain_error
from extproc.adapters.regorus.process import LimitedProcess, answer_questions
from extproc.datapath.sinks.masking import LOG_RULES, MASK_RULE, MaskError, mask_rules, masked_text
from extproc.resources.policies import PolicySources

TOGETHER: Final = 16
"""Events in a question: to write it and to read the answer holds the worker's interpreter for as long."""

MOST_ENDED: Final = 3
"""Questions in a row that may cost the process; then nobody asks for a while, or until there are other policies."""

QUARANTINE_SECONDS: Final = 10.0
"""That long and no longer: whoever can send what the masks do not survive must not end the log for good."""

_PACKAGE: Final = MASK_RULE.partition("/")[0]
"""Whatever has such a rule has this word in it."""

_LEFT: Final = True
_FAULT: Final = "fault"


class LogPolicies:
    """``EventPolicies`` of the policies that are served. ``limit`` are seconds of a processor for a question.

    ``monotonic`` gives seconds.
    """

    def __init__(self, limit: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._monotonic = monotonic
        self._quarantined_until = -1.0
        self._sources: PolicySources | None = None
        self._in_use: PolicySources | None = None
        self._process: LimitedProcess | None = None
        self._ended = 0
        self._lock = threading.Lock()

    @property
    def asked(self) -> bool:
        """Whether there is a mask or a drop."""
        return self._sources is not None

    def use(self, sources: PolicySources | None) -> None:
        """Ask these from the next events on; None where they have neither. On whatever thread, and at once."""
        self._sources = sources

    def judge(self, events: Sequence[bytes]) -> list[bytes | MaskError | None]:
        """As ``EventPolicies``."""
        judged: list[bytes | MaskError | None] = []
        with self._lock:
            for start in range(0, len(events), TOGETHER):
                judged += self._judge(events[start : start + TOGETHER])
        return judged

    def close(self) -> None:
        """End the process; it is started again for a thread that still asks."""
        with self._lock:
            if self._process is not None:
                self._process.close()

    def _judge(self, events: Sequence[bytes]) -> list[bytes | MaskError | None]:
        """What becomes of a few; where one of them costs the process, of each for itself."""
        process = self._of_those_in_force()
        if process is None:
            return list(events)
        if self._monotonic() < self._quarantined_until:
            why = "the policies are in quarantine: they did not end, or ended their process, several times in a row"
            return [MaskError(why)] * len(events)
        _start(process)
        try:
            answers = process.ask([event.decode() for event in events])
        except (TimeoutError, EOFError) as error:
            if len(events) > 1:
                return [judged for event in events for judged in self._judge([event])]
            self._ended += 1
            if self._ended >= MOST_ENDED:
                self._quarantined_until = self._monotonic() + QUARANTINE_SECONDS
            took = f"took more than {self._limit:g} s" if isinstance(error, TimeoutError) else "ended its process"
            return [MaskError(f"the evaluation {took}")]
        self._ended = 0
        return [_read(event, answer) for event, answer in zip(events, answers, strict=True)]

    def _of_those_in_force(self) -> LimitedProcess | None:
        """The process that has the policies in force; None where there are none."""
        sources = self._sources
        if sources is not self._in_use:
            if self._process is not None:
                self._process.close()
            self._process = None if sources is None else LimitedProcess(__name__, sources, self._limit)
            self._in_use, self._ended, self._quarantined_until = sources, 0, -1.0
        return self._process


def log_policies_of(policies: str | None) -> PolicySources | None:
    """Policies, which are JSON text, if they may have a mask or a drop: what asks them finds out for certain."""
    if policies is None or _PACKAGE not in policies:
        return None
    return PolicySources.from_json(policies)


def _start(process: LimitedProcess) -> None:
    """Raises ``OSError`` where it cannot be had now: that says nothing of the events."""
    try:
        process.start()
    except (EOFError, TimeoutError) as error:
        raise OSError("the process that masks events cannot be started") from error


def _read(event: bytes, answer: Any) -> bytes | MaskError | None:
    if answer is _LEFT:
        return event
    if isinstance(answer, dict):
        return MaskError(answer[_FAULT])
    return None if answer is None else answer.encode()


def _judging(sources: PolicySources) -> Callable[[Any], Any]:
    """The side of the process: of each event itself, as it may be written, None, True as it is, or a fault."""
    engine = RegorusEngine(sources)
    return lambda events: [judged(engine, event) for event in events]


def judged(engine: RegorusEngine, event: str) -> Any:
    """What the process answers about one event, which is JSON."""
    try:
        event = _unicode(event)
        said, dropped = engine.json_values(LOG_RULES, event)
        if dropped is True:
            return None
        masked = None if said is UNDEFINED else masked_text(event, mask_rules(said))
        return _LEFT if masked is None else masked
    except MaskError as error:
        return {_FAULT: str(error)}
    except (RuntimeError, ValueError, RecursionError) as error:
        return {_FAULT: explain_error(error)}


def _unicode(event: str) -> str:
    """``event`` without halves of characters, which no text has, in whose place OPA reads the sign for none, too."""
    if "\\ud" not in event:
        return event
    whole = json.dumps(json.loads(event), ensure_ascii=False, separators=(",", ":"))
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


if __name__ == "__main__":
    answer_questions(_judging)
