# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan promises is what whole releases on the simulated World then do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._planner import Basis, Judged, ending
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
from ansible_collections.progressive.istio.plugins.module_utils._wish import Goal, answer
from ansible_collections.progressive.istio.tests.sim.simulated import WANT, Mesh, Runner, steady

PACE = 100.0
RELEASES = 200
BAD = 0.02  # of stable
GOAL = Goal(failures=60, times=5)
STEPS = (Step(50, 20), Step(100, 20))


def plan(rate: float) -> Basis:
    """As check mode would have it; the simulated World keeps no latency below its edge."""
    return Basis(PACE, (Judged("errors", "bad", replace(WANT.tolerance, alpha_fail=0.008), rate),))


def released(steps: tuple[Step, ...], seed: int, canary: float, stable: float) -> tuple[str, int, float]:
    """How a release ends, after how many bad answers of the canary, and seconds."""
    mesh = Mesh(seed, steady(canary), steady(stable), rps=PACE)
    began = mesh.time
    outcome = Runner(mesh).run(replace(WANT, steps=steps, latency=None))
    return outcome.phase, mesh.served["v2"][1], mesh.time - began


def test_a_proposal_meets_the_wish_for_failures() -> None:
    said = answer(plan(BAD), STEPS, GOAL)
    assert said.proposal is not None
    assert GOAL.failures is not None
    ends = [released(said.proposal.steps, seed, GOAL.times * BAD, BAD) for seed in range(RELEASES)]
    kept = sum(phase == "aborted" and bad <= GOAL.failures for phase, bad, _seconds in ends)
    assert kept >= 0.85 * RELEASES, "9 of 10, but for chance"
    before = [released(STEPS, seed, GOAL.times * BAD, BAD) for seed in range(RELEASES // 4)]
    assert sum(bad <= GOAL.failures for _phase, bad, _seconds in before) < 0.85 * len(before), "and that was needed"


def test_a_proposal_meets_the_wish_for_time() -> None:
    goal = Goal(minutes=1.5)
    steps = (Step(10, 60), Step(50, 60), Step(100, 60))
    said = answer(plan(0.0), steps, goal)
    assert said.proposal is not None
    for seed in range(5):
        phase, _bad, seconds = released(said.proposal.steps, seed, 0.0, 0.0)
        assert phase == "promoted"
        assert seconds <= 90.0 + 2.0 * len(said.proposal.steps), "weights take a moment to arrive"
    assert released(steps, 1, 0.0, 0.0)[2] > 90.0


@pytest.mark.parametrize("times", [5, 10])
def test_failures_seen_and_time_are_as_said(times: int) -> None:
    told = ending(plan(BAD), STEPS, times)
    ends = sorted(released(STEPS, seed, times * BAD, BAD)[1:] for seed in range(40))
    assert told.aborted > 0.95
    assert told.failures.median is not None
    assert ends[20][0] == pytest.approx(told.failures.median, rel=0.3)
    seconds = sorted(taken for _bad, taken in ends)[20]
    assert told.seconds.median is not None
    assert seconds == pytest.approx(told.seconds.median, rel=0.3, abs=2.0)
