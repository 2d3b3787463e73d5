# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How one run of a release reads and writes the route objects, through all that a cluster does meanwhile.

Private to this collection. Every write is fenced by the record that it expects, so two runs never mix.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    ReleaseError,
    State,
    behind,
    drift,
    gone_meanwhile,
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
from ansible_collections.progressive.istio.plugins.module_utils._record import Record

RENEW_SECONDS = 5.0  # a third of the lease's duration
SAY_SECONDS = 15.0  # a line of progress at least this often
UNREACHABLE_SECONDS = 120.0  # the API server may be away this long before the run gives up (the release does not)
WRITE_TRIES = 20

T = TypeVar("T")


@dataclass(slots=True)
class Tries:
    """Of one write: since when it does not succeed, how often it was refused, and whether the last try failed."""

    since: float
    refused: int = 0
    failed: bool = False


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
        tries = self.tries()
        while late := behind(state, record):
            if state.record != record:
                raise Stopped(taken_over(state, record))
            self.attempt(tries, late[0].where, partial(self.world.follow, late[0], record))
            state = self.observe()
        return state

    def write(
        self,
        record: Record,
        expect: Record | None,
        move: bool = True,
        force: bool = False,
        seen: State | None = None,
    ) -> str:
        """Write the record (and its weights), once, or know that it happened. Returns the drift that was overruled.

        ``seen``: what was read a moment ago, for who is in a hurry.
        """
        tries = self.tries()
        while True:
            state, seen = seen or self.observe(), None
            if state.record == record:
                self.changed = True  # the answer to an earlier try was lost; the write was not
                return ""
            drifted = drift(state, expect) if expect and expect.running else ""
            if state.record != expect and not (force and (state.record is None or state.record.id == record.id)):
                raise Stopped(taken_over(state, record))
            if drifted and not force:
                raise Drifted(drifted)
            if move and (gone := gone_meanwhile(state, record)):
                raise Drifted(gone)
            if self.attempt(tries, state.where, partial(self.world.write, state, record, move)):
                return drifted

    def tries(self) -> Tries:
        """For a write that is still to be tried."""
        return Tries(self.world.now())

    def attempt(self, tries: Tries, where: str, write: Callable[[], None]) -> bool:
        """Try a write; False when what is there has to be read again first, as it was refused or its answer was lost.

        Raises ReleaseError when it was refused too often, or all answers were lost for as long as a read is waited for.
        """
        if not self.world.alive():
            raise Orphaned
        try:
            write()
        except Conflict as error:
            tries.refused += 1
            if tries.refused == WRITE_TRIES:
                raise ReleaseError(f"{where} could not be written in {WRITE_TRIES} tries: {error}") from None
            return False
        except Lost as error:
            if self.world.now() - tries.since >= UNREACHABLE_SECONDS:
                raise ReleaseError(f"no write has succeeded for {UNREACHABLE_SECONDS:.0f} s: {error}") from None
            self.now_and_then(f"NOT WRITTEN yet, is tried again  {error}")
            self.keep_lease()
            self.world.sleep(self.interval)
            return False
        self.changed, tries.since, tries.refused = True, self.world.now(), 0
        return True

    def observe(self, patience: float = UNREACHABLE_SECONDS) -> State:
        """Read the state, through absences of the API server up to ``patience`` seconds (none before a run begins)."""
        return self.read(self.world.observe, patience)

    def read(self, question: Callable[[], T], patience: float = UNREACHABLE_SECONDS) -> T:
        """The same for any other question. Raises ReleaseError after that time, Orphaned without a runner."""
        began = self.world.now()
        while True:
            try:
                return question()
            except Unreachable as error:
                if self.world.now() - began >= patience:
                    waited = f"the API server has not answered for {patience:.0f} s: " if patience else ""
                    raise ReleaseError(f"{waited}{error}") from None
                if not self.world.alive():
                    raise Orphaned from None
                self.now_and_then(f"NO ANSWER from the API server; weights stay as they are  {error}")
                self.world.sleep(self.interval)

    def give_back(self) -> None:
        """Give the lease back. One that is not runs out."""
        self.renewed = None
        with contextlib.suppress(Unreachable, Conflict, Lost):
            self.world.release_lease()

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
