# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeded traffic for the tests of the gate."""

from __future__ import annotations

import random
from math import log

from ansible_collections.progressive.istio.plugins.module_utils._gate import (
    Gate,
    Tolerance,
    Window,
)

T = Tolerance()


def window(n_c: int, x_c: int, n_b: int, x_b: int, weight: int = 10, step: int = 1, seconds: float = 1.0) -> Window:
    return Window(step, weight, seconds, n_c, x_c, n_b, x_b)


class Traffic:
    """Seeded windows of one second, `rps` requests in each, every request independent."""

    def __init__(self, seed: int, rps: int = 100) -> None:
        self.rng, self.rps = random.Random(seed), rps

    def count(self, n: int, p: float) -> int:
        """Binomial, by the gaps between hits."""
        if n <= 0 or p <= 0:
            return 0
        if p >= 1:
            return n
        hits, at, scale = 0, -1, log(1 - p)
        while (at := at + 1 + int(log(1 - self.rng.random()) / scale)) < n:
            hits += 1
        return hits

    def window(self, weight: int, p_c: float, p_b: float, step: int = 1) -> Window:
        n_c = self.count(self.rps, weight / 100)
        n_b = self.rps - n_c
        return window(n_c, self.count(n_c, p_c), n_b, self.count(n_b, p_b), weight, step)


def feed(gate: Gate, traffic: Traffic, seconds: int, weight: int, p_c: float, p_b: float, step: int = 1) -> None:
    for _unused in range(seconds):
        gate.observe(traffic.window(weight, p_c, p_b, step))


def time_to_fail(gate: Gate, traffic: Traffic, weight: int, p_c: float, p_b: float, step: int = 1) -> tuple[int, int]:
    """Seconds and bad canary requests until the failure is proven; 1,000 s at most."""
    bad = 0
    for second in range(1, 1001):
        w = traffic.window(weight, p_c, p_b, step)
        bad += w.x_c
        gate.observe(w)
        if gate.proven:
            return second, bad
    return 1000, bad
