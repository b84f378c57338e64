"""The tests of policies as the opa in PATH finds them."""

from __future__ import annotations

import json
from pathlib import Path

from extproc.errors import InvalidInput
from extproc.run.opa import run_opa


def opa_outcomes(directory: Path) -> dict[str, str]:
    """``pass``, ``fail``, ``error`` or ``skip`` by the name of each test under ``directory``.

    Raises:
        Unreachable: as ``run_opa``.
        InvalidInput: ``opa_test``, it does not load them.
    """
    done = run_opa(["test", "--bundle", "--format", "json", directory], field="--opa")
    try:
        return {f"{test['package']}.{test['name']}": _outcome(test) for test in json.loads(done.stdout)}
    except (ValueError, KeyError, TypeError) as error:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise InvalidInput.of("opa_test", f"opa does not run these tests: {said[0]}", field="--opa") from error


def _outcome(test: dict[str, object]) -> str:
    return next((outcome for outcome in ("skip", "error", "fail") if test.get(outcome)), "pass")
