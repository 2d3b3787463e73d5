# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: its rules, its words, and that replay and compaction are exact."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._gate import (
    HELD,
    Gate,
    Health,
    Tolerance,
    Window,
    compact,
    judge,
)
from ansible_collections.progressive.istio.plugins.module_utils._sequential import (
    RateTest,
    RatioInterval,
    RatioTest,
    Side,
    rate_gains,
    upper_bound,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import odds
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.gate_traffic import (
    T,
    Traffic,
    feed,
    window,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# ---------------------------------------------------------------- rules


def test_nothing_is_no_data() -> None:
    gate = Gate(T)
    gate.begin_step(1, 10)
    v = gate.verdict(min_over=True)
    assert (v.kind, v.reason) == ("no_data", "no request has reached the canary at 10 % yet")
    for _unused in range(1000):
        gate.observe(window(0, 0, 100, 3))
    v = gate.verdict(min_over=True)
    assert v.kind == "no_data"
    assert (v.counts.n_b, v.counts.x_b, v.more_requests) == (100_000, 3000, None)


def test_a_silent_source_is_no_data_whatever_was_proven_good() -> None:
    gate = Gate(T)
    gate.observe(window(10_000, 0, 90_000, 0))
    assert gate.verdict(min_over=True).kind == "pass"
    v = gate.verdict(min_over=True, source_ok=False, why="2 of 3 proxies do not answer")
    assert (v.kind, v.reason) == ("no_data", "2 of 3 proxies do not answer")
    assert gate.verdict(min_over=True, source_ok=False).reason == "the source of the counts does not answer"


def test_pass_needs_proof_and_time() -> None:
    gate = Gate(T)
    gate.observe(window(849, 0, 7641, 0))
    v = gate.verdict(min_over=True)
    assert (v.kind, v.more_requests) == ("wait", 1)
    assert v.reason == "neither beyond nor within the tolerance of 0.5 % is proven yet"
    gate.observe(window(1, 0, 9, 0))
    v = gate.verdict(min_over=False)
    assert (v.kind, v.more_requests) == ("wait", 0)
    assert v.reason == "within tolerance is proven; goes on when the time of the step is over"
    assert gate.verdict(min_over=True).kind == "pass"


def test_a_good_step_proves_nothing_about_the_next() -> None:
    gate = Gate(T)
    gate.observe(window(10_000, 0, 90_000, 0, weight=10, step=1))
    assert gate.verdict(min_over=True).kind == "pass"
    gate.begin_step(2, 25)
    assert gate.verdict(min_over=True).kind == "no_data"
    gate.observe(window(25, 0, 75, 0, weight=25, step=2))
    v = gate.verdict(min_over=True)
    assert (v.kind, v.step, v.weight, v.counts.n_c, v.release.n_c) == ("wait", 2, 25, 25, 10_025)
    gate.observe(window(1000, 0, 3000, 0, weight=25, step=2))
    assert gate.verdict(min_over=True).kind == "pass"
    gate.observe(window(50, 0, 50, 0, weight=50, step=2))
    assert gate.verdict(min_over=True).kind == "wait", "the same step at another weight begins anew"


def test_steps_without_a_window_leave_no_trace() -> None:
    """Verdicts depend on the windows and the present step alone: else a replay would not give the same."""
    windows = [window(500, 1, 4500, 3)] * 3
    gate = Gate(T)
    for w in windows:
        gate.begin_step(2, 25)
        v = gate.verdict(min_over=True)
        assert (v.kind, v.counts.n_c, v.ratio, v.ratio_high) == ("no_data", 0, None, None)
        assert v.e_pass == pytest.approx(0.0)
        gate.observe(w)
    assert gate.verdict(min_over=True) == judge(windows, T, min_over=True)
    gate.begin_step(3, 50)
    gate.begin_step(2, 25)
    assert gate.verdict(min_over=True) == judge(windows, T, min_over=True, step=2, weight=25)


def test_beginning_a_step_again_changes_nothing() -> None:
    gate = Gate(T)
    gate.observe(window(10_000, 0, 90_000, 0))
    before = gate.verdict(min_over=True)
    gate.begin_step(1, 10)
    assert gate.verdict(min_over=True) == before


def test_failure_is_kept() -> None:
    gate = Gate(T)
    gate.observe(window(10, 10, 90, 0))
    v = gate.verdict(min_over=False)
    assert v.kind == "fail"
    assert v.e_fail >= log(100)
    first = v.release
    gate.observe(window(10, 10, 90, 0))
    v = gate.verdict(min_over=False)
    for _unused in range(100):
        gate.observe(window(1000, 0, 9000, 90, weight=25, step=2))
    later = gate.verdict(min_over=True)
    assert (later.kind, later.e_fail) == ("fail", v.e_fail)
    assert gate.proven == first, "the counts at which it was proven"
    assert gate.verdict(min_over=True, source_ok=False).kind == "fail", "a proof does not fade with its source"


def test_evidence_for_a_failure_is_summed_over_the_steps() -> None:
    """Neither step alone proves it."""
    bad = [window(20, 1, 180, 0)] * 4
    assert judge(bad, T, min_over=True).kind == "wait"
    more = [replace(w, step=2, weight=11, n_b=160, x_b=2) for w in bad[:2]] + bad + bad
    v = judge(more, T, min_over=True)
    assert v.kind == "fail"
    interval = RatioInterval()
    for w in more:
        interval.update(w.n_c, w.x_c, w.n_b, w.x_b)
    assert (v.ratio_low, v.ratio_high) == pytest.approx(interval.bounds()), "and so is the ratio that is shown"


@pytest.mark.parametrize(
    ("health", "weight", "reason"),
    [
        (Health(0, 2), 10, "the canary has 10 % of the traffic and no ready pod"),
        (
            Health(0, 2, why=": p ErrImagePull i"),
            10,
            "the canary has 10 % of the traffic and no ready pod: p ErrImagePull i",
        ),
        (Health(1, 2, ("p OOMKilled",)), 10, "the canary's pods crash, and stable's do not: p OOMKilled"),
        (Health(0, 2, ("p OOMKilled",)), 0, "the canary's pods crash, and stable's do not: p OOMKilled"),
        (Health(0, 2), 0, ""),
        (Health(0, 0), 10, ""),
        (Health(1, 2, ("p",), ("q",)), 10, ""),
        (Health(1, 0), 10, ""),
    ],
)
def test_health_condemns_without_statistics(health: Health, weight: int, reason: str) -> None:
    gate = Gate(T)
    gate.begin_step(1, weight)
    v = gate.verdict(min_over=True, source_ok=False, why="no answer", health=health)
    assert (v.kind, v.reason) == (("fail", reason) if reason else ("no_data", "no answer"))
    json.dumps(v.to_dict(), allow_nan=False)
    assert len(v.lines("app-1", 1, 4)) == 2


def test_both_arms_must_prove_a_failure() -> None:
    """Far above stable but below the floor; above the floor but like stable."""
    below = judge([window(10_000, 20, 90_000, 0)] * 20, T, min_over=True)
    assert below.kind == "pass"
    assert below.tolerance == 0.005
    like = judge([window(10, 1, 90, 9)] * 2000, T, min_over=True)
    assert like.kind == "pass"
    assert like.tolerance == pytest.approx(0.15)
    assert judge([window(1000, 40, 9000, 90)] * 20, T, min_over=True).kind == "fail"


def test_no_pass_while_suspect() -> None:
    """An hour of good requests weighs more than two bad seconds, but they are reason enough not to go on."""
    gate, traffic = Gate(T), Traffic(3)
    feed(gate, traffic, 3600, 10, 0, 0)
    gate.observe(window(10, 4, 90, 0))
    v = gate.verdict(min_over=True)
    assert v.e_pass > log(20)
    assert v.kind == "wait"
    assert v.reason.startswith("within tolerance over the whole step, but lately suspect: ")
    assert gate.proven is None


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (window(1, 2, 0, 0), "window.x_c: expected 0 to n_c = 1, got 2"),
        (window(1, -1, 0, 0), "window.x_c: expected 0 to n_c = 1, got -1"),
        (window(1, 0, 3, 4), "window.x_b: expected 0 to n_b = 3, got 4"),
        (window(1, 0, 3, 0, weight=101), "window.weight: expected 0 to 100, got 101"),
        (window(1, 0, 3, 0, seconds=-1.0), "window.seconds: expected 0 or more, got -1.0"),
        (window(1, 0, 3, 0, seconds=float("nan")), "window.seconds: expected 0 or more, got nan"),
    ],
)
def test_impossible_counts(w: Window, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.") + "$"):
        Gate(T).observe(w)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("tolerance_ratio", "ratio", 0.9),
        ("tolerance_floor", "floor", 0.0),
        ("tolerance_floor", "floor", 0.6),
        ("alpha_fail", "alpha_fail", 0.0),
        ("alpha_pass", "alpha_pass", 1.0),
        ("alpha_pass", "alpha_pass", float("nan")),
        ("burst", "burst", 0.0),
    ],
)
def test_tolerance_is_checked(name: str, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a number from .* to .*, got {value}$"):
        Gate(replace(T, **{field: value}))


# ---------------------------------------------------------------- against the definition


@pytest.mark.parametrize("n_c", [3, 10, 40, 500])
def test_the_lesser_arm_decides(n_c: int) -> None:
    """One window: proven if, and only if, both arms have a hundredfold."""
    kinds = set()
    for x_c in range(1, min(n_c, 30) + 1):
        for n_b, x_b in ((90, 0), (90, 2), (1000, 1), (10**6, 0), (10**6, 100)):
            relative = RatioTest(1.5, "worse", held=HELD)
            absolute = RateTest(0.005, "worse", held=HELD)
            relative.update(n_c, x_c, n_b, x_b)
            absolute.update(n_c, x_c)
            gate = Gate(T)
            gate.observe(window(n_c, x_c, n_b, x_b))
            least, most = sorted((relative.log_e, absolute.log_e))
            # The restart that is due after 200 requests moves a stake, which changes nothing.
            assert gate.evidence()[0] == pytest.approx(least, abs=1e-9)
            assert (gate.proven is not None) == (least >= log(100))
            kinds.add((least >= log(100), most >= log(100)))
    assert (False, True) in kinds


class Naive:
    """The rules of the gate once more, in plain numbers and request by request. No regard for cost or large numbers."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.t = tolerance
        self.bets = {"relative": [(1 - HELD) / 16] * 16, "absolute": [(1 - HELD) / 16] * 16}
        self.held = HELD
        self.discount = 1.0  # on the relative arm's held part
        self.step: tuple[int, int] | None = None
        self.begin()
        self.since = self.silent = self.restarts = self.seen = self.stable = self.stable_bad = 0
        self.proven = False

    def begin(self) -> None:
        self.good = {"relative": [1 / 32] * 16 + [1 / 2], "absolute": [1 / 16] * 16}  # half on "as good as stable"

    def restart(self, share: float) -> None:
        stake, self.since = self.held * share, 0
        self.held -= stake
        self.bets["relative"] = [b + stake * self.discount / 16 for b in self.bets["relative"]]
        self.bets["absolute"] = [b + stake / 16 for b in self.bets["absolute"]]

    def wealth(self) -> float:
        return min(sum(self.bets["relative"]) + self.held * self.discount, sum(self.bets["absolute"]) + self.held)

    def multiply(self, bets: dict[str, list[float]], side: Side, w: Window, n: int, alone: bool) -> None:
        floor, ratio, burst = self.t.floor, self.t.ratio, self.t.burst
        gains = rate_gains(floor, side, n, w.x_c, burst)
        bets["absolute"] = [b * exp(g) for b, g in zip(bets["absolute"], gains, strict=True)]
        if alone:
            seen = self.stable_bad / self.stable if self.stable else 0.0
            bound = upper_bound(self.stable, self.stable_bad, 0.1 * self.t.alpha_fail, burst)
            limit = ratio * (min(bound, 2 * seen) if side == "better" else bound)
            if side == "worse" and ratio * seen <= 0.5:
                limit = min(limit, 0.5)
            gains = rate_gains(limit, side, n, w.x_c, burst)
            rate = limit / ratio
            equal = w.x_c * log(rate / limit) + (n - w.x_c) * log((1 - rate) / (1 - limit)) if limit else 0.0
        elif n and w.n_b:
            gains = RatioTest(ratio, side, burst).gains(n, w.x_c, w.n_b, w.x_b)
            equal = w.x_c * log(1 / ratio) + (w.x_c + w.x_b) * log((ratio * n + w.n_b) / (n + w.n_b))
        else:
            return
        gains += [equal / burst] if side == "better" else []
        bets["relative"] = [b * exp(g) for b, g in zip(bets["relative"], gains, strict=True)]

    def observe(self, w: Window) -> None:
        if w.n_b:
            self.silent = 0
        alone = w.weight == 100 or (w.n_b == 0 and self.silent >= 1000 / (100 - w.weight))
        if w.n_b == 0 and w.weight < 100:
            self.silent += w.n_c
        if w.weight and w.n_c:
            if self.step != (w.step, w.weight):
                if self.step:
                    self.restart(0.25)
                self.step = (w.step, w.weight)
            if alone and self.discount == 1.0:
                self.discount = 0.9
                self.bets["relative"] = [0.9 * b for b in self.bets["relative"]]
            for n in [1] * w.n_c if w.clean else [w.n_c]:
                self.multiply(self.bets, "worse", w, n, alone)
                self.multiply(self.good, "better", w, n, alone)
                if not w.clean:
                    for one, other in (("relative", "absolute"), ("absolute", "relative")):
                        allowed = exp(1.0) * sum(self.bets[other])
                        cut = min(allowed / sum(self.bets[one]), 1.0)
                        self.bets[one] = [b * cut for b in self.bets[one]]
                self.since += n
                self.seen += n
                if self.since >= max(self.t.burst / self.t.floor, self.seen_at_restart // 1000):
                    self.restarts += 1
                    self.restart(1 / (50 + self.restarts))
                    self.seen_at_restart = self.seen
                self.proven |= self.wealth() >= 1 / self.t.alpha_fail
        if w.weight < 100:
            self.stable, self.stable_bad = self.stable + w.n_b, self.stable_bad + w.x_b

    seen_at_restart = 0


@pytest.mark.parametrize("burst", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(12))
def test_gate_does_what_it_says(seed: int, burst: float) -> None:
    """Releases of all sorts, against the rules in plain numbers, at every look until a failure is proven."""
    tolerance = replace(T, floor=0.04, burst=burst, alpha_fail=1e-6)
    rng, gate, naive = random.Random(seed), Gate(tolerance), Naive(tolerance)
    p_c, p_b = rng.choice([0.0, 0.02, 0.1, 0.3]), rng.choice([0.0, 0.01, 0.1])
    looks = 0
    for step, weight in ((0, 0), (1, 10), (2, 50), (2, 60), (3, 100)):
        naive.begin()
        for i in range(40):
            n_c, n_b = (rng.choice([0, 1, 5, 30]) if weight else 0), rng.choice([0, 3, 20, 60])
            if weight == 100 or (step == 1 and 10 < i < 20):
                n_b = 0
            some = rng.random() < 0.5
            x_c = sum(rng.random() < p_c for _unused in range(n_c)) if some else 0
            x_b = sum(rng.random() < p_b for _unused in range(n_b)) if some else 0
            w = window(n_c, x_c, n_b, x_b, weight, step)
            gate.observe(w)
            naive.observe(w)
            if (gate.proven is not None) or naive.proven:
                break
            e_fail, e_pass = gate.evidence()
            assert e_fail == pytest.approx(log(naive.wealth()), abs=1e-6)
            good = sum(naive.good["relative"]) / 2 + sum(naive.good["absolute"]) / 2
            assert e_pass == pytest.approx(log(good), abs=1e-6)
            looks += 1
        assert (gate.proven is not None) == naive.proven
        if naive.proven:
            break
    assert looks > 40


# ---------------------------------------------------------------- words


def test_lines_for_a_person() -> None:
    gate = Gate(T)
    for _unused in range(10):
        gate.observe(window(353, 1, 3248, 3, seconds=70))
    lines = gate.verdict(min_over=True).lines("app-1", 2, 4, canary="v2", stable="v1", elapsed=700, limit=900)
    assert lines[0] == "app-1  step 2/4  10 %   WAIT   12 min of 15 min"
    assert lines[1].startswith("  bad      v2 10 of 3,530 (0.28 %)   v1 30 of 32,480 (0.092 %)   3.1x [")
    assert "(aborts at 100 : 1)" in lines[1]
    assert "(goes on at 20 : 1)" in lines[1]
    assert lines[2].startswith("  next     if v2 goes on like this: about ")
    assert lines[2].endswith(" of its requests")
    assert len(lines) == 3


def test_lines_of_each_verdict() -> None:
    fail = judge([window(10, 10, 90, 0)], T, min_over=True)
    assert fail.lines("app-1", 1, 4) == [
        "app-1  step 1/4  10 %   FAIL",
        fail.lines("app-1", 1, 4)[1],
        f"  why      {fail.reason}",
    ]
    assert fail.reason.startswith("beyond the tolerance of 0.5 % is proven, ")
    good = judge([window(1000, 0, 9000, 0)], T, min_over=True)
    assert good.lines("app-1", 1, 4)[2] == "  next     on to the next step"
    none = judge([], T, min_over=True, step=1, weight=10)
    assert none.lines("app-1", 1, 4) == [
        "app-1  step 1/4  10 %   NO DATA",
        "  why      no request has reached the canary at 10 % yet",
    ]
    never = judge([window(200, 4, 1800, 0)], T, min_over=True)
    assert never.lines("a", 1, 1, canary="v2")[2] == (
        "  next     if v2 goes on like this it will not pass: its rate is not below 0.5 %"
    )


def test_a_failure_shows_the_counts_of_the_release() -> None:
    v = judge([window(500, 0, 4500, 0), window(10, 10, 30, 0, weight=25, step=2)], T, min_over=True)
    assert "canary 10 of 510 (2 %)   stable 0 of 4,530 (0 %)" in v.lines("app-1", 2, 4)[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1 : 1"),
        (1.39, "1.3 : 1"),
        (99.9, "99 : 1"),
        (100, "100 : 1"),
        (1 / 40.5, "1 : 40"),
        (1e8, ">1,000,000 : 1"),
    ],
)
def test_odds_are_never_rounded_up(value: float, text: str) -> None:
    assert odds(log(value)) == text


def test_dict_is_plain_json() -> None:
    for windows in ([], [window(10, 10, 90, 0)] * 50, [window(10**9, 0, 10**10, 0)], [window(10**9, 10**9, 1, 1)]):
        v = judge(windows, T, min_over=True)
        d: dict[str, Any] = json.loads(json.dumps(v.to_dict(), allow_nan=False))
        assert d["kind"] == v.kind
        assert d["counts"]["n_c"] == v.counts.n_c
        assert d["odds_fail"] == pytest.approx(exp(min(max(v.e_fail, -30), 30)))


# ---------------------------------------------------------------- exactness

windows_strategy = st.lists(
    st.builds(
        lambda step, n, bad, seconds: Window(
            step=step[0],
            weight=step[1],
            seconds=seconds / 4,
            n_c=n[0],
            x_c=min(bad[0], n[0]),
            n_b=n[1],
            x_b=min(bad[1], n[1]),
        ),
        st.sampled_from([(0, 0), (1, 10), (1, 10), (1, 10), (2, 50), (3, 100), (3, 100), (2, 51)]),
        st.tuples(
            st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 2000)),
            st.one_of(st.just(0), st.just(0), st.integers(0, 90), st.integers(0, 9000)),
        ),
        st.tuples(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 30]), st.sampled_from([0, 0, 0, 0, 0, 0, 1, 3, 200])),
        st.integers(0, 8),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(windows_strategy, st.integers(0, 40), st.booleans())
def test_replay_and_compaction_are_exact(windows: list[Window], cut: int, asked: bool) -> None:
    """The same verdict, to the last bit: window by window, all at once, compacted now, and gone on with later."""
    gate = Gate(T)
    for w in windows:
        gate.observe(w)
        if asked:
            gate.verdict(min_over=True)  # asking changes nothing
    expected = gate.verdict(min_over=True)
    assert judge(windows, T, min_over=True) == expected
    again = compact(compact(windows[:cut]) + windows[cut:])
    for fewer in (compact(windows), compact(windows[:cut]) + windows[cut:], again):
        assert judge(fewer, T, min_over=True) == expected
    assert len(compact(windows)) <= len(windows)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(windows_strategy)
def test_compaction_keeps_sums_and_bad_windows(windows: list[Window]) -> None:
    fewer = compact(windows)
    for name in ("n_c", "x_c", "n_b", "x_b", "seconds"):
        assert sum(getattr(w, name) for w in windows) == sum(getattr(w, name) for w in fewer)
    assert [w for w in windows if not w.clean] == [w for w in fewer if not w.clean]
    assert compact(fewer) == fewer


def test_compaction_is_worth_it() -> None:
    traffic = Traffic(1, rps=2)
    quiet = [traffic.window(50, 0, 0) for _unused in range(3600)]
    assert len(compact(quiet)) <= 3, "also when stable has no request in many of the windows"
    assert sum(w.n_b == 0 for w in quiet) > 500
