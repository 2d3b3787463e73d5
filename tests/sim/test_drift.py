# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody else changes the weights or the record of a release on the simulated World."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Stopped
from ansible_collections.progressive.istio.tests.sim.simulated import (
    WANT,
    Mesh,
    Runner,
    check_end,
    steady,
)


def test_drift_holds_with_both_values_and_the_manager() -> None:
    mesh = Mesh(10, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.set_by_hand("argocd", v1=70, v2=30)
    outcome = runner.run(WANT)
    assert (outcome.phase, outcome.failed) == ("held", True)
    assert mesh.weights["v2"] == 30
    for part in ("v2 30", "v2 10", "argocd"):
        assert part in outcome.text
    again = Runner(mesh, "again").run(WANT)
    assert (again.phase, again.changed) == ("held", False)
    mesh.set_by_hand("kubectl", v1=90, v2=10)
    assert Runner(mesh, "mended").run(WANT).phase == "promoted"


@pytest.mark.parametrize(
    ("there", "on_drift", "end"),
    [(30, "abort", "aborted"), (30, "adopt", "promoted"), (100, "adopt", "promoted"), (0, "adopt", "aborted")],
)
def test_drift_is_settled_as_the_user_wants(there: int, on_drift: str, end: str) -> None:
    mesh = Mesh(10, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.set_by_hand("argocd", v1=100 - there, v2=there)
    outcome = runner.run(replace(WANT, on_drift=on_drift))
    assert outcome.phase == end
    check_end(mesh, outcome)
    assert any(f"v2 {there}" in line and "argocd" in line for line in runner.said)
    weights = [w[1]["v2"] for w in mesh.writes]
    assert weights[1:] == {"aborted": [0], "promoted": [30, 50, 100, 100] if there == 30 else [100, 100]}[end]


def test_held_drift_is_adopted_by_the_next_run() -> None:
    mesh = Mesh(10, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.set_by_hand("argocd", v1=70, v2=30)
    assert runner.run(WANT).phase == "held"
    assert Runner(mesh, "told").run(replace(WANT, on_drift="adopt")).phase == "promoted"


def test_proven_failure_goes_back_even_from_drifted_weights() -> None:
    mesh = Mesh(11, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.rates["v2"] = steady(1.0)
    mesh.advance(2)
    mesh.set_by_hand("kubectl-edit", v1=60, v2=40)
    mesh.advance(1)
    outcome = runner.run(WANT)
    assert outcome.phase == "aborted"
    check_end(mesh, outcome)
    assert any("overruled" in line and "v2 40" in line for line in runner.said)


def test_record_wiped_in_mid_release_is_noticed_and_nothing_written() -> None:
    mesh = Mesh(12, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.annotation = None
    mesh.version += 1
    before = len(mesh.writes)
    outcome_text = ""
    try:
        outcome_text = runner.run(WANT).text
    except Stopped as error:
        outcome_text = str(error)
    assert len(mesh.writes) == before
    assert "released by somebody else" in outcome_text or "drift" in outcome_text


def test_partial_weight_without_record_is_adopted_only_when_told() -> None:
    mesh = Mesh(13, steady(0.0), steady(0.0))
    mesh.set_by_hand("kubectl", v1=80, v2=20)
    refused = Runner(mesh).run(WANT)
    assert (refused.phase, refused.failed, refused.changed) == ("refused", True, False)
    assert Runner(mesh).run(replace(WANT, adopt=True)).phase == "promoted"
    assert [w[1]["v2"] for w in mesh.writes] == [20, 50, 100, 100]


def test_drift_between_look_and_write_is_held_not_overwritten() -> None:
    mesh = Mesh(31, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    runner.before_write = lambda number: mesh.set_by_hand("kubectl", v1=70, v2=30) if number == 5 else None
    outcome = runner.run(WANT)
    assert (outcome.phase, mesh.weights["v2"]) == ("held", 30)
    assert "v2 30" in outcome.text
