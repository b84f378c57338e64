"""A folder of documents that is edited while requests come, on a real Envoy: absence is no news."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import KEY, House
from tests.support.dropout import wait_for
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

MISSING_SECONDS = "2"
SAVES = 40


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Version 4 was promoted, and the document still says 3; 3 is retired."""
    house = House(DROPOUT_DELETE_MANY_AFTER=MISSING_SECONDS)
    try:
        house.start().set_weight(50)
        house.run("rollout", "promote", KEY, "--full")
        wait_for(lambda: status(house)["stable"] == "4", "the promotion")
        wait_for(lambda: house.ask(x_user_id="u").upstream == "fraud-detector-v4", "the promotion in force")
        house.upstreams.stop("fraud-detector-v3")
        yield house
    finally:
        house.stop()


def status(house: House) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(house.run("rollout", "get", KEY, "-o", "json"))
    return found


def actions(house: House) -> list[str]:
    return [entry["action"] for entry in json.loads(house.run("rollout", "history", KEY, "-o", "json"))["history"]]


def file_of(house: House) -> Path:
    return house.dropout.rollouts / "fraud-detector.yaml"


def test_a_folder_that_is_saved_without_pause_deletes_nothing(house: House) -> None:
    file, done = file_of(house), actions(house)
    text = file.read_text()
    with under_load(house.port, rate=100) as load:
        for number in range(SAVES):
            file.rename(file.with_name("fraud-detector.yaml~"))  # as editors may save
            time.sleep(0.003)
            file.write_text(f"{text}# {number}\n")
            time.sleep(0.087)
    assert set(load.statuses()) == {200}
    assert (actions(house), status(house)["stable"]) == (done, "4")


def test_what_was_promoted_is_stable_again_when_its_document_is_back(house: House) -> None:
    file = file_of(house)
    text = file.read_text()
    file.unlink()
    errors = wait_for(lambda: house.dropout.snapshot()["errors"], "what is said of the document")
    assert [(error["code"], error["file"]) for error in errors] == [("document_missing", str(file))]
    assert house.dropout.metric("dropout_documents_missing") == 1
    assert house.ask(x_user_id="u").upstream == "fraud-detector-v4"
    wait_for(lambda: house.ask(x_user_id="u").status == 404, "the end of the wait")
    assert actions(house)[-1] == "delete"
    file.write_text(text)
    wait_for(lambda: house.ask(x_user_id="u").status == 200, "the document back")
    assert (house.ask(x_user_id="u").upstream, status(house)["stable"]) == ("fraud-detector-v4", "4")
