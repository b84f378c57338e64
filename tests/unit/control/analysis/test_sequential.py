"""Canary against control at every tick: no false alarms, whoever sends the traffic, and what is there is found."""

from __future__ import annotations

import random
from math import inf, isclose, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.control.analysis.sequential import FEWEST_GROUPS, TUNED_FOR, Groups, boundary, compare
from extproc.measure import UNIT_GROUPS
from tests.support.simulation import (
    Looks,
    Population,
    always_valid,
    differing,
    even,
    looked_at,
    naive,
    surely_below,
    with_one_large,
)

RUNS = 400
TICKS = 120


def groups(requests: int, failures: int, over: int = UNIT_GROUPS) -> Groups:
    """Requests and failures spread evenly over groups."""
    dealt = {group: [0, 0] for group in range(over)}
    for number in range(requests):
        dealt[number % over][0] += 1
        dealt[number % over][1] += number < failures
    return dealt


# The function itself


def test_the_difference_lies_between_its_bounds() -> None:
    found = compare(groups(10_000, 600), groups(10_000, 500), 0.05, share=True)
    assert found is not None
    assert isclose(found.difference, 0.01)
    assert found.lower < found.difference < found.upper
    assert isclose(found.upper - found.difference, found.difference - found.lower)


def test_with_many_even_groups_the_bounds_are_those_of_the_formula() -> None:
    found = compare(groups(20_000, 1000), groups(20_000, 1000), 0.05, share=True)
    assert found is not None
    binomial = sqrt(2 * 0.05 * 0.95 / 20_000)
    assert found.upper == pytest.approx(binomial * boundary(10_000, 0.05), rel=0.05)


def test_the_formula_is_that_of_the_mixture() -> None:
    # By hand: rho² · 1000 = 5.991 + 1.944 = 7.936; 2 · 8.936 / 7.936 · ln(2.989 / 0.05) = 9.211
    assert boundary(TUNED_FOR, 0.05) == pytest.approx(sqrt(9.211), rel=1e-3)


def test_the_bounds_are_narrowest_in_standard_errors_where_they_are_tuned_for() -> None:
    at = {n: boundary(n, 0.05) for n in (TUNED_FOR / 10, TUNED_FOR, TUNED_FOR * 100)}
    assert min(at, key=lambda n: at[n]) == TUNED_FOR
    assert boundary(TUNED_FOR, 0.01) > boundary(TUNED_FOR, 0.05)


def test_nothing_counted_is_nothing_compared() -> None:
    assert compare({}, groups(100, 5), 0.05, share=True) is None
    assert compare(groups(100, 5), {7: [0, 0]}, 0.05, share=True) is None


def test_few_groups_say_nothing() -> None:
    few = groups(1000, 500, over=FEWEST_GROUPS - 1)
    found = compare(few, groups(1000, 10), 0.05, share=True)
    assert found is not None
    assert (found.lower, found.upper) == (-inf, inf)


def test_no_failure_at_all_is_no_certainty() -> None:
    found = compare(groups(100, 0), groups(100, 0), 0.05, share=True)
    assert found is not None
    assert found.difference == 0
    assert 0.02 < found.upper < 0.1


def test_values_that_never_differ_are_no_certainty_either() -> None:
    same = {group: [10.0, 30.0] for group in range(UNIT_GROUPS)}
    found = compare(same, same, 0.05, share=False)
    assert found is not None
    assert (found.lower, found.upper) == (-inf, inf)


def test_values_so_small_that_their_squares_are_none_are_no_certainty_either() -> None:
    canary = {group: (1, 1e-100 * group) for group in range(1, 20)}
    control = {group: (1, 2e-100 * group) for group in range(1, 20)}
    found = compare(canary, control, 0.05, share=False)
    assert found is not None
    assert (found.lower, found.upper) == (-inf, inf)


def test_one_user_who_sends_a_tenth_widens_the_bounds() -> None:
    crowd = groups(9000, 450)
    one_more = {**crowd, 0: [crowd[0][0] + 1000, crowd[0][1] + 500]}
    usual = compare(groups(10_000, 950), groups(10_000, 500), 0.05, share=True)
    dominated = compare(one_more, groups(10_000, 500), 0.05, share=True)
    assert usual is not None
    assert dominated is not None
    assert dominated.difference == pytest.approx(usual.difference, rel=0.05)
    assert usual.lower > 0 > dominated.lower


@given(st.dictionaries(st.integers(0, 255), st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_any_counts_give_bounds_around_the_difference(counts: dict[int, tuple[int, int]]) -> None:
    canary = {group: (size, min(size, part)) for group, (size, part) in counts.items()}
    found = compare(canary, groups(300, 20), 0.05, share=True)
    if found is not None:
        assert -1 <= found.difference <= 1
        assert found.lower < found.difference < found.upper


def test_the_simulation_says_what_the_function_says() -> None:
    generator = np.random.default_rng(7)
    sizes = generator.poisson(3, (2, 20, UNIT_GROUPS)) * (generator.random((2, 20, UNIT_GROUPS)) < 0.4)
    parts = generator.binomial(sizes, 0.1)
    for share in (True, False):
        lower, upper = always_valid(0.05, share=share)(
            np.stack([sizes[0], parts[0]]).astype(float), np.stack([sizes[1], parts[1]]).astype(float)
        )
        for run in range(20):
            arms = [
                {group: (int(sizes[arm, run, group]), int(parts[arm, run, group])) for group in range(UNIT_GROUPS)}
                for arm in (0, 1)
            ]
            found = compare(arms[0], arms[1], 0.05, share=share)
            assert found is not None
            assert (found.lower, found.upper) == pytest.approx((lower[run], upper[run]))


# False alarms: the two arms are alike, and each tick is looked at


def run(canary: Population, control: Population, seed: int, *, share: float = 0.5, requests: float = 100) -> Looks:
    generator = np.random.default_rng(seed)
    return looked_at(generator, canary, control, share=share, requests=requests, ticks=TICKS, bounds=always_valid(0.05))


def assert_quiet(looks: Looks) -> None:
    """Fewer than 5 % of runs raise an alarm at any of their looks, in either direction."""
    alarms = int((looks.worse | looks.better).sum())
    assert surely_below(alarms, RUNS, 0.05), f"{alarms} of {RUNS}"


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "share"), [(0.01, 0.5), (0.05, 0.1), (0.2, 0.5)])
def test_arms_that_are_alike_raise_no_alarm(rate: float, share: float) -> None:
    assert_quiet(run(even(RUNS, rate), even(RUNS, rate), 1, share=share))


