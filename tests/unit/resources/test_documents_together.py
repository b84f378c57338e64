"""Documents together: one name each, matches that collide, ranges of a layer that overlap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import Fault, InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.checks import Conflict, find_conflicts
from extproc.resources.document import Resource
from extproc.resources.loading import load_valid, parse_rollout, parse_template
from extproc.resources.rollout import Rollout
from tests.support.rollouts import CANARY, document
from tests.support.templates import metric, template


def rollout(name: str, **changes: Any) -> Rollout:
    return parse_rollout(document({**CANARY, **changes}, name))


def layered(name: str, start: int, end: int, layer: str = "checkout", **changes: Any) -> Rollout:
    return rollout(name, layer={"name": layer, "range": [start, end]}, **changes)


def elsewhere(number: int) -> list[dict[str, Any]]:
    return [{"path": {"value": f"/elsewhere/{number}"}}]


def conflicts(*rollouts: Rollout) -> list[tuple[str, int, int]]:
    found = find_conflicts([(rollout, f"{i}.yaml", 1) for i, rollout in enumerate(rollouts)])
    return [(conflict.code, conflict.first, conflict.second) for conflict in found]


def test_rollouts_of_different_requests_live_side_by_side() -> None:
    assert conflicts(rollout("a"), rollout("b", match=elsewhere(1))) == []


def test_one_name_twice_is_refused_and_the_namespace_counts() -> None:
    assert conflicts(rollout("a"), rollout("a", match=elsewhere(1))) == [("duplicate_rollout", 0, 1)]
    other = parse_rollout(document({**CANARY, "match": elsewhere(1)}, "a", namespace="other"))
    assert conflicts(rollout("a"), other) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path": {"value": "/a"}}, {"path": {"type": "PathPrefix", "value": "/a/"}}),
        ({"path": {"value": "/a"}}, {"path": {"value": "/a//"}}),
        ({"path": {"value": "/"}}, {"path": {"value": "//"}}),
        ({"hosts": ["A.example.com"]}, {"hosts": ["a.example.com"], "path": {"value": "/"}}),
        ({"hosts": ["a.example", "b.example"]}, {"hosts": ["c.example", "b.example"]}),
        (
            {"headers": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]},
            {"headers": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]},
        ),
    ],
)
def test_entries_that_say_the_same_collide_however_they_are_written(one: Any, other: Any) -> None:
    pair = (rollout("a", match=[*elsewhere(1), one]), rollout("b", match=[*elsewhere(2), other]))
    assert conflicts(*pair) == [("match_collision", 0, 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path": {"value": "/a"}}, {"path": {"value": "/a/b"}}),
        ({"path": {"value": "/a"}}, {"path": {"type": "Exact", "value": "/a"}}),
        ({"path": {"value": "/a"}}, {"path": {"value": "/A"}}),
        ({"path": {"value": "/a"}}, {"path": {"value": "/a"}, "hosts": ["a.example.com"]}),
        ({"hosts": ["*.example.com"]}, {"hosts": ["a.example.com"]}),
        ({"headers": [{"name": "a", "value": "1"}]}, {"headers": [{"name": "a", "value": "2"}]}),
    ],
)
def test_entries_between_which_precedence_decides_do_not_collide(one: Any, other: Any) -> None:
    assert conflicts(rollout("a", match=[one]), rollout("b", match=[other])) == []


def test_a_collision_is_legal_in_one_layer_with_disjoint_ranges() -> None:
    assert conflicts(layered("a", 0, 5000), layered("b", 5000, 7000), layered("c", 7000, 10000)) == []


def test_a_layer_does_not_help_against_a_rollout_outside_of_it() -> None:
    assert conflicts(layered("a", 0, 5000), rollout("b")) == [("match_collision", 0, 1)]
    assert conflicts(layered("a", 0, 5000), layered("b", 5000, 9000, "other")) == [("match_collision", 0, 1)]


def test_ranges_of_a_layer_that_overlap_are_refused_whatever_they_match() -> None:
    pair = (layered("a", 0, 5000), layered("b", 4999, 6000, match=elsewhere(1)))
    assert conflicts(*pair) == [("layer_overlap", 0, 1)]
    assert conflicts(layered("a", 0, 5000), layered("b", 1000, 2000)) == [("layer_overlap", 0, 1)]


VISITOR = {"unit": {"cookie": "visitor"}}


def test_what_shares_a_layer_or_a_holdout_hashes_one_unit() -> None:
    held = {"holdout": {"name": "global", "percent": 5}}
    for shared in (
        [layered("a", 0, 5000), layered("b", 5000, 10000, **VISITOR)],
        [rollout("a", **held), rollout("b", match=elsewhere(1), **held, **VISITOR)],
    ):
        (conflict,) = find_conflicts([(one, f"{one.metadata.name}.yaml", 1) for one in shared])
        assert (conflict.code, conflict.first, conflict.second, conflict.path) == (
            "unit_differs",
            0,
            1,
            ("spec", "unit"),
        )
        assert "hashes cookie visitor, and payments/a (a.yaml:1) header x-user-id" in conflict.message
    assert (
        conflicts(layered("a", 0, 5000), layered("b", 5000, 10000, unit={"header": "X-User-Id", "missing": "request"}))
        == []
    )
    assert conflicts(layered("a", 0, 5000), layered("b", 0, 5000, "other", match=elsewhere(1), **VISITOR)) == []
    assert conflicts(layered("a", 0, 5000, **held), rollout("b", match=elsewhere(1), **VISITOR)) == []


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("uvw")), min_size=1, max_size=6))
def test_without_the_later_ones_at_fault_every_layer_has_one_unit(drawn: list[tuple[str, str]]) -> None:
    rollouts = [
        layered(f"r{i}", i * 1000, (i + 1) * 1000, layer, unit={"cookie": unit}, match=elsewhere(i))
        for i, (layer, unit) in enumerate(drawn)
    ]
    at_fault = {second for _, _, second in conflicts(*rollouts)}
    left = [pair for i, pair in enumerate(drawn) if i not in at_fault]
    assert len(set(left)) == len({layer for layer, _ in left})
    assert {layer for layer, _ in left} == {layer for layer, _ in drawn}


def served_at(name: str, host: str, number: int, **changes: Any) -> Rollout:
    return rollout(name, match=elsewhere(number), endpoints={"host": host, "port": 8080}, **changes)


def test_rollouts_that_share_a_cluster_say_the_same_of_where_its_servers_are() -> None:
    one = served_at("a", "{model}-v{version}.models", 1)
    other = served_at("b", "{model}-v{version}.elsewhere", 2)
    (conflict,) = find_conflicts([(one, "a.yaml", 1), (other, "b.yaml", 1)])
    assert (conflict.code, conflict.first, conflict.second, conflict.path) == (
        "endpoints_differ",
        0,
        1,
        ("spec", "endpoints"),
    )
    assert "payments/b (b.yaml:1) has the servers of the cluster 'fraud-detector-v{version}' at" in conflict.message
    assert "payments/a (a.yaml:1) at fraud-detector-v{version}.models, port 8080" in conflict.message
    assert "give both the same endpoints, or one another upstream" in conflict.message

    by_name = served_at("c", "elsewhere", 3, upstream="fraud-detector-v4")
    assert conflicts(one, by_name) == [("endpoints_differ", 0, 1)]

    same = served_at("b", "fraud-detector-v{version}.models", 2)
    apart = served_at("b", "elsewhere", 2, upstream="{name}-v{version}")
    assert conflicts(one, same) == conflicts(one, apart) == conflicts(one, rollout("b", match=elsewhere(2))) == []


def test_a_fault_is_the_later_ones_and_names_both() -> None:
    (conflict,) = find_conflicts([(rollout("a"), None, None), (rollout("b"), "b.yaml", 7)])
    fault = conflict.fault()
    assert (fault.code, fault.file, fault.line, fault.field) == ("match_collision", "b.yaml", 7, "spec.match[0]")
    assert "payments/a (in the store)" in fault.message
    assert "payments/b (b.yaml:7)" in fault.message


def test_files_that_conflict_are_reported_at_the_line_of_the_field(tmp_path: Path) -> None:
    text = (
        "apiVersion: dropout.dev/v1alpha1\nkind: Rollout\nmetadata: {name: NAME}\nspec:\n  model: m\n  match:\n"
        "    - hosts: [NAME.example]\n    - path: {value: /v1}\n  unit: {cookie: u}\n  stable: {version: '3'}\n"
        "  canary: {version: '4'}\n  layer: {name: LAYER, range: [0, 5000]}\n"
    )
    for name, layer in (("a", "x"), ("b", "y"), ("c", "x")):
        (tmp_path / f"{name}.yaml").write_text(text.replace("NAME", name).replace("LAYER", layer))
    (tmp_path / "d.yaml").write_text("kind: Pod\n")
    with pytest.raises(InvalidInput) as caught:
        load_valid([tmp_path])

    def place(fault: Fault) -> tuple[str, str, int | None]:
        return fault.code, Path(fault.file or "").name, fault.line

    assert [place(fault) for fault in caught.value.faults] == [
        ("unsupported_kind", "d.yaml", 1),
        ("match_collision", "b.yaml", 8),
        ("layer_overlap", "c.yaml", 12),
    ]


RANGES = st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda pair: pair[0] < pair[1])


@given(st.lists(st.tuples(RANGES, st.sampled_from("xy")), max_size=8))
def test_without_the_later_ones_no_conflict_is_left(claims: list[tuple[tuple[int, int], str]]) -> None:
    rollouts = [layered(f"r{i}", *span, layer, match=elsewhere(i)) for i, (span, layer) in enumerate(claims)]
    refused = {second for _, _, second in conflicts(*rollouts)}
    kept = [rollout for i, rollout in enumerate(rollouts) if i not in refused]
    for i, one in enumerate(kept):
        for other in kept[:i]:
            assert one.spec.layer is not None
            assert other.spec.layer is not None
            shared = set(range(*one.spec.layer.range)) & set(range(*other.spec.layer.range))
            assert not shared or one.spec.layer.name != other.spec.layer.name


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda i: rollout(f"r{i}", match=elsewhere(i)), 0),
        (lambda i: rollout(f"r{i}"), 1999),
        (lambda i: layered(f"r{i}", i, i + 1), 0),
        (lambda i: layered(f"r{i}", 0, 10_000), 1999),
    ],
)
def test_the_work_grows_with_the_number_of_rollouts_and_not_with_their_pairs(
    make: Callable[[int], Rollout], expected: int
) -> None:
    rollouts = [(make(i), None, None) for i in range(2000)]
    found: list[Conflict] = find_conflicts(rollouts)
    assert len(found) == expected


# Rollouts and templates


def health(*metrics: dict[str, Any], name: str = "health", args: list[Any] | None = None) -> AnalysisTemplate:
    return parse_template(template(*metrics, name=name, args=args))


def analysed(*names: str, step: bool = True, number: int = 1, **args: str) -> Rollout:
    """A rollout whose one step, or whose background, runs the templates ``names``."""
    analysis = {
        "templates": [{"templateName": name} for name in names or ("health",)],
        "args": [{"name": name, "value": value} for name, value in args.items()],
    }
    changes: dict[str, Any] = {"steps": [{"setWeight": 5}, {"analysis": analysis}]} if step else {"analysis": analysis}
    return rollout(f"r{number}", match=elsewhere(number), **changes)


def fields(*resources: Resource) -> list[tuple[str, int, str | None]]:
    """Code, the index at fault, and the field of every conflict."""
    found = find_conflicts([(resource, f"{i}.yaml", 1) for i, resource in enumerate(resources)])
    return [(conflict.code, conflict.second, conflict.fault().field) for conflict in found]


ENDLESS = metric(interval="10s")
MOST = [{"name": "most"}]


def test_a_template_that_is_not_there_may_still_come() -> None:
    assert fields(analysed("elsewhere"), health()) == []


def test_a_template_of_another_namespace_is_another() -> None:
    other = parse_template({**template(ENDLESS), "metadata": {"namespace": "other", "name": "health"}})
    assert fields(other, analysed()) == []


def test_one_name_twice_is_refused_for_each_kind_by_itself() -> None:
    assert fields(health(), health()) == [("duplicate_template", 1, "metadata.name")]
    assert fields(health(name="r1"), analysed("x")) == []


def test_a_metric_without_an_end_is_for_the_background() -> None:
    assert fields(health(ENDLESS), analysed(step=False)) == []
    assert fields(health(ENDLESS), analysed()) == [("metric_endless", 1, "spec.steps[1].analysis.templates[0]")]
    assert fields(health(metric(count=3, interval="10s")), analysed()) == []
    assert fields(health(), analysed()) == []


def test_what_came_later_is_at_fault() -> None:
    assert fields(analysed(), health(ENDLESS)) == [("metric_endless", 1, "spec.metrics[0]")]
    (conflict,) = find_conflicts([(analysed(), "r.yaml", 7), (health(ENDLESS), "t.yaml", 1)])
    assert conflict.message == (
        "the metric 'errors' of the template payments/health has an interval and no count: in a step it would never "
        "end; payments/r1 (r.yaml:7) uses it"
    )


def test_an_argument_without_a_value_gets_one_from_the_rollout() -> None:
    assert fields(health(args=MOST), analysed(most="0.1")) == []
    assert fields(health(args=[{"name": "most", "value": "0.2"}]), analysed()) == []
    assert fields(health(args=MOST), analysed()) == [("argument_missing", 1, "spec.steps[1].analysis")]
    assert fields(analysed(), health(args=MOST)) == [("argument_missing", 1, "spec.args[0]")]


def test_an_argument_that_no_template_has_is_a_mistake_of_the_rollout() -> None:
    other = health(metric(name="other"), name="other", args=MOST)
    assert fields(health(), analysed(most="1")) == [("argument_unknown", 1, "spec.steps[1].analysis.args[0].name")]
    assert fields(health(), other, analysed("health", "other", most="1")) == []
    assert fields(health(), analysed("health", "unknown", most="1")) == []
    # A template that no longer asks for an argument must not wait for every rollout.
    assert fields(analysed(most="1"), health()) == []


def test_metrics_that_run_together_have_names_of_their_own() -> None:
    run = analysed("health", "other")
    assert fields(health(), health(name="other"), run) == [("duplicate_name", 2, "spec.steps[1].analysis.templates[1]")]
    assert fields(health(), health(metric(name="slow"), name="other"), run) == []


def test_templates_and_rollouts_are_checked_together_with_their_lines(tmp_path: Path) -> None:
    body = document(
        {**CANARY, "analysis": {"templates": [{"templateName": "health"}], "args": [{"name": "x", "value": "1"}]}}
    )
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(template()))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    with pytest.raises(InvalidInput) as caught:
        load_valid([tmp_path])
    (fault,) = caught.value.faults
    assert (fault.code, fault.field) == ("argument_unknown", "spec.analysis.args[0].name")
    assert fault.line == next(
        number for number, line in enumerate((tmp_path / "b.yaml").read_text().splitlines(), 1) if "- name: x" in line
    )
