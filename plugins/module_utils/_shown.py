# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting what a release shows to whom into a route object, and taking it out again. Private to this collection.

Pure. A route above the weighted one sends the cohort to the canary, another one those whose cookie says that the canary
has answered them before; the canary's answers set that cookie. Both are copies of the weighted route (its timeouts,
retries, filters) with more to match. A mirror is one more entry in the list of the weighted route. All of it is added
in the patch that begins a release or a step, and taken out again in the patch that ends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._audience import Match, Shown, cookie_regex
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    RULES,
    Object,
    Operation,
    Route,
    RouteError,
    apply_patch,
    copy_of,
    describe,
    entries_of,
    entry_of,
    full_host,
    list_key,
    mirrored_percent,
    pinned,
)

COHORT, STICKY = "progressive-istio-cohort", "progressive-istio-sticky"  # names of the routes that are added
_ADDED = re.compile(rf"((?:.*-)?(?:{COHORT}|{STICKY}))(?:\.|$)")
_MIRROR = "RequestMirror"
_ANSWERS = "ResponseHeaderModifier"


# ---------------------------------------------------------------- what is there, and what is to be there


def ours(obj: Object, section: str) -> list[tuple[int, Mapping[str, Any]]]:
    """The routes that a release has added, with their places."""
    entries = (obj.get("spec") or {}).get(section) or []
    return [(index, entry) for index, entry in enumerate(entries) if added_name(str(entry.get("name", "")))]


def added_name(name: str) -> str:
    """The name of such a route, if it is one: in a proxy more follows it, and a root goes before that of a delegate."""
    found = _ADDED.match(name)
    return found.group(1) if found else ""


def everywhere(entry: Mapping[str, Any]) -> bool:
    """Whether every proxy that has the weighted route gets this one: istiod leaves out what is for other pods."""
    matches = entry.get("match") or entry.get("matches") or [{}]
    return any(not match.get("sourceLabels") for match in matches)


def patch(obj: Object, route: Route, canary: str, shown: Shown) -> list[Operation]:
    """JSON Patch that brings ``obj`` from whatever is there to what is ``shown``. Empty when nothing would change.

    Raises RouteError, naming the field, where the route has something of its own in that place.
    """
    changes = [*_cookie_changes(obj, route, canary, shown), *_mirror_changes(obj, route, canary, shown)]
    wanted = _wanted(apply_patch(obj, changes), route, canary, shown)
    have = ours(obj, route.section)
    if [e["name"] for _i, e in have] != [e["name"] for e in wanted] or not all(
        _within(new, old) for new, (_index, old) in zip(wanted, have, strict=True)
    ):
        base = f"/spec/{route.section}"
        changes += take_out(obj, route.section)
        # The more exact rule of an HTTPRoute goes first wherever it stands; at the end it moves no other's index.
        place = route.index - sum(index < route.index for index, _entry in have)
        for entry in wanted if route.section == RULES else reversed(wanted):
            changes.append({"op": "add", "path": f"{base}/{'-' if route.section == RULES else place}", "value": entry})
    return [pinned(obj), *changes] if changes else []


def astray(obj: Object, route: Route, canary: str, shown: Shown) -> str:
    """What of it somebody else has changed, in words, or nothing. Copies of foreign fields may be behind those."""
    have = {str(entry["name"]): entry for _index, entry in ours(obj, route.section)}
    wanted = {str(entry["name"]): entry for entry in _wanted(obj, route, canary, shown)}
    said = [f"route {name} is gone" for name in wanted if name not in have]
    said += [f"route {name} is there" for name in have if name not in wanted]
    own = ("match", "matches", "route", "backendRefs")
    for name, entry in wanted.items():
        mine = {key: value for key, value in entry.items() if key in own}
        if name in have and not _within(mine, have[name]):
            said.append(f"route {name} was changed")
    if shown.cookie and _cookie_there(obj, route, canary, shown) != _set_cookie(shown):
        said.append(f"the answers of {canary} {'do not set' if shown.value else 'still set'} cookie {shown.cookie}")
    if shown.mirror is not None and mirror_of(obj, route, canary) != shown.mirror:
        said.append(f"{mirror_of(obj, route, canary)} % are mirrored to {canary}, not {shown.mirror} %")
    return ", ".join(said)


