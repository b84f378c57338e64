"""Whether an Envoy has what was rendered: by what it says of versions, and what it does not say is no good news."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.envoy import delivery as envoy_delivery
from extproc.adapters.envoy.admin import ForeignAnswerError
from extproc.adapters.envoy.delivery import BEHIND_SECONDS, SILENT_SECONDS, EnvoyDelivery
from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE
from extproc.envoy.render import ROUTE_CONFIG_NAME

NAMES = (f"http.ingress.rds.{ROUTE_CONFIG_NAME}.version_text", "cluster_manager.cds.version_text")


class Envoy:
    """An Envoy that says what it is told to; None: it is silent."""

    def __init__(self, folder: Path, patched: pytest.MonkeyPatch) -> None:
        self.versions: Sequence[str] | None = None
        self.error: Exception = ConnectionRefusedError()
        self.now = 0.0
        self.counts: dict[str, int] = {}
        self.delivery = EnvoyDelivery([("127.0.0.1", 9)], folder)
        patched.setattr(envoy_delivery, "fetch", self._fetch)
        patched.setattr(envoy_delivery.time, "monotonic", lambda: self.now)

    def _fetch(self, _host: str, _port: int, path: str, _most: int) -> Any:
        if self.versions is None:
            raise self.error
        counts = ((name, value) for name, value in self.counts.items())
        stats = zip(NAMES, self.versions, strict=True) if "version_text" in path else counts
        return {"stats": [{"name": name, "value": value} for name, value in stats]}

    def after(self, seconds: float, *versions: str) -> str | None:
        """Why it has not what was rendered, once it was asked so much later."""
        self.versions, self.now = versions or None, self.now + seconds
        self.delivery.ask("127.0.0.1", 9)
        return self.delivery.behind()


@pytest.fixture
def envoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Envoy:
    for file in (ROUTES_FILE, CLUSTERS_FILE):
        (tmp_path / file).write_bytes(b'{"versionInfo":"0123456789abcdef","resources":[]}\n')
    return Envoy(tmp_path, monkeypatch)


def test_one_that_is_silent_is_neither_behind_nor_not(envoy: Envoy) -> None:
    assert envoy.delivery.behind() is None
    assert envoy.after(0, "0123456789abcdef", "0123456789abcdef") == ""
    envoy.after(1, "ffffffffffffffff", "0123456789abcdef")
    assert envoy.after(BEHIND_SECONDS, "ffffffffffffffff", "0123456789abcdef")
    assert envoy.after(1) is None
    assert envoy.after(1, "0123456789abcdef", "0123456789abcdef") == ""


def test_one_that_is_silent_may_be_starting_for_a_while_and_does_not_have_the_routes(envoy: Envoy) -> None:
    for start in (0.0, 100.0):  # its first start, and a later one
        envoy.after(start)
        assert envoy.delivery.awaited() == {"127.0.0.1:9"}
        envoy.after(SILENT_SECONDS)
        assert not envoy.delivery.awaited(), "it does not come by itself"
        assert None not in envoy.delivery.faults().values()
        envoy.after(1, "0123456789abcdef", "0123456789abcdef")
        assert not envoy.delivery.awaited()


def test_one_that_is_no_envoy_is_told_at_once_with_what_it_answered_and_not_awaited(envoy: Envoy) -> None:
    envoy.error = ForeignAnswerError("status 404")
    assert envoy.after(0) is None, "nobody knows whether an Envoy has the routes"
    assert not envoy.delivery.awaited()
    (fault,) = envoy.delivery.faults().values()
    assert fault is not None
    assert (fault.code, fault.field) == ("no_envoy", "--envoy-admin")
    assert (
        "Envoy at 127.0.0.1:9 is none: it answers with status 404, as no admin endpoint of Envoy does" in fault.message
    )


def test_one_that_answers_at_first_and_is_behind_is_not_told_of_before_it_had_the_time(envoy: Envoy) -> None:
    """It is asked the moment the files are written."""
    envoy.after(0, "ffffffffffffffff", "0123456789abcdef")
    assert envoy.delivery.awaited() == {"127.0.0.1:9"}
    envoy.after(BEHIND_SECONDS, "ffffffffffffffff", "0123456789abcdef")
    assert not envoy.delivery.awaited()
    (fault,) = envoy.delivery.faults().values()
    assert fault is not None
    assert fault.code == "envoy_behind"


def test_one_whose_folder_was_made_anew_after_it_read_a_change_does_not_see_it_any_more(
    envoy: Envoy, tmp_path: Path
) -> None:
    """A promotion that it read at once says nothing of what comes after."""
    attempts = "cluster_manager.cds.update_attempt"
    envoy.counts[attempts] = 1
    assert envoy.after(0, "0123456789abcdef", "0123456789abcdef") == ""
    for file in (ROUTES_FILE, CLUSTERS_FILE):
        (tmp_path / file).write_bytes(b'{"versionInfo":"1111111111111111","resources":[]}\n')
    envoy.counts[attempts] = 2
    assert envoy.after(1, "1111111111111111", "1111111111111111") == ""
    for file in (ROUTES_FILE, CLUSTERS_FILE):
        (tmp_path / file).write_bytes(b'{"versionInfo":"2222222222222222","resources":[]}\n')
    envoy.after(1, "1111111111111111", "1111111111111111")
    why = envoy.after(BEHIND_SECONDS, "1111111111111111", "1111111111111111")
    assert why is not None
    assert "the folder was removed and made anew; start Envoy again" in why


def test_one_that_has_no_version_has_not_what_a_file_without_one_says(envoy: Envoy, tmp_path: Path) -> None:
    for file in (ROUTES_FILE, CLUSTERS_FILE):
        (tmp_path / file).write_text("garbage")
    envoy.after(0, "", "")
    assert envoy.after(BEHIND_SECONDS, "", "")
