# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From weight to weight: what has to be there before one is set, and the write that sets it. Private.

No Kubernetes in here. When one of these is due is decided in ``_release.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ansible_collections.progressive.istio.plugins.module_utils._ending import Ending
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Outcome,
    Want,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Drifted, World
from ansible_collections.progressive.istio.plugins.module_utils._raising import Raising, Room, Short
from ansible_collections.progressive.istio.plugins.module_utils._record import ENVIRONMENT, PROGRESSING, Record
from ansible_collections.progressive.istio.plugins.module_utils._watch import Watch
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes


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

    def goes_on(self, record: Record) -> bool:
        """Whether a step that has passed is followed by another weight at once."""
        steps, stop = len(record.steps), self.want.until_step
        return not record.pause and record.step + 1 < steps and (stop is None or record.step + 1 < stop)

    def make_room(self, record: Record, room: Room, short: Short, now: float) -> Record | Outcome | None:
        """There are not enough pods for the next weight: have them started, wait for them, or give up."""
        if room.record != record:
            with contextlib.suppress(Drifted):
                self.writes.write(room.record, expect=record, move=False)
                return room.record
            return record
        if not short.too_late(self.want, now):
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
            return self.ending.outcome(PROGRESSING, f"waits after step {record.place}", record=record)
        return self.ending.promote(record) if record.step + 1 == steps else None

    def next(self, record: Record, room: Room) -> Record:
        """The record at the next step; or at this one, where somebody has to approve the next."""
        if record.pause:
            return self.ending.wait(record)
        following = room.record.at(record.step + 1, self.world.now())
        self.writes.write(following, expect=record)
        self.world.events.tell("CanaryStep", f"step {following.place}, after a pass at {record.present.title}")
        self.watch.tidy()
        self.watch.panel.begin_step(following.step, following.present.judged)
        return following
