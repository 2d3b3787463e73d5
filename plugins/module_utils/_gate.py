# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: from counts of requests to a verdict on the canary. Private to the collection, pure.

Words: p_c, p_b are the rates of bad requests of canary and stable. The tolerance T = max(ratio * p_b, floor) is one
and the same for both questions, "is p_c > T proven?" (`fail`) and "is p_c < T proven?" (`pass`).

**fail.** "p_c <= T" is "p_c <= ratio p_b or p_c <= floor". The *relative* arm is an e-process against the one, the
*absolute* arm against the other, both over the whole release; the lesser of the two is one against "either", so at
1/alpha_fail it is proof, at whichever look. Once proven stays proven.

**Turns.** The two nulls may hold in turn: for an hour p_c is twice p_b but far below the floor, so the relative arm
wins, rightly; then a shared dependency fails, p_c = p_b = 20 %, and the absolute arm wins, rightly; the lesser of
both reaches any height though the canary was never beyond T (by simulation nearly always). So after each window with
bad requests the bets of the richer arm are cut to exp(`LEAD`) times those of the other. The arm that is sound after a
change then starts from at most exp(LEAD) times what the sound one had before it, so each change multiplies the bound
on the error by at most exp(LEAD); with LEAD = 0 by nothing, but then 2 % against 0.1 % takes half as long again. By
simulation 0 of 640 with LEAD = 1, and no failure is found noticeably later.

**pass.** "p_c >= T" is both at once, so the mean of the two opposite arms is an e-process against it. Only windows of
this step at this weight count: what was seen at 10 % of the traffic proves nothing about 50 %. And nothing passes
while the odds for a failure are above exp(`SUSPICION`): a good hour outweighs the first bad seconds after it for
long.

**Late onset.** The arms of `fail` keep `HELD` of their stake back (`_sequential`). It is bet at each step's first
canary request (`STEP_SHARE` of what is left), and, as steps may be long, again after every `PERIOD`/floor canary
requests: so often that a good run since the last restart costs the absolute arm little (`PERIOD` expected bad
requests at the limit, exp(-PERIOD (f - 1)) for an alternative f times the limit). The k-th of these takes 1/(SLOW +
k) of what is left, so that stake number 1,000 is still 1/30,000, a few more bad requests to
overcome. The times are functions of the number of canary requests only. A window of only good requests is cut at
them, one with bad requests is not (restart at its end): for the sake of `compact`, and on the safe side, as good
requests can only cost the fresh bets.

**Stable without traffic** (weight 100, or its requests cease: so many canary requests without one of stable's that
chance does it less than once in 20,000 times, `_silence`). The relative arm cannot move, and the lesser of the two
arms would block for ever. But it is a bet against "p_c <= ratio p_b", and p_b is known: not above its upper
confidence bound U over what was recorded of stable while it had traffic, but for a probability of alpha_fail/10. So
from then on the relative arm bets against the fixed rate ratio * U instead; what it has won or lost so far stays, and
a tenth of its wealth pays for U (P(E/0.9 >= 1/alpha) <= 0.9 alpha, plus alpha/10). With the absolute arm against the
floor, the lesser of both is again one against max(floor, ratio U). When stable has traffic again the arm compares as
before. A record too thin to say anything (ratio U > 1/2) would excuse everything: then half of all requests bad is
beyond tolerance, unless stable itself has been seen that bad. `pass` uses the same limit, with U at most twice the
rate that was seen: the same as soon as the record knows the rate within a factor of two, and nothing passes because
little is known.

**As good as stable.** Most canaries are. So half of what `pass` bets against "p_c >= ratio p_b" is bet on p_c = p_b
(`EQUAL`). By simulation (1 % errors in both, steps 25, 50, 100 %) that takes a release from 11.0 to 8.3 minutes.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, inf, log
from typing import TYPE_CHECKING

from ._sequential import (
    RateTest,
    RatioInterval,
    RatioTest,
    Side,
    log_mean,
    log_sum,
    rate_gains,
    requests_until,
    upper_bound,
)
from ._surroundings import ALPHA_SPLIT, StableWatch, split_odds
from ._verdict import Counts, Health, Kind, Tolerance, Verdict, Window, odds, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Counts", "Gate", "Health", "Kind", "Tolerance", "Verdict", "Window", "compact", "judge"]

