# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The e-processes: exact expectations by enumeration, fixed vectors, bounds."""

from __future__ import annotations

import itertools
import random
from math import comb, exp, inf, log

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._sequential import (
    FACTORS,
    RateTest,
    RatioInterval,
    RatioTest,
    Side,
    Stake,
    log_grid,
    log_mean,
    log_sum,
    rate_gains,
    upper_bound,
)

#: n_c, x_c, n_b, x_b of five windows.
WINDOWS = [(10, 0, 90, 0), (12, 3, 88, 1), (9, 2, 91, 0), (250, 1, 750, 9), (40, 40, 60, 2)]


def binomial(n: int, p: float, k: int) -> float:
    return float(comb(n, k) * p**k * (1 - p) ** (n - k))


def test_log_helpers() -> None:
    assert log_sum([]) == -inf
    assert log_sum([-inf, -inf]) == -inf
    assert log_sum([1000.0, 1000.0]) == pytest.approx(1000 + log(2))
    assert log_mean(log(1.0), log(3.0)) == pytest.approx(log(2.0))
    assert log_grid(1.0, 8.0, 4) == pytest.approx((1, 2, 4, 8))
    assert (len(FACTORS), FACTORS[0]) == (16, 1.25)
    assert FACTORS[-1] == pytest.approx(64)


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize(
    ("ratio", "side", "burst", "expected"),
    [
        (1.5, "worse", 1, [0.0, 2.770544082, 6.076999813, -0.926593583, 14.965677203]),
        (1.5, "worse", 3, [0.0, 0.878308773, 1.879861089, -0.838600864, 4.483194516]),
        (1.5, "better", 1, [0.0, -2.595127055, -3.315171866, -2.640040946, -7.730278068]),
        (1.0, "better", 3, [0.0, -1.453431747, -2.007114984, -1.844046817, -4.73873977]),
    ],
)
def test_ratio_vectors(ratio: float, side: Side, burst: float, expected: list[float]) -> None:
    test, seen = RatioTest(ratio, side, burst), []
    for w in WINDOWS:
        test.update(*w)
        seen.append(test.log_e)
    assert seen == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("limit", "side", "burst", "expected"),
    [
        (0.005, "worse", 1, [-0.519657986, 5.977736768, 11.209455202, 2.712862756, 107.535033089]),
        (0.05, "worse", 3, [-0.979079364, -0.457516572, -0.117957307, -3.199538154, 4.285739328]),
        (0.02, "better", 1, [0.160192291, -2.705570574, -3.433767896, -2.302078113, -11.917011547]),
        (0.02, "better", 2, [0.079838175, -1.897062258, -2.502582321, -1.790943207, -7.340795242]),
    ],
)
def test_rate_vectors(limit: float, side: Side, burst: float, expected: list[float]) -> None:
    test, direct, seen = RateTest(limit, side, burst), Stake(), []
    for n, x, _unused, _unused in WINDOWS:
        test.update(n, x)
        direct.win(rate_gains(limit, side, n, x, burst))
        seen.append(test.log_e)
        assert direct.log_e == pytest.approx(test.log_e)
    assert seen == pytest.approx(expected, abs=1e-8)


def test_restart_vectors() -> None:
    test, seen = RatioTest(1.5, "worse", held=0.5), []
    for w in WINDOWS:
        test.update(*w)
        seen.append(test.log_e)
        test.stake.restart(0.5)
        assert test.log_e == pytest.approx(seen[-1]), "moving a stake neither wins nor loses"
    assert seen == pytest.approx([0.0, 2.503523066, 5.798089498, -0.973101564, 16.823826557], abs=1e-8)


# ---------------------------------------------------------------- exact expectations


