# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One pass of a release over a World: read what is there, do what is due. Private to this collection.

No Kubernetes in here. Everything a release does is a function of what the World shows (route object with its record,
workloads, evidence, time) and of what the user wants, so a run can be killed anywhere and any other run takes it up.
The simulated World of tests/sim and the real one of ``_world.py`` implement the same Protocol.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeGuard

from ansible_collections.progressive.istio.plugins.module_utils._admit import admit
from ansible_collections.progressive.istio.plugins.module_utils._begin import Beginning, no_endpoint
from ansible_collections.progressive.istio.plugins.module_utils._ending import CONFIRM_SECONDS, Ending
from ansible_collections.progressive.istio.plugins.module_utils._gate import Verdict
from ansible_collections.progressive.istio.plugins.module_utils._newer import Turns
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    STOPPING,
    Approve,
    Await,
    Done,
    Outcome,
    Refuse,
    Resume,
    RollBack,
    State,
    Supersede,
    Want,
    adopted,
    behind,
    drift,
    held_for_drift,
    newer_canary,
    resolve,
    strayed,
    taken_over,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import (
    NOBODY,
    Drifted,
    Programmed,
    Stopped,
    World,
)
from ansible_collections.progressive.istio.plugins.module_utils._raising import Raising, Room
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    APPROVE,
    HELD,
    PROGRESSING,
    WAITING,
    Record,
)
from ansible_collections.progressive.istio.plugins.module_utils._steps import Steps
from ansible_collections.progressive.istio.plugins.module_utils._verdict import evidence, line
from ansible_collections.progressive.istio.plugins.module_utils._watch import Watch
from ansible_collections.progressive.istio.plugins.module_utils._writes import (
    UNREACHABLE_SECONDS,
    Writes,
)

CATCH_UP_SECONDS = 30.0  # nobody may have looked for longer than max_wait, at a release that waited after a step


def _late(answer: Programmed) -> Sequence[str]:
    """Why a change does not count yet. Where no proxy has the route, it is not true for anybody."""
    return answer.lagging or (() if answer.asked else ("no proxy has this route",))


def _approves(there: Record | None, record: Record) -> TypeGuard[Record]:
    """Whether what is on record now is the same release, which somebody has let go on."""
    if there is None or record.phase != WAITING or there.phase != PROGRESSING:
        return False
    return replace(there, phase=record.phase, since=record.since, reason=record.reason, approvals=record.approvals) == (
        record
    )


