# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From weight to weight: what has to be there before one is set, and the write that sets it. Private.

No Kubernetes in here. When one of these is due is decided in ``_release.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from ansible_collections.progressive.istio.plugins.module_utils._ending import CONFIRM_SECONDS, Ending
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Outcome,
    ReleaseError,
    State,
    Want,
    drift,
    newer_canary,
    plan_of,
    strayed,
    taken_over,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Drifted, Stopped, World
from ansible_collections.progressive.istio.plugins.module_utils._raising import Raising, Room, Short
from ansible_collections.progressive.istio.plugins.module_utils._record import ENVIRONMENT, PROGRESSING, Record
from ansible_collections.progressive.istio.plugins.module_utils._watch import FULL, Watch
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes


def no_endpoint(version: str, missing: Sequence[str]) -> str:
    """In words: these proxies have none of a version."""
    return f"no healthy endpoint of {version} in {len(missing)} proxies: {'; '.join(missing[:5])}"


class Steps:
    """Moves one run's release on; ``say`` gets one line for every event."""

    def __init__(
        self,
        world: World,
        want: Want,
        say: Callable[[str], None],
        watch: Watch,
        writes: Writes,
        floors: Raising,
        ending: Ending,
    ) -> None:
        self.world, self.want, self.say, self.watch, self.writes = world, want, say, watch, writes
        self.floors, self.ending = floors, ending

    def start(self, record: Record, state: State) -> Record:
        record = record.at(record.step, self.world.now())
        self.say(f"{record.stable.name} -> {record.canary.name}  release {record.id}  {plan_of(record)}")
        # Whole seconds: pods are dated so, and one that was made in this second has all its counts ahead of it.
        self.watch.begin(record, float(int(record.since)))
        if record.begun:
            return self._begin(record, state.record)
        self.writes.write(record, expect=state.record, move=False)
        return record

    def open(self, record: Record, deadline: float) -> Record | Outcome:
        """Wait for pods before the first weight, and set it. Nothing is to be judged meanwhile."""
        while True:
            state = self.writes.observe()
            if state.record != record:
                raise Stopped(taken_over(state, record))
            if drifted := drift(state, record):
                return self.ending.hold(record, drifted)
            if newer := newer_canary(record, state):
                return self.ending.abort(record, newer)
            self.floors.apply(record)
            room, now = self.floors.room(record), self.world.now()
            if room.short and room.record != record:
                self.writes.write(room.record, expect=record, move=False)
                record = room.record
                continue
            if room.short and self._too_late(room.short, now):
                text = f"{ENVIRONMENT}{room.short.text}"
                if room.short.lowered or self.want.on_inconclusive != "promote":
                    return self.ending.abort(record, f"{text}; the first weight was not set")
                self.say(f"step {record.place}  OVERRIDE  on_inconclusive: promote  {text}")
                room = replace(room, short=None)
            if not room.short:
                begun = replace(room.record, begun=True).at(record.step, now)
                self.watch.begin(begun, float(int(now)))
                return self._begin(begun, record)
            self.writes.now_and_then(f"step {record.place}  WAIT  {room.short.text}")
            self.writes.keep_lease()
            if now >= deadline:
                return self.ending.outcome(record.phase, room.short.text, finished=False, record=record)
            self.world.sleep(self.want.interval)

    def _begin(self, record: Record, before: Record | None) -> Record:
        """Set the first weight."""
        self.await_endpoints(record.canary.name)
        if record.weight == FULL:
            self.watch.baseline(record)
        self.watch.save(force=True)
        self.writes.write(record, expect=before)
        state = self.writes.observe()
        if not strayed(state, record, arrived=False):
            state = self.writes.follow(record, state)  # the command below is for objects that all of it is in
        self.say(f"to stop it by hand: {self.world.by_hand(state, record)}")
        self.watch.panel.begin_step(record.step, record.present.judged)
        return record

    def await_endpoints(self, version: str) -> None:
        """No weight for a version that a client's proxy would answer with 503 because it has no endpoint of it yet."""
        began = self.world.now()
        while missing := self.world.without_endpoint(version):
            if self.world.now() - began > self.want.verify_timeout:
                raise ReleaseError(
                    f"{no_endpoint(version, missing)}; for {self.want.verify_timeout:.0f} s. "
                    "Look at its readiness probe, and at 'istioctl proxy-status'"
                )
            self.world.sleep(CONFIRM_SECONDS)

    def goes_on(self, record: Record) -> bool:
        """Whether a step that has passed is followed by another weight at once."""
        steps, stop = len(record.steps), self.want.until_step
        return not record.pause and record.step + 1 < steps and (stop is None or record.step + 1 < stop)

    def _too_late(self, short: Short, now: float) -> bool:
        return short.final or (not short.measuring and now - short.since > self.want.floors_timeout)

    def make_room(self, record: Record, room: Room, short: Short, now: float) -> Record | Outcome | None:
        """There are not enough pods for the next weight: have them started, wait for them, or give up."""
        if room.record != record:
            with contextlib.suppress(Drifted):
                self.writes.write(room.record, expect=record, move=False)
                return room.record
            return record
        if not self._too_late(short, now):
            self.writes.now_and_then(f"step {record.place}  WAIT  {short.text}")
            return None
        if short.lowered or self.want.on_inconclusive == "hold":
            return self.ending.hold(record, short.text)
        if self.want.on_inconclusive == "abort":
            return self.ending.abort(record, f"{ENVIRONMENT}{short.text}")
        self.say(f"step {record.place}  OVERRIDE  on_inconclusive: promote  {short.text}")
        return self.next(record, room)

    def over(self, record: Record) -> Outcome | None:
        """What ends with a step that is done: the release, or this run; nothing if the next step follows."""
        steps, stop = len(record.steps), self.want.until_step
        if stop is not None and stop <= steps and record.step + 1 >= stop:
            self.watch.save(force=True)
            return self.ending.outcome(PROGRESSING, f"waits after step {record.place}", record=record)
        return self.ending.promote(record) if record.step + 1 == steps else None

    def next(self, record: Record, room: Room) -> Record:
        """The record at the next step; or at this one, where somebody has to approve the next."""
        if record.pause:
            return self.ending.wait(record)
        self.watch.save(force=True)
        following = room.record.at(record.step + 1, self.world.now())
        self.writes.write(following, expect=record)
        self.watch.tidy()
        self.watch.panel.begin_step(following.step, following.present.judged)
        return following
