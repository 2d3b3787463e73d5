# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The capacity floors of one release: raised before a weight, looked at again, given back at the end. Private.

No Kubernetes in here. A floor stands in the record before it is set, so a run that is killed in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ansible_collections.progressive.istio.plugins.module_utils import _floors
from ansible_collections.progressive.istio.plugins.module_utils._floors import (
    AUTOSCALER,
    Floor,
    Need,
    Scaler,
    Share,
    Supply,
)
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError, Want, taken_over
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Orphaned, Stopped, World
from ansible_collections.progressive.istio.plugins.module_utils._record import PROMOTED, Record, Step
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes

MEASURE_SECONDS = 60.0  # after a weight; metrics-server needs two looks at a pod, 15 s apart by default
QUICK_SECONDS = 30.0  # a step that may be shorter than this is not kept waiting for that
SYNC_SECONDS = 15.0  # between two looks of an autoscaler
PATIENCE_SECONDS = 10.0
SETTLE_SECONDS = 120.0  # for a version to be measured with all traffic, before its floor is given back all the same


@dataclass(frozen=True, slots=True)
class Short:
    """Why a weight cannot be set yet. since: seconds. ``final``: waiting does not help."""

    text: str
    since: float
    final: bool = False
    lowered: bool = False  # somebody else has taken a floor away
    measuring: bool = False

    def too_late(self, want: Want, now: float) -> bool:
        """Whether it was waited for long enough."""
        return self.final or (not self.measuring and now - self.since > want.floors_timeout)


@dataclass(frozen=True, slots=True)
class Room:
    """Whether there are pods for the next weight, and the record with the floors that are to be set for it."""

    record: Record
    short: Short | None = None


def share_of(step: Step) -> int:
    """Percent of the requests that reach the canary in a step: mirrored ones cost it as much as others."""
    return min(step.weight + step.mirror, 100)


