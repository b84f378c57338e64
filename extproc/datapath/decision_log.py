"""The decision log: one OPA decision-log event per decision, as JSON lines, written off the loop.

The loop only puts a decision into a bounded queue; a thread makes it JSON and appends it in whole lines, one write
per batch, so that several workers share one file. What the log cannot keep up with is dropped and counted, never
waited for. Rotation is from outside: rename the file, then ``reopen``.

What is written is what the policy could read, as far as the rollout's ``log`` allows. The unit never is: its
pseudonym is, and its buckets, from which ``replay`` decides again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.clock import Clock
from extproc.datapath.model import Decision, Facts, PolicyVerdict, Request
from extproc.datapath.pseudonym import pseudonym
from extproc.datapath.record import record_of
from extproc.errors import Unreachable
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Overlay

logger = logging.getLogger(__name__)

MAX_QUEUE: Final = 10_000
MAX_QUEUE_BYTES: Final = 64 << 20
"""What requests of queued decisions came in and policies said about them. Ordinary ones reach the other limit first."""

FLUSH_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0

_SLICE: Final = 16
"""Events encoded before the interpreter lock is offered to the event loop, which must not wait for a whole batch."""

_MAX_WRITE_BYTES: Final = 1 << 20
_MAX_CONSTANTS: Final = 4096

_HTTP: Final = "/input/attributes/request/http"
_HEADERS: Final = f"{_HTTP}/headers"

_PLAIN_ATTRIBUTES: Final = ("source.", "destination.", "connection.", "request.protocol", "request.scheme")
"""Envoy's attributes that cannot hold what a header or a query does; all others stay out of the log."""

_TIMERS: Final = (("policy", "timer_rego_query_eval_ns"), ("total", "timer_server_handler_ns"))
"""Stages that OPA has names for; all of them are in the record's ``stage_us``."""

_NO_OVERLAY: Final = orjson.Fragment(b'{"killed":false,"tripped":[]}')

Reads = Callable[[str], Sequence[str]]
"""From a policy's path to the dotted input paths that it can read."""


class _Entry(NamedTuple):
    """A decision in the queue, with what the event needs and nothing of the request that it does not."""

    at: float
    decision: Decision
    source: str | None
    facts: Facts | None
    rollout: CompiledRollout | None
    overlay: Overlay
    reads: Sequence[str]
    size: int


class _Constants(NamedTuple):
    """What is the same in every event of one compiled rollout, encoded once."""

    rollout: CompiledRollout
    plan: orjson.Fragment
    policy_input: orjson.Fragment
    ranges: orjson.Fragment
    headers: frozenset[str]
    features: frozenset[str]
    unit_pointers: frozenset[str]


