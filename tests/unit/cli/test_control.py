"""Commands on rollouts, by a controller and on the store: the same words, the same exit codes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from extproc.adapters.sqlite.store import SqliteStore
from extproc.cli.main import main
from extproc.cli.watching import wait_for
from extproc.control.access import Control, DirectControl
from extproc.control.acting import act
from extproc.control.actions import Abort, Delete, SetWeight
from extproc.errors import Refused, Unreachable
from extproc.store.records import StoredRollout
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.control import ServedControl
from tests.support.paths import ROOT
from tests.support.rollouts import CANARY, EXPERIMENT, document
from tests.unit.cli.test_rollout import Answer

KEY = "payments/fraud-detector"
NAME = ("payments", "fraud-detector")
STEPS = [
    {"shadow": {"percent": 100}},
    {"pause": {"duration": "10m"}},
    {"setWeight": 12.5},
    {"analysis": {"templates": [{"templateName": "fraud-health"}]}},
    {"pause": {}},
]

Dropout = Callable[..., Answer]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Dropout:
    def run(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out, err)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Dropout) -> Path:
    """An empty folder with a store that holds a rollout with steps and an experiment."""
    monkeypatch.chdir(tmp_path)
    for name in ("DROPOUT_STORE", "DROPOUT_CONTROL"):
        monkeypatch.delenv(name, raising=False)
    experiment = {**EXPERIMENT, "match": [{"path": {"value": "/b"}}]}
    documents = [document({**CANARY, "steps": STEPS}), document(experiment, "b")]
    Path("rollouts.yaml").write_text(yaml.safe_dump_all(documents))
    assert run("apply", "-f", "rollouts.yaml").exit_code == 0
    return tmp_path


COMMANDS = [
    "rollout list",
    f"rollout get {KEY}",
    f"rollout set-weight {KEY} 12.5",
    f"rollout set-weight {KEY} 12.5",
    f"rollout resume {KEY}",
    f"rollout resume {KEY}",
    f"rollout pause {KEY}",
    f"rollout promote {KEY}",
    f"rollout abort {KEY}",
    f"rollout set-weight {KEY} 5",
    f"rollout retry {KEY}",
    f"kill {KEY}",
    f"restore {KEY}",
    f"rollout promote {KEY} --full",
    f"rollout wait {KEY} --timeout 5s",
    f"rollout wait {KEY} --for Degraded --timeout 5s",
    f"rollout adopt {KEY}",
    f"rollout get {KEY}",
    f"rollout history {KEY} --limit 5",
    "rollout abort payments/b",
    "rollout get payments/nothing",
    "rollout history payments/nothing",
    "rollout wait payments/nothing",
    "rollout watch payments/nothing",
    f"rollout set-weight {KEY} 101",
]


@pytest.mark.parametrize("output", ["text", "json"])
def test_every_command_says_the_same_by_either_way(
    folder: Path, run: Dropout, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(clock: FakeClock, *way: str) -> list[tuple[str, Answer]]:
        answers = []
        for command in COMMANDS:
            clock.advance(1)
            answers.append((command, run(*command.split(), "-o", output, *way)))
        return answers

    (folder / "other.db").write_bytes((folder / "dropout.db").read_bytes())
    clock = FakeClock()
    monkeypatch.setattr("extproc.cli.options.SystemClock", lambda: clock)
    monkeypatch.setattr("extproc.control.emergency.new_id", lambda: "0123456789abcdef")
    directly = script(clock, "--store", "sqlite:dropout.db")
    clock = FakeClock()
    with ServedControl(folder / "other.db", folder / "run" / "c.sock", clock) as served:
        by_controller = script(clock, "--control", served.target)
    assert by_controller == directly
    assert {answer.exit_code for _, answer in directly} == {0, 1, 2}


def test_an_explicit_store_wins_then_the_controller_then_the_default(
    folder: Path, run: Dropout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPOUT_CONTROL", f"unix:{folder}/nobody.sock")
    assert run("rollout", "list", "-o", "json").codes == ["control_unreachable"]
    monkeypatch.setenv("DROPOUT_STORE", "sqlite:dropout.db")
    assert run("rollout", "list", "-o", "json").codes == ["control_unreachable"]
    assert run("rollout", "list", "--store", "sqlite:dropout.db").exit_code == 0
    monkeypatch.delenv("DROPOUT_CONTROL")
    assert run("rollout", "list").exit_code == 0
    assert run("rollout", "list", "--control", "nonsense", "-o", "json").codes == ["control_invalid"]


@pytest.mark.parametrize("command", ["apply -f a.yaml", "get rollout x", "delete rollout x"])
def test_documents_go_to_a_store_and_to_none_that_was_not_meant(
    command: str, tmp_path: Path, run: Dropout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever names a controller does not mean a store in the folder that they happen to be in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPOUT_STORE", raising=False)
    given = [*command.split(), "-o", "json"]
    assert run(*given, "--control", "unix:run/c.sock", "--store", "sqlite:x.db").codes == ["store_needed"]
    monkeypatch.setenv("DROPOUT_CONTROL", "unix:run/c.sock")
    assert run(*given).codes == ["store_needed"]
    assert list(tmp_path.iterdir()) == []
    assert run(*given, "--store", "sqlite:x.db").codes != ["store_needed"]
    monkeypatch.setenv("DROPOUT_STORE", "sqlite:x.db")
    assert run(*given).codes != ["store_needed"]


def test_where_no_store_is_named_the_message_says_how_one_is(
    tmp_path: Path, run: Dropout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPOUT_STORE", raising=False)
    assert "; name the store by --store or DROPOUT_STORE (store_unreachable)" in run("rollout", "list").err
    assert "--store or DROPOUT_STORE" not in run("rollout", "list", "--store", "sqlite:dropout.db").err


def test_get_shows_the_steps_with_the_one_in_force_marked(folder: Path, run: Dropout) -> None:
    lines = run("rollout", "get", KEY).out.splitlines()
    steps = lines[lines.index("steps:") + 1 :]
    assert [line.split("   ")[0] for line in (step.removeprefix("  ") for step in steps)] == [
        "● 0  shadow 100",
        "○ 1  pause 10m",
        "○ 2  setWeight 12.5",
        "○ 3  analysis fraud-health",
        "○ 4  pause",
    ]
    assert "Progressing (adopted) since" in steps[0]
    run("rollout", "promote", KEY, "--full")
    lines = run("rollout", "get", KEY).out.splitlines()
    assert [line[2] for line in lines[lines.index("steps:") + 1 :]] == ["✓"] * 5


class Watching:
    """``dropout rollout watch`` in a process of its own; ``terminal``: its output is one, 60 columns wide."""

    def __init__(self, *options: str, terminal: bool = False) -> None:
        self._ours, theirs = pty.openpty() if terminal else os.pipe()
        command = [sys.executable, "-m", "extproc.cli", "rollout", "watch", KEY, *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60", "LINES": "40"}
        self._process = subprocess.Popen(command, stdout=theirs, env=environment)
        os.close(theirs)
        self._text = ""

    def until(self, sign: str) -> str:
        """What was written since the last look, up to and with ``sign``."""
        while sign not in self._text:
            self._text += os.read(self._ours, 65536).decode()
        before, _, self._text = self._text.partition(sign)
        return before + sign

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def ends(self) -> int:
        """Its exit code."""
        return self._process.wait(30)


def test_watch_prints_a_line_for_each_change_where_there_is_no_terminal(folder: Path) -> None:
    with Watching() as watching:
        assert watching.until("\n").startswith(f"{KEY}  Progressing (adopted)  stable 3  canary 4  weight 0  step 0")
        _act(folder, SetWeight(*NAME, 500))
        assert watching.until("\n").endswith(
            "Paused (manual_weight)  stable 3  canary 4  weight 5  step 0  weight 0 to 5\n"
        )
        _act(folder, Abort(*NAME))
        assert "Degraded (aborted)" in watching.until("\n")
        _delete(folder)
        assert watching.until("\n") == f"{KEY} deleted\n"
        assert watching.ends() == 0


def test_watch_gives_one_document_a_line(folder: Path) -> None:
    with Watching("-o", "json") as watching:
        first = orjson.loads(watching.until("\n"))
        _act(folder, SetWeight(*NAME, 500))
        second = orjson.loads(watching.until("\n"))
        _delete(folder)
        third = orjson.loads(watching.until("\n"))
        assert watching.ends() == 0
    assert [(row["weight"], row["deleted"]) for row in (first, second, third)] == [(0, False), (5, False), (5, True)]


def test_watch_draws_over_what_it_drew_on_a_terminal(folder: Path) -> None:
    with Watching(terminal=True) as watching:
        first = watching.until("○ 4  pause\r\n")
        _act(folder, SetWeight(*NAME, 500))
        second = watching.until("○ 4  pause\r\n")
        _delete(folder)
        third = watching.until("deleted\r\n")
        assert watching.ends() == 0
    assert "weight:            0 " in first
    assert "weight:            5 " in second
    assert all(len(line) <= 60 for line in first.splitlines())
    lines = first.count("\n")
    assert second.startswith(f"\x1b[{lines}F\x1b[J")
    assert third == f"\x1b[{lines}F\x1b[J{KEY} deleted\r\n"


class Scripted:
    """A control whose watch gives what it is told; an exception is raised."""

    def __init__(self, *script: StoredRollout | Exception) -> None:
        self._script = list(script)

    def get(self, namespace: str, name: str) -> StoredRollout:
        return standing("Progressing")

    def watch(self, namespace: str, name: str, seconds: float | None = None) -> Iterator[StoredRollout]:
        while self._script:
            step = self._script.pop(0)
            if isinstance(step, Exception):
                raise step
            yield step


def standing(phase: str, **changes: Any) -> StoredRollout:
    deleted = changes.pop("deleted", False)
    return StoredRollout(*NAME, {}, Status("3", "4", phase=phase, **changes), 1, None, deleted)


def waited(*script: StoredRollout | Exception, phase: str = "Healthy", seconds: float = 60.0) -> str:
    """The phase that was reached, or the code of the refusal."""
    control: Any = Scripted(*script)
    try:
        return wait_for(control, NAME, phase, seconds).status.phase
    except Refused as refused:
        return refused.code


def test_wait_ends_when_the_phase_is_reached() -> None:
    assert waited(standing("Progressing"), standing("Paused"), standing("Healthy")) == "Healthy"
    assert waited(standing("Paused"), phase="Paused") == "Paused"


def test_wait_ends_when_the_phase_cannot_be_reached_any_more() -> None:
    assert waited(standing("Progressing"), standing("Degraded")) == "wait_over"
    assert waited(standing("Healthy"), phase="Degraded") == "wait_over"
    assert waited(standing("Progressing"), standing("Progressing", deleted=True)) == "wait_over"


def test_wait_waits_for_the_verdict_of_an_experiment() -> None:
    measured = {"spec": {"variants": [{"name": "new"}], "analysis": {"templates": []}}}
    live, failed = (replace(standing(phase), document=measured) for phase in ("Healthy", "Degraded"))
    assert waited(live, live, failed, phase="Degraded") == "Degraded"
    assert waited(live, phase="Degraded") == "wait_timeout"
    assert waited(failed, phase="Paused") == "wait_over"


def test_wait_ends_when_the_time_is_up() -> None:
    assert waited(standing("Progressing")) == "wait_timeout"


def test_wait_outlives_a_controller_that_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.cli.watching._RECONNECT_SECONDS", 0.0)
    away = Unreachable.of("control_unreachable", "no controller answers")
    assert waited(standing("Progressing"), away, away, standing("Healthy")) == "Healthy"
    with pytest.raises(Unreachable):
        waited(away, seconds=0.0)


def test_a_duration_that_is_none_is_refused(folder: Path, run: Dropout) -> None:
    answer = run("rollout", "wait", KEY, "--timeout", "soon", "-o", "json")
    assert (answer.exit_code, answer.codes) == (2, ["duration_invalid"])


def test_a_direct_watch_looks_until_its_time_is_up(folder: Path) -> None:
    clock = FakeClock()
    store = SqliteStore(folder / "dropout.db")
    control: Control = DirectControl(store, "alice", clock, wait=clock.advance)
    assert [row.status.weight for row in control.watch(*NAME, 10)] == [0]
    assert clock.monotonic() >= 1_800_000_010
    store.close()


def _act(folder: Path, action: Any) -> None:
    store = SqliteStore(folder / "dropout.db")
    DirectControl(store, "alice", FakeClock()).act(action)
    store.close()


def _delete(folder: Path) -> None:
    store = SqliteStore(folder / "dropout.db")
    act(store, "alice", Delete(*NAME), FakeClock())
    store.close()
