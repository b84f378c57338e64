"""What ``validate`` and ``apply`` note of documents that are right: where it stands, and that it is refused nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extproc.errors import Fault
from tests.unit.cli.test_validate import run
from tests.unit.resources.test_documents import MINIMAL

STEPS = MINIMAL + "  steps:\n"
AFTER = MINIMAL.count("\n") + 1
"""The line that begins behind the minimal document."""

NOTED = {
    "a part without a value": (
        MINIMAL + "  breaker:\n",
        [(AFTER, "spec.breaker", "no_value", "breaker has no value, which is as if it were left out; breaker: {}")],
    ),
    "a value that is not there, where nothing may be empty": (
        MINIMAL + "  seed:\n",
        [(AFTER, "spec.seed", "no_value", "seed has no value, which is as if it were left out")],
    ),
    "a canary that is stable": (
        MINIMAL.replace('"4"', '"3"'),
        [(AFTER - 1, "spec.canary", "canary_is_stable", "version 3 is stable and canary at once")],
    ),
    "a canary that is stable by its alias": (
        MINIMAL.replace('{version: "4"}', "{alias: champion}") + '  aliases: {champion: "3"}\n',
        [(AFTER - 1, "spec.canary", "canary_is_stable", "version 3 is stable and canary at once")],
    ),
    "a shadow of what is stable": (
        MINIMAL + '  shadow: {version: "3", percent: 5}\n',
        [(AFTER, "spec.shadow", "shadow_is_stable", "version 3 is stable and shadow at once")],
    ),
    "a view of a version that is not named": (
        MINIMAL + "  features: {entity: {header: x-user-id}, view: risk, names: [score], views: {'44': risk_v2}}\n",
        [(AFTER, "spec.features.views.44", "view_unused", "the document names no version 44")],
    ),
    "a weight that falls": (
        STEPS + "    - setWeight: 50\n    - pause: {duration: 1m}\n    - setWeight: 20\n",
        [(AFTER + 3, "spec.steps[2].setWeight", "weight_falls", "the weight falls from 50 to 20: units")],
    ),
    "steps that change nothing": (
        STEPS
        + "    - shadow: {percent: 0}\n    - setWeight: 0\n    - pause: {duration: 1m}\n    - setWeight: 5\n"
        + "    - pause: {duration: 1m}\n    - setWeight: 5\n",
        [
            (AFTER + 1, "spec.steps[0].shadow", "step_without_effect", "the step changes nothing"),
            (AFTER + 2, "spec.steps[1].setWeight", "step_without_effect", "the step changes nothing"),
            (AFTER + 6, "spec.steps[5].setWeight", "step_without_effect", "the step changes nothing"),
        ],
    ),
    "steps that the next one ends": (
        STEPS + "    - shadow: {percent: 5}\n    - setWeight: 5\n    - setWeight: 50\n",
        [
            (AFTER + 1, "spec.steps[0].shadow", "step_without_time", "the next setWeight follows at once"),
            (AFTER + 2, "spec.steps[1].setWeight", "step_without_time", "the next setWeight follows at once"),
        ],
    ),
}


@pytest.mark.parametrize("what", NOTED)
def test_what_is_right_and_easily_overlooked_is_noted_with_its_line_and_field(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = NOTED[what]
    file, store = tmp_path / "a.yaml", f"sqlite:{tmp_path}/db"
    file.write_text(text)
    for command in (("validate", str(file)), ("apply", "-f", str(file), "--store", store)):
        code, out, err = run(capsys, *command, "-o", "json")
        notes = [Fault(**note) for note in json.loads(out)["notes"] if note["code"] != "no_controller"]
        assert (code, err) == (0, "")
        assert [(note.line, note.field, note.code) for note in notes] == [each[:3] for each in expected]
        assert all(note.message.startswith(each[3]) for note, each in zip(notes, expected, strict=True))
        assert {note.file for note in notes} == {str(file)}
        code, _, err = run(capsys, *command)
        lines = [f"{note.file}:{note.line} {note.field}: note: {note.message} ({note.code})" for note in notes]
        assert (code, [line for line in err.splitlines() if "(no_controller)" not in line]) == (0, lines)


def test_steps_that_each_have_their_time_are_not_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        STEPS
        + "    - shadow: {percent: 5}\n    - pause: {duration: 1m}\n    - setWeight: 0\n"
        + "    - pause: {duration: 1m}\n    - setWeight: 5\n    - pause: {}\n    - setWeight: 100\n"
    )
    assert run(capsys, "validate", str(file)) == (0, "1 document is valid\n", "")
