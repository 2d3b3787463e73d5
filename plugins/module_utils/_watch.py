# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one release knows: its evidence, the gate over it, and the last verdict. Private to this collection.

No Kubernetes in here, and no decision: ``_release.py`` asks, and acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience
from ansible_collections.progressive.istio.plugins.module_utils._evidence import (
    Coverage,
    Evidence,
    Look,
    burst_of,
    carry,
    covered,
    difference,
    history,
)
from ansible_collections.progressive.istio.plugins.module_utils._gate import Gate, Health, Verdict, Window, compact
from ansible_collections.progressive.istio.plugins.module_utils._plan import State, Want
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Lost, Orphaned, Unreachable, World
from ansible_collections.progressive.istio.plugins.module_utils._record import Record

SAVE_SECONDS = 10.0  # evidence is written at most this often, and at events
UNREADY_SECONDS = 10.0  # a canary without any ready pod for this long has failed, whatever the counters say
BASELINE_SECONDS = 10.0
STARVED = 1000  # percent times requests: by chance less than once in 20,000 times


class Watch:
    """Evidence and gate of a release; ``say`` gets one line for every event."""

    def __init__(self, world: World, want: Want, say: Callable[[str], None]) -> None:
        self.world, self.want, self.say = world, want, say
        self.gate = Gate(want.tolerance)
        self.verdict: Verdict | None = None
        self.evidence: Evidence | None = None
        self._saved = float("-inf")
        self._unready_since: float | None = None
        self._without_canary = 0  # stable's requests since the last one of the canary
        self._settled: tuple[str, int] | None = None  # release and step whose weights the last look found settled

    # ---------------------------------------------------------------- beginning

    def begin(self, record: Record, since: float) -> None:
        """The first look of a release that began at ``since``."""
        look = self.world.look()
        before = history(look, record.stable.name)
        self.evidence = Evidence(record.id, since, (), look, burst_of(look), before=before)
        self.gate = self._gate()

    def load(self, record: Record) -> None:
        """Replay the stored evidence of this release; without any, it starts anew and nothing passes on old counts."""
        stored = self.world.load_evidence()
        if stored is None or stored.release != record.id:
            self.begin(record, self.world.now())
        else:
            self.evidence = stored
        self._replay(record)

    def baseline(self, record: Record) -> None:
        """Before a first step to 100 %: how often stable fails, as afterwards it has no traffic to compare with."""
        self.say(f"watches {record.stable.name} for {BASELINE_SECONDS:.0f} s before all traffic leaves it")
        until = self.world.now() + BASELINE_SECONDS
        while self.world.now() < until:
            self.world.sleep(self.want.interval)
            self.close_window(record, weight=0)

    def _gate(self) -> Gate:
        """A gate that knows how many counts one bad request may make in this evidence."""
        burst = max(self.want.tolerance.burst, self.evidence.burst if self.evidence else 1.0)
        return Gate(replace(self.want.tolerance, burst=burst), self.evidence.before if self.evidence else (0, 0))

    def _replay(self, record: Record) -> None:
        """A gate that has seen all windows of the evidence."""
        self.gate = self._gate()
        for window in self.evidence.windows if self.evidence else ():
            self.gate.observe(window)
        self.gate.begin_step(record.step, record.present.judged)

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
        self.verdict = self.gate.verdict(
            settled and now - record.since >= record.present.min_seconds,
            not why,
            why,
            Health(
                canary.ready if dead else max(canary.ready, 1),
                stable.ready,
                canary.crashed_since(record.started),
                stable.crashed_since(record.started),
            ),
        )
        return self.verdict

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
        return self._without_canary * self.gate.weight > STARVED

    @property
    def coverage(self) -> Coverage:
        """Of this step so far."""
        return self.evidence.coverage if self.evidence else Coverage()

    def close_window(self, record: Record, weight: int | None = None, by_weight: bool = False) -> Look:
        """Look, and take what was counted since the last look into the evidence."""
        if self.evidence is None:
            raise RuntimeError("a window needs a first look")
        before, look = self.evidence.look, carry(self.evidence.look, self.world.look())
        if burst_of(look) > self.evidence.burst:  # a proxy that counts attempts has sent its first request
            self.evidence = replace(self.evidence, burst=burst_of(look))
            self._replay(record)
        since, names = self.evidence.since, (record.canary.name, record.stable.name)
        counts = difference(before, look, since)
        (n_c, x_c), (n_b, x_b) = (counts.get(name, (0, 0)) for name in names)
        weight = record.present.judged if weight is None else weight
        window = Window(record.step, weight, max(0.0, look.time - before.time), n_c, x_c, n_b, x_b, by_weight)
        self.evidence = replace(
            self.evidence,
            windows=tuple(compact((*self.evidence.windows, window))),
            look=look,
            coverage=self.coverage.plus(record.step, weight, *covered(counts, before, look, since, names)),
        )
        self.gate.observe(window)
        self._without_canary = 0 if n_c else self._without_canary + n_b
        return look

    # ---------------------------------------------------------------- keeping

    def save(self, force: bool = False) -> None:
        """Store the evidence: with ``force`` now, otherwise when it is time."""
        now = self.world.now()
        if self.evidence and (force or now - self._saved >= SAVE_SECONDS):
            if not self.world.alive():
                raise Orphaned
            try:
                self.world.save_evidence(self.evidence)
                self._saved = now
            except (Unreachable, Lost):
                pass  # tried again at the next look; until then a killed run loses windows, and invents none
