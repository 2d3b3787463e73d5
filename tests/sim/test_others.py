# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several route objects of one service (for the mesh, for a gateway) move together, wherever a run is killed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Killed,
    Mesh,
    Runner,
    check_end,
    fault_at_every_write,
    steady,
)

GATEWAY = "edge/app"


def two(rate: float = 0.0, seed: int = 31) -> Mesh:
    mesh = Mesh(seed, steady(rate), steady(0.0))
    mesh.others = {GATEWAY: {"v1": 100, "v2": 0}, "other/app": {"v1": 100, "v2": 0}}
    return mesh


@pytest.mark.parametrize(("rate", "end"), [(0.0, "promoted"), (0.5, "aborted")])
def test_all_of_them_end_where_the_release_does(rate: float, end: str) -> None:
    mesh = two(rate)
    outcome = Runner(mesh).run(WANT)
    assert outcome.phase == end
    check_end(mesh, outcome)
    assert not Runner(mesh, "again").run(WANT).changed


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_single_write(rate: float, fault: str) -> None:
    for mesh, outcome in fault_at_every_write(lambda: two(rate), WANT, fault):
        check_end(mesh, outcome)
        assert outcome.phase == ("aborted" if rate else "promoted"), fault


@pytest.mark.parametrize("there", [0, 10, 30])
def test_weights_that_somebody_else_sets_on_one_of_them_hold_the_release(there: int) -> None:
    """Also those of an earlier step: somebody wants this gateway's users back on stable."""
    mesh = two()
    runner = Runner(mesh)
    assert runner.run(replace(WANT, until_step=2)).weight == 50
    mesh.advance(30)
    following = Runner(mesh, "following")
    assert not following.one_pass(WANT, 0.5).finished
    mesh.others[GATEWAY] = {"v1": 100 - there, "v2": there}
    mesh.version += 1
    outcome = following.one_pass(WANT, 30)
    assert outcome.phase == "held"
    assert f"drift: VirtualService {GATEWAY} says v1 {100 - there}, v2 {there}, this release sets" in outcome.text
    assert mesh.others[GATEWAY]["v2"] == there
    aborted = Runner(mesh, "abort").run(replace(WANT, state="aborted"))
    assert aborted.phase == "aborted"
    check_end(mesh, aborted)


def test_a_release_does_not_begin_where_they_say_different_things() -> None:
    mesh = two()
    mesh.others[GATEWAY] = {"v1": 80, "v2": 20}
    outcome = Runner(mesh).run(WANT)
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, False)
    assert outcome.text.startswith(f"VirtualService {GATEWAY} gives v2 20 %, and VirtualService ns/app 0 %")


def test_done_is_not_said_while_one_of_them_is_elsewhere() -> None:
    mesh = two()
    mesh.weights.update(v1=0, v2=100)
    assert Runner(mesh).run(WANT).phase == "refused"


def test_a_killed_abort_is_finished_by_whoever_comes_next() -> None:
    mesh, number = two(0.5), 0
    while not mesh.writes or mesh.writes[-1][2] != "aborted":
        mesh, number = two(0.5), number + 1
        with pytest.raises(Killed):
            Runner(mesh, kill_after=number).run(WANT)
    assert mesh.others[GATEWAY]["v2"] > 0
    again = Runner(mesh, "again")
    outcome = again.run(WANT)
    assert outcome.failed
    assert mesh.others[GATEWAY] == {"v1": 100, "v2": 0}
    assert any("goes back to v1, too" in line for line in again.said)
