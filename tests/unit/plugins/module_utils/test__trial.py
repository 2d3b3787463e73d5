# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is played for a plan is what the gate does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log
from statistics import median

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._gate import Gate
from ansible_collections.progressive.istio.plugins.module_utils._trial import Fate, Trial
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.gate_traffic import T, Traffic

Stage = tuple[int, float, float]  # weight, rates of bad requests of canary and stable
MOST = 600  # seconds


def gated(stages: Sequence[Stage], seed: int, rps: int) -> Fate:
    """How the last step ends by the gate, which looks every second."""
    gate, traffic = Gate(T), Traffic(seed, rps)
    kind, goal = "open", -log(T.alpha_pass)
    for number, (weight, p_c, p_b) in enumerate(stages, 1):
        kind = "open"
        for _unused in range(MOST):
            gate.observe(traffic.window(weight, p_c, p_b, number))
            if gate.proven:
                return Fate("fail", gate.counts.n_c, gate.counts.x_c)
            if gate.evidence()[1] >= goal and gate.verdict(min_over=True).kind == "pass":
                kind = "pass"
                break
    return Fate("pass" if kind == "pass" else "open", gate.counts.n_c, gate.counts.x_c)


def played(stages: Sequence[Stage], seed: int, rps: int) -> Fate:
    """The same by a trial."""
    trial, fate = Trial(T), Fate("open", 0.0, 0)
    for number, (weight, p_c, p_b) in enumerate(stages):
        pace = rps * weight / 100
        fate = trial.play(10 * seed + number, (100 - weight) / weight, pace, p_c, p_b, 0.0, MOST * pace)
    return fate


@pytest.mark.parametrize(
    ("stages", "rps"),
    [
        ([(10, 0.0, 0.0)], 40),
        ([(25, 0.05, 0.05)], 40),
        ([(10, 0.1, 0.01)], 5),
        ([(10, 0.05, 0.01)], 80),
        ([(50, 0.03, 0.002)], 40),
        ([(10, 0.0, 0.0), (50, 0.05, 0.001)], 40),
        ([(10, 0.0, 0.0), (100, 0.05, 0.001)], 40),
    ],
)
def test_it_comes_to_the_same_as_the_gate(stages: Sequence[Stage], rps: int) -> None:
    by_gate = [gated(stages, seed, rps) for seed in range(50)]
    by_trial = [played(stages, seed, rps) for seed in range(150)]
    look = rps * stages[-1][0] / 100
    by_trial = [replace(fate, requests=look * ceil(fate.requests / look)) for fate in by_trial]
    assert median(f.requests for f in by_trial) == pytest.approx(
        median(f.requests for f in by_gate), rel=0.25, abs=look
    )
    for kind in ("pass", "fail"):
        one, other = (sum(fate.kind == kind for fate in fates) / len(fates) for fates in (by_gate, by_trial))
        assert other == pytest.approx(one, abs=0.15)


def test_the_same_seed_is_the_same_release_and_a_copy_is_one_of_its_own() -> None:
    trial = Trial(T)
    trial.play(1, 9.0, 10.0, 0.001, 0.001, 0.0, 5000.0)
    copy = trial.copy()
    first = copy.play(2, 3.0, 10.0, 0.05, 0.01, 0.0, 5000.0)
    assert trial.play(2, 3.0, 10.0, 0.05, 0.01, 0.0, 5000.0) == first
    assert first.kind == "fail"


def test_a_step_is_not_over_too_soon_and_ends_undecided() -> None:
    assert Trial(T).play(1, 9.0, 10.0, 0.0, 0.0, 2000.0, 5000.0) == Fate("pass", 2000.0, 0)
    assert Trial(T).play(1, 9.0, 10.0, 0.0, 0.0, 0.0, 500.0) == Fate("open", 500.0, 0)
    assert Trial(T).play(1, 9.0, 10.0, 1.0, 0.0, 0.0, 2.0).kind == "open"
    assert Trial(T).play(1, 9.0, 0.0, 0.1, 0.0, 0.0, 0.0).kind == "open"


def test_the_worse_the_sooner_and_bursts_take_longer() -> None:
    def requests(rate: float, burst: float = 1.0) -> float:
        tolerance = replace(T, burst=burst)
        fates = [Trial(tolerance).play(seed, 9.0, 10.0, rate, 0.001, 0.0, 1e6) for seed in range(40)]
        assert all(fate.kind == "fail" for fate in fates)
        return median(fate.requests for fate in fates)

    found = [requests(rate) for rate in (0.02, 0.05, 0.2, 1.0)]
    assert found == sorted(found, reverse=True)
    assert 2.0 < requests(0.05, 3.0) / found[1] < 4.0


def test_a_hopeless_canary_costs_no_endless_work() -> None:
    """Millions of requests, most of them good."""
    fate = Trial(T).play(1, 9.0, 1e4, 0.0049, 0.0, 0.0, 2e6)
    assert fate.requests > 10_000


def test_a_record_of_stable_stands_in_at_100_percent() -> None:
    known, unknown = Trial(T, (1e6, 1e4)), Trial(T)
    fates = [trial.play(1, 0.0, 100.0, 0.05, 0.0, 0.0, 3000.0) for trial in (known, unknown)]
    assert [fate.kind for fate in fates] == ["fail", "open"], "half of all bad is what an unknown stable may have"
