# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One verdict from several metrics: any may condemn, all have to pass, and what is not counted is not asked."""

from __future__ import annotations

import json
import random

from ansible_collections.progressive.istio.plugins.module_utils._gate import Gate, Health, Window, compact
from ansible_collections.progressive.istio.plugins.module_utils._metrics import tolerances, words
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._verdict import (
    ERRORS,
    LATENCY,
    UNANSWERED,
    Tolerance,
    Verdict,
    line,
)

T = Tolerance()
NAMES = (UNANSWERED, LATENCY)
GOOD = Window(0, 10, 1.0, 2000, 0, 18_000, 0)
NOTHING = Window(0, 10, 1.0, 0, 0, 0, 0)


def bad(x_c: int, n_c: int = 2000, x_b: int = 0) -> Window:
    return Window(0, 10, 1.0, n_c, x_c, 9 * n_c, x_b)


def panel() -> Panel:
    return Panel(tolerances(NAMES, T), words={name: words(name, 250.0) for name in NAMES})


def verdict(errors: Window = GOOD, unanswered: Window = GOOD, latency: Window = GOOD) -> Verdict:
    one = panel()
    one.observe(errors, {UNANSWERED: unanswered, LATENCY: latency})
    return one.verdict(min_over=True)


def test_all_have_to_pass() -> None:
    assert verdict().kind == "pass"
    waiting = verdict(latency=bad(2, 200))
    assert (waiting.kind, waiting.decided_by) == ("wait", LATENCY)
    assert waiting.reason.startswith("slower than 250 ms: ")
    assert waiting.more_requests == waiting.deciding.more_requests


def test_any_may_condemn() -> None:
    for name, found in (
        (ERRORS, verdict(errors=bad(100))),
        (UNANSWERED, verdict(unanswered=bad(100))),
        (LATENCY, verdict(latency=bad(200))),
    ):
        assert (found.kind, found.decided_by) == ("fail", name)
        assert found.deciding.metric == name
        assert found.deciding.e_fail > 10
    assert "slower than 250 ms: v2 200 of 2,000 (10 %), v1 0 of 18,000 (0 %)  beyond tolerance" in line(
        verdict(latency=bad(200)), "v2", "v1"
    )


def test_a_failure_outranks_a_source_that_is_gone_and_a_pass_does_not() -> None:
    one = panel()
    one.observe(GOOD, {UNANSWERED: bad(500), LATENCY: GOOD})
    assert one.verdict(min_over=True, source_ok=False, why="no answer").kind == "fail"
    other = panel()
    other.observe(GOOD, {UNANSWERED: GOOD, LATENCY: GOOD})
    assert other.verdict(min_over=True, source_ok=False, why="no answer").kind == "no_data"
    assert other.verdict(min_over=False).kind == "wait"
    assert other.verdict(min_over=True, health=Health(0, 3)).kind == "fail"


def test_what_the_source_does_not_count_is_not_asked() -> None:
    assert verdict(latency=NOTHING).kind == "pass"
    assert verdict(latency=Window(0, 10, 1.0, 0, 0, 900, 3)).kind == "wait"  # of stable it does
    assert verdict(errors=NOTHING, latency=NOTHING, unanswered=NOTHING).kind == "no_data"


def test_each_has_its_own_part_of_alpha() -> None:
    """Together they condemn no oftener than one gate alone; so each needs a little more than that."""
    found = verdict(errors=bad(20, 400))
    shares = [part.alpha_fail for part in (found, *found.also)]
    assert abs(sum(shares) - T.alpha_fail) < 1e-12
    assert line(found, "v2", "v1").endswith("(aborts at 125 : 1)")


def test_other_failures_are_shown_beside_the_one_that_decides() -> None:
    text = line(verdict(errors=bad(100), unanswered=bad(3)), "v2", "v1")
    assert text.startswith("FAIL  bad: v2 100 of 2,000")
    assert text.endswith("without answer: v2 3 of 2,000 (0.15 %), v1 0 of 18,000 (0 %)")
    lines = verdict(latency=bad(200)).lines("app-1", 1, 4, canary="v2", stable="v1")
    assert [text.split()[0] for text in lines] == ["app-1", "bad", "without", "slower", "why"]


def test_the_verdict_is_plain_json() -> None:
    told = verdict(latency=bad(200)).to_dict()
    json.dumps(told, allow_nan=False)
    assert [part["metric"] for part in told["also"]] == list(NAMES)
    assert told["also"][1]["odds_fail"] > 1000


def test_one_metric_alone_is_the_gate() -> None:
    windows = [bad(x, 50) for x in (0, 1, 0, 3, 9)]
    gate, one = Gate(T), Panel(tolerances((), T))
    for window in windows:
        gate.observe(window)
        one.observe(window, {})
        assert one.verdict(min_over=True) == gate.verdict(min_over=True)


def test_from_stored_evidence_it_comes_out_the_same() -> None:
    rng = random.Random(7)
    live, past = panel(), {name: list[Window]() for name in (ERRORS, *NAMES)}
    for step in (0, 1, 2):
        for _unused in range(60):
            now = {
                name: Window(
                    step, 10 * step + 10, 1.0, 20, (rng.random() < 0.15) * rng.randrange(3), 180, rng.randrange(2)
                )
                for name in past
            }
            live.observe(now[ERRORS], {name: now[name] for name in NAMES})
            for name, windows in past.items():
                windows.append(now[name])
    again = panel()
    again.replay(compact(past[ERRORS]), {name: compact(past[name]) for name in NAMES})
    ours, theirs = live.verdict(min_over=True), again.verdict(min_over=True)
    assert ours.e_fail != 0
    assert [(v.kind, v.e_fail, v.e_pass) for v in (ours, *ours.also)] == [
        (v.kind, v.e_fail, v.e_pass) for v in (theirs, *theirs.also)
    ]
