# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequential tests on counts that may be looked at after every window. Private to the collection.

Everything here is an *e-process*: a running product of bets that starts at 1 and, while the null hypothesis
holds, never grows in expectation, however often it is looked at and whatever made the numbers of requests what
they are. So "it has reached 1/alpha at some look" is proof at level alpha (Ville's inequality; for an
introduction see Ramdas, Gruenwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference",
Statistical Science 38, 2023). Values are natural logarithms throughout.

Two comparisons, each in two directions (`side`):

* *ratio*: canary's rate p_c of bad requests against rho0 * stable's rate p_b. Of the bad requests of a window, the
  canary's share would be pi(r) = r n_c / (r n_c + n_b) if p_c were r p_b; the likelihood ratio of r against rho0
  given the number of bad requests is
      ln L(r) = x_c ln(r / rho0) + (x_c + x_b) ln[(rho0 n_c + n_b) / (r n_c + n_b)].
  The baseline rate has dropped out, so it may drift as it likes. A window without bad requests is worth nothing.
* *rate*: p_c against a fixed limit s.  worse: ln L(q) = x ln(q/s) - n (q - s), q > s (the Poisson form; by
  1 + y <= exp(y) it is valid for single requests too);  better: x ln(q/s) + (n - x) ln[(1-q)/(1-s)], q < s.

The alternatives are rho0 (or s) times or divided by `FACTORS`, and E is the mean of exp(sum ln L) over them. Where
"better than rho0 times stable" is asked of a canary that nobody changed for the better, r = 1 is what to expect: then
a part `equal` of the stake may be bet on just that, and the rest on `FACTORS` (any fixed mixture is valid).

*Bursts.* If bad requests come in independent clusters of at most B, all exponents are divided by B
(y**t <= 1 + t (y - 1) for 0 <= t <= 1): slower, and valid again.

