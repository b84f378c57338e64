"""What a real Envoy logs of requests behind the rendered routes, and what that says about the version."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest

from extproc.envoy.bootstrap import bootstrap, connection_manager
from extproc.envoy.files import write_envoy_dir
from extproc.protect.access_log import METHOD, SERVICE, LogEntry, decode, server_options
from extproc.protect.outcome import RequestOutcome, outcome_of
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.model import CompiledRollout
from extproc.store.status import Status
from tests.support.envoy import TEMPLATE, EnvoyProcess, Upstreams, free_port, wait_until
from tests.support.rollouts import CANARY, MARKS, document

pytestmark = pytest.mark.e2e

MARKED = {"x-model-mark": MARKS[0]}

STABLE = "fraud-detector-v3"
TIMEOUT_SECONDS = 0.5


def rollout(version: str) -> CompiledRollout:
    """A canary rollout from 3 to ``version``, named after it."""
    spec = {**CANARY, "canary": {"version": version}, "match": [{"path": {"value": f"/{version}"}}]}
    status = Status(stable="3", canary=version, weight=5000, previous_weight=5000)
    return compile_rollout(parse_rollout(document(spec, f"r{version}")), status, now=0.0)


class Logged:
    """An Envoy that decides nothing itself, versions behind it, and the log that it sends.

    Version 4 is there, 5 has a cluster without endpoints, 6 has none, 7 has stable's address, 8 has no route.
    """

    def __init__(self, folder: Path) -> None:
        self.upstreams = Upstreams(STABLE, "fraud-detector-v4")
        self.entries: list[LogEntry] = []
        self.taking = Event()
        self.taking.set()
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, options=server_options())
        method = grpc.stream_unary_rpc_method_handler(self._take)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        self._folder = folder
        self.envoy: EnvoyProcess | None = None

    def _take(self, messages: Iterator[bytes], _context: Any) -> bytes:
        for message in messages:
            self.taking.wait(20)
            self.entries += decode(message)
        return b""

    def start(self) -> None:
        self.upstreams.start()
        self._server.add_insecure_port(f"unix:{self._folder}/observer.sock")
        self._server.start()
        write_envoy_dir(self._folder, [rollout(version) for version in "4567"], MARKS)
        routes = self._folder / "rds.json"
        routes.write_text(routes.read_text().replace('-or-fraud-detector-v3",', f'-or-{STABLE}","timeout":"0.5s",'))
        self.envoy = EnvoyProcess(self._config(), self._folder).start()

    def _config(self) -> dict[str, Any]:
        config = bootstrap(
            TEMPLATE,
            listen_port=free_port(),
            admin_port=free_port(),
            worker_sockets=[self._folder / "nobody.sock"],
            envoy_dir=self._folder,
            models={**self.upstreams.ports, "fraud-detector-v5": 1, "fraud-detector-v7": self.upstreams.ports[STABLE]},
            observer_socket=self._folder / "observer.sock",
        )
        manager = connection_manager(config)
        del manager["early_header_mutation_extensions"]
        manager["http_filters"] = manager["http_filters"][1:]
        manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
        clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
        clusters["fraud-detector-v5"]["load_assignment"]["endpoints"] = []
        clusters["fraud-detector-v4"]["alt_stat_name"] = "another-name"
        return config

    def stop(self) -> None:
        if self.envoy is not None:
            self.envoy.stop()
        self._server.stop(None)
        self._pool.shutdown(wait=False)
        self.upstreams.stop()

    def outcome(
        self, version: str, *, patience: float = 5.0, asks_for: Mapping[str, str] | None = None
    ) -> tuple[RequestOutcome, LogEntry]:
        """What a request for ``version`` comes to, and its entry."""
        assert self.envoy is not None
        key, self.entries = f"payments/r{'4' if version == '8' else version}", []
        headers = {"x-model-rollout": key, "x-model-version": version, "x-decision-id": "d" * 32, **MARKED}
        headers |= asks_for or {}
        connection = http.client.HTTPConnection("127.0.0.1", self.envoy.port, timeout=patience)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/4", headers=headers)
            response = connection.getresponse()
            response.read()
            if response.status == HTTPStatus.SWITCHING_PROTOCOLS and connection.sock is not None:
                connection.sock.recv(1)  # until its other side has ended it, lest we did
        connection.close()
        wait_until(lambda: bool(self.entries), "an entry")
        (entry,) = self.entries
        assert (entry.rollout, entry.version, entry.decision_id) == (key, version, "d" * 32)
        return outcome_of(entry.answer, key, version, f"fraud-detector-v{version}", STABLE), entry


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    logged = Logged(tmp_path_factory.mktemp("als"))
    try:
        logged.start()
        yield logged
    finally:
        logged.stop()


@pytest.fixture(autouse=True)
def well(logged: Logged) -> None:
    for broken in (logged.upstreams.failing, logged.upstreams.broken, logged.upstreams.hanging):
        broken.clear()


def test_a_version_answers_for_itself_whatever_its_address_and_its_name_in_stats(logged: Logged) -> None:
    for version in ("4", "7"):
        outcome, entry = logged.outcome(version)
        assert (outcome, entry.answer.status, entry.answer.attempts) == (RequestOutcome.SUCCESS, 200, 1)
        assert entry.answer.cluster == f"fraud-detector-v{version}"
        assert 0 < entry.answer.milliseconds < 1000
    logged.upstreams.broken.add("fraud-detector-v4")
    assert logged.outcome("4")[0] is RequestOutcome.FAILURE


@pytest.mark.parametrize("stable", ["well", "broken", "failing"])
def test_after_a_retry_the_cluster_is_stables_and_the_failure_the_versions(logged: Logged, stable: str) -> None:
    logged.upstreams.failing.add("fraud-detector-v4")
    if stable != "well":
        getattr(logged.upstreams, stable).add(STABLE)
    outcome, entry = logged.outcome("4")
    assert (outcome, entry.answer.cluster, entry.answer.attempts) == (RequestOutcome.FALLBACK, STABLE, 2)


@pytest.mark.parametrize("version", ["5", "6"])
def test_a_cluster_that_is_empty_or_missing_is_passed_over_without_counting_an_attempt(
    logged: Logged, version: str
) -> None:
    outcome, entry = logged.outcome(version)
    assert (outcome, entry.answer.cluster, entry.answer.attempts) == (RequestOutcome.FALLBACK, STABLE, 1)


def test_a_version_without_a_route_goes_to_stable_and_that_says_nothing_of_it(logged: Logged) -> None:
    outcome, entry = logged.outcome("8")
    assert (outcome, entry.answer.route) == (RequestOutcome.UNROUTED, "payments/r4@default")


def test_a_version_that_hangs_fails_when_the_routes_time_is_up(logged: Logged) -> None:
    logged.upstreams.hanging.add("fraud-detector-v4")
    outcome, entry = logged.outcome("4")
    assert (outcome, entry.answer.status, entry.answer.flags) == (
        RequestOutcome.FAILURE,
        504,
        ["upstream_request_timeout"],
    )
    assert entry.answer.milliseconds > 900 * TIMEOUT_SECONDS


def test_a_client_that_leaves_is_told_apart_from_a_version_that_does_not_answer(logged: Logged) -> None:
    logged.upstreams.hanging.add("fraud-detector-v4")
    outcome, entry = logged.outcome("4", patience=0.1)
    assert (outcome, entry.answer.flags) == (RequestOutcome.ABANDONED, ["downstream_connection_termination"])


def test_a_websocket_that_its_version_closes_is_no_failure(logged: Logged) -> None:
    logged.upstreams.failing.add("fraud-detector-v4")  # it accepts the upgrade and ends it
    outcome, entry = logged.outcome("4", asks_for={"connection": "upgrade", "upgrade": "websocket"})
    assert (entry.answer.status, entry.answer.flags) == (101, ["upstream_connection_termination"])
    assert outcome is RequestOutcome.SUCCESS


def test_requests_without_a_decision_are_not_sent(logged: Logged) -> None:
    assert logged.envoy is not None
    logged.entries = []
    connection = http.client.HTTPConnection("127.0.0.1", logged.envoy.port, timeout=60)
    connection.request("GET", "/4")
    assert json.loads(connection.getresponse().read())["upstream"] == STABLE
    connection.close()
    written = logged.envoy.stat("access_logs.grpc_access_log.logs_written")
    logged.outcome("4")
    assert logged.envoy.stat("access_logs.grpc_access_log.logs_written") == written + 1


def test_what_waits_for_an_observer_that_takes_nothing_is_bounded_and_the_rest_counted(logged: Logged) -> None:
    assert logged.envoy is not None
    before, logged.entries = logged.envoy.stats("access_logs."), []
    headers = {"x-model-rollout": "payments/r4", "x-decision-id": "d" * 32, "x-model-arm": "a" * 4000, **MARKED}
    connection = http.client.HTTPConnection("127.0.0.1", logged.envoy.port, timeout=60)
    logged.taking.clear()
    try:
        for _ in range(1000):  # four times what may wait
            connection.request("GET", "/4", headers={**headers, "x-model-version": "4"})
            assert connection.getresponse().read()
        after = logged.envoy.stats("access_logs.")
    finally:
        connection.close()
        logged.taking.set()
    new = {name.rpartition(".")[2]: count - before[name] for name, count in after.items()}
    assert new["logs_dropped"] > 500
    assert new["logs_written"] + new["logs_dropped"] == 1000
    wait_until(lambda: len(logged.entries) == new["logs_written"], "what was not dropped")
