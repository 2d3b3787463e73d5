# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases with checks of the user's own: a pass held back, a release taken back, a kill in the middle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._checks import About, Answer, Check, Http, Job, Promql
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome
from ansible_collections.progressive.istio.tests.sim.simulated import (
    FAULTS,
    WANT,
    Mesh,
    Runner,
    Says,
    check_end,
    fault_at_every_write,
    steady,
)

RATE = Check("rate", Promql("orders", least=1.0))
PAGE = Check("page", Http("http://page"), on_failure="abort", failures=3)
SMOKE = Check("smoke", Job(cronjob="smoke"))
STRICT = replace(SMOKE, on_failure="abort")


def says(answer: Answer) -> Says:
    return lambda _time, _about: answer


OK, FAILED, UNKNOWN = Answer("ok", "all right"), Answer("failed", "orders is 0"), Answer("unknown", "nobody answers")


def mesh(seed: int, **answers: Answer | Says) -> Mesh:
    made = Mesh(seed, steady(0.0), steady(0.0))
    made.checks = {name: says(one) if isinstance(one, Answer) else one for name, one in answers.items()}
    return made


def lines(runner: Runner, step: int = 0) -> list[str]:
    """What was said of the checks: of one step, or of all."""
    said = [line for line in runner.said if "CHECKS" in line]
    return [line for line in said if not step or line.startswith(f"step {step}/")]


def test_checks_that_are_ok_are_said_once_a_step_and_promote() -> None:
    made = mesh(1, rate=OK, page=OK, smoke=OK)
    runner = Runner(made)
    outcome = runner.run(replace(WANT, checks=(RATE, PAGE, SMOKE)))
    check_end(made, outcome)
    assert outcome.phase == "promoted"
    first, second = lines(runner, 1)
    assert first == "step 1/3  10 %  CHECKS  rate ok: all right; page ok: all right"
    assert second == "step 1/3  10 %  CHECKS  smoke ok: all right"
    assert [name.split("-")[2] for name in made.jobs_made] == ["1", "2", "3"]
    assert made.jobs == {}
    assert {about.version for about in runner.checks.asked["rate"]} == {"v2"}


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (FAILED, "wait", "check rate: FAILED: orders is 0"),
        (UNKNOWN, "no_data", "check rate: no answer: nobody answers"),
    ],
)
def test_what_is_not_ok_holds_back_a_pass_and_blames_nobody(answer: Answer, kind: str, said: str) -> None:
    made = mesh(2, rate=answer)
    runner = Runner(made)
    outcome = runner.run(replace(WANT, checks=(RATE,), max_wait=200))
    assert outcome.phase == "held"
    assert said in outcome.text
    assert outcome.verdict is not None
    assert (outcome.verdict.kind, outcome.verdict.decided_by) == (kind, "checks")
    assert made.weights["v2"] == 10
    assert len(lines(runner)) == 1
    assert any(said in line for line in runner.said if line.startswith("step 1/3") and "CHECKS" not in line)
    made.checks["rate"] = says(OK)
    made.advance(20.0)
    outcome = Runner(made, "next").run(replace(WANT, checks=(RATE,)))
    check_end(made, outcome)
    assert outcome.phase == "promoted"


def test_enough_failures_in_a_row_take_it_back_and_an_answer_in_between_begins_anew() -> None:
    def turns(good: int) -> Says:
        seen: list[int] = []

        def answer(_time: float, _about: About) -> Answer:
            seen.append(1)
            return OK if good and len(seen) % good == 0 else FAILED

        return answer

    made = mesh(3, page=turns(0))
    runner = Runner(made)
    outcome = runner.run(replace(WANT, checks=(PAGE,)))
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    assert "check page has failed 3 times in a row: orders is 0" in outcome.text
    assert len(runner.checks.asked["page"]) == 3
    made = mesh(3, page=turns(3))
    outcome = Runner(made).run(replace(WANT, checks=(PAGE,)))
    check_end(made, outcome)
    assert outcome.phase == "promoted"


def test_no_answer_is_never_a_failure_however_often() -> None:
    made = mesh(4, page=UNKNOWN)
    runner = Runner(made)
    outcome = runner.run(replace(WANT, checks=(PAGE,), max_wait=300))
    assert outcome.phase == "held"
    assert len(runner.checks.asked["page"]) > 2 * PAGE.failures


