"""Whether the observers are heard: nothing more is given while one that may have taken the version away is silent.

An observer takes a version away by itself and at once, and tells of it when it can. What it could not tell yet is
known to its host alone, so no news of it is no good news.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple, Protocol

from extproc.errors import InvalidInput, Refused, Unreachable
from extproc.snapshot.trips import LocalTrip
from extproc.store.records import StoredRollout
from extproc.store.status import Status

SILENT_SECONDS: Final = 3.0
"""Observers report every second, and at once what they take away; one that is silent for longer is not heard."""

REFRESH_SECONDS: Final = 0.1
"""How often somebody who waits for an observer's next report looks for it."""

_LONGEST_HOST: Final = 253


class ObserverReport(NamedTuple):
    """What a run of an observer told last, as its report ``number`` of a growing row.

    ``host`` and ``address`` are its place. It is ``over`` if it ended in order or a later run took its place: nothing
    more is to be heard of it, and what it took away stands.
    """

    run: str
    host: str
    address: str
    number: int
    over: bool
    trips: tuple[LocalTrip, ...] = ()


class ReportedTrip(NamedTuple):
    """A trip and the host whose observer told of it."""

    host: str
    trip: LocalTrip


class ReportSource(Protocol):
    """What the observers of all hosts report. From any thread."""

    def reports(self) -> Sequence[ObserverReport]:
        """The last report of every run, of those that are over too. Raises ``Unreachable``."""
        ...

    def watching(self, key: str, attempt: int) -> Collection[str]:
        """The runs that ever reported for ``key`` (``namespace/name``) in ``attempt``. Raises ``Unreachable``."""
        ...


class Silence(NamedTuple):
    """Why nothing more may be given. It is ``certain`` once an observer had time enough to be heard."""

    why: str
    certain: bool


@dataclass(slots=True)
class _Run:
    """A run, in monotonic seconds: ``heard_at`` is when it was still to say what it said last, or earlier.

    ``news_at`` is the refresh at which that was seen, or at which the run was first seen.
    """

    report: ObserverReport
    heard_at: float
    news_at: float
    missing: bool = False


class Hearing:
    """What was heard of observers, by the clock of the one who listens: no clocks of two machines are compared.

    A run counts as heard when its report's number changes between two refreshes. From any thread.
    """

    def __init__(self, source: ReportSource, monotonic: Callable[[], float]) -> None:
        self._source = source
        self._monotonic = monotonic
        self._lock = Lock()
        self._runs: dict[str, _Run] = {}
        self._refreshed_at = float("-inf")
        self._fault: Silence | None = None
        self._faulty_since: float | None = None

    def refresh(self) -> None:
        """Take the newest reports."""
        with self._lock:
            now = self._monotonic()
            try:
                reports = self._source.reports()
            except Unreachable as error:
                self._cannot_read(error, now)
                return
            self._fault = self._faulty_since = None
            self._take(reports, now)
            self._refreshed_at = now

    def trips(self) -> list[ReportedTrip]:
        """All trips that runs told of last; those of runs that are over may be known to nobody else."""
        with self._lock:
            return [ReportedTrip(run.report.host, trip) for run in self._runs.values() for trip in run.report.trips]

    def hosts(self) -> Collection[str]:
        """The hosts from which an observer reported, those too whose runs are over.

        Raises:
            Refused: ``observer_unheard`` when the reports could not be read at the last refresh.
        """
        with self._lock:
            if self._fault is not None:
                raise Refused.of("observer_unheard", self._fault.why)
            return {run.report.host for run in self._runs.values()}

    def silence(self, key: str, attempt: int, without: Collection[str] = ()) -> Silence | None:
        """Why ``key`` (``namespace/name``) may not get more in ``attempt``; None: everybody is heard.

        Hosts in ``without`` are not waited for. As of the last refresh.
        """
        with self._lock:
            if self._fault is not None:
                return self._fault
            now = self._monotonic()
            silent = [
                run
                for run in self._runs.values()
                if not run.report.over and run.report.host not in without and now - run.heard_at > SILENT_SECONDS
            ]
            if not silent:
                return None
            try:
                watching = self._source.watching(key, attempt)
            except Unreachable as error:
                self._cannot_read(error, now)
                return self._fault
            return _silence([run for run in silent if run.missing or run.report.run in watching], key, now)

    def _take(self, reports: Sequence[ObserverReport], now: float) -> None:
        for report in reports:
            run = self._runs.get(report.run)
            if run is None:
                self._runs[report.run] = _Run(report, float("-inf"), now)
                continue
            if report.number != run.report.number:
                # It was written after the refresh before, however long ago that was.
                run.heard_at, run.news_at = self._refreshed_at, now
            run.report, run.missing = report, False
        told, places = {report.run for report in reports}, {(report.host, report.address) for report in reports}
        for name, run in list(self._runs.items()):
            if name in told:
                continue
            if run.report.over or (run.report.host, run.report.address) in places:
                del self._runs[name]
            else:
                run.missing = True  # the file was made anew: for whom it reported is told there no more

    def _cannot_read(self, error: Unreachable, now: float) -> None:
        if self._faulty_since is None:
            self._faulty_since = now
        why = f"what the observers report cannot be read: {error}"
        self._fault = Silence(why, now - self._faulty_since > SILENT_SECONDS)


