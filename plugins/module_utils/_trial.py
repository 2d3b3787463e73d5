# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's tests on invented requests, many releases in a second: what a plan is told from. Private, pure.

The bets, the rules for them and their numbers are those of `_gate`, but it is asked at each bad request of the canary
instead of at each look, and wealth is kept as it is instead of as a logarithm. That makes it fast enough to be done
hundreds of times; that it comes to the same is tested against `Gate`. Random numbers are seeded: a plan that is made
twice says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, inf, log, log1p, sqrt
from operator import mul
from random import Random
from typing import Literal, TypeAlias

from ._gate import (
    BOUND_SHARE,
    EQUAL,
    HELD,
    LEAD,
    MOST,
    PERIOD,
    SLOW,
    STEP_SHARE,
    SUSPICION,
    bound_of,
    stand_in,
)
from ._sequential import RateTest, RatioTest, Side, rate_gains, requests_until
from ._verdict import Tolerance

#: Of many requests several are one event: times are known within one part of so many.
FINE = 16
_FULL = 1e100  # wealth that is certain enough
_LEAD, _SUSPECT = exp(LEAD), exp(SUSPICION)


@dataclass(frozen=True, slots=True)
class Fate:
    """How a step ends: after so many of the canary's `requests`, `bad` ones among them. `open`: not decided."""

    kind: Literal["pass", "fail", "open"]
    requests: float
    bad: int


class _Purse:
    """What one arm owns in one question: bets on each alternative, and what it holds back."""

    __slots__ = ("bets", "held", "shares")

    def __init__(self, bets: list[float], held: float) -> None:
        self.bets, self.held = bets, held
        self.shares = [bet / (1.0 - held) for bet in bets]

    def copy(self) -> _Purse:
        other = _Purse.__new__(_Purse)
        other.bets, other.held, other.shares = self.bets[:], self.held, self.shares
        return other

    def restart(self, share: float) -> None:
        stake = self.held * share
        self.held -= stake
        self.bets = [bet + stake * part for bet, part in zip(self.bets, self.shares, strict=True)]

    def scale(self, factor: float) -> None:
        self.bets = [bet * factor for bet in self.bets]


#: Of one arm at one weight, by alternative: of a good and a bad request of the canary, and of a bad one of stable.
_Gains: TypeAlias = "list[tuple[float, float, float]]"


class Trial:
    """One release by one metric. Steps are played one after the other."""

    __slots__ = (
        "_absolute",
        "_canaries",
        "_many",
        "_period",
        "_record",
        "_relative",
        "_restarts",
        "_since",
        "_stood_in",
        "_t",
    )

    def __init__(self, tolerance: Tolerance, record: tuple[float, float] = (0.0, 0.0)) -> None:
        """``record``: requests and bad ones of stable that were watched before the first step."""
        self._t = tolerance
        self._record = record
        self._relative, self._absolute = _purses(tolerance, "worse", HELD)
        self._period = float(ceil(PERIOD * tolerance.burst / tolerance.floor))
        self._canaries = self._since = 0.0
        self._restarts, self._many = 0.0, 1.0
        self._stood_in = False

    def copy(self) -> Trial:
        """An independent copy."""
        other = Trial.__new__(Trial)
        other._t, other._record, other._period = self._t, self._record, self._period
        other._relative, other._absolute = self._relative.copy(), self._absolute.copy()
        other._canaries, other._since = self._canaries, self._since
        other._restarts, other._many, other._stood_in = self._restarts, self._many, self._stood_in
        return other

    def watch(self, n: float, x: float) -> None:
        """So many more requests of stable, and bad ones of them, that say what it is like."""
        self._record = (self._record[0] + n, self._record[1] + x)

    def play(
        self,
        seed: int | str,
        stable: float,
        look: float,
        canary_rate: float,
        stable_rate: float,
        least: float,
        most: float,
    ) -> Fate:
        """One step: `stable` requests of stable for each of the canary (0: it has no traffic), and `look` of the canary
        in each look; rates of bad requests (0..1). It does not pass before `least` requests of the canary, and ends
        undecided at `most`.
        """
        if self._canaries:
            self._relative.restart(STEP_SHARE)
            self._absolute.restart(STEP_SHARE)
            self._since = 0.0
        if not stable and not self._stood_in:
            self._relative.scale(1.0 - BOUND_SHARE)
            self._relative.held *= 1.0 - BOUND_SHARE
            self._stood_in = True
        rng = Random(seed)
        step = _Step(self, stable, look if canary_rate or stable_rate else 0.0)
        while True:
            good, bad = _gap(rng, canary_rate, self._t.burst, max(1, int(step.bad / FINE)))
            last = min(bad, max(1, round(self._t.burst)))
            gap = good + bad - last  # all but the last burst are spread over it
            n = max(min(gap, most - step.requests), 0.0)
            n_b = stable * (n if gap > n else n + last)
            x_b = _hits(rng, n_b, stable_rate, self._t.burst)
            self.watch(n_b, x_b)
            if (passed := step.wait(n, (bad - last) * n / gap if n else 0.0, x_b, least)) is not None:
                return Fate("pass", passed, round(step.bad))
            if gap > n or step.requests >= most:
                return Fate("open", most, round(step.bad))
            if step.fail():
                return Fate("fail", step.requests, round(step.bad))


