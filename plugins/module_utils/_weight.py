# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Set the weights of one route and see them in the proxies: what istio_weight does. Private to this collection."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _proxies, _routes
from ansible_collections.progressive.istio.plugins.module_utils._cluster import (
    NO_FORWARD,
    ApiError,
    Cluster,
    NoAnswer,
)
from ansible_collections.progressive.istio.plugins.module_utils._delegates import Carrier, is_delegate
from ansible_collections.progressive.istio.plugins.module_utils._find import find_route_object
from ansible_collections.progressive.istio.plugins.module_utils._looks import ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._mesh import (
    NETWORKING,
    READ_MOST,
    SILENT,
    Mesh,
    Proxy,
    split,
    told_with_reasons,
    troubles,
)
from ansible_collections.progressive.istio.plugins.module_utils._objects import record_of
from ansible_collections.progressive.istio.plugins.module_utils._observed import Observed
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._reach import covers
from ansible_collections.progressive.istio.plugins.module_utils._record import RecordError
from ansible_collections.progressive.istio.plugins.module_utils._roots import Roots

WRITE_TRIES = 5
POLL_SECONDS = 0.05
OBSERVE_SECONDS = 0.5
BLOCKED = "no port-forward to any proxy: its statistics are read instead, and weights are seen by what is sent"


@dataclass(frozen=True, slots=True)
class Wish:
    """Options of istio_weight. ``verify_timeout`` in seconds."""

    namespace: str
    name: str
    kind: str
    route: str
    weights: Mapping[str, int]
    verify: str  # proxies, istiod or none
    verify_timeout: float


def whole_weights(given: Mapping[str, Any], kind: str) -> dict[str, int]:
    """Weights from YAML or Jinja: whole numbers, also as text. Raises RouteError."""
    weights = {}
    for subset, value in given.items():
        number = isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value.strip())
        weights[str(subset)] = int(value) if number else value
    _routes.check_weights(weights, kind)
    return weights


def set_weights(cluster: Cluster, wish: Wish, check_mode: bool) -> dict[str, Any]:
    """The module's result. Raises ReleaseError, one line, before anything is written or when a proxy lags behind."""
    began = time.monotonic()
    try:
        mesh = Mesh(cluster) if wish.verify != "none" and not check_mode else None
        before = _sent(mesh) if mesh and wish.verify == "istiod" else {}
        result, obj, route = _set(cluster, wish, check_mode, mesh if wish.verify == "proxies" else None)
        result["proxies"] = {"asked": 0, "programmed": 0, "lagging": [], "by_istiod": 0, "by_requests": 0}
        if mesh and mesh.by_stats:
            result["proxies"] |= _observe(mesh, obj, route, result["before"], wish.verify_timeout)
        elif mesh and wish.verify == "istiod":
            result["proxies"] |= _take_word(mesh, obj, before if result["changed"] else None, wish.verify_timeout)
        elif mesh:
            result["proxies"] |= _verify(cluster, mesh, obj, route, wish.verify_timeout)
        if mesh and mesh.by_stats:
            result["warnings_"].append(BLOCKED)
    except NoAnswer as error:
        raise ReleaseError(f"{error}; run it again: it writes only what is still missing") from None
    except (ApiError, _routes.RouteError) as error:
        raise ReleaseError(str(error)) from None
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def _set(
    cluster: Cluster, wish: Wish, check_mode: bool, mesh: Mesh | None
) -> tuple[dict[str, Any], Mapping[str, Any], _routes.Route]:
    api, plural = _routes.RESOURCES[wish.kind]
    for attempt in range(WRITE_TRIES):
        obj = find_route_object(cluster, wish.kind, wish.namespace, "", wish.name)
        route = _routes.find_route(obj, list(wish.weights), wish.route)
        before = route.weights()
        after = {**before, **wish.weights}
        patch = _routes.weight_patch(obj, route, wish.weights)
        if patch:
            _check_destinations(cluster, obj, route, wish.weights)
            if wish.verify != "none" and is_delegate(obj):
                _carriers(cluster, obj, route)
            if mesh and not attempt:
                _check_clients(cluster, mesh, obj, route, wish.verify_timeout)
        result = {
            "changed": bool(patch),
            "before": before,
            "after": after,
            "diff": {
                "before": {"route": route.label(), "weights": before},
                "after": {"route": route.label(), "weights": after},
            },
            "warnings_": _running(obj) if patch else [],
        }
        try:
            if patch:
                obj = cluster.patch_json(api, obj, plural, patch, dry_run=check_mode)
        except ApiError as error:
            if error.status in (409, 422):
                continue
            raise
        return result, obj, _routes.find_route(obj, list(wish.weights), wish.route)
    raise ReleaseError(
        f"{wish.kind} {wish.namespace}/{wish.name} changes faster than it can be written ({WRITE_TRIES} tries); "
        "nothing was written"
    )


