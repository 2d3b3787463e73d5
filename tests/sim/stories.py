# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random releases: a plan, versions, faults and what others do meanwhile, all drawn from one number.

The route object is a real VirtualService here, read and patched by the collection's own code, so that fields of others
can be lost. After every write, and at the end of each story, what must always hold is checked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ansible_collections.progressive.istio.plugins.module_utils import _evidence, _patches, _routes
from ansible_collections.progressive.istio.plugins.module_utils._floors import AUTOSCALER
from ansible_collections.progressive.istio.plugins.module_utils._patches import Token, token_of
from ansible_collections.progressive.istio.plugins.module_utils._plan import Crash, ReleaseError, State, Want
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Conflict, Orphaned, Stopped
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    ANNOTATION,
    APPROVE,
    HELD,
    PROMOTED,
    WAITING,
    Record,
    Step,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Tolerance
from ansible_collections.progressive.istio.tests.sim.simulated import FAULTS, Killed, Mesh, Runner, steady
from ansible_collections.progressive.istio.tests.sim.simulated_floors import SYNC, Object
from ansible_collections.progressive.istio.tests.sim.simulated_shop import Client
from ansible_collections.progressive.istio.tests.unit.plugins.module_utils.shapes import virtual_service

Json: TypeAlias = dict[str, Any]

