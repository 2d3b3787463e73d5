# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real World of a version that is retired, and what that would write. Private to this collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _routes
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster
from ansible_collections.progressive.istio.plugins.module_utils._find import (
    all_route_objects,
    find_route_object,
    reading,
)
from ansible_collections.progressive.istio.plugins.module_utils._mesh import NETWORKING, Programmed
from ansible_collections.progressive.istio.plugins.module_utils._objects import key_of, record_of
from ansible_collections.progressive.istio.plugins.module_utils._patches import Token, quiet, token_of, visible
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Other,
    Refuse,
    ReleaseError,
    State,
    Want,
    resolve,
)
from ansible_collections.progressive.istio.plugins.module_utils._reach import covers
from ansible_collections.progressive.istio.plugins.module_utils._record import ANNOTATION, Record
from ansible_collections.progressive.istio.plugins.module_utils._report import Journal, result_of
from ansible_collections.progressive.istio.plugins.module_utils._retire import (
    REFUSED,
    RETIRED,
    Retirement,
    Rule,
    find_destination,
    noted,
    places,
    sends_to,
    subset_patch,
    which,
)
from ansible_collections.progressive.istio.plugins.module_utils._rights import RETIRE, require_writes
from ansible_collections.progressive.istio.plugins.module_utils._run import Run
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld, Target


class RetiringLiveWorld(LiveWorld):
    """A service that loses a version. Implements ``_retire.RetiringWorld``."""

    def __init__(
        self, cluster: Cluster, target: Target, run: Run, say: Callable[[str], None], version: str = ""
    ) -> None:
        """``version``: what the user calls it; empty for the one that the release on record has left behind."""
        super().__init__(cluster, target, run, say)
        self._version = version
        self._along: tuple[str, ...] = ()

    # ------------------------------------------------------------ what is there

    def observe(self) -> State:
        """Route objects by the version that leaves: when it is out, the route may have a single destination left."""
        self._slow_reads()
        service = self.service()
        with reading():
            obj = find_route_object(self.cluster, self.kind, self.namespace, service.host, self.route_object)
            self.route_object = obj["metadata"]["name"]
            record = record_of(obj)
            version = service.aliases.get(self._version, self._version) or (record.stable.name if record else "")
            stays = record.canary.name if record else ""
            route = find_destination(obj, service.host, version, stays, self.route_name)
            if route is None:
                raise ReleaseError(
                    f"{_routes.describe(obj)} has no http route to {service.host}; say which object has it with "
                    "route_object"
                )
            others = self._moving_along(record, service.host, version, stays)
            self._along = tuple(other.key for other in others)
        return self._state(Token(obj, route), record, others)

    def _moving_along(self, record: Record | None, host: str, version: str, stays: str) -> tuple[Other, ...]:
        """Those that were asked for, and those on record; of the latter one that is gone has nothing left to lose."""
        found = []
        on_record = record.others if record else ()
        for key in dict.fromkeys((*self.others, *on_record)):
            namespace, _slash, name = key.partition("/")
            try:
                obj = find_route_object(self.cluster, self.kind, namespace, host, name)
            except ReleaseError:
                if key in self.others:
                    raise
                continue
            if route := find_destination(obj, host, version, stays):
                manager = _routes.field_manager(obj, route.section)
                found.append(Other(key, _routes.describe(obj), route.weights(), manager, Token(obj, route)))
        return tuple(found)

    def _key(self, version: str) -> str:
        """What its clusters are called in a proxy, also when its subset or Service is gone."""
        if self.kind == "VirtualService":
            return f"{version}|{self.service().host}"
        return f"|{_routes.full_host(version, self.namespace)}"

    def users(self, state: State, version: str) -> tuple[Sequence[str], str]:
        read: list[State | Other] = [state, *state.others]
        objects = {place.where: token_of(place).obj for place in read}
        with reading():
            listed, unseen = all_route_objects(self.cluster, self.kind, self.namespace)
        for one in listed:
            objects.setdefault(_routes.describe(one), one)
        return sends_to(objects.values(), self._key(version)), unseen

    def rules(self) -> Sequence[Rule]:
        return [
            Rule(f"DestinationRule {key_of(rule)}", tuple(s["name"] for s in rule["spec"].get("subsets") or []), rule)
            for rule in self._rules(self.namespace)
            if rule["metadata"].get("namespace", self.namespace) == self.namespace
            and _routes.full_host(rule["spec"].get("host", ""), self.namespace) == self.service().host
        ]

    def known_elsewhere(self, version: str) -> Sequence[str]:
        host = self.service().host
        return [
            f"DestinationRule {key_of(rule)}"
            for rule in self._rules("")
            if rule["metadata"]["namespace"] != self.namespace
            and covers(_routes.full_host(rule["spec"].get("host", ""), rule["metadata"]["namespace"]), host)
            and any(subset["name"] == version for subset in rule["spec"].get("subsets") or [])
        ]

    def _rules(self, namespace: str) -> Sequence[Mapping[str, Any]]:
        if self.kind != "VirtualService":
            return ()
        with reading():
            try:
                return self.cluster.select(NETWORKING, namespace, "destinationrules")
            except ApiError as error:
                if error.status == 403 and not namespace:  # what may not be listed is not known: none
                    return ()
                raise

    # ------------------------------------------------------------ proxies

    def routing(self, version: str) -> Programmed:
        self._slow_reads_if_any()
        read, rest = self._split()
        answers = self.mesh.leading_to(read, self.service().ports, self._key(version))
        names = {proxy.uid: proxy.name for proxy in read}
        late = tuple(f"{names[uid]} {text}" for uid, text in answers.items() if text)
        here = len(answers) - len(late)
        return Programmed(len(answers), here, late) if late or not rest else self._with_rest(here, rest)

    def in_flight(self, version: str) -> Mapping[str, int | str]:
        self._slow_reads_if_any()
        return self.mesh.in_flight(self.read_proxies(), self._key(version))

    # ------------------------------------------------------------ writes

    def removal(self, place: State | Other, version: str, record: Record | None) -> list[dict[str, Any]]:
        """The JSON Patch that ``take_out`` would send."""
        token = token_of(place)
        marks = {ANNOTATION: record.dumps()} if record else None
        return _routes.removal_patch(token.obj, token.route, version, marks)

    def take_out(self, place: State | Other, version: str, record: Record | None) -> None:
        self._patch_route(token_of(place), self.removal(place, version, record))

    def drop_subset(self, rule: Rule, version: str) -> None:
        self._patch(NETWORKING, "destinationrules", rule_of(rule), subset_patch(rule_of(rule), version))

    def require_writes(self) -> None:
        more = RETIRE if self.kind == "VirtualService" else ()
        require_writes(self.cluster, self.kind, self.namespace, self._along, more)


