# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole releases on the simulated World: what must hold whatever happens, and wherever a run is killed."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._objects import refusal, warning
from ansible_collections.progressive.istio.plugins.module_utils._plan import Crash, Outcome, ReleaseError, Want
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Orphaned, Stopped
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    STEPS,
    WANT,
    Killed,
    Mesh,
    Programmed,
    Runner,
    check_end,
    fault_at_every_write,
    steady,
)
from ansible_collections.progressive.istio.tests.sim.simulated_shop import Client


def passes_said(runner: Runner) -> int:
    return sum("  PASS  " in line for line in runner.said)


def test_healthy_is_promoted_step_by_step() -> None:
    mesh = Mesh(1, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    outcome = runner.run(WANT)
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"
    assert outcome.changed
    assert [w[1]["v2"] for w in mesh.writes] == [10, 50, 100, 100]
    assert passes_said(runner) == len(STEPS)
    assert runner.told == ["Normal CanaryStarted", *["Normal CanaryStep"] * 2, "Normal CanaryPromoted"]
    again = Runner(mesh, "again").run(WANT)
    assert (again.phase, again.changed, again.failed) == ("promoted", False, False)


def test_evidence_equals_what_was_served() -> None:
    mesh = Mesh(2, steady(0.0), steady(0.001))
    outcome = Runner(mesh).run(WANT)
    assert outcome.evidence is not None
    windows = outcome.evidence.windows
    assert sum(w.n_c for w in windows) == mesh.served["v2"][0]
    assert sum(w.n_b for w in windows) == mesh.served["v1"][0]
    assert sum(w.x_b for w in windows) == mesh.served["v1"][1]


@pytest.mark.parametrize(("rate", "most_failed"), [(1.0, 40), (0.2, 40), (0.05, 40)])
def test_broken_is_taken_back_and_refused(rate: float, most_failed: int) -> None:
    mesh = Mesh(3, steady(rate), steady(0.0))
    runner = Runner(mesh)
    outcome = runner.run(WANT)
    check_end(mesh, outcome)
    assert (outcome.phase, outcome.failed) == ("aborted", True)
    assert [w[1]["v2"] for w in mesh.writes] == [10, 0]
    assert mesh.served["v2"][1] <= most_failed
    assert runner.told == ["Normal CanaryStarted", "Warning CanaryAborted"]
    again = Runner(mesh, "again").run(WANT)
    assert (again.phase, again.failed, again.changed) == ("aborted", True, False)
    assert "has not changed" in again.text
    mesh.hashes["v2"], mesh.rates["v2"] = "h3", steady(0.0)
    mended = Runner(mesh, "mended").run(WANT)
    assert mended.phase == "promoted"


def test_it_is_said_what_a_broken_version_has_cost() -> None:
    mesh = Mesh(3, steady(1.0), steady(0.0))
    runner = Runner(mesh)
    runner.run(WANT)
    told = [re.search(r"ABORTED  (\d+) bad answers of the canary, (\d+\.\d) s from", line) for line in runner.said]
    (cost,) = filter(None, told)
    assert int(cost[1]) == mesh.served["v2"][1]
    assert float(cost[2]) < 5


def test_retry_releases_a_rejected_version_again() -> None:
    mesh = Mesh(3, steady(1.0), steady(0.0))
    Runner(mesh).run(WANT)
    mesh.rates["v2"] = steady(0.0)
    assert Runner(mesh).run(replace(WANT, retry=True)).phase == "promoted"


def test_bad_only_at_full_weight_goes_back() -> None:
    mesh = Mesh(4, steady(0.0), steady(0.0))
    mesh.rates["v2"] = lambda _time: 0.2 if mesh.weights["v2"] == 100 else 0.0
    outcome = Runner(mesh).run(WANT)
    check_end(mesh, outcome)
    assert outcome.phase == "aborted"
    assert [w[1]["v2"] for w in mesh.writes] == [10, 50, 100, 0]


def test_no_traffic_is_held_and_nobody_blamed() -> None:
    mesh = Mesh(5, steady(0.0), steady(0.0), rps=0.0)
    outcome = Runner(mesh).run(replace(WANT, max_wait=30))
    assert (outcome.phase, outcome.failed, mesh.weights["v2"]) == ("held", True, 10)
    assert "no_data" in outcome.text
    again = Runner(mesh).run(replace(WANT, max_wait=30))
    assert (again.phase, again.failed, again.changed) == ("held", True, False)
    mesh.advance(4000)
    assert Runner(mesh).run(replace(WANT, max_hold=3600)).phase == "aborted"


def test_nothing_passes_while_too_many_clients_are_not_seen_but_a_failure_is_found() -> None:
    mesh = Mesh(21, steady(0.0), steady(0.0))
    mesh.unseen = 0.5
    outcome = Runner(mesh).run(replace(WANT, max_wait=150))
    assert outcome.phase == "held"
    assert "coverage 6" in outcome.text
    mesh.advance(5)
    assert Runner(mesh).run(replace(WANT, min_coverage=0.6)).phase == "promoted"
    mesh = Mesh(22, steady(0.3), steady(0.0))
    mesh.unseen = 0.9
    assert Runner(mesh).run(WANT).phase == "aborted"


def test_held_release_goes_on_when_evidence_has_come() -> None:
    mesh = Mesh(6, steady(0.0), steady(0.0), rps=0.0)
    assert Runner(mesh).run(replace(WANT, max_wait=30)).phase == "held"
    mesh.rps = 100.0
    mesh.advance(200)
    assert Runner(mesh).run(WANT).phase == "promoted"


@pytest.mark.parametrize("on_inconclusive", ["abort", "promote"])
def test_inconclusive_overrides(on_inconclusive: str) -> None:
    mesh = Mesh(7, steady(0.0), steady(0.0), rps=0.5)
    runner = Runner(mesh)
    outcome = runner.run(replace(WANT, max_wait=20, on_inconclusive=on_inconclusive))
    assert outcome.phase == {"abort": "aborted", "promote": "promoted"}[on_inconclusive]
    assert any("OVERRIDE" in line for line in runner.said) == (on_inconclusive == "promote")


def test_an_override_stops_at_until_step_as_well() -> None:
    mesh = Mesh(33, steady(0.0), steady(0.0), rps=0.0)
    want = replace(WANT, max_wait=30, until_step=1, on_inconclusive="promote")
    outcome = Runner(mesh).run(want)
    assert (outcome.phase, outcome.finished, outcome.weight, mesh.weights["v2"]) == ("progressing", True, 10, 10)


def test_a_client_that_cannot_be_read_is_never_a_pass() -> None:
    mesh = Mesh(8, steady(0.0), steady(0.0))
    mesh.advance(1)
    runner = Runner(mesh)
    first = runner.one_pass(WANT)
    assert not first.finished
    mesh.clients[0].silent = True
    outcome = runner.run(replace(WANT, max_wait=60))
    assert outcome.phase == "held"
    assert "client-0" in outcome.text
    mesh.clients[0].silent = False
    mesh.advance(60)
    assert Runner(mesh, "later").run(WANT).phase == "promoted"


def test_a_proxy_cut_off_from_istiod_is_named_and_the_release_taken_back() -> None:
    mesh = Mesh(9, steady(0.0), steady(0.0))
    mesh.clients[1].cut_off = True
    runner = Runner(mesh)
    outcome = runner.run(replace(WANT, max_wait=60, verify_timeout=10))
    assert outcome.phase == "aborted"
    assert "client-1" in outcome.text
    assert any("not programmed" in line and "client-1" in line for line in runner.said)
    assert not any("PASS" in line for line in runner.said)


def test_another_version_is_refused_while_one_is_released() -> None:
    mesh = Mesh(14, steady(0.0), steady(0.0))
    assert not Runner(mesh).one_pass(WANT).finished
    other = Runner(mesh, "runner-1").run(replace(WANT, canary="old"))
    assert (other.phase, other.failed) == ("refused", True)


def test_canary_changed_in_mid_release_is_taken_back() -> None:
    mesh = Mesh(15, steady(0.0), steady(0.0))
    assert not Runner(mesh).one_pass(WANT).finished
    mesh.hashes["v2"] = "h9"
    outcome = Runner(mesh, "runner-1").run(WANT)
    assert outcome.phase == "aborted"
    assert "h9" in outcome.text


def test_canary_changed_while_it_is_watched_is_taken_back() -> None:
    mesh = Mesh(29, steady(0.0), steady(0.0))
    began = mesh.time

    def rate(time: float) -> float:
        if time > began + 8:
            mesh.hashes["v2"] = "h9"
        return 0.0

    mesh.rates["v2"] = rate
    outcome = Runner(mesh).run(WANT)
    assert outcome.phase == "aborted"
    assert mesh.time < began + 12


def test_canary_without_pods_is_taken_back() -> None:
    mesh = Mesh(16, steady(0.0), steady(0.0), rps=0.0)
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.ready["v2"] = 0
    outcome = runner.run(WANT)
    assert outcome.phase == "aborted"


def test_both_versions_broken_blames_nobody() -> None:
    mesh = Mesh(17, steady(0.0), steady(0.0))
    mesh.rates = {"v1": steady(0.3), "v2": steady(0.3)}
    outcome = Runner(mesh).run(replace(WANT, max_wait=120))
    assert outcome.phase in ("held", "promoted")
    assert mesh.weights["v2"] >= 10


def failing(mesh: Mesh, begin: float, end: float) -> None:
    """A dependency of both versions fails from ``begin`` to ``end`` seconds after the release's start."""
    mesh.advance(600)  # so that it is known what stable is like
    start = mesh.time

    def rate(now: float) -> float:
        return 0.3 if begin <= now - start < end else 0.0

    mesh.rates = {"v1": rate, "v2": rate}


def test_a_release_waits_until_a_shared_dependency_is_back() -> None:
    mesh = Mesh(17, steady(0.0), steady(0.0))
    failing(mesh, 100, 160)
    runner = Runner(mesh)
    outcome = runner.run(WANT)
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"
    assert any("  ENVIRONMENT  " in line and "what it was like before" in line for line in runner.said)


def test_a_dependency_that_stays_away_holds_the_release_and_blames_nobody() -> None:
    mesh = Mesh(17, steady(0.0), steady(0.0))
    failing(mesh, 20, 10_000)
    outcome = Runner(mesh).run(replace(WANT, max_wait=120))
    assert outcome.phase == "held"
    assert "environment: stable itself is beyond 0.5 %" in outcome.text


def test_requests_that_are_not_split_as_the_weight_says_hold_the_release() -> None:
    for by_weight in (True, False):
        mesh = Mesh(17, steady(0.0), steady(0.0))
        mesh.detour, mesh.by_weight = 0.2, by_weight
        outcome = Runner(mesh).run(WANT)
        assert outcome.phase == ("held" if by_weight else "promoted"), "another route is known to lead there"
        assert outcome.text.startswith("ROUTING  the canary has ") == by_weight


def test_a_canary_that_gets_nothing_although_the_proxies_have_its_weight_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Runner, "programmed", lambda *_given: Programmed(3, 3, ()))
    for passes, share in ((0, "0 %"), (1, r"\d\.?\d* %")):  # from the beginning, and after some traffic
        mesh = Mesh(17, steady(0.0), steady(0.0))
        for _pass in range(passes):
            assert not Runner(mesh).one_pass(WANT).finished
        for client in mesh.clients:
            client.cut_off, client.weights = True, {"v1": 100, "v2": 0, "old": 0}
        outcome = Runner(mesh).run(WANT)
        assert outcome.phase == "aborted"
        assert re.search(f"ROUTING  the canary has {share} of .*; it gets nothing now", outcome.text)


