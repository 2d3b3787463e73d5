# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often the gate errs and how soon it decides, by seeded simulation; beside the rules of Flagger and Argo Rollouts.

Every request is a draw of its own (or one of a burst), a look is a second. Writes docs/results/bench-gate-<date>.txt.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import log, pi, sin
from pathlib import Path
from statistics import median
from typing import Protocol

from ansible_collections.progressive.istio.plugins.module_utils._gate import Gate, Tolerance, Window
from ansible_collections.progressive.istio.plugins.module_utils._metrics import tolerances
from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, LATENCY, UNANSWERED

CHECKOUT = Path(__file__).resolve().parents[2]
RATE = 100  # requests a second of the service, all clients together
LOOKS = 1000
LONGEST = 7200  # seconds; what is undecided then, is so
HOUR = 3600
STEPS = ((10, 60), (25, 60), (50, 60), (100, 60))  # the collection's default: weight, least seconds
MAX_WAIT = 1200
PROMOTED, ABORTED, HELD, OPEN = "promoted", "aborted", "held", "open"
Counts = tuple[int, int, int, int]  # canary's requests, bad ones of them, stable's, bad ones of them


# ---------------------------------------------------------------- traffic


@dataclass(frozen=True, slots=True)
class Case:
    """Rates of bad requests, 0..1: ``base`` of stable, ``factor`` times that (or ``rate``) of the canary."""

    name: str
    base: float
    factor: float = 1.0
    rate: float | None = None
    onset: int = 0  # the second from which the canary is worse; before, it is like stable
    burst: int = 1  # bad requests come in clusters of so many
    drifts: bool = False  # the base rate swings between a third and three times of itself, every ten minutes
    floor: float = Tolerance().floor
    steps: tuple[tuple[int, int], ...] = STEPS  # of this gate

    @property
    def tolerance(self) -> Tolerance:
        """As a user has it, but for the floor and what the source tells of bursts: errors, beside other metrics."""
        return tolerances((UNANSWERED, LATENCY), Tolerance(floor=self.floor, burst=float(self.burst)))[ERRORS]

    def rates(self, second: int) -> tuple[float, float]:
        """Canary's and stable's at a time."""
        base = self.base * 3 ** sin(2 * pi * second / 600) if self.drifts else self.base
        if second < self.onset:
            return base, base
        return self.factor * base if self.rate is None else self.rate, base


def hits(rng: random.Random, n: int, p: float) -> int:
    """Binomial, by the gaps between hits: cheap where they are rare."""
    if n <= 0 or p <= 0:
        return 0
    if p >= 1:
        return n
    found, at, scale = 0, -1, log(1 - p)
    while (at := at + 1 + int(log(1 - rng.random()) / scale)) < n:
        found += 1
    return found


def second_of(rng: random.Random, case: Case, second: int, weight: int) -> Counts:
    """What is counted in a second."""
    n_c = hits(rng, RATE, weight / 100)
    numbers = []
    for n, rate in zip((n_c, RATE - n_c), case.rates(second), strict=True):
        numbers += [n, min(n, case.burst * hits(rng, n, rate / case.burst))]
    return (numbers[0], numbers[1], numbers[2], numbers[3])


# ---------------------------------------------------------------- rules


class Rule(Protocol):
    """Decides by what it is told every second, and sets the weight."""

    @property
    def weight(self) -> int:
        """The canary's, in percent."""

    def take(self, second: int, counts: Counts) -> str:
        """PROMOTED, ABORTED or HELD; empty while undecided."""


class Ours:
    """The release of this collection: its gate, and the rules of ``_release`` for time."""

    def __init__(self, tolerance: Tolerance, steps: Sequence[tuple[int, int]] = STEPS) -> None:
        self.gate, self.steps = Gate(tolerance), steps
        self.step, self.began = 0, 0
        self.goal = -log(tolerance.alpha_pass)

    @property
    def weight(self) -> int:
        """Of the present step."""
        return self.steps[self.step][0]

    def take(self, second: int, counts: Counts) -> str:
        """A look: the verdict is asked for where it can be a pass, as it costs much more than the odds alone."""
        self.gate.observe(Window(self.step + 1, self.weight, 1.0, *counts))
        if self.gate.proven:
            return ABORTED
        lasted = second + 1 - self.began
        over = lasted >= self.steps[self.step][1]
        if over and self.gate.evidence()[1] >= self.goal and self.gate.verdict(min_over=True).kind == "pass":
            if self.step + 1 == len(self.steps):
                return PROMOTED
            self.step, self.began = self.step + 1, second + 1
        return HELD if lasted > MAX_WAIT else ""


class Flagger:
    """Its Istio tutorial: every minute the success rate of that minute, at least 99 %, five failed checks in all.

    Each good check adds 10 % of weight, and promotes at 50 %. (docs.flagger.app, "Istio Canary Deployments".)
    """

    def __init__(self) -> None:
        self.weight, self.failed = 10, 0
        self.requests = self.bad = 0

    def take(self, second: int, counts: Counts) -> str:
        """Counts of the canary, looked at every 60 s."""
        self.requests, self.bad = self.requests + counts[0], self.bad + counts[1]
        if (second + 1) % 60:
            return ""
        good = self.requests > 0 and 100 * (self.requests - self.bad) >= 99 * self.requests
        self.requests = self.bad = 0
        if not good:
            self.failed += 1
            return ABORTED if self.failed == 5 else ""
        if self.weight == 50:
            return PROMOTED
        self.weight += 10
        return ""


