# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a version that has no traffic out: of the routes, of the proxies, of the DestinationRules. Private.

No Kubernetes in here. Every write is the next one that is missing from what is there, so a run can be killed anywhere
and any other run takes it up; the subset goes last, when nobody routes there and no request is under way any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from ansible_collections.progressive.istio.plugins.module_utils._looks import Look
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Other,
    Outcome,
    Refuse,
    ReleaseError,
    State,
    Want,
    require_clients,
    resolve,
)
from ansible_collections.progressive.istio.plugins.module_utils._protocol import (
    Conflict,
    Lost,
    Programmed,
    Stopped,
    Unreachable,
    World,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import PROMOTED, Record
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    RULES,
    Object,
    Operation,
    Route,
    all_routes,
    describe,
    expected_mirrors,
    full_host,
    pinned,
)
from ansible_collections.progressive.istio.plugins.module_utils._writes import Tries, Writes

RETIRED, RETIRING, REFUSED = "retired", "retiring", "refused"
DRAIN_SECONDS = 5.0  # Istio's terminationDrainDuration: the least time between the last route and the end of a version
LOOK_SECONDS = 0.5
NAMED = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """A DestinationRule for the service in its namespace, and the names of its subsets."""

    where: str
    subsets: tuple[str, ...]
    token: object = None

    def can_lose(self, version: str) -> bool:
        """Whether it has the version beside others: a rule's last subset stays."""
        return version in self.subsets and set(self.subsets) != {version}


class RetiringWorld(World, Protocol):
    """What retiring sees and does beyond a release."""

    def users(self, state: State, version: str) -> tuple[Sequence[str], str]:
        """Whatever still sends or mirrors requests to a version, and what of that may not be read, both in words."""

    def take_out(self, place: State | Other, version: str, record: Record | None) -> None:
        """Take the destination out of the route that ``place`` read, and write the record, if any.

        Raises Conflict or Lost.
        """

    def routing(self, version: str) -> Programmed:
        """The proxies; ``lagging`` are those that have any route to the version."""

    def in_flight(self, version: str) -> Mapping[str, int | str]:
        """By proxy that knows the version's clusters: requests under way there, or why it does not tell."""

    def rules(self) -> Sequence[Rule]:
        """The DestinationRules of the service; none with an HTTPRoute."""

    def known_elsewhere(self, version: str) -> Sequence[str]:
        """DestinationRules of other namespaces that have a subset of that name for the service."""

    def drop_subset(self, rule: Rule, version: str) -> None:
        """Take the subset out of a rule. Raises Conflict or Lost."""


# ---------------------------------------------------------------- decisions: pure


def which(want: Want, state: State) -> str | Refuse:
    """The version that may be retired, as far as the route objects of the service tell."""
    record = state.record
    if record and record.running:
        return Refuse(
            REFUSED,
            f"release {record.id} of {record.canary.name} is {record.phase} at {record.weight} % on {state.where}; "
            "promote or abort it before a version can be retired",
        )
    left = record.stable if record and record.phase == PROMOTED else None
    version = want.stable or (left.name if left else "")
    if not version:
        return Refuse(
            REFUSED, f"{state.where} has no record of a promoted release; say with stable_version what to retire"
        )
    for where, weights in ((state.where, state.weights), *((other.where, other.weights) for other in state.others)):
        if weights.get(version, 0):
            only = not any(weight for name, weight in weights.items() if name != version)
            return Refuse(
                REFUSED,
                f"{version} is the only version with traffic on {where}; nothing can be retired before another one "
                "is promoted"
                if only
                else f"{where} gives {version} a weight of {weights[version]}; move that to another version first",
            )
    pods = state.version(version)
    if not want.stable and left and pods.pods and pods.version.hash != left.hash:
        return Refuse(
            REFUSED,
            f"{version} is not what release {left.name} -> {record.canary.name if record else ''} left behind: its pod "
            f"template {left.hash} is now {pods.version.hash}, maybe the next release; name it with stable_version if "
            "it is to go",
        )
    return version


def sends_to(objects: Iterable[Object], key: str) -> list[str]:
    """Every route with weight for, or mirror to, ``subset|full host`` in these route objects, in words."""
    return [text for obj in objects for route in all_routes(obj) for text in _sends_to(obj, route, key)]


def _sends_to(obj: Object, route: Route, key: str) -> Iterator[str]:
    where, namespace = f"{describe(obj)} {route.label()}", obj["metadata"].get("namespace", "")
    for d, weight in route.effective():
        if weight and f"{d.subset}|{full_host(d.host, namespace)}" == key:
            yield f"{where} gives it a weight of {weight}"
    if key in expected_mirrors(obj, route):
        yield f"{where} mirrors to it"