HOST = "app.ns.svc.cluster.local"
#: So much more of the canary's requests than of stable's may be bad that a step takes some 20 requests.
TOLERANCE = Tolerance(floor=0.2)
BROKEN = (0.7, 1.0)  # bad requests per request of versions that must never be promoted
RUNS = 8  # of one story at most; nothing more happens in the last ones
CALM = 3
LEAST, MOST, LOWERED = 2, 12, 1  # pods that an autoscaler allows, and what somebody makes of that
SPEC = """
hosts: [app]
http:
- name: team-a
  match: [{uri: {prefix: /a}}]
  timeout: 7s
  route: [{destination: {host: elsewhere}}]
- name: main
  timeout: 3s
  retries: {attempts: 0}
  headers: {request: {set: {x-team: other}}}
  route:
  - {destination: {host: app, subset: v1}, weight: 100, headers: {response: {set: {x-from: v1}}}}
"""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens after so many seconds; ``n`` is a number for whatever it needs."""

    after: float
    kind: str
    n: float


@dataclass(frozen=True, slots=True)
class Story:
    """All that is random in one release. ``faults``: of each run, at which of its writes; ``bad``: of the canary."""

    seed: int
    want: Want
    rps: float
    clients: int
    stable_bad: float
    bad: float
    onset: float  # seconds
    events: tuple[Event, ...]
    faults: tuple[dict[str, int], ...]
    budget: float
    scaled: bool  # by an autoscaler for each version

    @property
    def innocent(self) -> bool:
        """Whether the version serves well all the time, and nobody takes its pods away."""
        return self.bad <= self.stable_bad and not self.kinds & {"unready", "newer", "crash"}

    @property
    def guilty(self) -> bool:
        """Whether it is broken from the beginning to the end."""
        return self.bad >= BROKEN[0] and not self.onset and "newer" not in self.kinds

    @property
    def kinds(self) -> set[str]:
        """Of its events."""
        return {event.kind for event in self.events}


EVENTS = (
    "abort",
    "annotate",
    "approve",
    "away",
    "clock",
    "crash",
    "drift",
    "edit",
    "join",
    "leave",
    "lower",
    "newer",
    "pause",
    "restart",
    "second",
    "silent",
    "unready",
    "webhook",
)


def draw(seed: int) -> Story:
    """The story of a number."""
    rng = random.Random(seed)
    weights = sorted({*rng.sample(range(1, 100), rng.choice((0, 1, 1, 2))), 100})
    steps = tuple(
        Step(weight, rng.choice((0, 0, 2, 10)), pause=number > 0 and rng.random() < 0.1)
        for number, weight in enumerate(weights)
    )
    want = Want(
        "v2",
        steps=steps,
        tolerance=TOLERANCE,
        interval=3.0,
        max_wait=40.0,
        max_hold=rng.choice((30.0, 3600.0)),
        on_inconclusive=rng.choice(("hold", "abort")),
        on_drift=rng.choice(("hold", "hold", "abort", "adopt")),
        verify_timeout=5.0,
        latency=None,
        capacity=False,
        approval_timeout=rng.choice((0.0, 20.0)),
        floors_timeout=60.0,
    )
    stable_bad = rng.choice((0.0, 0.0, 0.0, 0.02))
    bad, onset = rng.choice(
        ((stable_bad, 0.0), (stable_bad, 0.0), (rng.uniform(*BROKEN), 0.0), (1.0, rng.uniform(1, 30)))
    )
    events = tuple(
        sorted(
            (
                Event(rng.uniform(0, 30), rng.choice(EVENTS), rng.random())
                for _number in range(rng.choice((0, 1, 1, 2, 4)))
            ),
            key=lambda event: event.after,
        )
    )
    faults = tuple({rng.choice(FAULTS): rng.randint(1, 7)} for _number in range(rng.choice((0, 1, 1, 2, 4))))
    return Story(
        seed,
        want,
        rng.choice((10.0, 20.0)),
        rng.randint(1, 3),
        stable_bad,
        bad,
        onset,
        events,
        faults,
        rng.choice((2.0, 60.0)),
        rng.random() < 0.4,
    )


class Stage(Mesh):
    """The mesh of a story: with a real route object, and with events that happen as time passes."""

    def __init__(self, story: Story) -> None:
        super().__init__(story.seed, self._bad, steady(story.stable_bad), story.rps, story.clients)
        self.story, self.began = story, self.time
        self.obj: Json = virtual_service(SPEC, name="app", namespace="ns")
        self.theirs = without_ours(self.obj)
        self.due = [(self.began + event.after, event.kind, event.n) for event in story.events]
        self.happened: list[str] = []
        self.trouble: list[str] = []
        if story.scaled:
            self._scale()

    def _scale(self) -> None:
        """v1 has five pods and needs them, by its autoscaler's target; v2 has the least."""
        self.ready.update(v1=5, v2=LEAST)
        self.scaling.cost = dict.fromkeys(("v1", "v2"), 1.0 / self.rps)
        for version in ("v1", "v2"):
            self.scaling.autoscalers[version] = [Object(AUTOSCALER, version, LEAST, MOST)]
        self.scaling.synced_at = self.time
        self.scaling.usage = {"v1": (1.0, self.time - SYNC), "v2": (0.0, self.time - SYNC)}

    def _bad(self, time: float) -> float:
        turned = time >= self.began + self.story.onset
        return self.story.bad if turned and self.hashes["v2"] == "h2" else self.story.stable_bad

    def put(self, obj: Json, manager: str) -> None:
        """The route object has changed; proxies take it up as time passes."""
        self.obj, self.manager, self.version = obj, manager, self.version + 1
        self.annotation = (obj["metadata"].get("annotations") or {}).get(ANNOTATION)
        self.weights = {"v1": 0, "v2": 0, "old": 0} | _routes.pick_route(obj, HOST, "v2").weights()

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        while self.due and self.due[0][0] <= self.time:
            _at, kind, n = self.due.pop(0)
            self.happened.append(kind)
            getattr(self, f"_{kind}")(n)

    def calm(self) -> None:
        """Whatever was wrong is over, and nothing more happens."""
        self.due = []
        self._back(0.0)
        self.away_until = self.refused_until = 0.0

    def _later(self, seconds: float) -> None:
        self.due = sorted([*self.due, (self.time + seconds, "back", 0.0)])

    # ---------------------------------------------------------------- events

    def _back(self, _n: float) -> None:
        self.ready["v2"] = max(self.ready["v2"], LEAST)
        for client in self.clients:
            client.silent = False

    def _abort(self, _n: float) -> None:
        self._person("aborted")

    def _pause(self, _n: float) -> None:
        self._person("paused")

    def _person(self, state: str) -> None:
        """Somebody else runs the playbook for it."""
        actor = Actor(self, f"person-{state}")
        try:
            actor.run(replace(self.story.want, state=state))
        except (Stopped, ReleaseError) as error:
            self.happened.append(str(error))

    def _second(self, _n: float) -> None:
        """Another run of the same playbook begins, and is one look long."""
        try:
            Actor(self, f"second-{len(self.happened)}").one_pass(self.story.want, budget=0.0)
        except (Stopped, ReleaseError) as error:
            self.happened.append(str(error))

    def _approve(self, _n: float) -> None:
        record = self.record()
        if record and record.phase == WAITING:
            self._annotate_with(APPROVE, f"{record.id}/{record.pause}")

    def _annotate(self, n: float) -> None:
        self._annotate_with("team/note", f"{n}")
        self.theirs = without_ours(self.obj)

    def _annotate_with(self, key: str, text: str) -> None:
        obj = _routes.copy_of(self.obj)
        obj["metadata"].setdefault("annotations", {})[key] = text
        self.put(obj, "kubectl")

    def _edit(self, n: float) -> None:
        obj = _routes.copy_of(self.obj)
        obj["spec"]["http"][1]["timeout"] = f"{1 + round(n * 9)}s"
        self.put(obj, "kubectl-edit")
        self.theirs = without_ours(obj)

    def _drift(self, n: float) -> None:
        share = round(100 * n)
        obj = _routes.copy_of(self.obj)
        route = obj["spec"]["http"][1]["route"]
        if len(route) == 2 and (record := self.record()) and record.running:
            route[0]["weight"], route[1]["weight"] = 100 - share, share
            self.put(obj, "kubectl-edit")

    def _away(self, n: float) -> None:
        self.away_until = self.time + 20 * n

    def _webhook(self, n: float) -> None:
        self.refused_until = self.time + 20 * n

    def _clock(self, n: float) -> None:
        """The API server's clock is set: forwards by up to two minutes, or backwards by half a minute."""
        self.time += 150 * n - 30

    def _crash(self, _n: float) -> None:
        self.crashes["v2"] = (Crash(self.time, "pod v2-1 has crashed"),)

    def _join(self, n: float) -> None:
        self.clients.append(Client(f"late-{n}", self.time, dict(self.weights)))

    def _leave(self, _n: float) -> None:
        if len(self.clients) > 1:
            self.clients.pop()

    def _lower(self, n: float) -> None:
        """Somebody lowers a floor."""
        for one in self.scaling.autoscalers.get("v1" if n < 0.5 else "v2", ()):
            one.put(LOWERED, "argocd")

    def _newer(self, _n: float) -> None:
        self.hashes["v2"] = "h3"

    def _restart(self, _n: float) -> None:
        client = self.clients[0]
        client.epoch += 1
        client.counts, client.late = {}, {}

    def _silent(self, n: float) -> None:
        self.clients[0].silent = True
        self._later(20 * n)

    def _unready(self, n: float) -> None:
        self.ready["v2"] = 0
        self._later(20 * n)

    # ---------------------------------------------------------------- what must hold

    def check_write(self, by: Actor, before: Record | None, share: int, record: Record) -> None:
        """After a write of the record, where the canary had ``share`` percent."""
        route = _routes.pick_route(self.obj, HOST, "v2")
        shares = route.weights()
        self._must(sum(shares.values()) == 100, f"weights {shares}")
        self._must(without_ours(self.obj) == self.theirs, f"fields of others are not what they were: {self.obj}")
        given = shares.get("v2", 0)
        self._must(given <= share or self.ready["v2"] > 0, f"{given} % to a version that is not ready")
        holder, until = self.lease or ("", 0.0)
        self._must(by.takes_no_lease or holder in ("", by.name) or until <= self.time, f"{holder} has the lease")
        follows = before is not None and before.running and before.begun and record.id == before.id
        if (follows and given > share) or record.phase == PROMOTED:
            self._must(self.passes(record), f"{share} % to {given} % ({record.phase}) without a pass")

    def passes(self, record: Record) -> bool:
        """By what is stored alone."""
        if self.evidence is None:
            return False
        evidence = _evidence.loads(self.evidence)
        return evidence.release == record.id and _evidence.judge_again(evidence, TOLERANCE).kind == "pass"

    def check_end(self, record: Record) -> None:
        """When all is over."""
        canary = 100 if record.phase == PROMOTED else 0
        self._must(record.phase in (PROMOTED, ABORTED), f"it is {record.phase}")
        self._must((self.weights["v1"], self.weights["v2"]) == (100 - canary, canary), f"weights {self.weights}")
        self._must(not (self.story.guilty and record.phase == PROMOTED), "a broken version was promoted")
        blamed = self.story.innocent and "beyond tolerance" in record.reason
        self._must(not blamed, f"a good version was blamed: {record.reason}")
        for one in self.scaling.objects.values():
            theirs = {LEAST, LOWERED} if "lower" in self.happened else {LEAST}
            self._must(one.minimum in theirs, f"the floor of {one.name} stays at {one.minimum}")
        self._must(self.lease is None or self.lease[1] <= self.time, f"{self.lease} stays")

    def _must(self, holds: bool, text: str) -> None:
        if not holds:
            self.trouble.append(text)


