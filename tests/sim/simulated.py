# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated World: one service under load, without a cluster, with a clock that only ``sleep`` moves.

``Mesh`` is what outlives a run: route object, pods, proxies' counters, evidence, lease. ``Runner`` is one run's view
of it, and implements the World protocol of ``_release``. Faults are injected at the runner: killed before or after its
n-th write, an answer lost although the write happened, an API server that is away, a conflict.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ansible_collections.progressive.istio.plugins.module_utils import _evidence
from ansible_collections.progressive.istio.plugins.module_utils._audience import Shown
from ansible_collections.progressive.istio.plugins.module_utils._capacity import Capacity
from ansible_collections.progressive.istio.plugins.module_utils._checks import About, Answer, Check, Job
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Evidence
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._metrics import CODES
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Crash,
    Other,
    Outcome,
    State,
    Want,
    Workload,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import NOBODY, Conflict, Lost, Unreachable
from ansible_collections.progressive.istio.plugins.module_utils._record import Record, Step, Version, loads
from ansible_collections.progressive.istio.plugins.module_utils._release import Release
from ansible_collections.progressive.istio.tests.sim.simulated_floors import Keeping, Scaling
from ansible_collections.progressive.istio.tests.sim.simulated_shop import Client, Counting, Rate, Shop, binomial

Says = Callable[[float, About], Answer]  # what a check answers, by time


class Killed(BaseException):
    """SIGKILL: nothing of the run goes on."""


@dataclass(frozen=True, slots=True)
class Programmed:
    asked: int
    programmed: int
    lagging: tuple[str, ...]
    rest: str = ""


class Mesh:
    """The cluster: what any number of runs, one after the other or at once, see and change."""

    def __init__(self, seed: int, canary_rate: Rate, stable_rate: Rate, rps: float = 100.0, clients: int = 3) -> None:
        self.rng = random.Random(seed)
        self.time = 1_700_000_000.0 + self.rng.random()
        self.rates = {"v1": stable_rate, "v2": canary_rate}
        self.rps = rps
        self.weights: dict[str, int] = {"v1": 100, "v2": 0, "old": 0}
        self.foreign = {"headers": {"x-team": "other"}, "timeout": "3s"}
        self.annotation: str | None = None
        self.approval = ""  # a person's annotation
        self.version = 1
        self.hashes = {"v1": "h1", "v2": "h2", "old": "h0"}
        self.ready = {"v1": 2, "v2": 2, "old": 0}
        self.manager = "kubectl"
        self.evidence: str | None = None
        self.lease: tuple[str, float] | None = None
        self.clients = [Client(f"client-{i}", 0.0, dict(self.weights)) for i in range(clients)]
        self.served: dict[str, list[int]] = {name: [0, 0] for name in self.weights}
        self.shown = Shown()  # what the route object has for the cohort, those who stay, and the mirror
        self.others_shown: dict[str, Shown] = {}
        self.testers = 0.0  # requests a second that match the cohort
        self.others: dict[str, dict[str, int]] = {}  # more route objects, by namespace/name
        self.unseen = 0.0  # requests of clients without a sidecar, per request of the others
        self.came_in = dict.fromkeys(self.weights, 0)  # what the versions' own proxies count
        self.writes: list[tuple[str, dict[str, int], str]] = []
        self.away_until = 0.0
        self.refused_until = 0.0  # until then a webhook keeps every change from the route objects
        self.findings: list[Finding] = []
        self.by_weight = True
        self.crashes: dict[str, tuple[Crash, ...]] = {}
        self.taken: dict[str, tuple[Crash, ...]] = {}  # pods that the cluster takes away, by version
        self.hangs: dict[str, Rate] = {}  # this part of the requests gets no answer
        self.patient = False  # whether clients wait for ever then
        self.slow: dict[str, Rate] = {}  # this part of the answers is slow
        self.capacity = Capacity()
        self.checks: dict[str, Says] = {}  # what the user's own checks answer, by name
        self.job_seconds = 6.0  # that a Job of a check takes to its end
        self.jobs: dict[str, float] = {}  # when each was made
        self.jobs_made: list[str] = []
        self.detour = 0.0  # this part of the requests of the stable version goes to the canary all the same
        self.endpoints_at: dict[str, float] = {}  # when the proxies learn of a version's endpoints
        self.shop: Shop | None = None
        self.scaling = Scaling()

    def advance(self, seconds: float) -> None:
        """Time passes: proxies take up new weights, and requests are answered and counted."""
        self.time += seconds
        for client in self.clients:
            if not client.cut_off:
                client.weights, client.shown = dict(self.weights), self.shown
            self._besides(client, seconds)
            total = sum(client.weights.values())
            n = binomial(self.rng, math.ceil(2 * self.rps * seconds / len(self.clients)), 0.5) if self.rps else 0
            for name, weight in client.weights.items():
                mine = binomial(self.rng, n, weight / total)
                if name == "v1":
                    mine -= binomial(self.rng, mine, self.detour)
                rate = 1.0 if not self.ready[name] else self.rates[name](self.time) if name in self.rates else 1.0
                answered = mine - self._hang(client, name, mine)
                bad = binomial(self.rng, answered, rate)
                counts = client.counts.setdefault(name, [0, 0])
                counts[0] += answered
                counts[1] += bad
                late = binomial(self.rng, answered, self.slow.get(name, steady(0.0))(self.time))
                client.late[name] = client.late.get(name, 0) + late
                self.served[name][0] += mine
                self.served[name][1] += bad
                self.came_in[name] += mine + binomial(self.rng, mine, self.unseen)
                if self.shop:
                    self.shop.order(self.rng, name, mine, self.time)
                n -= mine
                total -= weight
                if total <= 0:
                    break

        if self.shop:
            self.shop.pass_by(self.time)
        self.scaling.pass_by(self, seconds)

    def _hang(self, client: Client, name: str, mine: int) -> int:
        hung = binomial(self.rng, mine, self.hangs.get(name, steady(0.0))(self.time))
        held = client.waiting if self.patient else client.hung
        held[name] = held.get(name, 0) + hung
        return hung

    def _besides(self, client: Client, seconds: float) -> None:
        """The canary's requests that no weight brings: those of testers, and mirrored ones."""
        asked = self.testers * bool(client.shown.cohort) + self.rps * (client.shown.mirror or 0) / 100
        n = round(asked * seconds / len(self.clients) + self.rng.random() - 0.5)
        counts = client.counts.setdefault("v2", [0, 0])
        counts[0] += n
        counts[1] += binomial(self.rng, n, self.rates["v2"](self.time))
        self.came_in["v2"] += n

    def record(self) -> Record | None:
        return loads(self.annotation) if self.annotation else None

    def set_by_hand(self, manager: str, **weights: int) -> None:
        """Somebody else changes the weights."""
        self.weights.update(weights)
        self.version += 1
        self.manager = manager


