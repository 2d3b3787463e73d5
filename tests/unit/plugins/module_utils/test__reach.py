# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose VirtualService and DestinationRule the clients' proxies take: what istiod does, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._objects import View
from ansible_collections.progressive.istio.plugins.module_utils._reach import (
    competing,
    covers,
    deciding,
    exported,
    host_of,
    reach,
    routed_elsewhere,
    unresolved,
)

from .shop import (
    CLEAN,
    HOST,
    OLDER,
    OURS,
    SUBSETS,
    YOUNGER,
    beside,
    destination_rule,
    ours,
    pod,
    route,
    rules,
    version,
    virtual_service,
)

V1 = {"v1": {"version": "v1"}}
V2 = {"v2": {"version": "v2"}}
ROUTE = "VirtualService shop/app-1"


def told(view: View) -> list[tuple[bool, str]]:
    return [(finding.refuse, finding.text) for finding in reach(view)]


def refused(text: str) -> list[tuple[bool, str]]:
    return [(True, text)]


def warned(text: str) -> list[tuple[bool, str]]:
    return [(False, text)]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("app-1", HOST),
        (HOST, HOST),
        ("app-1.shop", "app-1.shop"),
        ("app-1.shop.svc", "app-1.shop.svc"),
        ("*", "*"),
        ("*.local", "*.local"),
        ("example.com", "example.com"),
    ],
)
def test_only_names_without_a_dot_are_completed(host: str, full: str) -> None:
    assert host_of(host, "shop") == full


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        (HOST, True),
        ("*", True),
        ("*.local", True),
        ("*.shop.svc.cluster.local", True),
        ("*-1.shop.svc.cluster.local", True),
        ("app-10.shop.svc.cluster.local", False),
        ("*.app-1.shop.svc.cluster.local", False),
        ("*.shop2.svc.cluster.local", False),
        ("app-1.shop", False),
        ("", False),
    ],
)
def test_wildcards(pattern: str, covered: bool) -> None:
    assert covers(pattern, HOST) == covered


@pytest.mark.parametrize(
    ("export", "seen"),
    [
        (None, True),
        ([], True),
        (["*"], True),
        (["."], False),
        (["web"], True),
        (["quiet", "web"], True),
        (["quiet"], False),
        (["~"], False),
    ],
)
def test_who_sees_an_object(export: list[str] | None, seen: bool) -> None:
    found = virtual_service("x", **({} if export is None else {"exportTo": export}))
    assert exported(found, "web") == seen
    assert exported(found, "shop") == ((seen and export not in (["web"], ["quiet", "web"])) or export == ["."])


def test_destinations_that_istio_does_not_complete() -> None:
    view = ours(http=[route("v1", "v2", host="app-1.shop"), route("v1", host="app-1"), route("v1", host="app-10.shop")])
    (finding,) = unresolved(view)
    assert finding.refuse
    assert finding.text == (
        f"{ROUTE} has destinations with host app-1.shop, which Istio does not complete: "
        f"their requests are answered with 503; write {HOST}"
    )
    assert list(unresolved(ours(http=[route("v1", "v2", host="app-1")]))) == []


# ---------------------------------------------------------------- VirtualServices


def test_a_clean_mesh() -> None:
    assert told(CLEAN) == []
    assert told(ours(hosts=["app-1", "shop.example.com"], gateways=["mesh", "main"])) == []
    assert told(replace(CLEAN, pods=())) == [], "who has no proxies is told that elsewhere"


@pytest.mark.parametrize(
    "other",
    [
        virtual_service("older", "web", OLDER, hosts=["app-1"]),
        virtual_service("older", "web", OLDER, hosts=["app-1.shop"]),
        virtual_service("older", "web", OLDER, gateways=["main"]),
        virtual_service("older", "elsewhere", OLDER, exportTo=["."]),
        virtual_service("older", "shop", OLDER, exportTo=["~"]),
        virtual_service("older", "shop", OLDER, hosts=["*.local"]),
        virtual_service("older", "shop", OLDER, hosts=[]),
        virtual_service("older", "shop", OLDER, http=[], tcp=[{"route": []}]),
        virtual_service("older", "shop", OLDER, http=[{"match": [{"gateways": ["shop/main"]}], **route("v1")}]),
        virtual_service("older", "shop", OLDER, labels={"istio.io/rev": "canary"}),
    ],
    ids=lambda obj: str({k: v for k, v in obj["spec"].items() if k != "http"})[:60],
)
def test_others_that_do_not_compete(other: dict[str, Any]) -> None:
    assert told(beside("virtual_services", other)) == []


