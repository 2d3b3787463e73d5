# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that are not split as they should be, and a stable version that fails by itself."""

from __future__ import annotations

from dataclasses import replace
from math import comb, exp, log

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._gate import Counts, Gate, Tolerance, compact, judge
from ansible_collections.progressive.istio.plugins.module_utils._surroundings import (
    ALPHA_SPLIT,
    StableWatch,
    split_odds,
)
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.gate_traffic import T, Traffic, window

PROOF = -log(ALPHA_SPLIT)
GOOD = (100_000, 10)  # stable before the release


def binomial(n: int, p: float, k: int) -> float:
    return comb(n, k) * p**k * (1 - p) ** (n - k)


# ---------------------------------------------------------------- the split


@pytest.mark.parametrize("weight", [1, 10, 50, 90])
@pytest.mark.parametrize("side", [0, 1])
def test_a_split_within_the_slack_never_gains(weight: int, side: int) -> None:
    """Exact: the expectation of E over all outcomes of 40 requests is at most 1, for every share of the null."""
    slack = 0.1 * min(weight, 100 - weight) / 100
    end = weight / 100 + (slack if side == 0 else -slack)
    for share in (end, weight / 100, weight / 100 - slack / 2, weight / 100 + slack / 2):
        outcomes = range(41)
        mean = sum(binomial(40, share, k) * exp(split_odds(weight, Counts(k, 0, 40 - k, 0))[side]) for k in outcomes)
        assert mean <= 1 + 1e-9
    assert sum(
        binomial(40, end, k) * exp(split_odds(weight, Counts(k, 0, 40 - k, 0))[side]) for k in range(41)
    ) == pytest.approx(1.0)


@pytest.mark.parametrize(("counts", "side"), [((300, 0, 1000, 0), 0), ((0, 0, 200, 0), 1), ((20, 0, 800, 0), 1)])
def test_a_split_that_contradicts_the_weight_is_proven(counts: tuple[int, int, int, int], side: int) -> None:
    both = split_odds(10, Counts(*counts))
    assert both[side] > PROOF > 0 > both[1 - side]


def test_retries_are_no_contradiction() -> None:
    """Counted in attempts: each third request to the canary fails twice before it is answered well."""
    requests, stable = 1000, 9000
    bad = 2 * requests // 3
    many, few = split_odds(10, Counts(requests + bad, bad, stable, 0))
    assert max(many, few) < 0
    assert split_odds(10, Counts(requests + bad, 0, stable, 0))[0] > PROOF, "without a failure it would be one"


# ---------------------------------------------------------------- stable


def test_stable_is_bad_while_it_is_worse_than_before() -> None:
    watch, traffic = StableWatch(T, GOOD), Traffic(1)
    assert watch.limit == T.floor

    def bad_after(rate: float, seconds: int) -> list[bool]:
        found = []
        for _unused in range(seconds):
            watch.observe(90, traffic.count(90, rate))
            found.append(watch.bad)
        return found

    assert not any(bad_after(0.001, 3600))
    assert all(bad_after(0.2, 60)[5:])
    later = bad_after(0.001, 120)
    assert all(later[:5]), "over, when it is proven that it is over"
    assert not any(later[60:])


def test_what_stable_has_always_been_like_is_no_news() -> None:
    watch, traffic = StableWatch(T, (100_000, 1000)), Traffic(2)
    for _unused in range(3600):
        watch.observe(90, traffic.count(90, 0.01))
        assert not watch.bad


def test_a_slo_is_a_limit_of_its_own() -> None:
    always = StableWatch(replace(T, slo=0.002), (100_000, 1000))
    for _unused in range(30):
        always.observe(90, 1)
    assert always.bad
    unknown = StableWatch(T, (0, 0))
    unknown.observe(1000, 1000)
    assert not unknown.bad, "nothing is known of before"
    limited = StableWatch(replace(T, slo=0.002), (0, 0))
    limited.observe(1000, 1000)
    assert limited.bad


def test_false_alarms_are_as_rare_as_said() -> None:
    """At the limit itself, 400 runs of 1,000 looks: at most alpha_fail, here 1 %."""
    alarms = 0
    for seed in range(400):
        watch, traffic = StableWatch(T, GOOD), Traffic(seed)
        for _unused in range(1000):
            watch.observe(90, traffic.count(90, T.floor))
            if watch.bad:
                alarms += 1
                break
    assert alarms <= 4


# ---------------------------------------------------------------- verdicts


def test_routing_comes_before_what_the_canary_is_like() -> None:
    off = [replace(window(30, 0, 70, 0), by_weight=True)] * 60
    v = judge(off, T, min_over=True)
    assert (v.kind, v.share) == ("routing", 0.3)
    assert v.reason.startswith("the canary has 30 % of 6,000 requests at a weight of 10 %, ")
    assert judge([replace(w, by_weight=False) for w in off], T, min_over=True).kind == "pass"
    none = [replace(window(0, 0, 100, 0), by_weight=True)] * 10
    assert judge(none, T, min_over=True).kind == "routing"
    assert judge([*off, window(10, 10, 90, 0)], T, min_over=True).kind == "fail", "a proven failure comes first"
    assert judge(off, T, min_over=True, source_ok=False).kind == "no_data"


def test_a_split_belongs_to_its_step() -> None:
    gate = Gate(T)
    for _unused in range(60):
        gate.observe(replace(window(30, 0, 70, 0), by_weight=True))
    gate.begin_step(2, 30)
    assert gate.verdict(min_over=True).kind == "no_data"
    gate.observe(replace(window(30, 0, 70, 0, weight=30, step=2), by_weight=True))
    assert gate.verdict(min_over=True).share == 0.3
    assert gate.verdict(min_over=True).kind == "wait"


def test_a_dependency_that_both_share_blames_nobody() -> None:
    gate, traffic = Gate(T, GOOD), Traffic(3)
    for _unused in range(60):
        gate.observe(traffic.window(10, 0.0, 0.0))
    kinds = []
    for _unused in range(120):
        gate.observe(traffic.window(10, 0.3, 0.3))
        kinds.append(gate.verdict(min_over=True).kind)
    assert set(kinds[5:]) == {"environment"}
    assert "fail" not in kinds
    for _unused in range(900):
        gate.observe(traffic.window(10, 0.0, 0.0))
    assert gate.verdict(min_over=True).kind == "pass", "it goes on when that is over"


def test_what_is_compacted_gives_the_same_verdict() -> None:
    traffic = Traffic(4)
    windows = [traffic.window(10, 0.002, 0.3 if 300 <= second < 360 else 0.001) for second in range(900)]
    windows = [replace(w, by_weight=number > 2) for number, w in enumerate(windows)]
    for cut in range(0, 901, 60):
        assert judge(windows[:cut], T, min_over=True, before=GOOD) == judge(
            compact(windows[:cut]), T, min_over=True, before=GOOD
        )


def test_a_slo_is_checked() -> None:
    with pytest.raises(ValueError, match=r"slo: expected a number from 1e-06 to less than 0.5, got 0.5"):
        Tolerance(slo=0.5).check()
