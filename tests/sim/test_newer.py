# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A newer version in the middle of a release: refused, released in its place, or next; wherever a run is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError, State, Want
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Drifted, Stopped
from ansible_collections.progressive.istio.plugins.module_utils._record import SUPERSEDED, Step
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Killed,
    Mesh,
    Runner,
    fault_at_every_write,
    steady,
)

KEY = "ns/edge"
NEWER = replace(WANT, canary="v3", on_newer="supersede")
NEXT = replace(WANT, canary="v3", on_newer="queue")
PAUSED = replace(WANT, steps=(Step(10, 5), Step(50, 5, pause=True), Step(100, 5)))


def three(others: bool = True) -> Mesh:
    """A service with a third version that is ready, and nothing of it in the routes."""
    mesh = Mesh(5, steady(0.0), steady(0.0))
    mesh.weights["v3"] = 0
    mesh.served["v3"], mesh.came_in["v3"], mesh.ready["v3"] = [0, 0], 0, 2
    mesh.hashes["v3"], mesh.rates["v3"] = "h-v3", steady(0.0)
    if others:
        mesh.others[KEY] = {"v1": 100, "v2": 0, "v3": 0}
    return mesh


def under_way(phase: str = "progressing") -> Mesh:
    """Its release of v2 is at 10 %, and the run has gone."""
    mesh = three()
    first = Runner(mesh, "first")
    if phase == "waiting":
        assert first.run(PAUSED).phase == "waiting"
    else:
        assert not first.one_pass(WANT).finished
    if phase == "held":
        assert Runner(mesh, "person").run(replace(WANT, state="paused")).phase == "held"
    first.release_lease()
    assert mesh.weights["v2"] == 10
    return mesh


def test_it_is_refused_unless_something_else_is_wanted() -> None:
    mesh = under_way()
    outcome = Runner(mesh).run(replace(WANT, canary="v3"))
    assert (outcome.phase, outcome.failed, outcome.changed, mesh.weights["v2"]) == ("refused", True, False, 10)
    assert "promote or abort it before v3 can be released" in outcome.text


@pytest.mark.parametrize("phase", ["progressing", "held", "waiting"])
def test_the_newer_one_takes_its_place_in_one_call(phase: str) -> None:
    mesh = under_way(phase)
    before = len(mesh.writes)
    outcome = Runner(mesh, "second").run(NEWER)
    assert (outcome.phase, outcome.failed, outcome.changed) == ("promoted", False, True)
    weights, phases = [w for _who, w, _phase in mesh.writes[before:]], [p for *_more, p in mesh.writes[before:]]
    assert (weights[0], phases[0]) == ({"v1": 100, "v2": 0, "old": 0, "v3": 0}, "aborted")
    assert not any(there["v2"] for there in weights)
    assert [there["v3"] for there in weights] == [0, 10, 50, 100, 100]
    assert mesh.others[KEY] == {"v1": 0, "v2": 0, "v3": 100}
    record = mesh.record()
    assert record is not None
    (past,) = record.previous
    assert (past.canary.name, past.superseded, past.rejects) == ("v2", True, False)
    assert past.reason == "superseded by v3 (asked for by second)"
    again = Runner(mesh, "again").run(NEWER)
    assert (again.phase, again.changed) == ("promoted", False)


def test_the_superseded_version_is_not_rejected() -> None:
    mesh = under_way()
    mesh.rates["v3"] = steady(0.5)
    assert Runner(mesh, "second").run(NEWER).phase == "aborted"
    assert Runner(mesh, "third").run(WANT).phase == "promoted"


@pytest.mark.parametrize("fault", FAULTS)
def test_wherever_the_run_is_killed_the_next_one_goes_on(fault: str) -> None:
    for mesh, outcome in fault_at_every_write(under_way, NEWER, fault):
        assert (outcome.phase, mesh.weights["v3"]) == ("promoted", 100), fault
        assert mesh.others[KEY] == {"v1": 0, "v2": 0, "v3": 100}
        assert not any(w["v2"] and w["v3"] for _who, w, _phase in mesh.writes)


def _not_ready(mesh: Mesh) -> None:
    mesh.ready["v3"] = 0


def _no_stable(mesh: Mesh) -> None:
    mesh.ready["v1"] = 0


def _finding(mesh: Mesh) -> None:
    mesh.findings = [Finding(refuse=True, text="another VirtualService has the host")]


def _no_endpoint(mesh: Mesh) -> None:
    mesh.endpoints_at["v3"] = mesh.time + 10_000


def _unknown(mesh: Mesh) -> None:
    del mesh.hashes["v3"]


