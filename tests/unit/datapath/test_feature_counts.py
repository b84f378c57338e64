"""A view of which too much is too old is told by the share of the reads in a window, and so is that it is well."""

from __future__ import annotations

import pytest

from extproc.datapath.feature_counts import (
    LATENCY_BOUNDS,
    STALE_LEAST_READS,
    STALE_WINDOW_SECONDS,
    FeatureViews,
    Spread,
    ViewCounts,
)
from extproc.names import Reason


def window(counts: ViewCounts, *, stale: int, fresh: int, at: float) -> bool:
    """Whether the view is stale after that many reads of each kind, at the end of a window that ends ``at``."""
    for fault, number in ((Reason.FEATURE_STALE, stale), (None, fresh)):
        for _ in range(number):
            counts.note_age(fault)
    counts.look(at, 0.5)
    return counts.is_stale


def test_a_view_is_stale_by_the_share_of_a_window_and_well_by_that_of_the_next() -> None:
    counts, long = ViewCounts(), STALE_WINDOW_SECONDS
    counts.look(0.0, 0.5)
    assert not window(counts, stale=50, fresh=50, at=long)
    assert not window(counts, stale=51, fresh=49, at=1.9 * long)  # which is not over yet
    assert window(counts, stale=0, fresh=0, at=2 * long)
    assert window(counts, stale=51, fresh=49, at=3 * long)
    assert not window(counts, stale=0, fresh=100, at=4 * long)


def test_few_reads_say_nothing_of_a_view_however_long_they_take() -> None:
    counts, long = ViewCounts(), STALE_WINDOW_SECONDS
    counts.look(0.0, 0.5)
    assert not window(counts, stale=STALE_LEAST_READS - 1, fresh=0, at=long)
    assert window(counts, stale=1, fresh=0, at=10 * long)
    assert window(counts, stale=0, fresh=0, at=100 * long)  # nobody has read it since


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_may_be_none_or_all(share: float) -> None:
    counts = ViewCounts()
    counts.look(0.0, share)
    for number in range(STALE_LEAST_READS):
        counts.note_age(Reason.FEATURE_STALE if number == 0 or share else None)
    counts.look(STALE_WINDOW_SECONDS, share)
    assert counts.is_stale == (share == 0.0)


def test_there_are_counts_of_the_views_that_documents_name_and_of_no_others() -> None:
    views = FeatureViews()
    views["gone"].hits += 1
    views["user_risk"].hits += 1
    views.retain({"user_risk", "device"})
    assert {name: counts.hits for name, counts in views.items()} == {"user_risk": 1, "device": 0}


def test_seconds_are_counted_below_their_bounds() -> None:
    spread = Spread(LATENCY_BOUNDS)
    for seconds in (0.0, 1e-4, 1.1e-4, 5.0, 60.0):
        spread.note(seconds)
    assert (spread.counts[0], spread.counts[1], spread.counts[-2], spread.counts[-1]) == (2, 1, 1, 1)
    assert sum(spread.counts) == 5