@pytest.mark.parametrize(
    ("namespace", "hosts"), [("web", [HOST]), ("elsewhere", ["x.example.com", HOST]), ("shop", ["app-1"])]
)
def test_an_older_one_wins(namespace: str, hosts: list[str]) -> None:
    view = beside("virtual_services", virtual_service("older", namespace, OLDER, hosts=hosts))
    assert told(view) == refused(
        f"VirtualService {namespace}/older is for {HOST} too and is older ({OLDER}, ours {OURS}): sidecars in "
        f"namespaces quiet, shop, web take it and ignore {ROUTE}; put the routes into one of them, or take the host "
        "out of the other"
    )


def test_a_younger_one_is_ignored() -> None:
    view = beside("virtual_services", virtual_service("younger", "web", YOUNGER))
    assert told(view) == warned(
        f"VirtualService web/younger is for {HOST} too, and sidecars ignore it, as {ROUTE} goes before it; "
        "take the host out of it, or delete it"
    )


def test_of_the_same_second_the_name_decides() -> None:
    assert told(beside("virtual_services", virtual_service("aaa", "web")))[0][0]
    assert not told(beside("virtual_services", virtual_service("zzz", "web")))[0][0]


def test_one_for_a_client_alone_goes_before_age() -> None:
    view = beside("virtual_services", virtual_service("private", "web", YOUNGER, exportTo=["."]))
    assert told(view) == refused(
        f"VirtualService web/private is for {HOST} too and is exported to web by name, which goes before age: sidecars "
        f"in namespace web take it and ignore {ROUTE}; put the routes into one of them, or take the host out of the "
        "other"
    )


def test_one_that_wins_here_and_loses_there_is_told_once() -> None:
    other = virtual_service("other", "quiet", YOUNGER, exportTo=[".", "web"])
    view = ours(exportTo=[".", "quiet", "web"])
    found = told(replace(view, virtual_services=(*view.virtual_services, other)))
    assert [refuse for refuse, _text in found] == [True]
    assert (
        "is exported to quiet, web by name, which goes before age: sidecars in namespace quiet take it" in found[0][1]
    )


def test_the_order_of_istiod() -> None:
    found = [
        virtual_service("wild-short", "web", OLDER, hosts=["*.local"], exportTo=["."]),
        virtual_service("wild-long", "web", YOUNGER, hosts=["*.shop.svc.cluster.local"]),
        virtual_service("public-young", "shop", YOUNGER),
        virtual_service("public-old", "quiet", OLDER),
        virtual_service("named", "shop", YOUNGER, exportTo=["web", "."]),
        virtual_service("own", "web", YOUNGER, exportTo=["."]),
    ]
    names = [vs["metadata"]["name"] for vs in competing(found, HOST, "web")]
    assert names == ["own", "named", "public-old", "public-young", "wild-long", "wild-short"]
    assert [vs["metadata"]["name"] for vs in competing(found, HOST, "shop")] == [
        "named",
        "public-old",
        "public-young",
        "wild-long",
    ]


def test_our_wildcard_loses_to_any_exact_host() -> None:
    view = ours(hosts=["*.shop.svc.cluster.local"])
    assert told(view)[0][0], "the older wildcard of the clean mesh"
    exact = virtual_service("exact", "web", YOUNGER)
    found = told(replace(view, virtual_services=(*view.virtual_services[:-1], exact)))
    assert found[0][0]
    assert f"web/exact is for {HOST} too and names it more exactly: " in found[0][1]


# ---------------------------------------------------------------- what keeps ours away


def test_bound_to_gateways_only() -> None:
    view = ours(gateways=["ingress/main", "other"])
    text = (
        f"{ROUTE} is bound to gateways ingress/main, other only: sidecars in namespaces quiet, shop, web split by "
        "endpoints, not by its weights; add mesh to its gateways"
    )
    assert told(replace(view, clients=frozenset({"ingress"}))) == warned(text)
    assert told(view) == refused(text), "a namespace that is known to send requests"
    nobody = replace(view, clients=frozenset(), pods=tuple(p for p in view.pods if "gateway" not in str(p)))
    assert told(nobody) == refused(text), "no gateway is there to take it"


