"""A sink behind the policies of the log: what they drop or take out reaches no sink.

They are asked on the sink's thread, which waits for a process of their own: no request waits for either, and an
evaluation holds up no other work of the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from extproc.datapath.ports import EventSink
from extproc.datapath.sinks.decision_event import is_plan_event, with_custom
from extproc.datapath.sinks.masking import MaskError
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)


class EventPolicies(Protocol):
    """What is asked of each event; called by several sinks' threads."""

    @property
    def asked(self) -> bool:
        """Whether there are any such policies; without any, events are as they were made."""
        ...

    def judge(self, events: Sequence[bytes]) -> Sequence[bytes | MaskError | None]:
        """Each of ``events`` as it may be written; None for one that is dropped, or why it may not be written.

        Raises:
            OSError: nobody can be asked now; the same events are to be judged later.
        """
        ...

    def close(self) -> None:
        """One of the sinks is closed: let go of what asks. Another's thread may go on to ask."""
        ...


class MaskedSink:
    """An ``EventSink`` before ``sink``, which ``name`` is what the log calls.

    What cannot be judged is not delivered, and counts as refused. An event behind some that were dropped says how many
    they were, in ``custom.left_out``: they are no gap.
    """

    def __init__(self, name: str, sink: EventSink, policies: EventPolicies) -> None:
        self._sink = sink
        self._policies = policies
        self._subject = f"sink {name}, masks"
        self._given: Sequence[bytes] = ()
        self._kept: Sequence[bytes] = ()
        self._failed = 0
        self._left_out = 0
        self._troubles = Troubles(logger.warning)

    def check(self) -> None:
        """As the sink's."""
        self._sink.check()

    def write(self, events: Sequence[bytes]) -> int:
        """Deliver what may be; what the sink failed to take is not judged again."""
        if events is not self._given:
            self._judge(events)
            self._given = events
        refused = self._sink.write(self._kept) if self._kept else 0
        failed, self._given, self._kept = self._failed, (), ()
        return refused + failed

    def reopen(self) -> None:
        """As the sink's."""
        self._sink.reopen()

    def close(self) -> None:
        """The sink, and what asks for it."""
        self._policies.close()
        self._sink.close()

    def _judge(self, events: Sequence[bytes]) -> None:
        """Find out what of ``events`` is delivered."""
        self._kept, self._failed = events, 0
        if not self._policies.asked:
            return
        judged = iter(self._policies.judge([event for event in events if not is_plan_event(event)]))
        kept: list[bytes] = []
        faults: dict[str, str] = {}
        for event in events:
            if is_plan_event(event):
                kept.append(event)
                continue
            match next(judged):
                case None:
                    self._left_out += 1
                case MaskError() as error:
                    self._failed += 1
                    faults.setdefault(str(error), f"events are dropped, because they cannot be masked: {error}")
                case masked:
                    kept.append(self._told(masked))
        self._kept = kept
        self._troubles.note_codes(self._subject, faults)

    def _told(self, event: bytes) -> bytes:
        """``event`` with how many before it were dropped."""
        left_out, self._left_out = self._left_out, 0
        return with_custom(event, b'"left_out":%d' % left_out) if left_out else event
