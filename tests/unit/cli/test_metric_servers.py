"""``--metrics NAME=URL``: mistakes are told before anything is started."""

from __future__ import annotations

import pytest

from extproc import plugins
from extproc.cli.metric_servers import metric_servers
from extproc.errors import InvalidInput
from extproc.plugins import METRICS, Plugin
from extproc.testing.metrics import MemoryMetrics

OPENED = Plugin(METRICS.version, lambda _url, _flag: MemoryMetrics({}))


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins._OURS, ("metrics", "memory"), plugins._Ours(f"{__name__}:OPENED"))


def test_servers_have_the_names_that_they_were_given() -> None:
    assert list(metric_servers(["main=memory:", "other=memory://h/?a=b"])) == ["main", "other"]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (["memory:"], "metrics_name"),
        (["Main=memory:"], "metrics_name"),
        (["=memory:"], "metrics_name"),
        (["main=memory:", "main=memory:x"], "metrics_name"),
        (["main=nobody:"], "metrics_url"),
    ],
)
def test_a_server_that_cannot_be_meant_is_refused(given: list[str], code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        metric_servers(given)
    assert (refused.value.code, refused.value.faults[0].field) == (code, "--metrics")
