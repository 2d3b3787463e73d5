# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version that is retired: in the right order, whatever happens, and wherever a run is killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._plan import Other, Outcome, ReleaseError, State, Want
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Conflict, Lost, Orphaned, Stopped
from ansible_collections.progressive.istio.plugins.module_utils._record import Record
from ansible_collections.progressive.istio.plugins.module_utils._retire import DRAIN_SECONDS, Retirement, Rule
from ansible_collections.progressive.istio.tests.sim.simulated import (
    STEPS,
    WANT,
    Killed,
    Mesh,
    Programmed,
    Runner,
    steady,
)

GATEWAY = "edge/app"
RETIRE = Want("", state="retired", verify_timeout=30, drain_timeout=60)


class Town(Mesh):
    """A mesh with DestinationRules, requests that take their time, and routes of other people."""

    def __init__(self, seed: int = 41) -> None:
        super().__init__(seed, steady(0.0), steady(0.0))
        self.others = {GATEWAY: {"v1": 100, "v2": 0}}
        self.subsets = {"ns/app": ["v1", "v2", "old"], "ns/more": ["v1"]}
        self.over_at: dict[str, float] = {}  # by client, when its last request to v1 is over
        self.foreign_users: list[str] = []
        self.strangers = 0.0  # requests to v1 a second, around all routes
        self.left_at: dict[str, float] = {}  # by version, when a proxy or a route object had it last

    def under_way(self, client: str) -> int:
        return int(self.time < self.over_at.get(client, 0.0))

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.came_in["v1"] += int(self.strangers * seconds + 0.5)
        for version in (name for client in self.clients for name, weight in client.weights.items() if weight):
            self.left_at[version] = self.time


class Retirer(Runner):
    """One run that retires: the World that ``Retirement`` works on. Every write checks what must hold before it."""

    def __init__(self, mesh: Town, name: str = "runner-1") -> None:
        super().__init__(mesh, name)
        self.town = mesh

    def users(self, state: State, version: str) -> tuple[Sequence[str], str]:
        self._reach()
        return list(self.town.foreign_users), ""

    def observe(self) -> State:
        state = super().observe()
        others = [replace(o, weights=dict(self.town.others[o.key])) for o in state.others]
        return replace(state, others=tuple(others))

    def take_out(self, place: State | Other, version: str, record: Record | None) -> None:
        self._before_write()
        m = self.town
        if place.token != m.version:
            raise Conflict("the object has been modified")
        weights = m.weights if isinstance(place, State) else m.others[place.key]
        assert not weights.get(version, 0), "a destination with weight is taken out"
        if weights.pop(version, None) is not None:
            m.left_at[version] = m.time
        if record:
            m.annotation = record.dumps()
        m.version += 1
        m.writes.append((self.name, dict(weights), place.where))
        self._after_write()
        if self.count == self.lose_answer:
            raise Lost("connection reset after it happened")

    def routing(self, version: str) -> Programmed:
        self._live()
        late = tuple(c.uid for c in self.town.clients if c.weights.get(version))
        return Programmed(len(self.town.clients), len(self.town.clients) - len(late), late)

    def in_flight(self, version: str) -> Mapping[str, int | str]:
        self._live()
        if not any(version in subsets for subsets in self.town.subsets.values()):
            return {}
        return {c.uid: "no answer" if c.silent else self.town.under_way(c.uid) for c in self.town.clients}

    def rules(self) -> Sequence[Rule]:
        self._reach()
        return [Rule(f"DestinationRule {k}", tuple(v), (k, self.town.version)) for k, v in self.town.subsets.items()]

    def known_elsewhere(self, version: str) -> Sequence[str]:
        return ()

    def drop_subset(self, rule: Rule, version: str) -> None:
        self._before_write()
        m = self.town
        assert isinstance(rule.token, tuple)
        key, read = rule.token
        if read != m.version:
            raise Conflict("the object has been modified")
        assert all(version not in there for there in (m.weights, *m.others.values())), "subset before destination"
        assert not any(client.weights.get(version) for client in m.clients), "a proxy still routes there"
        assert not any(m.under_way(client.uid) for client in m.clients), "requests are under way"
        assert m.time - m.left_at.get(version, 0.0) >= DRAIN_SECONDS, "too early"
        m.subsets[key].remove(version)
        m.version += 1
        self._after_write()
        if self.count == self.lose_answer:
            raise Lost("connection reset after it happened")

    def retire(self, want: Want = RETIRE) -> Outcome:
        return Retirement(self, want, self.said.append).run()