def find_destination(obj: Object, host: str, version: str, canary: str, name: str = "") -> Route | None:
    """The route that a version is to be taken out of: the one ``name``d, the one that has it beside others.

    Where it is out already, one that has the version that stayed. None where the object has no such route.
    """
    namespace = obj["metadata"].get("namespace", "")
    routes = [
        route
        for route in all_routes(obj)
        if route.section in ("http", RULES)
        and all(route.section == RULES or full_host(d.host, namespace) == host for d in route.destinations)
    ]
    if name:
        return next((route for route in routes if route.name == name), None)
    having = [route for route in routes if version in route.weights() and len(route.destinations) > 1]
    if len(having) > 1:
        raise ReleaseError(
            f"{describe(obj)} has {version} in {', '.join(route.label() for route in having)}; say which one with "
            "'route' (its name)"
        )
    alone = [route for route in routes if version in route.weights()]
    staying = [route for route in routes if canary in route.weights()] or routes
    return next(iter(having or alone or staying), None)


def subset_patch(rule: Object, version: str) -> list[Operation]:
    """JSON Patch that takes a subset out of a DestinationRule and touches nothing else."""
    subsets = rule["spec"].get("subsets") or []
    places = [index for index, subset in enumerate(subsets) if subset["name"] == version]
    return [
        {"op": "test", "path": "/spec/host", "value": rule["spec"]["host"]},
        *({"op": "test", "path": f"/spec/subsets/{index}/name", "value": version} for index in places),
        pinned(rule),
        *({"op": "remove", "path": f"/spec/subsets/{index}"} for index in reversed(places)),
    ]


def noted(state: State, version: str) -> Record | None:
    """The record as it should be: that of the release that is over, and what was retired after it."""
    return replace(state.record, retired=version) if state.record else None


def places(state: State, version: str) -> list[State | Other]:
    """The route objects that are still to be written, in their order: the one with the record first."""
    first = version in state.weights or state.record != noted(state, version)
    return [*([state] if first else []), *(other for other in state.others if version in other.weights)]


def _said(answers: Iterable[str]) -> str:
    return "; ".join(sorted(answers)[:NAMED])


# ---------------------------------------------------------------- the run


