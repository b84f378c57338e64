"""The demo's claims: an act that does not hold says so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from extproc.assignment import bucket_of
from extproc.demo.acts import weights_move_live
from extproc.demo.documents import SEED
from extproc.demo.report import measure, weights_asked_for
from extproc.demo.scenario import Scenario
from extproc.demo.screen import Screen
from extproc.demo.traffic import Notify, ServedRequest

USERS = [f"user-{number:04}" for number in range(50)]


class FakeEnvironment:
    """Remembers the weight that was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weight = 0

    async def dropout(self, *arguments: str) -> None:
        assert arguments[:2] == ("rollout", "set-weight")
        self.weight = int(arguments[3])


class FakeTraffic:
    """Answers as a correct router would, but for what ``wrong`` changes."""

    def __init__(self, environment: FakeEnvironment, wrong: dict[tuple[int, str], str]) -> None:
        self.users = USERS
        self.answers: list[ServedRequest] = []
        self.now = 0.0
        self._environment = environment
        self._wrong = wrong

    async def rounds(self, count: int, notify: Notify) -> list[ServedRequest]:
        weight = self._environment.weight
        first = len(self.answers)
        for user in USERS:
            right = "2" if bucket_of(SEED.encode(), user.encode()) < 100 * weight else "1"
            version = self._wrong.get((weight, user), right)
            self.now += 0.01
            seen = {"x-decision-id": f"{weight}-{user}"}
            self.answers.append(ServedRequest(self.now, user, sick=False, said_sick=False, version=version, seen=seen))
            notify(1)
        return self.answers[first:]


async def play(tmp_path: Path, wrong: dict[tuple[int, str], str]) -> Any:
    environment = FakeEnvironment(tmp_path)
    scenario = Scenario(environment, FakeTraffic(environment, wrong), Screen(quiet=True), rounds=1)  # type: ignore[arg-type]
    return await scenario.play("Weights move live", 5 * len(USERS), weights_move_live)


async def test_weights_that_move_right_hold(tmp_path: Path) -> None:
    act = await play(tmp_path, {})
    assert act.failures == []
    assert act.facts()["users_moved_once"] == len(USERS)
    assert act.requests == 5 * len(USERS)
    assert act.commands[0] == "dropout rollout set-weight diagnosis 5"


async def test_a_user_who_changes_sides_twice_is_found(tmp_path: Path) -> None:
    early = min(USERS, key=lambda user: bucket_of(SEED.encode(), user.encode()))
    act = await play(tmp_path, {(50, early): "1"})
    assert act.facts()["holds"] is False
    assert "1 users changed sides more than once." in act.failures
    assert "1 users were not where their bucket says." in act.failures


async def test_a_user_who_never_moves_is_found(tmp_path: Path) -> None:
    act = await play(tmp_path, {(weight, USERS[0]): "1" for weight in (5, 25, 50, 100)})
    assert "Only 49 of 50 users moved." in act.failures


def test_answers_are_counted_by_version() -> None:
    def answer(version: str | None, sick: bool, said: bool | None, **more: Any) -> ServedRequest:
        return ServedRequest(0.1, "u", sick, said_sick=said, version=version, **more)

    facts = measure(
        [
            answer("1", sick=True, said=True, seen={"x-decision-id": "a"}),
            answer("1", sick=False, said=True, seen={"x-decision-id": "b"}),
            answer("1", sick=False, said=False),
            answer("2", sick=False, said=False, seen={"x-decision-id": "c"}),
            answer(None, sick=True, said=None, error="HTTP 503"),
        ],
        {"a": "weight", "b": "feature_timeout"},
    )
    assert (facts["requests"], facts["errors"], facts["error_kinds"]) == (5, 1, {"HTTP 503": 1})
    assert facts["fallback_reasons"] == {"feature_timeout": 1, "failed_open": 1}
    assert facts["reasons"] == {"weight": 1, "feature_timeout": 1, "not_logged": 1}
    one = facts["versions"]["1"]
    assert (one["requests"], one["share"], one["accuracy"]) == (3, 0.75, 0.6667)
    assert one["false_positive_rate"] == 0.5
    assert facts["shares"] == [
        {"from": 0.1, "to": 0.1, "version_1": 0.75, "version_2": 0.25, "version_3": 0.0, "version_4": 0.0}
    ]
    assert facts["rates"]["bins"] == [
        {
            "from": 0.0,
            "version_1": {"requests": 3, "failed": 0, "healthy": 2, "false_positives": 1},
            "version_2": {"requests": 1, "failed": 0, "healthy": 1, "false_positives": 0},
        }
    ]


def test_weights_are_those_that_somebody_asked_for_and_a_kill_asks_for_none() -> None:
    def entry(at: str, action: str, **detail: Any) -> dict[str, Any]:
        return {"at": f"2026-11-25T12:00:{at}Z", "action": action, "detail": detail}

    history = [entry("10.000", "created"), entry("12.500", "set-weight", to=5), entry("20.000", "kill")]
    began_at = datetime(2026, 11, 25, 12, 0, 10, tzinfo=UTC).timestamp()
    assert weights_asked_for(history, began_at) == [
        {"second": 0.0, "weight": 0},
        {"second": 2.5, "weight": 5},
        {"second": 10.0, "weight": 0},
    ]
