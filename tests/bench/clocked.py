# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a patch to "all proxies run it", by the clock, and what looking costs: this collection's own code, in process.

The same code measures a real cluster and a fake one. All times are seconds since the epoch by this machine's clock; the
proxies of the lab and the fake ones are on it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _proxies
from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster
from ansible_collections.progressive.istio.plugins.module_utils._gate import Tolerance
from ansible_collections.progressive.istio.plugins.module_utils._mesh import Mesh, Programmed
from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome, State, Want
from ansible_collections.progressive.istio.plugins.module_utils._record import Record, Step
from ansible_collections.progressive.istio.plugins.module_utils._release import Release
from ansible_collections.progressive.istio.plugins.module_utils._run import Run
from ansible_collections.progressive.istio.plugins.module_utils._weight import Wish, set_weights
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld, Target

KIND, PORT = "VirtualService", 80
CONFIRMED = " proxies after "  # in the line of a step that the proxies run
# A gate that is content with a handful of requests: what a step then takes is overhead, and the pause between looks.
EASY = Tolerance(floor=0.5, alpha_pass=0.5)
Truth = Callable[[], Sequence[float]]  # when each proxy took the last change


class BenchError(Exception):
    """What was expected and is not there, on one line."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One change of weights: sent to the API server, answered, taken by each proxy, known to us."""

    sent: float
    answered: float
    taken: Sequence[float]
    known: float

    @property
    def istio(self) -> float:
        """From sending the patch until the last proxy runs it: the API server's and Istio's part."""
        return max(self.taken) - self.sent

    @property
    def ours(self) -> float:
        """From then until we know. Below zero where istiod's word for proxies that were not read came too early."""
        return self.known - max(self.taken)

    @property
    def total(self) -> float:
        return self.known - self.sent

    @property
    def delays(self) -> list[float]:
        """By proxy, seconds from sending the patch until it ran the weights."""
        return [max(0.0, taken - self.sent) for taken in self.taken]


class Clocked(Cluster):
    """Remembers when its last patch was sent and answered."""

    def __init__(self, kubeconfig: Path | None = None) -> None:
        """Without ``kubeconfig``: what the environment says."""
        super().__init__(SimpleNamespace(params={"kubeconfig": str(kubeconfig)} if kubeconfig else {}))
        self.patched = (0.0, 0.0)

    def patch_json(
        self,
        group_version: str,
        obj: Mapping[str, Any],
        plural: str,
        patch: list[dict[str, Any]],
        dry_run: bool = False,
    ) -> dict[str, Any]:
        sent = time.time()
        done = super().patch_json(group_version, obj, plural, patch, dry_run)
        self.patched = (sent, time.time())
        return done


@contextlib.contextmanager
def connected(kubeconfig: Path | None) -> Iterator[Clocked]:
    """A cluster whose port-forwards are closed at the end."""
    cluster = Clocked(kubeconfig)
    try:
        yield cluster
    finally:
        cluster.forget(set())


class Dumps:
    """Reads from the proxies themselves when they took the last change: Envoy's ``last_updated`` of their routes."""

    def __init__(self, cluster: Cluster, obj: Mapping[str, Any]) -> None:
        self._cluster, self._obj = cluster, obj
        self._mesh = Mesh(cluster)

    def __call__(self) -> list[float]:
        self._mesh.refresh()
        path = _proxies.routes_path([PORT])
        found = []
        for proxy in self._mesh.proxies:
            body = self._cluster.admin(proxy.namespace, proxy.pod, path)
            times = [epoch(route.since) for route in _proxies.envoy_routes(body, self._obj) if route.since]
            found += [max(times)] if times else []
        return found


