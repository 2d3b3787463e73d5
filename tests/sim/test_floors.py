# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases under autoscalers: floors are raised before a weight, found again, and given back at the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Evidence, dumps
from ansible_collections.progressive.istio.plugins.module_utils._floors import AUTOSCALER
from ansible_collections.progressive.istio.plugins.module_utils._forget import unfinished
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome, ReleaseError, Want
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
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
from ansible_collections.progressive.istio.tests.sim.simulated_floors import Object
from ansible_collections.progressive.istio.tests.sim.simulated_shop import Rate

PLAN = replace(WANT, interval=3.0, steps=(Step(10, 30), Step(75, 30), Step(100, 30)))
QUICK = replace(WANT, interval=5.0, steps=(Step(10), Step(75), Step(100)))  # not measured: by stable's size
BIG = replace(WANT, interval=3.0, steps=(Step(50, 5), Step(100, 5)))  # its first step needs pods already
LEAST, MOST = 2, 12


def town() -> Mesh:
    """v1 has 6 pods and needs 5 by its autoscaler's target, v2 its least; both might go down to that."""
    mesh = Mesh(1, steady(0.0), steady(0.0))
    mesh.ready.update(v1=6, v2=LEAST)
    scaling = mesh.scaling
    scaling.cost = {"v1": 0.01, "v2": 0.01}  # 100 requests a second take one core
    for version in ("v1", "v2"):
        scaling.autoscalers[version] = [Object(AUTOSCALER, version, LEAST, MOST)]
    scaling.synced_at = mesh.time
    scaling.usage = {"v1": (1.0, mesh.time - 15), "v2": (0.0, mesh.time - 15)}
    return mesh


def scaler(mesh: Mesh, version: str) -> Object:
    return mesh.scaling.autoscalers[version][0]


def least(mesh: Mesh) -> dict[str, int]:
    """The floors that the autoscalers have."""
    return {version: found[0].minimum for version, found in mesh.scaling.autoscalers.items()}


def gone_bad(mesh: Mesh) -> Rate:
    """Bad as soon as it has most of the traffic."""
    return lambda _time: 0.5 if mesh.weights["v2"] > 50 else 0.0


def ends_as_it_began(mesh: Mesh, outcome: Outcome) -> None:
    check_end(mesh, outcome)
    record = mesh.record()
    assert record
    assert not any(floor.ours for floor in record.floors)
    assert least(mesh) == {"v1": LEAST, "v2": LEAST}


def test_pods_are_there_before_the_weight_and_floors_go_back() -> None:
    mesh = town()
    runner = Runner(mesh)
    outcome = runner.run(PLAN)
    assert outcome.phase == "promoted", outcome.text
    ends_as_it_began(mesh, outcome)
    raised = [value for name, value in mesh.scaling.sets if name == "v2"][:-1]
    assert raised == sorted(raised), raised
    # 1 core at 100 %, a fifth to spare, 0.2 a pod; by what clients really sent, a pod more or less.
    assert raised[-1] in (5, 6, 7), raised
    assert mesh.scaling.overloaded == 0
    assert any(line.startswith("floor  minReplicas of HorizontalPodAutoscaler v2 2 -> ") for line in runner.said)
    assert not Runner(mesh, "again").run(PLAN).changed


def test_without_floors_the_same_release_overloads_its_canary() -> None:
    mesh = town()
    outcome = Runner(mesh).run(replace(PLAN, floors="none"))
    assert (outcome.phase, mesh.scaling.sets) == ("promoted", [])
    assert mesh.scaling.overloaded > 0


@pytest.mark.parametrize("floors", ["autoscalers", "none"])
def test_stable_keeps_its_size_for_a_rollback(floors: str) -> None:
    mesh = town()
    mesh.rates["v2"] = gone_bad(mesh)
    sizes = []
    runner = Runner(mesh)
    runner.before_write = lambda _n: sizes.append(mesh.ready["v1"])
    outcome = runner.run(replace(PLAN, steps=(Step(10, 60), Step(50, 60), Step(75, 60), Step(100, 60)), floors=floors))
    assert outcome.phase == "aborted"
    ends_as_it_began(mesh, outcome)
    if floors == "none":
        assert min(sizes) < 5
    else:
        assert min(sizes) == 6
        assert mesh.scaling.overloaded == 0
        mesh.advance(60)
        assert mesh.scaling.overloaded == 0, "its floor was given back before its autoscaler had seen the traffic"


