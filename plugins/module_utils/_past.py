# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gate would have said in a past span of time, by a Prometheus' samples. Private to this collection, pure.

Two versions, or one version against itself (A/A): the targets of its pods, by the proxies' ``reporter="destination"``,
dealt to two halves. A gate that blames a half there would have blamed a good version.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.progressive.istio.plugins.module_utils import _prometheus
from ansible_collections.progressive.istio.plugins.module_utils._looks import Counts, Look, by_version, differences
from ansible_collections.progressive.istio.plugins.module_utils._objects import seconds_of
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Asked, Series
from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, UNANSWERED, Verdict, Window

CHUNK = 600.0  # seconds of samples that are asked for at once
MOST = 20_000  # windows
METRICS = (ERRORS, UNANSWERED)
HALF = 50
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when (seconds since the epoch), and how long one window is."""

    begin: float
    end: float
    window: float


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict, and when it was reached."""

    time: float
    verdict: Verdict


def moment(text: str, now: float, field: str) -> float:
    """A time: ``2026-11-27T10:00:00Z``, or so long ago: ``90m``, ``24h``, ``7d``. Raises ValueError, with the field."""
    if ago := _AGO.fullmatch(text.strip()):
        return now - float(ago[1]) * _SECONDS[ago[2]]
    try:
        return seconds_of(text.strip())
    except ValueError:
        raise ValueError(f"{field}: expected 2026-11-27T10:00:00Z, or how long ago: 24h; got {text!r}") from None


def span(begin: str, end: str, window: float, now: float) -> Span:
    """From options. Raises ValueError, naming the field."""
    if not 1.0 <= window <= CHUNK:
        raise ValueError(f"past.window: expected 1 to {CHUNK:g} seconds, got {window:g}")
    found = Span(moment(begin, now, "past.begin"), moment(end, now, "past.end") if end else now, window)
    seconds = found.end - found.begin
    if seconds < window:
        raise ValueError(f"past.begin: expected at least {window:g} s before past.end, got {seconds:.0f} s")
    if seconds > MOST * window:
        raise ValueError(f"past.window: expected {seconds / MOST:.0f} s or more for so long a time, got {window:g}")
    return found


def looks(ask: Callable[[float, float], Sequence[Series]], asked: Asked, when: Span, max_age: float) -> Iterator[Look]:
    """A look at the beginning and at the end of every window. ``ask(at, seconds)`` gives the samples before ``at``."""
    before: Look | None = None
    margin = _prometheus.span(None, when.begin, max_age)
    at = when.begin
    while at <= when.end:
        end = min(at + CHUNK, when.end)
        series = ask(end, end - at + when.window + margin)
        while at <= end:
            before = _prometheus.look_of(until(series, at), asked, before, at, max_age)
            yield before
            at += when.window


def until(series: Sequence[Series], time: float) -> Iterator[Series]:
    """What was known then: samples up to a time."""
    for one in series:
        cut = bisect_right(one.points, time, key=lambda point: point[0])
        if cut:
            yield Series(one.labels, one.points[:cut])


def as_clients(series: Sequence[Series]) -> list[Series]:
    """What the versions' own proxies report, in place of what their clients do."""
    return [
        Series({**one.labels, "reporter": "source"}, one.points)
        for one in series
        if one.labels.get("reporter") == "destination"
    ]


@dataclass(frozen=True, slots=True)
class Counted:
    """One window: until when, its length in seconds, what canary and stable got by metric, and why it may lack some."""

    time: float
    seconds: float
    counts: Mapping[str, tuple[Counts, Counts]]
    why: str


def of_versions(past: Sequence[Look], begin: float, canary: str, stable: str) -> list[Counted]:
    """What two versions got, by the proxies of their clients."""

    def split(before: Look, now: Look, metric: str) -> tuple[Counts, Counts]:
        counts = by_version(differences(before.proxies, now.proxies, begin, metric))
        return counts.get(canary, (0, 0)), counts.get(stable, (0, 0))

    return _windows(past, split)


def of_halves(past: Sequence[Look], begin: float) -> list[Counted]:
    """What two halves of the targets got, dealt by name: the same ones each time."""
    dealt = sorted({uid for look in past for uid in look.proxies})
    halves = frozenset(dealt[::2]), frozenset(dealt[1::2])

    def split(before: Look, now: Look, metric: str) -> tuple[Counts, Counts]:
        one, other = (_of(half, before, now, begin, metric) for half in halves)
        return one, other

    return _windows(past, split)


def _of(half: Collection[str], before: Look, now: Look, begin: float, metric: str) -> Counts:
    one, other = ({uid: proxy for uid, proxy in look.proxies.items() if uid in half} for look in (before, now))
    counts = differences(one, other, begin, metric).values()
    return sum(n for n, _bad in counts), sum(bad for _n, bad in counts)


def _windows(past: Sequence[Look], split: Callable[[Look, Look, str], tuple[Counts, Counts]]) -> list[Counted]:
    return [
        Counted(
            now.time,
            max(0.0, now.time - before.time),
            {metric: split(before, now, metric) for metric in METRICS},
            ", ".join(f"{name}: {text}" for name, text in sorted(now.unread.items())[:3]),
        )
        for before, now in itertools.pairwise(past)
    ]


def share(counted: Sequence[Counted]) -> int:
    """The canary's share of all requests in percent, 1 to 99: what its weight must have been."""
    n_c, n_b = (sum(one.counts[ERRORS][side][0] for one in counted) for side in (0, 1))
    return max(1, min(99, round(100 * n_c / (n_c + n_b)))) if n_c + n_b else HALF


def replay(panel: Panel, counted: Sequence[Counted], weight: int) -> tuple[list[Said], Verdict]:
    """Each verdict that differs in kind from the one before it, and the last one.

    It ends with a `fail`, as a release would. ``weight``: the canary's share in percent.
    """
    said: list[Said] = []
    panel.begin_step(0, weight)
    verdict = panel.verdict(min_over=True)
    for one in counted:
        windows = {
            metric: Window(0, weight, one.seconds, *canary, *stable) for metric, (canary, stable) in one.counts.items()
        }
        panel.observe(windows[ERRORS], {UNANSWERED: windows[UNANSWERED]})
        verdict = panel.verdict(min_over=True, source_ok=not one.why, why=one.why)
        if not said or said[-1].verdict.kind != verdict.kind:
            said.append(Said(one.time, verdict))
        if verdict.kind == "fail":
            break
    return said, verdict
