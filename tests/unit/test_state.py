"""The state folder: beside the store's file, or where it is told to be, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.errors import InvalidInput
from extproc.state import StateFolder

UNUSABLE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a file is there": ("state_unusable", lambda path: path.write_text("")),
    "it would be below a file": ("state_unusable", lambda path: (path.parent.rmdir(), path.parent.write_text(""))),
    "anybody can write to it": ("state_untrusted", lambda path: (path.mkdir(), path.chmod(0o1777))),
    "a group can": ("state_untrusted", lambda path: (path.mkdir(), os.chown(path, -1, 1), path.chmod(0o770))),
    "it is another user's": ("state_untrusted", lambda path: (path.mkdir(), os.chown(path, 65534, 65534))),
}


def test_what_is_no_file_has_no_state_beside_it_and_a_named_folder_does_for_any(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as needed:
        StateFolder.of("sqlite:/", None)
    assert (needed.value.code, needed.value.faults[0].field) == ("state_needed", "--state")
    for store in ("sqlite:/", "redis://cache"):
        assert StateFolder.of(store, tmp_path).ids == tmp_path / "ids"


def test_a_store_of_no_kind_that_there_is_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidInput) as refused:
        StateFolder.of("sqlit:/x.db", None)
    assert (refused.value.code, refused.value.faults[0].field) == ("store_url", "--store")
    assert refused.value.faults[0].message.endswith("; did you mean 'sqlite'?")


@pytest.mark.parametrize("store", ["", "sqlite:"])
def test_a_store_that_is_not_named_is_told_with_the_flag_the_variable_and_an_example(store: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        StateFolder.of(store, None)
    (fault,) = refused.value.faults
    assert (fault.code, fault.field) == ("store_url", "--store")
    assert "by --store or DROPOUT_STORE, such as sqlite:/" in fault.message


def test_a_path_alone_is_told_as_the_store_that_was_meant() -> None:
    with pytest.raises(InvalidInput) as refused:
        StateFolder.of("/var/lib/dropout.db", None)
    (fault,) = refused.value.faults
    assert (fault.code, fault.field) == ("store_url", "--store")
    assert fault.message.endswith("did you mean 'sqlite:/var/lib/dropout.db'?")


def test_a_store_has_its_state_beside_its_file_and_nothing_is_made_for_it(tmp_path: Path) -> None:
    state = StateFolder.made(f"sqlite:{tmp_path}/new/dropout.db", None)
    assert (state.ids, state.serving) == (tmp_path / "new/dropout.db.ids", tmp_path / "new/dropout.db.serving")
    assert StateFolder.of("sqlite:dropout.db", None).token == Path("dropout.db.token")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_made_for_its_owner_alone_and_taken_again_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    StateFolder.made("sqlite:dropout.db", folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    StateFolder.made("sqlite:dropout.db", folder)
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("code", "leave"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_folder_that_cannot_be_used_is_a_sentence(code: str, leave: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    folder.parent.mkdir()
    leave(folder)
    with pytest.raises(InvalidInput) as refused:
        StateFolder.made("sqlite:dropout.db", folder)
    assert (refused.value.code, refused.value.faults[0].file) == (code, str(folder))
