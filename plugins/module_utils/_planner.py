# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Before a release: how long its steps take, how soon a bad canary is found, and what users see of it. Private, pure.

Releases are played (`_trial`) at the present traffic with the rate of bad requests that stable has now: those of a
canary that is as good, and those of worse ones, bad from the start or only from some step on. Told are the median and
what 9 of 10 releases stay below. Latency and requests without answer are taken to be stable's in all of them; they
delay a pass, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import ceil, inf
from typing import Any

from ._looks import pause
from ._record import Step
from ._trial import Fate, Trial
from ._verdict import Tolerance, duration, percent

#: So many times worse than stable is what a plan tells about.
WORSE = (2, 5, 10)
#: Releases that are played of each kind.
RUNS = 50
LIKELY = 0.9
RARE = 0.05
#: From the look that proves a failure until the proxies run weight 0, in seconds; rather much.
REACTION = 0.5
#: Stable is watched for so long where the first step is 100 % already, in seconds.
BASELINE = 10.0
#: Bad requests at the floor: when a healthy canary has had requests for so many, more of them change nothing.
ENOUGH = 20.0


# ---------------------------------------------------------------- what a plan is made of


@dataclass(frozen=True, slots=True)
class Judged:
    """A metric, what makes a request bad by it, how it is judged, and stable's rate (0..1)."""

    name: str
    words: str
    tolerance: Tolerance
    rate: float


@dataclass(frozen=True, slots=True)
class Basis:
    """Requests a second to both versions together, the metrics (errors first), and what the user wants. Seconds."""

    pace: float
    metrics: tuple[Judged, ...]
    interval: float = 1.0
    max_wait: float = 1200.0
    on_inconclusive: str = "hold"
    warm_up: float = 0.0
    reads: float = 0  # proxies that a look asks

    @property
    def errors(self) -> Judged:
        """The metric that regressions are of."""
        return self.metrics[0]

    @property
    def limit(self) -> float:
        """The rate that a canary may have."""
        return max(self.errors.tolerance.ratio * self.errors.rate, self.errors.tolerance.floor)

    def worse(self, times: int) -> float:
        """So many times stable's rate; where that is not known to be above 0, so many times the floor."""
        return min(1.0, times * (self.errors.rate or self.errors.tolerance.floor))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Not exceeded by half of all releases, and by 9 of 10; None: that many never get there."""

    median: float | None
    most: float | None

    @staticmethod
    def of(values: Sequence[float]) -> Quantiles:
        """``inf`` is for what did not happen."""
        ordered = sorted(values)
        found = [ordered[ceil(share * len(ordered)) - 1] for share in (0.5, LIKELY)]
        return Quantiles(*(None if value == inf else value for value in found))

    def say(self, text: Callable[[float], str]) -> str:
        """``16 s - 4 min``; one where both look the same, ``16 s - never``."""
        one, other = ("never" if value is None else text(value) for value in (self.median, self.most))
        return one if one == other else f"{one} - {other}"

    def plain(self) -> dict[str, float | None]:
        """For the result."""
        return {key: None if value is None else round(value, 1) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Found:
    """A canary that is so many times as bad, from this step on: how often it is proven there, and when."""

    times: int
    rate: float
    within: bool  # the tolerance: it is not looked for
    share: float
    requests: Quantiles
    seconds: Quantiles
    failures: Quantiles  # bad answers that users get


@dataclass(frozen=True, slots=True)
class StepForecast:
    """How often a canary that is as good as stable passes within max_wait, when, and how soon worse ones are found."""

    step: Step
    share: float
    requests: Quantiles
    seconds: Quantiles
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """Releases of a canary that is so many times as bad from its first request on: how they end, when, and after how
    many bad answers that users got.
    """

    times: int
    rate: float
    within: bool
    promoted: float
    aborted: float
    held: float
    seconds: Quantiles
    failures: Quantiles


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a whole plan. ``endings``: of a canary as good as stable, then of those of `WORSE`."""

    basis: Basis
    steps: tuple[StepForecast, ...]
    endings: tuple[Ending, ...]

    def ending(self, times: int) -> Ending:
        """That of a canary so many times as bad."""
        return next(one for one in self.endings if one.times == times)


# ---------------------------------------------------------------- playing


@dataclass(frozen=True, slots=True)
class Stay:
    """One step of one release: how it ended, after how many seconds, canary requests, and bad answers to users."""

    kind: str
    seconds: float
    requests: float
    failures: float