class WaitingHearing:
    """An answer within a bounded time, for who acts by hand: a refresh that found nothing new is repeated."""

    def __init__(self, hearing: Hearing, wait: Callable[[float], None]) -> None:
        self._hearing = hearing
        self._wait = wait

    def unheard(self, key: str, attempt: int, without: Collection[str]) -> str:
        """Why ``key`` may not get more in ``attempt``, empty if it may; takes ``SILENT_SECONDS`` at most."""
        while True:
            self._hearing.refresh()
            silence = self._hearing.silence(key, attempt, without)
            if silence is None or silence.certain:
                return silence.why if silence is not None else ""
            self._wait(REFRESH_SECONDS)

    def hosts(self) -> Collection[str]:
        """See ``Hearing.hosts``, as of now."""
        self._hearing.refresh()
        return self._hearing.hosts()

    def tripped(self, key: str, version: str, attempt: int) -> ReportedTrip | None:
        """What an observer told of ``version`` in ``attempt``, if it took it away."""
        self._hearing.refresh()
        for reported in self._hearing.trips():
            if reported.trip[:3] == (key, version, attempt):
                return reported
        return None


def refuse_unheard(hearing: WaitingHearing, row: StoredRollout, after: Status) -> ReportedTrip | None:
    """Refuse what gives a version of ``row`` more, as ``after`` has it, while an observer may have taken it away.

    Returns the trip, if that is what an observer reports and the store does not know.

    Raises:
        Refused: ``observer_unheard``.
    """
    status = row.status
    version = after.stable if after.stable != status.stable else after.canary
    known = version is None or version in status.taken_away
    if not known and (told := hearing.tripped(row.key, str(version), status.attempt)) is not None:
        return told
    if why := hearing.unheard(row.key, status.attempt, after.without):
        raise Refused.of("observer_unheard", why)
    return None


def check_hosts(hosts: Sequence[str], waited_for_no_more: Collection[str], hearing: WaitingHearing | None) -> None:
    """Check names of hosts that somebody gives; those that are ``waited_for_no_more`` already were known once.

    Raises:
        InvalidInput: ``host_invalid``, or ``observer_unknown`` where no observer of the host ever reported.
        Refused: ``observer_unheard`` when nobody can say which did.
    """
    for host in hosts:
        if not 0 < len(host) <= _LONGEST_HOST or not host.isprintable():
            raise InvalidInput.of("host_invalid", f"{host!r} is not the name of a host", field="--without")
    if not set(hosts) - set(waited_for_no_more):
        return
    known = {*waited_for_no_more, *(hearing.hosts() if hearing is not None else ())}
    if unknown := [host for host in hosts if host not in known]:
        those = f"those that did are on {', '.join(sorted(known))}" if known else "none did in this store"
        message = (
            f"no observer on {', '.join(unknown)} ever reported; {those}, and a controller that waits for another, of"
            " which the file was removed, is told with --control"
        )
        raise InvalidInput.of("observer_unknown", message, field="--without")


def _silence(silent: Sequence[_Run], key: str, now: float) -> Silence | None:
    if not silent:
        return None
    hosts = sorted({run.report.host for run in silent})
    ways_out = " ".join(f"--without {host}" for host in hosts)
    why = (
        f"no word for over {SILENT_SECONDS:g} s from the observer on {', '.join(hosts)}, which may have taken the"
        f" version away: `dropout rollout promote {key} {ways_out}` goes on without it"
    )
    return Silence(why, all(now - run.news_at > SILENT_SECONDS for run in silent))
