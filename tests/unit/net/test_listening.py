"""Where a service may listen: one rule for all of them, whose refusals advise what was not given."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from extproc.errors import InvalidInput
from extproc.net.endpoints import TcpEndpoint, UnixEndpoint
from extproc.net.listening import ACCESS_LOG, ADMIN, CONTROL, FEEDBACK, Asks, Listening, Service, listening
from extproc.net.tls import TlsFiles

SERVICES = (CONTROL, FEEDBACK, ADMIN, ACCESS_LOG)
PLAIN = TlsFiles(Path("c"), Path("k"))
MUTUAL = TlsFiles(Path("c"), Path("k"), Path("ca"))
TOKENS = Path("tokens")


def tried(service: Service, address: str, tls: TlsFiles | None, tokens: Path | None, insecure: bool) -> Listening | str:
    try:
        return listening(service, address, tls, tokens, insecure=insecure)
    except InvalidInput as error:
        return str(error)


@pytest.mark.parametrize("service", SERVICES)
def test_the_rule_holds_for_every_service_address_and_flag(service: Service) -> None:
    for host, tls, tokens, insecure in product(
        ("127.0.0.1", "0.0.0.0", "[::1]", "localhost", "example.org"),
        (None, PLAIN, MUTUAL),
        (None, TOKENS),
        (False, True),
    ):
        outside = host in ("0.0.0.0", "example.org")
        address = f"https://{host}:1" if service.pages and tls else f"{host}:1"
        known = tokens is not None or tls is MUTUAL
        may = (known and (tls is not None or not outside or insecure)) or (
            not known
            and service.asks is not Asks.EVERYBODY
            and (insecure or (service.asks is Asks.OF_OTHER_MACHINES and not outside))
        )
        found = tried(service, address, tls, tokens, insecure)
        assert isinstance(found, Listening) == may, (address, tls, tokens, insecure, found)
        if isinstance(found, Listening):
            assert (found.tls, found.tokens, found.open_to_all) == (tls, tokens, not known)
            continue
        advised = set(re.findall(r"--[a-z-]+", found.partition(": ")[2]))
        given = {"--insecure"} if insecure else set()
        given |= {"--tls-cert", "--tls-key"} if tls else set()
        given |= {service.tokens_flag} if tokens else set()
        assert advised, found
        assert not advised & given, found


@pytest.mark.parametrize("service", SERVICES)
def test_a_unix_socket_asks_the_system_and_needs_no_word_of_anybody(service: Service) -> None:
    found = listening(service, "unix:/run/dropout/x.sock", MUTUAL, None, insecure=False)
    assert (found.endpoint, found.tls, found.open_to_all) == (UnixEndpoint(Path("/run/dropout/x.sock")), None, False)


def test_pages_are_encrypted_where_their_address_says_so_and_as_before_elsewhere() -> None:
    assert listening(ADMIN, "127.0.0.1:9902", PLAIN, None, insecure=False).tls is None
    found = listening(ADMIN, "https://127.0.0.1:9902", PLAIN, None, insecure=False)
    assert (found.endpoint, found.tls) == (TcpEndpoint("127.0.0.1", 9902), PLAIN)
    with pytest.raises(InvalidInput) as refused:
        listening(ADMIN, "https://127.0.0.1:9902", None, None, insecure=True)
    assert refused.value.code == "tls_incomplete"


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("address", ["", "x", "1:2:3:x", "unix:", "unix:/x/", "http://127.0.0.1:1", "ftp://a:1"])
def test_what_is_no_address_is_a_sentence(service: Service, address: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        listening(service, address, MUTUAL, TOKENS, insecure=True)
    assert (refused.value.code, refused.value.faults[0].field) == ("address_invalid", service.flag)
