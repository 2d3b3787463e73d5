# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases whose run has died, and a task on a schedule that looks for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome, ReleaseError, Want
from ansible_collections.progressive.istio.tests.sim.simulated import WANT, Mesh, Runner, check_end, steady

PERIOD = 60.0  # seconds of the schedule
RESUME = replace(WANT, orphan=True)
ABORT = replace(WANT, orphan=True, state="aborted", reason="its run had died")
PAUSE = replace(ABORT, state="paused")


def left_behind(mesh: Mesh) -> None:
    """A run that is not heard of again after its first pass."""
    assert not Runner(mesh, "runner").one_pass(WANT).finished
    assert mesh.lease is not None
    assert mesh.weights["v2"] == 10


def scheduled(mesh: Mesh, periods: int = 60) -> tuple[Outcome, list[str]]:
    """Passes of the schedule until the release is over."""
    said: list[str] = []
    for number in range(periods):
        mesh.advance(PERIOD)
        runner = Runner(mesh, f"schedule-{number}")
        outcome = runner.one_pass(RESUME, budget=0.0)
        said += runner.said
        if outcome.finished:
            return outcome, said
    raise AssertionError(said)


def test_a_good_version_is_promoted_by_the_schedule_alone() -> None:
    mesh = Mesh(1, steady(0.0), steady(0.0))
    left_behind(mesh)
    outcome, said = scheduled(mesh)
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"
    assert any("has died, nobody has looked at it since" in line for line in said)
    assert mesh.lease is None
    after = len(mesh.writes)
    outcome = Runner(mesh, "later").one_pass(RESUME, budget=0.0)
    assert (outcome.phase, outcome.failed, outcome.changed, len(mesh.writes)) == ("promoted", False, False, after)


def test_a_version_that_turns_bad_while_nobody_looks_is_taken_back_by_the_first_pass() -> None:
    mesh = Mesh(2, steady(0.0), steady(0.0))
    left_behind(mesh)
    mesh.rates["v2"] = steady(0.2)
    mesh.advance(PERIOD)
    began = mesh.time
    outcome = Runner(mesh, "schedule").one_pass(RESUME, budget=0.0)
    check_end(mesh, outcome)
    assert (outcome.phase, outcome.failed) == ("aborted", True)
    assert mesh.time - began < 1


@pytest.mark.parametrize(("want", "phase", "weight"), [(ABORT, "aborted", 0), (PAUSE, "held", 10)])
def test_what_else_may_become_of_it(want: Want, phase: str, weight: int) -> None:
    mesh = Mesh(3, steady(0.0), steady(0.0))
    left_behind(mesh)
    mesh.advance(PERIOD)
    outcome = Runner(mesh, "schedule").one_pass(want, budget=0.0)
    assert (outcome.phase, outcome.failed, mesh.weights["v2"]) == (phase, False, weight)
    assert "its run had died" in outcome.text
    assert mesh.lease is None


@pytest.mark.parametrize("want", [RESUME, ABORT, PAUSE])
def test_a_run_that_lives_or_has_stopped_for_a_reason_is_left_alone(want: Want) -> None:
    mesh = Mesh(4, steady(0.0), steady(0.0))
    living = Runner(mesh, "living")
    assert not living.one_pass(WANT).finished
    before = list(mesh.writes)
    outcome = Runner(mesh, "schedule").one_pass(want, budget=0.0)
    assert (outcome.phase, outcome.finished, outcome.failed) == ("progressing", True, False)
    assert "run by living" in outcome.text
    assert living.run(replace(WANT, until_step=1)).phase == "progressing"
    before = list(mesh.writes)
    mesh.advance(PERIOD)
    outcome = Runner(mesh, "schedule").one_pass(want, budget=0.0)
    assert "no run has left it behind" in outcome.text
    assert (outcome.changed, mesh.writes) == (False, before)


def test_a_run_that_fails_in_the_middle_leaves_its_lease_and_one_that_never_began_does_not() -> None:
    mesh = Mesh(5, steady(0.0), steady(0.0))
    runner = Runner(mesh, "runner")
    assert not runner.one_pass(WANT).finished
    mesh.away_until = mesh.time + 600
    with pytest.raises(ReleaseError, match="has not answered"):
        runner.run(WANT)
    mesh.advance(600)
    assert mesh.lease is not None
    assert mesh.lease[0] == "runner"
    outcome, _said = scheduled(mesh)
    assert outcome.phase == "promoted"

    untouched = Mesh(6, steady(0.0), steady(0.0))
    untouched.endpoints_at["v2"] = untouched.time + 1e9
    with pytest.raises(ReleaseError, match="endpoint"):
        Runner(untouched, "runner").run(WANT)
    assert (untouched.lease, untouched.annotation) == (None, None)


def test_a_release_that_is_over_is_told_so_and_its_lease_given_back() -> None:
    mesh = Mesh(7, steady(0.0), steady(0.0))
    left_behind(mesh)
    assert Runner(mesh, "person").run(replace(WANT, state="aborted")).phase == "aborted"
    mesh.advance(PERIOD)
    before = len(mesh.writes)
    outcome = Runner(mesh, "schedule").one_pass(RESUME, budget=0.0)
    assert (outcome.phase, outcome.failed, len(mesh.writes), mesh.lease) == ("aborted", False, before, None)
