# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does with a release besides promoting it: rolling back, approving, going on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._record import Step, Version
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Mesh,
    Runner,
    check_end,
    fault_at_every_write,
    steady,
)

BACK = replace(WANT, canary="", steps=(), state="rolled_back")
KEY = "ns/edge"


def promoted(sticky: bool = False) -> Mesh:
    """A service with two route objects whose release to v2 is over."""
    mesh = Mesh(1, steady(0.0), steady(0.0))
    mesh.others[KEY] = {"v1": 100, "v2": 0}
    audience = Audience(cookie="app", attributes="Path=/") if sticky else Audience()
    assert Runner(mesh, "first").run(replace(WANT, audience=audience)).phase == "promoted"
    return mesh


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("sticky", [False, True])
def test_a_promoted_version_is_rolled_back_wherever_the_run_is_killed(fault: str, sticky: bool) -> None:
    for mesh, outcome in fault_at_every_write(lambda: promoted(sticky), BACK, fault):
        check_end(mesh, outcome)
        assert (outcome.phase, outcome.failed) == ("rolled_back", False)
        assert all(client.weights["v2"] == 0 for client in mesh.clients)


def test_weights_and_record_go_back_in_one_write_and_the_version_is_refused_until_it_has_changed() -> None:
    mesh = promoted()
    before = len(mesh.writes)
    outcome = Runner(mesh).run(replace(BACK, reason="wrong prices"))
    assert mesh.writes[before:] == [("runner-1", {"v1": 100, "v2": 0, "old": 0}, "rolled_back")]
    assert "wrong prices (asked for by runner-1)" in outcome.text
    again = Runner(mesh).run(WANT)
    assert (again.phase, again.failed, again.changed) == ("rolled_back", True, False)
    assert "was rolled back by release" in again.text
    mesh.hashes["v2"] = "h3"
    assert Runner(mesh).run(WANT).phase == "promoted"


def test_before_the_end_it_is_an_abort() -> None:
    mesh = Mesh(1, steady(0.0), steady(0.0))
    assert not Runner(mesh).one_pass(WANT).finished
    outcome = Runner(mesh, "person").run(BACK)
    mesh.advance(20.0)  # nobody runs the first one any more; its lease runs out
    check_end(mesh, outcome)
    assert (outcome.phase, outcome.failed) == ("aborted", False)
    again = Runner(mesh, "person").run(BACK)
    assert (again.phase, again.failed, again.changed) == ("aborted", False, False)


def test_a_proxy_that_keeps_the_new_version_is_named_until_it_has_let_go() -> None:
    mesh = promoted()
    mesh.clients[1].cut_off = True
    outcome = Runner(mesh).run(replace(BACK, verify_timeout=5.0))
    assert (outcome.failed, "client-1" in outcome.text) == (True, True)
    again = Runner(mesh).run(replace(BACK, verify_timeout=5.0))
    assert (again.failed, again.changed) == (True, False)
    mesh.clients[1].cut_off = False
    mesh.advance(1)
    again = Runner(mesh).run(BACK)
    assert (again.phase, again.failed, again.changed) == ("rolled_back", False, False)


def test_weights_between_the_two_versions_are_overruled_and_said() -> None:
    mesh = promoted()
    mesh.set_by_hand("kubectl-edit", v1=40, v2=60)
    runner = Runner(mesh)
    assert runner.run(BACK).phase == "rolled_back"
    assert mesh.weights["v2"] == 0
    assert any("overruled a drift" in line and "kubectl-edit" in line for line in runner.said)


def refused(mesh: Mesh, **more: object) -> str:
    before = dict(mesh.weights)
    outcome = Runner(mesh).run(replace(BACK, **more))  # type: ignore[arg-type]
    assert (outcome.phase, outcome.failed, outcome.changed, mesh.weights) == ("refused", True, False, before)
    return outcome.text


