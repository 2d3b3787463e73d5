# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases that wait after a step, and those that somebody takes back or holds, with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.tests.sim.simulated import WANT, Mesh, Runner, check_end, steady


def test_until_step_waits_and_goes_on() -> None:
    mesh = Mesh(21, steady(0.0), steady(0.0))
    first = Runner(mesh).run(replace(WANT, until_step=1))
    assert (first.phase, first.finished, first.failed, mesh.weights["v2"]) == ("progressing", True, False, 10)
    again = Runner(mesh).run(replace(WANT, until_step=1))
    assert (again.changed, mesh.weights["v2"]) == (False, 10)
    assert Runner(mesh).run(WANT).phase == "promoted"


def test_until_step_waits_after_the_last_step_as_well() -> None:
    mesh = Mesh(21, steady(0.0), steady(0.0))
    for until in (1, 2, 3, 3):
        outcome = Runner(mesh).run(replace(WANT, until_step=until))
        assert (outcome.phase, outcome.finished, outcome.failed) == ("progressing", True, False)
        assert mesh.weights["v2"] == WANT.steps[until - 1].weight
    outcome = Runner(mesh).run(replace(WANT, until_step=4))
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"


def test_a_release_that_waited_longer_than_max_wait_is_looked_at_before_it_is_held() -> None:
    """The first look finds a proxy that has not come back yet."""
    mesh = Mesh(21, steady(0.0), steady(0.0))
    Runner(mesh).run(replace(WANT, until_step=1))
    mesh.advance(2 * WANT.max_wait)
    mesh.clients[0].weights = {"v1": 100, "v2": 0, "old": 0}
    outcome = Runner(mesh).run(WANT)
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"


def test_a_canary_that_failed_while_nobody_looked_is_taken_back_by_the_first_look() -> None:
    mesh = Mesh(21, steady(0.0), steady(0.0))
    Runner(mesh).run(replace(WANT, until_step=1))
    mesh.rates["v2"] = steady(0.3)
    mesh.advance(120.0)
    runner = Runner(mesh)
    began = mesh.time
    outcome = runner.run(replace(WANT, until_step=2))
    check_end(mesh, outcome)
    assert outcome.phase == "aborted"
    assert mesh.time - began < 2.0


@pytest.mark.parametrize(("state", "phase", "weight"), [("aborted", "aborted", 0), ("paused", "held", 10)])
def test_a_reason_is_on_record_and_in_the_result(state: str, phase: str, weight: int) -> None:
    mesh = Mesh(24, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    runner.one_pass(WANT)
    wish = replace(WANT, canary="", state=state, reason="the smoke test has failed")
    outcome = Runner(mesh, "somebody").run(wish)
    assert (outcome.phase, outcome.failed, outcome.changed, mesh.weights["v2"]) == (phase, False, True, weight)
    record = mesh.record()
    assert record is not None
    assert record.reason == "the smoke test has failed (asked for by somebody)"
    assert record.reason in outcome.text
    overtaken = runner.one_pass(WANT)
    assert (overtaken.phase, overtaken.failed, overtaken.changed) == (phase, True, False)
    again = Runner(mesh, "somebody").run(wish)
    assert (again.phase, again.changed) == (phase, False)


def test_a_paused_release_goes_on_with_the_next_run() -> None:
    mesh = Mesh(24, steady(0.0), steady(0.0))
    Runner(mesh).one_pass(WANT, budget=30.0)
    assert Runner(mesh).run(replace(WANT, state="paused")).phase == "held"
    mesh.advance(60.0)
    outcome = Runner(mesh).run(replace(WANT, retry=True))
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"
