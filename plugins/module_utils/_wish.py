# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a wish ("done within 30 minutes") to steps that meet it, or to what would help. Private, pure.

A wish is met when 9 of 10 releases do: a canary as good as stable is promoted in time, one that is so many times as bad
from its first request on is taken back before users have seen more failures. Candidates are parts of one ladder of
weights; the cheap estimate that sorts them takes steps one by one, and what is proposed has been played as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, inf
from typing import Any

from ._planner import LIKELY, Basis, Ending, Quantiles, begin, ending, plain, play, play_step
from ._record import Step
from ._verdict import duration, number, percent

LADDER = (1, 2, 5, 10, 25, 50, 100)
STRIDE = 5  # a weight is at most so many times the one before
LEASTS = (60, 30, 10)
FIRST = 25  # no proposal begins above, unless time asks for it
SKETCH = 20  # releases of an estimate
TRIES = 3
MIRROR = Step(0, 30, 20)


@dataclass(frozen=True, slots=True)
class Goal:
    """What users may see at most of a canary that is ``times`` as bad, and how long a good one may take."""

    failures: int | None = None
    minutes: float | None = None
    times: int = 5

    def __bool__(self) -> bool:
        return self.failures is not None or self.minutes is not None

    def check(self) -> None:
        """Raise ValueError, naming the field, for what nobody can wish."""
        if self.failures is not None and self.failures < 1:
            raise ValueError(f"goal.failures is {self.failures}; at least 1 is needed, as proof takes failures")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"goal.minutes is {self.minutes:g}; a number above 0 is needed")
        if not 2 <= self.times <= 100:
            raise ValueError(f"goal.times is {self.times}; a whole number from 2 to 100 is needed")

    def say(self) -> str:
        """The wish in words."""
        parts = [] if self.minutes is None else [f"done within {number(self.minutes)} min"]
        if self.failures is not None:
            parts.append(f"at most {self.failures:,} failures seen of a canary {self.times} times as bad")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Played:
    """A plan, and how releases of a good and of the bad canary end by it."""

    steps: tuple[Step, ...]
    good: Ending
    bad: Ending

    def quick(self, goal: Goal) -> bool:
        """Whether it is done in time, or at all."""
        most = self.good.seconds.most if self.good.promoted >= LIKELY else None
        return most is not None and (goal.minutes is None or most <= 60.0 * goal.minutes)

    def sparing(self, goal: Goal) -> bool:
        """Whether few enough failures are seen."""
        most = self.bad.failures.most if self.bad.aborted >= LIKELY else None
        return goal.failures is None or (most is not None and most <= goal.failures)

    def say(self) -> str:
        """Its numbers."""
        good = f"done in {self.good.seconds.say(duration)}"
        if self.steps[0].weight == 100:
            good = f"all users at once, {good}"
        if self.good.promoted < LIKELY:
            good = f"{100 * self.good.promoted:.0f} % of good canaries are promoted"
        seen = self.bad.failures.say(lambda value: f"{value:,.0f}")
        if self.bad.within:
            return f"{good}; a canary {self.bad.times} times as bad is within the tolerance"
        found = "" if self.bad.aborted >= LIKELY else f", {100 * self.bad.aborted:.0f} % taken back"
        return f"{good}; {seen} failures seen of a canary {self.bad.times} times as bad{found}"


@dataclass(frozen=True, slots=True)
class Answer:
    """To a wish. ``own``: the plan as it is. ``lines`` are for a person."""

    goal: Goal
    own: Played
    proposal: Played | None
    levers: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def met(self) -> bool:
        """By the plan as it is."""
        return self.own.quick(self.goal) and self.own.sparing(self.goal)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plan = self.proposal
        return {
            "text": self.goal.say(),
            "met": self.met,
            "levers": list(self.levers),
            "proposal": plan and {"steps": options(plan.steps), "good": plain(plan.good), "bad": plain(plan.bad)},
        }


def options(steps: Sequence[Step]) -> list[dict[str, int]]:
    """As option ``steps`` has them."""
    return [
        {"weight": s.weight, "min_seconds": s.min_seconds, **({"mirror": s.mirror} if s.mirror else {})} for s in steps
    ]


def answer(basis: Basis, steps: Sequence[Step], goal: Goal) -> Answer:
    """Whether a plan meets the wish, which one does, or why none does and what would help."""
    own = _played(basis, tuple(steps), goal)
    if own.quick(goal) and own.sparing(goal):
        line = f"GOAL  {goal.say()}: this plan meets it, {own.say()}"
        return Answer(goal, own, None, (), (line,))
    head = f"GOAL  {goal.say()}: this plan does not meet it, {own.say()}"
    if found := _proposal(basis, steps, goal):
        flow = ", ".join(f"{{weight: {s.weight}, min_seconds: {s.min_seconds}}}" for s in found.steps)
        return Answer(goal, own, found, (), (head, f"PROPOSAL  steps: [{flow}]", f"PROPOSAL  {found.say()}"))
    help_ = tuple(_levers(basis, steps, goal))
    return Answer(goal, own, None, help_, (head, *(f"GOAL  {text}" for text in help_)))


