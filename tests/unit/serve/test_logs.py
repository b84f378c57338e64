"""The log of long-running commands: every entry a line of its own, with its time, level and process."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator

import pytest

from extproc.serve.logs import configure_logging, say

MISCHIEF = "a\nb\r2026-01-01T00:00:00.000Z info serve: ready \ud800 \u2028"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., list[str]]]:
    """The lines that are written to stderr, with these settings, by something that logs."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)

    def lines(write: Callable[[], object], **settings: str) -> list[str]:
        for name, value in settings.items():
            monkeypatch.setenv(f"DROPOUT_{name.upper()}", value)
        configure_logging("serve")
        write()
        return capsys.readouterr().err.splitlines()

    yield lines
    root.handlers, root.level = before[0], before[1]


def fail() -> None:
    try:
        {}["x"]  # type: ignore[index]
    except KeyError:
        logging.getLogger("extproc.serve.tasks").exception("the work on %s failed", "store")


def test_what_is_said_for_people_is_an_entry_as_any_other(logged: Callable[..., list[str]]) -> None:
    (line,) = logged(lambda: say("ready: 2 workers"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info serve: ready: 2 workers", line)


def test_nobody_writes_a_line_of_ours_by_what_stands_in_a_message(logged: Callable[..., list[str]]) -> None:
    """Neither as text, where a break is written out, nor as JSON."""
    text = logged(lambda: say(MISCHIEF.replace("\ud800", "").replace("\u2028", "")))
    assert [line.partition(" info serve: ")[2] for line in text] == [
        r"a\nb\r2026-01-01T00:00:00.000Z info serve: ready  "
    ]
    (line,) = logged(lambda: say(MISCHIEF.replace("\u2028", "")), log_format="json")
    assert json.loads(line)["message"] == MISCHIEF.replace("\ud800", "?").replace("\u2028", "")


def test_as_json_an_entry_is_an_object_with_its_traceback_in_it(logged: Callable[..., list[str]]) -> None:
    (line,) = logged(fail, log_format="json")
    entry = json.loads(line)
    assert entry["traceback"].splitlines()[-1] == "KeyError: 'x'"
    del entry["time"], entry["traceback"]
    assert entry == {
        "level": "error",
        "process": "serve",
        "pid": os.getpid(),
        "logger": "extproc.serve.tasks",
        "message": "the work on store failed",
    }


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", ["debug", "info", "warning"]), ("info", ["info", "warning"]), ("warning", ["warning"]), ("error", [])],
)
def test_the_level_is_the_least_that_is_written_and_libraries_say_less(
    logged: Callable[..., list[str]], level: str, written: list[str]
) -> None:
    def write() -> None:
        for name in ("debug", "info", "warning"):
            getattr(logging.getLogger("extproc.x"), name)("ours")
        for name in ("debug", "info"):
            getattr(logging.getLogger("asyncio"), name)("theirs")

    assert [line.split()[1] for line in logged(write, log_level=level)] == written
