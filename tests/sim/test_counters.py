# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases judged by counters of the user's own: taken back by them alone, held without them, killed in the middle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._counters import Counter
from ansible_collections.progressive.istio.plugins.module_utils._evidence import judge_again, loads
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Verdict
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Mesh,
    Runner,
    check_end,
    fault_at_every_write,
    steady,
)
from ansible_collections.progressive.istio.tests.sim.simulated_shop import Shop

ORDERS = Counter("orders", 'orders_total{version="{version}"}', 'orders_failed_total{version="{version}"}', max_age=20)
WISH = replace(WANT, counters=(ORDERS,))


def mesh(seed: int, bad: float, stable: float = 0.0) -> Mesh:
    """A version whose answers are all good, and some of whose orders fail."""
    made = Mesh(seed, steady(0.0), steady(0.0))
    made.shop = Shop({"v1": steady(stable), "v2": steady(bad)})
    for _unused in range(30):
        made.advance(1.0)
    return made


def shop_of(made: Mesh) -> Shop:
    assert made.shop is not None
    return made.shop


def part(outcome: Outcome) -> Verdict:
    assert outcome.verdict is not None
    return next(one for one in outcome.verdict.also if one.metric == "orders")


@pytest.mark.parametrize("stable", [0.0, 0.02])
def test_a_canary_whose_orders_fail_is_taken_back_by_name(stable: float) -> None:
    made = mesh(1, bad=0.2, stable=stable)
    runner = Runner(made)
    outcome = runner.run(WISH)
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    assert "orders bad: v2 " in outcome.text
    assert outcome.verdict is not None
    assert (outcome.verdict.kind, outcome.verdict.decided_by) == ("fail", "orders")
    assert outcome.verdict.release.x_c == 0
    assert any("judges requests that are bad, without answer" in line and "orders bad" in line for line in runner.said)
    assert made.evidence is not None
    again = judge_again(loads(made.evidence), WISH.tolerance, WISH.latency)
    assert (again.kind, again.decided_by) == ("fail", "orders")


def test_the_same_failures_of_both_versions_blame_nobody_and_a_good_canary_is_promoted() -> None:
    for bad, stable in ((0.0, 0.0), (0.02, 0.02)):
        made = mesh(2, bad=bad, stable=stable)
        outcome = Runner(made).run(replace(WISH, max_wait=1800))
        check_end(made, outcome)
        assert outcome.phase == "promoted"
        # Nothing that was counted is judged twice, and nothing that was judged was not counted.
        assert part(outcome).release.n_c <= shop_of(made).counts["v2"][0]
        assert part(outcome).release.x_c <= shop_of(made).counts["v2"][1]


def test_without_the_prometheus_it_is_held_and_goes_on_when_it_is_back() -> None:
    made = mesh(3, bad=0.0)
    begun = made.time
    shop_of(made).away = lambda time: time < begun + 300
    runner = Runner(made)
    outcome = runner.run(replace(WISH, max_wait=200))
    assert outcome.phase == "held"
    assert outcome.verdict is not None
    assert (outcome.verdict.kind, outcome.verdict.decided_by) == ("no_data", "orders")
    assert "counter orders: Prometheus does not answer" in outcome.text
    made.advance(120.0)
    outcome = Runner(made, "next").run(replace(WISH, retry=True))
    check_end(made, outcome)
    assert outcome.phase == "promoted"


def test_failures_while_the_prometheus_was_away_are_counted_when_it_is_back() -> None:
    made = mesh(4, bad=0.0)
    begun = made.time
    shop = shop_of(made)
    shop.rates["v2"] = lambda time: 0.3 if begun + 15 < time < begun + 30 else 0.0
    shop.away = lambda time: begun + 14 < time < begun + 40
    outcome = Runner(made).run(WISH)
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    assert part(outcome).metric == "orders"
    assert part(outcome).release.x_c == shop.counts["v2"][1]


