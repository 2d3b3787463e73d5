# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which VirtualService and DestinationRule istiod gives to the proxies of a namespace, and whether it is ours. Private.

Pure, and after istiod's own code (pilot/pkg/model of 1.31: push_context.go, destination_rule.go, sidecar.go,
virtualservice.go), with the mesh's defaults: root namespace istio-system, everything exported to everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.progressive.istio.plugins.module_utils._delegates import (
    MESH,
    delegated,
    is_delegate,
    merged,
    roots_of,
)
from ansible_collections.progressive.istio.plugins.module_utils._objects import (
    Finding,
    View,
    annotations_of,
    key_of,
    labels_of,
    namespace_of,
    places,
    refusal,
    some,
    warning,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    Object,
    all_routes,
    describe,
    expected_mirrors,
    full_host,
)

ROOT = "istio-system"
REVISION = "istio.io/rev"


def host_of(host: str, namespace: str) -> str:
    """The host that istiod takes a name for: it completes those without a dot only (``app.prod`` is no Service's)."""
    return host if "." in host else full_host(host, namespace)


def covers(pattern: str, host: str) -> bool:
    """Whether a host of a rule, perhaps a wildcard, is one for ``host``."""
    return pattern == host or (pattern.startswith("*") and host.endswith(pattern[1:]))


def _age(obj: Object) -> tuple[str, str, str]:
    """istiod's order: the oldest first; in the same second by name."""
    return str(obj["metadata"].get("creationTimestamp", "")), obj["metadata"]["name"], namespace_of(obj)


def export_of(obj: Object) -> frozenset[str]:
    """``exportTo`` with the object's own namespace by its name; everybody where it is not set."""
    return frozenset(namespace_of(obj) if to == "." else to for to in obj["spec"].get("exportTo") or ["*"])


def exported(obj: Object, namespace: str) -> bool:
    """Whether proxies of a namespace see the object (``~`` is nobody's namespace)."""
    return bool(export_of(obj) & {"*", namespace})


# ---------------------------------------------------------------- VirtualServices


def gateways_of(virtual_service: Object) -> list[str]:
    """What it is bound to; nothing said is the sidecars."""
    return virtual_service["spec"].get("gateways") or [MESH]


def pattern_of(virtual_service: Object, host: str) -> str:
    """That of its hosts by which it serves ``host``: the most exact one. Empty when it does not."""
    hosts = (host_of(h, namespace_of(virtual_service)) for h in virtual_service["spec"].get("hosts") or [])
    return min((h for h in hosts if covers(h, host)), key=_exactness, default="")


def _exactness(pattern: str) -> tuple[bool, int]:
    """Exact hosts before wildcards, long wildcards before short ones."""
    return pattern.startswith("*"), -len(pattern)


def in_mesh(virtual_service: Object) -> bool:
    """Whether sidecars get an http route from it. One without leaves its hosts to others."""
    if MESH not in gateways_of(virtual_service):
        return False
    for http in virtual_service["spec"].get("http") or []:
        matches = http.get("match") or [{}]
        if any(MESH in (match.get("gateways") or [MESH]) for match in matches):
            return True
    return False


def competing(virtual_services: Iterable[Object], host: str, namespace: str) -> list[Object]:
    """Those that sidecars of a namespace could take for ``host``; they take the first and none of the others.

    What is exported to that namespace by name, goes before what is for everybody, whatever its age.
    """

    def order(virtual_service: Object) -> tuple[tuple[bool, int], int, tuple[str, str, str]]:
        own = namespace_of(virtual_service) == namespace
        rank = 2 if "*" in export_of(virtual_service) else 0 if own else 1
        return _exactness(pattern_of(virtual_service, host)), rank, _age(virtual_service)

    found = [vs for vs in virtual_services if in_mesh(vs) and pattern_of(vs, host) and exported(vs, namespace)]
    return sorted(found, key=order)


# ---------------------------------------------------------------- DestinationRules


@dataclass(frozen=True, slots=True)
class Rules:
    """The DestinationRules that make a proxy's clusters, merged: the oldest first, and the labels of each subset."""

    objects: tuple[Object, ...]
    subsets: Mapping[str, Mapping[str, str]]


def subsets_of(rules: Iterable[Object]) -> dict[str, Mapping[str, str]]:
    """Labels by subset; the first rule that has it decides."""
    found: dict[str, Mapping[str, str]] = {}
    for rule in rules:
        for subset in rule["spec"].get("subsets") or []:
            found.setdefault(subset["name"], subset.get("labels") or {})
    return found


