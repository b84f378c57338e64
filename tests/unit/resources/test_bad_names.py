"""Files whose names are no text, and files that are no files: named, passed over, never waited for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from extproc.clock import SystemClock
from extproc.control.absence import Grace
from extproc.control.folder import FollowedFolder
from extproc.errors import Fault, InvalidInput
from extproc.resources.loading import load_paths
from extproc.resources.policies import read_sources
from extproc.testing.memory_store import MemoryStore
from tests.support.rollouts import CANARY, document

ODD = os.fsdecode(b"odd-\xff")
GOOD = yaml.safe_dump(document(CANARY))


def followed(folder: Path) -> FollowedFolder:
    return FollowedFolder(MemoryStore(), folder, SystemClock(), Grace(0, 0))


def test_a_fault_about_any_name_is_json() -> None:
    fault = Fault("file_not_found", f"there is no {ODD}", file=ODD, field=ODD)
    assert json.loads(json.dumps(fault.as_dict(), ensure_ascii=False).encode())["file"] == "odd-\\udcff"


def test_a_document_in_a_file_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / f"{ODD}.yaml").write_text(GOOD)
    loaded = load_paths([tmp_path])
    assert ([fault.code for fault in loaded.faults], loaded.documents) == (["file_name"], [])


def test_a_policy_in_a_file_or_folder_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_text("package a\n")
    (tmp_path / f"{ODD}.rego").write_text("package b\n")
    (tmp_path / ODD).mkdir()
    (tmp_path / ODD / "data.json").write_text("{}")
    with pytest.raises(InvalidInput) as error:
        read_sources(tmp_path)
    assert [fault.code for fault in error.value.faults] == ["file_name", "file_name"]


def test_a_followed_folder_names_the_odd_file_and_applies_the_others(tmp_path: Path) -> None:
    (tmp_path / f"{ODD}.yaml").write_text(yaml.safe_dump(document(CANARY, "odd")))
    (tmp_path / "good.yaml").write_text(GOOD)
    report = followed(tmp_path).sync()
    assert report.applied == ("payments/fraud-detector",)
    assert [fault.code for faults in report.faults.values() for fault in faults] == ["file_name"]


def test_nobody_waits_for_a_pipe_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "a.rego").write_text("package a\n")
    for name in ("pipe.yaml", "pipe.rego", "data.json"):
        os.mkfifo(tmp_path / name)
    assert followed(tmp_path).sync().faults == {}
    assert load_paths([tmp_path]).faults == []
    assert sorted(read_sources(tmp_path).files) == ["a.rego"]