class Actor(Runner):
    """A run of the playbook on a stage."""

    mesh: Stage

    def __init__(self, stage: Stage, name: str, faults: Mapping[str, int] | None = None) -> None:
        super().__init__(stage, name, **(faults or {}))
        self.takes_no_lease = name.startswith("person")

    def observe(self) -> State:
        state, obj = super().observe(), self.mesh.obj
        route = _routes.pick_route(obj, HOST, "v2")
        approval = (obj["metadata"].get("annotations") or {}).get(APPROVE, "")
        return replace(state, weights=route.weights(), token=Token(obj, route), approval=approval)

    def write(self, state: State, record: Record, move: bool) -> None:
        stage, token = self.mesh, token_of(state)
        with self._writing() as disturbed:
            self._admit()
            if disturbed:
                stage.put(_routes.copy_of(stage.obj), stage.manager)
            if token.obj is not stage.obj:
                raise Conflict("the object has been modified")
            before, share = stage.record(), stage.weights["v2"]
            stage.put(_routes.apply_patch(token.obj, _patches.patch_for(token, record, move)), "progressive.istio")
            stage.check_write(self, before, share, record)


def without_ours(obj: Json) -> Json:
    """The route object without what a release may change: two weights, the canary's destination, its annotations."""
    rest: Json = _routes.copy_of(obj)
    annotations = rest["metadata"].pop("annotations", None) or {}
    rest["metadata"]["annotations"] = {k: v for k, v in annotations.items() if k not in (ANNOTATION, APPROVE)}
    main = rest["spec"]["http"][1]
    main["route"] = [entry for entry in main["route"] if entry["destination"]["subset"] != "v2"]
    for entry in main["route"]:
        entry.pop("weight", None)
    return rest