def deciding(
    rules: Sequence[Object], host: str, home: str, namespace: str, clients: Iterable[Object] = ()
) -> list[Rules]:
    """The rules for ``host``, a service of namespace ``home``, in the proxies of a namespace (no objects: none).

    The client's namespace decides, then the service's, then the root's: the first that has any rule for the host.
    One for most proxies, and one more for each ``workloadSelector`` that selects a pod of ``clients``.
    """
    local = [rule for rule in rules if namespace_of(rule) == namespace and exported(rule, namespace)]
    if namespace == ROOT:  # rules there are meant for everybody, unless they are for that namespace alone
        local = [rule for rule in local if _private(rule)]
    groups = _merged(local, host)
    if groups:
        mine = [
            _rules(objects)
            for selector, objects in groups
            if selector and any(selector.items() <= labels_of(pod).items() for pod in clients)
        ]
        others = [objects for selector, objects in groups if not selector]
        return [_rules(others[-1]) if others else Rules(tuple(groups[-1][1]), {}), *mine]
    for place in (home, ROOT):
        public = [rule for rule in rules if namespace_of(rule) == place and not _private(rule)]
        visible = [objects for _selector, objects in _merged(public, host) if exported(objects[0], namespace)]
        if visible:
            return [_rules(visible[-1])]
    return [Rules((), {})]


def _rule_host(rule: Object) -> str:
    return host_of(rule["spec"].get("host", ""), namespace_of(rule))


def _rules(objects: Sequence[Object]) -> Rules:
    return Rules(tuple(objects), subsets_of(objects))


def _selector(rule: Object) -> dict[str, str]:
    return (rule["spec"].get("workloadSelector") or {}).get("matchLabels") or {}


def _private(rule: Object) -> bool:
    """Seen in its own namespace only, as is every rule with a ``workloadSelector``."""
    return bool(_selector(rule)) or export_of(rule) == {namespace_of(rule)}


def _merged(rules: Iterable[Object], host: str) -> list[tuple[dict[str, str], list[Object]]]:
    """One namespace's rules for the most exact host that covers ``host``, as istiod merges them: (selector, rules).

    Rules with the same ``exportTo`` as written become one. Otherwise they stay apart, and the youngest is used alone.
    """
    mine = [rule for rule in rules if covers(_rule_host(rule), host)]
    best = min((_rule_host(rule) for rule in mine), key=_exactness, default="")
    groups: list[tuple[dict[str, str], frozenset[str], list[Object]]] = []
    for rule in sorted((rule for rule in mine if _rule_host(rule) == best), key=_age):
        selector, export = _selector(rule), frozenset(rule["spec"].get("exportTo") or ())
        fitting = [g for g in groups if g[0] == selector and (g[1] == export or (g[1] and g[1] < export))]
        for group in fitting:
            group[2].append(rule)
        if not groups or groups[-1] not in fitting:
            groups.append((selector, export, [rule]))
    return [(selector, objects) for selector, _export, objects in groups]


# ---------------------------------------------------------------- findings


def routed_elsewhere(objects: Iterable[Object], moved: Mapping[str, tuple[str, int]], keys: Collection[str]) -> bool:
    """Whether a route beside those that are ``moved`` sends or mirrors requests to one of ``subset|full host``.

    ``moved``: section and index by how the route object is called in messages.
    """
    for obj in objects:
        where, namespace = describe(obj), obj["metadata"].get("namespace", "")
        for route in all_routes(obj):
            if moved.get(where) == (route.section, route.index):
                continue
            sent = {f"{d.subset}|{full_host(d.host, namespace)}" for d, weight in route.effective() if weight}
            if not sent.isdisjoint(keys) or not set(expected_mirrors(obj, route)).isdisjoint(keys):
                return True
    return False


def unresolved(view: View) -> Iterable[Finding]:
    """Destinations that look like the service and are not: istiod completes names without a dot, and no others."""
    place, host = namespace_of(view.route), view.service.host
    given = {d.host for route in all_routes(view.route) for d in route.destinations}
    wrong = sorted(h for h in given if full_host(h, place) == host and host_of(h, place) != host)
    if wrong:
        yield refusal(
            f"{describe(view.route)} has destinations with host {', '.join(wrong)}, which Istio does not complete: "
            f"their requests are answered with 503; write {host}",
        )


def _reads(obj: Object, pods: Iterable[Object]) -> bool:
    """Whether the istiod of one of these proxies reads the object: it skips the label of another revision."""
    revision = labels_of(obj).get(REVISION)
    return not revision or any(annotations_of(pod).get(REVISION, revision) == revision for pod in pods)


def reach(view: View) -> Iterable[Finding]:
    """Whether the clients' proxies take our VirtualService, or the roots of a delegate, and have its subsets."""
    for other in view.virtual_services:
        if key_of(other) in view.others and is_delegate(other):
            yield from _left_out(view, other)
    if not is_delegate(view.route):
        yield from _taken(view, [view.route])
        return
    yield from _left_out(view, view.route)
    roots = _roots(view, view.route)
    if roots:
        yield from _taken(view, roots)


