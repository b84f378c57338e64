"""An experiment that could enrol nobody is refused where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from extproc.assignment import BUCKETS, variant_ranges
from extproc.resources.enrolment import without_units
from extproc.resources.fields import format_percent
from extproc.resources.loading import load_paths, parse_rollout
from tests.support.rollouts import document


def experiment(weights: list[int], coverage: int | None) -> dict[str, Any]:
    variants = [
        {"name": f"v{i}", "version": str(i), "weight": format_percent(weight)} for i, weight in enumerate(weights)
    ]
    spec = {
        "model": "m",
        "match": [{"path": {"value": "/m"}}],
        "unit": {"header": "x-user-id"},
        "variants": variants,
        "coverage": None if coverage is None else format_percent(coverage),
    }
    return document(spec)


def test_a_variant_without_a_bucket_is_named_with_the_coverage_that_it_takes(tmp_path: Path) -> None:
    body = experiment([3333, 3333, 3334], 1)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(body))
    (fault,) = load_paths([tmp_path]).faults
    assert (fault.code, fault.field) == ("variant_without_units", "spec.coverage")
    assert fault.message == (
        "a coverage of 0.01 enrols nobody into 'v0' and 'v1' and 'v2': with these weights it takes 0.04 at least"
    )
    # What a store has goes on being served.
    assert parse_rollout(body).spec.coverage == 1


weights = st.lists(st.integers(0, 9999), min_size=1, max_size=6, unique=True).map(
    lambda cuts: [b - a for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), BUCKETS], strict=True)]
)


@given(weights, st.none() | st.integers(0, 60) | st.integers(0, BUCKETS))
def test_who_is_told_to_enrol_nobody_has_no_bucket_and_who_is_not_has_one(
    parts: list[int], coverage: int | None
) -> None:
    told = list(without_units(parse_rollout(experiment(parts, coverage))))
    full = BUCKETS if coverage is None else coverage
    empty = [
        f"'v{i}'"
        for i, owned in enumerate(variant_ranges(parts, full))
        if parts[i] and full and owned.start == owned.end
    ]
    assert bool(told) == bool(empty)
    for problem in told:
        assert f"nobody into {' and '.join(empty)}:" in problem.message
        least = round(float(problem.message.split("takes ")[1].split()[0]) * 100)
        assert all(
            owned.start < owned.end for owned, part in zip(variant_ranges(parts, least), parts, strict=True) if part
        )
        assert any(
            owned.start == owned.end
            for owned, part in zip(variant_ranges(parts, least - 1), parts, strict=True)
            if part
        )