@pytest.mark.parametrize("spoil", [_not_ready, _no_stable, _finding, _no_endpoint, _unknown])
def test_what_could_not_begin_takes_nobodys_place(spoil: Callable[[Mesh], None]) -> None:
    mesh = under_way()
    spoil(mesh)
    before = (mesh.annotation, dict(mesh.weights), len(mesh.writes))
    with pytest.raises(ReleaseError):
        Runner(mesh, "second").run(NEWER)
    assert (mesh.annotation, mesh.weights, len(mesh.writes)) == before


def test_a_rejected_version_takes_nobodys_place() -> None:
    mesh = three(others=False)
    mesh.rates["v3"] = steady(0.5)
    assert Runner(mesh, "first").run(NEWER).phase == "aborted"
    assert not Runner(mesh, "first").one_pass(WANT).finished
    mesh.lease = None
    before = mesh.annotation
    outcome = Runner(mesh, "second").run(NEWER)
    assert (outcome.failed, outcome.changed, mesh.annotation, mesh.weights["v2"]) == (True, False, before, 10)
    assert "v3 was taken back by release" in outcome.text
    assert "of v2 is left alone" in outcome.text


def test_somebody_elses_weights_are_not_overruled_for_it() -> None:
    mesh = under_way()
    mesh.set_by_hand("kubectl-edit", v1=40, v2=60)
    with pytest.raises(Drifted, match="kubectl-edit"):
        Runner(mesh, "second").run(NEWER)
    assert mesh.weights["v2"] == 60


def test_the_run_that_was_at_it_stops_and_does_not_come_back() -> None:
    mesh = three()
    first = Runner(mesh, "first")
    assert not first.one_pass(replace(WANT, on_newer="supersede")).finished
    second = Runner(mesh, "second")
    meets = {"first": False}

    def goes_on(_number: int) -> None:
        record = mesh.record()
        if not meets["first"] and record is not None and record.summary().superseded:
            meets["first"] = True
            outcome = first.one_pass(replace(WANT, on_newer="supersede"))
            assert (outcome.phase, outcome.failed, outcome.changed) == ("aborted", True, False)
            assert "superseded by v3" in outcome.text

    mesh.lease = None
    second.before_write = goes_on
    assert second.run(NEWER).phase == "promoted"
    assert meets["first"]
    with pytest.raises(Stopped, match=r"release .* of v3 is on VirtualService ns/app now"):
        first.one_pass(replace(WANT, on_newer="supersede"))


def test_a_run_in_the_middle_of_a_look_says_what_it_was_superseded_by_and_gives_its_lease_back() -> None:
    mesh = three()
    first = Runner(mesh, "first")
    first.one_pass(WANT)
    second = Runner(mesh, "second", kill_after=1)
    original, began = mesh.advance, mesh.time

    def advance(seconds: float) -> None:
        original(seconds)
        if mesh.time - began > 1.0:
            mesh.advance = original  # type: ignore[method-assign]
            with pytest.raises(Killed):
                second.one_pass(NEWER)

    mesh.advance = advance  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="of v2 was superseded by v3"):
        first.one_pass(WANT, 30.0)
    assert mesh.lease is None
    assert Runner(mesh, "third").run(NEWER).phase == "promoted"


def test_two_that_both_want_to_do_not_take_turns() -> None:
    mesh = under_way()
    assert not Runner(mesh, "second").one_pass(NEWER).finished
    outcome = Runner(mesh, "older").run(replace(WANT, on_newer="supersede"))
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, False)
    assert "v2 was superseded by v3" in outcome.text
    assert "set retry" in outcome.text


def test_a_run_may_overtake_the_release_while_it_is_superseded() -> None:
    """The step that is written in between is seen, and the release taken back from there."""
    mesh = three()
    first, second = Runner(mesh, "first"), Runner(mesh, "second")
    first.one_pass(WANT)
    mesh.lease = None

    def overtake(number: int) -> None:
        if number == 1:
            while mesh.weights["v2"] == 10:
                first.one_pass(WANT)
            mesh.lease = None

    second.before_write = overtake
    assert second.run(NEWER).phase == "promoted"
    assert [w["v2"] for _who, w, phase in mesh.writes if phase == "aborted"] == [0]


def test_a_proxy_that_keeps_the_old_weight_keeps_the_newer_version_from_beginning() -> None:
    mesh = under_way()
    mesh.clients[1].cut_off = True
    outcome = Runner(mesh, "second").run(replace(NEWER, verify_timeout=5.0))
    assert (outcome.phase, outcome.failed, mesh.weights["v2"], mesh.weights["v3"]) == ("aborted", True, 0, 0)
    assert "the next release does not begin" in outcome.text
    assert "client-1" in outcome.text