def _roots(view: View, delegate: Object) -> list[Object]:
    """The roots by which it reaches proxies, each with the routes that come of it, and no others."""
    found = roots_of(delegate, view.virtual_services)
    parts = [merged(root, {key_of(delegate): delegate}, only=key_of(delegate)) for root in found]
    return [part for part in parts if exported(delegate, namespace_of(part))]


def _left_out(view: View, delegate: Object) -> Iterable[Finding]:
    """Who names a delegate in vain, and whether nobody else does."""
    what, takes = describe(delegate), bool(_roots(view, delegate))
    naming = [vs for vs in view.virtual_services if key_of(delegate) in delegated(vs)]
    for vs in naming:
        if is_delegate(vs):
            why = "it has no hosts itself, and istiod does not delegate twice; give a root"
            yield Finding(not takes, f"VirtualService {key_of(vs)} delegates to {what} in vain: {why} that route")
        elif not exported(delegate, namespace_of(vs)):
            why = f"it is exported to {some(export_of(delegate))} only, so istiod drops that route"
            more = f"add {namespace_of(vs)} to its exportTo"
            yield Finding(not takes, f"VirtualService {key_of(vs)} delegates to {what} in vain: {why}; {more}")
    if not naming:
        where = f" (of those in namespace {view.home}; no others may be listed)" * ("virtualservices" in view.unseen)
        yield refusal(
            f"{what} has no hosts, and no VirtualService delegates to it{where}: its weights reach nobody; name it as "
            "delegate in a route, or say with route_object which one holds the weights",
        )
    if any(delegated(delegate)):
        yield warning(
            f"{what} has routes that delegate further, and istiod does not delegate twice: leave that to its root"
        )


def _taken(view: View, ours: Sequence[Object]) -> Iterable[Finding]:
    """The same for what proxies run our weights by: any one of these, each for the service or for hosts of its own."""
    keys = {key_of(vs) for vs in ours}
    reached: dict[str, list[Object]] = {}
    missed: dict[str, set[str]] = {}
    winners: dict[tuple[str, str], tuple[Object, Object, str, set[str]]] = {}
    losers: dict[str, tuple[Object, str]] = {}
    for namespace, pods in view.proxies("sidecar").items():
        why = []
        for vs, wanted in [(one, host) for one in ours for host in _hosts(view, one)]:
            if reason := _missed(view, vs, wanted, namespace, pods):
                why.append(reason)
                continue
            others = [o for o in view.virtual_services if key_of(o) not in keys and pattern_of(o, wanted)]
            order = competing([o for o in (*ours, *others) if _reads(o, pods)], wanted, namespace)
            if key_of(order[0]) in keys:
                reached[namespace] = pods
                same = [o for o in order[1:] if pattern_of(o, wanted) == pattern_of(vs, wanted)]
                losers |= {key_of(o): (order[0], wanted) for o in same if key_of(o) not in keys}
            else:
                place = key_of(order[0]), key_of(vs)
                winners.setdefault(place, (order[0], vs, wanted, set()))[3].add(namespace)
        if why and namespace not in reached and not any(namespace in found[3] for found in winners.values()):
            missed.setdefault(why[0], set()).add(namespace)
    routers = view.proxies("router") if any(set(gateways_of(vs)) - {MESH} for vs in ours) else {}
    for text, where in missed.items():
        refuse = not (reached or winners or routers) or bool(view.clients & where)
        yield Finding(refuse, text.format(places=places(where)))
    for winner, loser, wanted, where in winners.values():
        yield _beaten(winner, loser, wanted, where)
    for key, (vs, wanted) in sorted(losers.items(), key=lambda item: item[0]):
        if key not in {winner for winner, _loser in winners}:
            yield warning(
                f"VirtualService {key} is for {wanted} too, and sidecars ignore it, as {describe(vs)} goes before it; "
                "take the host out of it, or delete it",
            )
    yield from _subsets(view, {**{name: pods for name, pods in routers.items() if name in view.clients}, **reached})


def _hosts(view: View, virtual_service: Object) -> list[str]:
    """The hosts that sidecars are to take it for: the service's; of a root that is not for it, those it is for."""
    host = view.service.host
    if view.is_ours(virtual_service) or pattern_of(virtual_service, host) or MESH not in gateways_of(virtual_service):
        return [host]
    return [host_of(given, namespace_of(virtual_service)) for given in virtual_service["spec"]["hosts"]]


