# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one release knows: its evidence, the gate over it, and the last verdict. Private to this collection.

No Kubernetes in here, and no decision: ``_release.py`` asks, and acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience
from ansible_collections.progressive.istio.plugins.module_utils._capacity import held_back
from ansible_collections.progressive.istio.plugins.module_utils._checks import Checks, of_step
from ansible_collections.progressive.istio.plugins.module_utils._counters import Counted, Counters, Place
from ansible_collections.progressive.istio.plugins.module_utils._counters import held_back as held_back_by
from ansible_collections.progressive.istio.plugins.module_utils._evidence import (
    Coverage,
    Evidence,
    blamed,
    covered,
    panel_of,
)
from ansible_collections.progressive.istio.plugins.module_utils._gate import compact
from ansible_collections.progressive.istio.plugins.module_utils._looks import (
    Look,
    alarming,
    burst_of,
    carry,
    difference,
    errors_between,
    history,
    pause,
)
from ansible_collections.progressive.istio.plugins.module_utils._metrics import (
    Flows,
    choose_edge,
    counted_by,
    judged_by,
    settle,
    tolerances,
)
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._plan import State, Want
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Lost, Orphaned, Unreachable, World
from ansible_collections.progressive.istio.plugins.module_utils._record import HELD, Record
from ansible_collections.progressive.istio.plugins.module_utils._verdict import (
    ERRORS,
    LATENCY,
    UNANSWERED,
    Health,
    Verdict,
    Window,
)

SAVE_SECONDS = 10.0  # evidence is written at most this often, and at events
UNREADY_SECONDS = 10.0  # a canary without any ready pod for this long has failed, whatever the counters say
BASELINE_SECONDS = 10.0
CHECKS_SECONDS = 0.2  # between looks for the answers of checks, where a release waits for them
FULL = 100  # percent: nothing is left for stable
STARVED = 1000  # percent times requests: by chance less than once in 20,000 times


