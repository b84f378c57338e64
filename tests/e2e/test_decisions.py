"""What a request meets behind a real Envoy: weights, policy, features, shadows, and nothing that a client can forge."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.assignment import bucket_of
from extproc.clock import SystemClock
from extproc.decision_id import KeyFile
from extproc.envoy.bootstrap import connection_manager
from extproc.envoy.files import write_envoy_dir
from extproc.names import OWN_HEADERS
from tests.e2e.environment import KEY, Answer, Environment
from tests.support.envoy import TEMPLATES, wait_until
from tests.support.load import Answered, Load, under_load
from tests.support.raw_http import RawHeaders, http1, http2
from tests.support.rollouts import canary

pytestmark = pytest.mark.e2e

SEED = "fraud-2026-11"
USERS = 100

POLICY = """
package routing

import rego.v1

default decision := {"allow": true}

decision := {"allow": false, "http_status": 451, "body": "not here", "reason": "blocked"} if {
	input.attributes.request.http.headers["x-role"] == "blocked"
} else := {"allow": false, "http_status": 451, "body": "not here"} if {
	input.parsed_path[3] == "internal"
} else := {"allow": true, "versions": ["3"], "reason": "high_risk"} if {
	input.features.risk_score > 0.8
} else := {"allow": true, "version": "4", "reason": "beta"} if {
	input.features.beta
}
"""

SPEC = {
    "policy": {"path": "routing/decision"},
    "features": {
        "entity": {"header": "x-user-id"},
        "view": "users",
        "names": ["risk_score", "beta"],
        "timeout": "500ms",
        "onMissing": "policy",
    },
}

ASKED_FOR: dict[str, Any] = {
    "by-header": {"path": {"value": "/v1/hdr"}, "headers": [{"name": "x-model", "value": "fraud"}]},
    "by-host": {"hosts": ["api.example.com", "*.eu.example.com"]},
}

FORGED = dict.fromkeys(OWN_HEADERS, "forged")


@pytest.fixture(scope="module", params=TEMPLATES)
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    """Over either transport: what a request meets does not depend on it."""
    environment = Environment(POLICY, SPEC, transport=request.param)
    mirrored = [{"path": {"type": "PathPrefix", "value": "/v1/models/mirrored"}}]
    environment.dropout.write_rollout("mirrored", match=mirrored, canary=None, shadow={"version": "5", "percent": 100})
    for name, entry in ASKED_FOR.items():
        environment.dropout.write_rollout(name, match=[entry], policy=SPEC["policy"])
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows = [("risky", "risk_score", 0.97), ("calm", "risk_score", 0.1), ("tester", "beta", True)]
    environment.load_features(
        {"entity": entity, "view": "users", "name": name, "value": value, "event_time": now}
        for entity, name, value in rows
    )
    try:
        yield environment.start()
    finally:
        environment.stop()


def _of_user(environment: Environment, user: str) -> Answer:
    answer = environment.ask(x_user_id=user)
    assert answer.status == 200
    return answer


def test_every_unit_is_served_by_the_version_that_its_bucket_names(environment: Environment) -> None:
    environment.set_weight(30)
    for number in range(300):
        user = f"user-{number}"
        version = "4" if bucket_of(SEED.encode(), user.encode()) < 3000 else "3"
        answer = _of_user(environment, user)
        assert answer.upstream == f"fraud-detector-v{version}"
        assert answer.sent["x-model-version"] == version
        assert answer.sent["x-model-cluster"] == answer.upstream
        assert answer.sent["x-model-arm"] == ("canary" if version == "4" else "control")
        assert answer.sent["x-model-rollout"] == KEY
        assert answer.sent["x-decision-id"]
    assert environment.failed_open() == 0


@pytest.mark.parametrize("environment", ["grpc"], indirect=True)
def test_a_stream_ends_with_its_reply(environment: Environment) -> None:
    ended = "cluster.dropout.http2.rx_reset"  # what is left of a stream when its server has ended it first
    before = environment.envoy.stat(ended)
    for number in range(20):
        _of_user(environment, f"user-{number}")
    wait_until(lambda: environment.envoy.stat(ended) >= before + 20, "streams that Dropout ended")
    assert environment.failed_open() == 0


def test_a_weight_moved_live_takes_no_unit_to_the_other_side_twice(environment: Environment) -> None:
    environment.set_weight(0)
    with under_load(environment.port, rate=150, headers=lambda number: {"x-user-id": f"u{number % USERS}"}) as load:
        _every_user_asks(load)
        for percent in (1, 10, 25, 50, 75, 100):
            environment.set_weight(percent)
            _every_user_asks(load)
    assert load.failed() == []
    for answers in _by_user(load).values():
        versions = [orjson.loads(answer.body)["upstream"][-1] for answer in answers]
        assert (versions[0], versions[-1]) == ("3", "4")
        # A request that was sent after one to the canary was answered goes there too; those under way at the same
        # time may overtake each other.
        moved_at = min(
            answer.sent_at + answer.seconds for answer, version in zip(answers, versions, strict=True) if version == "4"
        )
        later = [v for answer, v in zip(answers, versions, strict=True) if answer.sent_at > moved_at]
        assert set(later) <= {"4"}
    assert environment.failed_open() == 0


def _every_user_asks(load: Load) -> None:
    """Wait until each of them has sent a request from now on and was answered, however slow the machine is."""
    now = time.monotonic()
    wait_until(
        lambda: len({answer.number % USERS for answer in load.answered if answer.sent_at > now}) == USERS,
        "a request of every user",
    )


def _by_user(load: Load) -> dict[int, list[Answered]]:
    """The answers that each user got, in the order in which they were asked for."""
    answers = defaultdict(list)
    for answer in sorted(load.answered, key=lambda answer: answer.sent_at):
        answers[answer.number % USERS].append(answer)
    return answers


def test_policy_keeps_a_high_risk_user_on_stable(environment: Environment) -> None:
    environment.set_weight(100)
    assert _of_user(environment, "calm").upstream == "fraud-detector-v4"
    risky = _of_user(environment, "risky")
    assert (risky.upstream, risky.sent["x-model-arm"]) == ("fraud-detector-v3", "excluded")


def test_a_feature_steers_a_user_to_the_canary_at_weight_zero(environment: Environment) -> None:
    environment.set_weight(0)
    assert _of_user(environment, "calm").upstream == "fraud-detector-v3"
    assert _of_user(environment, "tester").upstream == "fraud-detector-v4"


def test_a_shadow_gets_a_copy_and_the_client_does_not_notice(environment: Environment) -> None:
    before = environment.upstreams.seen["fraud-detector-v5"]
    answer = environment.ask("/v1/models/mirrored", x_user_id="alice")
    assert answer.upstream == "fraud-detector-v3"
    assert answer.sent["x-model-shadow"] == "fraud-detector-v5"
    wait_until(lambda: environment.upstreams.seen["fraud-detector-v5"] == before + 1, "a shadow copy")


def test_a_forged_header_never_reaches_a_version_or_a_route(environment: Environment) -> None:
    environment.set_weight(0)
    aimed = {**FORGED, "x-model-version": "4", "x-model-rollout": KEY, "x-model-cluster": "fraud-detector-v4"}
    for forged in (FORGED, aimed, {name.title(): value for name, value in aimed.items()}):
        answer = environment.ask(x_user_id="alice", **forged)
        assert answer.upstream == "fraud-detector-v3"
        assert "forged" not in answer.sent.values()
        assert answer.sent["x-model-version"] == "3"
        assert "x-model-shadow" not in answer.sent


def test_the_mark_of_decisions_reaches_no_version_and_no_client(environment: Environment) -> None:
    environment.set_weight(100)
    (mark,) = KeyFile(environment.folder / "dropout.db.ids", SystemClock()).current.marks
    for path in ("/v1/models/fraud-detector", "/v1/models/mirrored", "/elsewhere"):
        answer = environment.ask(path, x_user_id="calm")
        assert mark not in f"{answer} {environment.upstreams.last}"
    assert mark not in environment.envoy.output.read_text()


def test_a_denied_request_gets_the_policys_status_and_body(environment: Environment) -> None:
    before = dict(environment.upstreams.seen)
    answer = environment.ask(x_user_id="alice", x_role="blocked")
    assert (answer.status, answer.body) == (451, b"not here")
    assert environment.upstreams.seen == before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/fraud-detector/internal",
        "/v1/models//fraud-detector///internal",
        "/v1/models/fraud-detector/x/../internal",
        "/v1/models/fraud-detector/./internal",
        "/v1/models/fraud-detector/%69nternal",
        "/v1/models/fraud-detector/x/%2e%2e/internal",
        "/v1/models/fraud-detector%2Finternal",
        "/v1/models/fraud-detector%5cinternal",
        "/v1/models/fraud-detector\\internal",
        "/v1/models/fraud-detector/internal?x=1",
        "/v1/Models/fraud-detector/internal",
    ],
)
def test_another_spelling_of_a_path_does_not_walk_around_the_policy(environment: Environment, path: str) -> None:
    before = dict(environment.upstreams.seen)
    answer = environment.ask(path, x_user_id="alice")
    for _ in range(3):
        if answer.status == 307:
            answer = environment.ask(answer.headers["location"].removeprefix("http://models"), x_user_id="alice")
    assert answer.status in (404, 451)
    assert environment.upstreams.seen == before


@pytest.mark.parametrize(
    ("host", "headers", "theirs"),
    [
        (b"models", [(b"x-model", b"fraud")], True),
        (b"models", [(b"x-model", b"fraud"), (b"x-model", b"fraud")], True),
        (b"models", [(b"x-model", b"other"), (b"x-model", b"fraud")], True),
        (b"models", [(b"x-model", b""), (b"x-model", b"fraud")], True),
        (b"models", [(b"x-model", b"fraud,fraud")], False),
        (b"API.example.com:8080x", [], True),
        (b"b.eu.example.com:", [], True),
        (b"x:b.eu.example.com", [], False),
        (b"api.example.com:80:80", [], False),
    ],
)
def test_a_repeated_header_or_an_odd_host_does_not_walk_around_the_policy(
    environment: Environment, host: bytes, headers: RawHeaders, theirs: bool
) -> None:
    for role, status in ((b"blocked", 451), (b"user", 200)):
        sent = [*headers, (b"x-role", role)]
        pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", host), (b":path", b"/v1/hdr")]
        over_1 = http1(environment.port, b"GET", b"/v1/hdr", [(b"host", host), *sent])
        over_2 = http2(environment.port, [*pseudo, *sent])
        for answer in (over_1, over_2):
            assert answer.status == (status if theirs else 404)
            assert (b"x-decision-id" in answer.headers) is theirs


def test_what_belongs_to_no_rollout_is_stripped_and_left_alone(environment: Environment, tmp_path: Path) -> None:
    def to_one_cluster(config: dict[str, Any]) -> None:
        manager = connection_manager(config)
        del manager["rds"]
        everything = {
            "match": {"prefix": "/"},
            "route": {"cluster": "other-v1"},
            "request_headers_to_remove": ["x-model-mark"],
        }
        manager["route_config"] = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [everything]}]}
        # Even where Envoy was not told to strip.
        del manager["early_header_mutation_extensions"]

    envoy = environment.new_envoy(tmp_path, to_one_cluster)
    try:
        answer = environment.ask("/elsewhere", through=envoy, x_user_id="alice", **FORGED)
    finally:
        envoy.stop()
    assert answer.upstream == "other-v1"
    assert not set(OWN_HEADERS) & set(answer.sent)


def test_what_dropout_saw_to_be_nobodys_is_no_rollouts_whatever_the_routes_say(
    environment: Environment, tmp_path: Path
) -> None:
    """As if the two disagreed: the routes know a rollout that Dropout does not."""
    keys = KeyFile(environment.folder / "dropout.db.ids", SystemClock())
    unknown = [canary(match=[{"path": {"value": "/elsewhere"}}])]
    write_envoy_dir(tmp_path, unknown, keys.current.marks)

    def by_those_routes(config: dict[str, Any]) -> None:
        del config["dynamic_resources"]
        source = connection_manager(config)["rds"]["config_source"]
        source["path_config_source"] = {"path": str(tmp_path / "rds.json")}

    envoy = environment.new_envoy(tmp_path, by_those_routes)
    try:
        assert environment.ask("/elsewhere", through=envoy).status == 404
        assert environment.ask("/elsewhere", through=envoy, x_model_rollout=KEY).status == 404
        assert environment.ask("/elsewhere", through=envoy, x_long="a" * 60_600).status == 431
        with environment.without_dropout():
            assert environment.ask("/elsewhere", through=envoy).upstream == "fraud-detector-v3"
    finally:
        envoy.stop()


def test_envoy_answers_404_for_what_belongs_to_no_rollout(environment: Environment) -> None:
    assert environment.ask("/elsewhere").status == 404


def test_failing_open_serves_stable_and_believes_no_client(environment: Environment) -> None:
    environment.set_weight(100)
    with environment.without_dropout():
        for forged in ({}, {**FORGED, "x-model-version": "4", "x-model-rollout": KEY}):
            answer = environment.ask(x_user_id="calm", **forged)
            assert answer.upstream == "fraud-detector-v3"
            assert not set(OWN_HEADERS) & set(answer.sent)


def test_requests_do_not_wait_for_a_dropout_that_stays_away(environment: Environment) -> None:
    def waited() -> float:
        asked = time.monotonic()
        assert environment.ask(x_user_id="calm").status == 200
        return time.monotonic() - asked

    with environment.without_dropout():
        wait_until(lambda: max(waited() for _ in range(5)) < 0.5, "requests that wait for nobody")
    wait_until(lambda: "x-model-version" in environment.ask(x_user_id="calm").sent, "decisions again")


def test_no_request_is_held_for_ever_when_nobody_is_left_to_answer(environment: Environment, tmp_path: Path) -> None:
    def without_last_resort(config: dict[str, Any]) -> None:
        """As if Envoy had ejected the host that answers when no worker does."""
        cluster = next(each for each in config["static_resources"]["clusters"] if each["name"] == "dropout")
        del cluster["load_assignment"]["endpoints"][1:]

    envoy = environment.new_envoy(tmp_path, without_last_resort)
    try:
        assert "x-model-version" in environment.ask(x_user_id="calm", through=envoy).sent
        with environment.without_dropout():
            wait_until(lambda: envoy.stat("cluster.dropout.membership_healthy") == 0, "workers that are given up")
            answers = [environment.ask(x_user_id="calm", through=envoy) for _ in range(3)]
    finally:
        envoy.stop()
    assert {answer.upstream for answer in answers} == {"fraud-detector-v3"}


def test_failing_open_after_a_promotion_serves_the_new_stable(environment: Environment) -> None:
    environment.set_weight(0)
    environment.dropout.write_rollout(**SPEC, stable={"version": "4"}, canary={"version": "5"})
    wait_until(lambda: "StableDrift" in environment.run("rollout", "get", KEY, "-o", "json"), "a reported drift")
    assert environment.ask(x_user_id="calm").upstream == "fraud-detector-v3"
    environment.run("rollout", "adopt", KEY)
    wait_until(lambda: environment.ask(x_user_id="calm").upstream == "fraud-detector-v4", "the adopted stable")
    to_stable = f'{KEY}@default","route":{{"cluster":"fraud-detector-v4"'
    wait_until(lambda: to_stable in (environment.envoy_dir / "rds.json").read_text(), "rendered routes")
    with environment.without_dropout():
        answer = environment.ask(x_user_id="calm")
        assert answer.upstream == "fraud-detector-v4"
        assert "x-model-version" not in answer.sent
