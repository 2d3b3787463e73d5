# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run whose release cannot begin yet, or only in the place of another one. Private to this collection.

No Kubernetes in here. Which of these is due is decided in ``_admit.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeGuard

from ansible_collections.progressive.istio.plugins.module_utils._admit import admit
from ansible_collections.progressive.istio.plugins.module_utils._begin import Beginning
from ansible_collections.progressive.istio.plugins.module_utils._ending import Ending
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Await,
    Decision,
    Done,
    Outcome,
    Refuse,
    Start,
    State,
    Want,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Drifted, Stopped, World
from ansible_collections.progressive.istio.plugins.module_utils._raising import Raising
from ansible_collections.progressive.istio.plugins.module_utils._record import ABORTED, SUPERSEDED, Record
from ansible_collections.progressive.istio.plugins.module_utils._watch import Watch
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes

QUEUED = "queued"  # phase of a run that waits until its release may begin
PATIENCE_SECONDS = 40.0  # a run that has to stop gives its lease back, or has died, and the lease runs out


def in_its_place(world: World, state: State, want: Want, record: Record) -> tuple[Record, State, Decision]:
    """The release on record as it would be taken back, what would be there then, and whether another could begin."""
    reason = f"{SUPERSEDED}{want.canary} (asked for by {world.identity()})"
    over = record.ended(ABORTED, world.now(), reason)
    after = world.after(state, over)
    return over, after, admit(want, after)


def left_alone(then: Decision, record: Record) -> str:
    """Why another version does not take the place of the release on record."""
    why = then.text if isinstance(then, (Refuse, Done)) else "the other version has weight already"
    return f"{why}; release {record.id} of {record.canary.name} is left alone"


class Turns:
    """Whose turn it is; ``say`` gets one line for every event."""

    def __init__(
        self, world: World, want: Want, say: Callable[[str], None], writes: Writes, told: bool, elapsed: float
    ) -> None:
        """``told``: an earlier pass has said that it waits; ``elapsed``: seconds since the first one began."""
        self.world, self.want, self.say, self.writes, self.told = world, want, say, writes, told
        self.elapsed = elapsed - world.now()
        self.patient = world.now() + PATIENCE_SECONDS if want.on_newer == "queue" else 0.0  # for another run's lease

    def _ending(self) -> Ending:
        given = (self.world, self.want, self.say)
        return Ending(*given, Watch(*given), self.writes, Raising(*given, self.writes))

    def leased(self, state: State) -> bool:
        """Whether this run has the lease now; False when things may have changed since they were read.

        Raises Stopped where another run has it, at once or, when that one is about to end, after a while.
        """
        waited = False
        while holder := self.world.acquire():
            if self.world.now() >= self.patient:
                raise Stopped(f"this release is being run by {holder}; wait for it, or end that run first")
            waited = True
            self.world.sleep(self.want.interval)
            if self.writes.observe().record != state.record:
                return False
        return not waited

    def wait(self, decision: Await, state: State, deadline: float) -> Outcome | None:
        """Let some time pass, and give way to others meanwhile."""
        now = self.world.now()
        if self.writes.renewed is not None:
            self.writes.give_back()
        weight = state.weight_of(self.want.canary)
        if self.elapsed + now >= self.want.queue_timeout:
            text = f"{decision.text}; waited {self.want.queue_timeout:.0f} s for it (queue_timeout)"
            return self._ending().outcome("refused", text, failed=True, weight=weight)
        self.writes.now_and_then(f"QUEUED  {decision.text}", force=not self.told)
        self.told = True
        if now >= deadline:
            return self._ending().outcome(QUEUED, decision.text, finished=False, weight=weight)
        self.patient = now + PATIENCE_SECONDS
        self.world.sleep(self.want.interval)
        return None

    def supersede(self, record: Record, state: State) -> Outcome | None:
        """Take the release on record back for another version, if that one could begin then; else nothing is done."""
        over, after, then = in_its_place(self.world, state, self.want, record)
        if not isinstance(then, Start):
            weight = state.weight_of(self.want.canary)
            return self._ending().outcome("refused", left_alone(then, record), failed=True, weight=weight)
        ending = self._ending()
        given = (self.world, self.want, self.say, ending.watch, self.writes)
        beginning = Beginning(*given, ending.floors, ending)
        beginning.prepare(self.want, then, after)
        beginning.await_endpoints(self.want.canary)
        ending.watch.load(record)
        try:
            outcome = ending.abort(record, over.reason, asked_for=True, force=False)
        except Drifted:
            raise
        except Stopped:  # it has gone on, or is over by now
            return None
        if outcome.phase != ABORTED:
            return replace(outcome, failed=True)
        return self.gone(outcome)

    def gone(self, outcome: Outcome) -> Outcome | None:
        """None when no proxy sends anything to the version that was taken back any more, and the next one may come."""
        if late := self._ending().programmed().lagging:
            text = f"{outcome.text}; the next release does not begin, still with the old weight: {'; '.join(late[:5])}"
            return replace(outcome, text=text, failed=True)
        self.patient = self.world.now() + PATIENCE_SECONDS
        return None

    def made_room(self, outcome: Outcome | None) -> TypeGuard[Outcome]:
        """Whether a newer pod template is to be released by the same run."""
        wanted = self.want.state == "promoted" and self.want.on_newer == "supersede"
        return bool(wanted and outcome and outcome.phase == ABORTED and outcome.record and outcome.record.made_room)

    def lost(self, begun: str, state: State) -> Outcome | None:
        """What to say of a release that an earlier pass was at, when there is another one now, or none for this run.

        Raises Stopped where it is another release.
        """
        record = state.record
        if record is None:
            raise Stopped(
                f"drift: the record of release {begun} is gone from {state.where}, last writer {state.manager}; "
                "the weights are as they were"
            )
        if record.id != begun:
            raise Stopped(
                f"release {begun} is over: release {record.id} of {record.canary.name} is on {state.where} now"
            )
        if record.summary().superseded and not (record.made_room and self.want.on_newer == "supersede"):
            text = f"{record.canary.name} was taken back: {record.reason}"
            return self._ending().outcome(ABORTED, text, failed=True, record=record)
        return None