class Counted(Runner):
    """Faults are at writes of record, weights and floors; what evidence does to a release is seen elsewhere."""

    def save_evidence(self, evidence: Evidence) -> None:
        self.now()
        self.mesh.evidence = dumps(evidence)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("want", [QUICK, BIG], ids=["small", "big"])
def test_whatever_a_run_is_killed_at_floors_go_back(fault: str, want: Want) -> None:
    for mesh, outcome in fault_at_every_write(town, want, fault, Counted):
        assert outcome.phase == "promoted", outcome.text
        ends_as_it_began(mesh, outcome)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_where_it_is_taken_back(fault: str) -> None:
    def make() -> Mesh:
        mesh = town()
        mesh.rates["v2"] = gone_bad(mesh)
        return mesh

    for mesh, outcome in fault_at_every_write(make, QUICK, fault, Counted):
        assert outcome.phase == "aborted", outcome.text
        ends_as_it_began(mesh, outcome)


def test_a_first_weight_waits_for_its_pods_and_nothing_moves_until_then() -> None:
    mesh = town()
    runner = Runner(mesh)
    while not (mesh.record() and mesh.ready["v2"] > LEAST):
        assert mesh.weights["v2"] == 0
        assert not runner.one_pass(BIG).finished
    assert runner.run(BIG).phase == "promoted"
    assert mesh.scaling.overloaded == 0


@pytest.mark.parametrize("state", ["aborted", "paused"])
def test_it_may_be_stopped_before_its_first_weight(state: str) -> None:
    mesh = town()
    mesh.scaling.start_seconds = 1000.0
    runner = Runner(mesh)
    assert not runner.one_pass(BIG).finished
    record = mesh.record()
    assert record
    assert (record.begun, mesh.weights["v2"], scaler(mesh, "v2").minimum > LEAST) == (False, 0, True)
    outcome = Runner(mesh, "person").run(replace(BIG, canary="", steps=(), state=state))
    assert outcome.phase == {"aborted": "aborted", "paused": "held"}[state]
    if state == "aborted":
        ends_as_it_began(mesh, outcome)
    else:
        mesh.scaling.start_seconds = 10.0
        mesh.scaling.starting["v2"] = [mesh.time] * 8
        mesh.advance(20)
        assert Runner(mesh, "later").run(BIG).phase == "promoted"


def test_more_than_the_maximum_is_refused_with_numbers_before_anything_is_written() -> None:
    mesh = town()
    scaler(mesh, "v2").maximum = 2
    with pytest.raises(
        ReleaseError, match=r"v2 needs 3 pods for 50 % .* allows 2 \(maxReplicas\).*nothing was written"
    ):
        Runner(mesh).run(BIG)
    assert (mesh.record(), mesh.scaling.sets) == (None, [])


@pytest.mark.parametrize("policy", ["hold", "abort", "promote"])
def test_later_it_is_a_step_that_is_not_taken(policy: str) -> None:
    mesh = town()
    scaler(mesh, "v2").maximum = 3
    runner = Runner(mesh)
    outcome = runner.run(replace(PLAN, on_inconclusive=policy))
    assert outcome.phase == {"hold": "held", "abort": "aborted", "promote": "promoted"}[policy], outcome.text
    assert any(line.startswith("WARNING  v2 would need 5 pods for 75 %") for line in runner.said), runner.said
    if policy == "hold":
        assert "allows 3 (maxReplicas)" in outcome.text
        assert mesh.weights["v2"] == 10
        scaler(mesh, "v2").maximum = MOST
        mesh.advance(60)
        outcome = Runner(mesh, "next").run(PLAN)
    elif policy == "abort":
        assert outcome.text.startswith("v2 was taken back: environment: v2 needs ")
    else:
        assert any("OVERRIDE" in line for line in runner.said)
    ends_as_it_began(mesh, outcome)


