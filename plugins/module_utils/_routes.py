# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a VirtualService says about weights, and the JSON Patch that changes nothing else. Private to this collection.

Pure: objects of the API come in as plain dictionaries, patches go out as lists of operations (RFC 6902).
``spec.http`` is one atomic list for merge patch and for server-side apply, so both would wipe what other people
wrote there; a patch that names every index, tests what it relies on, and pins ``metadata.resourceVersion`` does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
Operation = dict[str, Any]

MAX_WEIGHT = 2**31 - 1  # int32 in Istio's API; nobody checks the overflow of their sum


class RouteError(ValueError):
    """The route object is not what the caller expects; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One entry of ``http[].route``: where it stands, what it names, and its weight as written (None: not written)."""

    index: int
    host: str
    subset: str
    weight: int | None


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One entry of ``spec.http`` that has destinations."""

    index: int
    name: str
    destinations: tuple[Destination, ...]

    def weights(self) -> dict[str, int]:
        """Effective weight by subset. One destination has everything; without a weight, one of several has nothing."""
        if len(self.destinations) == 1:
            return {self.destinations[0].subset: 100}
        return {d.subset: d.weight or 0 for d in self.destinations}

    def label(self) -> str:
        """How this route is named in messages."""
        return f"http[{self.index}]" + (f" ({self.name})" if self.name else "")


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


def http_routes(obj: Object) -> list[HttpRoute]:
    """The routes of ``spec.http`` that have destinations (redirects, delegates and direct answers have none)."""
    routes = []
    for index, http in enumerate((obj.get("spec") or {}).get("http") or []):
        destinations = tuple(
            Destination(
                position,
                str((entry.get("destination") or {}).get("host", "")),
                str((entry.get("destination") or {}).get("subset", "")),
                entry.get("weight"),
            )
            for position, entry in enumerate(http.get("route") or [])
        )
        if destinations:
            routes.append(HttpRoute(index, str(http.get("name", "")), destinations))
    return routes


def serves(obj: Object, host: str) -> bool:
    """Whether the VirtualService names the full host ``host`` among its ``hosts``."""
    namespace = obj["metadata"].get("namespace", "")
    return any(full_host(h, namespace) == host for h in (obj.get("spec") or {}).get("hosts") or [])


def find_route(obj: Object, subsets: Sequence[str], name: str = "", host: str = "") -> HttpRoute:
    """The one route with exactly these subsets; with ``name``, the route of that name, which may have more of them.

    ``host`` (full) restricts the search to destinations of that service. Raises RouteError when there is none, or
    more than one.
    """
    namespace = obj["metadata"].get("namespace", "")
    wanted = set(subsets)

    def ours(route: HttpRoute) -> set[str]:
        return {d.subset for d in route.destinations if not host or full_host(d.host, namespace) == host}

    routes = http_routes(obj)
    if name:
        named = [route for route in routes if route.name == name]
        if len(named) != 1:
            there = ", ".join(sorted(r.name for r in routes if r.name)) or "none"
            raise RouteError(
                f"{describe(obj)} has {len(named) or 'no'} http routes named '{name}'; named routes there: {there}"
            )
        missing = sorted(wanted - ours(named[0]))
        if missing:
            raise RouteError(
                f"{describe(obj)} {named[0].label()} has no destination with subset {', '.join(missing)}; "
                f"it has {', '.join(sorted(s or '(none)' for s in ours(named[0])))}"
            )
        found = named
    else:
        found = [r for r in routes if ours(r) == wanted and len(r.destinations) == len(wanted)]
        if not found:
            there = "; ".join(f"{r.label()}: {', '.join(sorted(s or '(none)' for s in ours(r)))}" for r in routes)
            raise RouteError(
                f"{describe(obj)} has no http route with exactly the subsets {', '.join(sorted(wanted))}; "
                f"there are: {there or 'no routes'}"
            )
        if len(found) > 1:
            raise RouteError(
                f"{describe(obj)} has {len(found)} http routes with the subsets {', '.join(sorted(wanted))} "
                f"({', '.join(r.label() for r in found)}); give the one that is meant a name and say which with 'route'"
            )
    subsets_there = [d.subset for d in found[0].destinations]
    if len(set(subsets_there)) != len(subsets_there):
        raise RouteError(f"{describe(obj)} {found[0].label()} names a subset twice; weights would be ambiguous")
    return found[0]


def pick_route(obj: Object, host: str, canary: str, name: str = "") -> HttpRoute:
    """The http route that a release of subset ``canary`` of the service ``host`` (full) moves weight in.

    With ``name`` the route of that name; else the one that has the canary beside another version of the service; else,
    for a version that no route knows yet, the one without ``match``. Raises RouteError when that is none or several.
    """
    namespace = obj["metadata"].get("namespace", "")
    routes = [
        r
        for r in http_routes(obj)
        if r.destinations and all(full_host(d.host, namespace) == host for d in r.destinations)
    ]
    if name:
        found = [r for r in routes if r.name == name]
    else:
        found = [r for r in routes if len(r.destinations) > 1 and canary in {d.subset for d in r.destinations}]
        if not found:
            found = [r for r in routes if not obj["spec"]["http"][r.index].get("match")]
    if len(found) == 1:
        subsets = [d.subset for d in found[0].destinations]
        if len(set(subsets)) != len(subsets) or not all(subsets):
            raise RouteError(
                f"{describe(obj)} {found[0].label()} needs one destination for each subset, it has "
                f"{', '.join(s or '(no subset)' for s in subsets)}"
            )
        return found[0]
    there = "; ".join(f"{r.label()}: {', '.join(d.subset or '(no subset)' for d in r.destinations)}" for r in routes)
    what = f"named '{name}'" if name else f"that can carry subset '{canary}'"
    raise RouteError(
        f"{describe(obj)} has {len(found) or 'no'} http routes to {host} {what}; there are: {there or 'none'}. "
        "Say which one with 'route' (its name)"
    )


def check_weights(weights: Mapping[str, int]) -> None:
    """Raise RouteError for weights that Istio would refuse, or accept and misread."""
    if not weights:
        raise RouteError("weights is empty; name each destination with its weight, for example {v1: 90, v2: 10}")
    for subset, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int):
            raise RouteError(f"weights.{subset} is {weight!r}; a whole number from 0 up is needed")
        if weight < 0:
            raise RouteError(f"weights.{subset} is {weight}; a weight cannot be negative")
    total = sum(weights.values())
    if total == 0:
        raise RouteError("weights are all 0; at least one destination needs a positive weight")
    if total > MAX_WEIGHT:
        raise RouteError(f"weights add up to {total}, more than Istio's int32 can hold ({MAX_WEIGHT})")


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def weight_patch(
    obj: Object,
    route: HttpRoute,
    weights: Mapping[str, int],
    annotations: Mapping[str, str] | None = None,
    clone: tuple[str, str] | None = None,
) -> list[Operation]:
    """JSON Patch that sets the weights of ``route`` and our annotations, and touches nothing else.

    ``weights`` may leave out destinations: those keep theirs. ``clone=(stable, canary)`` first copies the entry of
    subset ``stable`` as a new destination with subset ``canary``. Empty when nothing would change. Every index is
    guarded by a ``test`` of the destination that was read there, the whole by the object's resourceVersion.
    """
    entries = obj["spec"]["http"][route.index]["route"]
    base = f"/spec/http/{route.index}/route"
    guards: list[Operation] = []
    changes: list[Operation] = []
    for d in route.destinations:
        guards.append({"op": "test", "path": f"{base}/{d.index}/destination", "value": entries[d.index]["destination"]})
        if d.subset in weights and d.weight != weights[d.subset]:
            if d.weight is None and not clone and route.weights()[d.subset] == weights[d.subset]:
                continue
            operation = "add" if d.weight is None else "replace"
            if d.weight is not None:
                guards.append({"op": "test", "path": f"{base}/{d.index}/weight", "value": d.weight})
            changes.append({"op": operation, "path": f"{base}/{d.index}/weight", "value": weights[d.subset]})
    if clone:
        stable, canary = clone
        entry = dict(next(entries[d.index] for d in route.destinations if d.subset == stable))
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
    pin = {"op": "replace", "path": "/metadata/resourceVersion", "value": obj["metadata"]["resourceVersion"]}
    return [*guards, pin, *changes]


def by_hand(route: HttpRoute, destination: Destination, weight: int) -> list[Operation]:
    """The least of a patch that a person can paste: the weight of one destination, if it still stands where it was."""
    path = f"/spec/http/{route.index}/route/{destination.index}"
    return [
        {"op": "test", "path": f"{path}/destination/subset", "value": destination.subset},
        {"op": "add", "path": f"{path}/weight", "value": weight},
    ]


def apply_patch(obj: Object, patch: Sequence[Operation]) -> dict[str, Any]:
    """What the object looks like after a patch of ours, for ``--diff`` and tests; guards raise RouteError.

    Knows the operations that ``weight_patch`` writes (test, add, replace), no others.
    """
    result: dict[str, Any] = _copy(obj)
    for operation in patch:
        *parents, last = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        place: Any = result
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key: Any = last if not isinstance(place, list) else len(place) if last == "-" else int(last)
        if operation["op"] == "test":
            if place[key] != operation["value"]:
                raise RouteError(f"{operation['path']} is {place[key]!r}, not {operation['value']!r}")
        elif isinstance(place, list) and operation["op"] == "add":
            place.insert(key, _copy(operation["value"]))
        else:
            place[key] = _copy(operation["value"])
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def field_manager(obj: Object, path: Sequence[str] = ("f:spec", "f:http")) -> str:
    """The manager that last wrote the field (``metadata.managedFields``), or 'unknown'. For the message about drift."""
    latest = ("", "unknown")
    for entry in obj["metadata"].get("managedFields") or []:
        fields: Any = entry.get("fieldsV1") or {}
        for key in path:
            fields = fields.get(key) if isinstance(fields, Mapping) else None
            if fields is None:
                break
        else:
            latest = max(latest, (str(entry.get("time", "")), str(entry.get("manager", "unknown"))))
    return latest[1]


def expected_clusters(obj: Object, route: HttpRoute) -> list[dict[str, float]]:
    """For every http route of the object that shares ``route``'s name: the share of each ``subset|full host`` key.

    Zero weights are left out, as istiod does. The first entry belongs to ``route`` itself.
    """
    namespace = obj["metadata"].get("namespace", "")
    result = []
    for other in sorted(http_routes(obj), key=lambda r: r.index != route.index):
        if other.name != route.name:
            continue
        shares: dict[str, float] = {}
        weights = [100] if len(other.destinations) == 1 else [d.weight or 0 for d in other.destinations]
        total = sum(weights) or 1
        for d, weight in zip(other.destinations, weights, strict=True):
            if weight:
                key = f"{d.subset}|{full_host(d.host, namespace)}"
                shares[key] = shares.get(key, 0.0) + weight / total
        result.append(shares)
    return result
