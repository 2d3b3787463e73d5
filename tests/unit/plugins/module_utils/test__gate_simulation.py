# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate by seeded simulation: how soon it decides, how often it errs, and when stable has no traffic."""

from __future__ import annotations

from dataclasses import replace
from math import log
from statistics import median

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._gate import (
    Gate,
    Tolerance,
    Verdict,
    judge,
)
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.gate_traffic import (
    T,
    Traffic,
    feed,
    time_to_fail,
    window,
)

# ---------------------------------------------------------------- stable without traffic


def after_release(seed: int, p_b: float = 0.0, p_c: float = 0.0, seconds: int = 60) -> tuple[Gate, Traffic]:
    """A gate after good steps of 10, 25, 50 %."""
    gate, traffic = Gate(T), Traffic(seed)
    for step, weight in enumerate((10, 25, 50), 1):
        feed(gate, traffic, seconds, weight, p_c, p_b, step)
    return gate, traffic


def test_stable_gone_in_mid_release_blocks_nothing() -> None:
    """Its pods are gone, all its requests with them: the record stands in after a few seconds."""
    gate, traffic = Gate(T), Traffic(1)
    feed(gate, traffic, 120, 10, 0, 0)
    for _unused in range(3):
        assert not gate.verdict(min_over=True).stable_silent
        gate.observe(window(10, 0, 0, 0))
    assert gate.verdict(min_over=True).stable_silent
    for _unused in range(3):
        gate.observe(window(100, 50, 0, 0))
    v = gate.verdict(min_over=True)
    assert v.kind == "fail"
    gate = Gate(T)
    for _unused in range(1000):
        gate.observe(window(5, 0, 1, 0))
        gate.observe(window(6, 0, 0, 0))
    assert not gate.verdict(min_over=True).stable_silent, "little traffic is traffic"


def test_at_100_percent_the_record_of_stable_counts() -> None:
    """1 % bad is failure after a stable without any, and fine after one that has as many."""
    spotless, traffic = after_release(1, 0.0)
    second, _unused = time_to_fail(spotless, traffic, 100, 0.03, 0.0, 4)
    assert second < 30
    same, traffic = after_release(2, 0.01, 0.01, seconds=300)
    feed(same, traffic, 900, 100, 0.01, 0.0, 4)
    v = same.verdict(min_over=True)
    assert v.kind == "pass"
    assert 0.015 < v.tolerance < 0.019
    assert v.stable_silent
    # Stable's own last requests at 100 % are not part of its record: they come from pods that are on their way out.
    odd, traffic = after_release(2, 0.01, 0.01, seconds=300)
    for _unused in range(900):
        odd.observe(replace(traffic.window(100, 0.01, 0.0, 4), n_b=1, x_b=1))
    assert odd.verdict(min_over=True).tolerance == v.tolerance


def test_weight_0_before_the_release_is_stables_record_only() -> None:
    before = [window(0, 0, 100, 1, weight=0, step=0)] * 600
    gate = Gate(T)
    for w in before:
        gate.observe(w)
    v = gate.verdict(min_over=True)
    assert (v.kind, v.release.n_b) == ("no_data", 0)
    direct = judge([*before, window(100, 1, 0, 0, weight=100)], T, min_over=True)
    assert 0.015 < direct.tolerance < 0.019
    stray = judge([window(50, 50, 50, 0, weight=0, step=0)] * 50, T, min_over=True)
    assert stray.kind == "no_data", "requests at weight 0 are not the release's doing"


def test_thin_record_neither_excuses_nor_blames() -> None:
    """Stable was hardly seen: half of the requests bad is a failure, 5 % is not, and neither passes."""
    for record in ([], [window(0, 0, 5, 0, weight=0, step=0)], [window(0, 0, 5, 1, weight=0, step=0)]):
        bad = judge(record + [window(100, 100, 0, 0, weight=100)] * 2, T, min_over=True)
        assert bad.kind == "fail"
        few = judge(record + [window(100, 5, 0, 0, weight=100)] * 100, T, min_over=True)
        assert few.kind == ("pass" if record and record[0].x_b else "wait")
    none = judge([window(100, 0, 0, 0, weight=100)] * 9, T, min_over=True)
    assert none.kind == "pass", "without any bad request the floor is enough"
    dead = judge([window(0, 0, 100, 90, weight=0, step=0), *[window(100, 90, 0, 0, weight=100)] * 9], T, min_over=True)
    assert dead.kind != "fail", "unless stable was seen that bad"


# ---------------------------------------------------------------- how soon


@pytest.mark.parametrize("p_b", [0.0, 0.001])
@pytest.mark.parametrize(("p_c", "seconds", "answers"), [(1.0, 2, 15), (0.2, 6, 15), (0.05, 30, 15), (0.02, 120, 30)])
def test_how_soon_at_10_percent(p_c: float, seconds: int, answers: int, p_b: float) -> None:
    runs = [time_to_fail(Gate(T), Traffic(seed), 10, p_c, p_b) for seed in range(31)]
    assert median(r[0] for r in runs) <= seconds
    assert median(r[1] for r in runs) <= answers


@pytest.mark.parametrize(("p_c", "seconds", "answers"), [(1.0, 1, 120), (0.2, 2, 40), (0.05, 4, 20), (0.02, 15, 30)])
def test_how_soon_at_100_percent(p_c: float, seconds: int, answers: int) -> None:
    """After a good release; a second at 100 % is 100 requests."""
    runs = []
    for seed in range(15):
        gate, traffic = after_release(seed)
        runs.append(time_to_fail(gate, traffic, 100, p_c, 0.0, 4))
    assert median(r[0] for r in runs) <= seconds
    assert median(r[1] for r in runs) <= answers


