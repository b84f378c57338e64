"""Whether Envoys have what was rendered for them: what each has, by its admin endpoint, held against the files.

Envoy reads a file when its folder tells it of a change. Where the folder is removed and made anew it is told nothing
any more, and it keeps what it has when it cannot read a file or refuses what is in it: a new rollout is then nobody's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from extproc.adapters.envoy.admin import UNANSWERED, Asking, EnvoyClusters, fetch, is_silent, why_unanswered
from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE, version_of
from extproc.envoy.render import ROUTE_CONFIG_NAME
from extproc.errors import Fault

BEHIND: Final = "envoy_behind"
BEHIND_SECONDS: Final = 3.0
"""Envoy reads a change within milliseconds; after as long it does not by itself."""

SILENT_SECONDS: Final = 10.0
"""Envoy starts, and starts again, within it; what is silent for longer does not come by itself."""

_MAX_BYTES: Final = 1 << 20
_OF_ROUTES: Final = rf"\.rds\.{re.escape(ROUTE_CONFIG_NAME)}\."
_OF_CLUSTERS: Final = r"cluster_manager\.cds\."
_VERSIONS: Final = "/stats?format=json&type=TextReadouts&filter=" + quote(f"({_OF_ROUTES}|{_OF_CLUSTERS})version_text$")
_COUNTS: Final = "/stats?format=json&type=Counters&filter=" + quote(f"({_OF_ROUTES}|{_OF_CLUSTERS})update_")


class _Versions(NamedTuple):
    """Of what there are routes and clusters; every listener has its own routes."""

    routes: frozenset[str]
    clusters: frozenset[str]


class _Counts(NamedTuple):
    """How often an Envoy looked, could not read what it found, and refused it."""

    attempts: int
    failures: int
    refusals: int

    def since(self, before: _Counts) -> _Counts:
        return _Counts(*(now - then for now, then in zip(self, before, strict=True)))


class EnvoyDelivery(Asking):
    """The Envoys at ``addresses`` (host, port), which read ``directory``."""

    def __init__(self, addresses: Sequence[tuple[str, int]], directory: Path) -> None:
        self._envoys = {f"{host}:{port}": _Envoy(f"{host}:{port}", directory) for host, port in addresses}
        super().__init__(addresses)

    def faults(self) -> Mapping[str, Fault | None]:
        """By the address of each Envoy, why it does not have what was rendered last; None if it has."""
        return {address: envoy.fault for address, envoy in self._envoys.items()}

    def awaited(self) -> Collection[str]:
        """The addresses of those that have been silent, or behind, for so short a time that they may be starting."""
        return {address for address, envoy in self._envoys.items() if envoy.awaited}

    def behind(self) -> str | None:
        """Why an Envoy that answers does not have it; empty if each has, None while one that is silent may not."""
        faults = [fault for fault in self.faults().values() if fault is not None]
        behind = next((fault.message for fault in faults if fault.code == BEHIND), "")
        return behind or (None if faults else "")

    def ask(self, host: str, port: int) -> None:
        """See ``Asking``."""
        self._envoys[f"{host}:{port}"].check(lambda path: fetch(host, port, path, _MAX_BYTES), time.monotonic())


class _Envoy:
    """What is known of one Envoy; ``fault`` and ``awaited`` may be read from any thread."""

    def __init__(self, address: str, directory: Path) -> None:
        self._address, self._name = address, f"Envoy at {address}"
        self._directory = directory
        self._behind_since: float | None = None
        self._delivered: _Versions | None = None
        self._delivered_at: _Counts | None = None
        self._silent_since: float | None = None
        self.awaited = True
        self.fault: Fault | None = Fault("envoy_silent", f"{self._name} was not asked yet")

    def check(self, get: Callable[[str], Any], now: float) -> None:
        """Ask it by ``get``, at ``now`` (monotonic seconds)."""
        try:
            before, has, after = self._written(), _versions(get(_VERSIONS)), self._written()
            if has in (before, after) and "" not in has.routes | has.clusters:
                if self._delivered_at is None or self._behind_since is not None or has != self._delivered:
                    self._delivered, self._delivered_at = has, _counts(get(_COUNTS))
                self._silent_since, self._behind_since, self.fault, self.awaited = None, None, None, False
                return
            why = self._why(has, _counts(get(_COUNTS)))
        except UNANSWERED as error:
            self._unanswered(error, now)
            return
        self._silent_since = None
        if self._behind_since is None:
            self._behind_since = now
        if now - self._behind_since >= BEHIND_SECONDS:
            self.awaited = False
            self.fault = Fault(BEHIND, f"{self._name} {why}", file=str(self._directory))

    def _unanswered(self, error: Exception, now: float) -> None:
        self._silent_since = now if self._silent_since is None else self._silent_since
        message = f"{why_unanswered(self._address, error)}: nobody knows whether it has the routes"
        if is_silent(error):
            self.fault, self.awaited = Fault("envoy_silent", message), now - self._silent_since < SILENT_SECONDS
        else:
            self.fault, self.awaited = Fault("no_envoy", message, field="--envoy-admin"), False

    def _written(self) -> _Versions:
        routes, clusters = (version_of(self._directory / name) for name in (ROUTES_FILE, CLUSTERS_FILE))
        return _Versions(frozenset({routes}), frozenset({clusters}))

    def _why(self, has: _Versions, counts: _Counts) -> str:
        if not has.routes:
            return f"has no routes called {ROUTE_CONFIG_NAME!r}: its configuration is another one's"
        before = self._delivered_at
        if before is None or counts.attempts < before.attempts:  # it began before us, or anew
            return (
                "has other routes or clusters than were rendered: it reads another folder, or one that was removed and"
                " made anew since it started; or it refuses them, as its log says then"
            )
        attempts, failures, refusals = counts.since(before)
        if refusals:
            return "refuses the routes or clusters that were rendered; its log says why"
        if failures:
            return "cannot read the routes or clusters that were rendered; its log says why"
        if not attempts:
            return "does not see any more what is rendered: the folder was removed and made anew; start Envoy again"
        return "reads the folder, and other routes or clusters than were rendered: somebody else writes there"


class DeliveredClusters:
    """``control.readiness.Clusters``: nothing is ready on an Envoy that does not have what was rendered."""

    def __init__(self, clusters: EnvoyClusters, delivery: EnvoyDelivery) -> None:
        self._clusters = clusters
        self._delivery = delivery

    def unready(self, cluster: str) -> str:
        """See ``Clusters``."""
        return self._delivery.behind() or self._clusters.unready(cluster)


def _stats(page: Any) -> list[tuple[str, Any]]:
    return [(each["name"], each["value"]) for each in page["stats"] if "name" in each]


def _versions(page: Any) -> _Versions:
    found = _stats(page)
    routes = frozenset(value for name, value in found if re.search(_OF_ROUTES, name))
    return _Versions(routes, frozenset(value for name, value in found if re.match(_OF_CLUSTERS, name)))


def _counts(page: Any) -> _Counts:
    found = _stats(page)
    return _Counts(
        *(
            sum(int(value) for name, value in found if name.endswith(f".update_{what}"))
            for what in ("attempt", "failure", "rejected")
        )
    )
