# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real World: what a release sees and does, in a cluster with Istio. Private to this collection."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _evidence, _patches, _proxies, _routes
from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience
from ansible_collections.progressive.istio.plugins.module_utils._capacity import Capacity
from ansible_collections.progressive.istio.plugins.module_utils._capacity_world import CapacityReader
from ansible_collections.progressive.istio.plugins.module_utils._checks_world import CheckReader
from ansible_collections.progressive.istio.plugins.module_utils._cluster import NO_FORWARD, ApiError, Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._counters_world import CounterReader
from ansible_collections.progressive.istio.plugins.module_utils._delegates import is_delegate
from ansible_collections.progressive.istio.plugins.module_utils._events import EventWriter
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Evidence
from ansible_collections.progressive.istio.plugins.module_utils._find import (
    all_route_objects,
    find_route_object,
    find_service,
    own_name,
    reading,
    stored_evidence,
    writing,
)
from ansible_collections.progressive.istio.plugins.module_utils._floors_world import FloorReader
from ansible_collections.progressive.istio.plugins.module_utils._lease import Lease, Leasing, metadata_of
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._mesh import (
    READ_MOST,
    Mesh,
    Programmed,
    Proxy,
    around,
    split,
    told_with_reasons,
)
from ansible_collections.progressive.istio.plugins.module_utils._objects import (
    Finding,
    Service,
    VersionPod,
    View,
    annotations_of,
    pod_names,
    record_of,
    revisions,
    version_pods,
    workloads,
)
from ansible_collections.progressive.istio.plugins.module_utils._observed import Observed, intended
from ansible_collections.progressive.istio.plugins.module_utils._patches import Token, token_of, tokens_of
from ansible_collections.progressive.istio.plugins.module_utils._plan import Other, ReleaseError, State, Workload
from ansible_collections.progressive.istio.plugins.module_utils._preflight import look_over
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Unreachable
from ansible_collections.progressive.istio.plugins.module_utils._reach import routed_elsewhere
from ansible_collections.progressive.istio.plugins.module_utils._record import APPROVE, Record
from ansible_collections.progressive.istio.plugins.module_utils._rights import all_that_is_missing, require_writes
from ansible_collections.progressive.istio.plugins.module_utils._roots import Roots
from ansible_collections.progressive.istio.plugins.module_utils._run import Run

SLOW_READ_SECONDS = 2.0  # pods, Service and DestinationRule are read at most this often
EXPLAIN_SECONDS = 5.0  # istiod is asked about a proxy that has not run a change for so long
SWEEP_SECONDS = 15.0  # proxies that never sent a request to the service are asked this often,
SWEEP_MOST = 32  # so many at once
OBSERVE_SECONDS = 0.5  # between looks at what proxies send, where their routes may not be read


@dataclass(frozen=True, slots=True)
class Target:
    """Which service, and where its weights stand: options of the modules."""

    namespace: str
    name: str
    canary: str
    route_kind: str
    route_object: str
    route: str
    others: Sequence[str]


