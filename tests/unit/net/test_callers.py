"""Who calls, by what they show: tokens in files, certificates, users of the system."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from extproc.errors import InvalidInput
from extproc.net.actor import Actor, may_be_name
from extproc.net.callers import ANYBODY, AUTHORIZATION, Callers, Origin, of_certificate, of_user
from extproc.net.credentials import Peer
from extproc.net.tokens import Tokens, load_tokens

TOKEN = "a" * 40
CERTIFICATE = {"subject": ((("organizationName", "ml"),), (("commonName", "carol"),))}


def tokens_file(folder: Path, content: str, mode: int = 0o600) -> Path:
    file = folder / "ci.tokens"
    file.write_bytes(content.encode("latin-1"))
    file.chmod(mode)
    return file


def shown(*values: str) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((AUTHORIZATION, value.encode()) for value in values)


# -- tokens


def test_a_file_of_tokens_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "token"
    ((token, owner),) = load_tokens(file, "it").items()
    assert load_tokens(file, "it") == {token: owner}
    assert len(token) >= 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_line_says_whose_a_token_is_and_without_a_name_it_is_the_files(tmp_path: Path) -> None:
    lines = f"# who may\n\n{TOKEN}  alice  deployers oncall\n{'b' * 16} bob\n{'c' * 16}\n"
    assert list(load_tokens(tokens_file(tmp_path, lines), "it").values()) == [
        Actor("alice", ("deployers", "oncall")),
        Actor("bob"),
        Actor("ci"),
    ]


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (TOKEN, 0o640, "token_exposed"),
        (TOKEN, 0o604, "token_exposed"),
        ("", 0o600, "token_invalid"),
        ("# nobody", 0o600, "token_invalid"),
        ("short\n", 0o600, "token_invalid"),
        ("\xfc" * 20, 0o600, "token_invalid"),
        (f"{TOKEN} alice\n{TOKEN} bob", 0o600, "token_invalid"),
        (f"{TOKEN} controller@host", 0o600, "token_invalid"),
        (f"{TOKEN} breaker@host", 0o600, "token_invalid"),
        (f"{TOKEN} al\x7fice", 0o600, "token_invalid"),
        (f"{TOKEN} alice " + "g " * 100, 0o600, "token_invalid"),
        ("".join(f"{number:020} n\n" for number in range(1001)), 0o600, "token_invalid"),
    ],
)
def test_what_is_no_token_or_no_secret_is_refused(tmp_path: Path, content: str, mode: int, code: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        load_tokens(tokens_file(tmp_path, content, mode), "it")
    assert raised.value.code == code


# -- certificates


@pytest.mark.parametrize(
    ("certificate", "who"),
    [
        (CERTIFICATE, Actor("certificate:carol", ("certificate:ml",))),
        (
            {**CERTIFICATE, "subjectAltName": (("URI", "spiffe://a/b"),)},
            Actor("certificate:carol", ("certificate:ml",)),
        ),
        ({"subjectAltName": (("DNS", "ci"), ("URI", "spiffe://a/b"))}, Actor("certificate:spiffe://a/b")),
        ({"subjectAltName": (("DNS", "ci"), ("email", "c@d"))}, Actor("certificate:c@d")),
        ({"subjectAltName": (("DNS", "ci"), ("IP Address", "::1"))}, Actor("certificate:ci")),
        ({"subjectAltName": (("IP Address", "::1"),)}, None),
        ({"subject": ((("organizationName", "ml"),),)}, None),
        ({"subject": ((("commonName", "controller@host"),),)}, None),
        ({"subject": ((("commonName", "carol\nroot"),),)}, None),
        ({"subject": ((("commonName", "a" * 254),),)}, None),
    ],
)
def test_a_certificate_names_its_subject_else_the_first_of_its_other_names(
    certificate: dict[str, Any], who: Actor | None
) -> None:
    assert of_certificate(certificate) == who


@pytest.mark.parametrize(
    "name", ["", "two words", "controller@here", "breaker@there", "folder:/x", "certificate:x", "\xe9", "a" * 254]
)
def test_nobody_is_called_what_would_mislead_who_reads_history(name: str) -> None:
    assert not may_be_name(name)


def test_a_certificate_names_nobody_that_the_system_or_a_token_knows_whatever_its_authority_says() -> None:
    user = of_user(os.getuid())
    subject = (*((("organizationName", group),) for group in user.groups), (("commonName", user.name),))
    certified = of_certificate({"subject": subject})
    assert certified is not None
    assert not {user.name, *user.groups} & {certified.name, *certified.groups}
    assert not any(may_be_name(name) for name in (certified.name, *certified.groups))


def test_a_user_whose_name_would_read_as_ours_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.struct_passwd(("breaker@corp.example", "x", 4, 4, "", "/", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: user)
    assert of_user(4) == Actor("4")


# -- together


def test_a_token_that_is_shown_decides_then_a_certificate_then_the_user(tmp_path: Path) -> None:
    identify = Callers(Tokens(tokens_file(tmp_path, f"{TOKEN} alice"), "it"))
    me = pwd.getpwuid(os.getuid()).pw_name
    everything = Origin(Peer(os.getuid(), 1), CERTIFICATE)
    for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} "):
        assert identify(everything, shown(right)) == Actor("alice")
    for wrong in ("", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"):
        assert identify(everything, shown(wrong)) is None
    assert identify(everything, shown(f"Bearer {TOKEN}", f"Bearer {TOKEN}")) is None
    assert identify(everything, ()) == Actor("certificate:carol", ("certificate:ml",))
    who = identify(Origin(Peer(os.getuid(), 1)), ())
    assert who is not None
    assert who.name == me
    assert identify(Origin(), ()) is None


def test_where_everybody_may_call_a_header_for_somebody_else_is_not_read() -> None:
    identify = Callers(open_to_all=True)
    assert identify(Origin(), shown("Bearer of-somebody-else")) is ANYBODY


def test_a_user_that_the_system_does_not_know_is_a_number() -> None:
    assert of_user(4_000_000_000) == Actor("4000000000")