def play_step(basis: Basis, step: Step, number: int, trial: Trial, rate: float | None, run: int) -> Stay:
    """The ``number``-th step (from 0) of one release; ``rate``: the canary's, None for stable's."""
    healthy, rate = rate is None, basis.errors.rate if rate is None else rate
    share, stable = _split(step)
    pace = basis.pace * share
    most = pace * basis.max_wait
    others = max((_others(basis, step, number, metric, run) for metric in basis.metrics[1:]), default=0.0)
    least = max(pace * step.min_seconds, others)
    if not pace or others >= most:
        least = most
    if healthy:
        least = min(least, max(others, ENOUGH * basis.errors.tolerance.burst / basis.errors.tolerance.floor))
    between = pause(basis.interval, pace, pace * stable, basis.reads)
    fate = trial.play(64 * run + number, stable, pace * between, rate, basis.errors.rate, least, most)
    seconds = _seconds(basis, step, fate, pace, between)
    after = seconds - fate.requests / pace if pace else 0.0
    if fate.kind == "pass":
        trial.watch(after * pace * stable, after * pace * stable * basis.errors.rate)
    if fate.kind == "fail":
        after += REACTION
    seen = step.weight / (step.weight + step.mirror) if step.weight else 0.0
    return Stay(fate.kind, seconds, fate.requests, seen * (fate.bad + rate * pace * max(after, 0.0)))


def _split(step: Step) -> tuple[float, float]:
    """The canary's part of all requests, and how many stable has for each of them. A cohort's part is not known."""
    mine = step.weight + step.mirror
    return mine / 100.0, (100 - step.weight) / (mine or step.judged)


@lru_cache(maxsize=4096)
def _others(basis: Basis, step: Step, number: int, metric: Judged, run: int) -> float:
    """The canary's requests until another metric passes."""
    share, stable = _split(step)
    pace, watched = basis.pace * share, basis.pace * BASELINE
    trial = Trial(metric.tolerance, (watched, watched * metric.rate))
    slow = pace * basis.warm_up if number == 0 and metric.name == "latency" else 0.0
    seed = f"{metric.name} {run} {number}"
    between = pause(basis.interval, pace, pace * stable, basis.reads)
    fate = trial.play(seed, stable, pace * between, metric.rate, metric.rate, 0.0, pace * basis.max_wait)
    return slow + fate.requests if fate.kind == "pass" else inf


def _seconds(basis: Basis, step: Step, fate: Fate, pace: float, between: float) -> float:
    """Until the look at which it is decided."""
    if fate.kind == "open" or not pace:
        return basis.max_wait
    looked = between * max(1, ceil(fate.requests / pace / between - 1e-9))
    return max(looked, step.min_seconds) if fate.kind == "pass" else looked


def play(basis: Basis, steps: Sequence[Step], rate: float | None, run: int) -> list[Stay]:
    """The steps of one release from its start to its end."""
    first, trial = _first(basis, steps[0], rate, run)
    stays, trial = [first], trial.copy()
    while not _over(basis, stays[-1]) and len(stays) < len(steps):
        stays.append(play_step(basis, steps[len(stays)], len(stays), trial, rate, run))
    return stays


@lru_cache(maxsize=4096)
def _first(basis: Basis, step: Step, rate: float | None, run: int) -> tuple[Stay, Trial]:
    """The first step of a release, and how that stands then."""
    trial = begin(basis, [step])
    return play_step(basis, step, 0, trial, rate, run), trial


def _over(basis: Basis, stay: Stay) -> str:
    """How a step has ended its release, if it has."""
    if stay.kind == "fail":
        return "aborted"
    return {"hold": "held", "abort": "aborted"}.get(basis.on_inconclusive, "") if stay.kind == "open" else ""


def begin(basis: Basis, steps: Sequence[Step]) -> Trial:
    """A release that begins."""
    watched = basis.pace * BASELINE if steps[0].weight == 100 else 0.0
    return Trial(basis.errors.tolerance, (watched, watched * basis.errors.rate))


def ending(basis: Basis, steps: Sequence[Step], times: int, runs: int = RUNS, rate: float | None = None) -> Ending:
    """Of a canary that is ``times`` (1: like stable) as bad from the start, or has this ``rate``."""
    rate = basis.worse(times) if rate is None and times > 1 else rate
    nothing = rate is None and not any(metric.rate for metric in basis.metrics)
    return _told(basis, times, rate, [play(basis, steps, rate, run) for run in range(1 if nothing else runs)])