@cache
def _released() -> Town:
    town = Town()
    assert Runner(town, "release").run(WANT).phase == "promoted"
    town.writes.clear()
    town.advance(20.0)
    return town


def promoted() -> Town:
    """v1 -> v2 is over, on both route objects."""
    return deepcopy(_released())


def check_retired(town: Town) -> None:
    """What is true afterwards: v1 is nowhere but where it is a rule's last subset, everything else as it was."""
    assert town.weights == {"v2": 100, "old": 0}
    assert town.others == {GATEWAY: {"v2": 100}}
    assert town.subsets == {"ns/app": ["v2", "old"], "ns/more": ["v1"]}
    record = town.record()
    assert record is not None
    assert (record.phase, record.retired, record.canary.name) == ("promoted", "v1", "v2")


def test_destination_then_subset_and_nothing_the_second_time() -> None:
    town = promoted()
    runner = Retirer(town)
    outcome = runner.retire()
    assert (outcome.phase, outcome.failed, outcome.changed) == ("retired", False, True)
    check_retired(town)
    assert [where for _name, _weights, where in town.writes] == ["VirtualService ns/app", f"VirtualService {GATEWAY}"]
    assert "DestinationRule ns/more keeps v1: it is the last subset there" in runner.said
    assert runner.said[-1].startswith("RETIRED  v1 is retired: no route to v1 in 3 of 3 proxies")
    again = Retirer(town, "again")
    second = again.retire()
    assert (second.phase, second.changed, second.failed, again.count) == ("retired", False, False, 0)
    assert town.lease is None


@pytest.mark.parametrize("fault", ["kill_before", "kill_after", "lose_answer", "lose_write"])
def test_a_fault_at_every_single_write(fault: str) -> None:
    for number in range(1, 10):
        town = promoted()
        runner = Retirer(town)
        setattr(runner, fault, number)
        try:
            runner.retire()
        except Killed:
            town.advance(20.0)
        again = Retirer(town, "again")
        assert again.retire().phase == "retired"
        check_retired(town)
        assert not Retirer(town, "third").retire().changed
        if runner.count < number:
            assert number > 3
            return
    pytest.fail("more writes than ten")


def test_somebody_else_writes_in_between() -> None:
    town = promoted()
    runner = Retirer(town)

    def meddle(_number: int) -> None:
        if runner.count < 6 and runner.count % 2:
            town.version += 1

    runner.before_write = meddle
    assert runner.retire().phase == "retired"
    check_retired(town)


def test_requests_under_way_are_waited_for() -> None:
    town = promoted()
    town.over_at["client-1"] = town.time + 40
    runner = Retirer(town)
    began = town.time
    assert runner.retire().phase == "retired"
    assert town.time - began >= 40
    assert "waits for 1 requests to v1 are still under way: client-1 1" in runner.said
    check_retired(town)


def test_requests_that_do_not_end_leave_the_subset() -> None:
    town = promoted()
    town.over_at["client-1"] = town.time + 500
    outcome = Retirer(town).retire(replace(RETIRE, drain_timeout=10))
    assert (outcome.phase, outcome.failed, outcome.changed) == ("retiring", True, True)
    assert "1 requests to v1 are still under way: client-1 1 after 10 s" in outcome.text
    assert "nothing was scaled or deleted" in outcome.text
    assert "v1" in town.subsets["ns/app"]
    town.advance(500)
    assert Retirer(town, "later").retire().phase == "retired"
    check_retired(town)


def test_a_proxy_that_does_not_tell_or_still_routes_there_keeps_it() -> None:
    town = promoted()
    town.clients[2].silent = True
    assert "client-2 no answer" in Retirer(town).retire(replace(RETIRE, drain_timeout=10)).text
    assert "v1" in town.subsets["ns/app"]
    town = promoted()
    town.clients[2].cut_off = True
    town.clients[2].weights = {"v1": 50, "v2": 50}
    outcome = Retirer(town).retire()
    assert (outcome.phase, outcome.failed) == ("retiring", True)
    assert "client-2" in outcome.text
    assert "v1" in town.subsets["ns/app"]