@pytest.mark.parametrize("requests", [(3, 9), (5, 5), (1, 12)])
@pytest.mark.parametrize(("ratio", "side"), [(1.0, "worse"), (1.5, "worse"), (1.0, "better"), (2.0, "better")])
@pytest.mark.parametrize("burst", [1.0, 3.0])
def test_ratio_never_gains_under_the_null(requests: tuple[int, int], ratio: float, side: Side, burst: float) -> None:
    n_c, n_b = requests
    values = {}
    for x_c, x_b in itertools.product(range(n_c + 1), range(n_b + 1)):
        test = RatioTest(ratio, side, burst)
        test.update(n_c, x_c, n_b, x_b)
        values[x_c, x_b] = exp(test.log_e)
    for p_b in (0.001, 0.02, 0.1, 0.3):
        for factor in (1.0, 0.5, 0.01) if side == "worse" else (1.0, 1.7, 3.0):
            p_c = min(1.0, p_b * ratio * factor)
            mean = sum(binomial(n_c, p_c, x) * binomial(n_b, p_b, y) * e for (x, y), e in values.items())
            assert mean <= 1 + 1e-9, (p_b, p_c)
            if factor == 1.0 and burst == 1.0 and p_b <= 0.001:
                assert mean >= 0.999, "it bets at all, and fairly, where bad requests are rare"


