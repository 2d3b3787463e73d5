# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a release begins: what keeps it from that, its record, and its first weight. Private to this collection.

No Kubernetes in here. Whether one may begin is decided in ``_admit.py``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from ansible_collections.progressive.istio.plugins.module_utils._admit import admit
from ansible_collections.progressive.istio.plugins.module_utils._checks import about
from ansible_collections.progressive.istio.plugins.module_utils._ending import CONFIRM_SECONDS
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Adopt,
    ReleaseError,
    Start,
    State,
    Want,
    least_seconds,
    newer_canary,
    plan_of,
    require_clients,
    strayed,
)
from ansible_collections.progressive.istio.plugins.module_utils._preflight import settle
from ansible_collections.progressive.istio.plugins.module_utils._protocol import World
from ansible_collections.progressive.istio.plugins.module_utils._record import PROGRESSING, Record
from ansible_collections.progressive.istio.plugins.module_utils._watch import FULL, Watch
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes


def no_endpoint(version: str, missing: Sequence[str]) -> str:
    """In words: these proxies have none of a version."""
    return f"no healthy endpoint of {version} in {len(missing)} proxies: {'; '.join(missing[:5])}"


class Beginning:
    """The beginning of one run's release; ``say`` gets one line for every event."""

    def __init__(self, world: World, want: Want, say: Callable[[str], None], watch: Watch, writes: Writes) -> None:
        self.world, self.want, self.say, self.watch, self.writes = world, want, say, watch, writes

    def prepare(self, want: Want, decision: Start | Adopt, state: State) -> Record:
        """The record of a release that may begin. Raises ReleaseError for what keeps it from that."""
        first = decision.first if isinstance(decision, Adopt) else 0
        if closed := want.calendar.too_long(self.world.now(), least_seconds(want.steps[first:])):
            raise ReleaseError(f"{decision.canary.name} is not released now: {closed}")
        look = self.world.look()
        require_clients(state, look)
        settle(self.world.preflight(state, look), want.preflight == "enforce", self.say)
        record = self._record_for(want, decision, state)
        self.world.rehearse(state, record)
        self.world.checks.rehearse(want.checks, about(record))
        self.world.counters.rehearse(want.counters, (record.canary.name, record.stable.name))
        return record

    def _record_for(self, want: Want, decision: Start | Adopt, state: State) -> Record:
        now = self.world.now()
        steps, first = (decision.steps, decision.first) if isinstance(decision, Adopt) else (want.steps, 0)
        return Record(
            secrets.token_hex(4),
            state.uid,
            decision.stable,
            decision.canary,
            steps,
            first,
            PROGRESSING,
            now,
            now,
            self.world.identity(),
            others=tuple(other.key for other in state.others),
            audience=want.audience,
            observe=want.observe,
            previous=state.record.history() if state.record else (),
        )

    def start(self, want: Want, record: Record, state: State) -> Record:
        """Its first weight, if it is still fit for it."""
        record = record.at(record.step, self.world.now())
        text = f"{record.stable.name} -> {record.canary.name}  release {record.id}  {plan_of(record)}"
        self.say(text)
        # Whole seconds: pods are dated so, and one that was made in this second has all its counts ahead of it.
        self.watch.begin(record, float(int(record.since)))
        if record.weight == FULL:
            self.watch.baseline(record)
        self.await_endpoints(record.canary.name)
        self._still_fit(want, record)
        self.watch.save(force=True)
        self.writes.write(record, expect=state.record)
        state = self.writes.observe()
        if not strayed(state, record, arrived=False):
            state = self.writes.follow(record, state)  # the command below is for objects that all of it is in
        self.world.events.tell("CanaryStarted", f"{text} by {record.by}")
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
