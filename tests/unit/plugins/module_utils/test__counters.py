# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the raw samples of two counters to windows: nothing twice, nothing lost, and nothing that is not known is 0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._counters import (
    Counted,
    Counter,
    Counters,
    Part,
    Place,
    Samples,
    look_of,
    unpacked,
)
from ansible_collections.progressive.istio.plugins.module_utils._evidence import (
    Evidence,
    EvidenceError,
    dumps,
    judge_again,
    loads,
)
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look
from ansible_collections.progressive.istio.plugins.module_utils._metrics import tolerances
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Series
from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, Tolerance, Window
from hypothesis import given, settings
from hypothesis import strategies as st

ORDERS = Counter("orders", 'orders_total{version="{version}"}', 'failed_total{version="{version}"}')
NAMES = ("v2", "v1")
T = 1_000_000.0
Points = Sequence[tuple[float, int]]


def series(points: Points, pod: str, **labels: str) -> list[Series]:
    return [Series({"job": "app", "namespace": "shop", "pod": pod, **labels}, tuple(points))] if points else []


def samples(at: float, **versions: tuple[Points, Points]) -> Samples:
    """By version its total and its bad."""
    found: dict[str, dict[Part, Sequence[Series]]] = {
        name: {"total": series(total, name), "bad": series(bad, name, result="bad")}
        for name, (total, bad) in versions.items()
    }
    return Samples(at, found)


class Feed:
    """One counter of a release, answered with whatever is there; a step begins at ``since``."""

    def __init__(self, counter: Counter = ORDERS) -> None:
        self.counter, self.answer = counter, Samples(T, why="nothing yet")
        self.counters = Counters((counter,), lambda *_given: self.answer)
        self.known = self.counters.known({})
        self.windows: list[Window] = []

    def look(self, answer: Samples, step: int = 0, weight: int = 10, since: float = T, living: str = "") -> str:
        """What it lacks afterwards."""
        self.answer = answer
        place = Place(step, weight, since, ("v2", "v1"))
        self.now = max(answer.at, getattr(self, "now", T) + 10)
        self.known, found = self.counters.look(self.known, {"orders": self.windows}, place, self.now, {living})
        self.windows += found.values()
        return self.known["orders"].why


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1), st.booleans()), min_size=2, max_size=40),
    st.integers(1, 6),
    st.integers(1, 12),
)
def test_what_the_windows_have_is_what_was_counted(
    steps: list[tuple[int, float, bool]], between: int, overlap: int
) -> None:
    """A pair that grows and falls (a restart): looks at any distance, with samples that overlap, see each once."""
    total: list[tuple[float, int]] = []
    bad: list[tuple[float, int]] = []
    n = x = all_n = all_x = 0
    for number, (more, part, restart) in enumerate(steps):
        failed = int(more * part)
        fell = restart and n > more and (x > failed or not x + failed)  # another fall cannot be seen by anybody
        n, x = (more, failed) if fell else (n + more, x + failed)
        if number:
            all_n, all_x = all_n + more, all_x + failed
        total.append((T + 5 * number, n))
        bad.append((T + 5 * number, x))
    feed, last = Feed(), 0
    assert feed.look(samples(T, v2=(total[:1], bad[:1]))) == ""
    while last < len(steps) - 1:
        start, last = max(0, last - overlap + 1), min(len(steps) - 1, last + between)
        cut = slice(start, last + 1)
        assert feed.look(samples(total[last][0], v2=(total[cut], bad[cut]))) == ""
        assert feed.known == {"orders": unpacked(json.loads(json.dumps(feed.known["orders"].packed())))}
    assert (sum(w.n_c for w in feed.windows), sum(w.x_c for w in feed.windows)) == (all_n, all_x)


def both(at: float, n: int, x: int) -> Samples:
    return samples(at, v2=([(at, n)], [(at, x)]), v1=([(at, 9 * n)], [(at, 0)]))


def test_the_first_look_is_a_base_line_and_a_gap_is_covered_by_the_next_answer() -> None:
    feed = Feed()
    feed.look(both(T, 1000, 500))
    assert feed.windows == []
    assert feed.look(Samples(0.0, why="no answer")) == "no answer"
    assert feed.look(both(T + 40, 1010, 503)) == ""
    assert feed.windows == [Window(0, 10, 40.0, 10, 3, 90, 0)]