@pytest.mark.slow
@pytest.mark.parametrize(("alike", "share"), [(2, 0.5), (20, 0.1)])
def test_users_whose_rates_differ_and_of_whom_few_send_most_raise_no_alarm(alike: float, share: float) -> None:
    generator = np.random.default_rng(2)
    arms = [differing(generator, RUNS, 0.05, alike) for _ in range(2)]
    assert_quiet(run(*arms, 3, share=share, requests=200))


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.5), (0.3, 0.5), (0.3, 0.2)])
def test_one_user_who_sends_a_tenth_of_all_traffic_raises_no_alarm(rate: float, share: float) -> None:
    in_canary = np.random.default_rng(4).random(RUNS) < share
    canary = with_one_large(even(RUNS, 0.05), in_canary, 0.1 / share, rate)
    control = with_one_large(even(RUNS, 0.05), ~in_canary, 0.1 / (1 - share), rate)
    assert_quiet(run(canary, control, 5, share=share, requests=200))


def test_means_of_heavy_tailed_values_raise_no_alarm() -> None:
    generator = np.random.default_rng(6)
    counts = np.zeros((2, 2, RUNS, UNIT_GROUPS))
    alarms = np.zeros(RUNS, bool)
    for _ in range(60):
        seen = generator.poisson(60 / UNIT_GROUPS, (2, RUNS, UNIT_GROUPS))
        values = generator.lognormal(0, 1.5, int(seen.sum()))
        sums = np.bincount(np.repeat(np.arange(seen.size), seen.ravel()), values, seen.size)
        counts += np.stack([seen, sums.reshape(seen.shape)], axis=1)
        lower, upper = always_valid(0.05, share=False)(counts[0], counts[1])
        alarms |= (lower > 0) | (upper < 0)
    assert surely_below(int(alarms.sum()), RUNS, 0.05)


@pytest.mark.slow
def test_what_is_often_done_raises_alarms_in_the_same_runs() -> None:
    generator = np.random.default_rng(8)
    looks = looked_at(generator, even(200, 0.05), even(200, 0.05), share=0.5, requests=100, ticks=TICKS, bounds=naive)
    assert (looks.worse | looks.better).mean() > 0.2
    in_canary = generator.random(200) < 0.5
    canary = with_one_large(even(200, 0.05), in_canary, 0.2, 0.3)
    control = with_one_large(even(200, 0.05), ~in_canary, 0.2, 0.3)
    looks = looked_at(generator, canary, control, share=0.5, requests=200, ticks=TICKS, bounds=naive)
    assert (looks.worse | looks.better).mean() > 0.9


# Power: what is there is found, within so many requests of the canary


@pytest.mark.slow
@pytest.mark.parametrize(
    ("control", "canary", "within"),
    [
        (0.05, 0.10, 1500),  # twice the errors
        (0.05, 0.50, 150),  # every second request fails
        (0.15, 0.1755, 12_000),  # 17 % more false alarms, of 15 % before
        (0.05, 0.0585, 36_000),  # 17 % more, of 5 % before
    ],
)
def test_a_worse_canary_is_found_within_a_stated_number_of_its_requests(
    control: float, canary: float, within: int
) -> None:
    """In at least nine of ten rollouts."""
    runs = 400
    looks = looked_at(
        np.random.default_rng(9),
        even(runs, canary),
        even(runs, control),
        share=0.5,
        requests=2 * within / 100,
        ticks=100,
        bounds=always_valid(0.05),
        at_least=min(100, within // 2),
    )
    missed = runs - int((looks.found_at <= within).sum())
    assert surely_below(missed, runs, 0.1), f"{missed} of {runs} missed"
    assert not looks.better.any()


def test_it_is_found_behind_users_whose_rates_differ_too() -> None:
    generator = np.random.default_rng(10)
    arms = [differing(generator, 200, rate, 200) for rate in (0.10, 0.05)]
    looks = looked_at(generator, *arms, share=0.5, requests=200, ticks=50, bounds=always_valid(0.05))
    assert surely_below(200 - int(looks.worse.sum()), 200, 0.2)


def test_the_order_of_groups_is_of_no_consequence() -> None:
    canary, control = groups(3000, 170), groups(3000, 140)
    shuffled = list(canary.items())
    random.Random(1).shuffle(shuffled)
    one, other = compare(canary, control, 0.05, share=True), compare(dict(shuffled), control, 0.05, share=True)
    assert one is not None
    assert other is not None
    assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper))
