# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases that keep to change windows, freezes and a deadline; what is bad is taken back at any hour."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._calendar import Calendar, Freeze
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError, Want, check_want
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Killed,
    Mesh,
    Runner,
    check_end,
    steady,
)

Written = tuple[str, dict[str, int], str]  # by whom, weights, phase
NIGHT = 3000.0  # longer than max_wait


def mesh_of(rate: float = 0.0) -> Mesh:
    return Mesh(9, steady(rate), steady(0.0))


def frozen(mesh: Mesh, after: float, seconds: float = NIGHT) -> Want:
    """A wish with a freeze that begins so many seconds from now."""
    start = mesh.time + after
    return replace(WANT, calendar=Calendar(freezes=(Freeze(start, start + seconds, "sales"),)))


def test_none_begins_outside() -> None:
    mesh = mesh_of()
    wish = frozen(mesh, -1.0)
    with pytest.raises(ReleaseError, match=r"v2 is not released now: freeze \(sales\); it may go on at "):
        Runner(mesh).run(wish)
    assert (mesh.annotation, mesh.lease, mesh.weights["v2"]) == (None, None, 0)
    mesh.advance(NIGHT)
    assert Runner(mesh).run(wish).phase == "promoted"


def test_none_begins_that_would_not_end_inside() -> None:
    mesh = mesh_of()
    wish = replace(frozen(mesh, 120.0), steps=(Step(10, 60), Step(100, 61)))
    with pytest.raises(ReleaseError, match="it needs about 3 min, and the window ends in 2 min"):
        Runner(mesh).run(wish)
    assert mesh.annotation is None
    assert Runner(mesh).run(replace(wish, steps=(Step(10, 60), Step(100, 30)))).phase == "promoted"


def test_one_on_its_way_pauses_at_its_weight_and_goes_on_by_itself() -> None:
    mesh = mesh_of()
    wish = frozen(mesh, 16.0)
    runner = Runner(mesh)
    while mesh.time < wish.calendar.freezes[0].start:
        runner.one_pass(wish)
    weight, freeze = mesh.weights["v2"], wish.calendar.freezes[0]
    assert 0 < weight < 100
    runner.one_pass(wish, 60.0)
    paused = runner.one_pass(wish, 60.0)
    assert (paused.phase, paused.finished, paused.failed, mesh.weights["v2"]) == ("progressing", False, False, weight)
    assert "freeze (sales); it may go on at " in paused.text
    while mesh.time < freeze.end - 70:
        assert not runner.one_pass(wish, 60.0).finished
    assert mesh.weights["v2"] == weight
    outcome = runner.run(wish)
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"
    assert any("PAUSED  freeze (sales)" in line for line in runner.said)


def test_it_is_taken_back_at_once_when_it_turns_bad_meanwhile() -> None:
    mesh = mesh_of()
    wish = frozen(mesh, 16.0)
    runner = Runner(mesh)
    while mesh.time < wish.calendar.freezes[0].start + 60:
        runner.one_pass(wish)
    mesh.rates["v2"] = steady(0.3)
    outcome = runner.run(wish)
    check_end(mesh, outcome)
    assert (outcome.phase, outcome.failed) == ("aborted", True)
    assert mesh.time < wish.calendar.freezes[0].end


@pytest.mark.parametrize(("state", "phase"), [("aborted", "aborted"), ("paused", "held"), ("rolled_back", "aborted")])
def test_a_person_may_stop_it_at_any_time(state: str, phase: str) -> None:
    mesh = mesh_of()
    wish = frozen(mesh, 16.0)
    runner = Runner(mesh)
    while mesh.time < wish.calendar.freezes[0].start + 20:
        runner.one_pass(wish)
    assert Runner(mesh, "person").run(replace(wish, canary="", state=state)).phase == phase


def test_max_wait_does_not_run_outside() -> None:
    """Nobody sends requests at night; in the morning there is the rest of the time that the step had."""
    mesh = mesh_of()
    wish = replace(frozen(mesh, 16.0), max_wait=100.0)
    runner = Runner(mesh)
    while mesh.time < wish.calendar.freezes[0].start:
        runner.one_pass(wish)
    rps, mesh.rps = mesh.rps, 0.0
    while mesh.time < wish.calendar.freezes[0].end + 5:
        outcome = runner.one_pass(wish, 10.0)
        assert (outcome.phase, outcome.finished) == ("progressing", False)
    mesh.rps = rps
    assert runner.run(wish).phase == "promoted"


def test_somebody_elses_weights_are_not_adopted_outside() -> None:
    mesh = mesh_of()
    wish = replace(frozen(mesh, 16.0), on_drift="adopt")
    runner = Runner(mesh)
    while mesh.time < wish.calendar.freezes[0].start:
        runner.one_pass(wish)
    mesh.set_by_hand("kubectl", v1=30, v2=70)
    outcome = runner.one_pass(wish)
    assert (outcome.phase, mesh.weights["v2"]) == ("held", 70)


class Rising(list[Written]):
    """Writes; none may raise the canary's weight in the freeze."""

    def __init__(self, mesh: Mesh, freeze: Freeze) -> None:
        super().__init__()
        self.mesh, self.freeze = mesh, freeze

    def append(self, written: Written) -> None:
        before = self[-1][1]["v2"] if self else 0
        assert written[1]["v2"] <= before or not self.freeze.start <= self.mesh.time < self.freeze.end
        super().append(written)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_write_raises_the_weight_outside_wherever_a_run_is_killed(fault: str) -> None:
    count = number = 0
    while number <= count:
        number += 1
        mesh = mesh_of()
        wish = frozen(mesh, 16.0, 60.0)
        freeze = wish.calendar.freezes[0]
        mesh.writes = Rising(mesh, freeze)
        runner = Runner(mesh)
        setattr(runner, fault, number)
        try:
            outcome = runner.run(wish)
        except Killed:
            mesh.advance(20.0)
            if mesh.annotation is None:  # it had not begun, and does not begin now
                continue
            outcome = Runner(mesh, "next").run(wish)
        finally:
            count = max(count, runner.count)
        check_end(mesh, outcome)
        assert outcome.phase == "promoted"
        assert mesh.time > freeze.end
    assert count > 4


@pytest.mark.parametrize(("policy", "phase"), [("hold", "held"), ("abort", "aborted"), ("promote", "held")])
def test_a_release_has_a_deadline(policy: str, phase: str) -> None:
    mesh = mesh_of()
    mesh.rps = 0.0
    wish = replace(WANT, max_duration=50.0, on_inconclusive=policy)
    outcome = Runner(mesh).run(wish)
    assert (outcome.phase, outcome.failed) == (phase, True)
    assert "not over within 50 s (max_duration)" in outcome.text
    again = Runner(mesh).run(wish)
    assert (again.failed, again.changed) == (True, False)


def test_a_deadline_that_no_release_could_keep() -> None:
    with pytest.raises(ReleaseError, match="max_duration is 10, and the min_seconds of steps are 15 s in all"):
        check_want(replace(WANT, max_duration=10.0))
