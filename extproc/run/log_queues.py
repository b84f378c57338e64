"""How the decision log leaves a process: a queue before each sink, which gets what the masks leave of an event."""

from __future__ import annotations

from extproc.datapath.ports import Pace
from extproc.datapath.sinks.event_queue import EventQueue
from extproc.datapath.sinks.masked_sink import EventPolicies, MaskedSink
from extproc.plugins import SINK, open_adapter, scheme_of
from extproc.settings import settings


def masked_queue(url: str, policies: EventPolicies) -> EventQueue:
    """The queue before the sink at ``url``, behind ``policies``. Raises as ``open_adapter``."""
    name, sink = scheme_of(url), open_adapter(SINK, url, "--sink")
    pace = sink if isinstance(sink, Pace) else None
    return EventQueue(name, MaskedSink(name, sink, policies), max_events=settings().decision_log_events, pace=pace)
