# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Before a release: how many requests a step takes to pass a healthy canary, and to find a bad one. Private, pure.

From the expected gain of each request, so about half of all steps take longer; exact where nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log

from ._gate import HELD, Arms
from ._sequential import requests_until
from ._verdict import Tolerance, duration, percent

#: So many times worse than stable is what a plan tells about.
WORSE = (2, 5, 10)


@dataclass(frozen=True, slots=True)
class Regression:
    """A canary with this rate of bad requests (0..1), and after how many of its `requests` that is proven.

    None: never. `within`: it is within the tolerance, so it is not looked for.
    """

    rate: float
    within: bool = field(kw_only=True)
    requests: int | None = field(kw_only=True)

    def say(self, requests_per_second: float) -> str:
        """``5 % after 16 s``, for so many canary requests a second."""
        if self.within:
            return f"{percent(self.rate)} is within the tolerance"
        if self.requests is None or requests_per_second <= 0:
            return f"{percent(self.rate)} never"
        return f"{percent(self.rate)} after {duration(max(1.0, self.requests / requests_per_second))}"


def requests_to_pass(
    tolerance: Tolerance, rate_canary: float = 0.0, rate_stable: float = 0.0, weight: int = 10
) -> int | None:
    """About how many canary requests a step at `weight` percent (1..99) takes to pass at these rates (0..1).

    None: at these rates there is no pass.
    """
    stable = _per_canary(tolerance, weight)
    arms = Arms(tolerance, "better", 0.0)
    relative = arms.relative.gains(1, rate_canary, stable, stable * rate_stable)
    return arms.until_mean(relative, arms.absolute.gains(1, rate_canary), tolerance.alpha_pass)


def requests_to_fail(tolerance: Tolerance, rate_canary: float, rate_stable: float, weight: int = 10) -> int | None:
    """About how many canary requests a first step at `weight` percent (1..99) takes to prove a failure.

    None: at these rates there is none.
    """
    stable = _per_canary(tolerance, weight)
    arms, goal = Arms(tolerance, "worse", HELD), -log(tolerance.alpha_fail)
    gains = arms.relative.gains(1, rate_canary, stable, stable * rate_stable)
    relative = requests_until(arms.relative.stake.bets, gains, goal)
    absolute = requests_until(arms.absolute.stake.bets, arms.absolute.gains(1, rate_canary), goal)
    return None if relative is None or absolute is None else max(relative, absolute)


def _per_canary(tolerance: Tolerance, weight: int) -> float:
    """Requests of stable for each one of the canary."""
    tolerance.check()
    if not 1 <= weight <= 99:
        raise ValueError(f"weight: expected 1 to 99, got {weight}")
    return (100 - weight) / weight


def regressions(tolerance: Tolerance, rate_stable: float, weight: int) -> list[Regression]:
    """`WORSE` times stable's rate; where that is not known to be above 0, times the floor."""
    limit = max(tolerance.ratio * rate_stable, tolerance.floor)
    found = []
    for factor in WORSE:
        rate = min(1.0, factor * (rate_stable or tolerance.floor))
        within = rate <= limit
        found.append(
            Regression(
                rate, within=within, requests=None if within else requests_to_fail(tolerance, rate, rate_stable, weight)
            )
        )
    return found
