"""What ``make bench`` says of its measurements, and its picture."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.bench.load import Measured, offered_rate
from tests.bench.picture import draw
from tests.bench.report import (
    ALONE,
    CASES,
    GRPC_FULL,
    GRPC_NOOP,
    HTTP_FULL,
    ONE_CONNECTION,
    RATE,
    SATURATED,
    Figures,
    report,
)

LOAD = {"connections": 32, "rate": 1600, "rounds": 3}
USUAL = replace(Measured(**{field.name: 1 for field in fields(Measured)}), failed=0, requests_per_second=1599.0)


def measured(**of_http_full: Any) -> Figures:
    """Three rounds of every case; the full decision over HTTP differs from the others."""
    changes: dict[Any, dict[str, Any]] = {HTTP_FULL: of_http_full, ALONE: {"mean_ms": 0.5}}
    figures = Figures(in_process=[{"pipeline_over_policy": 7.0}], one_change={"max_ms": 9.0})
    for case in CASES:
        for mode in (RATE, SATURATED, ONE_CONNECTION):
            for _ in range(3):
                figures.add(case, mode, replace(USUAL, **changes.get(case, {})))
        figures.undecided[case.name] = 0
    return figures


def test_ratios_are_of_one_round_and_their_middle_counts() -> None:
    ratios = report(measured(server_cpu_us=0.25), LOAD, [])["ratios"]["http"]
    assert (ratios["cpu_over_grpc"], ratios["cpu_over_grpc_noop"]) == (0.25, 0.25)


def test_a_run_in_which_a_request_failed_or_went_undecided_is_void() -> None:
    assert report(measured(), LOAD, [])["void"] == ""
    figures = measured()
    figures.failed[HTTP_FULL.name] = 9
    figures.undecided[GRPC_NOOP.name] = 2
    void = report(figures, LOAD, [])["void"]
    assert f"{GRPC_NOOP.name}: 2 undecided, 0 failed" in void
    assert f"{HTTP_FULL.name}: 0 undecided, 9 failed" in void
    assert GRPC_FULL.name not in void


def test_a_run_in_which_a_server_did_not_keep_up_with_what_was_offered_is_void() -> None:
    assert (
        report(measured(requests_per_second=1136.2), LOAD, [])["void"]
        == f"{HTTP_FULL.name}: 1136/s when 1600/s were offered"
    )


@pytest.mark.parametrize(
    ("reached", "rate"), [([37000, 9000, 4474], 1600), ([25000, 3958, 1777], 800), ([20000, 90], 100)]
)
def test_all_are_offered_half_of_what_the_slowest_can_take(reached: list[float], rate: int) -> None:
    assert offered_rate(reached) == rate


def test_the_picture_is_drawn_from_the_file(tmp_path: Path) -> None:
    facts = orjson.loads(orjson.dumps(report(measured(), LOAD, [])))
    draw(facts, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
