"""What a rollout asks for that a host does not have is a condition of it, written when it changes and never else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extproc.control.analysis.servers import MetricServers
from extproc.control.evidence import EvidenceCollector
from extproc.control.reconciler import Reconciler
from extproc.control.unmet import MOST_CHARACTERS, MOST_LACKS, HostLacks, Lack, UnmetOnHosts
from tests.support.reconciling import Environment

OBSERVER = Lack("observer_missing", "spec.breaker", "there is no observer")
FEATURES = Lack("feature_store_missing", "spec.features", "there is no feature store")
RULE = Lack("policy_rule_missing", "spec.policy.path", "no policy has routing/nowhere", "routing/nowhere")
OTHERS = (
    Lack("policy_rule_missing", "spec.policy.path", "no policy has routing/other", "routing/other"),
    Lack("of_a_newer_version", "spec", "something else"),
    Lack("features_stale", "spec.features", "values of the view other_risk are too old", view="other_risk"),
)
STALE = Lack("features_stale", "spec.features", "values of the view user_risk are too old", view="user_risk")
WAY_OUT = "mend that there, or leave spec.breaker out of the document"
ALL = {
    "breaker": {},
    "features": {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]},
    "policy": {"path": "routing/nowhere"},
    "steps": [{"pause": {}}],
}


class Hosts:
    """What each ``serve`` says, and a controller that asks."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.says: Mapping[str, HostLacks | None] = {}
        self.unmet = UnmetOnHosts(lambda: self.says)
        self.controller = self._controller()

    def begin_anew(self) -> None:
        self.controller.release()
        self.unmet = UnmetOnHosts(lambda: self.says)
        self.controller = self._controller()

    def _controller(self) -> Reconciler:
        monotonic = self.environment.clock.monotonic
        servers, unmet = MetricServers({}, monotonic), self.unmet
        collector = EvidenceCollector({}, servers, monotonic, unmet=unmet.of, stale=unmet.stale)
        return self.environment.controller(evidence=collector)

    def told(self, **says: HostLacks | None) -> list[Mapping[str, Any]]:
        """The conditions, after each has said that for a while."""
        self.says = says
        self.unmet.refresh()
        self.environment.run(self.controller, 3)
        return self.conditions("Unmet")

    def conditions(self, kind: str) -> list[Mapping[str, Any]]:
        """Those of a type that the rollout has."""
        return [one for one in self.environment.row().status.conditions if one["type"] == kind]


MANY = tuple(Lack("policy_rule_missing", "spec.policy.path", "no", f"routing/{n}") for n in range(MOST_LACKS))


def on(host: str, *lacks: Lack) -> HostLacks:
    return HostLacks(host, lacks)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    environment = Environment(tmp_path)
    environment.apply(**ALL)
    yield Hosts(environment)
    environment.store.close()


def test_what_hosts_lack_is_a_condition_that_names_them_until_none_lacks_it(hosts: Hosts) -> None:
    (one,) = hosts.told(a=on("ml-2", OBSERVER), b=on("ml-1", OBSERVER, *OTHERS), c=on("ml-3"))
    message = f"on ml-1, ml-2 there is no observer; {WAY_OUT}"
    assert one == {"type": "Unmet", "status": "True", "reason": "observer_missing", "message": message}
    (one,) = hosts.told(a=on("ml-2"), b=on("ml-1", RULE, OBSERVER, FEATURES))
    assert one["reason"] == "feature_store_missing"
    assert [f"on ml-1 {lack.message}" in one["message"] for lack in (RULE, OBSERVER, FEATURES)] == [True] * 3
    assert hosts.told(a=on("ml-2"), b=on("ml-1", *OTHERS)) == []


def test_a_view_of_which_too_much_is_too_old_is_a_condition_of_its_own_until_it_is_well_on_every_host(
    hosts: Hosts,
) -> None:
    assert hosts.told(a=on("ml-2", STALE), b=on("ml-1", *OTHERS)) == []
    (one,) = hosts.conditions("FeaturesStale")
    message = "on ml-2 values of the view user_risk are too old"
    assert one == {"type": "FeaturesStale", "status": "True", "reason": "features_stale", "message": message}
    hosts.told(a=None, b=on("ml-1"))
    assert hosts.conditions("FeaturesStale") == [one]
    hosts.told(a=on("ml-2"), b=on("ml-1"))
    assert hosts.conditions("FeaturesStale") == []


def test_a_rule_that_is_longer_than_what_is_told_is_missing_all_the_same(hosts: Hosts) -> None:
    rule = "routing/" + "r" * MOST_CHARACTERS
    hosts.environment.apply(**{**ALL, "policy": {"path": rule}})
    (one,) = hosts.told(a=on("ml-1", replace(RULE, rule=rule[:MOST_CHARACTERS])))
    assert one["reason"] == "policy_rule_missing"


def test_it_is_written_when_it_changes_and_wakes_nobody_else(hosts: Hosts) -> None:
    hosts.told(a=on("ml-1", OBSERVER))
    row = hosts.environment.row()
    hosts.told(a=on("ml-1", OBSERVER))
    hosts.told(a=on("ml-1", OBSERVER), b=on("ml-1", OBSERVER, *OTHERS))
    assert hosts.environment.row() == row


def test_who_is_silent_changes_nothing(hosts: Hosts) -> None:
    assert hosts.told(a=None) == []
    before = hosts.told(a=on("ml-1", OBSERVER), b=on("ml-2"))
    assert hosts.told(a=None, b=on("ml-2")) == before
    assert hosts.told() == before, "nobody is there: it may begin anew"
    assert hosts.told(c=None) == before, "it does not know yet"
    hosts.begin_anew()
    assert hosts.told() == before
    assert hosts.told(c=None, b=on("ml-2")) == before
    assert hosts.told(c=on("ml-1"), b=on("ml-2")) == []


@pytest.mark.parametrize("silent", [False, True])
def test_it_is_over_with_what_asked_for_it(hosts: Hosts, silent: bool) -> None:
    assert hosts.told(a=on("ml-1", OBSERVER))
    if silent:
        hosts.begin_anew()
        hosts.environment.apply(**{**ALL, "canary": {"version": "3"}})
        assert hosts.told(a=None) == []
    else:
        hosts.environment.apply(**{**ALL, "breaker": None})
        assert hosts.told(a=on("ml-1", OBSERVER)) == []


def test_an_experiment_says_it_too(hosts: Hosts) -> None:
    variants = [{"name": name, "version": version, "weight": 50} for name, version in (("new", "4"), ("old", "3"))]
    hosts.environment.apply(**{**ALL, "steps": None, "canary": None, "variants": variants})
    assert hosts.told(a=on("ml-1", OBSERVER))


def test_who_lacks_more_than_it_may_tell_has_not_said_that_something_is_there(hosts: Hosts) -> None:
    assert hosts.told(a=on("ml-1", *MANY)) == []
    told = hosts.told(a=on("ml-1", OBSERVER, *MANY[1:]))
    assert told
    assert hosts.told(a=on("ml-1", *MANY)) == told
    assert hosts.told(a=on("ml-1", *MANY[1:])) == []
