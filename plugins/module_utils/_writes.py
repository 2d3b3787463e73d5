# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How one run of a release reads and writes the route objects, through all that a cluster does meanwhile.

Private to this collection. Every write is fenced by the record that it expects, so two runs never mix.
"""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    ReleaseError,
    State,
    behind,
    drift,
    taken_over,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import (
    Conflict,
    Drifted,
    Lost,
    Orphaned,
    Stopped,
    Unreachable,
    World,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import HELD, PROGRESSING, Record

RENEW_SECONDS = 5.0  # a third of the lease's duration
SAY_SECONDS = 15.0  # a line of progress at least this often
UNREACHABLE_SECONDS = 120.0  # the API server may be away this long before the run gives up (the release does not)
WRITE_TRIES = 20


class Writes:
    """Reads and writes of one run; ``interval`` seconds between two tries. ``changed`` tells whether any happened."""

    def __init__(self, world: World, interval: float, say: Callable[[str], None]) -> None:
        """``say`` gets one line for every event, at once."""
        self.world, self.interval, self.say = world, interval, say
        self.changed = False
        self.renewed: float | None = None  # when the lease was; a run that takes a release back has none
        self.said = world.now()

    def now_and_then(self, text: str, force: bool = False) -> None:
        """Say a line of progress, if the last one is long enough ago."""
        now = self.world.now()
        if force or now - self.said >= SAY_SECONDS:
            self.said = now
            self.say(text)

    def follow(self, record: Record, state: State) -> State:
        """Bring the other route objects to where the record is; the state after it."""
        tries, began = WRITE_TRIES + len(state.others), self.world.now()
        while late := behind(state, record):
            if state.record != record:
                raise Stopped(taken_over(state, record))
            if not tries:
                raise ReleaseError(f"{late[0].where} could not be written in {WRITE_TRIES} tries; it does not follow")
            if not self.world.alive():
                raise Orphaned
            try:
                self.world.follow(late[0], record)
                self.changed = True
                tries -= 1
            except Lost as error:
                self._bear(error, began)
            except Conflict:
                tries -= 1  # read again, decide again
            state = self.observe()
        return state

    def write(self, record: Record, expect: Record | None, move: bool = True, force: bool = False) -> str:
        """Write the record (and its weights), once, or know that it happened. Returns the drift that was overruled."""
        state, refused, tries, began = self.observe(), "", WRITE_TRIES, self.world.now()
        while tries:
            if state.record == record:
                self.changed = True  # the answer to an earlier try was lost; the write was not
                return ""
            drifted = drift(state, expect) if expect and expect.phase in (PROGRESSING, HELD) else ""
            if state.record != expect and not (force and (state.record is None or state.record.id == record.id)):
                raise Stopped(taken_over(state, record))
            if drifted and not force:
                raise Drifted(drifted)
            if not self.world.alive():
                raise Orphaned
            try:
                self.world.write(state, record, move)
            except Conflict as error:
                refused, tries = f": {error}", tries - 1
            except Lost as error:
                self._bear(error, began)
            else:
                self.changed = True
                return drifted
            state = self.observe()
        raise ReleaseError(f"{state.where} could not be written in {WRITE_TRIES} tries, nothing was set{refused}")

    def observe(self, patience: float = UNREACHABLE_SECONDS) -> State:
        """Read the state, through absences of the API server up to ``patience`` seconds (none before a run begins)."""
        began = self.world.now()
        while True:
            try:
                return self.world.observe()
            except Unreachable as error:
                if self.world.now() - began >= patience:
                    waited = f"the API server has not answered for {patience:.0f} s: " if patience else ""
                    raise ReleaseError(f"{waited}{error}") from None
                if not self.world.alive():
                    raise Orphaned from None
                self.now_and_then(f"NO ANSWER from the API server; weights stay as they are  {error}")
                self.world.sleep(self.interval)

    def keep_lease(self) -> None:
        """Renew it when it is time. Raises Stopped when somebody else has it, Orphaned without a runner."""
        now = self.world.now()
        if self.renewed is None or now - self.renewed < RENEW_SECONDS:
            return
        if not self.world.alive():
            raise Orphaned
        try:
            kept = self.world.renew()
        except Unreachable:
            return  # tried again at the next look; every write is fenced by the record anyway
        self.renewed = now
        if not kept:
            raise Stopped("another run has taken the lease; this one stops")

    def _bear(self, error: Lost, began: float) -> None:
        """Before a write is tried again, as long as a read would be since ``began``. Raises ReleaseError after that."""
        if self.world.now() - began >= UNREACHABLE_SECONDS:
            raise ReleaseError(f"no write has succeeded for {UNREACHABLE_SECONDS:.0f} s: {error}")
        self.now_and_then(f"NOT WRITTEN yet, is tried again  {error}")
        self.keep_lease()
        self.world.sleep(self.interval)
