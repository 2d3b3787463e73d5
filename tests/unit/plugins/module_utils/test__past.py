# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A past span comes to the verdict that a release would have had: nothing counts twice, and a gap says nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _past
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look
from ansible_collections.progressive.istio.plugins.module_utils._metrics import tolerances
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Asked, Series
from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, UNANSWERED, Tolerance
from hypothesis import given
from hypothesis import strategies as st

HOST = "app-1.shop.svc.cluster.local"
VERSIONS = Asked({"v1": f"v1|{HOST}", "v2": f"v2|{HOST}"}, {})
WHOLE = Asked({"app-1": f"|{HOST}"}, {})
BEGIN, MAX_AGE, SCRAPE = 10_000.0, 60.0, 15.0
Rate = Callable[[float], float]


def scraped(
    pod: str, version: str, rate: Rate, seconds: float, reporter: str, per_scrape: int = 75, seed: int = 1
) -> list[Series]:
    """Two series of a target, good and bad answers, scraped from five minutes before BEGIN."""
    dice = random.Random(f"{pod}{version}{seed}")
    counts = {"200": 0, "503": 0}
    points: dict[str, list[tuple[float, int]]] = {code: [] for code in counts}
    at = BEGIN - 300
    while at <= BEGIN + seconds:
        bad = sum(dice.random() < rate(at) for _unused in range(per_scrape))
        counts["200"] += per_scrape - bad
        counts["503"] += bad
        for code, count in counts.items():
            points[code].append((at, count))
        at += SCRAPE
    labels = {"reporter": reporter, "job": "pods", "namespace": "shop", "pod": pod, "response_flags": "-"}
    labels |= {"destination_service": HOST, "destination_canonical_revision": version}
    return [Series({**labels, "response_code": code}, tuple(found)) for code, found in points.items()]


def steady(rate: float) -> Rate:
    return lambda _time: rate


def past(series: Sequence[Series], asked: Asked, seconds: float, window: float = 60.0) -> list[Look]:
    when = _past.Span(BEGIN, BEGIN + seconds, window)
    spans: list[tuple[float, float]] = []

    def ask(at: float, length: float) -> list[Series]:
        spans.append((at - length, at))
        cut = [Series(s.labels, tuple(p for p in s.points if at - length < p[0] <= at)) for s in series]
        return [one for one in cut if one.points]

    found = list(_past.looks(ask, asked, when, MAX_AGE))
    assert all(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))
    return found


def panel() -> Panel:
    return Panel(tolerances((UNANSWERED,), Tolerance()))


def pods(rate: Rate, seconds: float, worse: dict[str, Rate] | None = None, seed: int = 1) -> list[Series]:
    found = []
    for number in range(6):
        name = f"app-1-{number}"
        found += scraped(name, "v1", (worse or {}).get(name, rate), seconds, "destination", 300, seed)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_version_against_itself_is_not_blamed(seed: int) -> None:
    looks = past(_past.as_clients(pods(steady(0.01), 3600, seed=seed)), WHOLE, 3600)
    counted = _past.of_halves(looks, BEGIN)
    assert _past.share(counted) == 50
    said, verdict = _past.replay(panel(), counted, _past.share(counted))
    assert verdict.kind == "pass"
    assert [one.verdict.kind for one in said][-1] == "pass"
    assert "fail" not in [one.verdict.kind for one in said]


def test_a_pod_that_is_worse_than_the_others_is_found_and_it_ends_there() -> None:
    late = BEGIN + 1800
    worse = {"app-1-2": lambda time: 0.3 if time > late else 0.001}
    counted = _past.of_halves(past(_past.as_clients(pods(steady(0.001), 3600, worse)), WHOLE, 3600), BEGIN)
    said, verdict = _past.replay(panel(), counted, 50)
    assert verdict.kind == "fail"
    assert late < said[-1].time < late + 600
    assert [one.verdict.kind for one in said].count("fail") == 1


