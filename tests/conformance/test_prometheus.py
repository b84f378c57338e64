"""Metrics of a real Prometheus beyond the contract, of servers that only pretend to be one, and of one that hangs."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from extproc.adapters.prometheus.metrics import MAX_ANSWER_BYTES
from extproc.cli.metric_servers import metric_servers
from extproc.control.analysis.measuring import evaluate
from extproc.control.analysis.ports import MetricProvider, MetricQuery, Reading
from extproc.control.analysis.runs import Outcome
from extproc.control.analysis.servers import MetricServers
from extproc.control.evidence import EvidenceCollector
from extproc.errors import InvalidInput
from extproc.plugins import METRICS, open_adapter
from tests.support.certificates import identity
from tests.support.dropout import DropoutServer
from tests.support.metrics import promql
from tests.support.pretender import Pretender
from tests.support.process import wait_for
from tests.support.reconciling import Environment
from tests.support.templates import metric, metric_of, template
from tests.systems.prometheus import HOSTILE, ScrapingPrometheus

NOW = 1_800_000_000.0
GOOD = {"status": "success", "data": {"resultType": "scalar", "result": [NOW, "0.5"]}}
Start = Callable[[AbstractContextManager[Pretender]], Pretender]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def opened(url: str) -> MetricProvider:
    return open_adapter(METRICS, url, "--metrics")


def asked(url: str, *questions: MetricQuery) -> list[Reading]:
    async def ask() -> list[Reading]:
        provider = opened(url)
        try:
            return [await provider.measure(question, 20.0) for question in questions]
        finally:
            await provider.close()

    return asyncio.run(ask())


def verdict(reading: Reading, **conditions: str) -> tuple[Outcome, str]:
    asked = {"prometheus": {"server": "main", "query": "up"}}
    body = template(metric(provider=asked, **{"failureCondition": None, **conditions}))
    found = evaluate(metric_of(body), reading, NOW)
    return found.outcome, found.message


def test_whatever_an_argument_holds_it_selects_its_own_series_and_nothing_else(prometheus: ScrapingPrometheus) -> None:
    questions = [
        promql(query, x=text) for text in HOSTILE for query in ('odd{is="{{args.x}}"}', "odd{is=~'{{args.x}}'}")
    ]
    found = [reading.result for reading in asked(f"prometheus+{prometheus.url}", *questions)]
    assert found == [[float(number)] for number in range(len(HOSTILE)) for _ in range(2)]


def test_nothing_and_what_is_no_number_are_errors_and_several_series_a_list(prometheus: ScrapingPrometheus) -> None:
    nothing, nan, several = asked(
        f"prometheus+{prometheus.url}", promql("nothing"), promql("errors * 0 / 0"), promql("sort(errors)")
    )
    for conditions in ({"failureCondition": "result[0] > 0.5"}, {"successCondition": "result[0] < 0.5"}):
        assert verdict(nothing, **conditions) == (
            Outcome.ERROR,
            "result has no such element: index out of bounds: 0",
        )
        outcome, why = verdict(nan, **conditions)
        assert (outcome, "result is NaN" in why) == (Outcome.ERROR, True)
    assert verdict(nothing, failureCondition="size(result) == 0") == (
        Outcome.FAILED,
        "failureCondition is true: size(result) == 0 (result [])",
    )
    assert verdict(nan, failureCondition="result[0] != result[0]")[0] is Outcome.FAILED
    assert verdict(several, successCondition="result[0] < 0.5 && result[1] < 0.8") == (
        Outcome.SUCCESSFUL,
        "successCondition is true: result[0] < 0.5 && result[1] < 0.8 (result [0.25, 0.75])",
    )


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"<html>", 200, "answers 200 OK, and nothing of a Prometheus"),
        (b"", 401, "answers 401 Unauthorized, and nothing of a Prometheus"),
        (b"x" * (MAX_ANSWER_BYTES + 1), 200, "has more than 1048576 bytes"),
        (json.dumps({**GOOD, "warnings": ["a store is away"]}).encode(), 200, "warns: ['a store is away']"),
        (b'{"status": "error", "errorType": "timeout", "error": "too\\n\\u001blong"}', 503, "says: timeout: too  long"),
        (json.dumps({"status": "error", "error": "e" * 10_000}).encode(), 422, f"says: None: {'e' * 300}..."),
        (b'{"status": "success", "data": []}', 200, "the query gives a None"),
        (
            b'{"status": "success", "data": {"resultType": "vector", "result": [{"histogram": []}]}}',
            200,
            "than numbers",
        ),
        (b'{"status": "success", "data": {"resultType": "scalar", "result": [0, "much"]}}', 200, "than numbers"),
        (b'{"status": "success", "data": {"resultType": "scalar", "result": "12"}}', 200, "than numbers"),
        (b'{"status": "success", "data": {"resultType": "scalar", "result": [0, true]}}', 200, "than numbers"),
        (b'{"status": "success", "data": {"resultType": "scalar", "result": [0, "1_0"]}}', 200, "than numbers"),
        (b'{"status": "success", "data": {"resultType": "vector", "result": [{"value": "17"}]}}', 200, "than numbers"),
        (b'{"status": "success", "data": {"resultType": "vector"}}', 200, "than numbers"),
        (b'{"status": "success", "data": {"resultType": "vector", "result": {}}}', 200, "than numbers"),
        (json.dumps(GOOD).encode(), 503, "answers 503 Service Unavailable, and nothing of a Prometheus"),
    ],
)
def test_an_answer_that_is_none_or_not_whole_is_an_error_in_words(
    start: Start, body: bytes, status: int, said: str
) -> None:
    (reading,) = asked(f"prometheus+http://{start(Pretender(body, status)).address}", promql("up"))
    assert (reading.result, said in reading.error) == (None, True), reading.error
    assert reading.error.isprintable()


def test_a_redirect_is_not_followed_and_takes_no_secret_along(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("geheim\n")
    elsewhere = start(Pretender(json.dumps(GOOD).encode()))
    redirecting = start(Pretender(b"", 307, location=f"http://{elsewhere.address}/api/v1/query"))
    (reading,) = asked(f"prometheus+http://{redirecting.address}?token-file={tmp_path}/token", promql("up"))
    assert "answers 307 Temporary Redirect" in reading.error
    assert redirecting.asked[0]["authorization"] == "Bearer geheim"
    assert elsewhere.asked == []


def test_a_server_over_tls_is_asked_if_the_named_authority_signed_it_with_user_and_password(
    start: Start, tmp_path: Path
) -> None:
    authority = identity("authority")
    identity("127.0.0.1", authority).write(tmp_path)
    for name, text in (("ca", authority.pem), ("other", identity("stranger").pem), ("password", b"geheim")):
        (tmp_path / name).write_bytes(text)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    server = start(Pretender(json.dumps(GOOD).encode(), tls=tls))
    url = f"prometheus+https://me@{server.address}/prefix/?password-file={tmp_path}/password&ca={tmp_path}"
    assert asked(f"{url}/ca", promql("up")) == [Reading(0.5)]
    assert server.asked[0]["authorization"] == "Basic bWU6Z2VoZWlt"
    (refused,) = asked(f"{url}/other", promql("up"))
    assert "cannot be asked" in refused.error
    assert "geheim" not in refused.error


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("prometheus+http://user:geheim@127.0.0.1", "secret_in_url"),
        ("prometheus+http://", "url_invalid"),
        ("prometheus+http://user@127.0.0.1", "url_invalid"),
        ("prometheus+http://127.0.0.1?ca=/nowhere/at/all", "url_invalid"),
        ("prometheus+https://127.0.0.1?ca=/nowhere/at/all", "file_unreadable"),
        ("prometheus+https://127.0.0.1?token=geheim", "url_parameter"),
        ("prometheus+https://127.0.0.1?token-file=/nowhere/at/all", "file_unreadable"),
        ("prometheus://127.0.0.1", "metrics_url"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_before_anybody_is_asked(url: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        metric_servers([f"main={url}"])
    assert refused.value.code == expected
    assert "geheim" not in str(refused.value)


def test_a_server_that_says_nothing_holds_up_no_tick_and_none_of_a_hundred_rollouts(
    tmp_path: Path, silent: str, prometheus: ScrapingPrometheus
) -> None:
    environment = Environment(tmp_path)
    given = [f"silent=prometheus+http://{silent}", f"main=prometheus+{prometheus.url}"]
    servers = MetricServers(metric_servers(given), environment.clock.monotonic)
    controller = environment.controller(evidence=EvidenceCollector({}, servers, environment.clock.monotonic))
    for server in ("silent", "main"):
        asked = {"prometheus": {"server": server, "query": 'last_over_time(errors{version="{{canary.version}}"}[5m])'}}
        one = metric(name="near", provider=asked, failureCondition="result[0] > 0.8")
        environment.apply_template(template(one, name=server))
    for name, server in (("hangs", "silent"), *((f"r{number}", "main") for number in range(100))):
        environment.apply(name, steps=[{"setWeight": 50}, {"analysis": {"templates": [{"templateName": server}]}}])

    def moved() -> bool:
        controller.tick()  # the clock stands still: nothing here is late, and no tick waits for an answer
        return all(environment.row(f"r{number}").status.stable == "4" for number in range(100))

    environment.run(controller, 3)
    wait_for(moved, "a hundred rollouts that are promoted")
    assert environment.row("hangs").status.reason == "analysis"
    environment.run(controller, 240)
    status = environment.row("hangs").status
    assert (status.phase, status.reason) == ("Paused", "analysis_error")
    assert "the metric server silent " in status.message  # the clock may be ahead of the thread that asks
    assert " within 30s" in status.message
    servers.close()
    environment.store.close()


def test_serve_with_a_controller_promotes_by_what_prometheus_knows(prometheus: ScrapingPrometheus) -> None:
    server = DropoutServer("--with-controller", workers=1)
    server.options = (
        *("--with-controller", "--control-listen", f"unix:{server.sockets}/control.sock"),
        *("--metrics", f"main=prometheus+{prometheus.url}"),
    )
    asked = {"prometheus": {"server": "main", "query": 'last_over_time(errors{version="{{canary.version}}"}[5m])'}}
    body = template(metric(provider=asked, failureCondition="result[0] > 0.8"))
    server.write(server.rollouts / "template.yaml", json.dumps(body))
    server.write_rollout(steps=[{"setWeight": 50}, {"analysis": {"templates": [{"templateName": "health"}]}}])
    with server:
        wait_for(lambda: server.ask()["x-model-version"] == "4", "a promotion")
