# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a route object says about weights, and the JSON Patch that changes nothing else. Private to this collection.

Pure: objects of the API come in as plain dictionaries, patches go out as lists of operations (RFC 6902).
The lists of routes are atomic for merge patch and for server-side apply, so both would wipe what other people wrote
there; a patch that names every index, tests what it relies on, and pins ``metadata.resourceVersion`` does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
Operation = dict[str, Any]

MAX_WEIGHT = 2**31 - 1  # int32 in Istio's API; nobody checks the overflow of their sum
MAX_BACKEND_WEIGHT = 1_000_000  # of one backend of an HTTPRoute
RESOURCES = {  # by kind of route object: API version and plural
    "VirtualService": ("networking.istio.io/v1", "virtualservices"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes"),
}
SECTIONS = ("http", "tcp", "tls")  # of a VirtualService
RULES = "rules"  # of an HTTPRoute


class RouteError(ValueError):
    """The route object is not what the caller expects; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One entry of a route: where it stands, what it names, and its weight as written (None: not written)."""

    index: int
    host: str
    subset: str
    weight: int | None

    @property
    def version(self) -> str:
        """What the weights call it: its subset; without one, the name of its Service."""
        return self.subset or self.host.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Route:
    """One route with destinations: an entry of ``spec.http``, ``tcp`` or ``tls``, or a rule of an HTTPRoute."""

    section: str
    index: int
    name: str
    destinations: tuple[Destination, ...]

    def weights(self) -> dict[str, int]:
        """Effective weight by version. A backend of an HTTPRoute has 1 if none is written; one of several destinations
        of a VirtualService has 0, a single one everything.
        """
        return {d.version: weight for d, weight in self.effective()}

    def effective(self) -> list[tuple[Destination, int]]:
        """The same for every destination."""
        if self.section == RULES:
            return [(d, 1 if d.weight is None else d.weight) for d in self.destinations]
        if len(self.destinations) == 1:
            return [(self.destinations[0], 100)]
        return [(d, d.weight or 0) for d in self.destinations]

    def label(self) -> str:
        """How this route is named in messages."""
        return f"{self.section}[{self.index}]" + (f" ({self.name})" if self.name else "")

    def path(self) -> str:
        """JSON pointer of the list of its destinations."""
        return f"/spec/{self.section}/{self.index}/{list_key(self.section)}"


def list_key(section: str) -> str:
    """The field of a route that lists its destinations."""
    return "backendRefs" if section == RULES else "route"


def entry_of(obj: Object, route: Route) -> Mapping[str, Any]:
    """The route as it is written."""
    entry: Mapping[str, Any] = obj["spec"][route.section][route.index]
    return entry


def entries_of(obj: Object, route: Route) -> Sequence[Mapping[str, Any]]:
    """Its destinations as they are written."""
    entries: Sequence[Mapping[str, Any]] = entry_of(obj, route)[list_key(route.section)]
    return entries


def describe(obj: Object) -> str:
    """``VirtualService namespace/name``, for messages."""
    meta = obj["metadata"]
    return f"{obj.get('kind', 'VirtualService')} {meta.get('namespace', '')}/{meta['name']}"


def full_host(host: str, namespace: str, domain: str = "cluster.local") -> str:
    """Istio resolves a host without a dot in the namespace of the object that names it (not in the client's)."""
    if "." not in host and not host.startswith("*"):
        return f"{host}.{namespace}.svc.{domain}"
    parts = host.split(".")
    if len(parts) == 2:
        return f"{host}.svc.{domain}"
    return f"{host}.{domain}" if len(parts) == 3 and parts[2] == "svc" else host


def all_routes(obj: Object) -> list[Route]:
    """The routes that have destinations (redirects, delegates and direct answers have none)."""
    spec = obj.get("spec") or {}
    routes = []
    for section in (RULES,) if obj.get("kind") == "HTTPRoute" else SECTIONS:
        for index, entry in enumerate(spec.get(section) or []):
            given = enumerate(entry.get(list_key(section)) or [])
            destinations = tuple(_destination(obj, section, position, one) for position, one in given)
            if destinations:
                routes.append(Route(section, index, str(entry.get("name", "")), destinations))
    return routes


def _destination(obj: Object, section: str, index: int, entry: Mapping[str, Any]) -> Destination:
    if section == RULES:
        namespace = entry.get("namespace") or obj["metadata"].get("namespace", "")
        return Destination(index, full_host(str(entry.get("name", "")), namespace), "", entry.get("weight"))
    given = entry.get("destination") or {}
    return Destination(index, str(given.get("host", "")), str(given.get("subset", "")), entry.get("weight"))


def serves(obj: Object, host: str) -> bool:
    """Whether the full host ``host`` is among the VirtualService's hosts, or a parent Service of the HTTPRoute."""
    namespace = obj["metadata"].get("namespace", "")
    spec = obj.get("spec") or {}
    if obj.get("kind") == "HTTPRoute":
        parents = [p for p in spec.get("parentRefs") or [] if p.get("kind") == "Service"]
        return any(full_host(p["name"], p.get("namespace") or namespace) == host for p in parents)
    return any(full_host(h, namespace) == host for h in spec.get("hosts") or [])


def find_route(obj: Object, versions: Sequence[str], name: str = "") -> Route:
    """The one route with exactly these versions; with ``name``, the route of that name, which may have more of them.

    Raises RouteError when there is none, or more than one.
    """
    wanted = set(versions)
    routes = all_routes(obj)
    if name:
        named = [route for route in routes if route.name == name]
        if len(named) != 1:
            there = ", ".join(sorted(r.name for r in routes if r.name)) or "none"
            raise RouteError(
                f"{describe(obj)} has {len(named) or 'no'} routes named '{name}'; named routes there: {there}"
            )
        missing = sorted(wanted - named[0].weights().keys())
        if missing:
            raise RouteError(
                f"{describe(obj)} {named[0].label()} has no destination {', '.join(missing)}; "
                f"it has {', '.join(sorted(named[0].weights()))}"
            )
        found = named
    else:
        fitting = [r for r in routes if r.weights().keys() == wanted and len(r.destinations) == len(wanted)]
        found = _first_section(fitting)
        if not found:
            there = "; ".join(f"{r.label()}: {', '.join(sorted(r.weights()))}" for r in routes)
            raise RouteError(
                f"{describe(obj)} has no route with exactly the destinations {', '.join(sorted(wanted))}; "
                f"there are: {there or 'no routes'}"
            )
        if len(found) > 1:
            raise RouteError(
                f"{describe(obj)} has {len(found)} routes with the destinations {', '.join(sorted(wanted))} "
                f"({', '.join(r.label() for r in found)}); give the one that is meant a name and say which with 'route'"
            )
    if len(found[0].weights()) != len(found[0].destinations):
        raise RouteError(f"{describe(obj)} {found[0].label()} names a destination twice; weights would be ambiguous")
    return found[0]


def pick_route(obj: Object, host: str, canary: str, name: str = "") -> Route:
    """The route that a release of version ``canary`` of the service ``host`` (full) moves weight in.

    With ``name`` the route of that name; else the one that has the canary beside another version of the service; else,
    for a version that no route knows yet, the one without ``match``. Raises RouteError when that is none or several.
    """
    routes = [route for route in all_routes(obj) if _is_of(obj, route, host)]
    if name:
        found = [r for r in routes if r.name == name]
    else:
        found = _first_section([r for r in routes if len(r.destinations) > 1 and canary in r.weights()])
        if not found:
            found = _first_section([r for r in routes if not _matches(obj, r)])
    if len(found) == 1:
        if len(found[0].weights()) != len(found[0].destinations) or _says(found[0]) != list(found[0].weights()):
            raise RouteError(
                f"{describe(obj)} {found[0].label()} needs one destination for each version, it has "
                f"{', '.join(_says(found[0]))}"
            )
        return found[0]
    there = "; ".join(f"{r.label()}: {', '.join(_says(r))}" for r in routes)
    what = f"named '{name}'" if name else f"that can carry '{canary}'"
    further = [e["delegate"] for e in (obj.get("spec") or {}).get("http") or [] if e.get("delegate") and not found]
    if further:
        home = obj["metadata"].get("namespace", "")
        names = sorted({f"{d.get('namespace') or home}/{d.get('name')}" for d in further})
        what += f" (it delegates to {', '.join(names)}: name that with route_object, if the weights are there)"
    raise RouteError(
        f"{describe(obj)} has {len(found) or 'no'} routes to {host} {what}; there are: {there or 'none'}. "
        "Say which one with 'route' (its name)"
    )


def require_requests(obj: Object, route: Route) -> None:
    """Raise RouteError for a route of connections: a release judges requests."""
    if route.section in ("tcp", "tls"):
        raise RouteError(
            f"{describe(obj)} {route.label()} carries connections, and a release judges requests of HTTP; move its "
            "weights with istio_weight, or name an http route with 'route'"
        )


def _first_section(routes: Sequence[Route]) -> list[Route]:
    """Those of HTTP if there are any, else of TCP, else of TLS: one release moves one kind of traffic."""
    return [route for route in routes if route.section == routes[0].section]


def _is_of(obj: Object, route: Route, host: str) -> bool:
    """Whether every destination is a version of the service: a subset of it, or, in an HTTPRoute, another Service."""
    namespace = obj["metadata"].get("namespace", "")
    if route.section == RULES:
        return all(d.host != host for d in route.destinations)
    return all(full_host(d.host, namespace) == host for d in route.destinations)


def _says(route: Route) -> list[str]:
    """Its versions; a destination of a VirtualService without a subset is none."""
    return [d.version if d.subset or route.section == RULES else "(no subset)" for d in route.destinations]


def _matches(obj: Object, route: Route) -> bool:
    """Whether the route is for some requests only. A rule of an HTTPRoute without one matches every path."""
    entry = entry_of(obj, route)
    if route.section != RULES:
        return bool(entry.get("match"))
    everything = {"path": {"type": "PathPrefix", "value": "/"}}
    return any(match != everything for match in entry.get("matches") or [])


def check_weights(weights: Mapping[str, int], kind: str = "VirtualService") -> None:
    """Raise RouteError for weights that Istio would refuse, or accept and misread."""
    if not weights:
        raise RouteError("weights is empty; name each destination with its weight, for example {v1: 90, v2: 10}")
    for version, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int):
            raise RouteError(f"weights.{version} is {weight!r}; a whole number from 0 up is needed")
        if weight < 0:
            raise RouteError(f"weights.{version} is {weight}; a weight cannot be negative")
        if kind == "HTTPRoute" and weight > MAX_BACKEND_WEIGHT:
            raise RouteError(f"weights.{version} is {weight}; an HTTPRoute allows {MAX_BACKEND_WEIGHT} at most")
    total = sum(weights.values())
    if total == 0:
        raise RouteError("weights are all 0; at least one destination needs a positive weight")
    if total > MAX_WEIGHT:
        raise RouteError(f"weights add up to {total}, more than Istio's int32 can hold ({MAX_WEIGHT})")


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def weight_patch(
    obj: Object,
    route: Route,
    weights: Mapping[str, int],
    annotations: Mapping[str, str] | None = None,
    clone: tuple[str, str] | None = None,
) -> list[Operation]:
    """JSON Patch that sets the weights of ``route`` and our annotations, and touches nothing else.

    ``weights`` may leave out destinations: those keep theirs. ``clone=(stable, canary)`` first copies the entry of
    version ``stable`` as a new destination for version ``canary``. Empty when nothing would change. Every index is
    guarded by a ``test`` of the destination that was read there, the whole by the object's resourceVersion.
    """
    entries, base = entries_of(obj, route), route.path()
    guards: list[Operation] = []
    changes: list[Operation] = []
    for d in route.destinations:
        guards.append(_guard(route, d, entries[d.index]))
        if d.version in weights and d.weight != weights[d.version]:
            if d.weight is None and not clone and route.weights()[d.version] == weights[d.version]:
                continue
            operation = "add" if d.weight is None else "replace"
            if d.weight is not None:
                guards.append({"op": "test", "path": f"{base}/{d.index}/weight", "value": d.weight})
            changes.append({"op": operation, "path": f"{base}/{d.index}/weight", "value": weights[d.version]})
    if clone:
        stable, canary = clone
        entry = dict(next(entries[d.index] for d in route.destinations if d.version == stable))
        if route.section == RULES:
            entry["name"] = canary
        else:
            entry["destination"] = {**entry["destination"], "subset": canary}
        entry["weight"] = weights[canary]
        changes.append({"op": "add", "path": f"{base}/-", "value": entry})
    have = obj["metadata"].get("annotations")
    added = {k: v for k, v in (annotations or {}).items() if (have or {}).get(k) != v}
    if added and have is None:
        changes.append({"op": "add", "path": "/metadata/annotations", "value": dict(added)})
    else:
        for key, value in added.items():
            # No test of the old value: the API server compares strings as they are escaped, and Go and Python differ in
            # ">" and in letters beyond ASCII. The resourceVersion pins it anyway.
            changes.append({"op": "add", "path": f"/metadata/annotations/{_pointer(key)}", "value": value})
    if not changes:
        return []
    return [*guards, pinned(obj), *changes]


