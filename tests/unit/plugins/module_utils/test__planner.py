# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan says beforehand is what the gate then takes."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._gate import Gate
from ansible_collections.progressive.istio.plugins.module_utils._planner import (
    Regression,
    regressions,
    requests_to_fail,
    requests_to_pass,
)
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.gate_traffic import T, Traffic


def test_requests_to_pass() -> None:
    assert requests_to_pass(T) == 850
    assert requests_to_pass(replace(T, floor=0.01)) == 424
    assert requests_to_pass(replace(T, alpha_pass=0.01)) > 850  # type: ignore[operator]
    assert requests_to_pass(replace(T, burst=3.0)) == pytest.approx(3 * 850, abs=3)
    assert requests_to_pass(T, 0.02, 0.0) is None
    assert requests_to_pass(T, 0.01, 0.0) is None
    like = requests_to_pass(T, 0.01, 0.01, weight=10)
    assert like is not None
    assert 4500 < like < 6000
    with pytest.raises(ValueError, match=r"^weight: expected 1 to 99, got 100$"):
        requests_to_pass(T, weight=100)


@pytest.mark.parametrize(
    ("p_c", "p_b", "weight"),
    [(1.0, 0.0, 10), (0.2, 0.0, 10), (0.05, 0.0, 10), (0.05, 0.01, 10), (0.05, 0.01, 50), (0.02, 0.001, 25)],
)
def test_a_failure_is_found_about_when_it_is_said(p_c: float, p_b: float, weight: int) -> None:
    said = requests_to_fail(T, p_c, p_b, weight)
    assert said is not None
    taken = []
    for seed in range(100):
        gate, traffic = Gate(T), Traffic(seed, rps=20)
        while not gate.proven:
            gate.observe(traffic.window(weight, p_c, p_b))
        taken.append(gate.proven.n_c)
    assert 0.6 * said <= median(taken) <= 1.5 * said + 4


def test_what_is_not_worse_enough_is_never_found() -> None:
    assert requests_to_fail(T, 0.004, 0.0) is None
    assert requests_to_fail(T, 0.014, 0.01) is None


def test_regressions_are_told_against_what_stable_does() -> None:
    found = regressions(T, 0.01, 10)
    assert [(r.rate, r.within) for r in found] == [(0.02, False), (0.05, False), (0.1, False)]
    numbers = [r.requests for r in found if r.requests is not None]
    assert len(numbers) == 3
    assert numbers == sorted(numbers, reverse=True), "the worse, the sooner"
    assert [r.rate for r in regressions(T, 0.0, 10)] == [0.01, 0.025, 0.05], "of the floor, for a spotless one"
    assert [r.within for r in regressions(T, 0.001, 10)] == [True, True, False]
    assert [r.rate for r in regressions(T, 0.3, 10)] == [0.6, 1.0, 1.0]
    assert regressions(replace(T, burst=3.0), 0.01, 10)[0].requests == pytest.approx(3 * numbers[0], rel=0.05)


@pytest.mark.parametrize(
    ("regression", "pace", "text"),
    [
        (Regression(0.05, within=False, requests=160), 10.0, "5 % after 16 s"),
        (Regression(1.0, within=False, requests=7), 10.0, "100 % after 1 s"),
        (Regression(0.02, within=False, requests=3000), 10.0, "2 % after 5 min"),
        (Regression(0.002, within=True, requests=None), 10.0, "0.2 % is within the tolerance"),
        (Regression(0.02, within=False, requests=None), 10.0, "2 % never"),
        (Regression(0.02, within=False, requests=3000), 0.0, "2 % never"),
    ],
)
def test_a_regression_in_words(regression: Regression, pace: float, text: str) -> None:
    assert regression.say(pace) == text