def take_out(obj: Object, section: str) -> list[Operation]:
    """The operations that take the added routes out."""
    operations: list[Operation] = []
    for index, entry in reversed(ours(obj, section)):
        path = f"/spec/{section}/{index}"
        operations += [{"op": "test", "path": f"{path}/name", "value": entry["name"]}, {"op": "remove", "path": path}]
    return operations


def _within(new: Any, old: Any) -> bool:
    """Whether ``old`` says all that ``new`` says; the API server adds defaults to what it stores."""
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        return all(key in old and _within(value, old[key]) for key, value in new.items())
    if isinstance(new, list) and isinstance(old, list):
        return len(new) == len(old) and all(_within(a, b) for a, b in zip(new, old, strict=True))
    return bool(new == old)


def _place(obj: Object, route: Route, canary: str) -> int | None:
    """Where the canary stands among the destinations, by what is in ``obj`` (``route`` may be older)."""
    for index, entry in enumerate(entries_of(obj, route)):
        if (entry.get("name") if route.section == RULES else (entry.get("destination") or {}).get("subset")) == canary:
            return index
    return None


# ---------------------------------------------------------------- the routes above


def _wanted(obj: Object, route: Route, canary: str, shown: Shown) -> list[dict[str, Any]]:
    place = _place(obj, route, canary)
    if place is None:
        return []
    groups = [(COHORT, shown.cohort)]
    if shown.value:
        stays = Match({"cookie": {"regex": cookie_regex(shown.cookie, shown.value)}}, {})
        groups.append((STICKY, (stays,)))
    return [_copy_for(obj, route, name, matches, place, shown) for name, matches in groups if matches]


def _copy_for(
    obj: Object, route: Route, name: str, matches: Sequence[Match], place: int, shown: Shown
) -> dict[str, Any]:
    """The weighted route with the canary as its only destination, for the requests that match."""
    base: dict[str, Any] = copy_of(entry_of(obj, route))
    destination = base[list_key(route.section)][place]
    destination.pop("weight", None)
    _strip(base, destination, route, obj, shown)
    if route.section == RULES:
        given = base.get("matches") or [{}]
        both = [_rule_match(obj, route, one, match) for match in matches for one in given]
        return {**base, "name": name, "matches": both, "backendRefs": [destination]}
    given = base.get("match") or [{}]
    both = [_http_match(obj, route, one, match) for match in matches for one in given]
    return {**base, "name": name, "match": both, "route": [destination]}


def _strip(base: dict[str, Any], destination: dict[str, Any], route: Route, obj: Object, shown: Shown) -> None:
    """Take out of a copy what this release has put into the weighted route: cookie and mirror."""
    if route.section == RULES:
        kept = [one for one in destination.get("filters") or [] if not _is_our_answer(one, shown)]
        destination.pop("filters", None)
        destination |= {"filters": kept} if kept else {}
    elif shown.cookie and _answer_cookie(destination).startswith(f"{shown.cookie}="):
        for operation in _taken(destination, "", ("headers", "response", "add", "set-cookie")):
            _forget(destination, operation["path"])
    if shown.mirror is None:
        return
    listed = _mirrors(route.section)
    mine = destination.get("name") if route.section == RULES else destination["destination"].get("subset")
    kept = [one for one in base.get(listed) or [] if not _goes_to(obj, route, one, str(mine))]
    if listed in base and len(kept) != len(base[listed]):
        base.pop(listed)
        base |= {listed: kept} if kept else {}


def _forget(entry: dict[str, Any], path: str) -> None:
    *parents, last = path.split("/")[1:]
    for part in parents:
        entry = entry[part]
    del entry[last]


def _http_match(obj: Object, route: Route, base: Mapping[str, Any], match: Match) -> dict[str, Any]:
    both = copy_of(base)
    headers, labels = dict(both.get("headers") or {}), dict(both.get("sourceLabels") or {})
    for name, wanted in match.headers.items():
        if name in {given.lower() for given in headers}:
            raise _taken_by(obj, route, f"matches header {name} itself")
        headers[name] = dict(wanted)
    for key, value in match.source_labels.items():
        if labels.get(key, value) != value:
            raise _taken_by(obj, route, f"matches pods with {key}={labels[key]} itself")
        labels[key] = value
    return {**both, **({"headers": headers} if headers else {}), **({"sourceLabels": labels} if labels else {})}


