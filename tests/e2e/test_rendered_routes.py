"""The rendered files in a running Envoy: they match as the decision does, and follow rollouts without an error."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.envoy.bootstrap import bootstrap, connection_manager
from extproc.envoy.files import write_envoy_dir
from extproc.envoy.render import DEFAULT_REPLAY_BYTES
from extproc.names import OWN_HEADERS
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.model import CompiledRollout
from extproc.store.status import Status
from tests.support.envoy import TEMPLATE, EnvoyProcess, Upstreams, free_port, wait_until
from tests.support.raw_http import http1
from tests.support.rollouts import CANARY, MARKS, canary, document, snapshot

pytestmark = pytest.mark.e2e

PATHS = ["/v1", "/v1/models", "/v1/models/a", "/v1/models/a/b", "/v1/models/a-b", "/V1/models", "/v1/models/a:b", "/"]
HOSTS = ["", "a.example.com", "*.example.com", "*.eu.example.com"]
BY_ROLLOUT = {"x-model-rollout": "payments/fraud-detector", "x-model-mark": MARKS[0]}
AS_4 = {**BY_ROLLOUT, "x-model-version": "4"}
HEADERS: list[dict[str, str]] = [{}, {"x-model": "a"}, {"x-model": "a", "x-tenant": "t"}, {"x-tenant": "t"}]


def _call(port: int, path: str, host: str = "h", headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Status, headers and JSON body of a GET; no client of the standard library changes what is asked for."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("host", host)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, answer.headers, json.loads(body) if body.startswith(b"{") else body
    finally:
        connection.close()


def _many_rollouts(draw: random.Random) -> list[CompiledRollout]:
    """Rollouts with every kind of entry; ties and identical entries included. All go to the one upstream."""
    made = []
    for number in range(60):
        path = {"type": draw.choice(["PathPrefix", "Exact"]), "value": draw.choice(PATHS)}
        headers = [{"name": name, "value": value} for name, value in draw.choice(HEADERS).items()]
        host = draw.choice(HOSTS)
        entry: dict[str, Any] = {"path": path} if draw.random() < 0.8 or not headers else {}
        entry |= ({"headers": headers} if headers else {}) | ({"hosts": [host]} if host else {})
        made.append(canary(name=f"r{draw.randrange(1000)}-{number}", match=[entry], upstream="echo"))
    return made


@pytest.fixture
def undecided(tmp_path: Path) -> Iterator[EnvoyProcess]:
    """An Envoy without workers behind it: every request fails open. Upstreams v3 and v4 are in ``upstreams``."""
    upstreams = Upstreams("fraud-detector-v3", "fraud-detector-v4", "echo").start()
    config = bootstrap(
        TEMPLATE,
        listen_port=free_port(),
        admin_port=free_port(),
        worker_sockets=[tmp_path / "nobody.sock"],
        envoy_dir=tmp_path,
        models={**upstreams.ports, "fraud-detector-v5": free_port()},
    )
    # Clients may say what was decided here, because nobody decides.
    manager = connection_manager(config)
    del manager["early_header_mutation_extensions"]
    manager["http_filters"] = manager["http_filters"][1:]
    write_envoy_dir(tmp_path, [canary()], MARKS)
    envoy = EnvoyProcess(config, tmp_path)
    envoy.upstreams = upstreams  # type: ignore[attr-defined]
    try:
        yield envoy.start()
    finally:
        envoy.stop()
        upstreams.stop()


def _rewrite(
    directory: Path, envoy: EnvoyProcess, rollouts: list[CompiledRollout], replay_bytes: int = DEFAULT_REPLAY_BYTES
) -> None:
    before = envoy.stat("http.ingress.rds.models.config_reload")
    assert write_envoy_dir(directory, rollouts, MARKS, replay_bytes)
    wait_until(lambda: envoy.stat("http.ingress.rds.models.config_reload") > before, "reload of the routes")


def test_rendered_routes_find_the_rollout_that_the_decision_finds(undecided: EnvoyProcess, tmp_path: Path) -> None:
    draw = random.Random(20261)
    known = canary(name="known", match=[{"path": {"type": "Exact", "value": "/known"}}], upstream="echo")
    rollouts = [known, *_many_rollouts(draw)]
    _rewrite(tmp_path, undecided, rollouts)
    # What the route is called, said by Envoy to the client.
    routes = orjson.loads((tmp_path / "rds.json").read_bytes())
    said = {"header": {"key": "x-route", "value": "%ROUTE_NAME%"}}
    routes["resources"][0]["responseHeadersToAdd"] = [said]
    (tmp_path / "next").write_bytes(orjson.dumps({**routes, "versionInfo": "named"}))
    (tmp_path / "next").rename(tmp_path / "rds.json")
    wait_until(lambda: _call(undecided.port, "/known")[1]["x-route"] is not None, "routes that say their name")

    table = snapshot(*rollouts)
    tails = ["", "/", "/x", ":x", "x", "?q=/v1", "/x?q", "?:", "/a:b", "//", "/A"]
    for _ in range(400):
        path = draw.choice(PATHS) + draw.choice(tails)
        headers = draw.choice([*HEADERS, {"x-model": "A"}, {"x-tenant": "tt"}])
        host = draw.choice(
            ["h", "a.example.com", "A.EXAMPLE.com:8080", "b.example.com", "b.eu.example.com", "eu.example"]
        )
        decided_host = host.lower().partition(":")[0]
        # Envoy merges slashes before both the decision and the routes see them, except where there is nothing else.
        seen = path.replace("//", "/") if path.strip("/") else path
        found = table.find(decided_host, seen, {name: value.encode() for name, value in headers.items()})
        status, answer, _ = _call(undecided.port, path, host, headers)
        expected = f"{found[0].key}@default" if found else None
        assert (answer["x-route"], status) == (expected, 200 if found else 404), (path, host, headers)


def test_a_promotion_reroutes_undecided_requests_without_an_error(undecided: EnvoyProcess, tmp_path: Path) -> None:
    def served() -> str:
        status, _, body = _call(undecided.port, "/v1/models/fraud-detector:predict")
        assert status == 200
        return str(body["upstream"])

    decided = {**BY_ROLLOUT, "x-model-version": "4"}
    assert served() == "fraud-detector-v3"
    promoted = compile_rollout(parse_rollout(document(CANARY)), Status(stable="4", canary="4"), now=0.0)
    write_envoy_dir(tmp_path, [promoted], MARKS)
    for _ in range(50):
        status, _, body = _call(undecided.port, "/v1/models/fraud-detector", headers=decided)
        assert (status, body["upstream"]) == (200, "fraud-detector-v4")
    wait_until(lambda: served() == "fraud-detector-v4", "undecided requests on the new stable")


@pytest.mark.parametrize("mark", [{}, {"x-model-mark": "guessed"}, {"x-model-mark": ""}])
def test_with_the_filter_gone_a_client_chooses_neither_a_version_nor_a_shadow(
    undecided: EnvoyProcess, mark: dict[str, str]
) -> None:
    upstreams: Upstreams = undecided.upstreams  # type: ignore[attr-defined]
    claimed = {**dict.fromkeys(OWN_HEADERS, "4"), "x-model-rollout": "payments/fraud-detector", **mark}
    if not mark:
        del claimed["x-model-mark"]
    status, headers, body = _call(
        undecided.port, "/v1/models/fraud-detector", headers={**claimed, "x-model-shadow": "echo"}
    )
    assert (status, body["upstream"]) == (200, "fraud-detector-v3")
    assert not set(OWN_HEADERS) & set(body["headers"])
    assert "x-decision-id" not in headers
    assert upstreams.seen["echo"] == 0


@pytest.mark.parametrize("rollout", [{}, {"x-model-rollout": "none"}, {"x-model-rollout": ""}])
def test_a_request_that_was_seen_to_be_nobodys_takes_no_rollouts_route(
    undecided: EnvoyProcess, rollout: dict[str, str]
) -> None:
    answer = _call(undecided.port, "/v1/models/fraud-detector", headers={"x-model-mark": MARKS[0], **rollout})
    assert answer[0] == 404
    assert _call(undecided.port, "/v1/models/fraud-detector")[0] == 200


def test_a_version_that_cannot_serve_leaves_the_request_to_stable(undecided: EnvoyProcess) -> None:
    upstreams: Upstreams = undecided.upstreams  # type: ignore[attr-defined]
    decided = {**BY_ROLLOUT, "x-model-version": "4"}

    def served() -> tuple[int, str, str]:
        status, _, body = _call(undecided.port, "/v1/models/fraud-detector", headers=decided)
        return status, body["upstream"], body["headers"].get("x-envoy-attempt-count")

    assert served() == (200, "fraud-detector-v4", "1")
    upstreams.failing.add("fraud-detector-v4")
    assert served() == (200, "fraud-detector-v3", "2")
    upstreams.stop("fraud-detector-v4")
    assert served()[:2] == (200, "fraud-detector-v3")


def test_a_version_without_a_cluster_or_a_route_is_served_by_stable(undecided: EnvoyProcess, tmp_path: Path) -> None:
    status = Status(stable="3", canary="9", weight=10000)
    _rewrite(tmp_path, undecided, [compile_rollout(parse_rollout(document(CANARY)), status, now=0.0)])
    for version in ("9", "77"):
        decided = {**BY_ROLLOUT, "x-model-version": version}
        answer = _call(undecided.port, "/v1/models/fraud-detector", headers=decided)
        assert (answer[0], answer[2]["upstream"]) == (200, "fraud-detector-v3")


def test_a_shadow_cluster_that_envoy_does_not_know_disturbs_nobody(undecided: EnvoyProcess) -> None:
    upstreams: Upstreams = undecided.upstreams  # type: ignore[attr-defined]
    decided = {**BY_ROLLOUT, "x-model-version": "3"}
    answer = _call(undecided.port, "/v1/models/fraud-detector", headers={**decided, "x-model-shadow": "nobody"})
    assert answer[0] == 200
    _call(undecided.port, "/v1/models/fraud-detector", headers={**decided, "x-model-shadow": "fraud-detector-v4"})
    wait_until(lambda: upstreams.seen["fraud-detector-v4"] == 1, "a mirrored request")


def test_no_version_and_no_shadow_is_told_the_mark(undecided: EnvoyProcess) -> None:
    upstreams: Upstreams = undecided.upstreams  # type: ignore[attr-defined]
    for version, shadow in (("3", "fraud-detector-v4"), ("4", "echo")):
        decided = {**BY_ROLLOUT, "x-model-version": version, "x-model-shadow": shadow}
        answer = _call(undecided.port, "/v1/models/fraud-detector", headers=decided)
        assert answer[2]["headers"]["x-model-version"] == version
        wait_until(lambda shadow=shadow: shadow in upstreams.last, "a mirrored request")  # type: ignore[misc]
        for sent in (answer[2]["headers"], upstreams.last[shadow]):
            assert sent["x-model-rollout"] == "payments/fraud-detector"
            assert "x-model-mark" not in sent


@dataclass(frozen=True, slots=True)
class Body:
    """How a request's body is sent."""

    chunked: bool = False
    asks_first: bool = False

    def send(self, port: int, size: int) -> tuple[int, dict[str, Any]]:
        """POST so many bytes for version 4; the status, and what the version that answered says."""
        framing = (b"transfer-encoding", b"chunked") if self.chunked else (b"content-length", b"%d" % size)
        headers = [(b"host", b"h"), framing, *((name.encode(), value.encode()) for name, value in AS_4.items())]
        body = b"x" * size
        if self.chunked:
            parts = (body[at : at + 65536] for at in range(0, size, 65536))
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        if self.asks_first:
            headers.append((b"expect", b"100-continue"))
        answer = http1(port, b"POST", b"/v1/models/fraud-detector", headers, body, after_continue=self.asks_first)
        return answer.status, json.loads(answer.body) if answer.status == 200 else {}