def test_of_a_check_that_goes_to_and_fro_three_lines_are_said_in_a_step() -> None:
    made = mesh(5, rate=lambda time, _about: OK if int(time / 20) % 2 else FAILED, page=FAILED)
    page = replace(PAGE, on_failure="wait")
    runner = Runner(made)
    assert runner.run(replace(WANT, checks=(RATE, page), max_wait=300)).phase == "held"
    assert len(lines(runner)) == 3
    assert lines(runner)[2].endswith("no more lines of the checks in this step")


def test_a_job_that_fails_holds_the_release_and_is_made_again_when_somebody_goes_on_with_it() -> None:
    made = mesh(6, smoke=FAILED)
    outcome = Runner(made).run(replace(WANT, checks=(SMOKE,), max_wait=90))
    assert outcome.phase == "held"
    assert len(made.jobs_made) == 1
    assert list(made.jobs) == made.jobs_made  # left for its logs
    made.checks["smoke"] = says(OK)
    assert Runner(made, "look").run(replace(WANT, checks=(SMOKE,))).phase == "held"
    outcome = Runner(made, "next").run(replace(WANT, checks=(SMOKE,), retry=True))
    check_end(made, outcome)
    assert outcome.phase == "promoted"
    assert len(made.jobs_made) == len(set(made.jobs_made)) == 4


def test_a_job_that_fails_once_takes_it_back_where_that_was_asked_for() -> None:
    made = mesh(7, smoke=FAILED)
    outcome = Runner(made).run(replace(WANT, checks=(STRICT,)))
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    assert "check smoke has failed: orders is 0" in outcome.text


def test_a_running_job_goes_with_the_release_that_is_taken_back_by_a_run_that_knows_no_checks() -> None:
    made = mesh(8, smoke=OK)
    made.job_seconds = 1e9
    Runner(made).one_pass(replace(WANT, checks=(SMOKE,)), budget=20.0)
    assert len(made.jobs) == 1
    made.advance(20.0)
    assert Runner(made, "abort").run(replace(WANT, state="aborted")).phase == "aborted"
    assert made.jobs == {}


def test_observing_says_what_a_check_would_have_done() -> None:
    made = mesh(9, page=FAILED)
    runner = Runner(made)
    steps = tuple(replace(step, min_seconds=60) for step in WANT.steps)
    outcome = runner.run(replace(WANT, steps=steps, checks=(PAGE,), observe=True))
    assert outcome.phase == "promoted"
    assert any("OBSERVE  would abort: check page has failed 3 times in a row" in line for line in runner.said)


def test_a_bad_canary_is_taken_back_while_checks_are_ok_or_late() -> None:
    made = mesh(10, rate=OK, smoke=OK)
    made.rates["v2"] = steady(0.2)
    made.job_seconds = 1e9
    outcome = Runner(made).run(replace(WANT, checks=(RATE, SMOKE)))
    check_end(made, outcome)
    assert outcome.phase == "aborted"
    assert outcome.verdict is not None
    assert outcome.verdict.decided_by == "errors"
    assert made.jobs == {}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("answer", "phase"), [(OK, "promoted"), (FAILED, "aborted")])
def test_a_fault_at_every_single_write_leads_to_the_same_end_and_makes_no_job_twice(
    answer: Answer, phase: str, fault: str
) -> None:
    def begin() -> Mesh:
        made = mesh(11, rate=OK, page=answer, smoke=OK)
        made.job_seconds = 12.0
        return made

    found: list[tuple[Mesh, Outcome]] = []
    for made, outcome in fault_at_every_write(begin, replace(WANT, checks=(RATE, PAGE, SMOKE)), fault):
        found.append((made, outcome))
        check_end(made, outcome)
        assert outcome.phase == phase
        assert len(made.jobs_made) == len(set(made.jobs_made)) <= len(WANT.steps)
    assert len(found) > 4


def test_a_run_killed_while_a_job_runs_is_taken_up_with_the_same_job() -> None:
    made = mesh(12, smoke=OK)
    made.job_seconds = 60.0
    Runner(made).one_pass(replace(WANT, checks=(SMOKE,)), budget=20.0)  # and is never called again
    name = made.jobs_made[0]
    made.advance(20.0)
    outcome = Runner(made, "next").run(replace(WANT, checks=(SMOKE,)))
    check_end(made, outcome)
    assert outcome.phase == "promoted"
    assert made.jobs_made.count(name) == 1
    assert len(made.jobs_made) == 3