def _played(basis: Basis, steps: tuple[Step, ...], goal: Goal) -> Played:
    return Played(steps, ending(basis, steps, 1), ending(basis, steps, goal.times))


# ---------------------------------------------------------------- proposing


@dataclass(frozen=True, slots=True)
class Sketch:
    """A candidate with estimates of seconds and failures that 9 of 10 stay below."""

    steps: tuple[Step, ...]
    seconds: float
    failures: float

    @property
    def careful(self) -> tuple[int, int, float]:
        """For sorting, the most careful first: long steps, many of them."""
        return (-self.steps[0].min_seconds, -len(self.steps), self.failures)


def _shapes() -> Iterator[tuple[int, ...]]:
    """Every part of the ladder that ends at 100, and the same with as few rungs as `STRIDE` allows."""
    for start in range(len(LADDER)):
        whole = LADDER[start:]
        yield whole
        few = [whole[0]]
        while few[-1] < LADDER[-1]:
            few.append(max(weight for weight in whole if weight <= STRIDE * few[-1]))
        if tuple(few) != whole:
            yield tuple(few)


def _sketches(basis: Basis, steps: Sequence[Step], rate: float) -> list[Sketch]:
    longest = max(step.min_seconds for step in steps)
    leasts = (longest, *(least for least in LEASTS if least < longest))
    found = []
    for weights in _shapes():
        for least in leasts:
            plan = tuple(Step(weight, least) for weight in weights)
            runs = zip(*(_passing(basis, weight) for weight in weights), strict=True)
            seconds = Quantiles.of([sum(max(least, one) for one in run) for run in runs]).most
            found.append(Sketch(plan, inf if seconds is None else seconds, _seen(basis, plan[0], rate)))
    return found


@lru_cache(maxsize=1024)
def _passing(basis: Basis, weight: int) -> tuple[float, ...]:
    """Seconds that a step takes without a least time; 100 % as 50 % of twice the traffic: stable is known by then."""
    step = Step(min(weight, 50))
    there = replace(basis, pace=basis.pace * weight / step.weight)
    stays = [play_step(there, step, 1, begin(there, [step]), None, run) for run in range(SKETCH)]
    return tuple(stay.seconds if stay.kind == "pass" else inf for stay in stays)


@lru_cache(maxsize=1024)
def _seen(basis: Basis, step: Step, rate: float) -> float:
    """Failures that users see of a canary with this rate in a first step; of those that it does not find, no end."""
    stays = [play(basis, [step], rate, run)[0] for run in range(SKETCH)]
    most = Quantiles.of([stay.failures if stay.kind == "fail" else inf for stay in stays]).most
    return inf if most is None else most


def _proposal(basis: Basis, steps: Sequence[Step], goal: Goal) -> Played | None:
    """Steps that meet the wish. Without one for time the quickest, else the most careful in time."""
    rate = basis.worse(goal.times)
    seconds, failures = 60.0 * (goal.minutes or inf), inf if goal.failures is None else goal.failures
    sketches = [one for one in _sketches(basis, steps, rate) if one.seconds <= seconds and one.failures <= failures]
    sketches = [one for one in sketches if one.seconds < inf]
    if goal.minutes is None:
        longest = max(step.min_seconds for step in steps)
        usual = [s for s in sketches if s.steps[0].weight <= FIRST and s.steps[0].min_seconds == longest]
        order = sorted(usual, key=lambda one: one.seconds)
    else:
        least = min((one.failures for one in sketches), default=inf)
        few = [one for one in sketches if one.failures <= 1.2 * least + 1.0 or rate <= basis.limit]
        order = sorted(few, key=lambda one: one.careful)
    for sketch in order[:TRIES]:
        plan = _played(basis, sketch.steps, goal)
        if plan.quick(goal) and plan.sparing(goal):
            return plan
    return None


# ---------------------------------------------------------------- what would help