BODIES = [Body(), Body(chunked=True), Body(asks_first=True)]


@pytest.mark.parametrize("limit", [DEFAULT_REPLAY_BYTES, 3 << 20])
def test_a_body_up_to_the_limit_is_answered_by_stable_when_its_version_cannot(
    undecided: EnvoyProcess, tmp_path: Path, limit: int
) -> None:
    upstreams: Upstreams = undecided.upstreams  # type: ignore[attr-defined]
    _rewrite(tmp_path, undecided, [canary(timeout="20s")], limit)

    def served(size: int) -> list[tuple[int, dict[str, Any]]]:
        answers = [body.send(undecided.port, size) for body in BODIES]
        return [(status, said.get("upstream"), said.get("received")) for status, said in answers]

    upstreams.failing.add("fraud-detector-v4")
    assert served(limit) == [(200, "fraud-detector-v3", limit)] * len(BODIES)
    assert served(limit + 1) == [(503, None, None)] * len(BODIES)
    upstreams.failing.clear()
    assert served(limit + 1) == [(200, "fraud-detector-v4", limit + 1)] * len(BODIES)
    # A version that refuses before it has read everything, and one that is not there: the request is sent meanwhile.
    upstreams.hasty.add("fraud-detector-v4")
    assert served(limit) == [(200, "fraud-detector-v3", limit)] * len(BODIES)
    upstreams.stop("fraud-detector-v4")
    assert served(limit) == [(200, "fraud-detector-v3", limit)] * len(BODIES)


def test_an_answer_has_the_time_that_its_rollout_gives_it(undecided: EnvoyProcess, tmp_path: Path) -> None:
    upstreams: Upstreams = undecided.upstreams  # type: ignore[attr-defined]
    upstreams.dribbling.add("fraud-detector-v4")

    def cut_off(**timeouts: str) -> None:
        _rewrite(tmp_path, undecided, [canary(**timeouts)])
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            _call(undecided.port, "/v1/models/fraud-detector", headers=AS_4)

    cut_off(timeout="0.2s")
    cut_off(timeout="0s", idleTimeout="0.2s")
    _rewrite(tmp_path, undecided, [canary(timeout="0s", idleTimeout="0s")])
    with ThreadPoolExecutor(1) as elsewhere:
        seen = upstreams.seen["fraud-detector-v4"]
        unlimited = elsewhere.submit(_call, undecided.port, "/v1/models/fraud-detector", headers=AS_4)
        wait_until(lambda: upstreams.seen["fraud-detector-v4"] > seen, "an answer that has begun")
        cut_off(timeout="0.2s")  # by then the other one has been under way for longer
        assert not unlimited.done()
        upstreams.dribbling.clear()
        assert unlimited.result()[2]["upstream"] == "fraud-detector-v4"