class ArgoRollouts:
    """Its example of background analysis: from the second step on, every five minutes, ``irate`` at least 95 %.

    Steps of 20 % and ten minutes; the fourth failure aborts (``failureLimit: 3``). ``irate`` takes the last two
    samples, 15 s apart here. The documented query asks for the Service; here it is the canary alone, which is kinder.
    (argo-rollouts.readthedocs.io, "Analysis & Progressive Delivery".)
    """

    def __init__(self) -> None:
        self.weight, self.failed = 20, 0
        self.last: list[tuple[int, int]] = []

    def take(self, second: int, counts: Counts) -> str:
        """Counts of the canary of the last 15 s, looked at every 300 s from the tenth minute on."""
        self.last = [*self.last[-14:], counts[:2]]
        over = second + 1
        if over >= 600 and over % 300 == 0:
            requests, bad = (sum(part) for part in zip(*self.last, strict=True))
            if not requests or 100 * (requests - bad) < 95 * requests:
                self.failed += 1
                if self.failed > 3:
                    return ABORTED
        if over % 600 == 0:
            self.weight += 20
        return PROMOTED if self.weight == 100 else ""


RULES: tuple[tuple[str, Callable[[Case], Rule]], ...] = (
    ("this gate", lambda case: Ours(case.tolerance, case.steps)),
    ("Flagger", lambda _case: Flagger()),
    ("Argo Rollouts", lambda _case: ArgoRollouts()),
)