class LiveWorld(Leasing):
    """One service in one cluster, seen by one run. Implements ``_release.World``."""

    def __init__(self, cluster: Cluster, target: Target, run: Run, say: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.namespace, self.name, self.canary = target.namespace, target.name, target.canary
        namespace, name = target.namespace, target.name
        self.kind, self.route_object, self.route_name = target.route_kind, target.route_object, target.route
        self.others = tuple(dict.fromkeys(key if "/" in key else f"{namespace}/{key}" for key in target.others))
        self.run, self.say = run, say
        self._moved: frozenset[str] = frozenset()  # by this run: they are looked at to the end
        self.own_name = own_name(name)
        self.mesh = Mesh(cluster)
        self._roots = Roots(cluster)
        self._service: Service | None = None
        self._pods: Sequence[Mapping[str, Any]] = []
        self._version_pods: Mapping[str, VersionPod] = {}
        self._read_at = self._swept_at = float("-inf")
        self._sweeps = 0
        self._last_look: Look | None = None
        self._confirmed: tuple[str, dict[str, set[str]], float] = ("", {}, 0.0)
        self._observed, self._observed_at = Observed({}, ()), float("-inf")
        self._routed_elsewhere: bool | None = None
        self._capacity = CapacityReader(cluster, namespace, say)
        self.checks = CheckReader(cluster, namespace, run, lambda: self.service().selector)
        self.counters = CounterReader(cluster)
        self.events = EventWriter(cluster, lambda: self.service().obj, run.by, say)
        self.floors = FloorReader(cluster, namespace, say, lambda: (self.service(), self._pods))
        self._lease = Lease(cluster, namespace, self.own_name, run, say)

    # ------------------------------------------------------------ time and life

    def now(self) -> float:
        with reading():
            return self.cluster.now()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def alive(self) -> bool:
        return self.run.alive()

    def identity(self) -> str:
        return self.run.by

    # ------------------------------------------------------------ state

    def service(self) -> Service:
        """The Service as last read."""
        if self._service is None:
            self._slow_reads()
        return self._service or find_service(self.cluster, self.namespace, self.name, self.kind)

    def _slow_reads(self) -> None:
        now = time.monotonic()
        if now - self._read_at < SLOW_READ_SECONDS:
            return
        with reading(), all_that_is_missing(self.cluster, self.kind, self.namespace, self.others):
            self._service = find_service(self.cluster, self.namespace, self.name, self.kind)
            selector = ",".join(f"{k}={v}" for k, v in sorted(self._service.selector.items()))
            self._pods = self.cluster.select("v1", self.namespace, "pods", selector)
            self._version_pods = version_pods(self._service, self._pods)
            self.mesh.revisions = revisions(self._service, self._pods)
            self.mesh.keep_up()
        self._read_at = now

    def _slow_reads_if_any(self) -> None:
        """For questions to the proxies: without the API server none of them answers, and that is told one by one."""
        try:
            self._slow_reads()
        except Unreachable:
            if self._service is None:
                raise

    def workloads(self) -> dict[str, Workload]:
        """The pods of each version."""
        return workloads(self.service(), self._pods)

    def observe(self) -> State:
        self._slow_reads()
        service = self.service()
        canary = service.aliases.get(self.canary, self.canary)
        with reading():
            obj = find_route_object(self.cluster, self.kind, self.namespace, service.host, self.route_object)
            self.route_object = obj["metadata"]["name"]
            record = record_of(obj)
            wanted = record.canary.name if record and not canary else canary
            route = _routes.pick_route(obj, service.host, wanted, self.route_name)
            _routes.require_requests(obj, route)
            others = self._others(record, service.host, wanted)
            running = record is not None and record.running
            token = Token(obj, route)
            astray = _patches.astray(token, record) if record and running else ""
        return self._state(token, record, others, astray)

    def _state(self, token: Token, record: Record | None, others: tuple[Other, ...], astray: str = "") -> State:
        return State(
            _routes.describe(token.obj),
            f"Service {self.namespace}/{self.name}",
            token.obj["metadata"]["uid"],
            token.route.weights(),
            record,
            _routes.field_manager(token.obj, token.route.section),
            self.workloads(),
            token,
            self.service().aliases,
            others,
            annotations_of(token.obj).get(APPROVE, ""),
            astray,
        )

    def _others(self, record: Record | None, host: str, canary: str) -> tuple[Other, ...]:
        """The other route objects: those on record while it runs, else those that were asked for.

        And those that a release which was taken back has left behind, or that have its cohort, cookie or mirror still.
        One on record that is gone, or has no such route any more, has nothing left to move.
        """
        on_record = record.others if record else ()
        running = record is not None and record.running
        found = []
        for key in on_record if running else dict.fromkeys((*self.others, *on_record)):
            try:
                namespace, _slash, name = key.partition("/")
                obj = find_route_object(self.cluster, self.kind, namespace, host, name)
                route = _routes.pick_route(obj, host, canary)
            except (ReleaseError, _routes.RouteError):
                if key in on_record:
                    continue
                raise
            manager = _routes.field_manager(obj, route.section)
            token = Token(obj, route)
            astray = _patches.astray(token, record) if record and key in on_record else ""
            other = Other(key, _routes.describe(obj), route.weights(), manager, token, astray)
            if running or key in self._moved or key in self.others or (record and _patches.left_behind(other, record)):
                found.append(other)
        return tuple(found)

    def preflight(self, state: State, look: Look) -> Sequence[Finding]:
        with reading():
            found, unseen = around(self.cluster, self.namespace)
        mine = {name for name, weight in state.weights.items() if weight} | {
            state.aliases.get(self.canary, self.canary)
        } - {""}
        record = state.record
        if record and record.running:
            mine |= {record.stable.name, record.canary.name}
        clients = frozenset(proxy.name.partition("/")[0] for proxy in look.proxies.values() if proxy.counted)
        view = View(
            self.service(),
            token_of(state).obj,
            tuple(sorted(mine)),
            clients,
            found["namespaces"],
            found["pods"],
            found["virtualservices"],
            found["destinationrules"],
            found["canaries"],
            found["rollouts"],
            unseen,
            frozenset(other.key for other in state.others),
        )
        return look_over(view)

    def rehearse(self, state: State, record: Record) -> None:
        with reading():
            if self.mesh.by_stats and (record.audience != Audience() or any(step.mirror for step in record.steps)):
                raise ReleaseError(
                    "cohort, sticky and mirror need pods/portforward: without it weights are seen by what proxies "
                    "send, and these send more to the canary than its weight; grant it, or release without them"
                )
            _patches.rehearse(tokens_of(state).values(), record)

    def after(self, state: State, record: Record) -> State:
        return _patches.after(state, record, self.service().host, self.route_name)

    def follow(self, other: Other, record: Record) -> None:
        token = token_of(other)
        self._patch_route(token, _patches.follow_patch(token, record))

    def write(self, state: State, record: Record, move: bool) -> None:
        token, self._moved = token_of(state), frozenset(record.others)
        self._patch_route(token, _patches.patch_for(token, record, move))

    def _patch_route(self, token: Token, patch: list[dict[str, Any]]) -> None:
        self._read_at = float("-inf")  # what comes after a write is decided by pods as they are then
        self._patch(*_routes.RESOURCES[self.kind], token.obj, patch)

    def _patch(self, api: str, plural: str, obj: Mapping[str, Any], patch: list[dict[str, Any]]) -> None:
        with writing(409, 422):
            self.cluster.patch_json(api, obj, plural, patch)

    def pod_names(self) -> Mapping[str, str]:
        return pod_names(self._pods, self._version_pods)

    def by_hand(self, state: State, record: Record) -> str:
        return " && ".join(_patches.by_hand(self.kind, token, record) for token in tokens_of(state).values())

    # ------------------------------------------------------------ proxies

    def programmed(self, state: State) -> Programmed:
        self._slow_reads_if_any()
        if self.mesh.by_stats:
            return self._by_what_they_send(state)
        tokens = tokens_of(state)
        with reading():
            found = {where: self._roots.carriers(t.obj, t.route, self.service().ports) for where, t in tokens.items()}
        parts = [part for carriers in found.values() for part in carriers]
        intended = repr([(p.where, p.route.name, _proxies.intended(p.obj, p.route)) for p in parts])
        if self._confirmed[0] != intended:
            self._confirmed = (intended, {part.where: set() for part in parts}, time.monotonic())
        _intended, confirmed, since = self._confirmed
        read, rest = self._split()
        runs: dict[str, str] = {}
        for part in parts:
            asked = [proxy for proxy in read if proxy.uid not in confirmed[part.where]]
            answers = self.mesh.lagging(part.ports, part.obj, part.route, asked)
            confirmed[part.where] |= {uid for uid, answer in answers.items() if answer.runs == ""}
            runs |= {a.name: a.runs for a in answers.values() if a.runs}
        if self._forbidden(list(runs.values())):
            return self._by_what_they_send(state)
        for where, token in tokens.items():  # a delegate moves nothing by itself
            if is_delegate(token.obj) and not runs and not any(confirmed[part.where] for part in found[where]):
                names = ", ".join(part.where.partition(" in ")[2] for part in found[where])
                why = f"no proxy runs it by {names}" if names else "no VirtualService delegates to it"
                return Programmed(0, 0, (f"{where}: {why}",))
        late = runs and time.monotonic() - since > EXPLAIN_SECONDS
        lagging = told_with_reasons(self.mesh, runs) if late else [f"{name} {text}" for name, text in runs.items()]
        done = {proxy.uid for proxy in self.mesh.proxies if proxy.name not in runs}
        here = len(done & set().union(*confirmed.values()))
        if lagging or not rest:
            return Programmed(here + len(lagging), here, tuple(lagging))
        return self._with_rest(here, rest)

    def by_weight(self, state: State) -> bool:
        record = state.record
        if record is None or self.kind != "VirtualService":  # a Service of one version may be called directly
            return False
        names = {record.stable.name, record.canary.name}
        if any(weight for name, weight in state.weights.items() if name not in names):
            return False
        if self._routed_elsewhere is None:
            try:
                listed, unseen = all_route_objects(self.cluster, self.kind, self.namespace)
            except (ApiError, NoAnswer):
                return False
            moved = {where: (t.route.section, t.route.index) for where, t in tokens_of(state).items()}
            keys = {key for name, key in self.service().backends.items() if name in names}
            self._routed_elsewhere = bool(unseen) or routed_elsewhere(listed, moved, keys)
        return not self._routed_elsewhere

    def _by_what_they_send(self, state: State) -> Programmed:
        """The same, where no routes may be read."""
        if state.record is None:
            return Programmed(0, 0, (), "routes are not read: no port-forward")
        if not self._last_look:
            self._look()  # tells who sends
        now, earlier = intended(state.record)
        if (self._observed.now, self._observed.earlier) != (now, earlier):
            self._observed, self._observed_at = Observed(now, earlier), float("-inf")
        if time.monotonic() - self._observed_at >= OBSERVE_SECONDS:
            self._observed_at = time.monotonic()
            self._observed.keep(frozenset(proxy.uid for proxy in self.mesh.proxies))
            for proxy, answer in self.mesh.counters(self._clients(), self.service().backends):
                if isinstance(answer, ProxyLook):
                    self._observed.add(proxy.uid, proxy.name, answer.requests())
        asked, sure, late = self._observed.told()
        return Programmed(asked, sure, late, "by what they send")

    def _clients(self) -> list[Proxy]:
        """The proxies that have sent requests to the service."""
        looks = self._last_look.proxies if self._last_look else {}
        return [p for p in self.mesh.proxies if p.should_answer and p.uid in looks and looks[p.uid].counted]

    def read_proxies(self) -> Sequence[Proxy]:
        """Those that are read at every change."""
        return self._split()[0]

    def _split(self) -> tuple[list[Proxy], list[Proxy]]:
        """Whose routes are read, and who is left to istiod's word."""
        looks = self._last_look.proxies if self._last_look else {}
        busy = {uid for uid, look in looks.items() if look.counted}
        return split(self.mesh.proxies, busy | self._version_pods.keys(), READ_MOST)

    def _with_rest(self, here: int, rest: Sequence[Proxy]) -> Programmed:
        """Of a large mesh: the proxies that were read run the change; of the others istiod tells."""
        troubled = self.mesh.vouched(rest)
        if troubled is None:
            return Programmed(here, here, (), f"{len(rest)} more not asked: istiod does not tell of them")
        late = tuple(f"{name}: {text}" for name, text in sorted(troubled.items()))
        told = f"{len(rest) - len(late)} more by istiod's word"
        return Programmed(here + len(late), here, late, told)

    def without_endpoint(self, version: str) -> tuple[str, ...]:
        """Asks the proxies that have sent requests to the service; nobody else can miss an endpoint yet."""
        answers = self.mesh.healthy(self._clients(), self.service().backends, version)
        return tuple(
            f"{name} {answer or 'has none'}"
            for name, answer in answers.items()
            if not isinstance(answer, int) or not answer
        )

    def capacity(self) -> Capacity:
        return self._capacity.read(self.service(), self._pods)

    def look(self) -> Look:
        first = self._last_look is None
        look = self._look()
        # In a large mesh the first look takes long: what it read first and last are not of the same moment.
        return self._look() if first and len(self.mesh.proxies) > READ_MOST else look

    def _look(self) -> Look:
        self._slow_reads_if_any()
        service, before = self.service(), self._last_look
        looks: dict[str, ProxyLook] = {}
        unread: dict[str, str] = {}

        def counts(proxy: Proxy) -> bool:
            known = before.proxies.get(proxy.uid) if before else None
            return known is None or known.counted

        counting = [proxy for proxy in self.mesh.proxies if counts(proxy)]
        idle = [proxy for proxy in self.mesh.proxies if not counts(proxy)]
        # At once, as they are compared: what clients have sent, and what has come in.
        sending = self.mesh.counters(counting, service.backends)
        come_in = self.mesh.served(self._version_pods, service.backends)
        sent = list(sending)
        if self._forbidden([answer for _proxy, answer in sent]):
            return self._look()
        swept = self.mesh.counters(self._sweep(idle), service.backends)
        served = dict(come_in)
        for proxy, answer in itertools.chain(sent, swept):
            if isinstance(answer, ProxyLook):
                looks[proxy.uid] = answer
            elif proxy.should_answer and counts(proxy):
                unread[proxy.uid] = answer
        if before:
            for proxy in self.mesh.proxies:
                if proxy.uid not in looks and proxy.uid in before.proxies and proxy.uid not in unread:
                    looks[proxy.uid] = before.proxies[proxy.uid]
            served = {**{uid: look for uid, look in before.served.items() if uid in self._version_pods}, **served}
        self._last_look = look = Look(self.cluster.now(), looks, unread, served)
        if len(self.mesh.proxies) > READ_MOST:
            self.mesh.hang_up(self._split()[0])
        return look

    def _forbidden(self, answers: Sequence[object]) -> bool:
        """Whether there is no port-forward to any of them, and the next best is used from now on."""
        refused = [answer for answer in answers if isinstance(answer, str) and NO_FORWARD in answer]
        if self.mesh.by_stats or not refused or len(refused) < len(answers):
            return False
        why = self.mesh.fall_back(self.mesh.proxies)
        if not why and not self._last_look:
            text = "Proxies are asked for their statistics instead: weights by what they send"
            self.say(f"WARNING  {refused[0][refused[0].index(NO_FORWARD) :]}. {text}")
        return not why

    def _sweep(self, idle: Sequence[Proxy]) -> Sequence[Proxy]:
        """Those that have never sent a request to the service: now and then all of them, of many some in turn."""
        if time.monotonic() - self._swept_at < SWEEP_SECONDS:
            return ()
        self._swept_at = time.monotonic()
        turns = -(-len(idle) // SWEEP_MOST) or 1
        self._sweeps += 1
        turn = self._sweeps % turns
        return [proxy for number, proxy in enumerate(sorted(idle, key=lambda p: p.uid)) if number % turns == turn]

    # ------------------------------------------------------------ evidence

    def load_evidence(self) -> Evidence | None:
        try:
            stored = stored_evidence(self.cluster, self.namespace, self.name)
            if stored and not self._last_look:  # tells who sends requests: not everybody has to be asked again
                self._last_look = stored.look
            return stored
        except _evidence.EvidenceError as error:
            self.say(str(error))
            return None

    def save_evidence(self, evidence: Evidence) -> None:
        body = {"metadata": metadata_of(self.namespace, self.own_name), "data": {"evidence": _evidence.dumps(evidence)}}
        with reading():
            try:
                self.cluster.write("PUT", "v1", self.namespace, "configmaps", body)
            except ApiError as error:
                if error.status != 404:
                    raise
                self.cluster.write("POST", "v1", self.namespace, "configmaps", body)

    # ------------------------------------------------------------ lease

    def require_writes(self) -> None:
        """Raise ReleaseError for all that this account may not write of what a release writes."""
        require_writes(self.cluster, self.kind, self.namespace, self.others)

    def acquire(self, left: bool = False) -> str:
        with reading():
            self.require_writes()
            return self._lease.inherit() if left else self._lease.acquire()