def test_a_failure_counted_before_what_it_belongs_to_is_of_something() -> None:
    feed = Feed()
    feed.look(both(T, 10, 0))
    feed.look(both(T + 10, 10, 1))
    assert [(w.n_c, w.x_c) for w in feed.windows] == [(1, 1)]


def test_what_was_counted_across_the_begin_of_a_step_is_of_the_step_before() -> None:
    feed = Feed()
    feed.look(both(T, 0, 0))
    feed.look(both(T + 10, 10, 0))
    feed.look(both(T + 20, 20, 5), step=1, weight=50, since=T + 15)
    feed.look(both(T + 30, 30, 5), step=1, weight=50, since=T + 15)
    assert [(w.step, w.weight, w.n_c, w.x_c) for w in feed.windows] == [(0, 10, 10, 0), (0, 10, 10, 5), (1, 50, 10, 0)]


def test_late_targets_are_told_and_those_of_pods_that_are_there_for_ever() -> None:
    for living, told in (("v2", True), ("", False)):
        feed = Feed(replace(ORDERS, max_age=20.0))
        feed.look(both(T, 10, 0))
        late = samples(T + 40, v2=([(T, 10)], [(T, 0)]), v1=([(T + 40, 100)], [(T + 40, 0)]))
        assert feed.look(late, living=living) == "shop/v2 has no sample of the last 40 s"
        gone = samples(T + 400, v1=([(T + 400, 900)], [(T + 400, 0)]))
        assert bool(feed.look(gone, living=living)) is told
        assert sum(w.n_c for w in feed.windows) == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (samples(T), "there is no series of orders_total"),
        (samples(T + 100, v2=([(T, 1)], [(T, 1)])), "the newest sample is 100 s old, max_age is 60 s"),
        (samples(T, v2=([(T, 1)], [])), 'v2 has no series of failed_total{version="v2"}; it has to be there'),
        (samples(T, v2=([(T, 1)], [(T, 0)]), v1=([(T, 1)], [])), 'v1 has no series of failed_total{version="v1"}'),
    ],
)
def test_nothing_is_counted_from_what_tells_nothing(answer: Samples, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        look_of(ORDERS, answer, None)
    assert str(caught.value).startswith(why)
    feed = Feed()
    feed.look(both(T - 50, 10, 0))
    assert feed.look(answer).startswith(why)
    assert feed.windows == []


def test_a_label_that_is_not_there_yet_is_none_so_far() -> None:
    feed = Feed(replace(ORDERS, bad='orders_total{version="{version}",result="bad"}'))
    feed.look(samples(T, v2=([(T, 10)], []), v1=([(T, 10)], [])))
    feed.look(samples(T + 10, v2=([(T + 10, 20)], [(T + 10, 4)]), v1=([(T + 10, 30)], [])))
    assert feed.windows == [Window(0, 10, 10.0, 10, 4, 20, 0)]


def test_queries_are_of_raw_samples_and_what_asks_for_something_else_begins_anew() -> None:
    assert ORDERS.query("total", "v2", 239.6) == 'orders_total{version="v2"}[240s]'
    assert ORDERS.query("bad", "v1", 1e9) == 'failed_total{version="v1"}[3600s]'
    feed = Feed()
    feed.look(both(T, 10, 0))
    assert Counters((ORDERS,), lambda *_given: None).known(feed.known) == feed.known
    other = replace(ORDERS, bad='lost_total{version="{version}"}')
    assert Counters((other,), lambda *_given: None).known(feed.known)["orders"].look is None


# ---------------------------------------------------------------- in the evidence, and the verdict


def evidence(*windows: Window, why: str = "", floor: float | None = None, at: float = T) -> Evidence:
    """Errors alone would pass."""
    look = look_of(ORDERS, both(T, 10, 0), None)[0]
    counted = Counted(ORDERS.mark, floor, look, why)
    good = tuple(Window(0, 10, 1.0, 20, 0, 180, 0) for _unused in range(100))
    return Evidence("r1", T, good, Look(at, {}, {}), also={"orders": windows}, counters={"orders": counted})


@pytest.mark.parametrize(
    ("windows", "why", "kind", "reason"),
    [
        ([Window(0, 10, 500.0, 2000, 0, 18000, 0)], "", "pass", "within the tolerance"),
        ([Window(0, 10, 5.0, 100, 60, 900, 0)] * 3, "", "fail", "orders bad: beyond the tolerance"),
        ([], "", "no_data", "counter orders: nothing of the canary has been counted at 10 % yet"),
        ([Window(0, 10, 5.0, 0, 0, 900, 0)], "", "no_data", "counter orders: nothing of the canary"),
        ([Window(0, 10, 500.0, 2000, 0, 18000, 0)], "is away", "no_data", "counter orders: is away"),
        ([Window(0, 10, 5.0, 100, 60, 900, 0)] * 3, "is away", "fail", "orders bad: beyond the tolerance"),
        ([Window(0, 10, 5.0, 20, 0, 180, 0)], "", "wait", "orders bad: neither beyond nor within"),
    ],
)
def test_the_verdict_comes_out_of_what_is_stored(windows: list[Window], why: str, kind: str, reason: str) -> None:
    kept = loads(dumps(evidence(*windows, why=why)))
    verdict = judge_again(kept, Tolerance())
    assert (verdict.kind, verdict.reason.startswith(reason)) == (kind, True)
    assert [one.metric for one in verdict.also] == ["orders"]
    assert verdict.decided_by == (ERRORS if kind == "pass" else "orders")
    assert kept.counters == evidence(*windows, why=why).counters


def test_a_pass_of_the_step_before_is_none_of_this_one() -> None:
    kept = evidence(Window(0, 10, 500.0, 2000, 0, 18000, 0))
    good = tuple(Window(1, 50, 1.0, 100, 0, 100, 0) for _unused in range(100))
    verdict = judge_again(replace(kept, windows=(*kept.windows, *good)), Tolerance())
    assert (verdict.kind, verdict.reason) == (
        "no_data",
        "counter orders: nothing of the canary has been counted at 50 % yet",
    )


def test_a_counter_has_its_own_floor_and_its_share_of_alpha_fail() -> None:
    main = Tolerance()
    found = tolerances(("unanswered", "orders"), main, None, {"orders": 0.1})
    assert found["orders"].floor == 0.1
    assert found["unanswered"].floor == main.floor
    assert sum(one.alpha_fail for one in found.values()) == pytest.approx(main.alpha_fail)
    few = [Window(0, 10, 5.0, 100, 3, 900, 0)] * 6
    assert judge_again(evidence(*few), Tolerance()).kind == "fail"
    assert judge_again(evidence(*few, floor=0.1), Tolerance()).kind != "fail"


def test_stored_counters_that_are_not_theirs_are_no_evidence() -> None:
    data = json.loads(dumps(evidence()))
    broken: object
    for broken in ({"orders": [1]}, {"orders": ["m", None, "", [T, {"a": 1}]]}, []):
        with pytest.raises(EvidenceError, match="cannot be read"):
            loads(json.dumps({**data, "counters": broken}))
    del data["counters"]
    assert loads(json.dumps(data)).counters == {}


def test_of_a_counter_that_would_be_too_much_to_store_the_windows_stay() -> None:
    kept = evidence(Window(0, 10, 500.0, 2000, 0, 18000, 0))
    many = {f"v2-{n}": ([(T, n)], [(T, 0)]) for n in range(3000)}
    look = look_of(ORDERS, samples(T, **many), None)[0]
    counted = replace(kept.counters["orders"], look=look)
    found = loads(dumps(replace(kept, counters={"orders": counted})))
    assert found.counters["orders"].look is None
    assert found.also["orders"] == kept.also["orders"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1), st.integers(0, 300)), max_size=30))
def test_replaying_what_is_stored_says_the_same_as_living_through_it(rows: list[tuple[int, float, int]]) -> None:
    windows = [Window(0, 10, 5.0, n, int(n * part), n_b, 0) for n, part, n_b in rows]
    live = Panel(tolerances(("orders",), Tolerance()), words={"orders": "orders bad"})
    kept = evidence(*windows)
    live.replay(kept.windows, {})
    for window in windows:
        live.observe(Window(0, 10, 0.0, 0, 0, 0, 0), {"orders": window})
    stored = judge_again(loads(dumps(kept)), Tolerance())
    assert (stored.kind == "fail") == (live.verdict(min_over=True).kind == "fail")
