# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a wish to steps, or to what would help."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._plan import Want, check_want
from ansible_collections.progressive.istio.plugins.module_utils._planner import Basis, Judged
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Tolerance
from ansible_collections.progressive.istio.plugins.module_utils._wish import (
    LADDER,
    STRIDE,
    Answer,
    Goal,
    _shapes,
    answer,
    options,
)
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.gate_traffic import T

STEPS = (Step(10, 60), Step(25, 60), Step(50, 60), Step(100, 60))


def basis(pace: float = 100.0, rate: float = 0.0, tolerance: Tolerance = T) -> Basis:
    return Basis(pace, (Judged("errors", "bad", tolerance, rate),), max_wait=900.0)


def meets(said: Answer) -> None:
    """A proposal is a plan that may be given as ``steps``, and does what was wished."""
    assert not said.met
    assert said.proposal is not None
    assert said.proposal.quick(said.goal)
    assert said.proposal.sparing(said.goal)
    assert not said.levers
    check_want(Want("v2", steps=said.proposal.steps))
    text = ", ".join(f"{{weight: {s.weight}, min_seconds: {s.min_seconds}}}" for s in said.proposal.steps)
    assert said.lines[1] == f"PROPOSAL  steps: [{text}]"


def test_the_plan_may_do() -> None:
    said = answer(basis(), STEPS, Goal(failures=100, minutes=30))
    assert (said.met, said.proposal, said.levers) == (True, None, ())
    (line,) = said.lines
    head = "GOAL  done within 30 min and at most 100 failures seen of a canary 5 times as bad: "
    assert line.startswith(f"{head}this plan meets it, done in ")


def test_in_less_time() -> None:
    said = answer(basis(), STEPS, Goal(minutes=3))
    meets(said)
    assert said.proposal is not None
    assert len(said.proposal.steps) > 1
    shorter = answer(basis(), STEPS, Goal(minutes=0.6))
    meets(shorter)
    assert shorter.proposal is not None
    assert shorter.proposal.steps[0].min_seconds < 60


def test_with_fewer_failures() -> None:
    """With much traffic a look alone costs more than proof does, so the first weight has to be less."""
    busy = basis(2000.0)
    most = answer(busy, (Step(50, 60), Step(100, 60)), Goal(failures=25))
    meets(most)
    assert most.proposal is not None
    assert most.proposal.steps[0].weight < 50
    assert {step.min_seconds for step in most.proposal.steps} == {60}, "least times stay where time is no wish"


def test_both() -> None:
    said = answer(basis(2000.0), (Step(50, 300), Step(100, 300)), Goal(failures=25, minutes=6))
    meets(said)


@pytest.mark.parametrize(
    ("basis_", "goal", "texts"),
    [
        (basis(0.0), Goal(minutes=30), ("no plan does without traffic: send requests with the role load",)),
        (
            basis(2.0),
            Goal(minutes=5),
            ("the quickest plan, weights 100, takes up to", "more traffic: with", "with tolerance_floor 0.01"),
        ),
        (basis(0.5), Goal(minutes=60), ("more traffic: with", "a longer time: with an analysis.max_wait of 1800")),
        (basis(0.5), Goal(failures=50), ("no plan does: a canary as good as stable does not pass",)),
        (basis(), Goal(failures=3), ("the fewest are up to", "a mirror first: with {weight: 0, mirror: 20")),
        (basis(rate=0.0009), Goal(failures=50), ("a canary 5 times as bad (0.45 %) is within the tolerance of 0.5 %",)),
        (
            basis(rate=0.02, tolerance=replace(T, ratio=1.2)),
            Goal(minutes=2),
            ("the quickest plan", "more traffic", "a higher tolerance: with tolerance_ratio 1.7"),
        ),
        (
            replace(basis(200_000.0), reads=100),
            Goal(failures=60),
            ("the fewest are up to", "shorter looks: with analysis.interval 0.25"),
        ),
    ],
)
def test_what_would_help_where_no_plan_does(basis_: Basis, goal: Goal, texts: tuple[str, ...]) -> None:
    said = answer(basis_, STEPS, goal)
    assert (said.met, said.proposal) == (False, None)
    for text in texts:
        assert any(text in lever for lever in said.levers), said.levers
    assert said.lines[1:] == tuple(f"GOAL  {lever}" for lever in said.levers)


def test_a_lever_does_what_it_says() -> None:
    goal, slow = Goal(minutes=5), basis(2.0)
    said = answer(slow, STEPS, goal)
    (text,) = (lever for lever in said.levers if lever.startswith("more traffic"))
    enough = float(text.split()[3].replace(",", ""))
    meets(answer(basis(enough), STEPS, goal))


def test_the_result_is_plain() -> None:
    said = answer(basis(), STEPS, Goal(minutes=3))
    result = json.loads(json.dumps(said.to_dict()))
    assert set(result) == {"text", "met", "levers", "proposal"}
    assert said.proposal is not None
    assert result["proposal"]["steps"] == options(said.proposal.steps)
    assert result["proposal"]["good"]["promoted"] == 1.0
    assert options((Step(0, 30, 20),)) == [{"weight": 0, "min_seconds": 30, "mirror": 20}]


def test_candidates_are_plans() -> None:
    shapes = list(_shapes())
    assert len(shapes) == len(set(shapes))
    for weights in shapes:
        assert weights[-1] == LADDER[-1]
        assert all(one < other <= STRIDE * one for one, other in pairwise(weights))


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal(failures=0), "goal.failures is 0; at least 1 is needed, as proof takes failures"),
        (Goal(minutes=-3.0), "goal.minutes is -3; a number above 0 is needed"),
        (Goal(times=1), "goal.times is 1; a whole number from 2 to 100 is needed"),
    ],
)
def test_what_nobody_can_wish(goal: Goal, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        check_want(Want("v2", steps=STEPS, goal=goal))