# ---------------------------------------------------------------- one run each


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended, after how many seconds, and how many requests of the canary had been bad by then."""

    kind: str
    seconds: int
    bad: int


def released(job: tuple[Case, int, int]) -> Ending:
    """One release: (case, which of ``RULES``, seed)."""
    case, which, seed = job
    rule = RULES[which][1](case)
    rng, bad = random.Random(f"{case.name} {seed}"), 0
    for second in range(LONGEST):
        counts = second_of(rng, case, second, rule.weight)
        bad += counts[1]
        if kind := rule.take(second, counts):
            return Ending(kind, second + 1, bad)
    return Ending(OPEN, LONGEST, bad)


def blamed(job: tuple[Case, int]) -> bool:
    """Whether ``LOOKS`` looks at 10 % ever prove a failure: (case, seed)."""
    case, seed = job
    rng, gate = random.Random(f"looks {case.name} {seed}"), Gate(case.tolerance)
    for second in range(LOOKS):
        gate.observe(Window(1, 10, 1.0, *second_of(rng, case, second, 10)))
    return gate.proven is not None


def found(job: tuple[Case, int, int]) -> Ending:
    """Time from the onset to the proof, at one weight: (case, weight, seed); before a weight of 100 an hour at 10 %."""
    case, weight, seed = job
    rng, gate, bad = random.Random(f"found {case.name} {weight} {seed}"), Gate(case.tolerance), 0
    start = case.onset if weight < 100 else HOUR
    for second in count():
        now = weight if weight < 100 or second >= HOUR else 10
        counts = second_of(rng, replace(case, onset=start), second, now)
        gate.observe(Window(1 if now < 100 else 2, now, 1.0, *counts))
        bad += counts[1] if second >= start else 0
        if gate.proven or second - start >= LONGEST:
            return Ending(ABORTED if gate.proven else OPEN, second + 1 - start, bad)
    raise AssertionError("count() has no end")


# ---------------------------------------------------------------- the tables

SAME = [
    Case(f"{100 * base:g} %{name}", base, burst=burst, drifts=drifts)
    for base in (0.001, 0.01, 0.05)
    for name, burst, drifts in (("", 1, False), (", bursts of 3", 3, False), (", drifting", 1, True))
]
RELEASES = [
    *(Case(f"{100 * base:g} %, same", base) for base in (0.0, 0.001, 0.01, 0.05)),
    *(Case(f"{100 * base:g} %, {f} x", base, f) for base in (0.001, 0.01, 0.05) for f in (2, 5, 10)),
    *(Case(f"0.1 %, {f} x, floor 0.1 %", 0.001, f, floor=0.001) for f in (2, 5, 10)),
    Case("1 %, 5 x, bursts of 3", 0.01, 5, burst=3),
    Case("1 %, 5 x, drifting", 0.01, 5, drifts=True),
    Case("1 %, same, drifting", 0.01, drifts=True),
    Case("1 %, same, steps 25, 50, 100 %", 0.01, steps=STEPS[1:]),
    *(Case(f"0, canary {100 * rate:g} %", 0.0, rate=rate) for rate in (1.0, 0.2, 0.05, 0.02)),
    Case("0, canary 0.5 %, floor 0.2 %", 0.0, rate=0.005, floor=0.002),
]
ONSETS = [
    (Case(f"canary {100 * rate:g} %{name}", 0.001, rate=rate, onset=onset), weight)
    for rate in (1.0, 0.2, 0.05, 0.02)
    for name, onset, weight in (("", 0, 10), (", after an hour", HOUR, 10), (", at 100 %", 0, 100))
]

TITLE = """
Seeded simulation, a service of {rate} requests a second, one look a second. Rates are of bad requests.
This gate: its defaults (ratio 1.5, floor 0.5 %, alpha_fail 1 %, alpha_pass 5 %), steps {steps} % of a
minute at least, max_wait 20 min. Flagger: its Istio tutorial (every minute, at least 99 %, five failed checks). Argo
Rollouts: its example of background analysis (every five minutes, at least 95 %, four failures), asked for the canary.
"""
LOOKED = """
The same version against itself, {looks:,} looks at 10 %: how many of {runs:,} were blamed. At most 1 % may be.
"""
ENDED = """
Releases, {runs:,} each: promoted, aborted and held in %; median minutes to the end, and of the canary's bad requests.
"Same": the canary is as good as stable; "2 x": its rate is twice that. What is within the tolerance (the floor, or 1.5
times stable) is promoted rightly.
"""
LATE = """
From the first bad second to the proof, stable at 0.1 %, {runs:,} each, at a weight of 10 %, or at 100 % after a good
hour at 10 %: seconds and the canary's bad requests, median and 95th of 100.
"""


def share(kinds: Sequence[str], kind: str) -> str:
    """Of all, in % without a false 0 or 100."""
    value = 100 * sum(one == kind for one in kinds) / len(kinds)
    return f"{value:.0f}" if value in (0, 100) or 0.5 <= value < 99.5 else f"{value:.1f}"


def cells(endings: Sequence[Ending]) -> str:
    """Promoted, aborted, held in %; median minutes; median bad requests."""
    kinds = [ending.kind for ending in endings]
    parts = "".join(f"{share(kinds, kind):>6}" for kind in (PROMOTED, ABORTED, HELD))
    return f"{parts}{median(e.seconds for e in endings) / 60:>7.1f}{median(e.bad for e in endings):>7.0f}"


def quantiles(values: Iterable[int]) -> str:
    """Median and the 95th of 100."""
    ordered = sorted(values)
    return f"{median(ordered):>8.0f}{ordered[-(-95 * len(ordered) // 100) - 1]:>7}"


def tables(runs: int, jobs: int, say: Callable[[str], None]) -> None:
    """All of it, line by line. ``jobs``: processes."""
    steps = ", ".join(str(weight) for weight, _least in STEPS)
    say(TITLE.format(rate=RATE, steps=steps).rstrip())
    with ProcessPoolExecutor(jobs) as pool:
        each = partial(pool.map, chunksize=max(1, runs // (8 * jobs)))
        say(LOOKED.format(looks=LOOKS, runs=runs).rstrip())
        say(f"  {'stable and canary':<30}{'blamed':>7}{'%':>7}")
        for case in SAME:
            wrong = sum(each(blamed, [(case, seed) for seed in range(runs)]))
            say(f"  {case.name:<30}{wrong:>7}{100 * wrong / runs:>7.2g}")
        say(ENDED.format(runs=runs).rstrip())
        say(f"  {'':<30}" + "".join(f"{name:>32}" for name, _rule in RULES))
        head = f"{'prom.':>6}{'abort.':>7}{'held':>5}{'min':>7}{'bad':>7}"
        say(f"  {'stable, canary':<30}" + head * len(RULES))
        for case in RELEASES:
            lists = [list(each(released, [(case, n, seed) for seed in range(runs)])) for n in range(len(RULES))]
            say(f"  {case.name:<30}" + "".join(map(cells, lists)))
        few = max(1, runs // 5)  # an hour each
        say(LATE.format(runs=few).rstrip())
        say(f"  {'':<30}{'seconds':>8}{'95 %':>7}{'bad':>8}{'95 %':>7}")
        for case, weight in ONSETS:
            ended = list(each(found, [(case, weight, seed) for seed in range(few)]))
            missed = sum(ending.kind == OPEN for ending in ended)
            more = f"   {missed} not found in {LONGEST} s" if missed else ""
            times = quantiles(e.seconds for e in ended) + quantiles(e.bad for e in ended)
            say(f"  {case.name:<30}{times}{more}")


def main() -> int:
    """Prints the tables as they come, and writes them when all are there."""
    parser = argparse.ArgumentParser(prog="tests/bench/run gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="of each case (default: %(default)s, most of an hour)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--output", type=Path, help="default: docs/results/bench-gate-<date>.txt")
    arguments = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say(f"Bench of the gate, {time.strftime('%Y-%m-%d', time.gmtime())}, {arguments.runs:,} runs of each case")
    tables(arguments.runs, arguments.jobs, say)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    path = arguments.output or CHECKOUT / "docs" / "results" / f"bench-gate-{day}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
