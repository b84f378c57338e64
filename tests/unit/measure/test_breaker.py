"""The breaker's verdict: exact against enumeration, deaf to an outage of both, quick where only one fails."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.measure.breaker import (
    ABANDONED_LEVEL,
    FEWEST_ALONE,
    LEVEL,
    WatchedVersion,
    beyond_limit,
    chance_of,
    excess,
)
from extproc.measure.outcomes import Counts, End
from extproc.snapshot.model import BreakerLimits

LIMITS = BreakerLimits(window=10.0, min_requests=20, error_rate=0.2, consecutive=10)
counts = st.integers(0, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))).map(lambda pair: Counts(*pair))


def exactly(version: Counts, stable: Counts) -> Fraction:
    """The sum of the docstring, in fractions."""
    (n1, x1), (n0, x0) = version, stable
    total, failed = n1 + n0, x1 + x0
    ways = sum(comb(failed, k) * comb(total - failed, n1 - k) for k in range(x1, min(failed, n1) + 1))
    return Fraction(ways, comb(total, n1))


@given(counts, counts)
def test_the_chance_is_that_of_fishers_exact_test(version: Counts, stable: Counts) -> None:
    if stable.requests and version.failures:
        assert chance_of(version, stable) == pytest.approx(float(exactly(version, stable)), rel=1e-6, abs=1e-300)
    else:
        assert chance_of(version, stable) == 1.0


def test_the_chance_of_fishers_tea() -> None:
    assert chance_of(Counts(4, 4), Counts(4, 0)) == pytest.approx(1 / 70)
    assert chance_of(Counts(4, 3), Counts(4, 1)) == pytest.approx(17 / 70)


def test_large_counts_are_no_trouble() -> None:
    assert 1e-6 < chance_of(Counts(200_000, 40_800), Counts(300_000, 60_000)) < 1e-3
    assert chance_of(Counts(200_000, 100_000), Counts(300_000, 3)) == 0.0


@given(counts, counts)
def test_who_fails_no_more_than_stable_is_never_found_worse(version: Counts, stable: Counts) -> None:
    if stable.requests and version.rate <= stable.rate:
        assert chance_of(version, stable) > 0.1


def test_limits_are_crossed_above_the_rate_and_at_the_run() -> None:
    assert not beyond_limit(LIMITS, Counts(19, 19), 9)
    assert not beyond_limit(LIMITS, Counts(20, 4), 0)
    assert "5 of 20 requests" in beyond_limit(LIMITS, Counts(20, 5), 0)
    assert "10 requests in a row" in beyond_limit(LIMITS, Counts(10, 10), 10)


class Pair:
    """A canary and its stable under requests, one after another."""

    def __init__(self, limits: BreakerLimits = LIMITS) -> None:
        self.limits = limits
        self.canary, self.stable = WatchedVersion(limits.window), WatchedVersion(limits.window)
        self.now = 1000.0
        self.epoch = 1
        self.why = ""

    def canary_got(self, *ends: bool | End, pause: float = 0.0) -> None:
        """Ends; True stands for a failure, False for an answer."""
        for one in ends:
            self.now += pause
            self.canary.add(self.epoch, self.now, self.stable, end(one))
            self.why = self.why or self.canary.breach(self.limits, self.stable, self.now)

    def stable_got(self, *ends: bool | End) -> None:
        for one in ends:
            self.stable.add(self.epoch, self.now, None, end(one))


def end(one: bool | End) -> End:
    return one if isinstance(one, End) else End.FAILED if one else End.ANSWERED


def test_ten_failures_in_a_row_are_enough_where_stable_is_well() -> None:
    pair = Pair()
    pair.stable_got(*[False] * 100)
    pair.canary_got(*[True] * 9)
    assert not pair.why
    pair.canary_got(True)
    assert pair.why == "10 requests in a row failed; of stable's 0 of 100"


def test_a_canary_that_was_well_before_is_found_by_its_present_failures() -> None:
    pair = Pair()
    for _ in range(200):
        pair.canary_got(False)
        pair.stable_got(False)
    for _ in range(14):
        pair.canary_got(True)
        pair.stable_got(False)
    assert pair.why


def test_without_stables_requests_the_limit_alone_counts() -> None:
    pair = Pair()
    pair.canary_got(*[False] * 16, *[True] * 5)
    assert pair.why == "5 of 21 requests within 10 s failed; stable had none to compare with"
    alone = WatchedVersion(10.0)
    for _ in range(10):
        alone.add(1, 1.0, None, End.FAILED)
    assert alone.breach(LIMITS, None, 1.0)


def test_stables_old_requests_are_none_to_compare_with() -> None:
    pair = Pair()
    pair.stable_got(*[True] * 50)
    pair.canary_got(*[False] * 20, *[True] * 10, pause=1.5)
    assert "stable had none" in pair.why


def test_an_outage_that_hits_both_alike_finds_nobody() -> None:
    pair = Pair()
    for _ in range(500):
        pair.canary_got(True, pause=0.05)
        pair.stable_got(True)
    assert not pair.why


def test_an_outage_that_begins_with_a_rise_of_the_weight_finds_nobody() -> None:
    draw = random.Random(7)
    pair = Pair()
    for share, rate in ((0.05, 0.0), (0.5, 0.6)):
        until = pair.now + 10
        while pair.now < until:
            pair.now += 0.01
            failed = draw.random() < rate
            pair.canary_got(failed) if draw.random() < share else pair.stable_got(failed)
        pair.epoch += 1
    assert not pair.why


def test_a_new_epoch_waits_for_stables_first_requests() -> None:
    pair = Pair()
    pair.stable_got(*[False] * 50)
    pair.epoch = 2
    pair.canary_got(*[True] * 30)
    assert not pair.why
    pair.stable_got(*[False] * 6)
    pair.canary_got(True)
    assert pair.why.endswith("of stable's 0 of 6")


def test_outcomes_of_an_earlier_epoch_do_not_count() -> None:
    pair = Pair()
    pair.stable_got(*[False] * 50)
    pair.epoch = 2
    pair.canary_got(False)
    pair.epoch = 1
    pair.canary_got(*[True] * 30)
    assert pair.canary.errors.window.total == pair.canary.left.window.total == Counts(1, 0)


def test_a_canary_that_has_all_the_traffic_is_held_to_the_limit_alone() -> None:
    pair = Pair()
    pair.stable_got(False)
    pair.epoch = 2
    pair.canary_got(*[True] * 10)
    assert not pair.why
    assert pair.canary.breach(LIMITS, pair.stable, pair.now, alone=True)


def test_a_canary_beside_hardly_any_stable_is_found_in_time() -> None:
    pair = Pair()
    for second in range(60):
        pair.stable_got(*[False] * (second % 5 == 0))
        pair.canary_got(*[True] * 20, pause=0.05)
        if pair.why:
            break
    assert pair.why
    assert second < 40


@pytest.mark.parametrize(
    ("trouble", "weight", "requests"),
    [
        (End.FAILED, 5, 200),
        (End.FAILED, 50, 24),
        (End.FAILED, 95, 75),
        (End.ABANDONED, 5, 200),
        (End.ABANDONED, 50, 34),
        (End.ABANDONED, 95, 102),
    ],
)
def test_as_many_requests_tell_a_canary_that_answers_nobody_from_a_stable_that_answers_all(
    trouble: End, weight: int, requests: int
) -> None:
    pair = Pair()
    for number in range(1, 1000):
        if (number * weight) % 100 < weight:
            pair.canary_got(trouble)
        else:
            pair.stable_got(False)
        if pair.why:
            break
    assert number == pytest.approx(requests, abs=3)


def test_who_comes_back_within_the_limit_is_suspected_anew() -> None:
    pair = Pair()
    pair.stable_got(*[True] * 12, *[False] * 12)
    pair.canary_got(*[True] * 10)
    assert not pair.why
    pair.canary_got(*[False] * 200)
    assert pair.canary.errors._crossed is None


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "share"), [(0.15, 0.5), (0.5, 0.5), (0.5, 0.1), (0.9, 0.9), (1.0, 0.5)])
def test_an_hour_of_an_outage_of_both_trips_nobody(rate: float, share: float) -> None:
    draw = random.Random(f"{rate} {share}")
    pair = Pair()
    pair.stable_got(*[False] * 50)
    pair.epoch = 2
    while pair.now < 4600 and not pair.why:
        pair.now += draw.expovariate(20)
        failed = draw.random() < rate
        if draw.random() < share:
            pair.canary_got(failed)
        else:
            pair.stable_got(failed)
    assert not pair.why


@pytest.mark.parametrize(("per_second", "within"), [(20, 2.0), (2000, 0.1)])
def test_a_canary_that_always_fails_is_found_soon(per_second: int, within: float) -> None:
    pair = Pair()
    draw = random.Random(per_second)
    for _ in range(10 * per_second):  # ten seconds in which both are well
        pair.now += 1 / per_second
        pair.canary_got(False) if draw.random() < 0.5 else pair.stable_got(False)
    began = pair.now
    while not pair.why and pair.now < began + 60:
        pair.now += 1 / per_second
        pair.canary_got(True) if draw.random() < 0.5 else pair.stable_got(False)
    assert pair.now - began < within


def test_the_level_is_as_strict_as_the_simulation_asked_for() -> None:
    assert LEVEL <= 1e-6
    assert ABANDONED_LEVEL <= 1e-9


# --- clients that do not wait


def test_what_exceeds_stables_share_is_of_those_who_were_well_with_stable() -> None:
    assert excess(Counts(100, 40), Counts(100, 20)) == pytest.approx(0.25)
    assert excess(Counts(10, 3), Counts(10, 3)) == 0.0
    assert excess(Counts(10, 10), Counts(10, 10)) == 0.0


def test_a_canary_that_hangs_is_found_by_the_clients_that_leave() -> None:
    pair = Pair()
    pair.stable_got(*[False] * 100)
    pair.canary_got(*[End.ABANDONED] * 10)
    assert pair.why == "10 requests in a row were abandoned; of stable's 0 of 100"


def test_what_clients_leave_hides_no_failures_and_failures_hide_no_clients_that_leave() -> None:
    for trouble in (True, End.ABANDONED):
        other = End.ABANDONED if trouble is True else True
        pair = Pair()
        pair.stable_got(*[False] * 200)
        for _ in range(20):
            pair.canary_got(trouble, trouble, other, pause=0.1)
        assert pair.why


@pytest.mark.parametrize(("impatient", "share"), [(0.15, 0.5), (0.5, 0.9), (1.0, 0.5)])
def test_half_an_hour_of_clients_that_leave_both_alike_trips_nobody(impatient: float, share: float) -> None:
    draw = random.Random(f"{impatient} {share}")
    pair = Pair()
    while pair.now < 2800 and not pair.why:
        pair.now += draw.expovariate(20)
        one = End.ABANDONED if draw.random() < impatient else End.ANSWERED
        pair.canary_got(one) if draw.random() < share else pair.stable_got(one)
    assert not pair.why


def test_a_difference_within_the_limit_trips_nobody_however_long_it_lasts() -> None:
    draw = random.Random(3)
    pair = Pair()
    for _ in range(40_000):
        pair.now += 0.01
        if draw.random() < 0.5:
            pair.canary_got(End.ABANDONED if draw.random() < 0.38 else End.ANSWERED)
        else:
            pair.stable_got(End.ABANDONED if draw.random() < 0.30 else End.ANSWERED)
    assert not pair.why


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.floats(0.3, 0.7), st.sampled_from([0.6, 0.8, 1.0]), st.integers(0, 99))
def test_a_canary_that_many_more_clients_leave_is_found(usual: int, share: float, hanging: float, seed: int) -> None:
    """Within 20 seconds at 100 requests a second, whatever share leaves stable."""
    draw = random.Random(seed)
    pair = Pair()
    until = pair.now + 20
    while pair.now < until and not pair.why:
        pair.now += 0.01
        impatient = draw.random() < usual / 100
        if draw.random() < share:
            pair.canary_got(End.ABANDONED if impatient or draw.random() < hanging else End.ANSWERED)
        else:
            pair.stable_got(End.ABANDONED if impatient else End.ANSWERED)
    assert pair.why


def test_alone_only_a_version_that_answers_nobody_is_taken_away() -> None:
    pair = Pair()
    for _ in range(200):
        pair.canary_got(*[End.ABANDONED] * 9, End.ANSWERED, pause=0.1)
    assert not pair.why
    pair.canary_got(*[End.ABANDONED] * 19, pause=0.6)
    assert not pair.why
    pair.canary_got(*[End.ABANDONED] * 10, pause=0.4)
    assert pair.why.endswith("were abandoned; stable had none to compare with")


def test_alone_a_few_that_leave_say_nothing_however_few_requests_a_limit_asks_for() -> None:
    pair = Pair(LIMITS._replace(min_requests=1))
    pair.canary_got(*[End.ABANDONED] * (FEWEST_ALONE - 1), pause=0.01)
    assert pair.why == ""
    pair.canary_got(End.ABANDONED)
    assert "20 of 20 requests within 10 s were abandoned" in pair.why


def test_an_outage_in_which_stable_answers_nobody_is_not_the_canarys() -> None:
    pair = Pair()
    for _ in range(200):
        pair.stable_got(End.ABANDONED)
        pair.canary_got(True, pause=0.1)
    assert not pair.why


@given(counts, counts, st.sampled_from([1e-9, 1e-6, 1e-3, 0.1]))
def test_a_chance_that_is_not_reckoned_to_its_end_is_on_the_same_side(
    version: Counts, stable: Counts, level: float
) -> None:
    assert (chance_of(version, stable, level) < level) == (chance_of(version, stable) < level)


def test_a_chance_of_many_that_is_no_small_one_takes_no_time() -> None:
    chance = chance_of(Counts(10**9, 3 * 10**8 + 10**4), Counts(10**9, 3 * 10**8), ABANDONED_LEVEL)
    assert chance >= ABANDONED_LEVEL
