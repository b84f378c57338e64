"""Keys and tokens are taken from nobody else, and made where nobody else can put one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc import key_files
from extproc.datapath.pseudonym import load_or_create_key
from extproc.decision_id import KeyFile
from extproc.errors import DropoutError
from extproc.net.tokens import load_tokens
from tests.support.clock import FakeClock

NOBODY, ME = 65534, os.geteuid()

LOADERS: dict[str, Callable[[Path], object]] = {
    "a token": lambda path: load_tokens(path, "the token"),
    "a key for pseudonyms": load_or_create_key,
    "keys of ids": lambda path: KeyFile(path, FakeClock()),
}


def of_nobody(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def replaced_by_a_link(path: Path, *, to_the_folder: str, of: int) -> None:
    """``path`` leads to what it was, which is now in another folder."""
    other = path.parent.parent / to_the_folder
    other.mkdir()
    path.rename(other / "x")
    path.symlink_to(other / "x")
    os.chown(path, of, of, follow_symlinks=False)


UNTRUSTED: dict[str, Callable[[Path], None]] = {
    "another user's": of_nobody,
    "anybody can write to it": lambda path: path.chmod(0o602),
    "a group can write to it": lambda path: (os.chown(path, -1, 1), path.chmod(0o620))[1],
    "its folder is open": lambda path: path.parent.chmod(0o777),
    "its folder is open to a group": lambda path: (os.chown(path.parent, -1, 1), path.parent.chmod(0o770))[1],
    "another user's, in a folder like /tmp": lambda path: (path.parent.chmod(0o1777), of_nobody(path))[1],
    "another user's link": lambda path: replaced_by_a_link(path, to_the_folder="mine", of=NOBODY),
    "a link into an open folder": lambda path: (
        replaced_by_a_link(path, to_the_folder="open", of=ME),
        (path.parent.parent / "open").chmod(0o777),
    )[1],
}
TRUSTED: dict[str, Callable[[Path], None]] = {
    "it is ours": lambda path: None,
    "ours, in a folder like /tmp": lambda path: path.parent.chmod(0o1777),
    "of whom its folder belongs to": lambda path: (of_nobody(path), of_nobody(path.parent))[1],
    "a link of ours": lambda path: replaced_by_a_link(path, to_the_folder="mine", of=ME),
}

needs_root = pytest.mark.skipif(ME != 0, reason="only root gives files away")


@pytest.fixture(params=LOADERS.values(), ids=LOADERS)
def load(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    loader: Callable[[Path], object] = request.param
    return loader


@pytest.fixture
def file(tmp_path: Path, load: Callable[[Path], object]) -> Path:
    """A good one, made by us in a folder of its own."""
    path = tmp_path / "own" / "secret"
    path.parent.mkdir(mode=0o700)
    load(path)
    return path


@needs_root
@pytest.mark.parametrize("change", UNTRUSTED.values(), ids=UNTRUSTED)
def test_what_somebody_else_may_have_written_is_refused(
    load: Callable[[Path], object], file: Path, change: Callable[[Path], None]
) -> None:
    change(file)
    with pytest.raises(DropoutError) as refused:
        load(file)
    assert refused.value.code == "key_untrusted"


@needs_root
@pytest.mark.parametrize("change", TRUSTED.values(), ids=TRUSTED)
def test_what_nobody_else_can_have_written_is_taken(
    load: Callable[[Path], object], file: Path, change: Callable[[Path], None]
) -> None:
    change(file)
    load(file)


def test_none_is_made_in_a_folder_that_others_can_write_to(load: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(DropoutError) as refused:
        load(folder / "secret")
    assert (refused.value.code, list(folder.iterdir())) == ("key_untrusted", [])


@needs_root
def test_a_group_of_the_owners_own_is_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o770)
    assert key_files.why_untrusted(tmp_path / "secret") is None  # pytest's folders are of the user's own group
    monkeypatch.setattr(key_files, "_is_private", lambda group, user: False)
    assert key_files.why_untrusted(tmp_path / "secret") is not None


def test_a_pipe_is_no_key_and_nobody_waits_for_it(load: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret", 0o600)
    with pytest.raises(DropoutError) as refused:
        load(tmp_path / "secret")
    assert refused.value.code == "key_unreachable"
