"""``policy check --opa``: what the real OPA finds by the schemas, strictly, and with the types that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extproc.cli.main import main
from tests.systems.opa import opa_binary

GOOD = 'package routing\n\nimport rego.v1\n\ndecision := {"allow": true}\n'
ALIAS = """package routing

import rego.v1

http := input.attributes.request.http

decision := {"allow": true} if http.heders["x-region"] == "eu"
"""
CONTROL = 'package control\n\nimport rego.v1\n\ndecision := {"allow": input.actor == "ann"}\n'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.rego": GOOD, "control/c.rego": CONTROL}, []),
        ({"a.rego": ALIAS}, [(7, "undefined ref: data.routing.http.heders")]),
        (
            {
                "a.rego": GOOD,
                "c.rego": CONTROL.replace("input.actor", "a.actr").replace("decision", "a := input\n\ndecision"),
            },
            [(7, "undefined ref: data.control.a.actr")],
        ),
        (
            {"a.rego": GOOD.replace("true}", "true} if startswith(input.unit, 3)")},
            [(5, "startswith: invalid argument(s): it is given (any, number) and takes (string, string)")],
        ),
        (
            {"a.rego": GOOD.replace("import rego.v1\n", "import rego.v1\nimport data.lib\n")},
            [(4, "import data.lib unused")],
        ),
    ],
    ids=["nothing", "behind a rule", "of control", "types", "strictly"],
)
def test_opa_checks_by_the_schema_and_strictly(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    said: list[tuple[int, str]],
) -> None:
    monkeypatch.setenv("PATH", str(opa_binary().parent), prepend=":")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["policy", "check", str(tmp_path), "--opa", "-o", "json"])
    answer = json.loads(capsys.readouterr().out)
    found = [(each["line"], each["message"].removeprefix("opa: ")) for each in answer.get("errors", ())]
    assert ended.value.code == (2 if said else 0)
    assert [line for line, _ in found] == [line for line, _ in said]
    assert all(text.startswith(start) for (_, text), (_, start) in zip(found, said, strict=True)), found
