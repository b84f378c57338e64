"""The flags of a policy shadow: what they come to, and a folder that nobody may read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extproc.cli.policy_shadow import policy_shadow
from extproc.errors import InvalidInput


@pytest.mark.parametrize(("share", "hundredths"), [("10", 1_000), ("0.01", 1), ("12.34", 1_234), ("100", 10_000)])
def test_a_share_is_read_in_decimal(tmp_path: Path, share: str, hundredths: int) -> None:
    options = policy_shadow(tmp_path, share)
    assert options is not None
    options.writing.close()
    options.reading.close()
    assert (options.folder, options.share) == (tmp_path, hundredths)


def test_without_either_flag_there_is_none() -> None:
    assert policy_shadow(None, None) is None


def test_a_folder_that_may_not_be_read_is_refused_with_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(InvalidInput) as refused:
        policy_shadow(tmp_path, "10")
    (fault,) = refused.value.faults
    assert (fault.code, fault.field) == ("policy_unreadable", "--policies-shadow")
    assert fault.message == f"{tmp_path} cannot be read: Permission denied"
