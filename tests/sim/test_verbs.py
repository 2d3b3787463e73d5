# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does with a release besides promoting it, wherever a run is killed: rolling back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience
from ansible_collections.progressive.istio.plugins.module_utils._record import Version
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
    assert "v1 has 1 ready and v2, which has the traffic, 4 pods; scale v1 to 4 first" in refused(mesh)
    mesh.ready["v1"] = 0
    assert "v1 has no ready pod to go back to" in refused(mesh, preflight="warn")
    mesh.ready["v1"] = 1
    runner = Runner(mesh)
    assert runner.run(replace(BACK, preflight="warn")).phase == "rolled_back"
    assert any(line.startswith("WARNING  v1 has 1 ready and v2") for line in runner.said)


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
