# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delegates: VirtualServices without hosts, whose routes a root VirtualService takes in. Private to this collection.

Pure, and after istiod's own code (pilot/pkg/model of 1.31: virtualservice.go, virtualservice_controller.go). istiod
merges every route of a delegate into the http entry of the root that names it. What a proxy runs of it carries the
root's name: as the object that it comes from, and before the route's own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._objects import key_of, namespace_of
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    Object,
    Route,
    all_routes,
    describe,
    full_host,
)

MESH = "mesh"


@dataclass(frozen=True, slots=True)
class Carrier:
    """An object that proxies run a route by, as istiod hands it on, and the route in it.

    ``where`` is unique, and for messages. ``ports`` of the route configurations that can hold it (none: all of them).
    """

    where: str
    obj: Object
    route: Route
    ports: Sequence[int]


def is_delegate(obj: Object) -> bool:
    """Whether it is a VirtualService that no proxy takes by itself, only by a root."""
    return obj.get("kind", "VirtualService") == "VirtualService" and not (obj.get("spec") or {}).get("hosts")


def holds_weights(obj: Object, host: str) -> bool:
    """Whether a route of it can hold the weights of the service ``host`` (full): one for all requests, or with several
    destinations.
    """
    for route in all_routes(obj):
        there = {full_host(d.host, namespace_of(obj)) for d in route.destinations}
        for_all = not obj["spec"][route.section][route.index].get("match")
        if there == {host} and (for_all or len(route.destinations) > 1):
            return True
    return False


def delegated(obj: Object) -> list[str]:
    """Whom each of its http entries delegates to, ``namespace/name``; empty for an entry that does not."""
    found = []
    for entry in (obj.get("spec") or {}).get("http") or []:
        named = entry.get("delegate")
        found.append(f"{named.get('namespace') or namespace_of(obj)}/{named.get('name', '')}" if named else "")
    return found


def roots_of(delegate: Object, virtual_services: Iterable[Object]) -> list[Object]:
    """Those with hosts of their own that name the delegate. istiod ignores what a delegate delegates to."""
    return [vs for vs in virtual_services if not is_delegate(vs) and key_of(delegate) in delegated(vs)]


def merged(root: Object, delegates: Mapping[str, Object], only: str = "") -> dict[str, Any]:
    """The root as istiod merges it: in place of an entry that delegates, every route of the delegate.

    ``delegates`` by ``namespace/name``; an entry that names another one is left out, as istiod does. ``only``: nothing
    but what comes of that one. Destinations are by their full host, as a name is completed where its object stands.
    """
    http = []
    for entry, key in zip(root["spec"].get("http") or [], delegated(root), strict=True):
        if key in delegates and only in ("", key):
            http += _taken_in(entry, delegates[key])
        elif not key and not only:
            http.append(entry)
    return {**root, "kind": "VirtualService", "spec": {**root["spec"], "http": http}}


def _taken_in(entry: Mapping[str, Any], delegate: Object) -> list[dict[str, Any]]:
    """The routes of a delegate as they become part of the root's entry: what they leave open, the entry says."""
    given = {key: value for key, value in entry.items() if key not in ("delegate", "name", "match")}
    found = []
    for one in delegate["spec"].get("http") or []:
        name = "-".join(filter(None, (entry.get("name"), one.get("name"))))
        match = _matches(entry.get("match") or [], one.get("match") or [])
        route = [_with_full_host(part, namespace_of(delegate)) for part in one.get("route") or []]
        more = {key: value for key, value in (("name", name), ("match", match), ("route", route)) if value}
        mine = {key: value for key, value in one.items() if key not in ("name", "match", "route", "delegate")}
        found.append({**given, **mine, **more})
    return found


def _matches(outer: Sequence[Mapping[str, Any]], inner: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Both at once. istiod drops pairs that contradict each other; here they stay, and no proxy has such a route."""
    if not outer or not inner:
        return [dict(match) for match in outer or inner]
    return [{**wide, **narrow} for narrow in inner for wide in outer]


def _with_full_host(part: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    destination = part.get("destination") or {}
    return {**part, "destination": {**destination, "host": full_host(str(destination.get("host", "")), namespace)}}


def carriers(obj: Object, route: Route, virtual_services: Sequence[Object], ports: Sequence[int]) -> list[Carrier]:
    """What proxies run ``route`` by: the object itself, or for a delegate each entry of a root that delegates to it.

    ``virtual_services``: all that are known, the delegate in a state that may be older than ``obj``. ``ports``: of the
    service. Empty for a delegate that no root names.
    """
    if not is_delegate(obj):
        return [Carrier(describe(obj), obj, route, ports)]
    mine, found = key_of(obj), []
    delegates = {key_of(vs): vs for vs in virtual_services if is_delegate(vs)} | {mine: obj}
    for root in roots_of(obj, virtual_services):
        whole, before = merged(root, delegates), 0
        for index, key in enumerate(delegated(root)):
            if key == mine:
                where = f"{describe(obj)} in {describe(root)} http[{index}]"
                place = ("http", before + route.index)
                there = next(one for one in all_routes(whole) if (one.section, one.index) == place)
                found.append(Carrier(where, whole, there, _ports(root, there, ports)))
            before += len(delegates[key]["spec"].get("http") or []) if key in delegates else not key
    return found


def _ports(root: Object, route: Route, ports: Sequence[int]) -> Sequence[int]:
    """A sidecar keeps a route with the port of the host that is called: of a root for other hosts that may be any."""
    hosts = {full_host(host, namespace_of(root)) for host in root["spec"]["hosts"]}
    elsewhere = MESH in (root["spec"].get("gateways") or [MESH]) and hosts != {d.host for d in route.destinations}
    return () if elsewhere else ports