class DecisionLog:
    """Writes decisions to the file at ``path``; a ``DecisionSink``.

    ``labels`` identify the writer, ``key`` makes pseudonyms of units, ``reads`` tells what a policy reads. The file
    is made with mode 0600. At most ``max_queue`` decisions, of ``max_queue_bytes`` together, wait to be written, at
    most one batch to be written again after an error. ``drops`` counts decisions that were left out, ``errors`` failed
    attempts to write; neither ever reaches the caller of ``record``.
    """

    def __init__(
        self,
        path: Path,
        labels: Mapping[str, str],
        key: bytes,
        clock: Clock,
        *,
        reads: Reads,
        max_queue: int = MAX_QUEUE,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.drops = 0
        self.errors = 0
        self._clock = clock
        self._reads = reads
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._bytes_in = self._bytes_out = 0  # each counted by one thread alone, so without a lock
        self._flush_seconds = flush_seconds
        self._queue: deque[_Entry] = deque()
        self._encoder = EventEncoder(labels, key)
        self._file = _LogFile(path)
        self._retry_seconds = retry_seconds
        self._idle = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._reopen = False
        self._thread = threading.Thread(target=self._write_for_ever, name="decision-log", daemon=True)
        self._thread.start()

    def record(
        self,
        decision: Decision,
        request: Request,
        facts: Facts | None,
        rollout: CompiledRollout | None,
        overlay: Overlay,
    ) -> None:
        """Queue one decision, or drop it when the queue is full."""
        size = _held(request, facts)
        if len(self._queue) >= self._max_queue or self._bytes_in - self._bytes_out + size > self._max_queue_bytes:
            self.drops += 1
            return
        self._bytes_in += size
        reads = self._reads(rollout.policy.path) if rollout is not None and rollout.policy is not None else ()
        source = request.attributes.get("source.address")
        self._queue.append(_Entry(self._clock.now(), decision, source, facts, rollout, overlay, reads, size))
        if self._idle:
            self._wake.set()

    def reopen(self) -> None:
        """Let go of the file and open it again by name: what comes now goes to the new file."""
        self._reopen = True
        self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, wait for that at most ``timeout`` seconds, and close the file."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _write_for_ever(self) -> None:
        batch: list[bytes] = []
        while True:
            closing = self._closing.is_set()
            if self._reopen:
                self._reopen = False
                self._file.close()
            written = self._drain(batch)
            if closing:
                self.drops += len(batch) + len(self._queue)
                self._file.close()
                return
            self._sleep(batch, written=written)

    def _sleep(self, batch: list[bytes], *, written: bool) -> None:
        """Until there is a batch's worth of time to write; without a wake-up while there is nothing."""
        if not written:
            self._closing.wait(self._retry_seconds)
            return
        if not self._queue and not batch:
            self._wake.clear()
            self._idle = True
            if not self._queue and not self._closing.is_set() and not self._reopen:
                self._wake.wait()
            self._idle = False
        if not self._reopen:
            self._closing.wait(self._flush_seconds)

    def _drain(self, batch: list[bytes]) -> bool:
        """Write the batch left over and all that is queued; whether all of it could be written."""
        while batch or self._queue:
            if not batch:
                self._encode(batch)
            try:
                self._file.write(batch)
            except OSError as error:
                self.errors += 1
                if self._file.first_failure:
                    logger.warning("The decision log cannot be written: %s", error)
                return False
        return True

    def _encode(self, batch: list[bytes]) -> None:
        size = 0
        while self._queue and size < _MAX_WRITE_BYTES:
            for _ in range(min(_SLICE, len(self._queue))):
                entry = self._queue.popleft()
                self._bytes_out += entry.size
                try:
                    line = self._encoder.line(entry)
                except Exception:
                    self.drops += 1
                    logger.exception("A decision could not be written as JSON.")
                    continue
                batch.append(line)
                size += len(line)
            time.sleep(0)


def _held(request: Request, facts: Facts | None) -> int:
    """About how many bytes are held by holding on to what was decided: peers and policies write as much as they may."""
    if facts is None or facts.verdict is None:
        return request.size
    verdict = facts.verdict
    return request.size + len(verdict.reason or "") + len(verdict.body or "") + len(verdict.message or "")


class _LogFile:
    """An append-only file that is opened when needed. ``first_failure`` is true at the first of a row of errors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._torn = False
        self._failing = False
        self.first_failure = False

    def write(self, lines: list[bytes]) -> None:
        """Append all of ``lines`` in one write and empty the list.

        Raises:
            OSError: when they could not all be written; what is left of them stays in ``lines``.
        """
        try:
            self._write(lines)
        except OSError:
            self.first_failure = not self._failing
            self._failing = True
            raise
        self._failing = False

    def _write(self, lines: list[bytes]) -> None:
        if self._descriptor is None:
            self._descriptor = open_log(self._path)
        data = b"".join(lines)
        if self._torn:
            data = b"\n" + data
        written = os.write(self._descriptor, data)
        if written == len(data):
            self._torn = False
            lines.clear()
            return
        # A full disk takes a part: whole lines are done, the torn one is ended by a newline and written again.
        written -= int(self._torn)
        self._torn = False
        while lines and written >= len(lines[0]):
            written -= len(lines.pop(0))
        self._torn = written > 0
        raise OSError(f"only a part of the batch fitted into {self._path}")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_log(path: Path) -> int:
    """A descriptor that appends to ``path``, made with mode 0600 if it is not there.

    Opened without waiting: a pipe that nobody reads is an error, and not a log that stands still until somebody does.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    os.set_blocking(descriptor, True)
    return descriptor


def check_log_path(path: Path) -> None:
    """Make sure, before serving, that the log can be written.

    Raises:
        Unreachable: ``decision_log_unwritable``.
    """
    try:
        os.close(open_log(path))
    except OSError as error:
        raise Unreachable.of(
            "decision_log_unwritable", f"The decision log cannot be written: {error.strerror}.", file=str(path)
        ) from error


class EventEncoder:
    """Makes events of decisions. Belongs to one thread: it remembers what a rollout's events have in common."""

    def __init__(self, labels: Mapping[str, str], key: bytes) -> None:
        self._labels = orjson.Fragment(orjson.dumps(dict(labels)))
        self._key = key
        self._constants: dict[str, _Constants] = {}
        self._second = 0
        self._second_text = ""
        self._policy_revision = ""
        self._bundles_text: orjson.Fragment | None = None

    def line(self, entry: _Entry) -> bytes:
        """The event of one decision as a line of JSON."""
        event = self._event(entry)
        try:
            return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            # Integers over 64 bits and lone surrogates, which orjson refuses and a feature or header may hold.
            return json.dumps(event, default=_plain, separators=(",", ":")).encode() + b"\n"

    def _event(self, entry: _Entry) -> dict[str, Any]:
        decision, facts, rollout = entry.decision, entry.facts, entry.rollout
        unit = None if decision.unit is None else pseudonym(self._key, decision.unit)
        erased: list[str] = []
        event: dict[str, Any] = {
            "decision_id": decision.decision_id,
            "timestamp": self._timestamp(entry.at),
            "labels": self._labels,
            "bundles": self._bundles(decision.policy_revision),
        }
        if rollout is None or facts is None:
            event["input"] = {}
            event["result"] = record_of(decision, unit)
        else:
            constants = self._constants_of(rollout)
            if rollout.policy is not None:
                event["path"] = rollout.policy.path
            event["input"] = _input(constants, entry, facts, erased)
            event["reads"] = entry.reads
            event["result"] = record_of(decision, unit, constants.features, constants.ranges)
            if facts.verdict is not None:
                saw_unit = not constants.unit_pointers.isdisjoint(erased)
                event["policy"] = _verdict(facts.verdict, facts.unit.value if saw_unit else None, unit)
        if erased:
            event["erased"] = erased
        if entry.source is not None:
            event["requested_by"] = entry.source
        event["metrics"] = {
            timer: int(decision.stage_us[stage] * 1000) for stage, timer in _TIMERS if stage in decision.stage_us
        }
        return event

    def _bundles(self, policy_revision: str) -> orjson.Fragment:
        if policy_revision != self._policy_revision or self._bundles_text is None:
            self._policy_revision = policy_revision
            self._bundles_text = orjson.Fragment(orjson.dumps({"policies": {"revision": policy_revision}}))
        return self._bundles_text

    def _constants_of(self, rollout: CompiledRollout) -> _Constants:
        known = self._constants.get(rollout.key)
        if known is not None and known.rollout is rollout:
            return known
        if len(self._constants) >= _MAX_CONSTANTS:
            self._constants.clear()
        unit_header = rollout.unit.header if rollout.unit.header is not None else "cookie"
        made = _Constants(
            rollout,
            orjson.Fragment(rollout.plan),
            orjson.Fragment(orjson.dumps(dict(rollout.policy_input), default=_plain)),
            orjson.Fragment(orjson.dumps({arm: [*span] for arm, span in rollout.ranges.items()})),
            rollout.log_headers - {unit_header},  # the unit stays out of the log whatever the document says
            rollout.log_features,
            frozenset(("/input/unit", f"{_HEADERS}/{_pointer(unit_header)}")),
        )
        self._constants[rollout.key] = made
        return made

    def _timestamp(self, at: float) -> str:
        """RFC 3339 in UTC with nanoseconds."""
        second = int(at)
        nanos = int((at - second) * 1e9)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{nanos:09d}Z"


def _input(constants: _Constants, entry: _Entry, facts: Facts, erased: list[str]) -> dict[str, Any]:
    """What the policy read, pruned, and the facts that ``decide`` had; ``erased`` gets what was taken out."""
    document = {} if facts.policy_input is None else _pruned(constants, facts.policy_input, erased)
    document["rollout"] = constants.policy_input
    unit, holdout, layer, shadow, _ = facts.buckets
    document["buckets"] = {"unit": unit, "holdout": holdout, "layer": layer, "shadow": shadow}
    document["unit_fault"] = facts.unit.fault
    document["per_request"] = facts.unit.per_request
    document["feature_fault"] = facts.features.fault
    document["too_large"] = facts.too_large
    document["overlay"] = _NO_OVERLAY if entry.overlay is NO_OVERLAY else _overlay(entry.overlay)
    document["plan"] = constants.plan
    return document


def _overlay(overlay: Overlay) -> dict[str, Any]:
    probing = {"probing": sorted(overlay.probing)} if overlay.probing else {}
    return {"killed": overlay.killed, "tripped": sorted(overlay.tripped), **probing}


def _pruned(constants: _Constants, policy_input: Mapping[str, Any], erased: list[str]) -> dict[str, Any]:
    """A copy of the policy's input without what ``spec.log`` withholds, and without the unit."""
    document = dict(policy_input)
    if document.get("unit") is not None:
        del document["unit"]
        erased.append("/input/unit")
    if document.get("parsed_query"):
        del document["parsed_query"]
        erased.append("/input/parsed_query")
    features = document.get("features")
    if features:
        document["features"] = _allowed(features, constants.features, "/input/features", erased)
    attributes = document.get("attributes")
    if attributes:
        document["attributes"] = _pruned_attributes(constants, attributes, erased)
    return document


def _pruned_attributes(constants: _Constants, attributes: Mapping[str, Any], erased: list[str]) -> Mapping[str, Any]:
    request, envoy = attributes.get("request"), attributes.get("envoy")
    if request and "http" in request:
        attributes = {**attributes, "request": {**request, "http": _pruned_http(constants, request["http"], erased)}}
    if envoy:
        allowed = [name for name in envoy if name.startswith(_PLAIN_ATTRIBUTES)]
        attributes = {**attributes, "envoy": _allowed(envoy, allowed, "/input/attributes/envoy", erased)}
    return attributes


def _pruned_http(constants: _Constants, http: Mapping[str, Any], erased: list[str]) -> dict[str, Any]:
    pruned = dict(http)
    path = pruned.get("path")
    if path is not None and "?" in path:
        pruned["path"] = path.partition("?")[0]
        erased.append(f"{_HTTP}/path")
    if "id" in pruned and "x-request-id" not in constants.headers:
        del pruned["id"]
        erased.append(f"{_HTTP}/id")
    headers = pruned.get("headers")
    if headers:
        pruned["headers"] = _pruned_headers(constants.headers, headers, erased)
    return pruned


def _pruned_headers(allowed: Collection[str], headers: Mapping[str, Any], erased: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in headers.items():
        if name in allowed or (name.startswith(":") and "?" not in str(value)) or name == "host":
            kept[name] = value
            continue
        erased.append(f"{_HEADERS}/{_pointer(name)}")
        if name.startswith(":"):
            kept[name] = str(value).partition("?")[0]
    return kept


def _allowed(values: Mapping[str, Any], allowed: Collection[str], where: str, erased: list[str]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if name in allowed}
    if len(kept) != len(values):
        erased += [f"{where}/{_pointer(name)}" for name in values if name not in kept]
    return kept


def _verdict(verdict: PolicyVerdict, unit: bytes | None, alias: str | None) -> dict[str, Any]:
    """The policy's answer. ``unit`` is the one that the policy saw, if it did: its texts may have repeated it."""
    written: dict[str, Any] = {
        "allow": verdict.allow,
        "versions": None if verdict.versions is None else sorted(verdict.versions),
        "version": verdict.version,
        "shadow": verdict.shadow,
        "reason": verdict.reason,
        "http_status": verdict.http_status,
        "body": verdict.body,
        "fault": verdict.fault,
        "message": verdict.message,
    }
    if unit:
        secret = unit.decode("utf-8", "replace")
        for name in ("reason", "body", "message"):
            written[name] = written[name] and written[name].replace(secret, alias or "")
    return written


def _pointer(name: str) -> str:
    """``name`` as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _plain(value: Any) -> Any:
    """What the JSON encoders do not know by themselves."""
    if isinstance(value, orjson.Fragment):
        return json.loads(orjson.dumps(value))
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
