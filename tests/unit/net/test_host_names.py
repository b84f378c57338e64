"""The names by which a listener may be called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import InvalidInput
from extproc.net.endpoints import TcpEndpoint, UnixEndpoint
from extproc.net.host_names import HostNames


@pytest.mark.parametrize(
    ("host", "address", "given", "may"),
    [
        ("10.0.0.1", "10.0.0.1", "10.0.0.1:80", True),
        ("10.0.0.1", "10.0.0.1", "10.0.0.2:80", False),
        ("0.0.0.0", "10.0.0.1", "10.0.0.1", True),
        ("0.0.0.0", "10.0.0.1", "10.0.0.1:81", False),
        ("::", "fd00::1", "[fd00:0::1]:80", True),
        ("box", "10.0.0.1", "BOX.:80", True),
        ("box", "10.0.0.1", "box.example:80", False),
        ("127.0.0.1", "127.0.0.1", "127.9.9.9", True),
        ("127.0.0.1", "127.0.0.1", "localhost.:80", True),
        ("127.0.0.1", "127.0.0.1", "localhost:080000", False),
    ],
)
def test_the_address_that_is_listened_on_is_a_name(host: str, address: str, given: str, may: bool) -> None:
    assert HostNames(TcpEndpoint(host, 80)).allow(given, address) is may


def test_a_name_that_is_given_goes_with_any_port_or_with_its_own() -> None:
    names = HostNames(UnixEndpoint(Path("/x")), ["dropout.example", "dropout.test:8080"])
    allowed = ["dropout.example", "dropout.example:1", "DROPOUT.test:8080", "localhost"]
    assert [name for name in allowed if not names.allow(name, "")] == []
    refused = ["dropout.test", "dropout.test:1", "localhost:80", "example"]
    assert [name for name in refused if names.allow(name, "")] == []


@pytest.mark.parametrize("name", ["", ":80", "[::1", "a:b", "::1"])
def test_what_is_no_name_is_refused_as_a_flag(name: str) -> None:
    with pytest.raises(InvalidInput):
        HostNames(UnixEndpoint(Path("/x")), [name])


@given(st.text(max_size=30))
def test_no_text_is_too_strange_to_be_refused(text: str) -> None:
    HostNames(TcpEndpoint("127.0.0.1", 80)).allow(text, "127.0.0.1")