def test_a_canary_that_crashes_is_taken_back_unless_stable_does_or_it_was_before() -> None:
    for seconds, also, phase in ((1.0, (), "aborted"), (1.0, ("v1",), "promoted"), (-1.0, (), "promoted")):
        mesh = Mesh(17, steady(0.0), steady(0.0))
        crash = Crash(mesh.time + seconds, "v2-0 CrashLoopBackOff (app, exit code 1, 3 restarts)")
        mesh.crashes = dict.fromkeys(("v2", *also), (crash,))
        outcome = Runner(mesh).run(WANT)
        check_end(mesh, outcome)
        assert outcome.phase == phase
        assert ("stable's do not: v2-0 CrashLoopBackOff" in outcome.text) == (phase == "aborted")


@pytest.mark.parametrize(
    ("evicted", "crashed", "blamed"),
    [(1.0, False, False), (None, False, True), (-60.0, False, True), (1.0, True, True)],
)
def test_a_canary_whose_pods_were_evicted_is_taken_back_and_not_blamed(
    evicted: float | None, crashed: bool, blamed: bool
) -> None:
    mesh = Mesh(17, lambda time: float(began < time < began + 20), steady(0.0))
    began = mesh.time
    mesh.taken["v2"] = () if evicted is None else (Crash(began + evicted, "v2-0 EvictionByEvictionAPI"),)
    mesh.crashes["v2"] = (Crash(began + 1, "v2-0 OOMKilled"),) if crashed else ()
    outcome = Runner(mesh).run(WANT)
    check_end(mesh, outcome)
    assert outcome.phase == "aborted", "its clients are not left with it"
    said = "v2 was taken back: environment: the cluster takes pods of it away, or cannot run them: v2-0 Eviction"
    assert outcome.text.startswith(said) == (not blamed)
    mesh.advance(60)
    mesh.crashes["v2"] = ()
    assert Runner(mesh).run(WANT).phase == ("aborted" if blamed else "promoted")