class Checking:
    """Asks the checks: the answer is there at the second look. A Job is an object that outlives a run."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.asked: dict[str, list[About]] = {}
        self._begun: dict[str, About] = {}

    def rehearse(self, checks: Sequence[Check], subject: About) -> None:
        pass

    def ask(self, check: Check, subject: About) -> Answer | None:
        if self._begun.get(check.name) != subject:
            self._begun[check.name] = subject
            self.asked.setdefault(check.name, []).append(subject)
            return None
        del self._begun[check.name]
        if not isinstance(check.asks, Job):
            return self._mesh.checks[check.name](self._mesh.time, subject)
        name = subject.job(check.name)
        if name not in self._mesh.jobs:
            self._mesh.jobs[name] = self._mesh.time
            self._mesh.jobs_made.append(name)
        if self._mesh.time - self._mesh.jobs[name] < self._mesh.job_seconds:
            return Answer("running", name, name)
        return replace(self._mesh.checks[check.name](self._mesh.time, subject), job=name)

    def tidy(self, jobs: Sequence[str]) -> None:
        for name in jobs:
            self._mesh.jobs.pop(name, None)


class Runner:
    """One run: the World that ``Release`` works on."""

    def __init__(
        self,
        mesh: Mesh,
        name: str = "runner-1",
        kill_before: int = 0,
        kill_after: int = 0,
        lose_answer: int = 0,
        lose_write: int = 0,
        conflict: int = 0,
    ) -> None:
        self.mesh, self.name = mesh, name
        self.kill_before, self.kill_after = kill_before, kill_after
        self.lose_answer, self.lose_write, self.conflict = lose_answer, lose_write, conflict
        self.checks = Checking(mesh)
        self.counters = Counting(mesh)
        self.floors = Keeping(mesh, self._reach, self._writing)
        self.count = self.passes = 0
        self.events, self.told = self, list[str]()
        self.dead = self.orphan = False
        self.said: list[str] = []
        self.began, self.begun = 0.0, ""
        self.before_write: Callable[[int], None] = lambda _number: None

    def _live(self) -> None:
        if self.dead:
            raise Killed

    def _reach(self) -> None:
        self._live()
        if self.mesh.time < self.mesh.away_until:
            raise Unreachable("connection refused")

    def _before_write(self) -> None:
        self._reach()
        self.count += 1
        self.before_write(self.count)
        if self.count == self.kill_before:
            self.dead = True
            raise Killed
        if self.count == self.lose_write:
            raise Lost("timed out before it happened")

    @contextmanager
    def _writing(self) -> Iterator[bool]:
        """Around a write; whether somebody else comes first."""
        self._before_write()
        yield self.count == self.conflict
        self._after_write()
        if self.count == self.lose_answer:
            raise Lost("connection reset after it happened")

    def _admit(self) -> None:
        if self.mesh.time < self.mesh.refused_until:
            raise Lost("failed calling webhook")

    def _after_write(self) -> None:
        if self.count == self.kill_after:
            self.dead = True
            raise Killed

    # ---------------------------------------------------------------- World

    def now(self) -> float:
        self._live()
        return self.mesh.time

    def sleep(self, seconds: float) -> None:
        self._live()
        self.mesh.advance(seconds)

    def alive(self) -> bool:
        self._live()
        return not self.orphan

    def identity(self) -> str:
        return self.name

    def observe(self) -> State:
        self._reach()
        m = self.mesh
        record = m.record()
        keys = record.others if record else tuple(m.others)
        astray = {k: _differs(m.others_shown.get(k), record) for k in keys}
        others = tuple(
            Other(k, f"VirtualService {k}", dict(m.others[k]), "kubectl", m.version, astray[k]) for k in keys
        )
        versions = {
            n: Workload(
                Version(n, m.hashes[n]), m.ready[n], m.ready[n], crashes=m.crashes.get(n, ()), taken=m.taken.get(n, ())
            )
            for n in m.hashes
        }
        return State(
            "VirtualService ns/app",
            "Service ns/app",
            "uid",
            dict(m.weights),
            record,
            m.manager,
            versions,
            m.version,
            others=others,
            approval=m.approval,
            astray=_differs(m.shown, record),
        )

    def preflight(self, state: State, look: Look) -> list[Finding]:
        self._reach()
        return self.mesh.findings

    def rehearse(self, state: State, record: Record) -> None:
        self._live()

    def after(self, state: State, record: Record) -> State:
        weights = {**state.weights, **record.weights()}
        others = tuple(replace(other, weights={**other.weights, **record.weights()}) for other in state.others)
        return replace(state, record=record, weights=weights, others=others, astray="")

    def write(self, state: State, record: Record, move: bool) -> None:
        m = self.mesh
        with self._writing() as disturbed:
            self._admit()
            m.version += disturbed
            if state.token != m.version:
                raise Conflict("the object has been modified")
            if move:
                for name, weight in record.weights().items():
                    assert m.ready[name] or not weight or name == record.stable.name, f"{weight} % to {name}, not ready"
                m.weights.update(record.weights())
                m.shown = record.shown
            m.annotation = record.dumps()
            m.version += 1
            m.manager = "progressive.istio"
            m.writes.append((self.name, dict(m.weights), record.phase))
            assert sum(m.weights.values()) == 100, m.weights
            assert m.weights["old"] == 0

    def follow(self, other: Other, record: Record) -> None:
        m = self.mesh
        with self._writing():
            self._admit()
            if other.token != m.version:
                raise Conflict("the object has been modified")
            m.others[other.key].update(record.weights())
            m.others_shown[other.key] = record.shown
            m.version += 1

    def programmed(self, state: State) -> Programmed:
        self._live()
        m = self.mesh
        lagging = tuple(f"{c.uid} {c.weights}" for c in m.clients if (c.weights, c.shown) != (m.weights, m.shown))
        return Programmed(len(self.mesh.clients), len(self.mesh.clients) - len(lagging), lagging)

    def by_weight(self, state: State) -> bool:
        self._reach()
        return self.mesh.by_weight

    def without_endpoint(self, version: str) -> tuple[str, ...]:
        self._live()
        return tuple(c.uid for c in self.mesh.clients if self.mesh.time < self.mesh.endpoints_at.get(version, 0.0))

    def capacity(self) -> Capacity:
        return self.mesh.capacity

    def look(self) -> Look:
        self._live()
        proxies, unread = {}, {}
        for c in self.mesh.clients:
            if c.silent or self.mesh.time < self.mesh.away_until:
                unread[c.uid] = "no answer"
            else:
                series = {name: (n, x) for name, (n, x) in c.counts.items()}
                proxies[c.uid] = ProxyLook(
                    c.uid,
                    f"requests:{c.epoch}",
                    c.born,
                    series,
                    {CODES: {f"{name}@503": (x, x) for name, (_n, x) in series.items()}},
                    {
                        name: (n + c.hung.get(name, 0) + c.waiting.get(name, 0), n, c.waiting.get(name, 0))
                        for name, (n, _x) in series.items()
                    },
                    {
                        name: {100.0: n - c.late.get(name, 0), 250.0: n - c.late.get(name, 0), 1000.0: n}
                        for name, (n, _x) in series.items()
                    },
                )
        epoch = "served:0"
        served = {f"pod-{v}": ProxyLook(v, epoch, 0.0, {v: (n, 0)}) for v, n in self.mesh.came_in.items()}
        return Look(self.mesh.time, proxies, unread, served)

    def tell(self, reason: str, text: str, warning: bool = False) -> None:
        self.told.append(f"{'Warning' if warning else 'Normal'} {reason}")

    def pod_names(self) -> dict[str, str]:
        return {"10.0.0.2:8080": "v2-pod"}

    def by_hand(self, state: State, record: Record) -> str:
        return f"kubectl patch: {record.stable.name} 100"

    def load_evidence(self) -> Evidence | None:
        self._reach()
        return _evidence.loads(self.mesh.evidence) if self.mesh.evidence else None

    def save_evidence(self, evidence: Evidence) -> None:
        self._before_write()
        self.mesh.evidence = _evidence.dumps(evidence)
        self._after_write()

    def acquire(self, left: bool = False) -> str:
        self._reach()
        holder, until = self.mesh.lease or (NOBODY if left else self.name, math.inf)
        if holder != self.name and until > self.mesh.time:
            return holder
        self.mesh.lease = (self.name, self.mesh.time + 15)
        return ""

    def renew(self) -> bool:
        self._reach()
        mine = not self.mesh.lease or self.mesh.lease[0] == self.name
        self.mesh.lease = (self.name, self.mesh.time + 15) if mine else self.mesh.lease
        return mine

    def release_lease(self) -> None:
        self._reach()
        self.mesh.lease = None if self.mesh.lease and self.mesh.lease[0] == self.name else self.mesh.lease

    # ---------------------------------------------------------------- running

    def run(self, want: Want, budget: float = 60.0) -> Outcome:
        """Passes until the release is over, as the action plugin makes them."""
        changed = False
        while True:
            outcome = self.one_pass(want, budget)
            changed = changed or outcome.changed
            if outcome.finished:
                return replace(outcome, changed=changed)

    def one_pass(self, want: Want, budget: float = 2.0) -> Outcome:
        """One pass of this run."""
        self.passes += 1
        self.began = self.began or self.mesh.time
        before = (self.passes > 1, self.begun, self.mesh.time - self.began)
        outcome = Release(self, want, self.said.append, *before).run(budget)
        self.begun = outcome.record.id if outcome.record else ""
        return outcome


STEPS = (Step(10, 5), Step(50, 5), Step(100, 5))
WANT = Want("v2", steps=STEPS, max_wait=900)


def _differs(there: Shown | None, record: Record | None) -> str:
    wanted = record.shown if record else Shown()
    return "" if (there or Shown()) == wanted else f"{there} is shown"


def steady(rate: float) -> Rate:
    return lambda _time: rate


FAULTS = ("kill_before", "kill_after", "lose_answer", "lose_write", "conflict")


def fault_at_every_write(
    make: Callable[[], Mesh], want: Want, fault: str, runs: Callable[[Mesh, str], Runner] = Runner
) -> Iterator[tuple[Mesh, Outcome]]:
    """The same release again and again, with the fault at another of its writes each time; what is killed is taken up.

    ``runs`` makes each run. Running it once more changes nothing.
    """
    count = number = 0
    while number <= count:
        number += 1
        mesh = make()
        runner = runs(mesh, "runner-1")
        setattr(runner, fault, number)
        try:
            outcome = runner.run(want)
        except Killed:
            mesh.advance(20.0)  # the lease of the dead runs out; users go on meanwhile
            outcome = runs(mesh, "next").run(want)
        count = max(count, runner.count)
        yield mesh, outcome
        assert not runs(mesh, "again").run(want).changed, (fault, number)


def check_end(mesh: Mesh, outcome: Outcome) -> None:
    """What is true after every release that ended."""
    phase = {"promoted": 100, "aborted": 0, "rolled_back": 0}[outcome.phase]
    assert mesh.weights == {"v1": 100 - phase, "v2": phase, "old": 0}
    record = mesh.record()
    assert record is not None
    assert record.phase == outcome.phase
    assert all(there == {"v1": 100 - phase, "v2": phase} for there in mesh.others.values())
    for there in (mesh.shown, *mesh.others_shown.values()):
        assert there == record.shown
        assert (there.cohort, there.value, there.mirror or 0) == ((), "", 0)
    assert mesh.foreign == {"headers": {"x-team": "other"}, "timeout": "3s"}
    assert mesh.lease is None or mesh.lease[1] <= mesh.time  # a killed run leaves a lease that runs out