# ---------------------------------------------------------------- in a queue


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_next_one_begins_from_whatever_is_stable_then(rate: float) -> None:
    mesh = three()
    first, second = Runner(mesh, "first"), Runner(mesh, "second")
    assert not first.one_pass(WANT).finished
    mesh.rates["v2"] = steady(rate)
    waits = second.one_pass(NEXT, 0.0)
    assert (waits.phase, waits.finished, waits.failed, waits.changed) == ("queued", False, False, False)
    assert first.run(WANT).phase == ("aborted" if rate else "promoted")
    assert second.run(NEXT).phase == "promoted"
    record = mesh.record()
    assert record is not None
    assert record.stable.name == ("v1" if rate else "v2")
    assert mesh.weights["v3"] == 100
    assert [line for line in second.said if line.startswith("QUEUED")]


def test_it_does_not_wait_for_ever() -> None:
    mesh = under_way("held")
    runner = Runner(mesh, "second")
    began = mesh.time
    outcome = runner.run(replace(NEXT, queue_timeout=100.0))
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, False)
    assert "waited 100 s for it (queue_timeout)" in outcome.text
    assert 100.0 <= mesh.time - began < 110.0
    said = [line for line in runner.said if line.startswith("QUEUED")]
    assert 1 < len(said) < 10


def test_of_two_that_wait_one_begins_and_the_other_waits_on() -> None:
    mesh = under_way()
    mesh.weights["v4"] = 0
    mesh.served["v4"], mesh.came_in["v4"], mesh.ready["v4"] = [0, 0], 0, 2
    mesh.hashes["v4"], mesh.rates["v4"] = "h-v4", steady(0.0)
    mesh.others[KEY]["v4"] = 0
    second, third = Runner(mesh, "second"), Runner(mesh, "third")
    fourth = replace(NEXT, canary="v4")
    assert [second.one_pass(NEXT).phase, third.one_pass(fourth).phase] == ["queued", "queued"]
    assert Runner(mesh, "first").run(WANT).phase == "promoted"
    assert second.one_pass(NEXT).phase == "progressing"
    assert third.one_pass(fourth).phase == "queued"
    assert second.run(NEXT).phase == "promoted"
    assert third.run(fourth).phase == "promoted"
    assert mesh.weights["v4"] == 100


# ---------------------------------------------------------------- another pod template of the same version

SAME = replace(WANT, on_newer="supersede")


class Rolling(Runner):
    """Sees pods of two templates for a while after somebody has deployed the canary again."""

    until = 0.0

    def observe(self) -> State:
        state = super().observe()
        if self.mesh.hashes["v2"] != "h-new" or self.mesh.time >= self.until:
            return state
        return replace(state, versions={**state.versions, "v2": replace(state.versions["v2"], mixed=True)})


def deployed(mesh: Mesh, *runners: Rolling) -> None:
    """Somebody deploys the canary again, which takes its time."""
    mesh.hashes["v2"] = "h-new"
    for runner in runners:
        runner.until = mesh.time + 40.0


@pytest.mark.parametrize("between_passes", [False, True])
def test_a_newer_template_is_released_when_its_rollout_is_complete(between_passes: bool) -> None:
    mesh = three()
    runner = Rolling(mesh)
    wish: Want = SAME
    while mesh.weights["v2"] < 50:
        runner.one_pass(wish)
    deployed(mesh, runner)
    if between_passes:
        runner.passes = 0  # another run
        runner.begun, runner.began = "", 0.0
    before = len(mesh.writes)
    outcome = runner.run(wish, budget=10.0)
    assert (outcome.phase, outcome.failed) == ("promoted", False)
    assert [w["v2"] for _who, w, _phase in mesh.writes[before:]] == [0, 10, 50, 100, 100]
    record = mesh.record()
    assert record is not None
    assert record.canary.hash == "h-new"
    assert record.previous[0].reason.startswith(f"{SUPERSEDED}v2 of pod template h-new")
    assert any("is in the middle of its rollout" in line for line in runner.said)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_newer_template_is_released_wherever_the_run_is_killed(fault: str) -> None:
    count = number = 0
    while number <= count:
        number += 1
        mesh = three()
        Runner(mesh, "first").one_pass(SAME)
        mesh.lease = None
        runner, following = Rolling(mesh), Rolling(mesh, "next")
        deployed(mesh, runner, following)
        setattr(runner, fault, number)
        try:
            outcome = runner.run(SAME)
        except Killed:
            mesh.advance(20.0)
            outcome = following.run(SAME)
        count = max(count, runner.count)
        assert (outcome.phase, mesh.weights["v2"]) == ("promoted", 100), (fault, number)
        assert not Runner(mesh, "again").run(SAME).changed