#: Late onset: part of the stake kept back, part of it for each new step, bad requests at the limit between restarts,
#: and how slowly what is left is spent on those. By simulation, weight 10 %, 100 requests a second, mean seconds to a
#: failure at the start / after a good hour: 100 % bad 1.1/1.3, 20 % 3.5/5.0, 5 % 16/25, 2 % 82/101.
HELD, STEP_SHARE, PERIOD, SLOW = 0.7, 0.25, 1.0, 50
#: And no more often than each 1/MOST of all canary requests: keeps long releases with much traffic cheap.
MOST = 1000
#: Part of the relative arm's stake of `pass` that is bet on a canary that is as good as stable.
EQUAL = 0.5
#: So many nats one arm may be ahead of the other.
LEAD = 1.0
#: Odds (ln) for a failure above which nothing passes.
SUSPICION = log(2.0)
#: Part of alpha_fail that pays for the upper bound of stable's rate.
BOUND_SHARE = 0.1


class Arms:
    """Relative and absolute arm of one question, kept in step."""

    __slots__ = ("absolute", "relative", "side", "stood_in")

    def __init__(self, tolerance: Tolerance, side: Side, held: float) -> None:
        self.side: Side = side
        self.relative = RatioTest(tolerance.ratio, side, tolerance.burst, held, EQUAL)
        self.absolute = RateTest(tolerance.floor, side, tolerance.burst, held)
        self.stood_in = False

    def copy(self) -> Arms:
        """An independent copy."""
        other = Arms.__new__(Arms)
        other.side, other.stood_in = self.side, self.stood_in
        other.relative, other.absolute = self.relative.copy(), self.absolute.copy()
        return other

    def update(self, counts: tuple[int, int, int, int], limit: float | None, burst: float) -> None:
        """Take in n_c, x_c, n_b, x_b; with a `limit` it stands in for stable's traffic."""
        n_c, x_c, n_b, x_b = counts
        self.absolute.update(n_c, x_c)
        if limit is None:
            self.relative.update(n_c, x_c, n_b, x_b)
        elif n_c > 0:
            if self.side == "worse" and not self.stood_in:
                self.relative.stake.give_up(-log(1.0 - BOUND_SHARE))
            self.stood_in = True
            self.relative.stake.win(rate_gains(limit, self.side, n_c, x_c, burst, self.relative.factors))

    def level(self) -> None:
        """Take from the richer arm what it has above `LEAD`."""
        relative, absolute = self.relative.stake, self.absolute.stake
        lead = log_sum(relative.bets) - log_sum(absolute.bets)
        if lead > LEAD:
            relative.lose(lead - LEAD)
        elif -lead > LEAD:
            absolute.lose(-lead - LEAD)

    def until_mean(self, relative: Sequence[float], absolute: Sequence[float], alpha: float) -> int | None:
        """Requests until the mean of both is 1/alpha, each request bringing these gains; None: never."""
        bets = [b - log(2.0) for b in self.relative.stake.bets + self.absolute.stake.bets]
        return requests_until(bets, [*relative, *absolute], -log(alpha))

    def restart(self, share: float) -> None:
        """Bet `share` of what both hold back."""
        self.relative.stake.restart(share)
        self.absolute.stake.restart(share)


def _silence(weight: int) -> int:
    """So many canary requests in a row without one of stable's: chance does it once in 20,000 times."""
    return ceil(1000 / (100 - weight)) if weight < 100 else 0


def bound_of(tolerance: Tolerance, n: int, x: int) -> float:
    """The upper bound of stable's rate, by its record: x of n requests bad."""
    return upper_bound(n, x, BOUND_SHARE * tolerance.alpha_fail, tolerance.burst)


def stand_in(tolerance: Tolerance, side: Side, n: int, x: int, bound: float) -> float:
    """The fixed rate that stands in for ratio * stable's rate, by its record and the `bound` from that."""
    seen = x / n if n else 0.0
    if side == "better":
        return tolerance.ratio * min(bound, 2.0 * seen)
    return tolerance.ratio * bound if tolerance.ratio * seen > 0.5 else min(tolerance.ratio * bound, 0.5)


