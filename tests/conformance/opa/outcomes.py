"""How the embedded engine, as Dropout loads and asks it, does on OPA's cases.

python -m tests.conformance.opa.outcomes        have the file say what holds now
python -m tests.conformance.opa.outcomes N      (a process of the above) do the cases from number N on
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.errors import InvalidInput
from extproc.lifeline import arm_dead_man_switch
from extproc.names import Reason
from extproc.resources.policies import PolicySources
from tests.conformance.opa.cases import REFUSED, UNDEFINED, Case, folder_of_cases, opa_version, read_cases
from tests.support.paths import ROOT

RECORD: Final = Path(__file__).with_name("regorus.json")
MAX_CPU_SECONDS: Final = 2.0
"""Of one case: some do not end."""

ASKED: Final = "dropout_asks"
QUESTION: Final = 'package {asked}\n\ndecision := {{"allow": true, "body": json.marshal(data.{path})}}\n'


class Outcome(StrEnum):
    """How a case goes, against what OPA makes of it."""

    PASSES = "passes"
    UNDEFINED = "undefined here as there"
    REFUSED = "refused at load"
    THROWS_UNDEFINED = "throws where OPA is undefined"
    THROWS_VALUE = "throws where OPA has a value"
    ENDS = "ends the process"
    DIFFERS = "another answer"


Found = tuple[str, Outcome, str]
"""A case's name, its outcome, and what was refused or differs."""


def outcome(case: Case) -> tuple[Outcome, str]:
    """How one case goes; what OPA refuses may be refused here, or throw."""
    question = {"question.rego": QUESTION.format(asked=ASKED, path=case.path)}
    try:
        engine = RegorusEngine(PolicySources({**case.files, **question}, case.data, "opa"))
    except InvalidInput as refused:
        return (Outcome.PASSES, "") if case.wanted is REFUSED else (Outcome.REFUSED, refused.code)
    verdict = engine.evaluate(f"{ASKED}/decision", case.given)
    if verdict.fault is Reason.POLICY_UNDEFINED:
        same = case.wanted is UNDEFINED
        return (Outcome.UNDEFINED, "") if same else (Outcome.DIFFERS, "undefined")
    if verdict.fault is not None:
        if case.wanted is REFUSED:
            return Outcome.PASSES, ""
        throws = Outcome.THROWS_UNDEFINED if case.wanted is UNDEFINED else Outcome.THROWS_VALUE
        return throws, verdict.message or ""
    assert verdict.body is not None
    return (Outcome.PASSES, "") if _same(json.loads(verdict.body), case) else (Outcome.DIFFERS, verdict.body)


def outcomes(cases: Sequence[Case]) -> list[Found]:
    """How they go, in processes of their own: one that does not end is ended, and the next goes on behind it."""
    found: list[Found] = []
    while len(found) < len(cases):
        command = [sys.executable, "-m", __spec__.name, str(len(found))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, check=False)
        for line in done.stdout.splitlines():
            name, how, what = json.loads(line)
            found.append((name, Outcome(how), what))
        if done.returncode != 0:
            found.append((cases[len(found)].name, Outcome.ENDS, ""))
    return found


def record(found: Iterable[Found], others: Sequence[str]) -> dict[str, Any]:
    """What the file keeps: how many pass, and by name those that do not."""
    found = list(found)
    names: dict[Outcome, list[str]] = defaultdict(list)
    refused: dict[str, list[str]] = defaultdict(list)
    for name, how, what in found:
        (refused[what] if how is Outcome.REFUSED else names[how]).append(name)
    counted = (Outcome.PASSES, Outcome.UNDEFINED)
    listed = [how for how in Outcome if how not in (*counted, Outcome.REFUSED)]
    return {
        "opa": opa_version(),
        "cases": len(found),
        "not asked": len(others),
        **{how: len(names[how]) for how in counted},
        Outcome.REFUSED: {code: sorted(refused[code]) for code in sorted(refused)},
        **{how: sorted(names[how]) for how in listed},
    }


def as_text(recorded: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(recorded, indent=1, ensure_ascii=False) + "\n"


def _same(value: Any, case: Case) -> bool:
    value, wanted = _comparable(value), _comparable(case.wanted)
    if case.in_any_order and isinstance(value, list) and isinstance(wanted, list):
        return sorted(value, key=repr) == sorted(wanted, key=repr)
    return bool(value == wanted)


def _comparable(value: Any) -> Any:
    """A value that is equal only where OPA's is: 1 and 1.0 are the same number there, and true is none."""
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _comparable(each) for key, each in sorted(value.items())}
    return value


def _work(first: int) -> None:
    cases, _ = read_cases(folder_of_cases())
    for case in cases[first:]:
        arm_dead_man_switch(MAX_CPU_SECONDS)
        how, what = outcome(case)
        arm_dead_man_switch(0)
        print(json.dumps([case.name, how, what]), flush=True)


def main() -> None:
    """Write the file, or do the cases of a process."""
    if len(sys.argv) > 1:
        _work(int(sys.argv[1]))
        return
    cases, others = read_cases(folder_of_cases())
    found = outcomes(cases)
    RECORD.write_text(as_text(record(found, others)))
    for name, how, what in found:
        if how in (Outcome.DIFFERS, Outcome.ENDS):
            print(f"{name}: {how}: {what}")


if __name__ == "__main__":
    main()