@pytest.mark.parametrize("n", [4, 9])
@pytest.mark.parametrize("limit", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("side", ["worse", "better"])
@pytest.mark.parametrize("burst", [1.0, 2.0])
def test_rate_never_gains_under_the_null(n: int, limit: float, side: Side, burst: float) -> None:
    values = []
    for x in range(n + 1):
        test = RateTest(limit, side, burst)
        test.update(n, x)
        values.append(exp(test.log_e))
    factors = (1.0, 0.5, 0.0) if side == "worse" else (1.0, 1.5, 2.0)
    for factor in factors:
        p = min(limit * factor, 1.0)
        mean = sum(binomial(n, p, x) * e for x, e in enumerate(values))
        assert mean <= 1 + 1e-9, p
        if factor == 1.0 and burst == 1.0 and side == "better":
            assert mean == pytest.approx(1.0), "the better side is an exact likelihood ratio"


def test_mixed_rates_do_not_break_the_rate_test() -> None:
    """Requests need not be alike: it holds for each on its own."""
    mean = 0.0
    for outcome in itertools.product((0, 1), repeat=4):
        chance = 1.0
        for bad, p in zip(outcome, (0.0, 0.05, 0.1, 0.1), strict=True):
            chance *= p if bad else 1 - p
        test = RateTest(0.1, "worse")
        test.update(4, sum(outcome))
        mean += chance * exp(test.log_e)
    assert mean <= 1 + 1e-12


def test_clusters_need_their_burst() -> None:
    """Bad requests in clusters of three: burst 3 stays an e-process, burst 1 does not."""

    def means(burst: float) -> tuple[float, float]:
        ratio = rate = 0.0
        for i, j in itertools.product(range(4), range(10)):
            test = RatioTest(1.0, "worse", burst)
            test.update(9, 3 * i, 27, 3 * j)
            ratio += binomial(3, 0.1, i) * binomial(9, 0.1, j) * exp(test.log_e)
        for i in range(4):
            one = RateTest(0.1, "worse", burst)
            one.update(9, 3 * i)
            rate += binomial(3, 0.1, i) * exp(one.log_e)
        return ratio, rate

    assert max(means(3.0)) <= 1 + 1e-9
    assert min(means(1.0)) > 1


# ---------------------------------------------------------------- windows that say nothing


@pytest.mark.parametrize("window", [(10, 0, 90, 0), (0, 0, 90, 5), (10, 5, 0, 0), (0, 0, 0, 0)])
def test_ratio_needs_both_arms_and_a_bad_request(window: tuple[int, int, int, int]) -> None:
    test = RatioTest(1.5, "worse")
    test.update(*window)
    assert test.log_e == pytest.approx(0.0)
    interval = RatioInterval()
    interval.update(*window)
    assert interval.bounds() == (0.0, inf)


@pytest.mark.parametrize("limit", [0.0, 0.999, 1.0, 1.5])
@pytest.mark.parametrize("side", ["worse", "better"])
def test_no_room_no_bet(limit: float, side: Side) -> None:
    assert rate_gains(limit, side, 100, 50) == [0.0] * 16


def test_extreme_counts_stay_finite() -> None:
    for side in ("worse", "better"):
        ratio, rate = RatioTest(1.5, side), RateTest(1e-6, side)
        for _unused in range(3):
            ratio.update(10**12, 10**12, 10**12, 10**12)
            rate.update(10**12, 10**12)
            assert -inf < ratio.log_e < inf
            assert -inf < rate.log_e < inf


# ---------------------------------------------------------------- stakes


def test_stake_starts_at_one_and_keeps_its_parts() -> None:
    stake = Stake(0.25)
    assert stake.log_e == pytest.approx(0.0)
    assert exp(log_sum(stake.bets)) == pytest.approx(0.75)
    stake.lose(50.0)
    assert exp(stake.log_e) == pytest.approx(0.25), "what is held back is not lost"
    stake.restart(0.4)
    assert stake.held == pytest.approx(0.15)
    assert exp(stake.log_e) == pytest.approx(0.25)
    stake.win([2.0] * 16)
    assert exp(stake.log_e) == pytest.approx(0.15 + 0.1 * exp(2.0))
    stake.give_up(log(2.0))
    assert exp(stake.log_e) == pytest.approx((0.15 + 0.1 * exp(2.0)) / 2)


def test_copies_are_independent() -> None:
    for test in (RatioTest(1.5, "worse", held=0.5), RateTest(0.01, "worse", held=0.5)):
        other = test.copy()
        other.stake.win([1.0] * 16)
        other.stake.restart(0.5)
        assert test.log_e == pytest.approx(0.0)
        assert test.stake.held == 0.5
        assert other.log_e > 0.1


# ---------------------------------------------------------------- bounds


def test_upper_bound_values() -> None:
    assert upper_bound(0, 0, 0.01) == 1.0
    assert upper_bound(5, 5, 0.01) == 1.0
    assert upper_bound(3000, 0, 0.001) == pytest.approx(0.00382, rel=0.01)
    assert upper_bound(32_400, 324, 0.001) == pytest.approx(0.0130, rel=0.01)
    assert upper_bound(3000, 30, 0.001, burst=3) > upper_bound(3000, 30, 0.001) > 0.01
    assert upper_bound(3000, 30, 0.0001) > upper_bound(3000, 30, 0.001)


def test_upper_bound_holds_at_all_looks() -> None:
    rng, missed, alpha, p = random.Random(5), 0, 0.1, 0.05
    for _unused in range(200):
        n = x = 0
        for _unused in range(80):
            n, x = n + 10, x + sum(rng.random() < p for _unused in range(10))
            if upper_bound(n, x, alpha) < p:
                missed += 1
                break
    assert missed / 200 <= alpha
    assert upper_bound(10**6, 50_000, alpha) == pytest.approx(p, rel=0.03), "and it closes in"


@pytest.mark.parametrize(
    ("windows", "burst", "expected"),
    [
        ([(1000, 12, 9000, 30)] * 5, 1, (2.0893, 6.0256)),
        ([(100, 0, 900, 5)] * 3, 1, (0.0, 2.6915)),
        ([(100, 3, 900, 0)], 1, (2.0893, inf)),
        (WINDOWS, 3, (1.6982, 77.625)),
    ],
)
def test_interval_vectors(
    windows: list[tuple[int, int, int, int]], burst: float, expected: tuple[float, float]
) -> None:
    interval = RatioInterval(burst)
    for w in windows:
        interval.update(*w)
    low, high = interval.bounds()
    assert low == pytest.approx(expected[0], rel=0.05)
    assert high == pytest.approx(expected[1], rel=0.05)


def test_interval_is_merged_and_narrows() -> None:
    one, two, both = RatioInterval(), RatioInterval(), RatioInterval()
    for i, w in enumerate(WINDOWS):
        (one if i % 2 else two).update(*w)
        both.update(*w)
    one.merge(two)
    assert one.bounds() == pytest.approx(both.bounds())
    huge = RatioInterval()
    huge.update(10**9, 3 * 10**7, 10**9, 10**7)
    low, high = huge.bounds()
    assert 2.5 < low < 3.0 < high < 3.7


def test_interval_holds_at_all_looks() -> None:
    rng, missed, p_b, ratio = random.Random(7), 0, 0.05, 2.0
    for _unused in range(150):
        interval = RatioInterval()
        for _unused in range(40):
            x_c = sum(rng.random() < p_b * ratio for _unused in range(20))
            x_b = sum(rng.random() < p_b for _unused in range(20))
            interval.update(20, x_c, 20, x_b)
            low, high = interval.bounds(alpha=0.2)
            if not low <= ratio <= high:
                missed += 1
                break
    assert 0 < missed / 150 <= 0.2, "valid, and not by saying nothing"