class Raising:
    """Keeps the floors of one run's release; ``say`` gets one line for every event."""

    def __init__(self, world: World, want: Want, say: Callable[[str], None], writes: Writes) -> None:
        self.world, self.want, self.say, self.writes = world, want, say, writes
        self._set: set[Floor] = set()  # by this run, or seen to be
        self._told: set[str] = set()
        self._needs: dict[int, tuple[Need, float]] = {}  # by step, and since when
        self._forgiven = False  # retry sets a floor once more that somebody has taken away

    # ---------------------------------------------------------------- before a weight

    def begin(self, record: Record, adopted: bool) -> Record:
        """The record of a release that may begin, with its first floors. Raises ReleaseError where it may not.

        It has not ``begun`` where pods for its first weight are still to come.
        """
        supplies = self._read(record)
        if not supplies:
            return record
        stable, canary = supplies[record.stable.name], supplies[record.canary.name]
        now, floors = self.world.now(), record.floors
        for name, supply in ((record.stable.name, stable), (record.canary.name, canary)):
            if double := _double(supply):
                raise ReleaseError(f"{name} is scaled by {double}: they contradict each other; delete all but one")
        if (mine := self._scaler(stable)) and mine.kind == AUTOSCALER and self._may(mine, record.stable.name):
            size = min(stable.ready, mine.maximum or stable.ready)
            floor = _floors.raised(_floors.of(floors, record.stable.name), mine, record.stable.name, size, now)
            floors = _floors.put(floors, floor)
            if floor.pending:
                self._say_once(f"floor  {floor.where} {mine.minimum} -> {floor.value}, until the release is over")
        scaler = self._scaler(canary)
        if scaler and scaler.kind == AUTOSCALER and not scaler.keeper:
            idle = 0.0 if adopted else _floors.idle_of(canary)
            known = _floors.of(floors, record.canary.name)
            floor = _floors.raised(known, scaler, record.canary.name, scaler.minimum, now, idle)
            floors = _floors.put(floors, floor)
        room = self._room(replace(record, floors=floors, begun=False), supplies)
        self._foresee(room.record, supplies)
        if room.short and (room.short.final or adopted):
            raise ReleaseError(f"{room.short.text}; nothing was written")
        return replace(room.record, begun=room.short is None)

    def room(self, record: Record) -> Room:
        """Whether there are pods for the next weight of a release: the first one, where that has not begun."""
        supplies = self._read(record)
        return self._room(record, supplies) if supplies else Room(record)

    def _room(self, record: Record, supplies: Mapping[str, Supply]) -> Room:
        now, canary = self.world.now(), supplies[record.canary.name]
        if text := self._lowered(record, supplies):
            if not self.want.retry or self._forgiven:
                return Room(record, Short(text, now, final=True, lowered=True))
            self._forgiven = True
            return Room(self._again(record, supplies), Short(f"{text}; set again, by retry", now))
        if double := _double(canary):
            text = f"{record.canary.name} is scaled by {double}: they contradict each other; delete all but one"
            return Room(record, Short(text, now, final=True))
        record = replace(record, floors=_floors.seen(record.floors, supplies))
        scaler = self._scaler(canary)
        if scaler is None:
            return Room(record)
        found = self._need(record, supplies, scaler, now)
        if found is None:
            text = f"what {record.canary.name} takes at {record.present.title} is not measured yet"
            return Room(record, Short(text, now, measuring=True))
        need, since = found
        step = _next_step(record)
        what = f"{record.canary.name} needs {_pods(need.pods)} for {step.title} ({need.why})"
        if scaler.maximum is not None and need.pods > scaler.maximum:
            text = f"{what}, and {scaler.kind} {scaler.name} allows {scaler.maximum} (maxReplicas): raise that"
            return Room(record, Short(text, since, final=True))
        if need.pods > scaler.minimum and self._may(scaler, record.canary.name, need.pods):
            known = _floors.of(record.floors, record.canary.name)
            if not (known and known.pending and known.value >= need.pods):
                floor = _floors.raised(known, scaler, record.canary.name, need.pods, now)
                record = replace(record, floors=_floors.put(record.floors, floor))
                self._say_once(f"floor  {floor.where} {scaler.minimum} -> {floor.value}: {what}")
        if canary.ready < need.pods:
            obstacle = f": {canary.obstacle}" if canary.obstacle else ""
            return Room(record, Short(f"{what}, {canary.ready} are ready{obstacle}", since))
        return Room(record)

    def _need(
        self, record: Record, supplies: Mapping[str, Supply], scaler: Scaler, now: float
    ) -> tuple[Need, float] | None:
        """Decided once for a step: what is measured while pods are started for it would move the mark."""
        key = record.step if record.begun else -1
        if key not in self._needs:
            share = Share(share_of(record.present) if record.begun else 0, share_of(_next_step(record)), record.since)
            floor, stable = _floors.of(record.floors, record.canary.name), supplies[record.stable.name]
            held = _floors.of(record.floors, record.stable.name)
            size = max(stable.ready, held.value if held else 0)
            late = now - record.since > MEASURE_SECONDS or record.present.min_seconds < QUICK_SECONDS
            canary, idle = supplies[record.canary.name], floor.idle if floor else 0.0
            need = _floors.need(canary, stable, scaler, share, size, idle, late)
            if need is None:
                return None
            since = floor.at if floor and floor.ours and floor.value >= need.pods else now
            self._needs[key] = (need, since)
        return self._needs[key]

    def _foresee(self, record: Record, supplies: Mapping[str, Supply]) -> None:
        """What later steps would need, by what is known before the first one, where it is more than may be."""
        for text in self.foreseen(record, supplies)[1]:
            self.say(f"WARNING  {text}")

    def foreseen(self, record: Record, supplies: Mapping[str, Supply]) -> tuple[list[tuple[Step, Need]], list[str]]:
        """Of a release that has not begun: what each step needs, and in words where that is more than is allowed."""
        scaler = self._scaler(supplies[record.canary.name])
        if scaler is None:
            return [], []
        stable, canary = supplies[record.stable.name], supplies[record.canary.name]
        held = _floors.of(record.floors, record.stable.name)
        size, told, warnings = max(stable.ready, held.value if held else 0), [], []
        for step in record.steps[record.step :]:
            need = _floors.need(canary, stable, scaler, Share(0, share_of(step), 0.0), size, _idle(record), late=True)
            if need:
                told.append((step, need))
        for step, need in told[1:]:
            if scaler.maximum is not None and need.pods > scaler.maximum:
                warnings.append(
                    f"{record.canary.name} would need {_pods(need.pods)} for {step.title} ({need.why}), and "
                    f"{scaler.kind} {scaler.name} allows {scaler.maximum} (maxReplicas)"
                )
                break
        return told, warnings

    def planned(self, record: Record) -> list[str]:
        """For a plan: what each step needs, a line each."""
        supplies = self._read(record)
        told = self.foreseen(record, supplies)[0] if supplies else []
        return [
            f"floor  {step.title}: {record.canary.name} needs {_pods(need.pods)} ({need.why})" for step, need in told
        ]

    # ---------------------------------------------------------------- setting

    def apply(self, record: Record) -> None:
        """Set what the record says and nobody has seen set yet."""
        for floor in record.floors:
            if floor.pending and floor not in self._set:
                self._put(record, floor, floor.before, floor.value)
                self._set.add(floor)

    def _put(self, record: Record, floor: Floor, before: int, value: int) -> bool:
        """One value in place of another; False where somebody else's is there, or no such object any more.

        A try that fails takes a while. Raises Stopped where the release has gone on or ended without this run.
        """
        tries = self.writes.tries()
        while True:
            if tries.failed and (state := self.writes.observe()).record != record:
                raise Stopped(taken_over(state, record))
            there = self.writes.read(partial(self.world.floors.find, floor))
            if there is None or there.minimum not in (before, value):
                return False
            if there.minimum == value:
                return True
            tries.failed = not self.writes.attempt(tries, floor.where, partial(self.world.floors.set, there, value))

    def restore(self, record: Record, moved: float, lagging: bool = False) -> Record:
        """Give back what is still ours, after the end; the record without it.

        moved: when the version that has all traffic now got it. ``lagging``: proxies still send to the other one.
        """
        mine = [floor for floor in record.floors if floor.ours]
        if not mine:
            return record
        held = self.writes.renewed is not None
        if not held and (holder := self._wait_for_lease()):
            self.say(f"floors: left to {holder}, who is at this release; otherwise the next run gives them back")
            return record
        try:
            return self._restore(record, mine, moved, lagging)
        finally:
            if not held and self.world.alive():
                self.writes.give_back()

    def _wait_for_lease(self) -> str:
        """Who has it for longer than a run takes that has noticed its end; empty: this run has it now.

        Two runs that give floors back would take away those of the next release.
        """
        until = self.world.now() + PATIENCE_SECONDS
        while holder := self.writes.read(self.world.acquire):
            if self.world.now() >= until:
                return holder
            self.world.sleep(self.want.interval)
        self.writes.renewed = self.world.now()
        return ""

    def _restore(self, record: Record, mine: Sequence[Floor], moved: float, lagging: bool) -> Record:
        said, kept = list[str](), tuple[Floor, ...]()
        winner = record.canary.name if record.phase == PROMOTED else record.stable.name
        for floor in sorted(mine, key=lambda floor: floor.version == winner):
            used = floor.version == winner
            if floor.kind != AUTOSCALER and used:
                said.append(f"{floor.where} stays at {floor.value}: {floor.version} has all traffic")
            elif floor.kind != AUTOSCALER and lagging:
                kept = (*kept, floor)  # the next run that comes by gives it back
            else:
                if used:
                    self._settle(record, floor, moved)
                text, done = self._give_back(record, floor)
                said.append(text)
                kept = kept if done else (*kept, floor)
        left = replace(record, floors=kept)
        if left != record:
            self.writes.write(left, expect=record, move=False)
        if said:
            self.say(f"floors: {'; '.join(said)}")
        return left

    def _settle(self, record: Record, floor: Floor, moved: float) -> None:
        """Its autoscaler has to see the traffic first: by what it knows of a minute ago, it would shrink it now."""
        seen_at: float | None = None
        told = False
        while (now := self.world.now()) < moved + SETTLE_SECONDS:
            supply = self._read(record).get(floor.version)
            if supply is None or (not supply.measured and now >= moved + MEASURE_SECONDS):
                return
            if seen_at is None and supply.used is not None and supply.since >= moved:
                seen_at = now
            if seen_at is not None and now >= seen_at + SYNC_SECONDS:
                return
            if not told:
                self.say(f"floors: {floor.where} stays until its autoscaler has seen the traffic")
                told = True
            if not self.world.alive():
                raise Orphaned
            self.writes.keep_lease()
            self.world.sleep(self.want.interval)

    def _give_back(self, record: Record, floor: Floor) -> tuple[str, bool]:
        """What became of it, in words, and whether nothing is left to do."""
        try:
            there = self.writes.read(partial(self.world.floors.find, floor))
            if there is None:
                return f"{floor.kind} {floor.name} is gone", True
            if there.minimum not in (floor.original, floor.before, floor.value):
                return f"{floor.where} is {there.minimum}, not {floor.value} as set here: left to {there.manager}", True
            done = self._put(record, floor, there.minimum, floor.original)
        except ReleaseError as error:
            return f"{floor.where} was {floor.original} before and could not be given back: {error}", False
        return f"{floor.where} is {floor.original} again" if done else f"{floor.where} has changed: left alone", True

    # ---------------------------------------------------------------- looking

    def taken_away(self, record: Record) -> str:
        """What to say where somebody else has lowered a floor of this release."""
        if not any(floor.ours for floor in record.floors):
            return ""
        return self._lowered(record, self._read(record))

    def _lowered(self, record: Record, supplies: Mapping[str, Supply]) -> str:
        known = [floor for floor in record.floors if floor.version in supplies]
        pending = [floor for floor in known if floor.pending and floor not in self._set]
        said = (_floors.lowered(floor, supplies[floor.version]) for floor in known if floor not in pending)
        return "; ".join(filter(None, said))

    def _again(self, record: Record, supplies: Mapping[str, Supply]) -> Record:
        floors = record.floors
        for floor in record.floors:
            scaler = self._scaler(supplies[floor.version])
            if scaler and _floors.lowered(floor, supplies[floor.version]):
                new = _floors.raised(None, scaler, floor.version, floor.value, self.world.now(), floor.idle)
                floors = _floors.put(floors, new)
        return replace(record, floors=floors)

    def _read(self, record: Record) -> Mapping[str, Supply]:
        if self.want.floors == "none":
            return {}
        names = (record.stable.name, record.canary.name)
        found = self.writes.read(partial(self.world.floors.read, names, self.want.floors == "workloads"))
        return found if all(name in found for name in names) else {}

    def _scaler(self, supply: Supply) -> Scaler | None:
        """What decides how many pods it has, as far as this release may."""
        if supply.scalers:
            return supply.scalers[0]
        return supply.workload if self.want.floors == "workloads" else None

    def _may(self, scaler: Scaler, version: str, pods: int = 0) -> bool:
        """Whether its floor may be set; where not, that is said."""
        if scaler.keeper:
            wish = f"raise it there to {pods}" if pods else "nothing keeps it at its size"
            self._say_once(f"floor of {version}: {scaler.kind} {scaler.name} is set by {scaler.keeper}: {wish}")
        return not scaler.keeper

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.say(text)


def _next_step(record: Record) -> Step:
    return record.steps[record.step + record.begun]


def _idle(record: Record) -> float:
    floor = _floors.of(record.floors, record.canary.name)
    return floor.idle if floor else 0.0


def _double(supply: Supply) -> str:
    """Names of its autoscalers, where it has more than one."""
    names = [f"{one.kind} {one.name}" for one in supply.scalers]
    return " and ".join(names) if len(names) > 1 else ""


def _pods(number: int) -> str:
    return f"{number} pod{'s' if number > 1 else ''}"