class Watch:
    """Evidence and gate of a release; ``say`` gets one line for every event."""

    def __init__(self, world: World, want: Want, say: Callable[[str], None]) -> None:
        self.world, self.want, self.say = world, want, say
        self.panel = Panel(tolerances((), want.tolerance))
        self.flows = Flows()
        self.verdict: Verdict | None = None
        self.evidence: Evidence | None = None
        self._checks = Checks(want.checks, world.checks.ask)
        self._counters = Counters(want.counters, world.counters.ask)
        self._saved = float("-inf")
        self._unready_since: float | None = None
        self.pause = want.interval  # seconds until the next look
        self._last = Window(0, 0, 0.0, 0, 0, 0, 0)
        self._without_canary = 0  # stable's requests since the last one of the canary
        self._settled: tuple[str, int] | None = None  # release and step whose weights the last look found settled

    # ---------------------------------------------------------------- beginning

    def begin(self, record: Record, since: float) -> None:
        """The first look of a release that began at ``since``."""
        stable, raw = record.stable.name, self.world.look()
        self.flows = Flows()
        self.flows.add(raw)
        latency = self.want.latency is not None
        edge = self._edge(raw, stable) if latency else 0.0
        names = counted_by(raw, latency)
        look = settle(None, raw, since, edge, {})
        before = history(look, stable)
        counters = self._counters.known({})
        also: dict[str, tuple[Window, ...]] = dict.fromkeys((*names, *counters), ())
        self.evidence = Evidence(
            record.id, since, (), look, burst_of(look), before=before, also=also, edge=edge, counters=counters
        )
        self.panel = self._panel()
        self.say(judged_by(raw, tuple(also), edge, stable, latency))

    def _edge(self, raw: Look, stable: str, last_chance: bool = False) -> float:
        """In ms, of latency: the one that was asked for, or that of what stable is like; 0 while nobody knows."""
        return self.want.edge or choose_edge(raw, stable, last_chance)

    def _choose_edge(self, evidence: Evidence, raw: Look, record: Record, last_chance: bool) -> Evidence:
        edge = self._edge(raw, record.stable.name, last_chance)
        if edge:
            self.evidence = evidence = replace(evidence, edge=edge)
            self._replay(record)
            self.say(judged_by(raw, tuple(evidence.also), edge, record.stable.name))
        return evidence

    def load(self, record: Record) -> None:
        """Replay the stored evidence of this release; without any, it starts anew and nothing passes on old counts."""
        stored = self.world.load_evidence()
        if stored is None or stored.release != record.id:
            self.begin(record, self.world.now())
        else:
            counters = self._counters.known(stored.counters)
            self.evidence = replace(stored, counters=counters, also={**dict.fromkeys(counters, ()), **stored.also})
        self._replay(record)

    def baseline(self, record: Record) -> None:
        """Before a first step to 100 %: how often stable fails, as afterwards it has no traffic to compare with."""
        self.say(f"watches {record.stable.name} for {BASELINE_SECONDS:.0f} s before all traffic leaves it")
        until = self.world.now() + BASELINE_SECONDS
        while self.world.now() < until:
            self.world.sleep(self.want.interval)
            self.close_window(record, weight=0)

    def _panel(self) -> Panel:
        """Judges that have seen all windows of the evidence."""
        if self.evidence is None:
            return Panel(tolerances((), self.want.tolerance))
        return panel_of(self.evidence, self.want.tolerance, self.want.latency)

    def _replay(self, record: Record) -> None:
        self.panel = self._panel()
        self.panel.begin_step(record.step, record.present.judged)

    # ---------------------------------------------------------------- looking

    def judge(self, state: State, record: Record, settled: bool) -> Verdict:
        """Close a window, and ask the gate. Not ``settled``: the weights are not yet what this step is about."""
        look = self.close_window(record, by_weight=self._by_weight(state, record, settled))
        why = ", ".join(f"{name}: {why}" for name, why in sorted(look.unread.items())[:3])
        why = f"proxies that count did not answer: {why}" if why else self.coverage.lack(self.want.min_coverage)
        now = self.world.now()
        canary, stable = state.version(record.canary.name), state.version(record.stable.name)
        self._unready_since = None if canary.ready else self._unready_since or now
        dead = self._unready_since is not None and now - self._unready_since >= UNREADY_SECONDS
        verdict = self.panel.verdict(
            settled and (look.time if look.sampled else now) - record.since >= record.present.min_seconds,
            not why,
            why,
            Health(
                canary.ready if dead else max(canary.ready, 1),
                stable.ready,
                canary.crashed_since(record.started),
                stable.crashed_since(record.started),
                canary.why,
            ),
        )
        if self.evidence and self.want.counters:
            enough = record.since + record.present.min_seconds
            verdict = held_back_by(verdict, self._counters.lacks(self.evidence.counters, verdict, now, enough))
        if self.want.capacity and record.present.judged:
            verdict = held_back(verdict, self.world.capacity(), record.canary.name, record.stable.name)
        self.verdict = verdict = self._checked(verdict, record, settled)
        if alarming(self._last.n_c, self._last.x_c, verdict.tolerance) and not record.observe:
            self.pause = 0.0
        return verdict

    def _checked(self, verdict: Verdict, record: Record, settled: bool) -> Verdict:
        """The verdict with what the user's own checks say. A held release is looked at once, and waits for them."""
        if not self.want.checks or self.evidence is None:
            return verdict
        while settled:
            found = self._checks.look(self.evidence.checks, record, self.world.now())
            found, news = self._checks.news(found)
            self.evidence = replace(self.evidence, checks=found)
            if news:
                self.say(f"step {record.place}  {news}")
            if not (self._checks.waiting and record.phase == HELD):
                break
            self.world.sleep(CHECKS_SECONDS)
        return self._checks.decided(verdict, of_step(self.evidence.checks, record), self.world.now())

    def tidy(self) -> None:
        """At the end of a step: the Jobs of its checks go, but for those that have failed."""
        jobs = self.evidence.checks.leftover() if self.evidence else ()
        if jobs:
            self.world.checks.tidy(jobs)

    def _by_weight(self, state: State, record: Record, settled: bool) -> bool:
        """Whether in the window that ends now nothing but the step's weight has split the requests."""
        here = (record.id, record.step)
        before, self._settled = self._settled, here if settled else None
        plain = record.audience == Audience() and not record.present.mirror
        ready = state.version(record.canary.name).ready and state.version(record.stable.name).ready
        return bool(settled and before == here and plain and ready and self.world.by_weight(state))

    @property
    def starved(self) -> bool:
        """Whether the canary gets nothing of late: no chance, after so much traffic of stable."""
        return self._without_canary * self.panel.weight > STARVED

    @property
    def coverage(self) -> Coverage:
        """Of this step so far."""
        return self.evidence.coverage if self.evidence else Coverage()

    def close_window(self, record: Record, weight: int | None = None, by_weight: bool = False) -> Look:
        """Look, and take what was counted since the last look into the evidence."""
        if self.evidence is None:
            raise RuntimeError("a window needs a first look")
        evidence, raw = self.evidence, self.world.look()
        since, names, before = evidence.since, (record.canary.name, record.stable.name), evidence.look
        self.flows.add(raw)
        step, weight = record.step, record.present.judged if weight is None else weight
        if LATENCY in evidence.also and not evidence.edge:
            evidence = self._choose_edge(evidence, raw, record, last_chance=weight == FULL)
        look = carry(before, settle(before, raw, since, evidence.edge, self.flows.earlier(record.stable.name)))
        if burst_of(look) > evidence.burst:  # a proxy that counts attempts has sent its first request
            self.evidence = evidence = replace(evidence, burst=burst_of(look))
            self._replay(record)
        counted, own = self._count(evidence, record, weight)
        # Samples lie back: what was counted since one that is older than the step may come from the step before.
        mixed = raw.sampled and before.time < record.since
        if mixed and evidence.windows:
            step, weight = evidence.windows[-1].step, evidence.windows[-1].weight
        seconds = max(0.0, look.time - before.time)

        def window(metric: str) -> Window:
            counts = (
                errors_between(before, look, since) if metric == ERRORS else difference(before, look, since, metric)
            )
            (n_c, x_c), (n_b, x_b) = (counts.get(name, (0, 0)) for name in names)
            return Window(step, weight, seconds, n_c, x_c, n_b, x_b)

        pending = self.flows.more_pending(names, difference(before, look, since, UNANSWERED))
        errors = replace(window(ERRORS), by_weight=by_weight, pending_c=pending[0], pending_b=pending[1])
        plain = [name for name in evidence.also if name not in counted]
        also = own | {name: window(name) for name in plain if not self._warms_up(name, record, look.time)}
        past = {name: (*windows, also[name]) if name in also else windows for name, windows in evidence.also.items()}
        seen = difference(before, look, since)
        self.evidence = replace(
            evidence,
            windows=tuple(compact((*evidence.windows, errors))),
            look=look,
            coverage=self.coverage.plus(step, weight, *covered(seen, before, look, since, names)),
            also={name: tuple(compact(windows)) for name, windows in past.items()},
            blame=blamed(evidence, look, record.canary.name),
            counters=counted,
        )
        self.panel.observe(errors, also)
        self._last = errors
        self.pause = self._paced(errors, raw)
        if mixed or own:  # samples lie back, and a window of theirs may be of the step before
            self.panel.begin_step(record.step, record.present.judged)
        if not mixed:
            reached = errors.n_c or errors.pending_c > 0
            self._without_canary = 0 if reached else self._without_canary + errors.n_b
        return look

    def _paced(self, window: Window, look: Look) -> float:
        """More looks where many requests are at stake."""
        if not window.seconds:
            return self.want.interval
        return pause(self.want.interval, window.n_c / window.seconds, window.n_b / window.seconds, look.reads)

    def _count(
        self, evidence: Evidence, record: Record, weight: int
    ) -> tuple[Mapping[str, Counted], dict[str, Window]]:
        """Where the user's counters stand, and windows that end now. A held release is looked at once, and waits."""
        if not self.want.counters:
            return evidence.counters, {}
        place = Place(record.step, weight, record.since, (record.canary.name, record.stable.name))
        found, windows, held = evidence.counters, dict[str, Window](), record.phase == HELD
        living = frozenset(self.world.pod_names().values())
        while True:
            found, more = self._counters.look(found, evidence.also, place, self.world.now(), living, once=held)
            windows |= more
            if not (held and self._counters.waiting):
                return found, windows
            self.world.sleep(CHECKS_SECONDS)

    def _warms_up(self, metric: str, record: Record, now: float) -> bool:
        """A new version is slow at first, and nobody holds that against it."""
        return metric == LATENCY and now - record.started < self.want.warm_up

    # ---------------------------------------------------------------- keeping

    def save(self, force: bool = False) -> bool:
        """Store the evidence: with ``force`` now, otherwise when it is time. False: it may not have been stored."""
        now = self.world.now()
        if self.evidence and (force or now - self._saved >= SAVE_SECONDS):
            if not self.world.alive():
                raise Orphaned
            try:
                self.world.save_evidence(self.evidence)
                self._saved = now
            except (Unreachable, Lost):
                return False  # tried again at the next look; until then a killed run loses windows, and invents none
        return True
