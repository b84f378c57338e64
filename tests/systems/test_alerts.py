"""The alerts of ``envoy/alerts.yaml`` fire for the first event, by promtool and in a real Prometheus."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from extproc.metrics.catalogue import RELOADS_REFUSED
from tests.e2e.environment import KEY, Environment
from tests.support.envoy import running
from tests.support.load import under_load
from tests.support.paths import ROOT
from tests.support.process import found, wait_for
from tests.systems.prometheus import Prometheus

ALERTS: Final = ROOT / "envoy" / "alerts.yaml"
ONCE, RAISED, LOWERED = "0x10 1x100", "0x10 1x100", "1x10 0x100"
"""Samples, one each 15 s: at 150 s comes the first event."""

ALWAYS: Final = {
    'dropout_snapshot_age_seconds{instance="other"}': "0x400",
    'dropout_rollout_phase{rollout="payments/other",phase="Progressing"}': "1x400",
}
"""What is scraped in every case: a host that is well, and a rollout under way."""

OF_A_ROLLOUT, OF_A_VERSION = 'rollout="payments/fraud"', 'rollout="payments/fraud",version="4"'
FIRST: Final[dict[str, tuple[str, str]]] = {
    "DropoutVersionTripped": (f"dropout_trips_total{{{OF_A_VERSION}}}", ONCE),
    "DropoutStableTripped": ("dropout_controller_stable_tripped", RAISED),
    "DropoutRolloutKilled": (f"dropout_kills_total{{{OF_A_ROLLOUT}}}", ONCE),
    "DropoutRolloutAborted": (f"dropout_aborts_total{{{OF_A_ROLLOUT}}}", ONCE),
    "DropoutPolicyFails": ('dropout_policy_faults_total{reason="policy_error"}', ONCE),
    "DropoutUndecided": ('envoy_http_ext_proc_failure_mode_allowed{envoy_http_conn_manager_prefix="ingress"}', ONCE),
    "DropoutEnvoyBehind": ('dropout_envoy_delivered{envoy="127.0.0.1:9901"}', LOWERED),
    "DropoutReloadRefused": ('dropout_reloads_refused_total{what="policies"}', ONCE),
    "DropoutDecisionsNotLogged": ('dropout_decision_log_drops_total{instance="a",sink="file"}', ONCE),
    "DropoutSnapshotOld": ('dropout_snapshot_age_seconds{instance="a"}', "0.1x10 6x100"),
    "DropoutSafetyWaiting": ('dropout_safety_waiting{instance="a"}', RAISED),
    "DropoutSafetyNotKept": ('dropout_safety_kept{instance="a"}', LOWERED),
    "DropoutObserverDown": ('dropout_observer_up{instance="a"}', LOWERED),
    "DropoutObserverSurplus": (f"dropout_observer_surplus_total{{{OF_A_VERSION}}}", ONCE),
    "DropoutWorkerReplaced": ('dropout_workers_replaced_total{instance="a"}', ONCE),
    "DropoutPolicyShadowReplaced": ('dropout_policy_shadow_replaced_total{instance="a"}', ONCE),
    "DropoutFeaturesStale": ('dropout_features_stale{view="user_risk"}', RAISED),
    "DropoutFeatureStoreDown": ('dropout_feature_store_up{instance="a"}', LOWERED),
    "DropoutSilent": ('dropout_snapshot_age_seconds{instance="other"}', "0x10 stale"),
    "DropoutNobodyLeads": ("dropout_controller_leads", LOWERED),
}
"""What each alert fires for, and of that the first event."""

LASTING: Final[dict[str, str]] = {
    "DropoutVersionTripped": f"dropout_rollout_tripped{{{OF_A_VERSION}}}",
    "DropoutRolloutKilled": f"dropout_rollout_killed{{{OF_A_ROLLOUT}}}",
    "DropoutRolloutAborted": f'dropout_rollout_phase{{{OF_A_ROLLOUT},phase="Degraded"}}',
}
"""What is asked for beside it: it was so when it was scraped for the first time, and still is an hour later."""


def promtool(*arguments: str | Path) -> str:
    """What it says; it must find nothing wrong."""
    done = subprocess.run([found("promtool", "make systems"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def case(series: str, values: str, firing: dict[str, list[str]]) -> dict[str, Any]:
    """A test of promtool's: by the time, as it writes it, which alerts fire."""
    return {
        "interval": "15s",
        "input_series": [{"series": name, "values": of} for name, of in {**ALWAYS, series: values}.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": at,
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
            }
            for at, names in firing.items()
        ],
    }


def test_every_alert_fires_for_the_first_event_and_for_what_lasts(tmp_path: Path) -> None:
    rules = [rule["alert"] for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]]
    assert list(FIRST) == rules
    promtool("check", "rules", ALERTS)
    tests = [case(*first, {"2m": [], "4m": [name]}) for name, first in FIRST.items()]
    tests += [case(series, "1x300", {"1m": [name], "1h": [name]}) for name, series in LASTING.items()]
    file = tmp_path / "tests.yaml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": tests}))
    promtool("test", "rules", file)


@pytest.mark.e2e
def test_a_first_trip_a_first_refusal_and_a_first_undecided_request_are_alerts_in_prometheus(
    start: Callable[[Any], Any],
) -> None:
    limits = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
    environment = Environment("package routing\n\nimport rego.v1\n", {"breaker": limits}, observed=True)
    with running(environment):
        assert environment.envoy is not None
        environment.set_weight(50)
        dropout, envoy = environment.dropout.admin_port, environment.envoy.admin_port
        prometheus = start(Prometheus(f"127.0.0.1:{dropout}", f"127.0.0.1:{envoy}/stats/prometheus", rule_file=ALERTS))

        def firing() -> dict[str, str]:
            alerts = prometheus.query('ALERTS{alertstate="firing"}')
            return {labels["alertname"]: labels.get("rollout", labels.get("what", "")) for labels, _ in alerts}

        counted = "dropout_trips_total or dropout_reloads_refused_total or envoy_http_ext_proc_failure_mode_allowed"
        series = len(["canary's trips", *RELOADS_REFUSED.values, "Envoy's"])
        wait_for(lambda: len(prometheus.query(counted)) == series, "every counter there")
        assert {value for _, value in prometheus.query(counted)} == {0.0}
        assert firing() == {}
        environment.dropout.write_policy("nonsense")
        wait_for(lambda: firing() == {"DropoutReloadRefused": "policies"}, "an alert for the reload")
        with under_load(environment.port, rate=100):
            environment.upstreams.broken.add("fraud-detector-v4")
            wait_for(lambda: firing().get("DropoutVersionTripped") == KEY, "an alert for the trip")
            environment.dropout.stop()
            wait_for(lambda: "DropoutUndecided" in firing(), "an alert for undecided requests")
