# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forget the release of a service: its record, approval, evidence and lease. No traffic is touched. Private.

No Kubernetes in here. The lease is held meanwhile, so nobody begins a release, and goes last; every write is the next
one that is missing from what is there, so a run can be killed anywhere and any other run takes it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Outcome,
    State,
    behind,
    strayed,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Stopped, World
from ansible_collections.progressive.istio.plugins.module_utils._record import Record
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes

REFUSED, NONE = "refused", "none"


@dataclass(frozen=True, slots=True)
class Remains:
    """What a service has of its release. ``marks``: our annotations of the route object; objects by what they are
    called in messages, empty where there is none. ``unfinished``: other objects with something of the release.
    """

    where: str = ""  # the route object
    record: Record | None = None
    marks: tuple[str, ...] = ()
    evidence: str = ""
    lease: str = ""
    unfinished: tuple[str, ...] = ()
    token: object = None  # the World's own: what a write is based on

    @property
    def names(self) -> tuple[str, ...]:
        """What there is to forget, in words."""
        marks = (f"{mark} of {self.where}" for mark in self.marks)
        return (*marks, *filter(None, (self.evidence, self.lease)))


class ForgettingWorld(World, Protocol):
    """What forgetting sees and does beyond a release."""

    def remains(self) -> Remains:
        """What is there now."""

    def unmark(self, remains: Remains) -> None:
        """Our annotations out of the route object that was read. Raises Conflict or Lost."""

    def drop_evidence(self) -> None:
        """Delete it; no error where it is gone. Raises Lost."""

    def drop_lease(self) -> None:
        """Delete the lease that this run holds; no error where it is gone, or another run's. Raises Lost."""


def refusal(there: Remains) -> str:
    """Why it may not be forgotten, or nothing."""
    record = there.record
    if record and record.running:
        return (
            f"release {record.id} of {record.canary.name} is {record.phase} at {record.weight} % on {there.where}; "
            "a running release is not forgotten: abort it first"
        )
    if record and there.unfinished:
        return (
            f"{', '.join(there.unfinished)} still has something of release {record.id}, whose run was killed while it "
            "ended it; state aborted puts that right: run it once, then forget the release"
        )
    return ""


def unfinished(state: State) -> tuple[str, ...]:
    """Where a release that is over has left weights, cohort, cookie or mirror, or a floor that was not given back."""
    record = state.record
    if record is None or record.running or strayed(state, record, arrived=False):
        return ()
    floors = (floor.where for floor in record.floors if floor.ours)
    return (*(other.where for other in behind(state, record)), *floors)


class Forgetting:
    """Forgets one service's release; ``say`` gets one line for every event."""

    def __init__(self, world: ForgettingWorld, interval: float, say: Callable[[str], None]) -> None:
        """``interval``: seconds between two tries of a write."""
        self.world, self.say = world, say
        self.writes = Writes(world, interval, say)

    def run(self) -> Outcome:
        """All of it, in one pass. Raises ReleaseError, Stopped and Orphaned."""
        there = self.writes.read(self.world.remains, 0.0)
        if text := refusal(there):
            return self._outcome(REFUSED, text, failed=True)
        if not there.names:
            return self._outcome(NONE, "there is no record, evidence or lease of a release")
        if holder := self.world.acquire():
            raise Stopped(f"a release is being run by {holder}; wait for it, or end that run first")
        self.writes.renewed = self.world.now()
        tries = self.writes.tries()
        # Read again: the release of the run that had the lease before may have moved on.
        while (now := self.writes.read(self.world.remains)).marks:
            if text := refusal(now):
                self.world.release_lease()
                return self._outcome(REFUSED, text, failed=True)
            self.writes.attempt(tries, now.where, partial(self.world.unmark, now))
        while now.evidence and not self.writes.attempt(tries, now.evidence, self.world.drop_evidence):
            pass
        self.writes.renewed = None  # what is deleted, and nobody has said so, is not renewed
        while not self.writes.attempt(tries, "the lease", self.world.drop_lease):
            pass
        text = f"forgotten: {', '.join(there.names)}; weights are as they were"
        self.say(text)
        return self._outcome(NONE, text)

    def _outcome(self, phase: str, text: str, failed: bool = False) -> Outcome:
        return Outcome(
            phase,
            text,
            failed,
            finished=True,
            changed=self.writes.changed,
            weight=0,
            record=None,
            verdict=None,
            evidence=None,
        )