def tell(seed: int) -> Stage:
    """All of a story, to its end. Whatever must not be is in ``trouble``."""
    story = draw(seed)
    stage = Stage(story)
    for number in range(RUNS):
        if number == RUNS - CALM:
            stage.calm()
        faults = story.faults[number] if number < len(story.faults) else None
        record = stage.record()
        want = replace(story.want, retry=bool(record and record.phase == HELD and number >= RUNS - CALM))
        over = _run(stage, Actor(stage, f"run-{number}", faults), want)
        if over:
            break
        stage.advance(20.0)
    stage.calm()
    if (record := stage.record()) and record.running:  # it waits for somebody, and nobody came
        _run(stage, Actor(stage, "person-last"), replace(story.want, state="aborted"))
    stage.advance(20.0)
    if record := stage.record():
        stage.check_end(record)
        refused = stage.hashes["v2"] == record.canary.hash and (record.phase == PROMOTED or record.summary().rejects)
        if refused and Actor(stage, "again").run(story.want).changed:
            stage.trouble.append("the same once more changes something")
    else:
        stage.trouble.append("it never began")
    return stage


def _run(stage: Stage, actor: Actor, want: Want) -> bool:
    """Whether the release is over after this run, which may be killed, refused or stopped."""
    try:
        outcome = actor.run(want, stage.story.budget)
    except (Killed, Stopped, Orphaned, ReleaseError) as error:
        stage.happened.append(f"{type(error).__name__} {error}")
        return False
    return outcome.phase in (PROMOTED, ABORTED)
