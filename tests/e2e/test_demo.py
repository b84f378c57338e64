"""The demo on a real Envoy: what it claims holds, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]

SECONDS = 300
USERS = 400
"""As many as labels need to be sure within seconds, see ``tests/unit/demo/test_power.py``."""
INTERVAL_SECONDS = 6
TRIP_SECONDS = 2.0


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo in a folder, a home and a place for temporary files of its own."""
    temporary = home / "tmp"
    temporary.mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary)}
    return subprocess.Popen(
        [sys.executable, "-m", "extproc.cli", "demo", *arguments],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read what the demo prints until a line holds ``text``, or fail with why it ended."""
    assert process.stdout is not None
    while text not in (line := process.stdout.readline()):
        assert line, process.communicate(timeout=SECONDS)


def files_of(home: Path) -> set[str]:
    return {str(file.relative_to(home)) for file in home.rglob("*") if not file.is_dir()}


def processes_of(home: Path) -> list[str]:
    """Processes that know the folder, from their environment (which no child of the demo changes)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"HOME={home}\0".encode() in (entry / "environ").read_bytes():
                    found.append(repr((entry / "cmdline").read_bytes()))
            except OSError:
                continue
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="dr-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo that went well: its folder and what it printed."""
    home = tmp_path_factory.mktemp("demo")
    process = start(home, "--users", str(USERS), "--rounds", "2")
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, ""), out
    return home, out


