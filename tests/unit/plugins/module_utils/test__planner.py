# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan says beforehand: medians and 9 of 10, failures seen, warnings."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._planner import (
    WORSE,
    Basis,
    Forecast,
    Judged,
    Quantiles,
    ending,
    forecast,
    late,
    needs,
    plain,
    table,
    to_dict,
    warnings,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import Step
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Tolerance
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.gate_traffic import T

STEPS = (Step(10, 60), Step(50, 60), Step(100, 60))
RUNS = 20


def basis(pace: float = 100.0, rate: float = 0.0, tolerance: Tolerance = T) -> Basis:
    return Basis(pace, (Judged("errors", "bad", tolerance, rate),), max_wait=900.0)


def number(value: float | None) -> float:
    return inf if value is None else value


def test_quantiles() -> None:
    assert Quantiles.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0]) == Quantiles(5.0, 9.0)
    assert Quantiles.of([1.0, 2.0, 3.0, inf]) == Quantiles(2.0, None)
    said = [Quantiles(*pair).say(lambda value: f"{value:.0f} s") for pair in ((5, 9), (5, None), (None, None), (5, 5))]
    assert said == ["5 s - 9 s", "5 s - never", "never", "5 s"]


@pytest.mark.parametrize("rate", [0.0, 0.002, 0.03])
def test_more_traffic_takes_no_longer(rate: float) -> None:
    told = [forecast(basis(pace, rate), STEPS, RUNS) for pace in (20.0, 80.0, 640.0)]
    for few, many in pairwise(told):
        for one, other in zip(few.steps, many.steps, strict=True):
            assert other.share >= one.share - 1 / RUNS
            assert number(other.seconds.median) <= number(one.seconds.median)
            assert number(other.seconds.most) <= number(one.seconds.most)
        assert number(many.endings[0].seconds.median) <= number(few.endings[0].seconds.median)


@pytest.mark.parametrize("rate", [0.0, 0.002, 0.03])
def test_what_is_worse_is_not_found_later(rate: float) -> None:
    for one in forecast(basis(rate=rate), STEPS, RUNS).steps:
        looked_for = [bad for bad in one.found if not bad.within]
        assert looked_for
        for bad, worse in pairwise(looked_for):
            assert worse.share >= bad.share
            assert number(worse.requests.median) <= number(bad.requests.median)
            assert number(worse.seconds.most) <= number(bad.seconds.most)


def test_rates_are_multiples_of_stable_or_of_the_floor() -> None:
    assert [basis(rate=0.01).worse(times) for times in WORSE] == [0.02, 0.05, 0.1]
    assert [basis().worse(times) for times in WORSE] == [0.01, 0.025, 0.05]
    assert [basis(rate=0.3).worse(times) for times in WORSE] == [0.6, 1.0, 1.0]
    told = forecast(basis(rate=0.0009), STEPS, RUNS)
    assert [bad.within for bad in told.steps[0].found] == [True, True, False]
    assert [one.within for one in told.endings] == [False, True, True, False]
    assert told.steps[0].found[0].requests == Quantiles(None, None)


def test_users_see_nothing_of_a_mirror_and_all_of_the_rest() -> None:
    told = forecast(basis(), (Step(0, 30, 20), *STEPS), RUNS)
    mirrored, first = told.steps[0].found[-1], told.steps[1].found[-1]
    assert (mirrored.share, mirrored.failures) == (1.0, Quantiles(0.0, 0.0))
    assert first.failures.median
    assert first.requests.median
    assert first.seconds.median
    seen = first.rate * 10.0 * first.seconds.median
    assert seen <= first.failures.median <= 3 * seen, "those that are proven early had bad luck"
    assert told.ending(10).failures.median == 0.0


def test_other_metrics_delay_a_pass_and_no_failure() -> None:
    alone = basis()
    slow = replace(alone, metrics=(*alone.metrics, Judged("latency", "slow", replace(T, floor=0.01), 0.008)))
    one, other = (forecast(b, STEPS[1:], RUNS).steps[0] for b in (alone, slow))
    assert number(other.seconds.median) > number(one.seconds.median)
    assert other.found == one.found
    late = replace(alone, metrics=(*alone.metrics, Judged("latency", "slow", T, 0.0)), warm_up=100.0)
    assert number(forecast(late, STEPS, RUNS).steps[0].requests.median) > 1800


def test_a_cohort_alone_has_no_clock() -> None:
    told = forecast(basis(), (Step(0), *STEPS), RUNS)
    assert told.steps[0].share == 0.0
    assert not any("step 1" in text for text in warnings(told))
    assert "as its cohort asks" in table(told)[2]