class Release:
    """Brings a release as far as ``budget`` seconds allow; ``say`` gets one line for every event, at once."""

    def __init__(
        self,
        world: World,
        want: Want,
        say: Callable[[str], None],
        continued: bool = False,
        begun: str = "",
        elapsed: float = 0.0,
    ) -> None:
        """``continued``: an earlier pass of the same run has said where the release is; ``begun``: the release that it
        was at; ``elapsed``: seconds since the first one began.
        """
        self.world, self.want, self.say, self.continued, self.begun = world, want, say, continued, begun
        self.writes = Writes(world, want.interval, say)
        self.elapsed = elapsed
        self._fresh()

    def _fresh(self) -> None:
        """Nothing of a release is known yet."""
        self.watch = Watch(self.world, self.want, self.say)
        given = (self.world, self.want, self.say, self.watch, self.writes)
        self.floors = Raising(self.world, self.want, self.say, self.writes)
        self.ending = Ending(*given, self.floors)
        self.beginning = Beginning(*given, self.floors, self.ending)
        self.steps = Steps(*given, self.floors, self.ending)
        self.paused = ""  # why the weight may not rise, as it was said last
        self.observed: tuple[int, str] | None = None  # the step and what was said of it instead of done

    # ---------------------------------------------------------------- the pass

    def run(self, budget: float) -> Outcome:
        """One pass. Raises ReleaseError for what the user has to mend, Stopped and Orphaned when it must not go on."""
        self.deadline = self.world.now() + budget
        self.caught_up = self.world.now() + (0.0 if self.continued else min(CATCH_UP_SECONDS, budget))
        state = self.writes.observe(UNREACHABLE_SECONDS if self.continued else 0.0)
        self.want = resolve(self.want, state)
        if self.want.orphan and (spared := self._inherit(state)):
            return spared
        told = self.continued and not self.begun  # an earlier pass has waited, too
        self.turns = Turns(self.world, self.want, self.say, self.writes, told, self.elapsed)
        if self.begun and (lost := self.turns.lost(self.begun, state)):
            return lost
        while not (outcome := self._act(self._repair(state), budget)):
            state = self.writes.observe()
        return outcome

    def _act(self, state: State, budget: float) -> Outcome | None:
        """What is due; None where all of it has to be read and decided again."""
        decision = admit(self.want, state)
        if isinstance(decision, (Refuse, Done, RollBack, Approve)):
            return self._at_once(decision, state)
        if isinstance(decision, Await):
            return self.turns.wait(decision, state, self.deadline)
        if isinstance(decision, Supersede):
            return self.turns.supersede(decision.record, state)
        # Before anything is written, and before the lease.
        work = decision if isinstance(decision, Resume) else self.beginning.prepare(self.want, decision, state)
        # Taking it back, or holding it, must not wait for whoever runs it: that run sees the record change, and stops.
        stopping = self.want.state in STOPPING
        if not (stopping or self.want.orphan or self.turns.leased(state)):
            return None
        self.writes.renewed = None if stopping else self.world.now()
        outcome = None
        try:
            if isinstance(work, Resume):
                outcome = self._resume(work)
            else:
                self.continued = False
                outcome = self._drive(self.beginning.start(self.want, work, state))
        except Drifted:
            raise
        except Stopped:  # somebody else looks at it
            self.writes.give_back()
            raise
        finally:
            # Between the passes of one run the lease stays. A run that has ended gives it back; one that fails in the
            # middle does not: somebody has to notice a release that nobody looks at.
            alone = isinstance(work, Resume) or self.writes.changed
            once = budget <= 0 and not self.want.orphan
            over = not alone if outcome is None else outcome.finished or once
            if over and self.world.alive() and not self.turns.made_room(outcome):
                self.writes.give_back()
        if self.turns.made_room(outcome):
            self._fresh()
            return self.turns.gone(outcome)
        return outcome

    def _at_once(self, decision: Refuse | Done | RollBack | Approve, state: State) -> Outcome:
        """What needs no lease and no look at the traffic."""
        if isinstance(decision, Refuse):
            return self.ending.outcome(
                decision.phase, decision.text, failed=True, weight=state.weight_of(self.want.canary)
            )
        if isinstance(decision, Done):
            return self.ending.outcome(decision.phase, decision.text, weight=state.weight_of(self.want.canary))
        if isinstance(decision, RollBack):
            if decision.warning:
                self.say(f"WARNING  {decision.warning}")
            if decision.due:
                self.beginning.await_endpoints(decision.record.stable.name)
            return self.ending.roll_back(decision.record, self._by_whom(), decision.due)
        approved = self.ending.approve(decision.record, self._by_whom(""))
        text = f"step {decision.record.pause} is approved; the release goes on with the next run, or the one at it"
        return self.ending.outcome(PROGRESSING, text, record=approved)

    def _inherit(self, state: State) -> Outcome | None:
        """Take over what a dead run has left; what to say where there is nothing of that kind."""
        record, weight = state.record, state.weight_of(self.want.canary)
        phase = record.phase if record else "none"
        if holder := self.world.acquire(left=True):
            text = "no run has left it behind" if holder == NOBODY else f"it is being run by {holder}"
            return self.ending.outcome(phase, text, weight=weight)
        if record is None or phase != PROGRESSING:
            self._repair(state)
            self.writes.give_back()
            return self.ending.outcome(
                phase, "no release is running; the lease of a run that has died is given back", weight=weight
            )
        self.say(f"the run of release {record.id} has died, nobody has looked at it since")
        return None

    def _resume(self, decision: Resume) -> Outcome:
        record = decision.record
        self.watch.load(record)
        if self.want.state in STOPPING:
            return self._stop(record)
        if decision.changed:
            return self.ending.abort(record, decision.changed, asked_for=self.want.on_newer == "supersede")
        if record.phase == HELD and self.continued:  # by somebody else, between two passes of this run
            return self.ending.outcome(HELD, record.reason, failed=True, record=record)
        if record.phase == HELD:
            return self._look_again(record)
        if record.phase == WAITING:
            if not self.continued:
                self.ending.tell_how(record)
        elif not self.continued:
            self.say(f"goes on with release {record.id} at step {record.place}")
        return self._drive(record)

    def _stop(self, record: Record) -> Outcome:
        """Somebody wants it taken back, or held."""
        reason = self._by_whom()
        if self.want.state in ("aborted", "rolled_back"):
            return self.ending.abort(record, reason, asked_for=True)
        if record.phase == HELD:
            return self.ending.outcome(HELD, record.reason, record=record)
        return self.ending.hold(record, reason, asked_for=True)

    def _by_whom(self, how: str = "asked for by") -> str:
        by = f"{how} {self.world.identity()}".strip()
        return f"{self.want.reason} ({by})" if self.want.reason else by

    # ---------------------------------------------------------------- looking

    def _drive(self, record: Record) -> Outcome:
        if not record.begun:
            opened = self.beginning.open(self.want, record, self.deadline)
            if isinstance(opened, Outcome):
                return opened
            record = opened
        confirmed_at: float | None = None
        written = self.world.now()
        while True:
            began = self.world.now()
            state = self.writes.observe()
            record = self._current(record, state)
            self.floors.apply(record)
            drifted = drift(state, record) or strayed(state, record, self.ending.arrived == record.step)
            if not drifted and behind(state, record):
                state, confirmed_at = self.writes.follow(record, state), None
            self.ending.arrived = record.step if not drifted else self.ending.arrived
            if confirmed_at is None and not drifted:
                confirmed_at = self._confirm(state, record, written)
            verdict = self.watch.judge(state, record, confirmed_at is not None and not drifted)
            now = self.world.now()
            if record.observe:
                verdict = self._observed(record, verdict, now)
            if ended := self._ended(record, state, verdict):
                return ended
            turn: Record | Outcome | None
            if drifted:
                turn = self._settle(record, state, drifted)
            else:
                verdict = verdict if confirmed_at is None else self._fit(verdict, state, record)
                turn = self._turn(record, verdict, confirmed_at is not None, now)
            if isinstance(turn, Outcome):
                return turn
            if turn:
                if drifted or turn.step != record.step:
                    written, confirmed_at = self.world.now(), None
                record = turn
                continue
            self._progress(record, verdict)
            self.watch.save()
            self.writes.keep_lease()
            if now >= self.deadline:
                self.watch.save(force=True)
                return self.ending.outcome(record.phase, record.reason or self.paused, finished=False, record=record)
            fast = confirmed_at is None and now - written < self.want.interval
            pause = CONFIRM_SECONDS if fast else self.watch.pause
            # From look to look. Where looks take long, half of the time is others'.
            self.world.sleep(max(pause / 2, pause - (self.world.now() - began)))

    def _current(self, record: Record, state: State) -> Record:
        """The record to go on with: another one than before only where somebody has approved the next step."""
        if state.record != record:
            if not _approves(state.record, record):
                raise Stopped(taken_over(state, record))
            self.say(f"APPROVED  step {record.pause}, by {state.record.approvals[-1].by}")
            return state.record
        if record.phase == WAITING and state.approval == f"{record.id}/{record.pause}":
            return self.ending.approve(record, f"annotation {APPROVE}")
        return record

    def _turn(self, record: Record, verdict: Verdict, confirmed: bool, now: float) -> Record | Outcome | None:
        """What a look leads to: the release goes on, or ends, or this run does; nothing while there is time."""
        if record.phase == WAITING:
            if now - record.since < self.want.approval_timeout:
                return None
            self.watch.save(force=True)
            return self.ending.outcome(WAITING, record.reason, record=record)
        if verdict.kind == "pass" and confirmed:
            if not self.watch.save(force=True):  # what a step has passed on has to be known afterwards
                self.writes.now_and_then(f"step {record.place}  WAIT  its evidence could not be stored")
                return None
            room = self.floors.room(record) if self.steps.goes_on(record) else Room(record)
            if room.short:
                return self.steps.make_room(record, room, room.short, now)
            self._progress(record, verdict, force=True)
            if over := self.steps.over(record):
                return over
            if self._paused(record):
                return None
            with contextlib.suppress(Drifted):
                return self.steps.next(record, room)
            return record  # the next look sees the drift, and holds
        waited = self.want.calendar.open_seconds(record.since, now)
        if waited > self.want.max_wait and now >= self.caught_up and not self.want.calendar.closed(now):
            return self._inconclusive(record, verdict, confirmed)
        return None

    def _paused(self, record: Record) -> str:
        """Why the weight may not rise now, and when it may; a step that needs an approval can get that meanwhile."""
        closed = "" if record.pause else self.want.calendar.closed(self.world.now())
        if closed:
            self.writes.now_and_then(f"step {record.place}  PAUSED  {closed}", force=not self.paused)
        self.paused = closed
        return closed

    def _overdue(self, record: Record) -> str:
        """What to say of a release that is not over in time, or nothing."""
        if not 0 < self.want.max_duration < self.world.now() - record.started:
            return ""
        return f"not over within {self.want.max_duration:.0f} s (max_duration)"

    def _observed(self, record: Record, verdict: Verdict, now: float) -> Verdict:
        """What is acted on where verdicts are only said: the step's time."""
        said = {"fail": "would abort", "routing": "would stop"}.get(verdict.kind)
        over = now - record.since >= record.present.min_seconds
        text = evidence(verdict, record.canary.name, record.stable.name)
        if over and not said and verdict.kind != "pass":
            said = "goes on, would wait"
        if said and self.observed != (record.step, said):
            self.observed = (record.step, said)
            self.say(f"step {record.place}  OBSERVE  {said}: {text}")
        return replace(verdict, kind="pass" if over else "wait")

    def _fit(self, verdict: Verdict, state: State, record: Record) -> Verdict:
        """A pass waits while there is nowhere to send more: by Kubernetes, and by the proxies of the clients."""
        name, why = record.canary.name, ""
        if verdict.kind == "pass" and not state.version(name).ready:
            why = f"{name} has no ready pod{state.version(name).why}"
        elif verdict.kind == "pass" and (missing := self.world.without_endpoint(name)):
            why = no_endpoint(name, missing)
        if not why:
            return verdict
        self.writes.now_and_then(f"step {record.place}  WAIT  {why}")
        return replace(verdict, kind="wait", reason=why)

    def _look_again(self, record: Record) -> Outcome:
        """A held release looks once: it goes on, is taken back, or stays held without a single write."""
        state = self.writes.observe()
        drifted = drift(state, record) or strayed(state, record, arrived=False)
        if not record.begun and not drifted:
            return self._go_on(record)
        confirmed = not drifted and not behind(state, record) and not _late(self.world.programmed(state))
        verdict = self.watch.judge(state, record, confirmed)
        if verdict.kind == "fail":
            return self.ending.abort(record, evidence(verdict, record.canary.name, record.stable.name))
        if self.world.now() - record.since > self.want.max_hold:
            return self.ending.abort(record, f"held for more than {self.want.max_hold:.0f} s: {record.reason}")
        if overdue := self._overdue(record):
            if self.want.on_inconclusive == "abort":
                return self.ending.abort(record, overdue)
            return self.ending.outcome(HELD, f"{record.reason}; {overdue}", failed=True, record=record)
        if drifted and self.want.on_drift != "hold":
            settled = self._settle(record, state, drifted)
            return settled if isinstance(settled, Outcome) else self._drive(settled)
        if not drifted and (verdict.kind == "pass" or self.want.retry or held_for_drift(record)):
            taken = "" if self.want.retry else self.floors.taken_away(record)
            return self._go_on(record) if not taken else self.ending.outcome(HELD, taken, failed=True, record=record)
        return self.ending.outcome(HELD, drifted or record.reason, failed=True, record=record)

    def _go_on(self, record: Record) -> Outcome:
        self.say(f"goes on with held release {record.id} at step {record.place}")
        resumed = record.at(record.step, self.world.now())
        self.writes.write(resumed, expect=record)
        return self._drive(resumed)

    def _confirm(self, state: State, record: Record, written: float) -> float | None:
        answer = self.world.programmed(state)
        now = self.world.now()
        if late := _late(answer):
            if now - written > self.want.verify_timeout:
                text = f"ROUTING  not programmed: {'; '.join(late[:3])}"
                self.writes.now_and_then(f"step {record.place}  {text}")
            return None
        told, self.continued = self.continued, False
        if told:
            return now
        self.say(
            f"step {record.place}  {record.present.change} in {answer.programmed} of {answer.asked} proxies "
            f"after {now - written:.2f} s" + (f", {answer.rest}" if answer.rest else "")
        )
        return now

    # ---------------------------------------------------------------- acting

    def _settle(self, record: Record, state: State, drifted: str) -> Record | Outcome:
        """What the user wants done about somebody else's weights; a canary without any is not given traffic again."""
        share, wish = state.weight_of(record.canary.name), self.want.on_drift
        elsewhere = not drift(state, record)  # on another route object, whose share is not the release's
        if wish == "adopt" and (closed := self.want.calendar.closed(self.world.now())):
            text = f"{drifted}; {closed}"
            if record.phase == HELD:
                return self.ending.outcome(HELD, text, failed=True, record=record)
            return self.ending.hold(record, text)
        if wish == "hold" or (wish == "adopt" and elsewhere):
            return self.ending.hold(record, drifted)
        if wish == "abort" or not share:
            return self.ending.abort(record, drifted)
        taken = adopted(record, share, self.world.now())
        self.writes.write(taken, expect=record, force=True)
        self.watch.panel.begin_step(taken.step, taken.present.judged)
        self.say(f"step {taken.place}  ADOPTED  {drifted}")
        return taken

    def _ended(self, record: Record, state: State, verdict: Verdict) -> Outcome | None:
        """What ends a release at once, whatever else is so."""
        # Which of the two templates is to blame is not known, and the newer one is released next.
        supersede = self.want.on_newer == "supersede"
        newer = newer_canary(record, state, supersede)
        if verdict.kind == "fail" and not (newer and supersede):
            return self.ending.abort(record, evidence(verdict, record.canary.name, record.stable.name))
        if newer:
            return self.ending.abort(record, newer, asked_for=supersede)
        if overdue := self._overdue(record):
            return self._give_up(record, overdue)
        return self._misrouted(record, verdict) if verdict.kind == "routing" else None

    def _give_up(self, record: Record, reason: str) -> Outcome:
        """Nobody knows whether the canary is any good; without that it is not promoted for being late."""
        return (
            self.ending.abort(record, reason)
            if self.want.on_inconclusive == "abort"
            else self.ending.hold(record, reason)
        )

    def _misrouted(self, record: Record, verdict: Verdict) -> Outcome:
        """What is counted is not about this weight, so nothing can be judged; what gets nothing may be lost."""
        if self.watch.starved:
            return self.ending.abort(record, f"ROUTING  {verdict.reason}; it gets nothing now")
        return self.ending.hold(record, f"ROUTING  {verdict.reason}; see what else routes these requests")

    def _inconclusive(self, record: Record, verdict: Verdict, confirmed: bool) -> Outcome:
        reason = f"no verdict within {self.want.max_wait:.0f} s: {verdict.kind}: {verdict.reason}"
        if not confirmed:
            lagging = _late(self.world.programmed(self.writes.observe()))
            why = "; ".join(lagging[:3]) or f"it took more than {self.want.max_wait:.0f} s"
            return self.ending.abort(record, f"{record.present.change} not programmed: {why}")
        if self.want.on_inconclusive == "promote":
            self.say(f"step {record.place}  OVERRIDE  on_inconclusive: promote  {reason}")
            self.watch.save(force=True)
            return self.steps.over(record) or self._drive(self.steps.next(record, Room(record)))
        return self._give_up(record, reason)

    def _repair(self, state: State) -> State:
        """A run that was killed while it ended a release has left other route objects with something of that."""
        record = state.record
        if not record or record.running or strayed(state, record, arrived=False):
            return state
        for other in behind(state, record):
            what = f"goes back to {record.stable.name}" if record.taken_back else f"is put right ({other.astray})"
            self.say(f"{other.where} {what}, too: it was left over by a run that ended")
        state = self.writes.follow(record, state)
        return state if self.floors.restore(record, record.since) == record else self.writes.observe()

    def _progress(self, record: Record, verdict: Verdict, force: bool = False) -> None:
        text = line(verdict, record.canary.name, record.stable.name)
        coverage = self.watch.coverage.say()
        more = f"  {coverage}" if coverage not in text else ""
        self.writes.now_and_then(f"step {record.place}  {text}{more}", force)