def test_a_counter_that_is_nowhere_or_stands_still_holds_it() -> None:
    made = mesh(5, bad=0.0)
    del shop_of(made).rates["v2"]
    shop_of(made).samples.clear()
    shop_of(made).scrape = 1e9
    outcome = Runner(made).run(replace(WISH, max_wait=200))
    assert outcome.phase == "held"
    assert "counter orders: there is no series of orders_total" in outcome.text
    made = mesh(5, bad=0.0)
    begun, shop = made.time, shop_of(made)
    runner = Runner(made)
    assert runner.one_pass(WISH, budget=8.0).phase == "progressing"
    assert made.time > begun
    shop.scrape = 1e9
    outcome = runner.run(replace(WISH, max_wait=200))
    assert outcome.phase == "held"
    assert "counter orders: the newest sample is " in outcome.text


def test_a_counter_of_failures_that_does_not_exist_is_not_zero_unless_it_is_a_label_of_the_same_metric() -> None:
    labelled = replace(ORDERS, bad='orders_total{version="{version}",result="failed"}')
    missing = "v2 has no series of orders_failed_total"
    for counter, phase, said in ((ORDERS, "held", missing), (labelled, "promoted", "")):
        made = mesh(6, bad=0.0)
        shop_of(made).lazy = True
        outcome = Runner(made).run(replace(WISH, counters=(counter,), max_wait=200))
        assert outcome.phase == phase
        assert said in outcome.text
    made = mesh(6, bad=0.2)
    shop_of(made).lazy = True
    outcome = Runner(made).run(replace(WISH, counters=(labelled,)))
    assert outcome.phase == "aborted"
    assert part(outcome).release.x_c > 0


def test_a_restart_is_no_failure_and_hides_none() -> None:
    for bad, phase in ((0.0, "promoted"), (0.1, "aborted")):
        made = mesh(7, bad=bad)
        runner = Runner(made)
        for _unused in range(4):
            if runner.one_pass(WISH, budget=3.0).finished:
                break
            shop_of(made).restart("v2")
            shop_of(made).restart("v1")
        outcome = runner.run(WISH)
        check_end(made, outcome)
        assert outcome.phase == phase


def test_bad_orders_of_one_weight_never_count_for_another() -> None:
    made = mesh(8, bad=0.0)
    outcome = Runner(made).run(WISH)
    assert outcome.evidence is not None
    windows = outcome.evidence.also["orders"]
    assert [w.step for w in windows] == sorted(w.step for w in windows)
    assert {(w.step, w.weight) for w in windows} == {(0, 10), (1, 50), (2, 100)}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("bad", "phase"), [(0.0, "promoted"), (0.3, "aborted")])
def test_a_fault_at_every_single_write_leads_to_the_same_end(bad: float, phase: str, fault: str) -> None:
    found = 0
    for made, outcome in fault_at_every_write(lambda: mesh(9, bad), WISH, fault):
        check_end(made, outcome)
        assert outcome.phase == phase
        found += 1
    assert found > 3


def test_a_run_that_is_killed_takes_its_counts_up_again() -> None:
    made = mesh(10, bad=0.0)
    Runner(made).one_pass(WISH, budget=20.0)
    assert made.evidence is not None
    before = loads(made.evidence)
    kept = before.counters["orders"]
    assert kept.look is not None
    made.advance(20.0)
    shop_of(made).rates["v2"] = steady(0.3)
    made.advance(20.0)  # nobody looks
    outcome = Runner(made, "next").run(WISH)
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    judged = part(outcome).release
    assert judged.x_c > 10
    assert judged.x_c <= shop_of(made).counts["v2"][1]


def test_counters_that_come_or_change_in_the_middle_begin_anew() -> None:
    made = mesh(11, bad=0.0)
    Runner(made).one_pass(WANT, budget=20.0)
    made.advance(20.0)
    outcome = Runner(made, "next").run(WISH)
    check_end(made, outcome)
    assert outcome.phase == "promoted"
    assert part(outcome).release.n_c > 0