*Late onset.* A product that has run through an hour of good requests has lost its stake by then. So only a part of
the stake is bet at the start; the rest is kept back and bet afresh at later times ("it turned bad here"), which
keeps the sum an e-process as long as a time is chosen without looking at what follows it (a mixture over change
points, Shin, Ramdas, Rinaldo, "E-detectors", NEJSDS 2023). `Stake` holds both parts.
"""

from __future__ import annotations

from copy import copy
from math import ceil, exp, inf, lgamma, log, log1p
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Side = Literal["worse", "better"]


def log_grid(low: float, high: float, points: int) -> tuple[float, ...]:
    """`points` values from `low` to `high`, equally spaced in the logarithm."""
    return tuple(low * (high / low) ** (i / (points - 1)) for i in range(points))


#: How many times worse (or better) than the limit an alternative is: 16 values, 1.25 to 64.
FACTORS = log_grid(1.25, 64.0, 16)
_EVEN = (1.0 / len(FACTORS),) * len(FACTORS)
#: A rate above this is no alternative: nothing can be proven about a limit so near to 1.
_TOP = 0.999


def log_sum(values: Sequence[float]) -> float:
    """The logarithm ln of the sum of exp(values); -inf for a sum of nothing."""
    top = max(values, default=-inf)
    return top if top == -inf else top + log(sum([exp(v - top) for v in values]))


def _log_add(a: float, b: float) -> float:
    return max(a, b) + log1p(exp(-abs(a - b)))


def log_mean(a: float, b: float) -> float:
    """The logarithm ln of the mean of exp(a) and exp(b)."""
    return log_sum((a, b)) - log(2.0)


class Stake:
    """What an e-process owns: `bets`, one logarithm for each alternative, and `held`, the part (0..1) kept back.

    shares: what part of a stake each alternative gets, together 1.
    """

    __slots__ = ("bets", "held", "shares")

    def __init__(self, held: float = 0.0, shares: Sequence[float] = _EVEN) -> None:
        self.bets = [log((1.0 - held) * share) for share in shares]
        self.held, self.shares = held, shares

    def copy(self) -> Stake:
        """An independent copy."""
        other = Stake.__new__(Stake)
        other.bets, other.held, other.shares = self.bets[:], self.held, self.shares
        return other

    def win(self, gains: Sequence[float]) -> None:
        """Multiply each bet by exp(its gain)."""
        self.bets = [b + g for b, g in zip(self.bets, gains, strict=True)]

    def restart(self, share: float) -> None:
        """Bet `share` (0..1) of what is held back, spread as at the start, from here on."""
        if (stake := self.held * share) > 0.0:
            self.held -= stake
            new = [log(stake * part) for part in self.shares]
            # _log_add, written out: a long release begins anew thousands of times.
            self.bets = [
                b + log1p(exp(s - b)) if b > s else s + log1p(exp(b - s)) for b, s in zip(self.bets, new, strict=True)
            ]

    def lose(self, nats: float) -> None:
        """Throw away bets: they are multiplied by exp(-nats). What is held back stays."""
        self.bets = [b - nats for b in self.bets]

    def give_up(self, nats: float) -> None:
        """Throw away wealth: everything is multiplied by exp(-nats). Always allowed, an e-process may lose."""
        self.bets = [b - nats for b in self.bets]
        self.held *= exp(-nats)

    @property
    def log_e(self) -> float:
        """The logarithm ln E: bets and what is held back."""
        total = log_sum(self.bets)
        if self.held <= 0.0:
            return total
        return _log_add(total, log(self.held))


class RatioTest:
    """Evidence that p_c > ratio * p_b (`worse`) or p_c < ratio * p_b (`better`), from requests n and bad ones x.

    equal: part (0..1) of the stake of `better` that is bet on p_c = p_b; not used where that is no alternative.
    """

    __slots__ = ("_burst", "_log_moves", "_ratio", "_ratios", "factors", "side", "stake")

    def __init__(self, ratio: float, side: Side, burst: float = 1.0, held: float = 0.0, equal: float = 0.0) -> None:
        self.side, self._ratio, self._burst = side, ratio, burst
        bet = side == "better" and equal > 0.0 and ratio > 1.0
        self.factors = (*FACTORS, ratio) if bet else FACTORS
        shares = (*((1.0 - equal) * share for share in _EVEN), equal) if bet else _EVEN
        self._ratios = [ratio * f if side == "worse" else ratio / f for f in self.factors]
        self._log_moves = [log(f) if side == "worse" else -log(f) for f in self.factors]
        self.stake = Stake(held, shares)

    def copy(self) -> RatioTest:
        """An independent copy."""
        other = copy(self)
        other.stake = self.stake.copy()
        return other

    def update(self, n_c: float, x_c: float, n_b: float, x_b: float) -> None:
        """Take in one window."""
        if n_c > 0 and n_b > 0 and (x_c or x_b):
            self.stake.win(self.gains(n_c, x_c, n_b, x_b))

    def gains(self, n_c: float, x_c: float, n_b: float, x_b: float) -> list[float]:
        """The logarithm ln L of one window (n_c, n_b > 0) for each alternative."""
        canary, both = x_c / self._burst, (x_c + x_b) / self._burst
        base = log(self._ratio * n_c + n_b)
        return [
            canary * m + both * (base - log(r * n_c + n_b)) for m, r in zip(self._log_moves, self._ratios, strict=True)
        ]

    @property
    def log_e(self) -> float:
        """The logarithm ln E."""
        return self.stake.log_e


def rate_gains(
    limit: float, side: Side, n: float, x: float, burst: float = 1.0, factors: Sequence[float] = FACTORS
) -> list[float]:
    """The logarithm ln L of `n` requests, `x` of them bad, against the rate `limit`, for each alternative.

    All zero where the limit leaves no room: at 0 nothing can be better, near 1 nothing worse.
    """
    if limit <= 0.0 or limit >= _TOP:
        return [0.0] * len(factors)
    bad, every = x / burst, n / burst
    if side == "worse":
        rates = [min(limit * f, _TOP) for f in factors]
        return [bad * log(q / limit) - every * (q - limit) for q in rates]
    good = every - bad
    return [-bad * log(f) + good * log((1.0 - limit / f) / (1.0 - limit)) for f in factors]


class RateTest:
    """Evidence that p > limit (`worse`) or p < limit (`better`)."""

    __slots__ = ("_burst", "_per_bad", "_per_good", "limit", "side", "stake")

    def __init__(self, limit: float, side: Side, burst: float = 1.0, held: float = 0.0) -> None:
        self.limit, self.side, self._burst = limit, side, burst
        # Linear in the counts, so two vectors say it all.
        self._per_good = rate_gains(limit, side, 1, 0, burst)
        self._per_bad = rate_gains(limit, side, 1, 1, burst)
        self.stake = Stake(held)

    def copy(self) -> RateTest:
        """An independent copy."""
        other = copy(self)
        other.stake = self.stake.copy()
        return other

    def update(self, n: float, x: float) -> None:
        """Take in `n` requests, `x` of them bad."""
        if n > 0:
            self.stake.win(self.gains(n, x))

    def gains(self, n: float, x: float) -> list[float]:
        """The logarithm ln L for each alternative."""
        good = n - x
        return [good * g + x * b for g, b in zip(self._per_good, self._per_bad, strict=True)]

    @property
    def log_e(self) -> float:
        """The logarithm ln E."""
        return self.stake.log_e


def requests_until(bets: Sequence[float], gains: Sequence[float], goal: float) -> int | None:
    """Requests n until ln sum of exp(bets + n gains) is the goal; None: never."""
    # Where one bet alone is enough, all together are. The sum is convex, so Newton comes down from there to where it
    # reaches the goal.
    n = min(((goal - b) / g for b, g in zip(bets, gains, strict=True) if g > 0.0), default=inf)
    for _unused in range(100):
        if n > 1e9:
            return None
        values = [b + n * g for b, g in zip(bets, gains, strict=True)]
        total = log_sum(values)
        slope = sum(g * exp(v - total) for g, v in zip(gains, values, strict=True))
        step = (total - goal) / slope
        n -= step
        if step < 0.01:
            break
    return max(ceil(n - 0.01), 1)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def upper_bound(n: float, x: float, alpha: float, burst: float = 1.0) -> float:
    """A bound that the rate of bad requests stays below at all looks together, but for probability `alpha`.

    The largest p whose likelihood is more than `alpha` times that of a Beta(1/2, 1/2) mixture (Robbins, 1970). 1.0
    without requests.
    """
    if n <= 0:
        return 1.0
    bad, good = x / burst, (n - x) / burst
    cut = _log_beta(bad + 0.5, good + 0.5) - _log_beta(0.5, 0.5) + log(alpha)
    low, high = x / n, 1.0
    for _unused in range(60):
        p = (low + high) / 2.0
        inside = p < 1.0 and (bad * log(p) if bad else 0.0) + (good * log1p(-p) if good else 0.0) >= cut
        low, high = (p, high) if inside else (low, p)
    return high


class RatioInterval:
    """Confidence sequence for p_c / p_b: holds at all looks together but for probability `alpha`.

    The ratios whose conditional likelihood is more than `alpha` times that of a log-uniform mixture over 1/100..100.
    State is one logarithm for each point of a fixed grid, so an hour of windows needs no more room than one.
    """

    GRID = log_grid(1e-3, 1e3, 97)
    _LOG_GRID = tuple(log(r) for r in GRID)
    _PRIOR = tuple(i for i, r in enumerate(GRID) if 0.0099 <= r <= 101.0)

    __slots__ = ("_burst", "_likelihood", "_new", "used")

    def __init__(self, burst: float = 1.0) -> None:
        self._burst = burst
        self._likelihood = [0.0] * len(self.GRID)
        self._new: list[tuple[float, float, float, float]] = []  # not yet in the likelihood: it costs 97 logarithms
        self.used = False

    def update(self, n_c: float, x_c: float, n_b: float, x_b: float) -> None:
        """Take in one window; one without bad requests, or with one arm only, says nothing about the ratio."""
        if n_c > 0 and n_b > 0 and (x_c or x_b):
            self._new.append((n_c, x_c, n_b, x_b))
            self.used = True

    @property
    def likelihood(self) -> list[float]:
        """Logarithm of the conditional likelihood at each point of the grid."""
        for n_c, x_c, n_b, x_b in self._new:
            canary, both = x_c / self._burst, (x_c + x_b) / self._burst
            points = zip(self._likelihood, self._LOG_GRID, self.GRID, strict=True)
            self._likelihood = [v + canary * m - both * log(r * n_c + n_b) for v, m, r in points]
        self._new = []
        return self._likelihood

    def merge(self, other: RatioInterval) -> None:
        """Take in all that `other` has seen."""
        self._likelihood = [a + b for a, b in zip(self.likelihood, other.likelihood, strict=True)]
        self.used = self.used or other.used

    def bounds(self, alpha: float = 0.05) -> tuple[float, float]:
        """(low, high); 0 and inf where nothing bounds it."""
        if not self.used:
            return 0.0, inf
        like = self.likelihood
        cut = log_sum([like[i] for i in self._PRIOR]) - log(len(self._PRIOR)) + log(alpha)
        inside = [i for i, v in enumerate(like) if v >= cut]
        if not inside:  # narrower than the grid: its best point and both neighbours
            best = max(range(len(like)), key=like.__getitem__)
            return self.GRID[max(best - 1, 0)], self.GRID[min(best + 1, len(like) - 1)]
        first, last = inside[0], inside[-1]
        low = 0.0 if first == 0 else self._edge(first, -1, cut)
        high = inf if last == len(like) - 1 else self._edge(last, 1, cut)
        return low, high

    def _edge(self, i: int, direction: int, cut: float) -> float:
        """Where the likelihood falls below `cut` beyond point i: outward of the true place, by less than the grid."""
        inner, outer = i - direction, i + direction
        step = self._LOG_GRID[outer] - self._LOG_GRID[i]
        here = self._likelihood[i]
        # The likelihood is concave in ln r: the line from the inner neighbour lies above it out there.
        slope = here - self._likelihood[inner] if 0 <= inner < len(self.GRID) else 0.0
        part = 1.0 if slope >= 0.0 else min((here - cut) / -slope, 1.0)
        return exp(self._LOG_GRID[i] + part * step)
