"""A secret is in a file that a URL names: whatever is in there instead is told before anything is asked with it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extproc import adapters
from extproc.errors import InvalidInput
from extproc.plugins import FEATURES, METRICS, POLICY_ENGINE, Port, open_adapter

TAKERS: dict[str, tuple[Port[Any], str]] = {
    "the token of a Prometheus": (METRICS, "prometheus+http://127.0.0.1?token-file="),
    "the password of a Prometheus": (METRICS, "prometheus+http://me@127.0.0.1?password-file="),
    "the token of an OPA": (POLICY_ENGINE, "opa+http://127.0.0.1?token-file="),
    "the token of a feature store over HTTP": (FEATURES, "http://127.0.0.1?template=feast&token-file="),
    "the password of a Redis": (FEATURES, "redis://me@127.0.0.1?password-file="),
}
NO_SECRETS: dict[str, Callable[[Path], object]] = {
    "nothing is there": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "an empty file": lambda path: path.touch(),
    "an empty line": lambda path: path.write_text("\n"),
    "blanks alone": lambda path: path.write_text(" \t \n"),
    "two lines": lambda path: path.write_text("geheim\nX-Evil: 1\n"),
    "a letter that ends a text": lambda path: path.write_bytes(b"geheim\0"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "far too much": lambda path: path.write_bytes(b"x" * (1 << 17)),
}


@pytest.mark.parametrize("leave", NO_SECRETS.values(), ids=NO_SECRETS)
@pytest.mark.parametrize(("port", "url"), TAKERS.values(), ids=TAKERS)
def test_what_is_no_secret_is_one_fault_that_names_flag_and_file_and_repeats_nothing(
    port: Port[Any], url: str, leave: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    leave(path)
    with pytest.raises(InvalidInput) as refused:
        open_adapter(port, f"{url}{path}", "--flag")
    (fault,) = refused.value.faults
    assert (fault.code, fault.file, fault.field) == ("file_unreadable", str(path), "--flag")
    assert "geheim" not in fault.message


@pytest.mark.parametrize(("port", "url"), TAKERS.values(), ids=TAKERS)
def test_a_line_is_a_secret_and_its_end_is_no_part_of_it(port: Port[Any], url: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("geheim\r\n")
    open_adapter(port, f"{url}{path}", "--flag")


@pytest.mark.parametrize("taker", [name for name in TAKERS if "token" in name])
def test_a_token_has_letters_that_a_header_can_have(taker: str, tmp_path: Path) -> None:
    (port, url), path = TAKERS[taker], tmp_path / "secret"
    path.write_text("gehéim")
    with pytest.raises(InvalidInput, match="ASCII"):
        open_adapter(port, f"{url}{path}", "--flag")


def test_every_adapter_reads_its_secrets_so() -> None:
    """What else is read from a file that a URL names are certificates, and the key to one, which is several lines."""
    sources = [path.read_text() for path in Path(adapters.__path__[0]).rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"read_named_file\(\w+, ([^,)]*)", text)}
    assert named == {'"ca"', '"cert"', '"key"'}
