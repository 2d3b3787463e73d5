# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the simulated service, what its versions count of their own, and who asks for that.

See ``simulated``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ansible_collections.progressive.istio.plugins.module_utils._audience import Shown
from ansible_collections.progressive.istio.plugins.module_utils._counters import PARTS, Counter, Samples
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Series

Rate = Callable[[float], float]  # bad requests per request, by time


def binomial(rng: random.Random, n: int, p: float) -> int:
    """A draw from the binomial distribution, by the gaps between successes."""
    if p <= 0.0 or n <= 0:
        return 0
    if p >= 1.0:
        return n
    hits, at, scale = 0, 0, math.log1p(-p)
    while True:
        at += 1 + int(math.log(1.0 - rng.random()) / scale)
        if at > n:
            return hits
        hits += 1


@dataclass
class Shop:
    """What the versions count of their own, and a Prometheus scrapes: each request is an order, some of them fail."""

    rates: dict[str, Rate]
    scrape: float = 5.0
    lazy: bool = False  # a counter of failures appears with the first of them
    away: Callable[[float], bool] = lambda _time: False  # whether the Prometheus does not answer
    counts: dict[str, list[int]] = field(default_factory=dict)
    samples: dict[str, list[tuple[float, int, int]]] = field(default_factory=dict)
    scraped_at: float = 0.0

    def order(self, rng: random.Random, version: str, n: int, time: float) -> None:
        counts = self.counts.setdefault(version, [0, 0])
        counts[0] += n
        counts[1] += binomial(rng, n, self.rates[version](time)) if version in self.rates else 0

    def pass_by(self, time: float) -> None:
        if time - self.scraped_at >= self.scrape:
            self.scraped_at = time
            for version, (n, x) in self.counts.items():
                self.samples.setdefault(version, []).append((time, n, x))

    def restart(self, version: str) -> None:
        self.counts[version] = [0, 0]

    def series(self, version: str, bad: bool, since: float) -> list[Series]:
        known = [one for one in self.samples.get(version, ()) if one[0] > since]
        points = tuple((time, x if bad else n) for time, n, x in known if x or not (bad and self.lazy))
        labels = {"job": "app", "pod": f"{version}-pod", "namespace": "shop", **({"result": "failed"} if bad else {})}
        return [Series(labels, points)] if points else []


class Town(Protocol):
    """Of a mesh: its clock, and its shop."""

    time: float
    shop: Shop | None


@dataclass
class Client:
    """One client pod with its proxy: what it runs, and what it has counted by version."""

    uid: str
    born: float
    weights: dict[str, int]
    shown: Shown = field(default_factory=Shown)
    counts: dict[str, list[int]] = field(default_factory=dict)
    hung: dict[str, int] = field(default_factory=dict)  # requests that never get an answer, of those that have ended
    waiting: dict[str, int] = field(default_factory=dict)  # and of those whose clients wait for ever
    late: dict[str, int] = field(default_factory=dict)  # slower than 250 ms
    epoch: int = 0
    cut_off: bool = False
    silent: bool = False


class Counting:
    """Asks the shop's Prometheus: the answer is there at the second look."""

    def __init__(self, mesh: Town) -> None:
        self._mesh = mesh
        self._begun: set[str] = set()

    def rehearse(self, counters: Sequence[Counter], versions: Sequence[str]) -> None:
        pass

    def ask(self, counter: Counter, versions: Sequence[str], seconds: float) -> Samples | None:
        if counter.name not in self._begun:
            self._begun.add(counter.name)
            return None
        self._begun.discard(counter.name)
        shop, now = self._mesh.shop, self._mesh.time
        assert shop is not None
        if shop.away(now):
            return Samples(0.0, why="Prometheus does not answer")
        since = now - seconds
        return Samples(now, {v: {part: shop.series(v, part == "bad", since) for part in PARTS} for v in versions})