def test_exported_to_some() -> None:
    text = (
        f"{ROUTE} is exported to ., web only: sidecars in namespace quiet do not get it, and split by endpoints; "
        "add them to its exportTo"
    )
    assert told(ours(exportTo=[".", "web"])) == warned(text)
    assert told(replace(ours(exportTo=[".", "web"]), clients=frozenset({"quiet"}))) == refused(text)
    (found,) = told(replace(ours(exportTo=["~"]), clients=frozenset()))
    assert found[0], "nobody gets it"


def test_many_namespaces_are_counted() -> None:
    view = ours(exportTo=["web"])
    crowd = replace(view, pods=(*view.pods, *(pod("x", f"team-{i}") for i in range(5))))
    assert "sidecars in namespaces quiet, shop, team-0 and 4 more do not get it" in told(crowd)[0][1]


def test_labelled_for_another_revision() -> None:
    text = (
        f"{ROUTE} is labelled istio.io/rev=prod, and no proxy in namespaces quiet, shop, web is of that revision (a "
        "tag does not count): they do not get it; take the label off, or name their revision"
    )
    assert told(ours(labels={"istio.io/rev": "prod"})) == refused(text)
    assert told(ours(labels={"istio.io/rev": "default"})) == []
    view = ours(labels={"istio.io/rev": "prod"})
    web, shop = pod("x", "web"), pod("y", "shop")
    for found in (web, shop):
        found["metadata"]["annotations"]["istio.io/rev"] = "prod"
    assert told(replace(view, pods=(web, shop))) == []
    del web["metadata"]["annotations"]["istio.io/rev"]
    assert told(replace(view, pods=(web, shop))) == [], "a proxy of an unknown revision is not blamed"


def test_hosts_that_istio_does_not_complete() -> None:
    assert told(ours(hosts=["app-1.shop"])) == refused(
        f"{ROUTE} is for app-1.shop, and not for {HOST} (Istio completes names without a dot only): sidecars in "
        "namespaces quiet, shop, web split by endpoints; add that to its hosts"
    )
    assert told(ours(hosts=["app-1", "app-1.shop"])) == []


def test_no_route_for_sidecars() -> None:
    entry = {"match": [{"gateways": ["shop/main"]}], **route("v1", "v2")}
    assert told(ours(gateways=["mesh", "main"], http=[entry])) == refused(
        f"{ROUTE} has no http route for mesh: sidecars in namespaces quiet, shop, web split by endpoints; mend "
        "gateways in match"
    )
    assert told(ours(http=[{"match": [{"gateways": ["mesh"]}, {"uri": {"prefix": "/"}}], **route("v1", "v2")}])) == []


# ---------------------------------------------------------------- DestinationRules


def decided(namespace: str, *found: dict[str, Any], pods: tuple[dict[str, Any], ...] = ()) -> list[tuple[str, str]]:
    """(rules, subsets) of all that is used in a namespace."""
    used = deciding(found, HOST, "shop", namespace, pods)
    return [(",".join(r["metadata"]["name"] for r in one.objects), ",".join(one.subsets)) for one in used]


def test_the_client_before_the_service_before_the_root() -> None:
    home, root = destination_rule("home"), destination_rule("root", "istio-system", subsets=V1)
    client = destination_rule("client", "web", YOUNGER, subsets=V2, host="*.local")
    assert decided("web", home, root, client) == [("client", "v2")]
    assert decided("quiet", home, root, client) == [("home", "v1,v2")]
    assert decided("quiet", root, client) == [("root", "v1")]
    assert decided("quiet", client) == [("", "")]


def test_exact_before_wildcard_and_long_before_short() -> None:
    found = [destination_rule(str(i), "web", subsets=V1, host=host) for i, host in enumerate(["*", "*.local", HOST])]
    assert decided("web", *found) == [("2", "v1")]
    assert decided("web", *found[:2]) == [("1", "v1")]


def test_what_is_for_one_namespace_is_for_no_other() -> None:
    home, root = destination_rule("home", exportTo=["."]), destination_rule("root", "istio-system", subsets=V1)
    assert decided("shop", home, root) == [("home", "v1,v2")]
    assert decided("web", home, root) == [("root", "v1")]
    assert decided("web", destination_rule("home", exportTo=["quiet"]), root) == [("root", "v1")]
    assert decided("web", destination_rule("far", "quiet")) == [("", "")], "neither client, service nor root"


