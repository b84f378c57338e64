"""Data of policies in YAML is what OPA reads in it; what OPA refuses is refused, with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.resources.policy_data import DataError, parse_data
from tests.systems.opa import opa

PLAIN = """
0 -0 1 +1 -1 007 08 09 017 -017 0x1F 0X1F -0x1F 0xG 0x 0o17 0O17 -0o17 0o8 0o 0b101 +0b1 0b2 0b 1_000 0x_1F _1 1_ 1__0
1. .5 -.5 +.5 1.5 1.10 1_0.5 ._5 .5_0 685_230.15
1e3 1e-3 1E+05 7e10 12e03 .5e2 1.e3 0e0 0.1e-2_0 1e 1e+ 1e400 -1e400 1e-400
.5_ .5__0 .5e_1 .5e1_0 .5_e1 -.5_0 -._5 5_e1 5e_1 5_. _.5
. .. -- + +.e1 1.2.3 0.0 1,000 1e21 1e20 123456789.5 0.000001 0.0000001 9007199254740993 18446744073709551615
18446744073709551616 -9223372036854775808 -9223372036854775809 123456789012345678901234567890 0x10000000000000000
inf nan NaN Infinity ~ null Null NULL nUll true True TRUE tRUE false False FALSE yes Yes YES no No NO on On ON off OFF
y Y n N 22:00 22:30:15 1:30 1:2.5 2026-11-01 2026-11-01T10:00:00Z 2026-11-1 2001-12-14t21:59:43.10-05:00 = < ! abc a:b
"""
SCALARS = [
    *PLAIN.split(),
    "2001-12-14 21:59:43",
    "2001-12-14 21:59:43.10 -5",
    "0 1",
    "!!str 5",
    '!!int "5"',
    "!!float 5",
    "! 5",
]

WHOLE = {
    "nothing": "k:\n",
    "keys": "1: a\n0x10: b\ntrue: c\nno: d\n2026-11-01: e\n",
    "an alias": "a: &a [1, {b: no}]\nk: *a\n",
    "a merge": "a: &a {x: 1, y: 2}\nk:\n  <<: *a\n  y: 3\n",
    "a merge of several": "a: &a {x: 1}\nb: &b {x: 2, z: 1}\nk:\n  <<: [*a, *b]\n  y: 3\n",
    "a merge that comes last": "a: &a {x: 1}\nk:\n  x: 5\n  <<: *a\n",
    "a merge written out": "k:\n  <<: {x: 1}\n  y: 2\n",
    "a quoted <<": 'k:\n  "<<": 3\n',
    "texts": "a: \"22:00\"\nb: '1'\nc: |\n  5\nd: >\n  5\n  6\ne: a\n  b\n",
    "a tab": "k:\t5\nj: [1,\t2]\n",
    "JSON": '{"k": 1, "a": [1.50, true, null]}\n',
    "a byte order mark and carriage returns": "\ufeffk: 1\r\nj: 2\r\n",
    "a directive": "%YAML 1.1\n---\nk: no\n",
    "a second document that is empty": "k: 1\n---\n",
}

REFUSED = {
    "infinity": ("a: 1\nk: .inf\n", 2),
    "minus infinity": ("k: -.INF\n", 1),
    "no number": ("k: [.nan]\n", 1),
    "a key that is nothing": ("~: 1\n", 1),
    "a key that is a list": ("a: 1\n[b]: 1\n", 2),
    "an alias of nothing": ("k: *z\n", 1),
    "an alias of itself": ("k: &k [*k]\n", 1),
    "a merge of a number": ("k:\n  <<: 3\n", 2),
    "a merge of nothing": ("k:\n  <<:\n", 2),
    "text with the tag of a number": ("a: 1\nk: !!int x\n", 2),
    "text with the tag of a boolean": ("k: !!bool yes\n", 1),
    "another YAML": ("%YAML 1.2\n---\nk: 1\n", 1),
    "an indent by tab": ("k:\n\t- 5\n", 2),
    "a colon too many": ("k: a: b\n", 1),
    "a list without an end": ("k: [1\n", 2),
    "many aliases": ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{to}: &{to} [{','.join(['*' + of] * 9)}]\n" for of, to in zip("abcdef", "bcdefg", strict=True)
    ), 7),
}  # fmt: skip

STRICTER = {
    "a list": ("- 1\n", 1),
    "nothing": ("# nothing\n", 1),
    "a key that comes twice": ("k: 1\nk: 2\n", 2),
    "a second document": ("k: 1\n---\nk: 2\n", 3),
    "a key that is a fraction": ("1.10: x\n", 1),
    "a tag of a type that JSON has not": ("k: !!binary aGk=\n", 1),
    "a tag of one's own": ("k: !mine 5\n", 1),
}


def by_opa(folder: Path, texts: list[str]) -> list[object] | None:
    """What OPA has of each text in a folder of its own; None if it refuses."""
    for number, text in enumerate(texts):
        (folder / str(number)).mkdir(exist_ok=True)
        (folder / str(number) / "data.yaml").write_bytes(text.encode())
    done = opa("eval", "--format", "values", "--data", folder, "data")
    if done.returncode != 0:
        return None
    found = json.loads(done.stdout)[0]
    return [found[str(number)] for number in range(len(texts))]


def same(ours: object, theirs: object) -> bool:
    """Equal, and of equal types at every place: 1 is not true, and 1000 no 1000.0."""
    return ours == theirs and json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


@pytest.mark.parametrize("texts", [[f"k: {text}\n" for text in SCALARS], list(WHOLE.values())], ids=["plain", "whole"])
def test_data_in_yaml_is_what_opa_reads(tmp_path: Path, texts: list[str]) -> None:
    theirs = by_opa(tmp_path, texts)
    assert theirs is not None
    differ = [
        (text, parse_data(text, ".yaml"), their)
        for text, their in zip(texts, theirs, strict=True)
        if not same(parse_data(text, ".yaml"), their)
    ]
    assert differ == []


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("0123456789_.+-eExXoObBaAnN:", min_size=1, max_size=12), min_size=100, max_size=100))
def test_any_plain_scalar_is_what_opa_reads(tmp_path_factory: pytest.TempPathFactory, scalars: list[str]) -> None:
    texts = [f"k: {scalar}\n" for scalar in scalars]
    readable = []
    for text in texts:
        try:
            parse_data(text, ".yaml")
        except DataError:
            continue
        readable.append(text)
    theirs = by_opa(tmp_path_factory.mktemp("opa"), readable)
    assert theirs is not None
    ours = [parse_data(text, ".yaml") for text in readable]
    assert [pair for pair in zip(readable, ours, theirs, strict=True) if not same(*pair[1:])] == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_opa_refuses_is_refused_by_its_line(tmp_path: Path, name: str) -> None:
    text, line = REFUSED[name]
    assert by_opa(tmp_path, [text]) is None
    with pytest.raises(DataError) as caught:
        parse_data(text, ".yaml")
    assert caught.value.line == line


@pytest.mark.parametrize("name", STRICTER)
def test_what_opa_takes_without_a_word_and_is_a_mistake_is_refused(tmp_path: Path, name: str) -> None:
    text, line = STRICTER[name]
    assert by_opa(tmp_path, [text]) is not None
    with pytest.raises(DataError) as caught:
        parse_data(text, ".yaml")
    assert caught.value.line == line
