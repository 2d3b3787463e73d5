# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases judged by more than bad answers: slow ones, requests without any, and verdicts that are only said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._capacity import Capacity
from ansible_collections.progressive.istio.plugins.module_utils._evidence import judge_again, loads
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Mesh,
    Runner,
    check_end,
    fault_at_every_write,
    steady,
)


def mesh(seed: int, hangs: float = 0.0, slow: float = 0.0, bad: float = 0.0) -> Mesh:
    """Clients with a history of a thousand good requests each."""
    made = Mesh(seed, steady(bad), steady(0.0))
    made.hangs["v2"], made.slow["v2"] = steady(hangs), steady(slow)
    for _unused in range(30):
        made.advance(1.0)
    return made


@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize(("hangs", "most"), [(1.0, 90), (0.2, 60)])
def test_a_canary_that_does_not_answer_is_taken_back(hangs: float, most: int, patient: bool) -> None:
    made = mesh(1, hangs=hangs)
    made.patient = patient
    runner = Runner(made)
    outcome = runner.run(WANT)
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    assert "without answer: v2 " in outcome.text
    assert outcome.verdict is not None
    assert outcome.verdict.decided_by == "unanswered"
    hung = sum(sum(held.values()) for client in made.clients for held in (client.hung, client.waiting))
    assert hung <= most * (5 if patient else 1)  # clients that wait are noticed when they have waited


def test_slow_answers_are_found_and_latency_can_be_left_out() -> None:
    made = mesh(2, slow=0.1)
    runner = Runner(made)
    outcome = runner.run(WANT)
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    assert "slower than 100 ms: v2 " in outcome.text
    assert sum(client.late["v2"] for client in made.clients) < 40
    assert "judges requests that are bad, without answer, slower than 100 ms (v1 so far: 0 of " in runner.said[1]
    left = mesh(2, slow=0.1)
    outcome = Runner(left).run(replace(WANT, latency=None))
    check_end(left, outcome)
    assert outcome.phase == "promoted"


def test_what_is_slow_is_found_out_on_the_way_where_stable_has_no_history() -> None:
    young = Mesh(2, steady(0.0), steady(0.0))
    young.slow["v2"] = steady(0.1)
    runner = Runner(young)
    outcome = runner.run(WANT)
    check_end(young, outcome)
    assert outcome.phase == "aborted"
    assert "slower than 100 ms: v2 " in outcome.text
    told = [line for line in runner.said if "judges requests" in line]
    assert ["is found out when v1 has had 500 requests" in line for line in told] == [True, False]
    assert "slower than 100 ms (v1 so far: 0 of " in told[1]
    assert outcome.evidence is not None
    again = judge_again(outcome.evidence, WANT.tolerance, WANT.latency)
    assert (again.kind, again.decided_by) == ("fail", "latency")


def test_the_first_seconds_are_slow_and_nobody_minds() -> None:
    made = mesh(3)
    begun = made.time
    made.slow["v2"] = lambda time: 0.9 if time < begun + 9 else 0.0
    outcome = Runner(made).run(WANT)
    check_end(made, outcome)
    assert outcome.phase == "promoted"
    cold = mesh(3)
    cold.slow["v2"] = lambda time: 0.9 if time < begun + 9 else 0.0
    assert Runner(cold).run(replace(WANT, warm_up=0.0)).phase == "aborted"


def test_both_versions_slow_blames_nobody() -> None:
    made = mesh(4)
    since = made.time + 20
    for version in ("v1", "v2"):
        made.slow[version] = lambda time: 0.3 if time > since else 0.0
        made.hangs[version] = lambda time: 0.1 if time > since else 0.0
    outcome = Runner(made).run(replace(WANT, max_wait=120))
    assert outcome.phase in ("held", "promoted")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("hangs", "slow"), [(0.3, 0.0), (0.0, 0.3)])
def test_a_fault_at_every_single_write_leads_to_the_same_end(hangs: float, slow: float, fault: str) -> None:
    for made, outcome in fault_at_every_write(lambda: mesh(5, hangs, slow), WANT, fault):
        check_end(made, outcome)
        assert outcome.phase == "aborted"