def pinned(obj: Object) -> Operation:
    """The operation that makes the API server refuse a patch of an object that has changed since it was read."""
    return {"op": "replace", "path": "/metadata/resourceVersion", "value": obj["metadata"]["resourceVersion"]}


def _guard(route: Route, destination: Destination, entry: Mapping[str, Any]) -> Operation:
    """The operation that fails when another destination than the one that was read stands at its index."""
    key = "name" if route.section == RULES else "destination"
    return {"op": "test", "path": f"{route.path()}/{destination.index}/{key}", "value": entry[key]}


def by_hand(obj: Object, route: Route, destination: Destination, weight: int) -> list[Operation]:
    """The least of a patch that a person can paste: the weight of one destination, if it still stands where it was."""
    path = f"{route.path()}/{destination.index}"
    guard = _guard(route, destination, entries_of(obj, route)[destination.index])
    if route.section != RULES:
        guard = {"op": "test", "path": f"{path}/destination/subset", "value": destination.subset}
    return [guard, {"op": "add", "path": f"{path}/weight", "value": weight}]


def removal_patch(
    obj: Object, route: Route, version: str, annotations: Mapping[str, str] | None = None
) -> list[Operation]:
    """JSON Patch that takes the destination of ``version``, which has weight 0, out of ``route`` and sets annotations.

    Guarded as ``weight_patch`` is. Empty when neither is to be changed.
    """
    entries = entries_of(obj, route)
    marks = [op for op in weight_patch(obj, route, {}, annotations) if op["path"].startswith("/metadata/annotations")]
    gone = [d for d in route.destinations if d.version == version]
    if not gone and not marks:
        return []
    guards = [_guard(route, d, entries[d.index]) for d in route.destinations]
    guards += [
        {"op": "test", "path": f"{route.path()}/{d.index}/weight", "value": d.weight}
        for d in gone
        if d.weight is not None
    ]
    removals: list[Operation] = [{"op": "remove", "path": f"{route.path()}/{d.index}"} for d in reversed(gone)]
    return [*guards, pinned(obj), *removals, *marks]


