"""How soon the breaker takes a version away: a canary begins to answer 500 while users ask, without a controller."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from tests.bench.load import CONNECTIONS, Response, offer
from tests.bench.stack import BREAKER, Route, Stack, other_cpus, retry, set_weight, users
from tests.support.process import wait_for

BROKEN_SWITCH = "bench.canary_broken"
STABLE_ANSWERS, CANARY_ANSWERS, CANARY_FAILS = 200, 201, 500
"""The versions differ in their status, which is what a load generator writes down."""

HEALTHY_SECONDS = 3
SECONDS = 9
"""Of load in one run: what is bad is bad for twice the bar and more, so that a breaker that does not trip shows."""

ROLLOUT = 0
WEIGHT = "50"


def routes() -> list[Route]:
    """Envoy's own answers by the version that was decided, with the decision's id; the canary's break by a switch."""
    canary = {"prefix": "/", "headers": [{"name": "x-model-version", "string_match": {"exact": "2"}}]}
    share = {"default_value": {"numerator": 0, "denominator": "HUNDRED"}, "runtime_key": BROKEN_SWITCH}
    told = {"response_headers_to_add": [{"header": {"key": "x-decision-id", "value": "%REQ(X-DECISION-ID)%"}}]}
    return [
        {"match": {**canary, "runtime_fraction": share}, "direct_response": {"status": CANARY_FAILS}},
        {"match": canary, "direct_response": {"status": CANARY_ANSWERS}, **told},
        {"match": {"prefix": "/"}, "direct_response": {"status": STABLE_ANSWERS}, **told},
    ]


def trip_seconds(stack: Stack, h2load: str, rate: int) -> float:
    """From the response that completed the breaker's condition to the last bad one, at ``rate`` requests a second.

    A version that is not taken away has its last bad response at the end of the load.
    """
    _bring_back(stack)
    turning = threading.Timer(HEALTHY_SECONDS, stack.switch, (BROKEN_SWITCH, 100))
    turning.start()
    responses = offer(
        h2load,
        port=stack.envoy.port,
        paths=users(ROLLOUT),
        seconds=SECONDS,
        rate=rate,
        connections=min(CONNECTIONS, max(1, rate // 20)),
        cpus=sorted(other_cpus()),
        directory=stack.directory,
    )
    turning.join()
    stack.switch(BROKEN_SWITCH, 0)
    return after_condition(responses, BREAKER)


def after_condition(responses: Sequence[Response], breaker: dict[str, Any]) -> float:
    """Seconds from the response that completed the condition to the end of the last bad one."""
    ordered = sorted(responses, key=lambda response: response.ended_at)
    answered = {STABLE_ANSWERS, CANARY_ANSWERS, CANARY_FAILS}
    if lost := [response for response in ordered if response.status not in answered]:
        raise RuntimeError(f"{len(lost)} requests were not answered, one with {lost[0].status}")
    completed = completed_at(ordered, breaker)
    last = max(response.ended_at for response in ordered if response.status == CANARY_FAILS)
    return last - completed


def completed_at(ordered: Sequence[Response], breaker: dict[str, Any]) -> float:
    """When the canary's responses crossed a limit of ``breaker``, as the document says it (Unix seconds).

    What else the breaker asks for, that stable does better, is a part of what is measured.
    """
    window = float(breaker["window"].removesuffix("s"))
    recent: deque[Response] = deque()
    run = failures = 0
    for response in ordered:
        if response.status == STABLE_ANSWERS:
            continue
        recent.append(response)
        failed = response.status == CANARY_FAILS
        run = run + 1 if failed else 0
        failures += failed
        while recent[0].ended_at < response.ended_at - window:
            failures -= recent.popleft().status == CANARY_FAILS
        often = len(recent) >= breaker["minRequests"] and failures / len(recent) > breaker["errorRate"]
        if often or run >= breaker["consecutive"]:
            return response.ended_at
    raise RuntimeError("the canary was never bad enough")


def _bring_back(stack: Stack) -> None:
    """The canary at its weight in all workers, whatever the breaker said of it before."""
    stack.switch(BROKEN_SWITCH, 0)
    key = f"bench/m{ROLLOUT}"
    if key in stack.tripped():
        wait_for(lambda: retry(stack.directory, ROLLOUT), "the trip in the store", 10)
    set_weight(stack.directory, ROLLOUT, WEIGHT)
    wait_for(lambda: set(stack.weights(key)) == {float(WEIGHT)}, f"weight {WEIGHT} in all workers", 10)
    wait_for(lambda: key not in stack.tripped(), "an observer that lets it try again", 10)
    time.sleep(0.5)