def test_two_versions() -> None:
    late = BEGIN + 1200
    series = [
        *scraped("client", "v1", steady(0.001), 3600, "source", 900),
        *scraped("client", "v2", lambda time: 0.05 if time > late else 0.001, 3600, "source", 100),
    ]
    counted = _past.of_versions(past(series, VERSIONS, 3600), BEGIN, "v2", "v1")
    assert _past.share(counted) == 10
    said, verdict = _past.replay(panel(), counted, 10)
    assert (verdict.kind, said[-1].verdict) == ("fail", verdict)
    assert late < said[-1].time < late + 600
    good = _past.of_versions(past(series, VERSIONS, 1140), BEGIN, "v2", "v1")
    assert _past.replay(panel(), good, 10)[1].kind == "pass"


def test_a_gap_says_nothing_and_is_made_up_for() -> None:
    series = [
        Series(one.labels, tuple(p for p in one.points if not BEGIN + 600 < p[0] < BEGIN + 1500))
        for version in ("v1", "v2")
        for one in scraped("client", version, steady(0.001), 3600, "source", 500)
    ]
    counted = _past.of_versions(past(series, VERSIONS, 3600), BEGIN, "v2", "v1")
    silent = [one for one in counted if one.why]
    assert silent
    assert all(BEGIN + 540 <= one.time <= BEGIN + 1560 for one in silent)
    assert sum(one.counts[ERRORS][0][0] for one in silent) == 0
    assert sum(one.counts[ERRORS][0][0] for one in counted) == 500 * 240
    said, _verdict = _past.replay(panel(), counted, 50)
    assert "no_data" in [one.verdict.kind for one in said]
    assert "fail" not in [one.verdict.kind for one in said]


def test_nothing_there_is_no_data() -> None:
    counted = _past.of_halves(past([], WHOLE, 600), BEGIN)
    said, verdict = _past.replay(panel(), counted, _past.share(counted))
    assert ([one.verdict.kind for one in said], verdict.kind) == (["no_data"], "no_data")


@given(st.integers(60, 4000), st.sampled_from([30.0, 45.0, 60.0, 300.0]), st.integers(0, 50))
def test_the_windows_add_up_however_they_are_cut(seconds: int, window: float, seed: int) -> None:
    seconds = max(seconds, int(window))
    series = scraped("client", "v2", steady(0.1), seconds, "source", 10, seed)
    looks = past(series, VERSIONS, seconds, window)
    counted = _past.of_versions(looks, BEGIN, "v2", "v1")
    first, last = BEGIN, BEGIN + window * (len(looks) - 1)
    points = next(one.points for one in series if one.labels["response_code"] == "503")
    then, now = (max(count for time, count in points if time <= at) for at in (first, last))
    assert sum(one.counts[ERRORS][0][1] for one in counted) == now - then


@pytest.mark.parametrize(
    ("text", "time"),
    [("90m", 4_600.0), ("1.5h", 4_600.0), ("1970-01-01T01:00:00Z", 3_600.0), ("1970-01-01T01:00:00+01:00", 0.0)],
)
def test_times(text: str, time: float) -> None:
    assert _past.moment(text, 10_000.0, "past.begin") == time


@pytest.mark.parametrize(
    ("begin", "end", "window", "error"),
    [
        ("yesterday", "", 60.0, "past.begin: expected 2026-11-27T10:00:00Z, or how long ago: 24h; got 'yesterday'"),
        ("1h", "soon", 60.0, "past.end: expected "),
        ("1h", "", 0.5, "past.window: expected 1 to 600 seconds, got 0.5"),
        ("30s", "", 60.0, "past.begin: expected at least 60 s before past.end, got 30 s"),
        ("1h", "2h", 60.0, "past.begin: expected at least 60 s before past.end, got -3600 s"),
        ("30d", "", 60.0, "past.window: expected 130 s or more for so long a time, got 60"),
    ],
)
def test_what_cannot_be_asked_for(begin: str, end: str, window: float, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{error.replace('(', '.').replace(')', '.')}"):
        _past.span(begin, end, window, 1e9)