@pytest.mark.parametrize("base", [0.0, 0.001])
@pytest.mark.parametrize("p_c", [1.0, 0.2, 0.05])
def test_late_onset(p_c: float, base: float) -> None:
    """What is found within so many seconds from the start is found within twice as many after a good hour."""

    def mean(minutes: int, seeds: range) -> float:
        total = 0
        for seed in seeds:
            gate, traffic = Gate(T), Traffic(seed)
            feed(gate, traffic, 60 * minutes + 7 * seed, 10, base, base)
            assert gate.proven is None
            total += time_to_fail(gate, traffic, 10, p_c, base)[0]
        return total / len(seeds)

    assert mean(60, range(8)) <= 2.0 * mean(0, range(40))


def test_late_onset_at_100_percent() -> None:
    for p_c, seconds in ((1.0, 1), (0.2, 2), (0.05, 8)):
        runs = []
        for seed in range(3):
            gate, traffic = after_release(seed)
            feed(gate, traffic, 3600, 100, 0.0, 0.0, 4)
            runs.append(time_to_fail(gate, traffic, 100, p_c, 0.0, 4)[0])
        assert median(runs) <= seconds


# ---------------------------------------------------------------- how often wrong


def blamed(runs: int, windows: int, weight: int, p_c: float, p_b: float, tolerance: Tolerance, warm: int = 0) -> float:
    """Share of runs in which a failure is proven at any look."""
    found = 0
    for seed in range(runs):
        gate, traffic = Gate(tolerance), Traffic(1000 + seed)
        feed(gate, traffic, warm, 0, 0.0, p_b, 0)
        for _unused in range(windows):
            gate.observe(traffic.window(weight, p_c, p_b))
            if gate.proven:
                found += 1
                break
    return found / runs


@pytest.mark.parametrize(
    ("weight", "p_c", "p_b", "warm"),
    [(10, 0.015, 0.01, 0), (50, 0.075, 0.05, 0), (50, 0.005, 0.0, 0), (100, 0.015, 0.01, 60), (100, 0.005, 0.001, 60)],
)
def test_blame_at_the_very_limit(weight: int, p_c: float, p_b: float, warm: int) -> None:
    """p_c = T, 200 looks: wrong in at most alpha of the runs (0.2, so that the test sees more than zeros)."""
    tolerance = Tolerance(alpha_fail=0.2)
    assert blamed(60, 200, weight, p_c, p_b, tolerance, warm) <= 0.2


def test_blame_is_not_vacuous() -> None:
    """A little beyond the limit it is found: the test above would notice a gate that proves too much."""
    assert blamed(20, 300, 50, 0.15, 0.05, Tolerance(alpha_fail=0.2)) >= 0.8


@pytest.mark.parametrize("base", [0.001, 0.01, 0.05])
def test_same_version_against_itself(base: float) -> None:
    assert blamed(40, 250, 10, base, base, T) == 0.0


@pytest.mark.parametrize("weight", [10, 50])
@pytest.mark.parametrize(
    "phases",
    [
        [(120, 0.0, 0.0), (20, 1.0, 1.0)],
        [(600, 0.003, 0.0001), (60, 0.2, 0.2)],
        [(60, 0.2, 0.2), (600, 0.003, 0.0001)],
        [(900, 0.004, 0.0001), (60, 0.05, 0.05)],
        [(300, 0.03, 0.03), (900, 0.004, 0.0001)],
    ],
)
def test_shared_faults_blame_nobody(phases: list[tuple[int, float, float]], weight: int) -> None:
    """Differences below the floor in one phase, equal rates above it in the other: within tolerance all the time."""
    for seed in range(4):
        gate, traffic = Gate(T), Traffic(seed)
        for seconds, p_c, p_b in phases:
            feed(gate, traffic, seconds, weight, p_c, p_b)
        assert gate.proven is None


def test_pass_at_the_very_limit() -> None:
    """p_c = T: passed wrongly, at any of 300 looks, in at most alpha_pass of the runs (0.2 here)."""
    tolerance = Tolerance(alpha_pass=0.2)
    for weight, p_c, p_b in ((50, 0.005, 0.0), (50, 0.06, 0.04)):
        found = 0
        for seed in range(40):
            gate, traffic = Gate(tolerance), Traffic(seed)
            for _unused in range(300):
                gate.observe(traffic.window(weight, p_c, p_b))
                if gate.evidence()[1] >= -log(0.2):
                    found += 1
                    break
        assert found / 40 <= 0.2


def test_healthy_service_with_errors_is_promoted() -> None:
    """1 % in both: every step passes, well before an hour."""
    for seed in range(2):
        gate, traffic = Gate(T), Traffic(seed)
        for step, weight in enumerate((25, 50, 100), 1):
            gate.begin_step(step, weight)
            v: Verdict = gate.verdict(min_over=True)
            for second in range(3600):
                gate.observe(traffic.window(weight, 0.01, 0.01, step))
                if second % 20 == 19 and (v := gate.verdict(min_over=True)).kind != "wait":
                    break
            assert v.kind == "pass", (seed, weight, v.reason)


# ---------------------------------------------------------------- estimate, speed


def test_the_estimate_is_what_comes() -> None:
    gate = Gate(T)
    for _unused in range(30):
        gate.observe(window(10, 0, 90, 1))
    v = gate.verdict(min_over=True)
    assert v.more_requests is not None
    assert v.more_seconds == pytest.approx(v.more_requests / 10)
    for _unused in range(-(-v.more_requests // 10)):
        assert gate.verdict(min_over=True).kind == "wait"
        gate.observe(window(10, 0, 90, 1))
    assert gate.verdict(min_over=True).kind == "pass"
