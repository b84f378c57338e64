"""The demo's picture: every step and every verdict is marked at its time, over weights, failures, false positives."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from extproc.demo.picture import loops

ACTS = [{"title": "promoted", "began": 50.0, "ended": 80.0}, {"title": "rolled back", "began": 80.0, "ended": 100.0}]


def entry(step: int | None, second: float) -> dict[str, Any]:
    return {"step": step, "second": second}


def ending(outcome: str, began: float, ended: float, *history: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A rollout as ``build/demo.json`` tells of it."""
    return {
        "outcome": outcome,
        "began": began,
        "ended": ended,
        "history": list(history),
        "weights": [{"second": began, "weight": 0}, {"second": began + 3, "weight": 25}],
        "failed_requests": 0,
        "seconds_to_zero": None,
        **changes,
    }


# The steps of a ramp: shadow, pause, weight 25, pause, analysis, weight 50, pause, analysis.
PROMOTED = ending(
    "promoted", 50.0, 78.0, entry(None, 50.0), entry(0, 50.1), entry(1, 52.3), entry(2, 52.6), entry(3, 60)
)
ROLLED_BACK = ending(
    "rolled_back",
    80.0,
    95.0,
    *(entry(0, 80.1), entry(1, 82.3), entry(2, 82.6), entry(3, 90.0)),
    **{"seconds_to_zero": 2.5, "from": "the labels came", "from_second": 92.5, "last_request_second": 95.0},
)


def drawn(*rollouts: dict[str, Any]) -> list[Axes]:
    panels = list(Figure().subplots(3))
    counts = {"requests": 10, "failed": 1, "false_positives": 1, "healthy": 8}
    each = {f"version_{version}": counts for version in (1, 2, 3, 4)}
    share = {"from": 50.0, "version_1": 0.5, "version_2": 0.3, "version_3": 0.1, "version_4": 0.1}
    facts = {
        "shares": [share, {**share, "from": 70.0}],
        "rates": {"seconds": 10.0, "bins": [{"from": start, **each} for start in (50.0, 60.0, 70.0)]},
        "rollouts": dict(enumerate(rollouts)),
    }
    loops.plot(panels, facts, ACTS, 7)
    return panels


def words(panel: Axes) -> list[tuple[float, str]]:
    """What is written at which second."""
    return sorted((text.xy[0], text.get_text()) for text in panel.texts)  # type: ignore[attr-defined]


def lines(panel: Axes) -> list[float]:
    """The seconds at which the panel is marked from its top to its bottom."""
    found = []
    for line in panel.lines:
        seconds = list(map(float, line.get_xdata()))  # type: ignore[arg-type]
        if len(seconds) == 2 and seconds[0] == seconds[1]:
            found.append(seconds[0])
    return sorted(found)


def test_there_is_a_panel_each_for_weights_failures_and_false_positives() -> None:
    assert [panel.get_ylabel() for panel in drawn(PROMOTED)] == ["share of requests", "failed", "false positives"]


def test_each_step_is_marked_when_it_began_and_the_verdict_when_it_came() -> None:
    panels = drawn(PROMOTED, ROLLED_BACK)
    marked = [
        (50.0, "shadow + pause"),
        (52.3, "weight 25% + pause"),
        (60.0, "analysis"),
        (78.0, "promoted"),
        (80.0, "shadow + pause"),
        (82.3, "weight 25% + pause"),
        (90.0, "analysis"),
        (95.0, "rolled back"),
    ]
    titles = [(50.0, "8  promoted"), (80.0, "9  rolled back")]
    assert words(panels[0]) == sorted(marked + titles)
    for panel in panels:
        assert lines(panel) == [second for second, _ in marked]


def test_what_never_ended_says_so() -> None:
    assert (99.0, "not ended") in words(drawn(ending("", 80.0, 99.0))[0])


@pytest.mark.parametrize(("failed", "panel"), [(0, 2), (7, 1)])
def test_the_time_to_zero_stands_where_the_reason_is_seen(failed: int, panel: int) -> None:
    panels = drawn({**ROLLED_BACK, "failed_requests": failed})
    assert [text for _, text in words(panels[panel])] == ["2.50 s from when\nthe labels came"]
    assert words(panels[3 - panel]) == []
