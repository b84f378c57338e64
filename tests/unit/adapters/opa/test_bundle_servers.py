"""Addresses of bundles, and the flags about them: what makes no sense is said before anything is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.adapters.opa.bundles import BundleServer, StatusService
from extproc.cli.main import main
from extproc.errors import InvalidInput
from extproc.run.serve_options import PolicyOptions
from extproc.run.served_policies import places_of
from extproc.state import StateFolder


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http:///a.tar.gz", "url_invalid"),
        ("ftp://host/a.tar.gz", "url_invalid"),
        ("http://me@host/a.tar.gz", "url_invalid"),
        ("http://me:secret@host/a.tar.gz", "secret_in_url"),
        ("http://host/a.tar.gz?ca=ca.pem", "url_invalid"),
        ("https://host/a.tar.gz?ca=nowhere.pem", "file_unreadable"),
        ("http://host/a.tar.gz?token-file=nowhere", "file_unreadable"),
        ("http://host/a.tar.gz?min-delay-seconds=0", "url_parameter"),
        ("http://host/a.tar.gz?min-delay-seconds=soon", "url_parameter"),
        ("http://host/a.tar.gz?max-delay-seconds=1e9", "url_parameter"),
        ("http://host/a.tar.gz?min-delay-seconds=9&max-delay-seconds=8", "url_parameter"),
        ("http://host/a.tar.gz?delay=1", "url_parameter"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(url: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        BundleServer(url, "--policies")
    assert (caught.value.code, caught.value.faults[0].field) == (code, "--policies")
    assert "secret@" not in str(caught.value)


def test_how_often_a_bundle_is_asked_for_follows_from_the_least_that_is_named() -> None:
    one = BundleServer("https://host:444/a%20b/authz.tar.gz?min-delay-seconds=60", "--policies")
    assert (one.url, one.name, one.min_delay, one.max_delay) == (
        "https://host:444/a%20b/authz.tar.gz",
        "authz.tar.gz",
        60.0,
        60.0,
    )
    assert StatusService("http://[::1]:8080/opa", "--status").url == "http://[::1]:8080/opa"


def test_bundles_that_would_be_kept_by_one_name_are_refused(tmp_path: Path) -> None:
    options = PolicyOptions(("http://one/a.tar.gz", "http://two/a.tar.gz"))
    with pytest.raises(InvalidInput) as caught:
        places_of(options, StateFolder(f"{tmp_path}/"))
    assert caught.value.code == "bundle_name_taken"


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--policies", "nowhere"), "policies_missing"),
        (("--policies", "ftp://host/a.tar.gz"), "policies_missing"),
        (("--verification-key", "key"), "flags_conflict"),
        (("--policies", ".", "--verification-scope", "s"), "flags_conflict"),
        (("--policies", ".", "--status", "http://host"), "flags_conflict"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "controller"])
def test_flags_that_do_nothing_are_refused(
    command: str,
    flags: tuple[str, ...],
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main([command, "--store", "sqlite:d.db", *flags])
    assert exit_.value.code == 2
    assert code in capsys.readouterr().err
