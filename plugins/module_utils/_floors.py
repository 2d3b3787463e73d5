# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Capacity floors: how many pods a version needs for its next share, and what is on record of a floor. Private, pure.

An autoscaler cannot see a shift of traffic coming. So its ``minReplicas`` is raised before each step to what the canary
will need, and that of the stable version is held at its size until the release is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

AUTOSCALER = "HorizontalPodAutoscaler"
SPARE = 0.2  # of what was measured: noise, and requests that cost more than the average
MOST_IDLE = 0.5  # part of what is used, or may be, that idle pods are believed to take
EXACT = 1e-9  # cores: a quotient of measured numbers that is whole should not be rounded up by an error of its last bit


@dataclass(frozen=True, slots=True)
class Floor:
    """The least number of pods that one object keeps, as a release found it and sets it.

    kind, name: of the autoscaler, or of the workload without one. ``original`` is given back at the end. ``before`` is
    what it was when ``value`` was decided: as long as they differ, it may not be set yet. at: seconds, of the decision.
    idle: cores that a pod of this version takes without requests, 0 where nobody knows.
    """

    version: str
    kind: str
    name: str
    original: int
    before: int
    value: int
    at: float
    idle: float = 0.0

    @property
    def pending(self) -> bool:
        """Whether nobody has seen it set."""
        return self.before != self.value

    @property
    def ours(self) -> bool:
        """Whether there is anything to give back."""
        return (self.before, self.value) != (self.original, self.original)

    @property
    def field(self) -> str:
        """What is set of the object."""
        return "minReplicas" if self.kind == AUTOSCALER else "replicas"

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.field} of {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Scaler:
    """What decides how many pods a version has. maximum: None for a workload without an autoscaler.

    usable: cores that a pod may take by its target, None where it does not scale by CPU; ``why`` in words.
    keeper: what sets its minimum, and would do so again (KEDA), in words. manager: who wrote the minimum last.
    """

    kind: str
    name: str
    minimum: int
    maximum: int | None = None
    usable: float | None = None
    why: str = ""
    keeper: str = ""
    manager: str = "unknown"
    token: object = field(default=None, compare=False)  # the World's own: what a write is based on


@dataclass(frozen=True, slots=True)
class Supply:
    """What a version has: ready pods, the autoscalers of its workload, and that workload where it has none.

    used: cores of all its ready pods together, None where nobody knows; measured from ``since`` on (seconds).
    ``measured``: somebody measures at all, so that what is not known yet will be.
    """

    ready: int
    scalers: tuple[Scaler, ...] = ()
    workload: Scaler | None = None
    used: float | None = None
    since: float = 0.0
    measured: bool = False
    obstacle: str = ""  # what keeps it from having more, in words


@dataclass(frozen=True, slots=True)
class Need:
    """Pods that a version needs for a share, and from which numbers that follows."""

    pods: int
    why: str


@dataclass(frozen=True, slots=True)
class Share:
    """Percent of the requests that the canary has got since a time (seconds), and those that it is to get."""

    now: int
    then: int
    since: float


def of(floors: tuple[Floor, ...], version: str) -> Floor | None:
    """The floor of a version."""
    return next((floor for floor in floors if floor.version == version), None)


def put(floors: tuple[Floor, ...], new: Floor) -> tuple[Floor, ...]:
    """The same floors with that of one object replaced."""
    return (*(one for one in floors if (one.kind, one.name) != (new.kind, new.name)), new)


def raised(known: Floor | None, scaler: Scaler, version: str, value: int, now: float, idle: float = 0.0) -> Floor:
    """The floor that is to be set. What somebody else has put there since is what they are to get back."""
    mine = known and known.ours and scaler.minimum in (known.before, known.value)
    original = known.original if known and mine else scaler.minimum
    value = max(value, scaler.minimum)
    return Floor(version, scaler.kind, scaler.name, original, scaler.minimum, value, now, known.idle if known else idle)


def seen(floors: tuple[Floor, ...], supplies: Mapping[str, Supply]) -> tuple[Floor, ...]:
    """The floors as they are known once it was seen which of them are set."""
    found = {(one.kind, one.name): one for supply in supplies.values() for one in _all(supply)}
    return tuple(
        replace(floor, before=floor.value)
        if (there := found.get((floor.kind, floor.name))) and there.minimum == floor.value
        else floor
        for floor in floors
    )


def _all(supply: Supply) -> tuple[Scaler, ...]:
    return (*supply.scalers, *((supply.workload,) if supply.workload else ()))


def lowered(floor: Floor, supply: Supply) -> str:
    """What to say when somebody else has taken away a floor that this release had set, or nothing."""
    there = next((one for one in _all(supply) if (one.kind, one.name) == (floor.kind, floor.name)), None)
    if not floor.ours or (there and there.minimum >= floor.value):
        return ""
    if there is None:
        return f"floor: {floor.kind} {floor.name} is gone, this release had set its {floor.field} to {floor.value}"
    return (
        f"floor: {floor.where} is {there.minimum}, this release had set it to {floor.value}; last written by "
        f"{there.manager}: keep that from setting it during a release, or set floors to none"
    )


def idle_of(supply: Supply) -> float:
    """Cores that a pod takes without requests, of a version that gets none."""
    return supply.used / supply.ready if supply.used and supply.ready else 0.0


def need(
    canary: Supply, stable: Supply, scaler: Scaler, share: Share, size: int, idle: float, late: bool
) -> Need | None:
    """Pods of the canary for its next share; None while that is still being measured (``late``: no longer waited for).

    By the CPU that the canary has taken at its present share, before the first weight by what stable takes. Where that
    is unknown, by stable's ``size``, which has carried everything.
    """
    usable = scaler.usable
    if usable:
        own = share.now > 0
        who, at, whose = (canary, share.now, "its") if own else (stable, 100, "the stable version's")
        if who.used is not None and (not own or who.since >= share.since):
            return _by_cpu(who.used, who.ready, at, share.then, usable, idle, whose)
        if who.measured and not late:
            return None
    why = scaler.why or "its CPU is not known"
    return Need(
        max(1, ceil(size * share.then / 100 - EXACT)),
        f"{share.then} % of the {size} pods that the stable version has ({why})",
    )


def _by_cpu(used: float, ready: int, at: int, then: int, usable: float, idle: float, whose: str) -> Need:
    """idle: of each of the pods; it is there whatever the share."""
    idle = min(idle, MOST_IDLE * used / ready if ready else 0.0, MOST_IDLE * usable)
    cores = (used - idle * ready) * then / at * (1 + SPARE)
    pods = max(1, ceil(cores / (usable - idle) - EXACT))
    each = f" and {idle:.3g} of each idle pod" if idle else ""
    why = f"by {whose} {used:.3g} cores at {at} %{each}, {SPARE:.0%} spare, {usable:.3g} cores a pod by its target"
    return Need(pods, why.replace("20%", "20 %"))


def restored(data: Any) -> tuple[Floor, ...]:
    """Floors from JSON. Raises TypeError for what is none."""
    floors = tuple(Floor(**one) for one in data)
    for floor in floors:
        numbers: tuple[Any, ...] = (floor.original, floor.before, floor.value)
        texts = (floor.version, floor.kind, floor.name)
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers) or not all(
            isinstance(text, str) for text in texts
        ):
            raise TypeError("floors hold texts and whole numbers")
        if type(floor.at) not in (int, float) or type(floor.idle) not in (int, float):
            raise TypeError("floors hold numbers as 'at' and 'idle'")
    return floors