def test_abort_on_request_ends_green_and_twice_is_once() -> None:
    mesh = Mesh(18, steady(0.0), steady(0.0))
    assert not Runner(mesh).one_pass(WANT).finished
    outcome = Runner(mesh).run(Want("", state="aborted"))
    check_end(mesh, outcome)
    assert (outcome.failed, outcome.changed) == (False, True)
    again = Runner(mesh).run(Want("", state="aborted"))
    assert (again.failed, again.changed, again.finished) == (False, False, True)


def test_abort_overrules_a_live_runner_which_then_stops() -> None:
    mesh = Mesh(26, steady(0.0), steady(0.0))
    runner = Runner(mesh, "one")
    assert not runner.one_pass(WANT).finished
    assert Runner(mesh, "on-call").run(Want("", state="aborted")).phase == "aborted"
    before = len(mesh.writes)
    outcome = runner.run(WANT)
    assert (outcome.phase, outcome.changed, len(mesh.writes)) == ("aborted", False, before)


def test_no_weight_before_the_proxies_have_an_endpoint() -> None:
    mesh = Mesh(27, steady(0.0), steady(0.0))
    mesh.advance(1)
    mesh.endpoints_at["v2"] = mesh.time + 5
    Runner(mesh).run(replace(WANT, until_step=1))
    assert mesh.record() is not None
    late = Mesh(28, steady(0.0), steady(0.0))
    late.endpoints_at["v2"] = late.time + 500
    with pytest.raises(ReleaseError, match="no healthy endpoint of v2"):
        Runner(late).run(WANT)
    assert late.writes == []