def apply_patch(obj: Object, patch: Sequence[Operation]) -> dict[str, Any]:
    """What the object looks like after a patch of ours, for ``--diff`` and tests; guards raise RouteError.

    Knows the operations that this collection writes (test, add, replace, remove), no others.
    """
    result: dict[str, Any] = copy_of(obj)
    for operation in patch:
        *parents, last = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        place: Any = result
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key: Any = last if not isinstance(place, list) else len(place) if last == "-" else int(last)
        if operation["op"] == "test":
            if place[key] != operation["value"]:
                raise RouteError(f"{operation['path']} is {place[key]!r}, not {operation['value']!r}")
        elif operation["op"] == "remove":
            del place[key]
        elif isinstance(place, list) and operation["op"] == "add":
            place.insert(key, copy_of(operation["value"]))
        else:
            place[key] = copy_of(operation["value"])
    return result


def copy_of(value: Any) -> Any:
    """A copy of a part of an object, down to its leaves."""
    if isinstance(value, Mapping):
        return {k: copy_of(v) for k, v in value.items()}
    return [copy_of(v) for v in value] if isinstance(value, list) else value


def field_manager(obj: Object, section: str = "http") -> str:
    """The manager that last wrote the section (``metadata.managedFields``), or 'unknown'. For messages about drift."""
    latest = ("", "unknown")
    for entry in obj["metadata"].get("managedFields") or []:
        fields: Any = entry.get("fieldsV1") or {}
        for key in ("f:spec", f"f:{section}"):
            fields = fields.get(key) if isinstance(fields, Mapping) else None
            if fields is None:
                break
        else:
            latest = max(latest, (str(entry.get("time", "")), str(entry.get("manager", "unknown"))))
    return latest[1]