def _check_destinations(
    cluster: Cluster, obj: Mapping[str, Any], route: _routes.Route, weights: Mapping[str, int]
) -> None:
    """Istio accepts weights for subsets and Services that exist nowhere, and answers their requests with 503 or 500."""
    namespace = obj["metadata"]["namespace"]
    positive = [d for d in route.destinations if weights.get(d.version)]
    for host in sorted({_routes.full_host(d.host, namespace) for d in positive}):
        where = _service_of(host)
        wanted = {d.subset for d in positive if _routes.full_host(d.host, namespace) == host}
        if where and "" in wanted and cluster.get("v1", where[0], "services", where[1]) is None:
            raise ReleaseError(f"Service {'/'.join(where)} does not exist, its requests would fail; deploy it first")
        if not any(wanted):
            continue
        known = _subsets(cluster, host, where[0] if where else namespace) or _subsets(cluster, host, "")
        if missing := sorted(wanted - known - {""}):
            raise ReleaseError(
                f"no DestinationRule has subset {', '.join(missing)} for {host}, its requests would be answered with "
                f"503; add it first. There are: {', '.join(sorted(known)) or 'no subsets'}"
            )


def _service_of(host: str) -> tuple[str, str] | None:
    """(namespace, name) of the Service that a full host stands for."""
    name, *rest = host.split(".")
    return (rest[0], name) if len(rest) > 1 and rest[1] == "svc" else None


def _subsets(cluster: Cluster, host: str, namespace: str) -> set[str]:
    """Subsets of the full host by the rules of a namespace, or of all of them: a rule may stand at its clients."""
    found = set()
    for rule in cluster.select(NETWORKING, namespace, "destinationrules"):
        spec = rule["spec"]
        rule_host = _routes.full_host(spec.get("host", ""), rule["metadata"].get("namespace", namespace))
        if covers(rule_host, host):
            found |= {subset["name"] for subset in spec.get("subsets") or []}
    return found


def _carriers(cluster: Cluster, obj: Mapping[str, Any], route: _routes.Route) -> list[Carrier]:
    """What proxies run the route by: the object, or the roots of a delegate. Raises ReleaseError where it has none."""
    found = Roots(cluster).carriers(obj, route, _ports(cluster, obj, route))
    if not found:
        raise ReleaseError(
            f"{_routes.describe(obj)} has no hosts, and no VirtualService delegates to it: its weights reach nobody; "
            "name it as delegate in a route, or use verify: none"
        )
    return found


def _check_clients(cluster: Cluster, mesh: Mesh, obj: Mapping[str, Any], route: _routes.Route, timeout: float) -> None:
    """Before the write: weights act in the clients' proxies, so at least one has to have the route."""
    deadline = time.monotonic() + timeout
    mesh.refresh()
    carriers = _carriers(cluster, obj, route)
    while True:
        silent = []
        answers = (answer for one in carriers for answer in mesh.having(one.ports, one.obj, one.route))
        for answer in answers:
            if not str(answer.runs).startswith(SILENT):
                return
            silent.append(f"{answer.name} {answer.runs}")
        if silent and NO_FORWARD in silent[0] and _fall_back(mesh, obj, route):
            return
        if silent:
            raise ReleaseError(
                f"no proxy tells what it runs of {_routes.describe(obj)}, for example {min(silent)}; nothing was "
                "written. The account that runs this needs get and create on pods/portforward; or use verify: none"
            )
        if not mesh.proxies or time.monotonic() > deadline:
            why = "exportTo, gateways, the match of its roots" if is_delegate(obj) else "exportTo, gateways"
            there = f"none of {len(mesh.proxies)} sees it ({why})" if mesh.proxies else "none is there"
            raise ReleaseError(
                f"no proxy in the mesh runs a route of {_routes.describe(obj)}: {there}; nothing was written. A client "
                "without a sidecar ignores weights: label its namespace for injection, restart it, or use verify: none"
            )
        time.sleep(POLL_SECONDS)


