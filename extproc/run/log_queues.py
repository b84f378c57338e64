"""How the decision log leaves a process: a queue before each sink, which gets what the masks leave of an event."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.datapath.ports import Pace
from extproc.datapath.sinks.event_queue import EventQueue
from extproc.datapath.sinks.masked_sink import EventPolicies, MaskedSink
from extproc.plugins import SINK, open_adapter, scheme_of
from extproc.settings import settings


def masked_queues(sinks: Sequence[str], policies: EventPolicies, policy_engine: str | None) -> list[EventQueue]:
    """The queues before the sinks at these URLs, behind ``policies``, or behind those of an OPA that decides.

    Raises as ``open_adapter``.
    """
    return [_queue(url, _asked(policy_engine) or policies) for url in sinks]


def _asked(policy_engine: str | None) -> EventPolicies | None:
    """Those of the OPA, each sink by a connection of its own; None where none decides."""
    if policy_engine is None or not scheme_of(policy_engine).startswith("opa+"):
        return None
    from extproc.adapters.opa.log_policies import open_log_policies

    return open_log_policies(policy_engine, "--policy-engine")


def _queue(url: str, policies: EventPolicies) -> EventQueue:
    name, sink = scheme_of(url), open_adapter(SINK, url, "--sink")
    pace = sink if isinstance(sink, Pace) else None
    return EventQueue(name, MaskedSink(name, sink, policies), max_events=settings().decision_log_events, pace=pace)
