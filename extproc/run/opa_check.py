"""What ``opa check`` finds in policies: what it is strict about, and by the schemas of their inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from extproc.control.policy import RULE
from extproc.errors import Fault
from extproc.resources.control_schema import CONTROL_INPUT_SCHEMA
from extproc.resources.policies import PolicySources
from extproc.resources.policy_schema import POLICY_INPUT_SCHEMA
from extproc.run.opa import not_answering, run_opa

_PACKAGE: Final = re.compile(r"^\s*package\s+([\w.]+)", re.MULTILINE)
_CONTROL: Final = RULE.split("/")[0]
_BY_SCHEMA: Final = "undefined ref"


def opa_faults(directory: Path, sources: PolicySources) -> list[Fault]:
    """What ``opa check`` says of the policies at ``directory``, which hold ``sources``: ``opa_check``.

    A folder is checked strictly, and the policies on requests and on control actions each by the schema of their input.

    Raises:
        Unreachable: ``opa_missing``, there is none in PATH, or it does not answer.
    """
    if directory.is_file():
        return list(map(_fault, _check("--bundle", directory)))
    found = list(_check("--strict", directory)) or list(_by_schemas(directory, sources))
    return list(map(_fault, found))


def _by_schemas(directory: Path, sources: PolicySources) -> Iterator[Mapping[str, Any]]:
    """What is read and is not in the schema. What else is said of a part of the policies is due to the parting."""
    of_kinds: dict[bool, list[Path]] = {True: [], False: []}
    for name, text in sources.files.items():
        package = _PACKAGE.search(text)
        of_kinds[package is not None and package[1].split(".")[0] == _CONTROL].append(directory / name)
    with TemporaryDirectory() as folder:
        for is_control, files in of_kinds.items():
            schema = Path(folder, "input.json")
            schema.write_text(json.dumps(CONTROL_INPUT_SCHEMA if is_control else POLICY_INPUT_SCHEMA))
            found = _check("--schema", schema, *files) if files else ()
            yield from (each for each in found if each.get("message", "").startswith(_BY_SCHEMA))


def _check(*arguments: str | Path) -> Sequence[Mapping[str, Any]]:
    done = run_opa(["check", "--format", "json", *arguments], field="--opa")
    if not done.returncode:
        return ()
    try:
        return json.loads(done.stderr or done.stdout).get("errors") or [{"message": "opa refuses them"}]
    except ValueError as error:
        raise not_answering(error, field="--opa") from error


def _fault(error: Mapping[str, Any]) -> Fault:
    place, details = error.get("location", {}), error.get("details")
    types = _types(details) if isinstance(details, dict) else ""
    return Fault("opa_check", f"opa: {error['message']}{types}", place.get("file"), place.get("row"))


def _types(details: Mapping[str, Any]) -> str:
    """Of which types arguments are, and are to be; what should have been named."""
    match details:
        case {"have": [*have], "want": {"args": [*want]}}:
            parts = (have, want[: len(have)])
            given, wanted = (", ".join(str(each.get("type", "any")) for each in types) for types in parts)
            return f": it is given ({given}) and takes ({wanted})"
        case {"oneOf": [*names]}:
            return f": there is {', '.join(map(str, names))}"
    return ""