def _rule_match(obj: Object, route: Route, base: Mapping[str, Any], match: Match) -> dict[str, Any]:
    if match.source_labels:
        raise RouteError(
            f"cohort.source_labels: an HTTPRoute knows no source labels ({describe(obj)}); use headers or cookies"
        )
    both = copy_of(base)
    headers = list(both.get("headers") or [])
    for name, wanted in match.headers.items():
        if name in {str(given["name"]).lower() for given in headers}:
            raise _taken_by(obj, route, f"matches header {name} itself")
        operator, text = next(iter(wanted.items()))
        kind = "Exact" if operator == "exact" else "RegularExpression"
        headers.append({"name": name, "type": kind, "value": re.escape(text) + ".*" if operator == "prefix" else text})
    return {**both, "headers": headers}


def _taken_by(obj: Object, route: Route, what: str) -> RouteError:
    return RouteError(f"{describe(obj)} {route.label()} {what}; the cohort needs another condition")


# ---------------------------------------------------------------- the cookie


def _set_cookie(shown: Shown) -> str:
    if not shown.value:
        return ""
    return f"{shown.cookie}={shown.value}" + (f"; {shown.attributes}" if shown.attributes else "")


def _answer_cookie(destination: Mapping[str, Any]) -> str:
    """What a destination of a VirtualService adds to answers as Set-Cookie."""
    added = ((destination.get("headers") or {}).get("response") or {}).get("add") or {}
    return next((str(value) for key, value in added.items() if key.lower() == "set-cookie"), "")


def _is_our_answer(one: Mapping[str, Any], shown: Shown) -> bool:
    added = (one.get("responseHeaderModifier") or {}).get("add") or []
    return bool(shown.cookie) and any(
        header["name"].lower() == "set-cookie" and header["value"].startswith(f"{shown.cookie}=") for header in added
    )


def _cookie_there(obj: Object, route: Route, canary: str, shown: Shown) -> str:
    place = _place(obj, route, canary)
    if place is None:
        return ""
    destination = entries_of(obj, route)[place]
    if route.section != RULES:
        found = _answer_cookie(destination)
        return found if found.startswith(f"{shown.cookie}=") else ""
    mine = [one for one in destination.get("filters") or [] if _is_our_answer(one, shown)]
    return str(mine[0]["responseHeaderModifier"]["add"][0]["value"]) if mine else ""


def _cookie_changes(obj: Object, route: Route, canary: str, shown: Shown) -> list[Operation]:
    place = _place(obj, route, canary)
    wanted = _set_cookie(shown)
    if not shown.cookie or place is None or _cookie_there(obj, route, canary, shown) == wanted:
        return []
    base = f"{route.path()}/{place}"
    destination = entries_of(obj, route)[place]
    if route.section == RULES:
        return _filter_changes(obj, route, destination, base, wanted, shown)
    parts = ("headers", "response", "add", "set-cookie")
    if not wanted:
        return _taken(destination, base, parts)
    if (_answer_cookie(destination) and not _cookie_there(obj, route, canary, shown)) or _hollow(destination, parts):
        raise RouteError(
            f"{describe(obj)} {route.label()} has headers.response.add of its own for {canary} that leave no room for "
            "Set-Cookie (one is there already, or an empty field that could not be put back); take that out, or "
            "release without sticky"
        )
    return _put(destination, base, parts, wanted)


def _hollow(entry: Mapping[str, Any], parts: Sequence[str]) -> bool:
    """Whether one of the fields on the way is there and empty."""
    for part in parts[:-1]:
        if part not in entry:
            return False
        if not entry[part]:
            return True
        entry = entry[part]
    return False


def _put(entry: Mapping[str, Any], base: str, parts: Sequence[str], value: Any) -> list[Operation]:
    """Add a value, with the fields that are missing on the way to it."""
    path = base
    for number, part in enumerate(parts):
        path += f"/{part}"
        if part not in entry or number == len(parts) - 1:
            for outer in reversed(parts[number + 1 :]):
                value = {outer: value}
            return [{"op": "add", "path": path, "value": value}]
        entry = entry[part]
    return []


def _taken(entry: Mapping[str, Any], base: str, parts: Sequence[str]) -> list[Operation]:
    """Remove a value, and the fields above it that have nothing else."""
    chain = [entry]
    for part in parts[:-1]:
        chain.append(chain[-1][part])
    depth = len(parts)
    while depth > 1 and len(chain[depth - 1]) == 1:
        depth -= 1
    return [{"op": "remove", "path": "/".join((base, *parts[:depth]))}]