def test_the_root_is_no_client_of_its_own_rules() -> None:
    root, home = destination_rule("root", "istio-system", subsets={}, host="*.local"), destination_rule("home")
    assert decided("istio-system", root, home) == [("home", "v1,v2")]
    private = destination_rule("private", "istio-system", subsets=V1, exportTo=["."])
    assert decided("istio-system", root, home, private) == [("private", "v1")]
    assert decided("web", private) == [("", "")]


def test_rules_of_one_namespace_are_merged_if_they_are_for_the_same() -> None:
    first, second = destination_rule("first", subsets=V1), destination_rule("second", "shop", YOUNGER, subsets=V2)
    assert decided("web", second, first) == [("first,second", "v1,v2")]
    other = destination_rule("second", "shop", YOUNGER, subsets=V2, exportTo=["*"])
    assert decided("web", first, other) == [("second", "v2")], "the youngest is used alone"
    between = destination_rule("in-between", exportTo=["web"])
    assert decided("web", first, between, second) == [("second", "v2")], "merged into the first, and on its own too"
    local = destination_rule("second", "shop", YOUNGER, subsets=V2, exportTo=["."])
    assert decided("shop", first, local) == [("second", "v2")]
    assert decided("web", first, local) == [("first", "v1")]


def test_rules_for_more_namespaces_are_merged_into_those_for_fewer() -> None:
    few = destination_rule("few", subsets=V1, exportTo=["web"])
    more = destination_rule("more", "shop", YOUNGER, subsets=V2, exportTo=["web", "quiet"])
    assert decided("web", few, more) == [("few,more", "v1,v2")]
    assert decided("quiet", few, more) == [("", "")]


def test_rules_for_some_workloads() -> None:
    selector = {"workloadSelector": {"matchLabels": {"app": "web"}}}
    some = destination_rule("some", "web", subsets=V1, **selector)
    rest = destination_rule("rest", "web")
    home = destination_rule("home")
    web, other = pod("a", "web", app="web"), pod("b", "web", app="other")
    assert decided("web", some, rest, home, pods=(web,)) == [("rest", "v1,v2"), ("some", "v1")]
    assert decided("web", some, rest, home, pods=(other,)) == [("rest", "v1,v2")]
    assert decided("web", some, home, pods=(other,)) == [("some", "")], "and nobody falls back to the service's"
    assert decided("quiet", some, home) == [("home", "v1,v2")]


def test_a_client_without_the_canary() -> None:
    view = beside("destination_rules", destination_rule("old", "web", YOUNGER, subsets=V1))
    assert told(view) == refused(
        f"proxies in namespace web use DestinationRule web/old ({HOST}) and no other, without subset v2: requests for "
        "it from there are answered with 503; add it there, or delete that rule"
    )
    assert told(replace(view, clients=frozenset())) == told(view), "it was made for this host by somebody who calls it"


def test_a_wildcard_at_a_client() -> None:
    rule = destination_rule("all", "web", YOUNGER, subsets={}, host="*.local")
    text = (
        "proxies in namespace web use DestinationRule web/all (*.local) and no other, without subset v1, v2: requests "
        "for it from there are answered with 503; add it there, or delete that rule"
    )
    assert told(beside("destination_rules", rule)) == refused(text)
    view = replace(beside("destination_rules", rule), clients=frozenset({"quiet"}))
    assert told(view) == warned(text), "nobody has been seen to call from there"


def test_what_hits_everybody_is_refused_though_nobody_has_called() -> None:
    rule = destination_rule("all", "web", YOUNGER, subsets={}, host="*.local")
    view = replace(beside("destination_rules", rule), clients=frozenset(), pods=(pod("web-x", "web"),))
    assert [refuse for refuse, _text in told(view)] == [True]


