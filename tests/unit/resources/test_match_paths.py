"""Paths that Envoy's normalisation changes are refused where somebody writes them, and go on where they are served.

That they are told as Envoy does it is what ``tests/e2e/test_one_match.py`` asks a real Envoy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extproc.resources.loading import load_file, parse_rollout
from extproc.resources.match_paths import normal_form
from tests.support.rollouts import CANARY, document

DOCUMENT = """\
apiVersion: dropout.dev/v1alpha1
kind: Rollout
metadata: {name: fraud-detector}
spec:
  model: fraud-detector
  match:
    - path: {value: /v1}
    - path:
        type: TYPE
        value: 'PATH'
  unit: {cookie: user}
  stable: {version: "3"}
  canary: {version: "4"}
"""

NEVER = [
    ("/v1//models", "/v1/models"),
    ("/v1/./models/../x", "/v1/x"),
    ("/../v1", "/v1"),
    ("/v1/%7Euser/%41", "/v1/~user/A"),
    (r"/v1\models", "/v1/models"),
    ("/v1/{model}", "/v1/%7Bmodel%7D"),
    ("/v1%2Fmodels", "/v1/models"),
    ("/v1%5cmodels", "/v1/models"),
    ("/v1/%2e;x/a", "/v1/a"),
    ("/v1/%00", None),
    ("/v1/%2%65", None),
]


@pytest.mark.parametrize(("path", "advice"), NEVER)
def test_a_path_that_never_matches_is_refused_with_what_envoy_makes_of_it(
    path: str, advice: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(DOCUMENT.replace("TYPE", "Exact").replace("PATH", path))
    [fault] = load_file(str(file)).loaded.faults
    assert (fault.code, fault.file, fault.line, fault.field) == (
        "path_never_matches",
        str(file),
        10,
        "spec.match[1].path.value",
    )
    said = f"{path!r} never matches: Envoy normalises a path, or refuses it, before it is matched"
    assert fault.message == (f"{said}; write {advice!r}" if advice else said)


def test_the_advice_for_a_prefix_is_a_prefix(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(DOCUMENT.replace("TYPE", "PathPrefix").replace("PATH", "/v1/x/."))
    assert load_file(str(file)).loaded.faults[0].message.endswith("write '/v1/x'")


@pytest.mark.parametrize(
    "path", ["/", "/v1/", "/v1:predict", "/a.b/..c/...", "/a%20b%2b%e4", "/a%25", "/%", "/a;v=1,2"]
)
def test_a_path_that_envoy_leaves_as_it_is_is_taken(path: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(DOCUMENT.replace("TYPE", "Exact").replace("PATH", path))
    assert load_file(str(file)).loaded.faults == []
    assert normal_form(path) == path


@pytest.mark.parametrize(("path", "advice"), NEVER)
def test_a_document_that_was_taken_before_goes_on(path: str, advice: str | None) -> None:
    spec: dict[str, Any] = {**CANARY, "match": [{"path": {"value": path}}, *CANARY["match"]]}
    assert len(parse_rollout(document(spec)).spec.match) == 2
