# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench of the gate draws what it says, and each rule decides as it is documented."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._gate import Tolerance
from ansible_collections.progressive.istio.tests.bench import gate
from ansible_collections.progressive.istio.tests.bench.gate import ABORTED, HELD, PROMOTED, Case, Counts
from environment import CHECKOUT


def ended(rule: gate.Rule, counts: Callable[[int], Counts]) -> tuple[str, int]:
    """How a rule ends, and after how many seconds, with the same counts of every second at a weight."""
    for second in range(gate.LONGEST):
        if kind := rule.take(second, counts(rule.weight)):
            return kind, second + 1
    return "", gate.LONGEST


def bad(share: int, rate: int = 100) -> Callable[[int], Counts]:
    """That many percent of the canary's requests are bad, none of stable's; ``rate`` requests a second of each."""
    return lambda weight: (rate, rate * share // 100, rate if weight < 100 else 0, 0)


def test_a_binomial_has_its_mean_and_variance() -> None:
    rng = random.Random(1)
    drawn = [gate.hits(rng, 100, 0.03) for _unused in range(20_000)]
    mean = sum(drawn) / len(drawn)
    variance = sum((x - mean) ** 2 for x in drawn) / len(drawn)
    assert mean == pytest.approx(3.0, abs=0.06)  # five standard errors
    assert variance == pytest.approx(2.91, abs=0.15)
    assert (gate.hits(rng, 7, 1.0), gate.hits(rng, 7, 0.0), gate.hits(rng, 0, 0.5)) == (7, 0, 0)


def test_a_burst_makes_more_bad_requests_at_once_and_not_more_of_them() -> None:
    for burst in (1, 3):
        rng, case = random.Random(2), Case("", 0.03, burst=burst)
        drawn = [gate.second_of(rng, case, second, 50) for second in range(20_000)]
        for requests, wrong in ((0, 1), (2, 3)):
            assert sum(c[wrong] for c in drawn) / sum(c[requests] for c in drawn) == pytest.approx(0.03, rel=0.03)
            assert all(c[wrong] % burst == 0 or c[wrong] == c[requests] for c in drawn)
        assert {sum(c[0::2]) for c in drawn} == {gate.RATE}


def test_rates_are_worse_from_the_onset_on_and_drift_around_the_base() -> None:
    case = Case("", 0.01, 5, onset=10)
    assert (case.rates(9), case.rates(10)) == ((0.01, 0.01), (0.05, 0.01))
    swings = [Case("", 0.01, drifts=True).rates(second)[1] for second in range(600)]
    assert (max(swings), min(swings)) == pytest.approx((0.03, 0.01 / 3))


def test_flagger_counts_failed_checks_and_goes_on_after_good_ones() -> None:
    assert ended(gate.Flagger(), bad(0)) == (PROMOTED, 300)
    assert ended(gate.Flagger(), bad(1)) == (PROMOTED, 300)
    assert ended(gate.Flagger(), bad(2)) == (ABORTED, 300)
    assert ended(gate.Flagger(), lambda _weight: (0, 0, 100, 0)) == (ABORTED, 300), "without traffic a check fails"


def test_argo_rollouts_sees_nothing_in_its_first_step_and_aborts_at_the_fourth_failure() -> None:
    assert ended(gate.ArgoRollouts(), bad(0)) == (PROMOTED, 2400)
    assert ended(gate.ArgoRollouts(), bad(5)) == (PROMOTED, 2400)
    assert ended(gate.ArgoRollouts(), bad(6)) == (ABORTED, 1500)


def test_our_own_rule_keeps_the_least_time_and_holds_without_a_verdict() -> None:
    tolerance = Tolerance()
    assert ended(gate.Ours(tolerance), bad(0)) == (PROMOTED, 240)
    kind, seconds = ended(gate.Ours(tolerance), bad(100))
    assert (kind, seconds <= 2) == (ABORTED, True)
    assert ended(gate.Ours(tolerance), lambda _weight: (0, 0, 100, 0)) == (HELD, gate.MAX_WAIT + 1)


def test_a_seed_says_it_all() -> None:
    case = Case("x", 0.01, 5)
    assert gate.released((case, 0, 7)) == gate.released((case, 0, 7))
    assert gate.found((case, 10, 7)).kind == ABORTED
    assert not gate.blamed((Case("y", 0.01), 7))


def test_the_documentation_quotes_the_newest_result() -> None:
    newest = sorted((CHECKOUT / "docs" / "results").glob("bench-gate-*.txt"))[-1]
    assert newest.read_text("utf-8").strip() in (CHECKOUT / "docs" / "judging.md").read_text("utf-8")
