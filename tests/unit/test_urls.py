"""Addresses of adapters: what is read, and what is refused before it is a secret in everybody's sight."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.errors import InvalidInput
from extproc.urls import AdapterUrl, path_in, read_url


def test_an_address_is_read_in_its_parts() -> None:
    found = read_url("redis://some%20one@[::1]:6380/2?prefix=a%3A&ca=", "--features", {"prefix", "ca"})
    assert found == AdapterUrl("redis", "some one", "::1", 6380, "/2", {"prefix": "a:", "ca": ""})


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("redis://user:geheim@host/0", "secret_in_url"),
        ("redis://:geheim@host/0", "secret_in_url"),
        ("redis://host/0?prefix=geheim&prefix=b", "url_parameter"),
        ("redis://host/0?prefx=geheim", "url_parameter"),
        ("redis://host:geheim/0", "url_invalid"),
        ("redis://[geheim/0", "url_invalid"),
        ("redis://host/0#geheim", "url_invalid"),
    ],
)
def test_what_is_wrong_is_named_by_its_flag_and_nothing_of_it_is_repeated(url: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_url(url, "--features", {"prefix"})
    (fault,) = refused.value.faults
    assert (fault.code, fault.field) == (code, "--features")
    assert "geheim" not in fault.message


def test_a_path_is_all_that_stands_behind_the_colon_of_its_own_scheme() -> None:
    assert path_in("file:a b?mode=memory#%41:c.db", "file") == Path("a b?mode=memory#%41:c.db")
    for url in ("file:", "file:/", "file", "a.db", "", "sqlite:a.db", "FILE:a.db"):
        assert path_in(url, "file") is None, url
