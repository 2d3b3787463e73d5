# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release that is forgotten: never one that runs, all of it, and nothing of the traffic, wherever a run is killed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._forget import Forgetting, Remains, unfinished
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Conflict, Lost, Stopped
from ansible_collections.progressive.istio.plugins.module_utils._record import ANNOTATION, APPROVE, Step
from ansible_collections.progressive.istio.tests.sim.simulated import FAULTS, WANT, Killed, Mesh, Runner, steady

KEY = "ns/edge"
HOLDING = replace(WANT, steps=(Step(10, 5), Step(50, 5, pause=True), Step(100, 5)))


class Forgetter(Runner):
    """One run that forgets."""

    def remains(self) -> Remains:
        self._reach()
        m, state = self.mesh, self.observe()
        marks = (ANNOTATION,) * bool(m.annotation) + (APPROVE,) * bool(m.approval)
        return Remains(
            state.where,
            state.record,
            marks,
            "ConfigMap" if m.evidence else "",
            "Lease" if m.lease else "",
            unfinished(state),
            m.version,
        )

    def unmark(self, remains: Remains) -> None:
        self._before_write()
        if remains.token != self.mesh.version or self.count == self.conflict:
            self.mesh.version += 1
            raise Conflict("the object has been modified")
        self.mesh.annotation, self.mesh.approval = None, ""
        self._done()

    def drop_evidence(self) -> None:
        self._before_write()
        self.mesh.evidence = None
        self._done()

    def drop_lease(self) -> None:
        self._before_write()
        assert self.mesh.annotation is None, "who looks for the lease would find nothing to go by"
        if self.mesh.lease and self.mesh.lease[0] == self.name:
            self.mesh.lease = None
        self._done()

    def _done(self) -> None:
        self._after_write()
        if self.count == self.lose_answer:
            raise Lost("connection reset after it happened")

    def forget(self) -> Outcome:
        return Forgetting(self, 1.0, self.said.append).run()


def over(rate: float = 0.0) -> Mesh:
    mesh = Mesh(7, steady(rate), steady(0.0))
    mesh.others[KEY] = {"v1": 100, "v2": 0}
    assert Runner(mesh, "first").run(WANT).phase == ("aborted" if rate else "promoted")
    mesh.approval = "0badcafe/2"
    return mesh


def forgotten(mesh: Mesh) -> bool:
    return (mesh.annotation, mesh.approval, mesh.evidence, mesh.lease) == (None, "", None, None)


def test_all_of_it_is_forgotten_once_and_no_weight_moves() -> None:
    mesh = over()
    weights, others, written = dict(mesh.weights), {KEY: dict(mesh.others[KEY])}, len(mesh.writes)
    outcome = Forgetter(mesh).forget()
    assert (outcome.phase, outcome.failed, outcome.changed, forgotten(mesh)) == ("none", False, True, True)
    assert (mesh.weights, mesh.others, len(mesh.writes)) == (weights, others, written)
    runner = Forgetter(mesh)
    again = runner.forget()
    assert (again.phase, again.failed, again.changed, runner.count, forgotten(mesh)) == ("none", False, False, 0, True)


@pytest.mark.parametrize("fault", FAULTS)
def test_wherever_it_is_killed_the_next_run_forgets_the_rest(fault: str) -> None:
    count = number = 0
    while number <= count:
        number += 1
        mesh = over()
        runner = Forgetter(mesh)
        setattr(runner, fault, number)
        try:
            runner.forget()
        except Killed:
            mesh.advance(20.0)
            Forgetter(mesh, "next").forget()
        count = max(count, runner.count)
        assert forgotten(mesh), (fault, number)
        assert mesh.weights == {"v1": 0, "v2": 100, "old": 0}
    assert count >= 3


def test_a_rejected_version_may_be_released_again() -> None:
    mesh = over(rate=0.5)
    assert Runner(mesh).run(WANT).failed
    Forgetter(mesh).forget()
    mesh.rates["v2"] = steady(0.0)
    assert Runner(mesh).run(WANT).phase == "promoted"


@pytest.mark.parametrize("state", ["progressing", "held", "waiting"])
def test_a_release_that_is_under_way_is_not_forgotten(state: str) -> None:
    mesh = Mesh(7, steady(0.0), steady(0.0))
    Runner(mesh, "first").run(HOLDING) if state == "waiting" else Runner(mesh, "first").one_pass(HOLDING)
    if state == "held":
        Runner(mesh, "person").run(replace(WANT, state="paused"))
    before, lease = mesh.annotation, mesh.lease
    runner = Forgetter(mesh)
    outcome = runner.forget()
    assert (outcome.phase, outcome.failed, outcome.changed, runner.count) == ("refused", True, False, 0)
    assert f"is {state} at 10 %" in outcome.text
    assert "abort it first" in outcome.text
    assert (mesh.annotation, mesh.lease) == (before, lease)


def test_a_live_lease_of_another_run_is_respected() -> None:
    mesh = over()
    mesh.lease = ("runner-9", mesh.time + 15)
    with pytest.raises(Stopped, match="is being run by runner-9"):
        Forgetter(mesh).forget()
    assert mesh.annotation
    mesh.advance(20.0)
    assert Forgetter(mesh).forget().changed
    assert forgotten(mesh)


def test_a_release_that_begins_in_between_is_not_forgotten() -> None:
    mesh = over()
    mesh.hashes["v1"] = "h9"
    runner = Forgetter(mesh)

    def begin(_number: int) -> None:
        runner.before_write = lambda _number: None
        mesh.lease = None
        assert not Runner(mesh, "other").one_pass(replace(WANT, canary="v1")).finished

    runner.before_write = begin
    outcome = runner.forget()
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, False)
    record = mesh.record()
    assert record is not None
    assert record.running
    assert mesh.evidence


def test_what_a_killed_run_left_elsewhere_is_put_right_first() -> None:
    mesh = over(rate=0.5)
    mesh.others[KEY] = {"v1": 90, "v2": 10}
    outcome = Forgetter(mesh).forget()
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, False)
    assert f"VirtualService {KEY} still has something of release" in outcome.text
    Runner(mesh, "person").run(replace(WANT, state="aborted"))
    assert Forgetter(mesh).forget().changed
    assert mesh.others[KEY] == {"v1": 100, "v2": 0}