def envoy_name(obj: Object, route: Route) -> str:
    """The name of the Envoy routes that istiod makes of it; a rule without a name gets one from its position."""
    if route.section == RULES and not route.name:
        return f"{obj['metadata'].get('namespace', '')}.{obj['metadata']['name']}.{route.index}"
    return route.name


def expected_clusters(obj: Object, route: Route) -> list[dict[str, float]]:
    """For every route of the object that shares ``route``'s name in Envoy: the share of each ``subset|full host`` key.

    Zero weights are left out, as istiod does. The first entry belongs to ``route`` itself. An empty one is for routes
    of that name that go nowhere.
    """
    namespace = obj["metadata"].get("namespace", "")
    result = []
    for other in sorted(all_routes(obj), key=lambda r: r.index != route.index):
        if other.section != route.section or envoy_name(obj, other) != envoy_name(obj, route):
            continue
        shares: dict[str, float] = {}
        total = sum(weight for _destination, weight in other.effective()) or 1
        for d, weight in other.effective():
            if weight:
                key = f"{d.subset}|{full_host(d.host, namespace)}"
                shares[key] = shares.get(key, 0.0) + weight / total
        result.append(shares)
    if any(entry.get("name", "") == route.name for entry in _answers(obj, route.section)):
        result.append({})
    return result


