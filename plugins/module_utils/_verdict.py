# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into the gate and what comes out of it, in numbers and in words. Private to the collection, pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp, floor, isnan, log
from typing import Any, Literal

#: `_gate` says when each is given.
Kind = Literal["pass", "fail", "wait", "no_data", "routing", "environment"]
#: Names of the metrics: bad answers, requests that ended without any, and slow ones.
ERRORS, UNANSWERED, LATENCY = "errors", "unanswered", "latency"


@dataclass(frozen=True, slots=True)
class Window:
    """Counts of one look: requests and bad requests (n, x) of canary (c) and stable (b), at `weight` percent canary.

    `by_weight`: the weight was in the proxies, and it alone decided who got a request (no cohort, cookie or mirror, no
    other route to these versions), so the share tells whether requests are split as they should be. For that, requests
    that have no answer yet, or never got one, are requests, too: by how many more of them there are, ``pending``.
    """

    step: int
    weight: int
    seconds: float
    n_c: int
    x_c: int
    n_b: int
    x_b: int
    by_weight: bool = False
    pending_c: int = 0
    pending_b: int = 0

    @property
    def clean(self) -> bool:
        """No bad request in it."""
        return not (self.x_c or self.x_b)

    def check(self) -> None:
        """Raise ValueError, naming the field, if this cannot have been counted."""
        if not 0 <= self.weight <= 100:
            raise ValueError(f"window.weight: expected 0 to 100, got {self.weight}")
        if self.seconds < 0 or isnan(self.seconds):
            raise ValueError(f"window.seconds: expected 0 or more, got {self.seconds}")
        for name, bad, every in (("c", self.x_c, self.n_c), ("b", self.x_b, self.n_b)):
            if not 0 <= bad <= every:
                raise ValueError(f"window.x_{name}: expected 0 to n_{name} = {every}, got {bad}")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What is still good enough, and how much proof it takes. Rates and probabilities are 0..1, not percent."""

    ratio: float = 1.5
    floor: float = 0.005
    alpha_fail: float = 0.01
    alpha_pass: float = 0.05
    burst: float = 1.0
    slo: float | None = None  # the user's limit for the stable version itself

    def check(self) -> None:
        """Raise ValueError, naming the field, if a value makes no sense."""
        for name, value, low, high in (
            ("tolerance_ratio", self.ratio, 1.0, 100.0),
            ("tolerance_floor", self.floor, 1e-6, 0.5),
            ("alpha_fail", self.alpha_fail, 1e-9, 0.5),
            ("alpha_pass", self.alpha_pass, 1e-9, 0.5),
            ("burst", self.burst, 1.0, 1000.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {value}")
        if self.slo is not None and not 1e-6 <= self.slo < 0.5:
            raise ValueError(f"slo: expected a number from 1e-06 to less than 0.5, got {self.slo}")


@dataclass(frozen=True, slots=True)
class Health:
    """Pods, as Kubernetes sees them. `crashing`: those that are in a crash loop, or were killed for memory, in words.

    Not what the cluster did to them: evictions, drained nodes, images that could not be pulled.
    """

    canary_ready: int
    stable_ready: int
    canary_crashing: tuple[str, ...] = ()
    stable_crashing: tuple[str, ...] = ()
    why: str = ""  # what keeps the canary's pods from running, after a colon

    def failure(self, weight: int) -> str:
        """What condemns the canary without statistics; empty if nothing does, or if stable has the same."""
        if self.canary_crashing and not self.stable_crashing:
            return f"the canary's pods crash, and stable's do not: {'; '.join(self.canary_crashing[:3])}"
        if weight > 0 and self.canary_ready == 0 and self.stable_ready > 0:
            return f"the canary has {weight} % of the traffic and no ready pod{self.why}"
        return ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums of windows."""

    n_c: int = 0
    x_c: int = 0
    n_b: int = 0
    x_b: int = 0
    seconds: float = 0.0

    def plus(self, w: Window) -> Counts:
        """With one window more."""
        return Counts(self.n_c + w.n_c, self.x_c + w.x_c, self.n_b + w.n_b, self.x_b + w.x_b, self.seconds + w.seconds)

    @property
    def ratio(self) -> float | None:
        """Canary's rate by stable's; None where it is not a number."""
        return self.x_c / self.n_c / (self.x_b / self.n_b) if self.n_c and self.x_b else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, with every number that led to it. `e_*` are natural logarithms, rates and ratios plain numbers."""

    kind: Kind
    step: int
    weight: int
    counts: Counts  # this step at this weight
    release: Counts  # all steps of the release
    e_fail: float
    e_pass: float
    ratio: float | None
    ratio_low: float
    ratio_high: float | None  # None: unbounded
    tolerance: float
    stable_silent: bool  # stable's record stands in for its traffic
    alpha_fail: float
    alpha_pass: float
    more_requests: int | None  # canary requests still needed for a pass if all goes on as now; None: never
    more_seconds: float | None
    share: float | None  # of the requests that got to the canary, where they tell of the split; 0..1
    e_split: float  # that it contradicts the weight
    reason: str
    metric: str = ERRORS
    words: str = "bad"  # what the bad requests of this metric are, for a line
    decided_by: str = ERRORS  # what made it what it is: a metric, capacity, or checks
    also: tuple[Verdict, ...] = ()  # on the other metrics, each by itself

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, no infinities."""
        odds = {"odds_fail": _bounded(self.e_fail), "odds_pass": _bounded(self.e_pass)}
        return {**asdict(self), **odds, "also": [part.to_dict() for part in self.also]}

    @property
    def deciding(self) -> Verdict:
        """On the metric that decides."""
        return next((part for part in self.also if part.metric == self.decided_by), self)

    @property
    def shown(self) -> Counts:
        """The counts that the verdict rests on: a failure on the whole release, all else on this step."""
        return self.release if self.kind == "fail" else self.counts

    def lines(
        self,
        service: str,
        step: int,
        steps: int,
        *,
        canary: str = "canary",
        stable: str = "stable",
        elapsed: float | None = None,
        limit: float | None = None,
    ) -> list[str]:
        """For a person: verdict, a line for each metric, what would change it and when. Times in seconds."""
        head = f"{service}  step {step}/{steps}  {self.weight} %   {self.kind.replace('_', ' ').upper()}"
        if elapsed is not None:
            head += f"   {duration(elapsed)}" + (f" of {duration(limit)}" if limit is not None else "")
        out = [head]
        parts = (self, *self.also)
        width = max(7, *(len(part.words) for part in parts)) + 2
        out += [
            f"  {part.words:{width}}{part._numbers(canary, stable)}"
            for part in parts
            if part.shown.n_c + part.shown.n_b
        ]
        out.append(f"  {'next' if self.kind in ('wait', 'pass') else 'why':{width}}{self._next(canary)}")
        return out

    def _numbers(self, canary: str, stable: str) -> str:
        shown = self.shown
        numbers = [describe(canary, shown.x_c, shown.n_c), describe(stable, shown.x_b, shown.n_b)]
        if self.ratio is not None or self.ratio_low > 0 or self.ratio_high is not None:
            seen = "" if self.ratio is None else f"{number(self.ratio)}x "
            high = "" if self.ratio_high is None else f" {number(self.ratio_high)}x"
            numbers.append(f"{seen}[{number(self.ratio_low)}x ..{high}]")
        numbers += [
            f"beyond tolerance {odds(self.e_fail)} (aborts at {odds(-log(self.alpha_fail))})",
            f"within {odds(self.e_pass)} (goes on at {odds(-log(self.alpha_pass))})",
        ]
        return "   ".join(numbers)

    def _next(self, canary: str) -> str:
        if self.kind != "wait":
            return self.reason if self.kind != "pass" else "on to the next step"
        if self.more_requests == 0:
            return self.reason
        if self.more_requests is None:
            return f"if {canary} goes on like this it will not pass: its rate is not below {percent(self.tolerance)}"
        when = "" if self.more_seconds is None else f"about {duration(self.more_seconds)} more, "
        return f"if {canary} goes on like this: {when}{self.more_requests:,} of its requests"