def rule_of(rule: Rule) -> Mapping[str, Any]:
    """The DestinationRule as it was read."""
    if not isinstance(rule.token, Mapping):
        raise TypeError("this rule does not come from a cluster")
    return rule.token


def preview_retirement(world: RetiringLiveWorld, want: Want) -> dict[str, Any]:
    """Result of istio_canary in check mode: every patch that would be written, in its order. Writes nothing."""
    state = world.observe()
    version = which(resolve(want, state), state)
    if not isinstance(version, Refuse) and (users := world.users(state, version)[0]):
        version = Refuse(REFUSED, f"{version} still has traffic: {'; '.join(users)}; move that away first")
    if isinstance(version, Refuse):
        return {"phase": version.phase, "failed": True, "changed": False, "msg": version.text, "plan": []}
    writes: list[tuple[str, Mapping[str, Any], list[dict[str, Any]], str]] = []
    for place in places(state, version):
        record = noted(state, version) if isinstance(place, State) else None
        patch = world.removal(place, version, record)
        writes.append((place.where, token_of(place).obj, patch, f"{version} out of the route"))
    for rule in world.rules():
        if rule.can_lose(version):
            obj = rule_of(rule)
            text = f"subset {version} out, when no proxy routes there and no request is under way"
            writes.append((rule.where, obj, subset_patch(obj, version), text))
    return {
        "phase": "planned" if writes else RETIRED,
        "changed": bool(writes),
        "retired": version,
        "msg": f"would retire {version}" if writes else f"{version} is in no route and in no DestinationRule any more",
        "plan": [{"object": at, "patch": visible(patch), "text": f"{at}: {text}"} for at, _obj, patch, text in writes],
        "diff": [
            {
                "before": quiet(obj),
                "after": quiet(_routes.apply_patch(obj, patch)),
                "before_header": at,
                "after_header": at,
            }
            for at, obj, patch, _text in writes
        ],
    }


def retire(world: RetiringLiveWorld, wish: Want, journal: Journal, check_mode: bool) -> dict[str, Any]:
    """The module's result for a version that is retired, in one call."""
    if check_mode:
        result = preview_retirement(world, wish)
        for text in (result["msg"], *(f"plan  {line['text']}" for line in result["plan"])):
            journal.say(text)
        return {"failed": False, "finished": True, "events": journal.events, **result}
    journal.clock = world.now
    retirement = Retirement(world, wish, journal.say)
    outcome = retirement.run()
    return {**result_of(outcome, journal.events), "retired": retirement.version}