def epoch(text: str) -> float:
    """RFC 3339 as seconds since the epoch."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# ---------------------------------------------------------------- istio_weight


def weigh(kubeconfig: Path | None, where: tuple[str, str], truth: Truth, rounds: int) -> list[Arrival]:
    """What istio_weight does, again and again: each time over connections of its own, as each task is a process."""
    found = []
    for number in range(rounds):
        weight = (10 + number % 80) * (number + 1 < rounds)  # never the one before; a release begins at 0
        wish = Wish(*where, KIND, "", {"v1": 100 - weight, "v2": weight}, "proxies", 30.0)
        with connected(kubeconfig) as cluster:
            result = set_weights(cluster, wish, check_mode=False)
            known = time.time()
        if not result["changed"]:
            raise BenchError(f"{'/'.join(where)} had weight {weight} already")
        found.append(Arrival(*cluster.patched, truth(), known))
    return found


# ---------------------------------------------------------------- a release


class ClockedWorld(LiveWorld):
    """Notes for each step when it was written and when the release came to know that the proxies run it."""

    def __init__(self, cluster: Clocked, target: Target, truth: Truth | None) -> None:
        super().__init__(cluster, target, Run(), lambda _text: None)
        self._clocked, self._truth, self._open = cluster, truth, False
        self.arrivals: list[Arrival] = []
        self.looks = 0

    def write(self, state: State, record: Record, move: bool) -> None:
        super().write(state, record, move)
        self._open = move

    def programmed(self, state: State) -> Programmed:
        answer = super().programmed(state)
        known = time.time()
        if self._open and not answer.lagging and self._truth:
            self._open = False
            self.arrivals.append(Arrival(*self._clocked.patched, self._truth(), known))
        return answer

    def look(self) -> Any:
        self.looks += 1
        return super().look()


def target_of(where: tuple[str, str], canary: str) -> Target:
    return Target(*where, canary, KIND, "", "", ())


def want_of(canary: str, steps: Sequence[Step], **more: Any) -> Want:
    return Want(canary=canary, steps=tuple(steps), tolerance=EASY, **more)


def release(kubeconfig: Path | None, where: tuple[str, str], truth: Truth, steps: int) -> list[Arrival]:
    """Two releases, there and back, of so many steps together: its own loop over connections that it keeps."""
    found: list[Arrival] = []
    for canary in ("v2", "v1"):
        plan = [Step(weight, 0) for weight in range(100 - (steps + 1) // 2 + 1, 101)]
        with connected(kubeconfig) as cluster:
            world = ClockedWorld(cluster, target_of(where, canary), truth)
            said: list[str] = []
            outcome = Release(world, want_of(canary, plan), said.append).run(1800.0)
        if outcome.phase != "promoted":
            raise BenchError(f"the release of {canary} is {outcome.phase}: {outcome.text} {said[-2:]}")
        found += world.arrivals
    return found


# ---------------------------------------------------------------- what looking costs


@dataclass(slots=True)
class Cost:
    """Of a number of proxies: CPU seconds of this process, seconds, and what was asked meanwhile by kind."""

    proxies: int
    cpu: float
    seconds: float
    asked: Mapping[str, int] = field(default_factory=dict)
    sent: Mapping[str, int] = field(default_factory=dict)


class Meter:
    """Takes this process's CPU time, the clock and a fake cluster's counters before and after something."""

    def __init__(self, counters: Callable[[], Mapping[str, Mapping[str, int]]]) -> None:
        self._counters = counters

    def of(self, proxies: int, work: Callable[[], object], times: int = 1) -> Cost:
        """``proxies``: how many one time reads; the costs are of all times together."""
        before = self._counters()
        began, cpu = time.monotonic(), time.process_time()
        for _time in range(times):
            work()
        spent, seconds = time.process_time() - cpu, time.monotonic() - began
        after = self._counters()
        return Cost(proxies * times, spent, seconds, *(less(after[k], before[k]) for k in ("asked", "sent")))


def less(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """The difference of counters, without those that did not move."""
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def looking(kubeconfig: Path, where: tuple[str, str], meter: Meter, times: int) -> dict[str, Cost]:
    """Costs of listing the proxies, of connecting to each, of reading its weights, and of reading its counters."""
    with connected(kubeconfig) as cluster:
        world = LiveWorld(cluster, target_of(where, "v2"), Run(), lambda _text: None)
        state = world.observe()
        mesh, service = world.mesh, world.service()
        token: Any = state.token
        count = len(mesh.proxies)
        costs = {"list": meter.of(count, mesh.refresh, times)}

        def weights() -> None:
            answers = mesh.lagging(service.ports, token.obj, token.route)
            if len(answers) != count or any(answer.runs for answer in answers.values()):
                raise BenchError(f"{count} proxies expected to run the weights: {len(answers)} do")

        def counters() -> None:
            told = [answer for _proxy, answer in mesh.counters(mesh.proxies, service.backends)]
            if any(isinstance(answer, str) for answer in told):
                raise BenchError(f"proxies do not tell their counters: {told[:1]}")

        costs["first"] = meter.of(count, weights)
        costs["weights"] = meter.of(count, weights, times)
        costs["counters"] = meter.of(count, counters, times)
        return costs


def step(kubeconfig: Path, where: tuple[str, str], meter: Meter, seconds: float) -> tuple[Cost, int, str]:
    """A release that stands at its first step: its costs in that time, its looks, and whom it reads (its own words)."""
    with connected(kubeconfig) as cluster:
        world = ClockedWorld(cluster, target_of(where, "v2"), None)
        plan = [Step(10, int(10 * seconds)), Step(100, 0)]
        wish = want_of("v2", plan, max_wait=100 * seconds)
        said: list[str] = []

        def run(budget: float, *, continued: bool) -> Outcome:
            return Release(world, wish, said.append, continued).run(budget)

        run(2.0, continued=False)  # the beginning, the first write
        for _pass in range(60):
            if any(CONFIRMED in text for text in said):
                break
            run(2.0, continued=False)  # a pass that is not told to have been preceded says when the proxies run it
        looks = world.looks
        cost = meter.of(0, lambda: run(seconds, continued=True))
        whom = next((text for text in said if CONFIRMED in text), "")
        if not whom:
            raise BenchError(f"the proxies did not run the first step: {said[-2:]}")
        return cost, world.looks - looks, whom.partition("  ")[2]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that so large a share of all is not above."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-len(ordered) * round(1000 * share) // 1000) - 1))]