def _fall_back(mesh: Mesh, obj: Mapping[str, Any], route: _routes.Route) -> bool:
    """Whether statistics of a proxy that sends requests can be read, where port-forwards are forbidden or blocked."""
    if route.section not in ("http", _routes.RULES) or mesh.fall_back(mesh.proxies):
        return False
    answers = (answer for _proxy, answer in mesh.counters(mesh.proxies, _backends(obj, route)))
    if any(isinstance(answer, ProxyLook) and answer.counted for answer in answers):
        return True
    raise ReleaseError(
        f"{BLOCKED}, and no proxy has sent a request by {_routes.describe(obj)} yet; nothing was written. Give the "
        "account that runs this get and create on pods/portforward, send requests, or use verify: none"
    )


def _backends(obj: Mapping[str, Any], route: _routes.Route) -> dict[str, str]:
    """By destination, what its clusters are called in a proxy."""
    namespace = obj["metadata"]["namespace"]
    return {d.version: f"{d.subset}|{_routes.full_host(d.host, namespace)}" for d in route.destinations}


def _observe(
    mesh: Mesh, obj: Mapping[str, Any], route: _routes.Route, before: Mapping[str, int], timeout: float
) -> dict[str, Any]:
    """Wait until the proxies send as the new weights say."""
    seen = Observed(_shares(route.weights()), [_shares(before)])
    deadline = time.monotonic() + timeout
    while True:
        for proxy, answer in mesh.counters(mesh.proxies, _backends(obj, route)):
            if isinstance(answer, ProxyLook) and proxy.should_answer:
                seen.add(proxy.uid, proxy.name, answer.requests())
        asked, sure, late = seen.told()
        if not late:
            return {"asked": asked, "programmed": sure, "by_requests": sure}
        if time.monotonic() > deadline:
            raise ReleaseError(
                f"{_routes.describe(obj)} is written, but by what proxies send it is not seen in {asked - sure} of "
                f"{asked} after {timeout:g} s: {'; '.join(late[:5])}"
            )
        time.sleep(OBSERVE_SECONDS)


def _shares(weights: Mapping[str, int]) -> dict[str, float]:
    total = sum(weights.values()) or 1
    return {version: weight / total for version, weight in weights.items()}


def _running(obj: Mapping[str, Any]) -> list[str]:
    try:
        record = record_of(obj)
    except RecordError as error:
        return [str(error)]
    if record and record.running:
        text = f"release {record.id} of {record.canary.name} is {record.phase} on this route"
        return [f"{text}; it will hold, because its weights were changed by somebody else"]
    return []


def _ports(cluster: Cluster, obj: Mapping[str, Any], route: _routes.Route) -> list[int]:
    """Ports of the Services whose requests the route carries; none known (a gateway, a ServiceEntry) means all."""
    namespace = obj["metadata"]["namespace"]
    if route.section == _routes.RULES:
        parents = obj["spec"].get("parentRefs") or []
        hosts = {_routes.full_host(p["name"], p.get("namespace") or namespace) for p in parents}
        if any(p.get("kind") != "Service" for p in parents):
            return []
    else:
        hosts = {_routes.full_host(d.host, namespace) for d in route.destinations}
    ports: list[int] = []
    for host in hosts:
        where = _service_of(host)
        service = cluster.get("v1", where[0], "services", where[1]) if where else None
        if service is None:
            return []
        ports += [port["port"] for port in service["spec"].get("ports") or []]
    return ports


