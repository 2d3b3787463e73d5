# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A verdict on one line, as a running release prints it."""

from __future__ import annotations

import json
import re

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._gate import (
    Gate,
    Health,
    Tolerance,
    Verdict,
    Window,
    judge,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import evidence, line, odds


def verdict(n_c: int, x_c: int, n_b: int, x_b: int, seconds: float = 60.0, over: bool = True) -> Verdict:
    return judge([Window(0, 10, seconds, n_c, x_c, n_b, x_b)], Tolerance(), min_over=over)


def test_fail() -> None:
    text = line(verdict(1000, 100, 9000, 0), "v2", "v1")
    assert text == (
        "FAIL  bad: v2 100 of 1,000 (10 %), v1 0 of 9,000 (0 %)  beyond tolerance >1,000,000 : 1 (aborts at 100 : 1)"
    )


def test_pass() -> None:
    text = line(verdict(2000, 0, 18000, 0), "v2", "v1")
    assert re.fullmatch(
        r"PASS  bad: v2 0 of 2,000 \(0 %\), v1 0 of 18,000 \(0 %\)  within tolerance [\d,]+ : 1 \(goes on at 20 : 1\)",
        text,
    )


def test_wait_says_how_long() -> None:
    text = line(verdict(100, 0, 900, 0), "v2", "v1")
    assert re.fullmatch(
        r"WAIT  bad: v2 0 of 100 \(0 %\), v1 0 of 900 \(0 %\)  within tolerance [\d.]+ : 1 \(goes on at 20 : 1\)"
        r"  about \d+ (s|min) more",
        text,
    )


def test_wait_for_the_time_of_the_step_promises_no_time() -> None:
    text = line(verdict(2000, 0, 18000, 0, over=False), "v2", "v1")
    assert text.startswith("WAIT  bad: v2 0 of 2,000 (0 %)")
    assert " more" not in text


@pytest.mark.parametrize("n_b", [0, 500])
def test_no_data_gives_the_reason_alone(n_b: int) -> None:
    text = line(verdict(0, 0, n_b, 0), "v2", "v1")
    assert text == "NO DATA  no request has reached the canary at 10 % yet"


def test_a_source_that_is_silent_is_named_beside_the_counts() -> None:
    gate = Gate(Tolerance())
    gate.begin_step(0, 10)
    gate.observe(Window(0, 10, 60.0, 10, 0, 90, 0))
    found = gate.verdict(min_over=True, source_ok=False, why="proxy of ns/a does not answer")
    assert line(found, "v2", "v1") == (
        "NO DATA  bad: v2 0 of 10 (0 %), v1 0 of 90 (0 %)  proxy of ns/a does not answer"
    )


def test_a_canary_without_ready_pods_says_so() -> None:
    gate = Gate(Tolerance())
    gate.begin_step(0, 10)
    found = gate.verdict(min_over=True, source_ok=True, why="", health=Health(0, 3))
    assert line(found, "v2", "v1") == "FAIL  the canary has 10 % of the traffic and no ready pod"


def test_wait_shows_the_odds_that_lead() -> None:
    found = verdict(200, 4, 1800, 0)
    assert found.kind == "wait"
    assert "beyond tolerance" in evidence(found, "v2", "v1")
    assert "aborts at 100 : 1" in evidence(found, "v2", "v1")


def test_the_line_is_the_kind_and_the_evidence() -> None:
    found = verdict(1000, 100, 9000, 0)
    assert line(found, "v2", "v1") == f"FAIL  {evidence(found, 'v2', 'v1')}"
    assert "\n" not in line(found, "v2", "v1")


def test_a_verdict_is_plain_json() -> None:
    for found in (verdict(1000, 100, 9000, 0), verdict(0, 0, 0, 0), verdict(10, 0, 0, 0)):
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["kind"] == found.kind


@pytest.mark.parametrize(
    ("log_e", "text"),
    [(0.0, "1 : 1"), (4.605170186, "100 : 1"), (-3.7, "1 : 40"), (0.3, "1.3 : 1"), (99.0, ">1,000,000 : 1")],
)
def test_odds(log_e: float, text: str) -> None:
    assert odds(log_e) == text
