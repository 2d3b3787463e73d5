# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong around the canary: requests that are not split as the weight says, and a stable version that fails.

Private to the collection, pure. Both are evidence that no version can be blamed by.

**Split.** At a weight w the canary's share of the requests is w, within `SLACK` of the lesser side. "Too many": the
likelihood ratio of a share s against the upper end h of that is k ln(s/h) + (n-k) ln[(1-s)/(1-h)], an e-process for
every share up to h, as it falls with the share; "too few" is the mirror. The mean over 16 shares and both sides is one
against "within". It is taken from the sums of a step, so it does not matter how windows are cut; it is not kept once
reached, as it speaks of now. Counts of attempts hold retries, and those go to the version that fails: so of the side
that is said to have too many only good ones count, of the other all.

**Stable.** Its rate against max(floor, ratio * U), U the upper bound of the rate before the release, or against the
user's SLO if that is less. Beyond it with odds of 1/alpha_fail: something fails that was there before the canary. Back
within it with 1/alpha_pass: it is over, and the test begins anew. That second test is taken from whenever it stood
lowest (a CUSUM; Page, 1954), as nobody knows when it will be over; a false "over" ends a wait, and proves nothing else.
"""

from __future__ import annotations

from math import ceil, inf, log

from ._sequential import FACTORS, RateTest, log_sum, upper_bound
from ._verdict import Counts, Tolerance

#: Of the lesser of both weights: so far the split may be off.
SLACK = 0.1
ALPHA_SPLIT = 0.001
#: As in `_gate`: late onset, for a stable version that may have been good for hours.
HELD, SLOW, MOST = 0.5, 50, 1000
#: A limit beyond which nothing is said of stable: too little is known of before.
MOST_BAD = 0.5


def _side(limit: float, n: int, k: int) -> float:
    """The logarithm ln E that a share is above `limit` (0 < limit < 1), with `k` of `n`: mean over 16 shares."""
    room = (1.0 - limit) / limit
    gains = []
    for factor in FACTORS:  # the odds of the share grow by the factor
        share = factor / (factor + room)
        gains.append(k * log(share / limit) + (n - k) * log((1.0 - share) / (1.0 - limit)))
    return log_sum(gains) - log(len(FACTORS))


def split_odds(weight: int, counts: Counts) -> tuple[float, float]:
    """The logarithms ln E that the canary gets more than its weight (1..99 percent), and that it gets less."""
    share = weight / 100.0
    slack = SLACK * min(share, 1.0 - share)
    good_c, good_b = counts.n_c - counts.x_c, counts.n_b - counts.x_b
    many = _side(share + slack, good_c + counts.n_b, good_c)
    few = _side(1.0 - share + slack, counts.n_c + good_b, good_b)
    return many, few


class StableWatch:
    """Whether stable itself is proven worse than before the release, or beyond the SLO."""

    __slots__ = ("_clean", "_least", "_period", "_restarts", "_since", "_test", "_tolerance", "_total", "bad", "limit")

    def __init__(self, tolerance: Tolerance, before: tuple[int, int]) -> None:
        """``before``: stable's requests and bad ones before the release. Without any, only an SLO is a limit."""
        bound = upper_bound(*before, tolerance.alpha_fail, tolerance.burst)
        self.limit = min(max(tolerance.floor, tolerance.ratio * bound), tolerance.slo or inf)
        self.bad = False
        self._tolerance = tolerance
        self._least = ceil(tolerance.burst / self.limit)
        self._total = self._since = self._clean = 0  # requests: all, since the last restart, good ones not yet taken in
        self._begin()

    def _begin(self) -> None:
        burst = self._tolerance.burst
        self._test = RateTest(self.limit, "better", burst) if self.bad else RateTest(self.limit, "worse", burst, HELD)
        self._restarts = 0
        self._restart()

    def observe(self, n: int, x: int) -> None:
        """Take in the requests of a window and the bad ones of them.

        Windows without a bad one may be cut and merged: what they add up to is looked at at fixed numbers only.
        """
        if self.limit >= MOST_BAD:
            return
        if x:
            self._settle()
            self._add(n)
            self._test.update(n, x)
            self._look()
            return
        while n >= (part := self._period - self._since):
            self._add(part)
            self._clean += part
            n -= part
            self._settle()
            self._look()
        self._add(n)
        self._clean += n

    def _add(self, n: int) -> None:
        self._since += n
        self._total += n

    def _settle(self) -> None:
        self._test.update(self._clean, 0)
        self._clean = 0

    def _look(self) -> None:
        if self._test.log_e >= -log(self._tolerance.alpha_pass if self.bad else self._tolerance.alpha_fail):
            self.bad = not self.bad
            self._begin()
        elif self.bad and self._test.log_e < 0.0:
            self._begin()  # it may have ended only now
        elif self._since >= self._period:
            self._restarts += 1
            self._test.stake.restart(1.0 / (SLOW + self._restarts))
            self._restart()

    def _restart(self) -> None:
        self._since, self._period = 0, max(self._least, self._total // MOST)
