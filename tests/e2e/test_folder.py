"""A folder of documents that is edited while requests come, on a real Envoy: absence is no news."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.environment import KEY, Environment
from tests.support.dropout import wait_for
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

MISSING_SECONDS = "2"
SAVES = 40


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """Version 4 was promoted, and the document still says 3; 3 is retired."""
    environment = Environment(DROPOUT_DELETE_MANY_AFTER=MISSING_SECONDS)
    try:
        environment.start().set_weight(50)
        environment.run("rollout", "promote", KEY, "--full")
        wait_for(lambda: status(environment)["stable"] == "4", "the promotion")
        wait_for(lambda: environment.ask(x_user_id="u").upstream == "fraud-detector-v4", "the promotion in force")
        environment.upstreams.stop("fraud-detector-v3")
        yield environment
    finally:
        environment.stop()


def status(environment: Environment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(environment.run("rollout", "get", KEY, "-o", "json"))
    return found


def actions(environment: Environment) -> list[str]:
    return [
        entry["action"] for entry in json.loads(environment.run("rollout", "history", KEY, "-o", "json"))["history"]
    ]


def file_of(environment: Environment) -> Path:
    return environment.dropout.rollouts / "fraud-detector.yaml"


def test_a_folder_that_is_saved_without_pause_deletes_nothing(environment: Environment) -> None:
    file, done = file_of(environment), actions(environment)
    text = file.read_text()
    with under_load(environment.port, rate=100) as load:
        for number in range(SAVES):
            file.rename(file.with_name("fraud-detector.yaml~"))  # as editors may save
            time.sleep(0.003)
            file.write_text(f"{text}# {number}\n")
            time.sleep(0.087)
    assert set(load.statuses()) == {200}
    assert (actions(environment), status(environment)["stable"]) == (done, "4")


def test_what_was_promoted_is_stable_again_when_its_document_is_back(environment: Environment) -> None:
    file = file_of(environment)
    text = file.read_text()
    file.unlink()
    errors = wait_for(lambda: environment.dropout.snapshot()["errors"], "what is said of the document")
    assert [(error["code"], error["file"]) for error in errors] == [("document_missing", str(file))]
    assert environment.dropout.metric("dropout_documents_missing") == 1
    assert environment.dropout.metric("dropout_reloads_refused_total", what="rollouts") == 0
    assert environment.ask(x_user_id="u").upstream == "fraud-detector-v4"
    wait_for(lambda: environment.ask(x_user_id="u").status == 404, "the end of the wait")
    assert actions(environment)[-1] == "delete"
    file.write_text(text)
    wait_for(lambda: None not in environment.weights(KEY), "the document back in every worker")
    wait_for(lambda: environment.ask(x_user_id="u").status == 200, "its route in Envoy")
    assert (environment.ask(x_user_id="u").upstream, status(environment)["stable"]) == ("fraud-detector-v4", "4")
