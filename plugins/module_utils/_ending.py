# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a release ends or is held: every write of that kind, with what is said of it. Private to this collection.

No Kubernetes in here. When one of these is due is decided in ``_release.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ansible_collections.progressive.istio.plugins.module_utils._admit import approve_by_hand
from ansible_collections.progressive.istio.plugins.module_utils._evidence import damage, totals
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome, Want, Workload, drift, strayed
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Programmed, World
from ansible_collections.progressive.istio.plugins.module_utils._raising import Raising
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    ENVIRONMENT,
    HELD,
    PROMOTED,
    ROLLED_BACK,
    WAITING,
    Record,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, UNANSWERED
from ansible_collections.progressive.istio.plugins.module_utils._watch import Watch
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes

RECENT_SECONDS = 30.0  # pods that were evicted so long before the verdict may be why it is bad
CONFIRM_SECONDS = 0.1  # between looks at the proxies while a change is on its way


class Ending:
    """Ends and holds of one run's release; ``say`` gets one line for every event."""

    def __init__(
        self, world: World, want: Want, say: Callable[[str], None], watch: Watch, writes: Writes, floors: Raising
    ) -> None:
        self.world, self.want, self.say, self.watch, self.writes = world, want, say, watch, writes
        self.floors = floors
        self.arrived: int | None = None  # the step that all route objects were seen at

    def promote(self, record: Record) -> Outcome:
        reason = self.watch.verdict.reason if self.watch.verdict else ""
        ended = record.ended(PROMOTED, self.world.now(), reason)
        self.writes.write(ended, expect=record)
        self.writes.follow(ended, self.writes.observe())
        if record.shown != ended.shown:
            answer = self.programmed()
            if answer.lagging:
                late = "; ".join(answer.lagging[:5])
                self.say(f"PROMOTED  still with cohort, cookie or mirror of this release: {late}")
        self.watch.tidy()
        text = f"PROMOTED  {record.canary.name} has all traffic  {totals(self.watch.evidence)}"
        self._announce("CanaryPromoted", text)
        ended = self.floors.restore(ended, record.since)
        return self.outcome(PROMOTED, f"{record.canary.name} has all traffic", record=ended)

    def abort(self, record: Record, reason: str, asked_for: bool = False, force: bool = True) -> Outcome:
        """All weight to stable first; everything else afterwards. From whatever weights are there, unless ``force`` is
        false: then from those of this very record.
        """
        decided = self.world.now()
        before = self.writes.observe()
        stable = before.version(record.stable.name)
        if not stable.ready:
            return self.hold(record, f"{reason}; but {stable.version.name} has no ready pod to go back to{stable.why}")
        ended = record.ended(ABORTED, decided, reason)
        drifted = self.writes.write(ended, expect=record, force=force, seen=before)
        for text in filter(None, (drifted, strayed(before, record, self.arrived == record.step))):
            self.say(f"overruled a {text}")
        state = self.writes.follow(ended, self.writes.observe())
        answer = self.programmed()
        after = self.world.now() - decided
        took = f"weight 0 in {answer.programmed} of {answer.asked} proxies {after:.2f} s after the verdict"
        if excuse := "" if asked_for else self._excuse(record, state.version(record.canary.name)):
            reason = f"{ENVIRONMENT}the cluster takes pods of it away, or cannot run them: {excuse}  {reason}"
            blamed, ended = ended, replace(ended, reason=reason)
            self.writes.write(ended, expect=blamed, move=False)
        self._announce("CanaryAborted", f"ABORTED  {took}  {reason}", warning=not asked_for)
        if answer.lagging:
            self.say(f"ABORTED  still with the old weight: {'; '.join(answer.lagging[:5])}")
        self.watch.close_window(ended)  # until weight 0 was reached, so that the evidence holds every failed answer
        for text in filter(None, (damage(self.watch.evidence), self._origin())):
            self.say(f"ABORTED  {text}")
        self.watch.save(force=True)
        self.watch.tidy()
        ended = self.floors.restore(ended, decided, bool(answer.lagging))
        text = f"{record.canary.name} was taken back: {reason}; {took}"
        return self.outcome(ABORTED, text, failed=not asked_for, record=ended)

    def _excuse(self, record: Record, canary: Workload) -> str:
        """What the cluster has done to the canary, where that may be why it has failed; its crashes are its own."""
        verdict = self.watch.verdict
        counted = verdict and verdict.kind == "fail" and verdict.decided_by in (ERRORS, UNANSWERED)
        if not counted or canary.crashed_since(record.started):
            return ""
        return canary.excuse(self.world.now() - RECENT_SECONDS)

    def wait(self, record: Record) -> Record:
        """The step has passed, and somebody has to approve the next one."""
        following = record.steps[record.step + 1]
        reason = f"waits for approval before step {record.pause}, {following.title}"
        waiting = record.ended(WAITING, self.world.now(), reason)
        self.writes.write(waiting, expect=record, move=False)
        self.tell_how(waiting)
        self.world.events.tell("CanaryWaiting", reason)
        return waiting

    def tell_how(self, record: Record) -> None:
        """How to approve."""
        state = self.writes.observe()
        self.say(f"WAITING  {record.reason}: playbooks/approve.yml, or {approve_by_hand(state, record)}")

    def approve(self, record: Record, by: str) -> Record:
        """The next step may come; the run that is at the release, or the next one, takes it up."""
        approved = record.approved(by, self.world.now())
        self.writes.write(approved, expect=record, move=False)
        self._announce("CanaryApproved", f"APPROVED  step {record.pause}, by {by}")
        return approved

    def roll_back(self, record: Record, reason: str, due: bool) -> Outcome:
        """All traffic of a release that is over to its stable version, from whatever both of them have.

        Not ``due``: it stands in the route object already.
        """
        decided, stable = self.world.now(), record.stable.name
        ended = record.ended(ROLLED_BACK, decided, reason) if due else record
        reason = ended.reason
        if due:
            if drifted := drift(self.writes.observe(), record):
                self.say(f"overruled a {drifted}")
            self.writes.write(ended, expect=record)
        self.writes.follow(ended, self.writes.observe())
        answer = self.programmed()
        took = f"{answer.programmed} of {answer.asked} proxies after {self.world.now() - decided:.2f} s"
        text = f"{stable} has all traffic again, in {took}: {reason}"
        self.say(f"ROLLED BACK  {text}")
        if due:
            self.world.events.tell("CanaryRolledBack", text, warning=True)
        if answer.lagging:
            late = f"still with the old weight: {'; '.join(answer.lagging[:5])}"
            self.say(f"ROLLED BACK  {late}")
            text += f"; {late}"
        return self.outcome(ROLLED_BACK, text, failed=bool(answer.lagging), record=ended)

    def hold(self, record: Record, reason: str, asked_for: bool = False) -> Outcome:
        held = record.ended(HELD, self.world.now(), reason)
        self.watch.save(force=True)
        self.writes.write(held, expect=record, move=False, force=True)
        self.watch.tidy()
        self._announce("CanaryHeld", f"HELD  step {record.place}  {reason}", warning=not asked_for)
        return self.outcome(HELD, reason, failed=not asked_for, record=held)

    def _announce(self, reason: str, text: str, warning: bool = False) -> None:
        self.say(text)
        self.world.events.tell(reason, text, warning)

    def _origin(self) -> str:
        """Which of the canary's pods gave the bad answers, and with which codes: the greatest numbers first."""
        blame = self.watch.evidence.blame if self.watch.evidence else {}
        most = sorted(blame.items(), key=lambda item: (-item[1], item[0]))
        names = self.world.pod_names()
        pods = [f"{names.get(what, what)} {number:,}" for what, number in most if ":" in what][:5]
        codes = [f"{what} {number:,}" for what, number in most if ":" not in what][:5]
        parts = [f"by pod: {', '.join(pods)}" if pods else "", f"by code: {', '.join(codes)}" if codes else ""]
        return "; ".join(filter(None, parts))

    def programmed(self) -> Programmed:
        """What the proxies run at the end, as soon as all run it or ``verify_timeout`` is over."""
        began = self.world.now()
        while True:
            answer = self.world.programmed(self.writes.observe())
            if not answer.lagging or self.world.now() - began > self.want.verify_timeout:
                return answer
            self.world.sleep(CONFIRM_SECONDS)

    def outcome(
        self,
        phase: str,
        text: str,
        failed: bool = False,
        finished: bool = True,
        record: Record | None = None,
        weight: int | None = None,
    ) -> Outcome:
        return Outcome(
            phase,
            text,
            failed,
            finished,
            self.writes.changed,
            record.weight if record else weight or 0,
            record,
            self.watch.verdict,
            self.watch.evidence,
        )
