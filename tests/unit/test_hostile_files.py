"""Whatever is in a file that is read, it is taken or refused with a sentence: nothing in it is a surprise."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.adapters.file.features import read_feature_file
from extproc.datapath.pseudonym import load_or_create_key
from extproc.decision_id import KeyFile
from extproc.errors import DropoutError
from extproc.net.tls import TlsFiles
from extproc.net.tokens import load_tokens
from extproc.resources.loading import load_paths
from extproc.resources.policies import read_sources
from tests.support.certificates import identity
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, document


class Read(NamedTuple):
    """A file's name, what is good in it, and what reads it."""

    name: str
    good: bytes
    read: Callable[[Path], object]


def read_policies(file: Path) -> object:
    (file.parent / "rule.rego").write_text("package rule\n")
    return read_sources(file.parent)


def read_certificate(file: Path) -> object:
    return TlsFiles(file, file).check()


def read_authority(file: Path) -> object:
    good = file.with_name("good.pem")
    good.write_bytes(PEM)
    return TlsFiles(good, good, file).check()


def pair() -> bytes:
    """A certificate, which is an authority too, and its key."""
    made = identity("hostile")
    return made.pem + made.key_pem


PEM = pair()

FILES = {
    "a document": Read("a.yaml", yaml.safe_dump(document(CANARY)).encode(), lambda file: load_paths([file])),
    "a document in JSON": Read("a.json", json.dumps(document(CANARY)).encode(), lambda file: load_paths([file])),
    "a policy": Read("a.rego", b"package a\n\ndecision := {}\n", read_policies),
    "data of policies": Read("data.json", b'{"a": {"b": [1, 2.5, "x", null]}}', read_policies),
    "data of policies in YAML": Read("data.yaml", b"a:\n  b: [1, 2.5, x]\nc: null\n", read_policies),
    "features": Read(
        "a.csv", b"entity,view,name,value,event_time\nu,v,n,0.5,1700000000\n", lambda f: read_feature_file(f, 2e9)
    ),
    "features in JSON": Read(
        "a.jsonl",
        b'{"entity": "u", "view": "v", "name": "n", "value": [1], "event_time": "2026-11-29T00:00:00Z"}\n',
        lambda file: read_feature_file(file, 2e9),
    ),
    "keys of ids": Read(
        "ids", b"00112233445566778899aabbccddeeff" * 2 + b"\n", lambda file: KeyFile(file, FakeClock())
    ),
    "a key for pseudonyms": Read("key", b"k" * 32, load_or_create_key),
    "a token": Read("token", b"0123456789abcdefghij\n", lambda file: load_tokens(file, "the token")),
    "a certificate": Read("c.pem", PEM, read_certificate),
    "an authority": Read("c.pem", PEM, read_authority),
}

SNIPPETS = [
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n---\n", b"\x85", b"\xed\xa0\x80", b'"\\ud800"', b"'", b'"', b"\t"),
    *(b"[" * 2000, b'{"a":' * 1100, b"- " * 2000, b"{a: " * 300, b"(" * 500, b"]" * 20, b"}" * 20),
    *(b"1e999", b"-1e999", b"NaN", b".inf", b"9" * 5000, b"0x" + b"f" * 400, b"1_000", b"1:30:30", b"0o7", b"-0.0"),
    *(
        b"&a ",
        b"*a",
        b"<<: *a\n",
        b"? ",
        b"!!python/object:os.system ",
        b"!!binary aaa",
        b"!!timestamp 1",
        b"!!bool x",
        b"!!int ''",
        b"!!float x",
        b"!!null 3",
        b"!!str [a]",
        b"!!map a",
        b"!!seq {a: 1}",
        b"!!set {a}",
    ),
    *(
        b"%YAML 9.9\n",
        b"2026-99-99",
        b"2026-11-29",
        b"9999999999999-01-01",
        b"True",
        b"~",
        b"null",
        b"{}",
        b"[]",
        b"=: 1",
    ),
]
SPLICES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 20), st.sampled_from(SNIPPETS) | st.binary(max_size=8)), max_size=4
)


def spliced(content: bytes, splices: list[tuple[float, int, bytes]]) -> bytes:
    """``content`` with pieces in the place of others."""
    for where, length, piece in splices:
        at = int(where * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
@given(SPLICES)
@example([(0.0, 10_000, b"")])
def test_whatever_is_in_a_file_it_is_taken_or_refused(file: Read, splices: list[tuple[float, int, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / file.name
        path.write_bytes(spliced(file.good, splices))
        path.chmod(0o600)
        with suppress(DropoutError):
            file.read(path)


@pytest.mark.parametrize("file", [file for file in FILES.values() if file.read in (read_certificate, read_authority)])
def test_certificates_in_a_pipe_are_waited_for_by_nobody(file: Read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / file.name)
    with pytest.raises(DropoutError, match="not a regular file"):
        file.read(tmp_path / file.name)


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_the_good_one_is_taken(file: Read, tmp_path: Path) -> None:
    """Or the splices would only ever meet what is refused at once."""
    (tmp_path / file.name).write_bytes(file.good)
    (tmp_path / file.name).chmod(0o600)
    file.read(tmp_path / file.name)
