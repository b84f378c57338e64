"""The key behind the pseudonyms: made once, for its owner only, the same for every process."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from extproc.datapath.pseudonym import load_or_create_key, pseudonym
from extproc.errors import InvalidInput, Unreachable


def test_a_key_is_made_on_first_use_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "dropout.key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert load_or_create_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["dropout.key"]


def test_processes_that_race_get_the_same_key(tmp_path: Path) -> None:
    keys: list[bytes] = []
    start = threading.Barrier(8)

    def race() -> None:
        start.wait()
        keys.append(load_or_create_key(tmp_path / "dropout.key"))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_file_that_is_no_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "dropout.key"
    path.write_bytes(b"short")
    with pytest.raises(InvalidInput) as raised:
        load_or_create_key(path)
    assert raised.value.code == "key_invalid"
    assert path.read_bytes() == b"short"


def test_a_key_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as raised:
        load_or_create_key(tmp_path / "missing" / "dropout.key")
    assert raised.value.code == "key_unreachable"


def test_pseudonyms_are_equal_for_equal_units_only() -> None:
    key = b"k" * 32
    assert pseudonym(key, b"alice") == pseudonym(key, b"alice") != pseudonym(key, b"bob")
    assert len(pseudonym(key, b"x" * 100_000)) == 32