def _verify(
    cluster: Cluster, mesh: Mesh, obj: Mapping[str, Any], route: _routes.Route, timeout: float
) -> dict[str, Any]:
    if not mesh.proxies:  # otherwise listed a moment ago, before the write
        mesh.refresh()
    carriers = _carriers(cluster, obj, route)
    deadline = time.monotonic() + timeout
    done: dict[str, set[str]] = {one.where: set() for one in carriers}
    read, rest = split(mesh.proxies, (), READ_MOST)
    while True:
        lagging: dict[str, str] = {}
        for one in carriers:
            asked = [proxy for proxy in read if proxy.uid not in done[one.where]]
            answers = mesh.lagging(one.ports, one.obj, one.route, asked)
            done[one.where] |= {uid for uid, answer in answers.items() if answer.runs == ""}
            lagging |= {answer.name: answer.runs for answer in answers.values() if answer.runs}
        names = {proxy.uid: proxy.name for proxy in read}
        programmed = {uid for uids in done.values() for uid in uids if names[uid] not in lagging}
        if not lagging:
            break
        if all(NO_FORWARD in text for text in lagging.values()) and _fall_back(mesh, obj, route):
            return {}  # nothing was changed, so nothing can be seen to change
        if time.monotonic() > deadline:
            told, number = told_with_reasons(mesh, lagging), len(programmed) + len(lagging)
            raise ReleaseError(
                f"{_routes.describe(obj)} is written, but {len(lagging)} of {number} proxies do not "
                f"run it after {timeout:g} s: {'; '.join(told[:5])}; look at their connection to istiod "
                "(istioctl proxy-status)"
            )
        time.sleep(POLL_SECONDS)
    if not programmed:
        raise ReleaseError(
            f"no proxy in the mesh runs a route of {_routes.describe(obj)}: no client pod has a sidecar, or none sees "
            "this object (exportTo, gateways); a client without a sidecar ignores weights"
        )
    word = _take_word(mesh, obj, None, max(0.0, deadline - time.monotonic()), rest) if rest else {}
    return {"asked": len(programmed), "programmed": len(programmed), **word}


def _sent(mesh: Mesh) -> dict[str, str]:
    """What each proxy was sent last. Raises ReleaseError where istiod does not tell."""
    known, complete = mesh.told_by_istiod()
    if not complete:
        raise ReleaseError(
            f"no istiod tells what it has sent ({_proxies.SYNCZ}, by a port-forward to its pods); nothing was written. "
            "Give the account that runs this get and create on pods/portforward there, or use verify: none"
        )
    return {name: sync.sent for name, sync in known.items()}


def _take_word(
    mesh: Mesh, obj: Mapping[str, Any], before: Mapping[str, str] | None, timeout: float, of: Sequence[Proxy] = ()
) -> dict[str, Any]:
    """Wait until istiod says that its proxies (or those ``of`` a large mesh that were not read) have all it sent.

    ``before``: what it had sent before the write. Until it has sent something else to anybody, its word means nothing.
    """
    deadline = time.monotonic() + timeout
    names = [proxy.name for proxy in of if proxy.should_answer]
    while True:
        known, complete = mesh.told_by_istiod()
        asked = names or known
        late = troubles(known, complete, asked)
        moved = before is None or any(sync.sent != before.get(name) for name, sync in known.items())
        if complete and moved and not late:
            return {"by_istiod": len(asked)}
        if of and not complete:  # the others were read; of these nobody knows
            return {"by_istiod": 0}
        if time.monotonic() > deadline:
            what = "; ".join(f"{name}: {text}" for name, text in sorted(late.items())[:5]) or "it has sent nothing"
            who = f"{len(late) or 'none'} of {len(asked)} proxies {'do not have' if late else 'has'} it"
            raise ReleaseError(
                f"{_routes.describe(obj)} is written, but by istiod's word {who} after {timeout:g} s: {what}"
            )
        time.sleep(POLL_SECONDS)