def test_the_verdict_comes_out_again_from_what_is_stored() -> None:
    for made in (mesh(6, slow=0.1), mesh(7, hangs=0.3), mesh(8, bad=0.05), mesh(9)):
        outcome = Runner(made).run(WANT)
        assert made.evidence is not None
        again = judge_again(loads(made.evidence), WANT.tolerance, WANT.latency)
        assert outcome.verdict is not None
        assert (again.kind, again.decided_by) == (outcome.verdict.kind, outcome.verdict.decided_by)


def test_it_is_said_with_which_codes_it_failed() -> None:
    made = mesh(10, bad=0.5)
    runner = Runner(made)
    outcome = runner.run(WANT)
    assert outcome.evidence is not None
    bad = sum(client.counts["v2"][1] for client in made.clients)
    assert outcome.evidence.blame == {"503": bad}
    assert f"ABORTED  by code: 503 {bad}" in runner.said


# ---------------------------------------------------------------- observe


STEPS = (Step(10, 20), Step(50, 20), Step(100, 20))


def test_observed_verdicts_are_said_and_not_followed() -> None:
    made = mesh(20, bad=0.2)
    runner = Runner(made)
    outcome = runner.run(replace(WANT, steps=STEPS, observe=True))
    check_end(made, outcome)
    assert outcome.phase == "promoted"
    assert [w[1]["v2"] for w in made.writes] == [10, 50, 100, 100]
    said = [line for line in runner.said if "OBSERVE  would abort: bad: v2 " in line]
    assert list(dict.fromkeys(line.split()[1] for line in said)) == ["1/3", "2/3", "3/3"], "once in every pass"
    assert any(line.endswith("OBSERVE: goes on by time alone, whatever the verdict") for line in runner.said)
    assert outcome.verdict is not None
    assert outcome.verdict.kind == "fail"


def test_observing_goes_on_by_time_without_traffic_and_says_that_it_would_wait() -> None:
    made = Mesh(21, steady(0.0), steady(0.0), rps=0.0)
    runner = Runner(made)
    began = made.time
    outcome = runner.run(replace(WANT, steps=STEPS, observe=True))
    check_end(made, outcome)
    assert outcome.phase == "promoted"
    assert 60 <= made.time - began < 80
    assert any("OBSERVE  goes on, would wait: no request has reached the canary" in line for line in runner.said)


def test_observing_sends_nobody_to_a_canary_that_is_not_ready() -> None:
    made = mesh(22)
    made.endpoints_at["v2"] = made.time + 1e9
    runner = Runner(made)
    with pytest.raises(ValueError, match="no healthy endpoint of v2"):
        runner.run(replace(WANT, steps=STEPS, observe=True, verify_timeout=5))


def test_a_run_that_takes_over_observes_as_the_release_began() -> None:
    made = mesh(23, bad=0.2)
    assert Runner(made).one_pass(replace(WANT, steps=STEPS, observe=True)).phase == "progressing"
    made.advance(20.0)  # its lease runs out
    outcome = Runner(made, "next").run(replace(WANT, steps=STEPS))
    assert outcome.phase == "promoted"


def test_a_canary_at_its_maximum_waits_and_is_not_blamed() -> None:
    """Short in the first step for longer than the step takes, then no longer."""
    made = mesh(5)
    made.capacity = Capacity({"v2": ("HorizontalPodAutoscaler hello-v2 wants more than its maximum of 3",)})
    outcome = Runner(made).run(replace(WANT, max_wait=120.0))
    assert outcome.phase == "held"
    assert "v2 is short of capacity: HorizontalPodAutoscaler hello-v2" in outcome.text
    made.capacity = Capacity()
    outcome = Runner(made).run(replace(WANT, retry=True))
    check_end(made, outcome)
    assert outcome.phase == "promoted"


@pytest.mark.parametrize(("short", "asked"), [({"v1": ("cpu",), "v2": ("cpu",)}, True), ({"v2": ("cpu",)}, False)])
def test_what_both_are_short_of_and_what_is_not_asked_for_holds_nobody(
    short: dict[str, tuple[str, ...]], asked: bool
) -> None:
    made = mesh(6)
    made.capacity = Capacity(short)
    outcome = Runner(made).run(replace(WANT, capacity=asked))
    check_end(made, outcome)
    assert outcome.phase == "promoted"