def _levers(basis: Basis, steps: Sequence[Step], goal: Goal) -> Iterator[str]:
    rate = basis.worse(goal.times)
    if not basis.pace:
        yield "no plan does without traffic: send requests with the role load (playbooks/load.yml)"
        return
    sketches = _sketches(basis, steps, rate)
    quickest = min(sketches, key=lambda one: (one.seconds, -one.steps[0].weight, one.failures))
    if goal.minutes is not None and quickest.seconds > 60.0 * goal.minutes:
        yield from _for_time(basis, quickest, goal.minutes)
    elif goal.minutes is None and quickest.seconds == inf:
        yield "no plan does: a canary as good as stable does not pass within analysis.max_wait at this traffic"
        yield from _for_time(basis, quickest, len(quickest.steps) * basis.max_wait / 60.0)
    if goal.failures is None:
        return
    fewest = min(sketches, key=lambda one: (one.failures, one.seconds))
    if rate <= basis.limit:
        yield (
            f"a canary {goal.times} times as bad ({percent(rate)}) is within the tolerance of {percent(basis.limit)}, "
            "so it is promoted whatever the steps are: lower analysis.tolerance_floor or tolerance_ratio"
        )
    elif fewest.failures > goal.failures:
        yield from _for_failures(basis, fewest, goal, rate)
    elif goal.minutes is not None and quickest.seconds <= 60.0 * goal.minutes:
        slow = min((s for s in sketches if s.failures <= goal.failures), key=lambda one: one.seconds)
        fast = min((s for s in sketches if s.seconds <= 60 * goal.minutes), key=lambda one: one.failures)
        yield (
            f"one or the other: with so few failures it takes up to {duration(slow.seconds)}, and in that time up to "
            f"{fast.failures:,.0f} failures are seen; with more traffic both"
        )


def _for_time(basis: Basis, quickest: Sketch, minutes: float) -> Iterator[str]:
    """More traffic, a higher tolerance, or more time."""
    weights = [step.weight for step in quickest.steps]
    if quickest.seconds < inf:
        yield f"the quickest plan, weights {', '.join(map(str, weights))}, takes up to {duration(quickest.seconds)}"
    for factor in (1.5, 2, 3, 5, 10, 20, 50, 100, 1000):
        more = replace(basis, pace=factor * basis.pace)
        if _quick(more, quickest, minutes):
            yield f"more traffic: with {ceil(more.pace):,} requests a second it is done (role load sends them)"
            break
    for factor in (2, 4, 8):
        longer = replace(basis, max_wait=factor * basis.max_wait)
        if quickest.seconds == inf and _quick(longer, quickest, minutes):
            yield f"a longer time: with an analysis.max_wait of {longer.max_wait:g} it is done"
            break
    for factor in (2, 4, 8):
        name, changed = _tolerant(basis, factor)
        if _quick(changed, quickest, minutes):
            yield f"a higher tolerance: with {name} it is done"
            break


def _quick(basis: Basis, plan: Sketch, minutes: float) -> bool:
    runs = zip(*(_passing(basis, step.weight) for step in plan.steps), strict=True)
    least = [step.min_seconds for step in plan.steps]
    most = Quantiles.of([sum(map(max, least, run)) for run in runs]).most
    return most is not None and most <= 60.0 * minutes


def _tolerant(basis: Basis, factor: float) -> tuple[str, Basis]:
    """The same with a higher tolerance, of the kind that counts here."""
    main = basis.errors.tolerance
    if main.ratio * basis.errors.rate > main.floor:
        change, name = {"ratio": main.ratio + factor / 4}, f"tolerance_ratio {main.ratio + factor / 4:g}"
    else:
        change, name = {"floor": min(0.5, factor * main.floor)}, f"tolerance_floor {min(0.5, factor * main.floor):g}"
    metrics = tuple(
        replace(m, tolerance=replace(m.tolerance, **change)) if m.name != "latency" else m for m in basis.metrics
    )
    return name, replace(basis, metrics=metrics)


def _for_failures(basis: Basis, fewest: Sketch, goal: Goal, rate: float) -> Iterator[str]:
    """A lower tolerance, a mirror, shorter looks."""
    first = fewest.steps[0]
    if fewest.failures < inf:
        yield f"the fewest are up to {fewest.failures:,.0f}, at a first weight of {first.weight} %: so many are proof"
    else:
        yield f"no first step finds a canary of {percent(rate)} bad within analysis.max_wait: more traffic is needed"
    shorter = replace(basis, interval=basis.interval / 4.0)
    if basis.interval >= 0.8 and _seen(shorter, first, rate) <= (goal.failures or 0):
        yield f"shorter looks: with analysis.interval {shorter.interval:g} it is enough"
    mirrored = ending(basis, (MIRROR, *fewest.steps), goal.times, SKETCH, rate)
    if mirrored.aborted >= LIKELY and (mirrored.failures.most or 0.0) <= (goal.failures or 0):
        yield (
            f"a mirror first: with {{weight: 0, mirror: {MIRROR.mirror}, min_seconds: {MIRROR.min_seconds}}} it is "
            "found before users get it, where requests may be sent twice"
        )