def test_requests_that_come_around_the_routes_are_told() -> None:
    town = promoted()
    runner = Retirer(town)
    assert runner.retire().phase == "retired"
    assert not any("WARNING" in line for line in runner.said)
    town = promoted()
    town.strangers = 20.0
    runner = Retirer(town)
    assert runner.retire().phase == "retired"
    assert any(line.startswith("WARNING  ") and "came in at v1" in line for line in runner.said)


def refused(town: Town, **want: Any) -> str:
    version, runner = town.version, Retirer(town)
    outcome = runner.retire(replace(RETIRE, **want))
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, False)
    assert (town.version, runner.count, town.lease) == (version, 0, None)
    return outcome.text


def test_what_is_refused() -> None:
    town = Town()
    assert "has no record of a promoted release; say with stable_version" in refused(town)
    assert "v1 is the only version with traffic" in refused(town, stable="v1")
    town.others[GATEWAY] = {"v1": 0, "v2": 100}
    town.set_by_hand("kubectl", v1=20, v2=80)
    assert "VirtualService ns/app gives v1 a weight of 20; move that" in refused(town, stable="v1")
    town = promoted()
    town.others[GATEWAY] = {"v1": 5, "v2": 95}
    assert f"VirtualService {GATEWAY} gives v1 a weight of 5; move that" in refused(town)
    town = promoted()
    town.foreign_users = ["VirtualService shop/web http[0] mirrors to it"]
    assert "v1 still has traffic: VirtualService shop/web http[0] mirrors to it" in refused(town)
    town = promoted()
    town.hashes["v1"] = "h9"
    assert "template h1 is now h9, maybe the next release" in refused(town)
    assert Retirer(town).retire(replace(RETIRE, stable="v1")).phase == "retired"
    town = Town()
    town.others = {}
    assert not Runner(town).one_pass(WANT).finished
    town.lease = None
    assert "is progressing at 10 % on VirtualService ns/app; promote or abort it" in refused(town)


def test_a_release_that_begins_in_between_keeps_its_version() -> None:
    town = promoted()
    runner = Retirer(town)

    def begin(number: int) -> None:
        if number == 2:  # the first route object is written, the second is not
            record = town.record()
            assert record is not None
            town.annotation = replace(record, phase="progressing", step=0, steps=STEPS).dumps()
            town.version += 1

    runner.before_write = begin
    outcome = runner.retire()
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, True)
    assert "v1" in town.subsets["ns/app"]
    assert "v1" in town.others[GATEWAY]


def test_a_route_that_comes_while_requests_are_waited_for_keeps_the_subset() -> None:
    town = promoted()
    town.over_at["client-1"] = town.time + 20
    runner = Retirer(town)
    sleep = runner.sleep

    def route(seconds: float) -> None:
        sleep(seconds)
        town.foreign_users = ["VirtualService shop/web http[0] gives it a weight of 5"]

    runner.sleep = route  # type: ignore[method-assign]
    outcome = runner.retire()
    assert (outcome.phase, outcome.failed, outcome.changed) == ("refused", True, True)
    assert "shop/web" in outcome.text
    assert "v1" in town.subsets["ns/app"]


def test_without_any_proxy_nothing_is_known() -> None:
    town = promoted()
    town.clients.clear()
    with pytest.raises(ReleaseError, match="no pod in the mesh has a sidecar"):
        Retirer(town).retire()
    assert town.writes == []


def test_without_a_record_a_named_version_is_retired() -> None:
    town = Town()
    town.others = {}
    outcome = Retirer(town).retire(replace(RETIRE, stable="old"))
    assert (outcome.phase, outcome.changed, town.annotation) == ("retired", True, None)
    assert town.weights == {"v1": 100, "v2": 0}
    assert town.subsets["ns/app"] == ["v1", "v2"]
    assert not Retirer(town).retire(replace(RETIRE, stable="old")).changed


def test_two_runs_and_orphans() -> None:
    town = promoted()
    town.lease = ("somebody", town.time + 15)
    with pytest.raises(Stopped, match="somebody"):
        Retirer(town).retire()
    town.lease = None
    orphan = Retirer(town)
    orphan.orphan = True
    with pytest.raises(Orphaned):
        orphan.retire()
    assert town.writes == []


def test_an_object_that_changes_faster_than_it_can_be_written() -> None:
    town = promoted()
    runner = Retirer(town)

    def meddle(_number: int) -> None:
        town.version += 1

    runner.before_write = meddle
    with pytest.raises(ReleaseError, match="could not be written in 20 tries"):
        runner.retire()