def _told(basis: Basis, times: int, rate: float | None, played: Sequence[Sequence[Stay]]) -> Ending:
    """Of releases that end where a step ends them."""
    upto = [next((n for n, stay in enumerate(stays, 1) if _over(basis, stay)), len(stays)) for stays in played]
    ends = [_over(basis, stays[n - 1]) or "promoted" for n, stays in zip(upto, played, strict=True)]
    bad = basis.errors.rate if rate is None else rate
    promoted, aborted, held = (ends.count(kind) / len(ends) for kind in ("promoted", "aborted", "held"))
    whole = [stays[:n] for n, stays in zip(upto, played, strict=True)]
    return Ending(
        times,
        bad,
        times > 1 and bad <= basis.limit,
        promoted,
        aborted,
        held,
        Quantiles.of([sum(stay.seconds for stay in stays) for stays in whole]),
        Quantiles.of([sum(stay.failures for stay in stays) for stays in whole]),
    )


def forecast(basis: Basis, steps: Sequence[Step], runs: int = RUNS) -> Forecast:
    """Of a plan. Raises ValueError for a tolerance that makes no sense."""
    for metric in basis.metrics:
        metric.tolerance.check()
    if not any(metric.rate for metric in basis.metrics):
        starts, healthy = _healthy(basis, steps, 1)
        starts *= runs
    else:
        starts, healthy = _healthy(basis, steps, runs)
    told = []
    for number, step in enumerate(steps):
        passed = [stays[number] for stays in healthy]
        went = [stay.kind == "pass" for stay in passed]
        requests = [stay.requests if ok else inf for stay, ok in zip(passed, went, strict=True)]
        seconds = [stay.seconds if ok else inf for stay, ok in zip(passed, went, strict=True)]
        found = tuple(_found(basis, step, number, starts, times) for times in WORSE)
        told.append(StepForecast(step, sum(went) / len(went), Quantiles.of(requests), Quantiles.of(seconds), found))
    endings = [_told(basis, 1, None, healthy), *(ending(basis, steps, times, runs) for times in WORSE)]
    return Forecast(basis, tuple(told), tuple(endings))


def _healthy(basis: Basis, steps: Sequence[Step], runs: int) -> tuple[list[list[Trial]], list[list[Stay]]]:
    """How each release stands when a step begins, and its steps; one that is held goes on all the same."""
    starts, healthy = [], []
    for run in range(runs):
        trial, before, stays = begin(basis, steps), [], []
        for number, step in enumerate(steps):
            before.append(trial.copy())
            stays.append(play_step(basis, step, number, trial, None, run))
        starts.append(before)
        healthy.append(stays)
    return starts, healthy


def _found(basis: Basis, step: Step, number: int, starts: Sequence[Sequence[Trial]], times: int) -> Found:
    rate = basis.worse(times)
    if rate <= basis.limit:
        nothing = Quantiles(None, None)
        return Found(times, rate, within=True, share=0.0, requests=nothing, seconds=nothing, failures=nothing)
    if number:
        stays = [play_step(basis, step, number, start[number].copy(), rate, run) for run, start in enumerate(starts)]
    else:
        stays = [_first(basis, step, rate, run)[0] for run in range(len(starts))]
    proven = [stay if stay.kind == "fail" else Stay("", inf, inf, inf) for stay in stays]
    return Found(
        times,
        rate,
        within=False,
        share=sum(stay.kind == "fail" for stay in stays) / len(stays),
        requests=Quantiles.of([stay.requests for stay in proven]),
        seconds=Quantiles.of([stay.seconds for stay in proven]),
        failures=Quantiles.of([stay.failures for stay in proven]),
    )


# ---------------------------------------------------------------- warnings


def warnings(told: Forecast) -> list[str]:
    """What the plan cannot decide, and what to do about it; one line each."""
    basis = told.basis
    if not basis.pace:
        then = {"hold": "held", "abort": "taken back", "promote": "gone on with, unjudged"}[basis.on_inconclusive]
        text = (
            "there is no traffic, so this plan decides nothing: each step would wait "
            f"{duration(basis.max_wait)} (analysis.max_wait) and be {then} (analysis.on_inconclusive). Send requests "
            "with the role load (playbooks/load.yml), or plan again when there are some"
        )
        return [text]
    found = [text for number, one in enumerate(told.steps, 1) if (text := _stuck(basis, number, one))]
    worst = [one.found[-1] for one in told.steps]
    if worst[0].within:
        found.append(
            f"a canary {worst[0].times} times as bad as stable ({percent(worst[0].rate)}) is within the tolerance of "
            f"{percent(basis.limit)}, so none of these is looked for; lower analysis.tolerance_floor if that matters"
        )
    for number, (one, bad) in enumerate(zip(told.steps, worst, strict=True), 1):
        if not bad.within and bad.share < RARE and (one.step.weight or one.step.mirror):
            found.append(
                f"step {number} ({one.step.title}) never finds a canary {bad.times} times as bad "
                f"({percent(bad.rate)}); a lower tolerance, more traffic or a longer time are needed"
            )
    timed = [one for one in told.steps if one.step.weight or one.step.mirror]
    if timed and all(one.share < RARE and (one.found[-1].within or one.found[-1].share < RARE) for one in timed):
        found.insert(0, "this plan decides nothing: no step passes, and no canary up to 10 times as bad is found")
    return found