class _Follow:
    """Which windows are judged without stable's traffic: depends on numbers of requests only, not on how they went."""

    __slots__ = ("_run",)

    def __init__(self) -> None:
        self._run = 0

    def stands_in(self, w: Window) -> bool:
        """Whether stable's record has to stand in for its traffic in this window; call once for each, in order."""
        if w.weight == 100:
            return True
        if w.n_b > 0:
            self._run = 0
            return False
        gone = self._run >= _silence(w.weight)
        self._run += w.n_c
        return gone


class Gate:
    """Takes windows in as they come and tells the verdict at any time. `judge` gives the same from all windows at once.

    Windows with weight 0 (before the release) only tell stable's rate. ValueError for counts that cannot be.
    """

    def __init__(self, tolerance: Tolerance, before: tuple[int, int] = (0, 0)) -> None:
        """``before``: stable's requests and bad ones of them before the release, as far as anybody knows."""
        tolerance.check()
        self._stable = StableWatch(tolerance, before)
        self.tolerance = tolerance
        self.step, self.weight = 0, 0
        self.release = Counts()
        self.proven: Counts | None = None  # the release's counts when a failure was proven first
        self._follow = _Follow()
        self._record = [0, 0]  # stable's requests and bad requests while it had traffic
        self._bound_of, self._bound = (0, 0), 1.0  # and the upper bound of its rate
        self._fail = Arms(tolerance, "worse", HELD)
        self._past = RatioInterval(tolerance.burst)
        self._peak = 0.0
        self._canaries = 0  # canary requests of the release
        self._period = self._least_period = ceil(PERIOD * tolerance.burst / tolerance.floor)
        self._since = 0  # canary requests since the last restart
        self._restarts = 0
        self._onset: tuple[int, int] | None = None  # the step that a share was spent on last
        # Good canary requests not yet taken in. They are at the same places however windows are cut, so that
        # compacted evidence gives the same verdict to the last bit.
        self._pending, self._standing = 0, False
        self._begun = (0, 0)  # the step and weight that the following belong to
        self._fresh_step()

    def _fresh_step(self) -> None:
        self._counts = self._split = Counts()  # of the split: those windows that were split by weight
        self._pass = Arms(self.tolerance, "better", 0.0)
        self._interval = RatioInterval(self.tolerance.burst)

    def begin_step(self, step: int, weight: int) -> None:
        """The step that verdicts are about from now on. Takes nothing in: that is left to its first window."""
        self.step, self.weight = step, weight

    @property
    def counts(self) -> Counts:
        """Sums of the windows of this step at this weight."""
        return self._counts if self._begun == (self.step, self.weight) else Counts()

    def observe(self, w: Window) -> None:
        """Take in one window; it begins its step if need be."""
        w.check()
        self.begin_step(w.step, w.weight)
        if self._begun != (w.step, w.weight):
            self._settle()
            self._past.merge(self._interval)
            self._begun = (w.step, w.weight)
            self._fresh_step()
        standing = self._follow.stands_in(w)
        if standing != self._standing:
            self._settle()
            self._standing = standing
        if w.weight > 0:
            self._counts, self.release = self._counts.plus(w), self.release.plus(w)
        if w.weight > 0 and w.n_c > 0:
            self._canary(w)
        if w.by_weight:
            begun = replace(w, n_c=w.n_c + w.pending_c, n_b=w.n_b + w.pending_b)
            self._split = self._split.plus(begun)
        if w.weight < 100:
            self._record[0] += w.n_b
            self._record[1] += w.x_b
            self._stable.observe(w.n_b, w.x_b)

    def _canary(self, w: Window) -> None:
        if self._onset != (w.step, w.weight):
            if self._onset is not None:
                self._fail.restart(STEP_SHARE)
                self._since = 0
            self._onset = (w.step, w.weight)
        if w.clean:
            left = w.n_c
            while self._since + left >= self._period:
                part = self._period - self._since
                self._add(part)
                left -= part
                self._settle()
                self._restart()
            self._add(left)
            return
        self._settle()
        for arms in (self._fail, self._pass):
            arms.update((w.n_c, w.x_c, w.n_b, w.x_b), self._limit(arms.side), self.tolerance.burst)
        if not self._standing:
            self._interval.update(w.n_c, w.x_c, w.n_b, w.x_b)
        self._fail.level()
        self._since += w.n_c
        self._canaries += w.n_c
        if self._since >= self._period:
            self._restart()
        self._check()

    def _add(self, good: int) -> None:
        self._pending += good
        self._since += good
        self._canaries += good

    def _restart(self) -> None:
        self._restarts += 1
        self._fail.restart(1.0 / (SLOW + self._restarts))
        self._since, self._period = 0, max(self._least_period, self._canaries // MOST)

    def _settle(self) -> None:
        if self._pending:
            for arms in (self._fail, self._pass):
                arms.update((self._pending, 0, 0, 0), self._limit(arms.side), self.tolerance.burst)
            self._pending = 0

    def _limit(self, side: Side) -> float | None:
        """The fixed rate that stands in for ratio * stable's rate; None while stable has traffic."""
        if not self._standing:
            return None
        record = (self._record[0], self._record[1])
        if self._bound_of != record:
            self._bound_of, self._bound = record, bound_of(self.tolerance, *record)
        return stand_in(self.tolerance, side, *record, self._bound)

    def _check(self) -> None:
        e = min(self._fail.relative.log_e, self._fail.absolute.log_e)
        if self.proven is None and e >= -log(self.tolerance.alpha_fail):
            self.proven = self.release
        self._peak = max(self._peak, e)

    def evidence(self) -> tuple[float, float]:
        """ln E of `fail` and `pass` now, without the rest of `verdict`."""
        fail, good = self._now(self._fail), self._good()
        e_fail = self._peak if self.proven else min(fail.relative.log_e, fail.absolute.log_e)
        return e_fail, log_mean(good.relative.log_e, good.absolute.log_e)

    def _good(self) -> Arms:
        if self._begun != (self.step, self.weight):
            return Arms(self.tolerance, "better", 0.0)
        return self._now(self._pass)

    def _now(self, arms: Arms) -> Arms:
        """The arms with what is pending, which stays pending: asking changes nothing."""
        if self._pending:
            arms = arms.copy()
            arms.update((self._pending, 0, 0, 0), self._limit(arms.side), self.tolerance.burst)
        return arms

    def verdict(self, min_over: bool, source_ok: bool = True, why: str = "", health: Health | None = None) -> Verdict:
        """The verdict on the step of `begin_step` (or of the last window).

        min_over: the least time of the step is over. source_ok, why: the source answers with enough coverage, or why
        not. Precedence: a failure seen without statistics, a proven one, `no_data`, `routing`, `environment`, `pass`,
        `wait`.
        """
        e_fail, e_pass = self.evidence()
        limit = self._limit("worse")
        n_b, x_b = self._record
        allowed = limit if limit is not None else self.tolerance.ratio * x_b / n_b if n_b else 0.0
        tolerated = max(self.tolerance.floor, min(allowed, 1.0))
        enough = e_pass >= -log(self.tolerance.alpha_pass)
        share, many, few = self._shares()
        e_split = log_mean(many, few)
        kind: Kind
        if sick := health.failure(self.weight) if health else "":
            kind, reason = "fail", sick
        elif self.proven:
            kind, reason = "fail", f"beyond the tolerance of {percent(tolerated)} is proven, {odds(e_fail)}"
        elif not source_ok:
            kind, reason = "no_data", why or "the source of the counts does not answer"
        elif share is not None and e_split >= -log(ALPHA_SPLIT):
            kind, reason = "routing", self._contradiction(share, e_split)
        elif self.counts.n_c == 0:
            kind, reason = "no_data", why or f"no request has reached the canary at {self.weight} % yet"
        elif self._stable.bad and self.weight < 100:
            limit_now = "its SLO" if self._stable.limit == self.tolerance.slo else "what it was like before"
            kind, reason = "environment", f"stable itself is beyond {percent(self._stable.limit)}, {limit_now}"
        elif enough and min_over and e_fail <= SUSPICION:
            kind, reason = "pass", f"within the tolerance of {percent(tolerated)} is proven, {odds(e_pass)}"
        elif enough and e_fail > SUSPICION:
            kind, reason = "wait", f"within tolerance over the whole step, but lately suspect: {odds(e_fail)} beyond it"
        elif enough:
            kind, reason = "wait", "within tolerance is proven; goes on when the time of the step is over"
        else:
            kind, reason = "wait", f"neither beyond nor within the tolerance of {percent(tolerated)} is proven yet"
        interval, counts = RatioInterval(self.tolerance.burst), self.counts
        if kind == "fail":
            interval.merge(self._past)
            counts = self.release
        if kind == "fail" or self._begun == (self.step, self.weight):
            interval.merge(self._interval)
        low, high = interval.bounds()
        more = 0 if enough else self._more(self._good())
        pace = self.counts.n_c / self.counts.seconds if self.counts.seconds > 0 else 0.0
        return Verdict(
            kind=kind,
            step=self.step,
            weight=self.weight,
            counts=self.counts,
            release=self.release,
            e_fail=e_fail,
            e_pass=e_pass,
            ratio=counts.ratio,
            ratio_low=low,
            ratio_high=None if high == inf else high,
            tolerance=tolerated,
            stable_silent=limit is not None,
            alpha_fail=self.tolerance.alpha_fail,
            alpha_pass=self.tolerance.alpha_pass,
            more_requests=more,
            more_seconds=None if more is None or pace <= 0 else more / pace,
            share=share,
            e_split=e_split,
            reason=reason,
        )

    def _shares(self) -> tuple[float | None, float, float]:
        """The canary's share of the requests that were split by weight in this step, and the odds that it is off."""
        split, here = self._split, self._begun == (self.step, self.weight)
        if not here or not 0 < self.weight < 100 or not split.n_c + split.n_b:
            return None, 0.0, 0.0
        return split.n_c / (split.n_c + split.n_b), *split_odds(self.weight, split)

    def _contradiction(self, share: float, e_split: float) -> str:
        every = self._split.n_c + self._split.n_b
        return f"the canary has {percent(share)} of {every:,} requests at a weight of {self.weight} %, {odds(e_split)}"

    def _more(self, good: Arms) -> int | None:
        """Canary requests still needed for a pass if the rates of this step go on."""
        c = self.counts
        if c.n_c == 0:
            return None
        stable = c.n_b / c.n_c
        bad_c, bad_b = c.x_c / c.n_c, c.x_b / c.n_c
        limit = self._limit("better")
        if limit is not None:
            relative = rate_gains(limit, "better", 1, bad_c, self.tolerance.burst, good.relative.factors)
        elif stable > 0:
            relative = good.relative.gains(1, bad_c, stable, bad_b)
        else:
            relative = [0.0] * len(good.relative.stake.bets)
        return good.until_mean(relative, good.absolute.gains(1, bad_c), self.tolerance.alpha_pass)


def judge(
    windows: Iterable[Window],
    tolerance: Tolerance,
    min_over: bool,
    source_ok: bool = True,
    why: str = "",
    *,
    health: Health | None = None,
    step: int | None = None,
    weight: int | None = None,
    before: tuple[int, int] = (0, 0),
) -> Verdict:
    """The verdict on all windows at once; `step`, `weight`: the present step, if it may have no window yet."""
    gate = Gate(tolerance, before)
    for w in windows:
        gate.observe(w)
    if step is not None and weight is not None:
        gate.begin_step(step, weight)
    return gate.verdict(min_over, source_ok, why, health)


def compact(windows: Iterable[Window]) -> list[Window]:
    """Fewer windows with the same verdict, now and after any further windows, to the last bit.

    Neighbours without bad requests in the same step and weight add up, as long as it stays the same for how many
    canary requests stable has been silent.
    """
    out: list[tuple[Window, bool]] = []
    follow = _Follow()
    for window in windows:
        w, standing = window, follow.stands_in(window)
        while out:
            last, last_standing = out[-1]
            alike = (last.step, last.weight, last.by_weight) == (w.step, w.weight, w.by_weight)
            fits = w.clean and last.clean and alike and last_standing == standing
            # Merged, the silence would begin anew at the end of the sum.
            if not fits or (w.n_b == 0 and w.n_c > 0 and last.n_b > 0):
                break
            out.pop()
            seconds, n_c, n_b = last.seconds + w.seconds, last.n_c + w.n_c, last.n_b + w.n_b
            pending = (last.pending_c + w.pending_c, last.pending_b + w.pending_b)
            w = Window(w.step, w.weight, seconds, n_c, 0, n_b, 0, w.by_weight, *pending)
        out.append((w, standing))
    return [w for w, _unused in out]