def test_a_rule_that_is_exported_to_too_few() -> None:
    view = rules(destination_rule("app-1", exportTo=[".", "quiet"]))
    mtls = "DestinationRule istio-system/mtls (*.local)"
    assert told(view) == refused(
        f"proxies in namespace web use {mtls} and no other, without subset v1, v2: requests for it from there are "
        "answered with 503; add it there, or delete that rule"
    )
    nothing = replace(view, destination_rules=view.destination_rules[:1])
    text = (
        f"no DestinationRule with subset v1, v2 of {HOST} reaches namespace web (shop/app-1 is exported to quiet, "
        "shop): requests for it from there are answered with 503; let one reach them"
    )
    assert told(nothing) == refused(text)
    assert told(replace(nothing, clients=frozenset({"quiet"}))) == warned(text)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"host": "app-1.shop"}, "shop/app-1 has host app-1.shop, which Istio does not complete"),
        ({"labels": {"istio.io/rev": "prod"}}, "shop/app-1 is labelled istio.io/rev=prod"),
        ({"workloadSelector": {"matchLabels": {"a": "b"}}}, "shop/app-1 has a workloadSelector"),
    ],
)
def test_why_our_rule_is_not_used(rule: dict[str, Any], why: str) -> None:
    view = replace(CLEAN, destination_rules=(destination_rule("app-1", **rule),))
    found = [(refuse, text) for refuse, text in told(view) if text.startswith("no DestinationRule")]
    assert [refuse for refuse, _text in found] == [True]
    assert f" ({why}): requests" in found[0][1]
    assert told(rules(destination_rule("app-1", host="app-1"))) == []


def test_a_subset_of_two_rules_with_other_labels() -> None:
    older = destination_rule("older", "shop", OLDER, subsets={**V1, "v2": {"track": "next"}})
    view = beside("destination_rules", older)
    names = f"shop/older ({HOST}) and shop/app-1 ({HOST})"
    assert told(view) == refused(
        f"proxies in namespaces quiet, shop, web use DestinationRule {names}, whose subset v2 is track=next, and the "
        "release watches version=v2; leave one rule that says what v2 is"
    )
    same = destination_rule("older", "shop", OLDER, subsets={"v2": {"version": "v2", "app": "app-1"}})
    assert told(beside("destination_rules", same)) == [], "other words for the same pods"


def test_versions_without_traffic_are_nobodys_business() -> None:
    view = beside("destination_rules", destination_rule("old", "web", subsets=V1))
    assert told(replace(view, versions=("v1",))) == []


def test_a_gateway_needs_the_subsets_too() -> None:
    hiding = destination_rule("old", "ingress", subsets=V1)
    view = ours(gateways=["mesh", "ingress/main"])
    view = replace(view, destination_rules=(*view.destination_rules, hiding))
    assert told(view) == [], "no request has come by it"
    found = told(replace(view, clients=frozenset({"ingress"})))
    assert [refuse for refuse, _text in found] == [True]
    assert "proxies in namespace ingress use DestinationRule ingress/old" in found[0][1]


def test_a_version_is_what_its_subset_selects() -> None:
    assert CLEAN.version_pods().keys() == SUBSETS.keys()
    assert [found["metadata"]["name"] for found in CLEAN.version_pods()["v2"]] == [version("v2")["metadata"]["name"]]


# ---------------------------------------------------------------- who splits the requests


KEYS = {f"v1|{HOST}", f"v2|{HOST}"}
MIRRORED = {**route("v3"), "mirrors": [{"destination": {"host": "app-1", "subset": "v2"}, "percentage": {"value": 1}}]}


@pytest.mark.parametrize(
    ("another", "elsewhere"),
    [
        ([], False),
        ([virtual_service("edge", http=[route("v2")])], True),
        ([virtual_service("edge", "web", http=[route("v1", host=HOST)])], True),
        ([virtual_service("edge", "web", http=[route("v1", host="app-1")])], False),  # a Service of that namespace
        ([virtual_service("edge", http=[route("v3", "v2")])], False),  # with a weight of 0
        ([virtual_service("edge", http=[route("v3")])], False),
        ([virtual_service("edge", http=[MIRRORED])], True),
        ([virtual_service("edge", http=[], tcp=[route("v1")])], True),
        ([virtual_service("root", http=[{"delegate": {"name": "app-1"}}])], False),
    ],
)
def test_what_else_sends_requests_to_the_versions(another: list[dict[str, Any]], elsewhere: bool) -> None:
    moved = {ROUTE: ("http", 0)}
    assert routed_elsewhere([virtual_service("app-1"), *another], moved, KEYS) == elsewhere
    two = virtual_service("app-1", http=[route("v1", "v2"), route("v1")])
    assert routed_elsewhere([two], moved, KEYS), "another route of the same object"