class _Step:
    """What is kept for one step of a trial."""

    def __init__(self, trial: Trial, stable: float, look: float) -> None:
        self.trial, self.requests, self.bad = trial, 0.0, 0.0
        tolerance = trial._t
        self._goal = 2.0 / tolerance.alpha_pass  # of both arms together, the mean of which is E
        self._proof = 1.0 / tolerance.alpha_fail
        worse = _gains(tolerance, "worse", stable, look, trial._record)
        self._better = _gains(tolerance, "better", stable, look, trial._record)
        self._good = _purses(tolerance, "better", 0.0)
        purses = (trial._relative, trial._absolute, *self._good)
        self._arms = list(zip(purses, (*worse, *self._better), strict=True))
        self._burst = max(1, round(tolerance.burst))
        self._bad = [[exp(self._burst * gain[1]) for gain in gains] for _purse, gains in self._arms]

    def wait(self, n: float, x_c: float, x_b: int, least: float) -> float | None:
        """The next `n` requests of the canary, `x_c` bad ones among them and `x_b` of stable, evenly spread; after how
        many it has passed.
        """
        trial = self.trial
        left = n
        while left > 0.0:
            part = min(left, trial._period - trial._since)
            counts = (part * (1.0 - x_c / n), part * x_c / n, part * x_b / n)
            before = [purse.bets for purse in self._good]
            for purse, gains in self._arms:
                purse.bets = _won(purse.bets, gains, counts)
            self.requests += part
            self.bad += counts[1]
            trial._canaries += part
            trial._since += part
            left -= part
            wealth = sum([sum(purse.bets) for purse in self._good])
            if wealth > _FULL:
                for purse in self._good:
                    purse.scale(1.0 / _FULL * self._goal)
            if wealth >= self._goal and self.requests >= least and self.odds() <= _SUSPECT:
                return max(self._passed(before, counts, part), least)
            if trial._since >= trial._period:
                self._restart()
        if x_b or x_c:
            self._level()
        return None

    def _passed(self, before: list[list[float]], counts: tuple[float, float, float], part: float) -> float:
        """The request within the last `part` that brought the goal."""
        if sum(map(sum, before)) >= self._goal:
            return self.requests - part
        bets = [log(max(bet, 1e-300)) for bets in before for bet in bets]
        each = [count / part for count in counts]
        gains = [sum(map(mul, each, gain)) for arm in self._better for gain in arm]
        found = requests_until(bets, gains, log(self._goal))
        return self.requests - part + min(float(found or part), part)

    def fail(self) -> bool:
        """A burst of bad requests of the canary; whether that is proof."""
        trial, bad = self.trial, self._burst
        for (purse, _gains), factors in zip(self._arms, self._bad, strict=True):
            purse.bets = [bet * factor for bet, factor in zip(purse.bets, factors, strict=True)]
        self.bad += bad
        self.requests += bad
        trial._canaries += bad
        trial._since += bad
        self._level()
        if trial._since >= trial._period:
            self._restart()
        return self.odds() >= self._proof

    def _level(self) -> None:
        relative, absolute = self.trial._relative, self.trial._absolute
        one, other = sum(relative.bets), sum(absolute.bets)
        if one > _LEAD * other:
            relative.scale(_LEAD * other / one)
        elif other > _LEAD * one:
            absolute.scale(_LEAD * one / other)

    def odds(self) -> float:
        """That it is beyond the tolerance."""
        return min(sum(purse.bets) + purse.held for purse in (self.trial._relative, self.trial._absolute))

    def _restart(self) -> None:
        trial = self.trial
        trial._restarts += trial._many
        share = trial._many / (SLOW + trial._restarts)  # of so many restarts together
        trial._relative.restart(share)
        trial._absolute.restart(share)
        least = ceil(PERIOD * trial._t.burst / trial._t.floor)
        period = max(least, int(trial._canaries) // MOST)
        trial._many = max(1.0, trial._canaries / FINE / period)
        trial._period, trial._since = period * trial._many, 0.0


def _won(bets: list[float], gains: _Gains, counts: tuple[float, float, float]) -> list[float]:
    """The bets after so many good and bad requests of the canary, and bad ones of stable."""
    good, bad, stable = counts
    return [bet * exp(min(good * g + bad * b + stable * s, 700.0)) for bet, (g, b, s) in zip(bets, gains, strict=True)]


def _purses(tolerance: Tolerance, side: Side, held: float) -> tuple[_Purse, _Purse]:
    """Of the relative and the absolute arm, as `_gate.Arms` begins."""
    relative = RatioTest(tolerance.ratio, side, tolerance.burst, held, EQUAL).stake.bets
    absolute = RateTest(tolerance.floor, side, tolerance.burst, held).stake.bets
    return _Purse([exp(bet) for bet in relative], held), _Purse([exp(bet) for bet in absolute], held)


def _gains(
    tolerance: Tolerance, side: Side, stable: float, look: float, record: tuple[float, float]
) -> tuple[_Gains, _Gains]:
    """Of the relative and the absolute arm, with `stable` requests of stable for each of the canary."""
    against = RateTest(tolerance.floor, side, tolerance.burst)
    none = [0.0] * len(against.stake.bets)
    absolute = list(zip(against.gains(1, 0), against.gains(1, 1), none, strict=True))
    if stable:
        return _compared(tolerance, side, stable, look), absolute
    test = RatioTest(tolerance.ratio, side, tolerance.burst, 0.0, EQUAL)
    n, x = int(record[0]), int(record[1])
    limit = stand_in(tolerance, side, n, x, bound_of(tolerance, n, x))
    good, bad = (rate_gains(limit, side, 1, hit, tolerance.burst, test.factors) for hit in (0, 1))
    return list(zip(good, bad, [0.0] * len(good), strict=True)), absolute


@lru_cache(maxsize=256)
def _compared(tolerance: Tolerance, side: Side, stable: float, look: float) -> _Gains:
    """Of the relative arm, on the average over what else a look has counted beside the bad request.

    That matters: in looks of few requests the version that has a bad one has more than its share of the others, too,
    and a look without requests of both says nothing. Without any (0) there is no bad request either.
    """
    test = RatioTest(tolerance.ratio, side, tolerance.burst, 0.0, EQUAL)
    if not look:
        return [(0.0, 0.0, 0.0)] * len(test.factors)
    bad, good = ([0.0] * len(test.factors) for _unused in range(2))
    for n_c, p_c in _around(look):
        for n_b, p_b in _around(look * stable):
            if n_b:
                bad = [sum_ + p_c * p_b * g for sum_, g in zip(bad, test.gains(n_c + 1, 1, n_b, 0), strict=True)]
            if n_c:
                good = [sum_ + p_c * p_b * g for sum_, g in zip(good, test.gains(n_c, 0, n_b + 1, 1), strict=True)]
    return list(zip([0.0] * len(bad), bad, good, strict=True))


def _around(mean: float) -> list[tuple[float, float]]:
    """Numbers of requests and how probable they are: Poisson, or where they are many one deviation to both sides."""
    if mean > 3.0:
        return [(mean - sqrt(mean), 0.5), (mean + sqrt(mean), 0.5)]
    found, p = [], exp(-mean)
    for n in range(ceil(mean + 4.0 * sqrt(mean) + 2.0)):
        found.append((float(n), p))
        p *= mean / (n + 1)
    return found


def _gap(rng: Random, rate: float, burst: float, lump: int) -> tuple[float, int]:
    """So many good requests until the next bad ones, and how many these are: `lump` bursts."""
    size = max(1, round(burst))
    if rate <= 0.0:
        return inf, 0
    # A burst begins with probability q at each request that is not within one.
    q = 1.0 / (size / min(rate, 1.0) - size + 1.0)
    if q >= 1.0:
        return 0.0, size * lump
    scale = log1p(-q)
    return float(sum([int(log(1.0 - rng.random()) / scale) for _unused in range(lump)])), size * lump


def _hits(rng: Random, n: float, rate: float, burst: float) -> int:
    """Bad ones among `n` requests, in bursts: Poisson, or normal where they are many."""
    size = max(1, round(burst))
    mean = n * rate / size
    if mean <= 0.0:
        return 0
    if mean > 30.0:
        return size * max(0, round(rng.gauss(mean, sqrt(mean * (1.0 - min(rate, 1.0))))))
    found, product, floor = 0, rng.random(), exp(-mean)
    while product > floor:
        found += 1
        product *= rng.random()
    return size * found