@pytest.fixture(scope="module")
def facts(played: tuple[Path, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((played[0] / "build" / "demo.json").read_text())
    return found


def test_every_claim_holds(facts: dict[str, Any]) -> None:
    assert facts["holds"] is True
    assert [act["failures"] for act in facts["acts"]] == [[]] * 10
    assert facts["errors"] == facts["rollouts"]["4"]["failed_requests"]


def test_no_user_changes_sides_twice_from_0_to_100(facts: dict[str, Any]) -> None:
    act = facts["acts"][0]
    assert act["users_moved_once"] == USERS
    assert act["users_moved_twice"] == 0
    assert [point["weight"] for point in facts["weights"]] == [0, 5, 25, 50, 100, 0]


def test_the_policy_keeps_high_risk_users_on_stable(facts: dict[str, Any]) -> None:
    assert facts["acts"][1]["high_risk_users"] == USERS // 10
    assert facts["acts"][1]["high_risk_users_on_canary"] == 0


def test_a_feature_steers(facts: dict[str, Any]) -> None:
    assert facts["acts"][2]["users_steered"] == USERS // 10


def test_every_shadow_copy_arrives(facts: dict[str, Any]) -> None:
    act = facts["acts"][3]
    assert act["copies"] == act["requests_to_copy"] > 0


def test_no_spoofed_header_is_believed(facts: dict[str, Any]) -> None:
    assert facts["acts"][4]["spoofed_requests"] >= USERS
    assert facts["acts"][4]["believed"] == 0


def test_a_killed_worker_goes_unnoticed(facts: dict[str, Any]) -> None:
    assert facts["acts"][5]["errors"] == 0


def test_after_a_kill_nobody_is_on_the_canary(facts: dict[str, Any]) -> None:
    assert facts["acts"][6]["late"] == 0


def test_nobody_waits_for_the_second_half_longer_than_ninety_seconds(facts: dict[str, Any]) -> None:
    assert facts["acts"][9]["ended"] - facts["acts"][7]["began"] <= 90


def test_a_good_version_is_promoted_step_by_step(facts: dict[str, Any]) -> None:
    ending = facts["rollouts"]["2"]
    assert (ending["outcome"], ending["reason"], ending["seconds_to_zero"]) == ("promoted", "promoted", None)
    assert [point["weight"] for point in ending["weights"]] == [0, 25, 50, 100]
    assert ending["failed_requests"] == 0
    assert [told["step"] for told in ending["history"] if told["step"] is not None] == list(range(8))


def test_envoys_routes_follow_a_promotion(facts: dict[str, Any]) -> None:
    assert facts["acts"][7]["default_upstream"] == "diagnosis-v2"


def test_a_wrong_version_is_off_the_road_within_an_interval_of_its_labels(facts: dict[str, Any]) -> None:
    ending = facts["rollouts"]["3"]
    assert (ending["outcome"], ending["reason"]) == ("rolled_back", "analysis_failed")
    assert 0 < ending["seconds_to_zero"] <= INTERVAL_SECONDS
    assert ending["failed_requests"] == 0
    rates = facts["acts"][8]["false_positive_rates"]
    assert rates["3"] > 10 * rates["2"]
    assert facts["acts"][8]["milliseconds"].keys() == {"2", "3"}


def test_it_stays_away_when_it_is_named_again(facts: dict[str, Any]) -> None:
    applied = [f"dropout apply -f build/demo-run/version-{version}.yaml" for version in "323"]
    assert facts["acts"][8]["commands"] == applied
    assert facts["acts"][8]["served_when_named_again"] == 0
    assert any(told["message"] == "canary moved from 2 to 3" for told in facts["rollouts"]["3"]["history"][-1:])


def test_a_failing_version_is_tripped_without_a_controller(facts: dict[str, Any]) -> None:
    ending = facts["rollouts"]["4"]
    assert (ending["outcome"], ending["reason"]) == ("tripped", "breaker_open")
    assert 0 <= ending["seconds_to_zero"] < TRIP_SECONDS
    assert 10 <= ending["failed_requests"] == facts["errors"]


def test_labels_count_once(facts: dict[str, Any]) -> None:
    # One that a controller took while it was stopped may not have been answered, and is sent again.
    assert facts["labels"]["codes"].keys() <= {"recorded", "feedback_duplicate"}
    assert facts["labels"]["codes"]["recorded"] > 10_000


def test_the_versions_differ_as_the_models_do(facts: dict[str, Any]) -> None:
    old, new, wrong = (facts["versions"][version] for version in "123")
    assert new["accuracy"] > old["accuracy"] > 0.8 > wrong["accuracy"]
    assert new["false_positive_rate"] < old["false_positive_rate"] < wrong["false_positive_rate"]
    assert sum(version["requests"] for version in facts["versions"].values()) + facts["errors"] == facts["requests"]


def test_every_decision_is_in_the_log_but_the_last_ones_of_the_killed_worker(facts: dict[str, Any]) -> None:
    assert facts["reasons"].get("not_logged", 0) < USERS
    decided = sum(facts["reasons"].values())
    assert decided + facts["fallback_reasons"].get("failed_open", 0) == facts["requests"] - facts["errors"]


def test_what_is_printed_is_plain_lines_where_nobody_watches(played: tuple[Path, str]) -> None:
    assert "\x1b" not in played[1]
    assert "$ dropout rollout set-weight diagnosis 25" in played[1]
    assert "$ dropout apply -f build/demo-run/version-2.yaml" in played[1]
    assert "tripped" in played[1]


def test_the_picture_is_a_picture(played: tuple[Path, str]) -> None:
    assert (played[0] / "build" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_left_behind(played: tuple[Path, str]) -> None:
    home = played[0]
    assert processes_of(home) == []
    assert {name for name in files_of(home) if not name.startswith("build/")} == set()
    assert list((home / "tmp").iterdir()) == []


def test_ctrl_c_ends_everything(home: Path) -> None:
    process = start(home, "--users", "40")
    read_until(process, "set-weight")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert err == "Stopped; everything that the demo started has ended.\n"
    assert processes_of(home) == []
    assert {name for name in files_of(home) if not name.startswith("build/")} == set()


def test_ctrl_c_ends_everything_while_nobody_touches_anything(home: Path) -> None:
    process = start(home, "--users", "40")
    read_until(process, "version-2.yaml")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (130, "Stopped; everything that the demo started has ended.\n")
    assert processes_of(home) == []
    assert list((home / "tmp").iterdir()) == []


def test_a_demo_that_is_killed_takes_everything_with_it(home: Path) -> None:
    process = start(home, "--users", "40")
    read_until(process, "set-weight")
    process.kill()
    process.communicate(timeout=SECONDS)
    wait_for(lambda: processes_of(home) == [], "the end of all that it started")


def test_a_port_in_use_is_a_sentence(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start(home, "--envoy-port", port)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 3
    assert out == ""
    assert err.count("\n") == 1
    assert f"Port {port} cannot be had" in err
