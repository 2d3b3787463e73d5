# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is judged beside bad answers: requests without any answer, and slow ones. Private to this collection, pure.

Both are made from what proxies count anyway, as pairs (requests, bad ones) that only grow, like all evidence.

**Unanswered.** An endpoint has T requests in all, S with an answer of whatever kind, A under way. T - S - A of them
have ended without an answer: the client has given up. As S may be counted before a request ends (with the headers), the
difference can be too small at times, and never too large; so its greatest value so far is the count. What was under way
at the first look may have had its answer before: then T - S at that time is what the count begins with.

Clients that never give up keep A high instead. Of the requests that began `STUCK` seconds ago or earlier, T of then
minus S of now have no answer yet. That counts, too, unless long requests are the service's way: where stable's take a
quarter of that on the average (Little's law: A by requests a second), nothing is said of what is under way.

**Slow.** Slower than an edge of the proxies' own histograms. If nobody names one, it is the first beyond which stable
has had at most `TAIL` of its requests, and at least `LEAST_EDGE`: with so few of stable's the comparison takes no more
requests than that of errors does, and what is proven is that a clearly greater part has become slow. It is chosen once
in a release, as soon as stable has had `KNOWN` requests; nothing is judged slow before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from ansible_collections.progressive.istio.plugins.module_utils._looks import Counts, Flow, Look, ProxyLook, history
from ansible_collections.progressive.istio.plugins.module_utils._verdict import (
    ERRORS,
    LATENCY,
    UNANSWERED,
    Tolerance,
    number,
)

#: What a failure is made of, by pod address and by code of the answer: kept for the explanation, never judged.
HOSTS, CODES = "hosts", "codes"
STUCK = 5.0  # seconds
TAIL = 0.002
LEAST_EDGE = 100.0  # milliseconds
#: Stable's requests that an edge is chosen by; where it gets none any more, and has had fewer, it is `USUAL_EDGE`.
KNOWN, USUAL_EDGE = 500, 1000.0
#: So much of alpha_fail is for errors where more is judged; the others share the rest.
MAIN_SHARE = 0.8
#: The least rate of slow requests that matters.
LATENCY_FLOOR = 0.01

Histogram: TypeAlias = "Mapping[float, int]"  # requests that took at most so many ms; the last edge is inf


# ---------------------------------------------------------------- what is judged, and how


def words(name: str, edge: float = 0.0) -> str:
    """For a line: what makes a request one of those that are counted."""
    if name == LATENCY:
        return f"slower than {number(edge)} ms" if edge else "slow"
    return {ERRORS: "bad", UNANSWERED: "without answer"}.get(name, f"{name} bad")


def tolerances(
    names: Sequence[str],
    main: Tolerance,
    latency: Tolerance | None = None,
    floors: Mapping[str, float | None] | None = None,
) -> dict[str, Tolerance]:
    """How each metric is judged, by name: errors as the user says, each with its part of alpha_fail.

    ``names``: the metrics beside errors. ``floors``: of the user's counters, where they have their own. An attempt that
    is retried is no cluster of anything but errors.
    """
    if not names:
        return {ERRORS: main}
    part = (1.0 - MAIN_SHARE) / len(names)
    plain = replace(main, burst=1.0, slo=None, alpha_fail=part * main.alpha_fail)
    found = {ERRORS: replace(main, alpha_fail=MAIN_SHARE * main.alpha_fail)}
    for name in names:
        found[name] = plain
        if name == LATENCY:
            slow = latency or Tolerance(main.ratio, LATENCY_FLOOR)
            found[name] = replace(plain, ratio=slow.ratio, floor=slow.floor)
        elif (floor := (floors or {}).get(name)) is not None:
            found[name] = replace(plain, floor=floor)
    return found


def counted_by(look: Look, latency: bool) -> tuple[str, ...]:
    """The metrics beside errors that proxies count, as far as they have counted at all; ``latency``: if wanted."""
    busy = [proxy for proxy in look.proxies.values() if proxy.counted]
    found = [UNANSWERED] if not busy or any(proxy.flows or UNANSWERED in proxy.also for proxy in busy) else []
    return (*found, *([LATENCY] if latency and (not busy or any(proxy.histograms for proxy in busy)) else []))


def judged_by(look: Look, names: Sequence[str], edge: float, stable: str, latency: bool = True) -> str:
    """For a line when a release begins, and when its edge is chosen: what is judged, and what cannot be.

    ``latency``: if wanted; ``edge``: 0 if it is not chosen yet.
    """
    said = [words(ERRORS), *(words(name, edge) for name in names)]
    text = f"judges requests that are {', '.join(said)}"
    if LATENCY not in names:
        return text + ("; latency is not: the proxies keep no histogram of it" if latency else "")
    every, late = (sum(counts) for counts in zip((0, 0), *_slow_of(look, stable, edge), strict=True))
    if not edge:
        return f"{text} (what is slow is found out when {stable} has had {KNOWN} requests: {every:,} so far)"
    return text + (f" ({stable} so far: {late:,} of {every:,} slower)" if every else "")


def _slow_of(look: Look, version: str, edge: float) -> list[Counts]:
    return [slow(p.histograms[version], edge) for p in look.proxies.values() if version in p.histograms]


def past(look: Look, names: Sequence[str], edge: float, version: str) -> dict[str, Counts]:
    """By each of these metrics all that a raw look tells of a version: requests, bad ones."""
    found = {}
    for name in names:
        if name == LATENCY:
            counts = _slow_of(look, version, edge)
        elif name == UNANSWERED:
            flows = [flow for p in look.proxies.values() for flow in _of({"": p.flows}, version)]
            counts = [(total - active, max(total - answered - active, 0)) for total, answered, active in flows]
            counts += [p.also[UNANSWERED][version] for p in look.proxies.values() if version in p.also.get(name, {})]
        else:
            counts = [history(look, version)]
        every, bad = (sum(part) for part in zip((0, 0), *counts, strict=True))
        found[name] = (every, bad)
    return found


def unjudged(look: Look, names: Sequence[str], wanted: bool) -> dict[str, str]:
    """The metrics that are not judged, and why; ``wanted``: whether latency is."""
    found = {}
    if UNANSWERED not in names:
        found[UNANSWERED] = "the statistics that these proxies may be asked for do not tell it"
    if not wanted:
        found[LATENCY] = "analysis.latency is false"
    elif look.sampled and LATENCY not in names:
        found[LATENCY] = "a Prometheus as the source is not asked for it"
    elif LATENCY not in names:
        found[LATENCY] = "the proxies keep no histogram of it; proxyStatsMatcher with cluster.outbound makes them"
    return found


# ---------------------------------------------------------------- latency


def slow(histogram: Histogram, edge: float) -> Counts:
    """(requests, those slower than `edge` ms); an edge between two of the histogram's counts as the next higher."""
    every = max(histogram.values(), default=0)
    quick = min((count for at, count in histogram.items() if at >= edge), default=every)
    return every, every - quick


def choose_edge(look: Look, version: str, last_chance: bool = False) -> float:
    """The edge (ms) to judge latency by, from all that the proxies have counted of `version`; 0: not to be told yet.

    ``last_chance``: the version gets no more requests, so the usual edge it is.
    """
    total: dict[float, int] = {}
    for proxy in look.proxies.values():
        for at, count in proxy.histograms.get(version, {}).items():
            total[at] = total.get(at, 0) + count
    every = max(total.values(), default=0)
    edges = sorted(at for at in total if LEAST_EDGE <= at < float("inf"))
    if edges and every >= KNOWN:
        return next((at for at in edges if every - total[at] <= TAIL * every), edges[-1])
    if not last_chance:
        return 0.0
    return min((at for at in edges if at >= USUAL_EDGE), default=edges[-1] if edges else USUAL_EDGE)


# ---------------------------------------------------------------- unanswered


class Flows:
    """The requests under way and in all, look by look, as far back as `STUCK` seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[str, Mapping[str, Flow]]]] = deque()
        self._active: deque[dict[str, int]] = deque(maxlen=2)

    def add(self, look: Look) -> None:
        """Take in the next look, as it came."""
        self._looks.append((look.time, {uid: proxy.flows for uid, proxy in look.proxies.items() if proxy.flows}))
        active: dict[str, int] = {}
        for flows in self._looks[-1][1].values():
            for key, flow in flows.items():
                version = key.partition("@")[0]
                active[version] = active.get(version, 0) + flow[2]
        self._active.append(active)
        while len(self._looks) > 1 and self._looks[1][0] <= look.time - STUCK:
            self._looks.popleft()

    def earlier(self, stable: str) -> dict[str, Mapping[str, Flow]]:
        """What there was `STUCK` seconds ago, by proxy; nothing where that says nothing."""
        if not self._looks or self._looks[-1][0] - self._looks[0][0] < STUCK or self._long(stable):
            return {}
        return self._looks[0][1]

    def more_pending(self, versions: Sequence[str], given_up: Mapping[str, Counts]) -> list[int]:
        """By how many the requests of each version without an answer have grown since the last look.

        ``given_up``: those of them that have ended in between, as differences of UNANSWERED.
        """
        now = self._active[-1]
        before = self._active[0] if len(self._active) > 1 else now
        return [now.get(v, 0) - before.get(v, 0) + given_up.get(v, (0, 0))[1] for v in versions]

    def _long(self, stable: str) -> bool:
        """Whether stable's requests take long by themselves, or nothing is known of them."""
        (first, before), (last, now) = self._looks[0], self._looks[-1]
        began = sum(flow[0] for flow in _of(now, stable)) - sum(flow[0] for flow in _of(before, stable))
        active = sum(flow[2] for _time, flows in self._looks for flow in _of(flows, stable)) / len(self._looks)
        return began <= 0 or active / (began / (last - first)) > STUCK / 4.0


def _of(flows: Mapping[str, Mapping[str, Flow]], version: str) -> Iterable[Flow]:
    return (flow for series in flows.values() for key, flow in series.items() if key.partition("@")[0] == version)


def _unanswered(known: Counts | None, flow: Flow, first: bool, then: int) -> Counts:
    """The counts of one endpoint: (requests with an answer or ended without one, those without).

    ``known``: those of the last look. ``first``: its proxy is met for the first time, and had a past before that.
    ``then``: its requests in all `STUCK` seconds ago, 0 where that does not matter.
    """
    total, answered, active = flow
    missing = max(total - answered - active, then - answered, 0)
    if first:
        missing = max(total - answered, 0)
    elif known is not None and answered >= known[0] - known[1]:  # else its counters began anew
        missing = max(missing, known[1])
    return answered + missing, missing


def settle(
    before: Look | None, look: Look, since: float, edge: float, earlier: Mapping[str, Mapping[str, Flow]]
) -> Look:
    """``look`` with the counts of the metrics in place of the raw material that they are made of.

    ``before``: the last look, settled. ``since``: when the release began. ``edge``: in ms; 0: latency is not judged.
    ``earlier`` as Flows.earlier tells.
    """
    known = before.proxies if before else {}
    proxies = {
        uid: _settled(known.get(uid), proxy, since, edge, earlier.get(uid, {})) for uid, proxy in look.proxies.items()
    }
    return replace(look, proxies=proxies)


def _settled(
    before: ProxyLook | None, proxy: ProxyLook, since: float, edge: float, earlier: Mapping[str, Flow]
) -> ProxyLook:
    also = dict(proxy.also)
    if proxy.flows:
        same = before is not None and before.epoch.partition(":")[2] == proxy.epoch.partition(":")[2]
        last = before.also.get(UNANSWERED, {}) if before and same else {}
        first = proxy.born < since and (before is None or (same and before.counted and UNANSWERED not in before.also))
        also[UNANSWERED] = {
            key: _unanswered(last.get(key), flow, first, earlier[key][0] if key in earlier else 0)
            for key, flow in proxy.flows.items()
        }
    if proxy.histograms and edge:
        also[LATENCY] = {version: slow(histogram, edge) for version, histogram in proxy.histograms.items()}
    return replace(proxy, also=also, flows={}, histograms={})
