# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated autoscalers: they look at old numbers every 15 s, start pods slowly, and take them away at once.

``Scaling`` is what outlives a run, ``Keeping`` is one run's way to it. See ``simulated``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

from ansible_collections.progressive.istio.plugins.module_utils._floors import AUTOSCALER, Floor, Scaler, Supply
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Conflict

SYNC = 15.0  # seconds: of the autoscalers, and of who measures


class Town(Protocol):
    """Of a mesh: its clock, its weights, its pods."""

    time: float
    rps: float
    weights: dict[str, int]
    ready: dict[str, int]


@dataclass
class Object:
    """An autoscaler, or a workload without one (no maximum)."""

    kind: str
    name: str
    minimum: int
    maximum: int | None = None
    usable: float | None = 0.2  # cores a pod, by its target
    keeper: str = ""
    manager: str = "kubectl"
    version: int = 1

    def put(self, value: int, manager: str) -> None:
        self.minimum, self.manager, self.version = value, manager, self.version + 1


@dataclass
class Scaling:
    """By version: autoscalers, workloads without one, and what a request costs, in cores per request a second."""

    autoscalers: dict[str, list[Object]] = field(default_factory=dict)
    workloads: dict[str, Object] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    idle: float = 0.0  # cores that each pod takes in any case
    quota: int | None = None  # pods of all versions together
    start_seconds: float = 10.0  # that a pod takes to be ready
    measured: bool = True
    may: bool = True  # what the account of the runs is allowed
    refuses: str = ""  # why every set is refused
    overloaded: float = 0.0  # seconds in which pods had more to do than they can
    starting: dict[str, list[float]] = field(default_factory=dict)  # when pods will be ready
    usage: dict[str, tuple[float, float]] = field(default_factory=dict)  # cores, measured since
    synced_at: float = 0.0
    window: dict[str, float] = field(default_factory=dict)  # core seconds since then
    sets: list[tuple[str, int]] = field(default_factory=list)

    @property
    def objects(self) -> dict[str, Object]:
        return {**self.workloads, **{version: found[0] for version, found in self.autoscalers.items()}}

    def cores(self, town: Town, version: str) -> float:
        """What its pods take now."""
        rate = town.rps * town.weights[version] / 100
        return rate * self.cost.get(version, 0.0) + self.idle * town.ready[version]

    def pass_by(self, town: Town, seconds: float) -> None:
        objects = self.objects
        for version, one in objects.items():
            self.window[version] = self.window.get(version, 0.0) + self.cores(town, version) * seconds
            starting = self.starting.get(version, [])
            town.ready[version] += sum(at <= town.time for at in starting)
            self.starting[version] = [at for at in starting if at > town.time]
            usable = one.usable or 0.2
            if self.cores(town, version) > 1.5 * usable * town.ready[version]:
                self.overloaded += seconds
        if town.time - self.synced_at < SYNC:
            return
        long = town.time - self.synced_at
        for version, one in objects.items():
            used = self.usage.get(version, (0.0, 0.0))[0]
            wanted = max(one.minimum, min(ceil(used / (one.usable or 1e9)), one.maximum or 0))
            self._resize(town, version, wanted)
            self.usage[version] = (self.window[version] / long, self.synced_at)
        self.window, self.synced_at = {}, town.time

    def _resize(self, town: Town, version: str, wanted: int) -> None:
        starting = self.starting.setdefault(version, [])
        there = town.ready[version] + len(starting)
        if wanted < there:
            del starting[max(0, wanted - town.ready[version]) :]
            town.ready[version] = min(town.ready[version], wanted)
        others = sum(town.ready.values()) + sum(map(len, self.starting.values())) - there
        room = wanted if self.quota is None else min(wanted, self.quota - others)
        starting += [town.time + self.start_seconds] * (room - there)

    def obstacle(self, town: Town) -> str:
        full = self.quota is not None and sum(town.ready.values()) >= self.quota
        return f"exceeded quota: pods={self.quota}" if full else ""


class Place(Town, Protocol):
    """A town with its autoscalers."""

    scaling: Scaling


class Keeping:
    """Reads and sets floors for one run, with its faults."""

    def __init__(
        self, town: Place, reach: Callable[[], None], writing: Callable[[], AbstractContextManager[bool]]
    ) -> None:
        self._town, self._reach, self._writing = town, reach, writing

    def read(self, versions: Sequence[str], workloads: bool) -> Mapping[str, Supply]:
        self._reach()
        town, scaling = self._town, self._town.scaling
        if not (scaling.may and scaling.objects):
            return {}
        found = {}
        for version in versions:
            used, since = scaling.usage.get(version, (None, 0.0)) if scaling.measured else (None, 0.0)
            workload = scaling.workloads.get(version) if workloads else None
            found[version] = Supply(
                town.ready[version],
                tuple(_scaler(one) for one in scaling.autoscalers.get(version, ())),
                _scaler(workload) if workload else None,
                used,
                since,
                scaling.measured,
                scaling.obstacle(town),
            )
        return found

    def find(self, floor: Floor) -> Scaler | None:
        self._reach()
        return next((_scaler(o) for o in self._objects() if (o.kind, o.name) == (floor.kind, floor.name)), None)

    def set(self, scaler: Scaler, value: int) -> None:
        one = next(o for o in self._objects() if (o.kind, o.name) == (scaler.kind, scaler.name))
        with self._writing() as disturbed:
            one.version += disturbed
            if self._town.scaling.refuses:
                raise ReleaseError(self._town.scaling.refuses)
            if scaler.token != one.version:
                raise Conflict("the autoscaler has been modified")
            assert not one.keeper
            one.put(value, "progressive.istio")
            self._town.scaling.sets.append((one.name, value))

    def _objects(self) -> list[Object]:
        scaling = self._town.scaling
        return [*scaling.workloads.values(), *(one for all_ in scaling.autoscalers.values() for one in all_)]


def _scaler(one: Object) -> Scaler:
    usable = one.usable if one.kind == AUTOSCALER else None
    why = "" if usable else f"{one.kind} {one.name} does not scale by CPU"
    return Scaler(one.kind, one.name, one.minimum, one.maximum, usable, why, one.keeper, one.manager, one.version)