def _filter_changes(
    obj: Object, route: Route, destination: Mapping[str, Any], base: str, wanted: str, shown: Shown
) -> list[Operation]:
    """The same in a backend of an HTTPRoute, which may have one such filter."""
    have = destination.get("filters") or []
    places = [index for index, one in enumerate(have) if one.get("type") == _ANSWERS]
    if not wanted:
        alone = len(have) == 1
        return [{"op": "remove", "path": f"{base}/filters" + ("" if alone else f"/{index}")} for index in places[:1]]
    value = {"type": _ANSWERS, "responseHeaderModifier": {"add": [{"name": "Set-Cookie", "value": wanted}]}}
    if places and _is_our_answer(have[places[0]], shown):
        return [{"op": "replace", "path": f"{base}/filters/{places[0]}", "value": value}]
    if places or ("filters" in destination and not have):
        raise RouteError(
            f"{describe(obj)} {route.label()} has {'a filter ' + _ANSWERS if places else 'an empty list of filters'} "
            f"for {destination['name']}, which leaves no room for Set-Cookie; take that out, or release without sticky"
        )
    return [{"op": "add", "path": f"{base}/filters" + ("/-" if have else ""), "value": value if have else [value]}]


# ---------------------------------------------------------------- the mirror


def _mirrors(section: str) -> str:
    """The list that a route's mirrors stand in."""
    return "filters" if section == RULES else "mirrors"


def _goes_to(obj: Object, route: Route, one: Mapping[str, Any], canary: str) -> bool:
    """Whether a mirror sends to the canary of the service that the route is for."""
    namespace = obj["metadata"].get("namespace", "")
    if route.section == RULES:
        backend = (one.get("requestMirror") or {}).get("backendRef") or {}
        return one.get("type") == _MIRROR and backend.get("name") == canary
    given = one.get("destination") or {}
    hosts = {full_host(d.host, namespace) for d in route.destinations}
    return given.get("subset") == canary and full_host(str(given.get("host", "")), namespace) in hosts


def _our_mirrors(obj: Object, route: Route, canary: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, one in enumerate(entry_of(obj, route).get(_mirrors(route.section)) or []):
        if _goes_to(obj, route, one, canary):
            yield index, one


def mirror_of(obj: Object, route: Route, canary: str) -> float:
    """Percent of the route's requests that are mirrored to the canary by its list."""
    return max((mirrored_percent(one) for _index, one in _our_mirrors(obj, route, canary)), default=0)


def _mirror_changes(obj: Object, route: Route, canary: str, shown: Shown) -> list[Operation]:
    place = _place(obj, route, canary)
    if shown.mirror is None or place is None or mirror_of(obj, route, canary) == shown.mirror:
        return []
    entry, listed = entry_of(obj, route), _mirrors(route.section)
    base, have = f"/spec/{route.section}/{route.index}/{listed}", entry.get(listed) or []
    found = next(_our_mirrors(obj, route, canary), None)
    if not shown.mirror:
        return [{"op": "remove", "path": base if len(have) == 1 else f"{base}/{found[0]}"}] if found else []
    if entry.get("mirror"):
        raise RouteError(
            f"{describe(obj)} {route.label()} has a mirror of its own, and Istio allows 'mirror' or 'mirrors': "
            "write it as an entry of mirrors, or take the mirror out of the steps"
        )
    if listed in entry and not have:
        raise RouteError(f"{describe(obj)} {route.label()} has an empty list of {listed}; take that out")
    destination = entry[list_key(route.section)][place]
    if route.section == RULES:
        backend = {
            key: destination[key] for key in ("group", "kind", "name", "namespace", "port") if key in destination
        }
        value = {"type": _MIRROR, "requestMirror": {"backendRef": backend, "percent": shown.mirror}}
    else:
        value = {"destination": copy_of(destination["destination"]), "percentage": {"value": shown.mirror}}
    if found:
        return [{"op": "replace", "path": f"{base}/{found[0]}", "value": value}]
    return [{"op": "add", "path": f"{base}/-" if have else base, "value": value if have else [value]}]


def refuse_foreign_mirror(obj: Object, route: Route, canary: str) -> None:
    """Raise RouteError for a mirror to the canary that was there before the release: it could not be told from ours."""
    if next(_our_mirrors(obj, route, canary), None):
        raise RouteError(
            f"{describe(obj)} {route.label()} mirrors to {canary} already; take that out, or take the mirror out of "
            "the steps"
        )