def _bounded(log_e: float) -> float:
    return exp(min(max(log_e, -30.0), 30.0))


def odds(log_e: float) -> str:
    """An e-value as odds, rounded down: 130 : 1, 1.3 : 1, 1 : 40."""
    value = exp(min(abs(log_e), 14.0)) + 1e-9
    text = ">1,000,000" if value > 1e6 else f"{floor(value):,}" if value >= 10 else f"{floor(value * 10) / 10:g}"
    return f"{text} : 1" if log_e >= 0 else f"1 : {text}"


def percent(rate: float) -> str:
    """0.28 %, 5.1 %, 20 %."""
    value = 100.0 * rate
    if 0.0 < value < 0.01:
        return "<0.01 %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def number(value: float) -> str:
    """Two significant digits, never an exponent."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "0"


def describe(name: str, bad: int, every: int) -> str:
    """v2 10 of 3,533 (0.28 %)."""
    return f"{name} {bad:,} of {every:,}" + (f" ({percent(bad / every)})" if every else "")


def duration(seconds: float) -> str:
    """45 s, 4 min, 3 h, rounded."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def line(verdict: Verdict, canary: str, stable: str) -> str:
    """The verdict on one line: kind, counts of both versions, odds, and what would change it."""
    return f"{verdict.kind.replace('_', ' ').upper()}  {evidence(verdict, canary, stable)}"


def evidence(verdict: Verdict, canary: str, stable: str) -> str:
    """What the verdict rests on: counts of both versions, the odds that lead, what would change it."""
    part = verdict.deciding
    shown = part.release if verdict.kind == "fail" else part.counts
    if not shown.n_c or verdict.kind == "routing":
        return verdict.reason
    if verdict.decided_by not in (verdict.metric, *(one.metric for one in verdict.also)):
        return f"{verdict.reason}  {_compared(part, shown, canary, stable)}"  # something beside the counts decides
    parts = [_compared(part, shown, canary, stable)]
    proven = part.e_fail >= -log(part.alpha_fail)
    if verdict.kind in ("no_data", "environment") or (verdict.kind == "fail" and not proven):
        parts.append(verdict.reason)  # what decided are not the counts of the canary's bad requests
    elif proven or (verdict.kind == "wait" and part.e_fail > max(part.e_pass, 0.0)):
        parts.append(f"beyond tolerance {odds(part.e_fail)} (aborts at {odds(-log(part.alpha_fail))})")
    else:
        parts.append(f"within tolerance {odds(part.e_pass)} (goes on at {odds(-log(part.alpha_pass))})")
        if verdict.kind == "wait" and part.more_seconds:
            parts.append(f"about {duration(part.more_seconds)} more")
    return "  ".join((*parts, *_besides(verdict, canary, stable)))


def _besides(verdict: Verdict, canary: str, stable: str) -> list[str]:
    """The metrics that do not decide, where the canary has anything bad by them."""
    others = [part for part in (verdict, *verdict.also) if part.metric != verdict.decided_by and part.shown.x_c]
    return [_compared(one, one.shown, canary, stable) for one in others]


def _compared(part: Verdict, shown: Counts, canary: str, stable: str) -> str:
    return f"{part.words}: {describe(canary, shown.x_c, shown.n_c)}, {describe(stable, shown.x_b, shown.n_b)}"