def expected_mirrors(obj: Object, route: Route) -> dict[str, float]:
    """Share of the requests that ``route`` mirrors to each ``subset|full host``; nothing said is all of them."""
    namespace, entry = obj["metadata"].get("namespace", ""), entry_of(obj, route)
    found: dict[str, float] = {}
    for one in entry.get("filters") or []:
        if mirror := one.get("requestMirror"):
            backend = mirror["backendRef"]
            host = full_host(backend["name"], backend.get("namespace") or namespace)
            found[f"|{host}"] = mirrored_percent(one) / 100
    given = [{"destination": entry["mirror"], **entry}] if entry.get("mirror") else []
    for one in [*given, *(entry.get("mirrors") or [])]:
        if percent := mirrored_percent(one):
            to = one["destination"]
            found[f"{to.get('subset', '')}|{full_host(str(to['host']), namespace)}"] = percent / 100
    return found


def mirrored_percent(one: Mapping[str, Any]) -> float:
    """Of the requests, by one filter of an HTTPRoute, one entry of ``mirrors``, or a route with ``mirror``."""
    if rule := one.get("requestMirror"):
        fraction = rule.get("fraction") or {"numerator": rule.get("percent", 100)}
        return 100 * float(fraction["numerator"]) / float(fraction.get("denominator", 100))
    percent = one.get("mirrorPercentage") or one.get("percentage") or {"value": one.get("mirrorPercent", 100)}
    return float(percent.get("value", 0))


def _answers(obj: Object, section: str) -> list[Mapping[str, Any]]:
    """The http routes that Envoy answers itself, redirects too: they may have the name of others, and no shares."""
    entries: list[Mapping[str, Any]] = obj["spec"].get("http") or [] if section == "http" else []
    return [entry for entry in entries if entry.get("redirect") or entry.get("directResponse")]