@pytest.mark.parametrize(("then", "kind"), [("hold", "held"), ("abort", "aborted"), ("promote", "promoted")])
def test_what_is_undecided_ends_as_the_user_says(then: str, kind: str) -> None:
    told = ending(replace(basis(0.5), on_inconclusive=then), STEPS, 1, RUNS)
    assert getattr(told, kind) == 1.0
    assert told.seconds.median == (2700.0 if then == "promote" else 900.0)
    assert sum((told.promoted, told.aborted, told.held)) == 1.0


# ---------------------------------------------------------------- warnings


def said(told: Forecast) -> str:
    return "\n".join(warnings(told))


def test_nothing_to_warn_of() -> None:
    assert warnings(forecast(basis(), STEPS, RUNS)) == []


@pytest.mark.parametrize(("then", "word"), [("hold", "held"), ("abort", "taken back"), ("promote", "unjudged")])
def test_no_traffic(then: str, word: str) -> None:
    (text,) = warnings(forecast(replace(basis(0.0), on_inconclusive=then), STEPS, RUNS))
    assert text.startswith("there is no traffic, so this plan decides nothing")
    assert word in text
    assert "role load" in text


def test_a_step_that_cannot_pass_says_what_it_would_take() -> None:
    told = forecast(basis(5.0), STEPS, RUNS)
    text = said(told)
    assert "step 1 (10 %) cannot pass within 15 min (analysis.max_wait): its canary gets 450 requests" in text
    needed = needs(told.basis, STEPS[0])
    assert needed is not None
    enough = replace(told.basis, pace=needed / 900.0 * 10.0 * 1.02)
    assert forecast(enough, STEPS, RUNS).steps[0].share == 1.0
    patient = replace(told.basis, max_wait=needed / 0.5 * 1.02)
    assert forecast(patient, STEPS, RUNS).steps[0].share == 1.0


def test_stable_itself_too_near_to_the_tolerance() -> None:
    near = basis(rate=0.02, tolerance=replace(T, ratio=1.0))
    assert needs(near, STEPS[0]) is None
    assert "a higher tolerance_ratio is needed" in said(forecast(near, STEPS, RUNS))


def test_a_plan_that_decides_nothing() -> None:
    text = said(forecast(replace(basis(1.0, 0.0009), max_wait=70.0), STEPS, RUNS))
    assert text.startswith("this plan decides nothing: no step passes")
    assert "step 1 (10 %) never finds a canary 10 times as bad (0.9 %)" in text


def test_ten_times_as_bad_within_the_tolerance() -> None:
    text = said(forecast(basis(rate=0.0003), STEPS, RUNS))
    assert text == (
        "a canary 10 times as bad as stable (0.3 %) is within the tolerance of 0.5 %, so none of these is looked for; "
        "lower analysis.tolerance_floor if that matters"
    )


# ---------------------------------------------------------------- in words, and as a result


def test_the_table() -> None:
    told = forecast(basis(rate=0.002), STEPS, RUNS)
    lines = table(told)
    assert lines[0].split("  ")[-1].strip() == "10 x as bad (2 %)"
    assert [line.partition("  ")[0].strip() for line in lines] == ["", "step", "10 %", "50 %", "100 %", "all"]
    assert lines[1].count("within the tolerance") == 1
    assert max(map(len, lines)) < 120


def test_the_result_is_plain() -> None:
    told = forecast(basis(), STEPS, RUNS)
    result = json.loads(json.dumps([to_dict(told), *(plain(one) for one in told.steps), plain(told.steps[0].found[0])]))
    assert set(result[1]) == {"share", "requests", "seconds"}
    assert set(result[1]["requests"]) == {"median", "most"}
    assert set(result[-1]) == {"times", "rate", "within", "share", "requests", "seconds", "failures"}
    assert [one["times"] for one in result[0]["endings"]] == [1, *WORSE]


def test_a_tolerance_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match=r"^tolerance_floor: "):
        forecast(basis(tolerance=replace(T, floor=0.9)), STEPS)


def test_a_window_that_ends_too_early_is_warned_of() -> None:
    told = forecast(basis(), STEPS, RUNS)
    most = told.endings[0].seconds.most
    assert most is not None
    assert late(told, inf) == late(told, most) == []
    (text,) = late(told, most - 1.0)
    assert "the change window ends in" in text
    never = replace(told, endings=(replace(told.endings[0], seconds=Quantiles(None, None)),))
    assert late(never, 1.0) == []