def test_it_is_refused_where_the_old_version_could_not_take_the_traffic() -> None:
    mesh = promoted()
    mesh.ready.update(v1=1, v2=4)
    assert "ready pods: v1 has 1, and v2, which has the traffic, 4; scale v1 to 4 first" in refused(mesh)
    mesh.ready["v1"] = 0
    assert "v1 has no ready pod to go back to" in refused(mesh, preflight="warn")
    mesh.ready["v1"] = 1
    runner = Runner(mesh)
    assert runner.run(replace(BACK, preflight="warn")).phase == "rolled_back"
    assert any(line.startswith("WARNING  ready pods: v1 has 1") for line in runner.said)


def test_pods_that_crash_are_no_reason_to_stay_with_them() -> None:
    mesh = promoted()
    mesh.ready.update(v1=1, v2=0)
    assert Runner(mesh).run(BACK).phase == "rolled_back"


def test_it_is_refused_where_the_old_version_is_gone_or_another_one() -> None:
    mesh = promoted()
    mesh.hashes["v1"] = "h9"
    assert "its pod template h1 is now h9" in refused(mesh)
    mesh = promoted()
    record = mesh.record()
    assert record is not None
    mesh.annotation = replace(record, retired="v1").dumps()
    assert "v1 was retired after release" in refused(mesh)
    mesh = promoted()
    mesh.set_by_hand("kubectl", v2=50, old=50)
    assert "gives old 50" in refused(mesh)
    assert "has no record of a release" in refused(Mesh(1, steady(0.0), steady(0.0)))


def test_a_rejected_version_stays_refused_after_releases_of_others() -> None:
    mesh = Mesh(3, steady(1.0), steady(0.0))
    rejected = Runner(mesh).run(WANT)
    assert rejected.record is not None
    for name in ("v3", "v4"):  # each takes all traffic from the one before
        mesh.weights[name] = 0
        mesh.served[name], mesh.came_in[name], mesh.ready[name] = [0, 0], 0, 2
        mesh.hashes[name], mesh.rates[name] = f"h-{name}", steady(0.0)
        assert Runner(mesh, name).run(replace(WANT, canary=name)).phase == "promoted"
    record = mesh.record()
    assert record is not None
    assert [past.canary.name for past in record.previous] == ["v3", "v2"]
    assert record.previous[1] == rejected.record.summary()
    again = Runner(mesh).run(WANT)
    assert (again.phase, again.failed, again.changed) == ("aborted", True, False)
    assert rejected.record.id in again.text
    mesh.rates["v2"] = steady(0.0)
    assert Runner(mesh).run(replace(WANT, retry=True)).phase == "promoted"
    record = mesh.record()
    assert record is not None
    assert record.ruling(Version("v2", "h2")) == record.summary()


PAUSED = replace(WANT, steps=(Step(10, 5), Step(50, 5, pause=True), Step(100, 5)))
APPROVED = replace(WANT, canary="", steps=(), state="approved")


def waiting(rate: float = 0.0) -> Mesh:
    """A service whose release waits for approval before its second step."""
    mesh = Mesh(1, steady(0.0), steady(0.0))
    outcome = Runner(mesh, "first").run(PAUSED)
    assert (outcome.phase, outcome.failed, outcome.finished, outcome.weight) == ("waiting", False, True, 10)
    mesh.rates["v2"] = steady(rate)
    return mesh


def test_a_planned_pause_waits_without_an_end_and_changes_nothing() -> None:
    mesh = waiting()
    mesh.rps = 0.0
    mesh.advance(100_000)
    runner = Runner(mesh)
    outcome = runner.run(PAUSED)
    assert (outcome.phase, outcome.failed, outcome.changed, mesh.weights["v2"]) == ("waiting", False, False, 10)
    assert outcome.text == "waits for approval before step 2, 50 %"
    record = mesh.record()
    assert record is not None
    line = f"kubectl -n ns annotate --overwrite virtualservice app progressive.istio/approve={record.id}/2"
    assert any(line in said for said in runner.said)


