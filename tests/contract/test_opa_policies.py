"""OPA and the embedded engine agree on the policies that are shipped, and on the recipes of the guide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from extproc.adapters.regorus.rego_tests import run_tests
from extproc.cli.main import main
from extproc.resources.control_schema import CONTROL_INPUT_SCHEMA
from extproc.resources.policies import read_sources
from extproc.resources.policy_schema import POLICY_INPUT_SCHEMA
from extproc.run.opa_tests import opa_outcomes
from tests.support.paths import POLICIES, RECIPES
from tests.support.policies import recipe, recipes
from tests.support.rollouts import CANARY
from tests.support.rollouts import document as rollout
from tests.systems.opa import opa, opa_binary

FEATURES = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "input.json"
    path.write_text(json.dumps(POLICY_INPUT_SCHEMA))
    return path


def modules(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.rego")) if not path.name.endswith("_test.rego")]


def test_shipped_policies_are_formatted_as_opa_would() -> None:
    done = opa("fmt", "--list", POLICIES)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_shipped_policies_pass_the_strict_check_against_the_input_schema(schema: Path) -> None:
    done = opa("check", "--strict", "--schema", schema, *modules(POLICIES / "routing"))
    assert done.returncode == 0, done.stderr


def test_the_shipped_policy_on_control_passes_the_strict_check_against_its_input_schema(tmp_path: Path) -> None:
    schema = tmp_path / "input.json"
    schema.write_text(json.dumps(CONTROL_INPUT_SCHEMA))
    done = opa("check", "--strict", "--schema", schema, *modules(POLICIES / "control"))
    assert done.returncode == 0, done.stderr
    (tmp_path / "p.rego").write_text("package p\n\nx if input.rollout.applied_by == input.actor\n")
    misspelt = opa("check", "--schema", schema, tmp_path / "p.rego")
    assert "undefined ref" in misspelt.stderr


@pytest.mark.parametrize(
    "reference",
    [
        "input.rollout.stabel",
        "input.attributes.request.http.header",
        "input.attributes.request.headers",
        "input.attributes.source.address.address",
        "input.feature.risk",
    ],
)
def test_the_schema_finds_a_misspelt_reference(tmp_path: Path, schema: Path, reference: str) -> None:
    policy = tmp_path / "policy.rego"
    policy.write_text(f'package p\n\nx if {reference} == "y"\n')
    done = opa("check", "--schema", schema, policy)
    assert done.returncode != 0
    assert "undefined ref" in done.stderr


def test_the_schema_knows_every_reference_that_there_is(tmp_path: Path, schema: Path) -> None:
    http = "input.attributes.request.http"
    references = [f"{http}.{name}" for name in ("method", "path", "host", "scheme", "protocol", "id", 'headers["a-b"]')]
    references += ["input.attributes.request.time", 'input.attributes.envoy["source.address"]']
    references += [f"input.attributes.{end}.address.socketAddress.address" for end in ("source", "destination")]
    references += ["input.parsed_path[0]", "input.parsed_query.a[0]", "input.rollout.canary", "input.unit"]
    references += ["input.features.anything.below", "input.version.ext_proc"]
    policy = tmp_path / "policy.rego"
    rules = "".join(f'x{number} if {reference} == "y"\n' for number, reference in enumerate(references))
    policy.write_text(
        f"package p\n\n{rules}\nt if input.attributes.source.address.socketAddress.portValue == input.time"
    )
    done = opa("check", "--schema", schema, policy)
    assert done.returncode == 0, done.stderr


def test_opa_and_the_engine_pass_the_shipped_tests() -> None:
    done = opa("test", POLICIES)
    assert done.returncode == 0, done.stdout
    results = run_tests(read_sources(POLICIES, tests=True)).tests
    assert {result.outcome for result in results} == {"pass"}
    assert f"{len(results)}/{len(results)}" in done.stdout


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_as_every_tool_would_have_it(
    name: str, tmp_path: Path, schema: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own, as an author takes it, with the library if it imports that."""
    monkeypatch.setenv("PATH", f"{opa_binary().parent}:/bin:/usr/bin")
    for folder in {file.partition("/")[0] for file in recipe(name).files}:
        shutil.copytree(RECIPES / folder, tmp_path / "mine" / folder)
    mine, document = tmp_path / "mine", tmp_path / "rollout.json"
    asks = {"policy": {"path": f"{name}/decision", "onError": "stable"}, "features": FEATURES}
    document.write_text(json.dumps(rollout({**CANARY, **asks})))
    formatted = opa("fmt", "--list", mine)
    assert (formatted.returncode, formatted.stdout) == (0, "")
    strict = opa("check", "--strict", "--schema", schema, *modules(mine))
    assert strict.returncode == 0, strict.stderr
    tested = opa("test", mine)
    assert tested.returncode == 0, tested.stdout
    for command in (
        ("check", str(mine), "--rollouts", str(document), "--opa"),
        ("test", str(mine), "--threshold", "100", "--opa"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["policy", *command])
        said = capsys.readouterr()
        # Not everything in a library is for everybody.
        noted = [line for line in said.err.splitlines() if not line.startswith("lib/")]
        assert (ended.value.code, noted) == (0, []), said.out


def test_opa_mounts_data_files_where_dropout_does(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "data.json").write_text('{"top": 1, "a": {"x": 2}}')
    (tmp_path / "a" / "data.yaml").write_text("when: 2026-11-23\ny: [1, 2]\n")
    (tmp_path / "a" / "b" / "data.yml").write_text("z: true\n")
    (tmp_path / "p.rego").write_text("package p\n\nx := 1\n")
    done = opa("eval", "--format", "values", "--data", tmp_path, "data")
    merged = json.loads(done.stdout)[0]
    assert merged.pop("p") == {"x": 1}
    assert merged == read_sources(tmp_path).data


def test_opa_finds_of_the_same_tests_what_the_engine_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one name, one that throws, one that is to be written, and those of a folder with data."""
    (tmp_path / "data.json").write_text('{"limit": 1}')
    rules = "test_x if data.limit == 1\n\ntest_x if data.limit == 2\n\ntodo_test_y if true\n\ntest_z := 3\n"
    (tmp_path / "a_test.rego").write_text(f"package a_test\n\n{rules}")
    monkeypatch.setenv("PATH", f"{opa_binary().parent}:/bin:/usr/bin")
    for folder in (tmp_path, POLICIES):
        ours = {test.name: test.outcome for test in run_tests(read_sources(folder, tests=True)).tests}
        assert opa_outcomes(folder) == ours
