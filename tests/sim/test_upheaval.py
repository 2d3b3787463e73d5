# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is around a release goes away for a while: istiod with its webhook, endpoints, pods."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.tests.sim.simulated import WANT, Mesh, Runner, check_end, steady


def begun(seed: int) -> tuple[Mesh, Runner]:
    """A release whose first step has passed, and the run that is to write the second."""
    mesh = Mesh(seed, steady(0.0), steady(0.0))
    Runner(mesh, "first").run(replace(WANT, until_step=1))
    assert mesh.weights["v2"] == 10
    return mesh, Runner(mesh)


@pytest.mark.parametrize("seconds", [5, 60, 100])
def test_a_step_waits_for_a_webhook_that_is_away(seconds: float) -> None:
    mesh, runner = begun(50)
    mesh.refused_until = mesh.time + seconds
    outcome = runner.run(WANT)
    assert outcome.phase == "promoted"
    check_end(mesh, outcome)
    assert [w[1]["v2"] for w in mesh.writes] == [10, 50, 100, 100]
    if seconds > 30:
        assert any("NOT WRITTEN" in line and "failed calling webhook" in line for line in runner.said)


def test_the_lease_is_kept_while_a_write_waits() -> None:
    mesh, runner = begun(51)
    mesh.refused_until = mesh.time + 60
    left: list[float] = []

    def sleep(seconds: float) -> None:
        mesh.advance(seconds)
        if mesh.time < mesh.refused_until:
            left.append(mesh.lease[1] - mesh.time if mesh.lease and mesh.lease[0] == runner.name else 0.0)

    runner.sleep = sleep  # type: ignore[method-assign]
    assert runner.run(WANT).phase == "promoted"
    assert len(left) > 30
    assert min(left) > 0


def test_taking_back_waits_for_it_too_and_reads_the_proxies_afterwards() -> None:
    mesh, runner = begun(52)
    mesh.refused_until = mesh.time + 60
    outcome = runner.run(replace(WANT, state="aborted", verify_timeout=30))
    assert outcome.phase == "aborted"
    check_end(mesh, outcome)
    assert "weight 0 in 3 of 3 proxies" in outcome.text


def test_what_stays_away_too_long_is_an_error_and_the_next_run_goes_on() -> None:
    mesh, runner = begun(53)
    before = dict(mesh.weights)
    mesh.refused_until = mesh.time + 1e9
    with pytest.raises(ReleaseError, match="no write has succeeded for 120 s: failed calling webhook"):
        runner.run(WANT)
    assert mesh.weights == before
    mesh.refused_until = 0.0
    mesh.advance(60)
    assert Runner(mesh, "next").run(WANT).phase == "promoted"


def test_others_follow_when_the_webhook_is_back() -> None:
    mesh = Mesh(54, steady(0.0), steady(0.0))
    mesh.others = {"edge/shop": {"v1": 100, "v2": 0}}
    Runner(mesh, "first").run(replace(WANT, until_step=1))
    runner = Runner(mesh)

    def only_the_others(_number: int) -> None:
        if mesh.weights["v2"] == 50 and not mesh.refused_until:
            mesh.refused_until = mesh.time + 60

    runner.before_write = only_the_others
    assert runner.run(WANT).phase == "promoted"
    assert mesh.others["edge/shop"] == {"v1": 0, "v2": 100}


def test_no_step_while_the_proxies_have_no_endpoint_of_the_canary() -> None:
    mesh, runner = begun(55)
    mesh.endpoints_at["v2"] = mesh.time + 40
    back = mesh.endpoints_at["v2"]
    raised: list[float] = []
    runner.before_write = lambda _number: raised.append(mesh.time) if mesh.weights["v2"] > 10 else None
    outcome = runner.run(WANT)
    assert outcome.phase == "promoted"
    check_end(mesh, outcome)
    assert raised[0] >= back
    assert any("WAIT  no healthy endpoint of v2 in 3 proxies" in line for line in runner.said)
    for_ever, runner = begun(56)
    for_ever.endpoints_at["v2"] = for_ever.time + 1e9
    outcome = runner.run(replace(WANT, max_wait=200))
    assert (outcome.phase, for_ever.weights["v2"]) == ("held", 10)
    assert "no healthy endpoint of v2" in outcome.text
