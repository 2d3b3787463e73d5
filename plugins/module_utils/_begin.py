# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a release begins: what keeps it from that, its record, and its first weight. Private to this collection.

No Kubernetes in here. Whether one may begin is decided in ``_admit.py``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from ansible_collections.progressive.istio.plugins.module_utils._admit import admit
from ansible_collections.progressive.istio.plugins.module_utils._checks import about
from ansible_collections.progressive.istio.plugins.module_utils._ending import CONFIRM_SECONDS, Ending
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Adopt,
    Outcome,
    ReleaseError,
    Start,
    State,
    Want,
    drift,
    least_seconds,
    newer_canary,
    plan_of,
    require_clients,
    strayed,
    taken_over,
)
from ansible_collections.progressive.istio.plugins.module_utils._preflight import settle
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Stopped, World
from ansible_collections.progressive.istio.plugins.module_utils._raising import Raising
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ENVIRONMENT,
    PROGRESSING,
    Record,
    Step,
)
from ansible_collections.progressive.istio.plugins.module_utils._watch import FULL, Watch
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes


def no_endpoint(version: str, missing: Sequence[str]) -> str:
    """In words: these proxies have none of a version."""
    return f"no healthy endpoint of {version} in {len(missing)} proxies: {'; '.join(missing[:5])}"


def _planned(want: Want, decision: Start | Adopt) -> tuple[tuple[Step, ...], int]:
    """The steps of a release that may begin, and which is its first one."""
    return (decision.steps, decision.first) if isinstance(decision, Adopt) else (want.steps, 0)


def not_now(want: Want, decision: Start | Adopt, now: float) -> str:
    """Why its time has not come, in words; empty when it has."""
    steps, first = _planned(want, decision)
    closed = want.calendar.too_long(now, least_seconds(steps[first:]))
    return f"{decision.canary.name} is not released now: {closed}" if closed else ""


def first_record(name: str, want: Want, decision: Start | Adopt, state: State, by: str, now: float) -> Record:
    """The record of a release that may begin. ``name``: its identifier; ``by``: whoever begins it."""
    steps, first = _planned(want, decision)
    return Record(
        name,
        state.uid,
        decision.stable,
        decision.canary,
        steps,
        first,
        PROGRESSING,
        now,
        now,
        by,
        others=tuple(other.key for other in state.others),
        audience=want.audience,
        observe=want.observe,
        previous=state.record.history() if state.record else (),
        floors=state.record.floors if state.record else (),  # that could not be given back yet
    )


class Beginning:
    """The beginning of one run's release; ``say`` gets one line for every event."""

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

    def prepare(self, want: Want, decision: Start | Adopt, state: State) -> Record:
        """The record of a release that may begin. Raises ReleaseError for what keeps it from that."""
        if closed := not_now(want, decision, self.world.now()):
            raise ReleaseError(closed)
        look = self.world.look()
        require_clients(state, look)
        settle(self.world.preflight(state, look), want.preflight == "enforce", self.say)
        record = first_record(secrets.token_hex(4), want, decision, state, self.world.identity(), self.world.now())
        self.world.rehearse(state, record)
        self.world.checks.rehearse(want.checks, about(record))
        self.world.counters.rehearse(want.counters, (record.canary.name, record.stable.name))
        return self.floors.begin(record, isinstance(decision, Adopt))

    def start(self, want: Want, record: Record, state: State) -> Record:
        """Its record, with the first weight unless pods for that are still to come."""
        record = record.at(record.step, self.world.now())
        self.say(f"{record.stable.name} -> {record.canary.name}  release {record.id}  {plan_of(record)}")
        # Whole seconds: pods are dated so, and one that was made in this second has all its counts ahead of it.
        self.watch.begin(record, float(int(record.since)))
        if record.begun:
            return self._begin(want, record, state.record)
        self.writes.write(record, expect=state.record, move=False)
        return record

    def open(self, want: Want, record: Record, deadline: float) -> Record | Outcome:
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
            closed = "" if room.short else want.calendar.closed(now)
            if room.short and room.record != record:
                self.writes.write(room.record, expect=record, move=False)
                record = room.record
                continue
            if room.short and room.short.too_late(self.want, now):
                text = f"{ENVIRONMENT}{room.short.text}"
                if room.short.lowered or self.want.on_inconclusive != "promote":
                    return self.ending.abort(record, f"{text}; the first weight was not set")
                self.say(f"step {record.place}  OVERRIDE  on_inconclusive: promote  {text}")
                room = replace(room, short=None)
            if not (room.short or closed):
                begun = replace(room.record, begun=True).at(record.step, now)
                self.watch.begin(begun, float(int(now)))
                return self._begin(want, begun, record)
            why = room.short.text if room.short else closed
            self.writes.now_and_then(f"step {record.place}  WAIT  {why}")
            self.writes.keep_lease()
            if now >= deadline:
                return self.ending.outcome(record.phase, why, finished=False, record=record)
            self.world.sleep(self.want.interval)

    def _begin(self, want: Want, record: Record, before: Record | None) -> Record:
        """Set the first weight, if the version is still fit for it."""
        if record.weight == FULL:
            self.watch.baseline(record)
        self.await_endpoints(record.canary.name)
        self._still_fit(want, record)
        self.watch.save(force=True)
        self.writes.write(record, expect=before)
        state = self.writes.observe()
        if not strayed(state, record, arrived=False):
            state = self.writes.follow(record, state)  # the command below is for objects that all of it is in
        text = f"{record.stable.name} -> {record.canary.name}, release {record.id} by {record.by}, {plan_of(record)}"
        self.world.events.tell("CanaryStarted", text)
        self.say(f"to stop it by hand: {self.world.by_hand(state, record)}")
        self.watch.panel.begin_step(record.step, record.present.judged)
        return record

    def _still_fit(self, want: Want, record: Record) -> None:
        """Its first look takes a while. Raises ReleaseError for a version that has gone, or changed, meanwhile."""
        state = self.writes.observe()
        admit(want, state)
        if newer := newer_canary(record, state):
            raise ReleaseError(f"{newer}; run it again")

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