def _stuck(basis: Basis, number: int, one: StepForecast) -> str:
    """A step that a canary as good as stable does not pass in time, or not often."""
    pace = basis.pace * _split(one.step)[0]
    if one.share >= LIKELY or not pace:
        return ""
    there = f"step {number} ({one.step.title})"
    wait = f"{duration(basis.max_wait)} (analysis.max_wait)"
    needed = needs(basis, one.step)
    what = f"cannot pass within {wait}" if one.share < RARE else f"passes within {wait} in only {100 * one.share:.0f} %"
    if needed is None:
        return f"{there} {what}: stable itself is too near to the tolerance; a higher tolerance_ratio is needed"
    seconds = needed / pace
    every = basis.pace * seconds / basis.max_wait
    return (
        f"{there} {what}: its canary gets {pace * basis.max_wait:,.0f} requests in that time, 9 of 10 need up to "
        f"{needed:,.0f}; that takes a max_wait of {ceil(seconds / 60)} min, or {ceil(every):,} requests a second"
    )


def needs(basis: Basis, step: Step, runs: int = 20) -> float | None:
    """Canary requests that 9 of 10 healthy releases pass the step with, however long it takes; None: more than all."""
    largest = max(metric.tolerance.burst / metric.tolerance.floor for metric in basis.metrics)
    pace = basis.pace * _split(step)[0] or 1.0
    patient = Basis(basis.pace, basis.metrics, basis.interval, 500.0 * largest / pace)
    anyway = Step(step.weight, 0, step.mirror)
    played = [play_step(patient, anyway, 1, begin(patient, [step]), None, run) for run in range(runs)]
    return Quantiles.of([stay.requests if stay.kind == "pass" else inf for stay in played]).most


# ---------------------------------------------------------------- a table for a person


def late(told: Forecast, left: float) -> list[str]:
    """What to warn of where the change window ends in ``left`` seconds."""
    most = told.endings[0].seconds.most
    if most is None or most <= left:
        return []
    text = f"9 of 10 good releases need up to {duration(most)}, and the change window ends in {duration(left)}"
    return [f"{text}: it would stay at its weight until the next one; begin earlier, or shorten steps"]


def table(told: Forecast) -> list[str]:
    """The forecast in lines; `a - b`: half of all releases, 9 of 10."""
    basis = told.basis
    heads = ["", f"like stable ({percent(basis.errors.rate)})"]
    subs = ["step", "passes after"]
    for one in told.steps[0].found:
        heads.append(f"{one.times} x as bad ({percent(one.rate)})")
        subs.append("within the tolerance" if one.within else "found, failures seen")
    rows = [heads, subs, *(_row(one) for one in told.steps)]
    rows.append(["all", _promoted(told.endings[0]), *(_ended(one) for one in told.endings[1:])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: StepForecast) -> list[str]:
    if not (one.step.weight or one.step.mirror):
        return [one.step.title, "as its cohort asks", *("" for _found in one.found)]
    cells = ["" if bad.within else _cell(bad.seconds, bad.failures) for bad in one.found]
    return [one.step.title, one.seconds.say(duration), *cells]


def _promoted(one: Ending) -> str:
    return one.seconds.say(duration) + ("" if one.promoted >= LIKELY else f", {100 * one.promoted:.0f} % promoted")


def _ended(one: Ending) -> str:
    if one.within:
        return ""
    return _cell(one.seconds, one.failures) + ("" if one.aborted >= LIKELY else f", {100 * one.aborted:.0f} % found")


def _cell(seconds: Quantiles, failures: Quantiles) -> str:
    text = seconds.say(duration)
    return text if failures.median is None else f"{text}, {failures.say(lambda value: f'{value:,.0f}')}"


def to_dict(told: Forecast) -> dict[str, Any]:
    """Plain JSON types."""
    return {
        "requests_per_second": round(told.basis.pace, 1),
        "runs": RUNS,
        "metrics": [
            {"name": m.name, "words": m.words, "rate": m.rate, "alpha_fail": m.tolerance.alpha_fail}
            for m in told.basis.metrics
        ],
        "endings": [plain(one) for one in told.endings],
    }


def plain(one: StepForecast | Found | Ending) -> dict[str, Any]:
    """Plain JSON types, quantiles by name."""
    names = [name for name in type(one).__slots__ if name not in ("found", "step")]
    values = {name: getattr(one, name) for name in names}
    return {name: value.plain() if isinstance(value, Quantiles) else value for name, value in values.items()}