@pytest.mark.parametrize("fault", FAULTS)
def test_it_waits_wherever_it_is_killed_and_goes_on_once_it_is_approved(fault: str) -> None:
    def make() -> Mesh:
        return Mesh(1, steady(0.0), steady(0.0))

    for number, (mesh, outcome) in enumerate(fault_at_every_write(make, PAUSED, fault)):
        assert (outcome.phase, mesh.weights["v2"]) == ("waiting", 10)
        if number % 3 == 0:
            approved = Runner(mesh, "boss").run(APPROVED)
            assert (approved.phase, approved.changed, approved.failed) == ("progressing", True, False)
            check_end(mesh, Runner(mesh, "goes on").run(PAUSED))
            assert mesh.weights["v2"] == 100
            break


@pytest.mark.parametrize("fault", FAULTS)
def test_an_approval_is_written_once_wherever_it_is_killed(fault: str) -> None:
    for mesh, outcome in fault_at_every_write(waiting, APPROVED, fault):
        assert (outcome.phase, outcome.failed, mesh.weights["v2"]) == ("progressing", False, 10)
        record = mesh.record()
        assert record is not None
        assert [approval.step for approval in record.approvals] == [2]


def test_an_approved_step_comes_at_once_and_the_record_says_who_let_it() -> None:
    mesh = waiting()
    Runner(mesh, "boss").run(replace(APPROVED, reason="looks good"))
    began = mesh.time
    runner = Runner(mesh)
    while mesh.weights["v2"] == 10:
        runner.one_pass(PAUSED, 0.5)
    assert mesh.time - began < PAUSED.steps[0].min_seconds
    assert runner.run(PAUSED).phase == "promoted"
    record = mesh.record()
    assert record is not None
    assert [(approval.step, approval.by) for approval in record.approvals] == [(2, "looks good (boss)")]


@pytest.mark.parametrize("by_annotation", [False, True])
def test_a_run_that_stays_takes_the_approval_up(by_annotation: bool) -> None:
    mesh = waiting()
    stays = replace(PAUSED, approval_timeout=600.0)
    runner = Runner(mesh)
    assert not runner.one_pass(stays).finished
    record = mesh.record()
    assert record is not None
    if by_annotation:
        mesh.approval = f"{record.id}/2"
    else:
        assert Runner(mesh, "boss").run(APPROVED).phase == "progressing"
    assert runner.run(stays).phase == "promoted"


def test_a_stale_approval_has_no_effect() -> None:
    mesh = waiting()
    record = mesh.record()
    assert record is not None
    for text in (f"{record.id}/1", f"{record.id}/3", "0badcafe/2", record.id):
        mesh.approval = text
        assert Runner(mesh).run(PAUSED).phase == "waiting"
    assert not record.expects(f"{record.id}/3")
    assert record.expects(f"{record.id}/2")


def test_a_run_that_stays_takes_a_bad_version_back_while_it_waits() -> None:
    mesh = waiting(rate=0.3)
    outcome = Runner(mesh).run(replace(PAUSED, approval_timeout=600.0))
    check_end(mesh, outcome)
    assert (outcome.phase, outcome.failed) == ("aborted", True)


def test_an_approval_that_nothing_waits_for_is_refused() -> None:
    mesh = Mesh(1, steady(0.0), steady(0.0))
    assert Runner(mesh).run(APPROVED).phase == "refused"
    assert not Runner(mesh).one_pass(PAUSED).finished
    outcome = Runner(mesh).run(APPROVED)
    assert (outcome.phase, outcome.changed) == ("refused", False)
    assert "is progressing; it does not wait for approval" in outcome.text


def test_a_release_goes_on_without_naming_its_version() -> None:
    mesh = Mesh(1, steady(0.0), steady(0.0))
    nameless = replace(WANT, canary="")
    with pytest.raises(ReleaseError, match="none is under way that could go on"):
        Runner(mesh).run(nameless)
    assert not Runner(mesh).one_pass(WANT).finished
    Runner(mesh).run(replace(WANT, state="paused"))
    assert Runner(mesh, "resumes").run(replace(nameless, retry=True)).phase == "promoted"
    again = Runner(mesh, "resumes").run(nameless)
    assert (again.phase, again.changed, again.failed) == ("promoted", False, False)
    Runner(mesh).run(BACK)
    with pytest.raises(ReleaseError, match="none is under way that could go on"):
        Runner(mesh).run(nameless)