def test_a_quota_is_waited_for_and_then_said() -> None:
    mesh = town()
    mesh.scaling.quota = 9
    outcome = Runner(mesh).run(replace(PLAN, floors_timeout=120.0))
    assert (outcome.phase, mesh.weights["v2"]) == ("held", 10)
    assert "3 are ready: exceeded quota: pods=9" in outcome.text
    mesh.scaling.quota = 30
    mesh.advance(60)
    ends_as_it_began(mesh, Runner(mesh, "next").run(PLAN))


def test_a_first_weight_that_gets_no_pods_is_no_release_and_may_be_tried_again() -> None:
    mesh = town()
    mesh.scaling.quota = 8
    outcome = Runner(mesh).run(replace(BIG, floors_timeout=60.0))
    assert "environment: v2 needs" in outcome.text
    ends_as_it_began(mesh, outcome)
    assert all(weights["v2"] == 0 for _run, weights, _phase in mesh.writes)
    mesh.scaling.quota = None
    assert Runner(mesh, "next").run(BIG).phase == "promoted"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_floor_that_somebody_takes_away_holds_the_release_and_names_him(version: str) -> None:
    mesh = town()
    runner = Runner(mesh)
    while mesh.weights["v2"] != 75:
        assert not runner.one_pass(PLAN).finished
    set_here = scaler(mesh, version).minimum
    scaler(mesh, version).put(3, "argocd-controller")
    outcome = runner.run(PLAN)
    assert outcome.phase == "held"
    assert (
        f"minReplicas of HorizontalPodAutoscaler {version} is 3, this release had set it to {set_here}" in outcome.text
    )
    assert "last written by argocd-controller" in outcome.text
    again = Runner(mesh, "again").run(PLAN)
    assert (again.phase, again.changed, mesh.weights["v2"]) == ("held", False, 75)
    outcome = Runner(mesh, "insists").run(replace(PLAN, retry=True))
    assert outcome.phase == "promoted", outcome.text
    assert least(mesh) == {"v1": LEAST, "v2": LEAST, version: 3}, "what they had set is theirs again"


def test_what_somebody_has_set_higher_is_left_to_him() -> None:
    mesh = town()
    runner = Runner(mesh)
    while mesh.weights["v2"] != 75:
        assert not runner.one_pass(PLAN).finished
    scaler(mesh, "v2").put(9, "kubectl-edit")
    assert runner.run(PLAN).phase == "promoted"
    assert least(mesh) == {"v1": LEAST, "v2": 9}
    assert any("is 9, not" in line and "left to kubectl-edit" in line for line in runner.said)


def test_two_autoscalers_of_one_workload_are_refused() -> None:
    mesh = town()
    mesh.scaling.autoscalers["v2"].append(Object(AUTOSCALER, "v2-too", 1, 5))
    with pytest.raises(
        ReleaseError, match="v2 is scaled by HorizontalPodAutoscaler v2 and HorizontalPodAutoscaler v2-too"
    ):
        Runner(mesh).run(PLAN)


def test_what_keda_sets_is_waited_for_and_not_touched() -> None:
    mesh = town()
    scaler(mesh, "v2").keeper = "KEDA's ScaledObject v2"
    runner = Runner(mesh)
    outcome = runner.run(replace(PLAN, floors_timeout=60.0))
    assert outcome.phase == "held"
    assert any(
        "HorizontalPodAutoscaler v2 is set by KEDA's ScaledObject v2: raise it there to" in s for s in runner.said
    )
    assert [name for name, _value in mesh.scaling.sets] == ["v1"]
    scaler(mesh, "v2").put(8, "keda-operator")
    mesh.advance(60)
    assert Runner(mesh, "next").run(PLAN).phase == "promoted"
    assert least(mesh) == {"v1": LEAST, "v2": 8}