def _missed(view: View, route: Object, host: str, namespace: str, pods: Iterable[Object]) -> str:
    """Why sidecars of a namespace do not get our VirtualService, whoever else is there; empty when they do."""
    what = describe(route)
    for one in (route, view.route):
        if not _reads(one, pods):
            return (
                f"{describe(one)} is labelled {REVISION}={labels_of(one)[REVISION]}, and no proxy in {{places}} is of "
                "that revision (a tag does not count): they do not get it; take the label off, or name their revision"
            )
    if MESH not in gateways_of(route):
        return (
            f"{what} is bound to gateways {', '.join(gateways_of(route))} only: sidecars in {{places}} split by "
            "endpoints, not by its weights; add mesh to its gateways"
        )
    if not exported(route, namespace):
        return (
            f"{what} is exported to {', '.join(route['spec']['exportTo'])} only: sidecars in {{places}} do not get "
            "it, and split by endpoints; add them to its exportTo"
        )
    if not pattern_of(route, host):
        hosts = ", ".join(route["spec"]["hosts"])
        return (
            f"{what} is for {hosts}, and not for {host} (Istio completes names without a dot only): sidecars in "
            "{places} split by endpoints; add that to its hosts"
        )
    if not in_mesh(route):
        return f"{what} has no http route for mesh: sidecars in {{places}} split by endpoints; mend gateways in match"
    return ""


def _beaten(winner: Object, route: Object, host: str, where: Iterable[str]) -> Finding:
    if pattern_of(winner, host) != pattern_of(route, host):
        why = "names it more exactly"
    elif _age(winner) < _age(route):
        why = f"is older ({_age(winner)[0]}, ours {_age(route)[0]})"
    else:
        why = f"is exported to {some(export_of(winner))} by name, which goes before age"
    return refusal(
        f"VirtualService {key_of(winner)} is for {host} too and {why}: sidecars in {places(where)} take it and ignore "
        f"{describe(route)}; put the routes into one of them, or take the host out of the other",
    )


def _subsets(view: View, reached: Mapping[str, Sequence[Object]]) -> Iterable[Finding]:
    """Whether the proxies that have our route have its subsets, too. Sure where requests come from, or the rule is
    for this very host; a wildcard in a namespace that nobody calls from need not matter.
    """
    host = view.service.host
    rules = [rule for rule in view.destination_rules if covers(_rule_host(rule), host)]
    found: dict[str, tuple[set[str], bool]] = {}
    for namespace, pods in reached.items():
        read = [rule for rule in rules if _reads(rule, pods)]
        for used in deciding(read, host, view.home, namespace, pods):
            fault = _fault(view, used)
            if fault:
                where, sure = found.get(fault, (set(), False))
                exact = any(_rule_host(rule) == host for rule in used.objects)
                found[fault] = (where | {namespace}, sure or exact or namespace in view.clients)
    everywhere = {namespace for where, _sure in found.values() for namespace in where} == set(reached)
    for fault, (where, sure) in found.items():
        yield Finding(sure or everywhere, fault.format(places=places(where)))


def _fault(view: View, used: Rules) -> str:
    """What is wrong with the rules that a proxy uses; empty when nothing is."""
    missing = ", ".join(name for name in view.versions if name not in used.subsets)
    if missing and not used.objects:
        return (
            f"no DestinationRule with subset {missing} of {view.service.host} reaches {{places}}{_hidden(view)}: "
            "requests for it from there are answered with 503; let one reach them"
        )
    rules = " and ".join(f"{key_of(rule)} ({rule['spec']['host']})" for rule in used.objects)
    if missing:
        return (
            f"proxies in {{places}} use DestinationRule {rules} and no other, without subset {missing}: requests for "
            "it from there are answered with 503; add it there, or delete that rule"
        )
    for name in view.versions:
        theirs, ours = used.subsets[name], view.service.subsets.get(name, {})
        if theirs != ours and view.selected(theirs) != view.selected(ours):
            return (
                f"proxies in {{places}} use DestinationRule {rules}, whose subset {name} is {_selection(theirs)}, and "
                f"the release watches {_selection(ours)}; leave one rule that says what {name} is"
            )
    return ""


def _hidden(view: View) -> str:
    """What keeps rules that have the subsets from being used, as far as they say it themselves."""
    told = []
    for rule in view.destination_rules:
        place, given = namespace_of(rule), str(rule["spec"].get("host", ""))
        if full_host(given, place) != view.service.host or not subsets_of([rule]).keys() & set(view.versions):
            continue
        if host_of(given, place) != view.service.host:
            told.append(f"{key_of(rule)} has host {given}, which Istio does not complete")
        elif "*" not in export_of(rule):
            told.append(f"{key_of(rule)} is exported to {some(export_of(rule))}")
        elif REVISION in labels_of(rule):
            told.append(f"{key_of(rule)} is labelled {REVISION}={labels_of(rule)[REVISION]}")
        elif rule["spec"].get("workloadSelector"):
            told.append(f"{key_of(rule)} has a workloadSelector")
    return f" ({'; '.join(told)})" if told else ""


def _selection(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "all pods"
