"""AnalysisTemplates into and out of the store: by hand, with rollouts, and from a followed folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.cli.main import main
from extproc.control.absence import Grace
from extproc.control.acting import act
from extproc.control.actions import Apply, DeleteTemplate
from extproc.control.folder import FolderReport, FollowedFolder
from extproc.control.templates import load_template
from extproc.errors import InvalidInput
from extproc.resources.loaded import LoadedDocument
from extproc.resources.loading import load_paths
from extproc.testing.memory_store import MemoryStore
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, document
from tests.support.templates import metric, template

ENDLESS = template(metric(interval="10s"))
IN_STEP = document({**CANARY, "steps": [{"analysis": {"templates": [{"templateName": "health"}]}}]})
IN_BACKGROUND = document({**CANARY, "analysis": {"templates": [{"templateName": "health"}]}})


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "rollouts"
    made.mkdir()
    return made


def loaded(folder: Path, *bodies: dict[str, Any]) -> Sequence[LoadedDocument[Any]]:
    file = folder / "documents.yaml"
    file.write_text(yaml.safe_dump_all(bodies))
    found = load_paths([file])
    assert not found.faults
    return found.documents


def applied(store: MemoryStore, folder: Path, *bodies: dict[str, Any]) -> list[tuple[str, str]]:
    """Apply documents; what became of each."""
    results = act(store, "alice", Apply(loaded(folder, *bodies)), FakeClock())
    return [(type(result).__name__, result.result) for result in results]


def test_an_apply_creates_then_leaves_alone_then_configures(store: MemoryStore, tmp_path: Path) -> None:
    assert applied(store, tmp_path, template()) == [("TemplateResult", "created")]
    revision = store.documents().revision
    assert applied(store, tmp_path, template()) == [("TemplateResult", "unchanged")]
    assert store.documents().revision == revision
    assert applied(store, tmp_path, ENDLESS) == [("TemplateResult", "configured")]
    assert load_template(store, "payments", "health").document == ENDLESS


def test_templates_and_rollouts_go_in_together_or_not_at_all(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        applied(store, tmp_path, ENDLESS, IN_STEP)
    assert caught.value.code == "metric_endless"
    assert store.template("payments", "health") is None
    assert applied(store, tmp_path, template(), IN_STEP) == [("ActionResult", "created"), ("TemplateResult", "created")]


def test_what_is_applied_must_fit_what_the_store_holds(store: MemoryStore, tmp_path: Path) -> None:
    applied(store, tmp_path, ENDLESS)
    with pytest.raises(InvalidInput) as caught:
        applied(store, tmp_path, IN_STEP)
    assert [(f.code, f.field) for f in caught.value.faults] == [
        ("metric_endless", "spec.steps[0].analysis.templates[0]")
    ]
    applied(store, tmp_path, template())
    applied(store, tmp_path, IN_STEP)
    with pytest.raises(InvalidInput) as caught:
        applied(store, tmp_path, ENDLESS)
    assert [(fault.code, fault.field) for fault in caught.value.faults] == [("metric_endless", "spec.metrics[0]")]
    assert load_template(store, "payments", "health").document == template()


def test_a_template_that_goes_out_says_which(store: MemoryStore, tmp_path: Path, clock: FakeClock) -> None:
    applied(store, tmp_path, template())
    (result,) = act(store, "alice", DeleteTemplate("payments", "health"), clock)
    assert (result.row.key, result.result) == ("payments/health", "deleted")
    with pytest.raises(InvalidInput, match="there is no AnalysisTemplate payments/health"):
        act(store, "alice", DeleteTemplate("payments", "health"), clock)


# A followed folder


def put(directory: Path, name: str, *bodies: dict[str, Any]) -> None:
    (directory / name).write_text(yaml.safe_dump_all(bodies))


def pruned(folder: FollowedFolder) -> FolderReport:
    """What becomes of an edit, once it rests."""
    assert [folder.changed(), folder.changed()] == [False, True]
    return folder.sync()


def test_a_folder_keeps_templates_as_it_keeps_rollouts(store: MemoryStore, directory: Path, clock: FakeClock) -> None:
    folder = FollowedFolder(store, directory, clock, Grace(0, 0))
    put(directory, "a.yaml", template(), IN_BACKGROUND)
    assert folder.sync().applied == ("payments/fraud-detector", "payments/health")
    row = load_template(store, "payments", "health")
    assert row.source == str(directory / "a.yaml")
    put(directory, "a.yaml", IN_BACKGROUND)
    assert pruned(folder).deleted == ("payments/health",)
    assert store.template("payments", "health") is None
    assert store.get("payments", "fraud-detector") is not None


def test_a_rollout_and_a_template_of_one_name_are_two(store: MemoryStore, directory: Path, clock: FakeClock) -> None:
    folder = FollowedFolder(store, directory, clock, Grace(0, 0))
    put(directory, "a.yaml", template(name="fraud-detector"), document(CANARY))
    folder.sync()
    put(directory, "a.yaml", template(name="fraud-detector"))
    pruned(folder)
    assert store.get("payments", "fraud-detector") is None
    assert store.template("payments", "fraud-detector") is not None


def test_templates_from_elsewhere_stay(store: MemoryStore, tmp_path: Path, directory: Path, clock: FakeClock) -> None:
    applied(store, tmp_path, template(name="by-hand"))
    put(directory, "a.yaml", template())
    folder = FollowedFolder(store, directory, clock, Grace(0, 0))
    folder.sync()
    (directory / "a.yaml").unlink()
    pruned(folder)
    assert [row.name for row in store.documents().templates] == ["by-hand"]


def test_a_template_that_would_break_a_rollout_stays_as_it_was(
    store: MemoryStore, directory: Path, clock: FakeClock
) -> None:
    folder = FollowedFolder(store, directory, clock, Grace(0, 0))
    put(directory, "rollout.yaml", IN_STEP)
    put(directory, "template.yaml", template())
    folder.sync()
    put(directory, "template.yaml", ENDLESS)
    report = folder.sync()
    assert {Path(file).name: [f.code for f in faults] for file, faults in report.faults.items()} == {
        "template.yaml": ["metric_endless"]
    }
    assert load_template(store, "payments", "health").document == template()


# The command line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert isinstance(exited.value.code, int)
    captured = capsys.readouterr()
    return exited.value.code, captured.out + captured.err


def test_the_commands_for_documents_know_templates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:{tmp_path / 'cli.db'}"
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(template(), sort_keys=False))
    assert run(capsys, "validate", str(file)) == (0, "1 document is valid\n")
    assert run(capsys, "apply", "-f", str(file), "--store", url) == (0, "analysistemplate payments/health created\n")
    assert run(capsys, "apply", "-f", str(file), "--store", url) == (0, "analysistemplate payments/health unchanged\n")
    code, printed = run(capsys, "get", "AnalysisTemplates", "payments/health", "--store", url)
    assert (code, yaml.safe_load(printed)) == (0, template())
    code, printed = run(capsys, "get", "analysistemplate", "payments/health", "--store", url, "-o", "json")
    assert (code, json.loads(printed)) == (0, template())
    deleted = run(capsys, "delete", "analysistemplate", "payments/health", "--store", url, "-o", "json")
    assert json.loads(deleted[1]) == {
        "results": [{"kind": "AnalysisTemplate", "namespace": "payments", "name": "health", "result": "deleted"}]
    }
    assert run(capsys, "get", "analysistemplate", "payments/health", "--store", url) == (
        2,
        "there is no AnalysisTemplate payments/health in the store (not_found)\n",
    )
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**template(), "metadata": {"namespace": "payments", "name": "healthy"}}))
    assert run(capsys, "apply", "-f", str(other), "--store", url)[0] == 0
    assert (
        "did you mean 'payments/healthy'?"
        in run(capsys, "delete", "analysistemplate", "payments/health", "--store", url)[1]
    )
    assert run(capsys, "get", "policy", "x", "--store", url) == (
        2,
        "KIND: kind 'policy' is not known here; rollout and analysistemplate are (unsupported_kind)\n",
    )
