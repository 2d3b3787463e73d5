# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cohort, users who stay, mirror, blue/green: shown while a release runs, gone at its end, wherever it is killed."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience, Match, Shown
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError, check_want
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Mesh,
    Runner,
    check_end,
    fault_at_every_write,
    steady,
)

GATEWAY = "edge/app"
TESTERS = Match({"x-tester": {"exact": "yes"}}, {})
STEPS = (Step(0, 5, 20), Step(10, 5), Step(100, 5))
WISH = replace(WANT, steps=STEPS, audience=Audience((TESTERS,), "app-release", "Path=/"))


def mesh_of(rate: float = 0.0, seed: int = 41) -> Mesh:
    mesh = Mesh(seed, steady(rate), steady(0.0))
    mesh.testers = 20.0
    mesh.others = {GATEWAY: {"v1": 100, "v2": 0}}
    return mesh


@pytest.mark.parametrize(("rate", "end"), [(0.0, "promoted"), (0.5, "aborted")])
def test_it_is_shown_at_each_step_and_gone_at_the_end(rate: float, end: str) -> None:
    mesh = mesh_of(rate)
    runner = Runner(mesh)
    seen: list[Shown] = []
    runner.before_write = lambda _number: seen.append(mesh.shown)
    outcome = runner.run(WISH)
    assert outcome.phase == end
    check_end(mesh, outcome)
    assert {(bool(s.cohort), bool(s.value)) for s in seen} == {(False, False), (True, True)}
    mirrors = [mirror for mirror, _same in groupby(shown.mirror for shown in seen)]
    assert mirrors == [None, 20, 0]
    again = Runner(mesh, "again")
    assert not again.run(WISH).changed
    assert "steps mirror 20, 10, 100 %  a cohort of 1 rules  sticky by cookie app-release" in runner.said[0]


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_single_write(rate: float, fault: str) -> None:
    for mesh, outcome in fault_at_every_write(lambda: mesh_of(rate), WISH, fault):
        check_end(mesh, outcome)
        assert outcome.phase == ("aborted" if rate else "promoted"), fault


def test_a_canary_that_fails_every_mirrored_request_harms_nobody() -> None:
    mesh = mesh_of(1.0)
    mesh.testers = 0.0
    outcome = Runner(mesh).run(replace(WISH, audience=Audience()))
    assert outcome.phase == "aborted"
    assert mesh.served["v2"] == [0, 0]
    assert outcome.evidence
    assert sum(w.x_c for w in outcome.evidence.windows) > 0


def test_blue_green_waits_for_requests_of_the_cohort() -> None:
    steps = (Step(0), Step(100, 5))
    wish = replace(WISH, steps=steps, max_wait=60)
    mesh = mesh_of()
    mesh.testers = 0.0
    held = Runner(mesh).run(wish)
    assert held.phase == "held"
    assert "no request has reached the canary" in held.text
    assert mesh.weights["v2"] == 0
    mesh.testers = 20.0
    assert Runner(mesh, "again").run(replace(wish, retry=True)).phase == "promoted"
    assert {w["v2"] for _name, w, _phase in mesh.writes} == {0, 100}


def test_somebody_takes_the_cohort_away() -> None:
    mesh = mesh_of()
    runner = Runner(mesh)
    assert not runner.one_pass(WISH, 1.0).finished
    mesh.shown = Shown()
    mesh.version += 1
    outcome = runner.one_pass(WISH, 30.0)
    assert outcome.phase == "held"
    assert outcome.text.startswith("drift: Shown(")
    mesh.advance(20.0)
    aborted = Runner(mesh, "abort").run(replace(WISH, state="aborted"))
    check_end(mesh, aborted)


@pytest.mark.parametrize(
    ("steps", "cohort", "said"),
    [
        ((Step(0), Step(100)), False, "steps[1].weight is 0, so nobody sees the canary"),
        ((Step(0, 0, 101), Step(100)), False, "steps[1].mirror is 101; a whole number from 0 to 100"),
        ((Step(0, 0, 20), Step(0, 0, 20), Step(100)), False, "steps[2].weight is 0 after 0; weights must rise"),
        ((Step(10), Step(10, 0, 5), Step(100)), False, "steps[2].weight is 10 after 10; weights must rise"),
        ((Step(10), Step(0, 0, 5), Step(100)), True, "steps[2].weight is 0 after 10; weights must rise"),
        ((Step(0), Step(0, 0, 10)), True, "the last step has weight 0"),
    ],
)
def test_plans_that_make_no_sense(steps: tuple[Step, ...], cohort: bool, said: str) -> None:
    wish = replace(WISH, steps=steps, audience=Audience((TESTERS,) if cohort else ()))
    with pytest.raises(ReleaseError) as error:
        check_want(wish)
    assert str(error.value).startswith(said)


def test_plans_that_make_sense() -> None:
    check_want(replace(WISH, steps=(Step(0), Step(0, 0, 10), Step(0, 0, 100), Step(1, 0, 100), Step(100))))