class Retirement:
    """Retires one version; ``say`` gets one line for every event, at once."""

    def __init__(self, world: RetiringWorld, want: Want, say: Callable[[str], None]) -> None:
        self.world, self.want, self.say = world, want, say
        self.version = ""
        self.writes = Writes(world, LOOK_SECONDS, say)

    def run(self) -> Outcome:
        """To the end. Raises ReleaseError for what the user has to mend; Stopped, Orphaned when it must not go on."""
        state = self.world.observe()
        self.want = resolve(self.want, state)
        version = self._admit(state)
        if isinstance(version, Refuse):
            return self._outcome(version.phase, version.text, state, failed=True)
        self.version = version
        require_clients(state, self.world.look())  # and who has sent requests: of a large mesh those are read
        if not places(state, version) and not any(rule.can_lose(version) for rule in self.world.rules()):
            return self._finish()
        if holder := self.world.acquire():
            raise Stopped(f"this service is being worked on by {holder}; wait for it, or end that run first")
        self.writes.renewed = self.world.now()
        try:
            return self._finish()
        finally:
            if self.world.alive():
                with contextlib.suppress(Unreachable, Conflict, Lost):  # a lease that is not given back runs out
                    self.world.release_lease()

    def _admit(self, state: State) -> str | Refuse:
        """The version; or why not. Asked again before every write of a route: somebody may have begun a release."""
        version = which(self.want, state)
        if isinstance(version, Refuse):
            return version
        users, unseen = self.world.users(state, version)
        if users:
            return Refuse(REFUSED, f"{version} still has traffic: {_said(users)}; move that away first")
        if unseen and not self.version:
            self.say(f"WARNING  {unseen} may not be listed: one of them may send requests to {version}")
        return version

    def _finish(self) -> Outcome:
        state = self._out_of_the_routes()
        if isinstance(state, Refuse):
            return self._stopped(state)
        if late := self._until(lambda: self._late(state)):
            text = f"{len(late)} proxies may still route to {self.version} after {self.want.verify_timeout:g} s"
            return self._stuck(state, f"{text}: {_said(late)}; look at their connection to istiod, and run it again")
        answer = self.world.routing(self.version)
        told = f"no route to {self.version} in {answer.programmed} of {answer.asked} proxies"
        told += f", {answer.rest}" if answer.rest else ""
        self.say(told)
        if busy := self._drain():
            return self._stuck(state, f"{busy} after {self.want.drain_timeout:g} s; run it again when they are over")
        stays = self._out_of_the_rules()
        if isinstance(stays, Refuse):
            return self._stopped(stays)
        if stays:
            self.say(stays)
        if late := self._until(self._knowing):
            text = f"{len(late)} proxies still have a cluster for {self.version}: {_said(late)}"
            return self._stuck(state, f"{text}; nobody routes there; look at their connection to istiod")
        text = f"{self.version} is retired: {told}, no request under way; its workload may be scaled down or deleted"
        self.say(f"RETIRED  {text}")
        return self._outcome(RETIRED, text, self.writes.observe())

    # ---------------------------------------------------------------- the steps

    def _out_of_the_routes(self) -> State | Refuse:
        """Every route object in turn; the state after it."""
        tries = self.writes.tries()
        while True:
            state = self.writes.observe()
            waiting = places(state, self.version)
            if not waiting:
                return state
            if isinstance(refused := self._admit(state), Refuse):
                return refused
            place, record = waiting[0], noted(state, self.version)
            mine = record if isinstance(place, State) else None
            if self._write(tries, place.where, partial(self.world.take_out, place, self.version, mine)):
                self.say(f"{place.where}: {self.version} is out of the route")

    def _late(self, state: State) -> Sequence[str]:
        """Proxies that do not run the route objects as they are now, or have any other route to the version."""
        return (*self.world.programmed(state).lagging, *self.world.routing(self.version).lagging)

    def _drain(self) -> str:
        """Wait until nothing is under way, twice in a row; or what still is, when the time is over."""
        began, quiet, before = self.world.now(), 0, self.world.look()
        while True:
            busy = {name: n for name, n in self.world.in_flight(self.version).items() if n}
            quiet = 0 if busy else quiet + 1
            now = self.world.now()
            if quiet == 1:
                before = self.world.look()
            if quiet > 1 and now - began >= DRAIN_SECONDS:
                self._strangers(before)
                return ""
            text = _under_way(self.version, busy)
            if now - began > self.want.drain_timeout and busy:
                return text
            if busy:
                self.writes.now_and_then(f"waits for {text}")
            self.writes.keep_lease()
            self.world.sleep(LOOK_SECONDS)

    def _strangers(self, before: Look) -> None:
        """Nobody routes there, and yet requests come in: of clients without a proxy, which go by endpoints."""
        after = self.world.look()
        came = _served(after, self.version) - _served(before, self.version)
        if came > 0:
            self.say(
                f"WARNING  {came} requests came in at {self.version} in {after.time - before.time:.0f} s although no "
                "proxy routes there: of clients without a sidecar, which take any endpoint of the Service; they lose "
                "what is under way when a pod ends"
            )

    def _out_of_the_rules(self) -> str | Refuse:
        """Take the subset out of every rule that has others as well; what to say of those that keep it, if any."""
        tries = self.writes.tries()
        while True:
            rules = self.writes.read(self.world.rules)
            waiting = [rule for rule in rules if rule.can_lose(self.version)]
            if not waiting:
                kept = [rule.where for rule in rules if self.version in rule.subsets]
                return f"{', '.join(kept)} keeps {self.version}: it is the last subset there" if kept else ""
            if isinstance(refused := self._admit(self.writes.observe()), Refuse):
                return refused  # somebody has sent requests there while the old ones were waited for
            rule = waiting[0]
            if self._write(tries, rule.where, partial(self.world.drop_subset, rule, self.version)):
                self.say(f"{rule.where}: subset {self.version} is removed")

    def _knowing(self) -> Sequence[str]:
        """Proxies that have a cluster for the version, where none of the rules gives them one."""
        rules = self.writes.read(self.world.rules)
        if not rules or any(self.version in rule.subsets for rule in rules):
            return ()
        if self.world.known_elsewhere(self.version):
            return ()
        return tuple(self.world.in_flight(self.version))

    # ---------------------------------------------------------------- small things

    def _until(self, question: Callable[[], Sequence[str]]) -> Sequence[str]:
        """What the question still answers when ``verify_timeout`` is over; nothing as soon as it answers nothing."""
        began = self.world.now()
        while answer := question():
            if self.world.now() - began > self.want.verify_timeout:
                return answer
            self.writes.keep_lease()
            self.world.sleep(LOOK_SECONDS / 5)
        return ()

    def _write(self, tries: Tries, where: str, write: Callable[[], None]) -> bool:
        self.writes.keep_lease()
        refused = tries.refused
        if self.writes.attempt(tries, where, write):
            return True
        self.writes.changed |= tries.refused == refused  # its answer was lost, it may have happened
        self.world.sleep(LOOK_SECONDS / 5)
        return False

    def _stuck(self, state: State, text: str) -> Outcome:
        text += "; nothing was scaled or deleted"
        self.say(f"NOT RETIRED  {text}")
        return self._outcome(RETIRING, text, state, failed=True)

    def _stopped(self, refused: Refuse) -> Outcome:
        """Somebody wants the version back, after the first write or before it."""
        return self._outcome(refused.phase, refused.text, self.writes.observe(), failed=True)

    def _outcome(self, phase: str, text: str, state: State, failed: bool = False) -> Outcome:
        record = state.record
        weight = record.weight if record else 0
        return Outcome(
            phase,
            text,
            failed,
            finished=True,
            changed=self.writes.changed,
            weight=weight,
            record=record,
            verdict=None,
            evidence=None,
        )


def _under_way(version: str, busy: Mapping[str, int | str]) -> str:
    total = sum(n for n in busy.values() if isinstance(n, int))
    where = _said(f"{name} {n}" for name, n in busy.items())
    return f"{total} requests to {version} are still under way: {where}"


def _served(look: Look, version: str) -> int:
    """Requests that the version's own proxies have counted."""
    return sum(pod.series.get(version, (0, 0))[0] for pod in look.served.values())