@pytest.mark.parametrize("kind", ["metrics", "target"])
def test_without_cpu_the_size_of_stable_is_the_measure(kind: str) -> None:
    mesh = town()
    if kind == "metrics":
        mesh.scaling.measured = False
    else:
        scaler(mesh, "v2").usable = None
    runner = Runner(mesh)
    assert runner.run(PLAN).phase == "promoted"
    assert [value for name, value in mesh.scaling.sets if name == "v2"] == [5, 6, LEAST]
    assert any("75 % of the 6 pods that the stable version has" in line for line in runner.said)


def test_without_the_rights_nothing_is_kept() -> None:
    mesh = town()
    mesh.scaling.may = False
    outcome = Runner(mesh).run(PLAN)
    assert (outcome.phase, mesh.scaling.sets) == ("promoted", [])


def deployments() -> Mesh:
    mesh = town()
    mesh.scaling.autoscalers.clear()
    for version, size in (("v1", 6), ("v2", 2)):
        mesh.scaling.workloads[version] = Object("Deployment", version, size, None, None)
    return mesh


@pytest.mark.parametrize("bad", [True, False])
def test_replicas_are_raised_only_where_asked_for_and_stay_where_the_traffic_is(bad: bool) -> None:
    mesh = deployments()
    assert Runner(mesh).run(PLAN).phase == "promoted"
    assert mesh.scaling.sets == []
    mesh = deployments()
    if bad:
        mesh.rates["v2"] = gone_bad(mesh)
    runner = Runner(mesh)
    outcome = runner.run(replace(PLAN, floors="workloads"))
    check_end(mesh, outcome)
    assert mesh.scaling.workloads["v1"].minimum == 6
    if bad:
        assert mesh.scaling.sets == [("v2", 5), ("v2", 2)]
    else:
        assert mesh.scaling.sets == [("v2", 5), ("v2", 6)]
        assert any("replicas of Deployment v2 stays at 6: v2 has all traffic" in line for line in runner.said)
    assert not Runner(mesh, "again").run(replace(PLAN, floors="workloads")).changed


def test_a_run_that_died_after_the_end_leaves_floors_that_the_next_one_gives_back() -> None:
    mesh = town()
    mesh.rates["v2"] = gone_bad(mesh)
    runner = Runner(mesh)

    def die(_number: int) -> None:
        if (record := mesh.record()) and record.phase == "aborted":
            runner.kill_before = runner.count

    runner.before_write = die
    with pytest.raises(Killed):
        runner.run(PLAN)
    assert least(mesh)["v1"] == 6
    mesh.advance(20)
    outcome = Runner(mesh, "next").run(replace(PLAN, canary="", steps=(), state="aborted"))
    assert (outcome.phase, outcome.changed) == ("aborted", True)
    assert least(mesh) == {"v1": LEAST, "v2": LEAST}


def test_what_may_not_be_given_back_stays_on_record_until_somebody_may() -> None:
    mesh = town()
    runner = Runner(mesh)
    while mesh.weights["v2"] != 75:
        assert not runner.one_pass(PLAN).finished
    mesh.scaling.refuses = "forbidden"
    outcome = Runner(mesh, "person").run(replace(PLAN, canary="", steps=(), state="aborted"))
    assert (outcome.phase, mesh.weights["v2"]) == ("aborted", 0)
    record = mesh.record()
    assert record
    assert {floor.version for floor in record.floors} == {"v1", "v2"}
    mesh.scaling.refuses = ""
    Runner(mesh, "other").run(replace(PLAN, canary="", steps=(), state="aborted"))
    assert least(mesh) == {"v1": LEAST, "v2": LEAST}


def test_a_release_whose_floors_are_not_given_back_is_not_forgotten() -> None:
    mesh = town()
    runner = Runner(mesh)
    assert not runner.one_pass(PLAN).finished
    record = mesh.record()
    assert record is not None
    state = replace(runner.observe(), record=record.ended("aborted", mesh.time, ""), weights={"v1": 100, "v2": 0})
    assert "minReplicas of HorizontalPodAutoscaler v1" in unfinished(state)
    mesh = town()
    Runner(mesh).run(PLAN)
    assert unfinished(Runner(mesh).observe()) == ()