def test_second_runner_is_refused_and_writes_nothing() -> None:
    mesh = Mesh(19, steady(0.0), steady(0.0))
    assert not Runner(mesh, "one").one_pass(WANT).finished
    before = len(mesh.writes)
    with pytest.raises(Stopped, match="one"):
        Runner(mesh, "two").run(WANT)
    assert len(mesh.writes) == before


def test_an_api_server_that_is_away_at_the_start_is_told_at_once() -> None:
    mesh = Mesh(32, steady(0.0), steady(0.0))
    mesh.away_until = mesh.time + 60
    began = mesh.time
    with pytest.raises(ReleaseError, match=r"^connection refused$"):
        Runner(mesh).run(WANT)
    assert mesh.time == began


def test_an_orphan_writes_nothing_more() -> None:
    mesh = Mesh(20, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    before, evidence = len(mesh.writes), mesh.evidence
    runner.orphan = True
    with pytest.raises(Orphaned):
        runner.run(WANT)
    assert (len(mesh.writes), mesh.evidence) == (before, evidence)


def test_api_server_away_for_a_minute_costs_nothing() -> None:
    mesh = Mesh(22, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.away_until = mesh.time + 60
    outcome = runner.run(WANT)
    check_end(mesh, outcome)
    assert outcome.phase == "promoted"


def test_api_server_away_for_long_is_said_and_the_next_run_goes_on() -> None:
    mesh = Mesh(23, steady(0.0), steady(0.0))
    runner = Runner(mesh)
    assert not runner.one_pass(WANT).finished
    mesh.away_until = mesh.time + 600
    with pytest.raises(ReleaseError, match="has not answered"):
        runner.run(WANT)
    mesh.advance(600)
    assert Runner(mesh, "later").run(WANT).phase == "promoted"


def test_all_at_once_is_judged_against_what_stable_did_before() -> None:
    mesh = Mesh(24, steady(0.2), steady(0.001))
    outcome = Runner(mesh).run(replace(WANT, steps=(Step(100, 5),)))
    assert outcome.phase == "aborted"
    assert mesh.served["v2"][1] < 100
    healthy = Mesh(25, steady(0.001), steady(0.001))
    assert Runner(healthy).run(replace(WANT, steps=(Step(100, 5),))).phase == "promoted"


def test_a_refusal_of_the_preflight_writes_nothing() -> None:
    mesh = Mesh(33, steady(0.0), steady(0.0))
    mesh.findings = [refusal("an older route"), refusal("a rule that hides v2"), warning("a pod without a sidecar")]
    runner = Runner(mesh)
    with pytest.raises(ReleaseError, match=r"^an older route; also: a rule that hides v2$"):
        runner.run(WANT)
    assert runner.said == ["WARNING  a pod without a sidecar"]
    assert (mesh.writes, mesh.annotation, mesh.evidence, mesh.lease, runner.count) == ([], None, None, None, 0)
    assert mesh.weights == {"v1": 100, "v2": 0, "old": 0}
    mesh.set_by_hand("kubectl", v1=80, v2=20)
    with pytest.raises(ReleaseError, match="an older route"):
        runner.run(replace(WANT, adopt=True))
    assert mesh.writes == []


def test_a_release_begins_in_spite_of_warnings_and_is_not_looked_over_again() -> None:
    mesh = Mesh(34, steady(0.0), steady(0.0))
    mesh.findings = [refusal("an older route"), warning("a pod without a sidecar")]
    runner = Runner(mesh)
    assert not runner.one_pass(replace(WANT, preflight="warn")).finished
    assert runner.said[:2] == ["WARNING  an older route", "WARNING  a pod without a sidecar"]
    mesh.findings = [refusal("a rule that hides v2")]
    assert runner.run(WANT).phase == "promoted", "under way it goes on, and an abort is never kept from anybody"
    assert sum("WARNING" in line for line in runner.said) == 2


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_single_write_leads_to_the_same_end(rate: float, fault: str) -> None:
    for mesh, outcome in fault_at_every_write(lambda: Mesh(30, steady(rate), steady(0.0)), WANT, fault):
        assert outcome.phase == ("aborted" if rate else "promoted")
        check_end(mesh, outcome)


RANDOM_RELEASES = 300


def test_random_releases() -> None:
    """Random plans, rates, faults, clients that come and go, drift and kills; the invariants hold in every one."""
    ends = {"promoted": 0, "aborted": 0, "held": 0, "refused": 0}
    for seed in range(RANDOM_RELEASES):
        rng = random.Random(seed)
        bad = rng.random() < 0.4
        rate = rng.choice([0.05, 0.2, 1.0]) if bad else rng.choice([0.0, 0.0005])
        mesh = Mesh(
            seed,
            steady(rate),
            steady(rng.choice([0.0, 0.0005])),
            rps=rng.choice([100.0, 400.0]),
            clients=rng.randint(1, 4),
        )
        weights = [*sorted(rng.sample(range(5, 100), rng.randint(0, 2))), 100]
        want = replace(WANT, steps=tuple(Step(w, rng.randint(0, 5)) for w in weights), max_wait=3600)
        outcome: Outcome | None = None
        for attempt in range(12):
            faults = {rng.choice(FAULTS): rng.randint(1, 25)}
            runner = Runner(mesh, f"runner-{attempt}", **(faults if attempt < 8 else {}))
            try:
                outcome = runner.run(want, budget=rng.choice([1.0, 20.0, 60.0]))
            except Killed:
                mesh.advance(rng.choice([0.5, 16.0, 40.0]))
                if mesh.lease:
                    mesh.advance(max(0.0, mesh.lease[1] - mesh.time) + 0.1)
            if outcome:
                break
            if rng.random() < 0.2:
                mesh.clients.append(Client(f"new-{attempt}", mesh.time, dict(mesh.weights)))
            if rng.random() < 0.2:
                restarted = rng.choice(mesh.clients)
                restarted.counts, restarted.epoch = {}, restarted.epoch + 1
        assert outcome is not None, seed
        ends[outcome.phase] += 1
        check_end(mesh, outcome)
        if outcome.phase == "promoted":
            assert not bad, f"seed {seed}: a version with {rate:.0%} errors was promoted"
        else:
            assert bad, f"seed {seed}: a healthy version was taken back: {outcome.text}"
        assert not Runner(mesh, "again").run(want).changed, seed
    assert ends["promoted"] > RANDOM_RELEASES / 3
    assert ends["aborted"] > RANDOM_RELEASES / 4
