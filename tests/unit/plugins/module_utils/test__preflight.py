# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release warns of or refuses before it writes anything, rule by rule; whose rules win is in test__reach.py."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding, Service, View, refusal, warning
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._preflight import look_over, settle

from .shop import (
    CLEAN,
    OLDER,
    SERVICE,
    YOUNGER,
    Json,
    beside,
    destination_rule,
    meta,
    ours,
    pod,
    route,
    space,
    version,
    virtual_service,
)

NAME = "Service shop/app-1"
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
INSTEAD = "use sidecars there, or an HTTPRoute with one Service for each version"
GO_ON = "that traffic does not follow the weights; release it along (other_route_objects), or leave it if that is meant"


def told(view: View) -> list[tuple[bool, str]]:
    return [(finding.refuse, finding.text) for finding in look_over(view)]


def refused(text: str) -> list[tuple[bool, str]]:
    return [(True, text)]


def warned(text: str) -> list[tuple[bool, str]]:
    return [(False, text)]


def namespaced(name: str, labels: dict[str, str]) -> View:
    """The clean mesh with other labels on a namespace."""
    return replace(
        CLEAN, namespaces=(*(n for n in CLEAN.namespaces if n["metadata"]["name"] != name), space(name, labels))
    )


def test_a_clean_mesh() -> None:
    assert told(CLEAN) == []


def test_refusals_come_first_and_are_one_line() -> None:
    view = replace(namespaced("web", {"istio.io/dataplane-mode": "x"}), service=with_ports({"name": "tcp", "port": 1}))
    view = replace(
        view, unseen={"namespaces": "namespaces outside namespace shop"}, pods=(*view.pods, pod("bare", "shop", ""))
    )
    found = told(view)
    assert [refuse for refuse, _text in found] == [True, False, False]
    assert not any("\n" in text or "{" in text for _refuse, text in found)


# ---------------------------------------------------------------- ports


def with_ports(*ports: Json) -> Any:
    given, obj = CLEAN.service, {**SERVICE, "spec": {**SERVICE["spec"], "ports": list(ports)}}
    return Service(given.host, given.ports, given.selector, given.subsets, obj)


HTTP_PORTS: list[Json] = [
    {"name": "http", "port": 80},
    {"name": "http-web", "port": 8000},
    {"name": "HTTP2-x", "port": 80},
    {"name": "grpc", "port": 50051},
    {"name": "grpc-web", "port": 50051},
    {"name": "grpc-web-x", "port": 50051},
    {"port": 80},
    {"name": "web", "port": 80},
    {"name": "https-is-not-meant", "port": 80, "appProtocol": "http"},
    {"name": "tcp-web", "port": 80, "appProtocol": "kubernetes.io/h2c"},
    {"name": "tcp-web", "port": 80, "appProtocol": "kubernetes.io/ws"},
    {"name": "tcp-web", "port": 80, "appProtocol": "example.com/special"},
]
OTHER_PORTS: list[tuple[Json, str]] = [
    ({"name": "tcp", "port": 80}, "80 (tcp) is tcp"),
    ({"name": "tcp-http", "port": 80}, "80 (tcp-http) is tcp"),
    ({"name": "https", "port": 443}, "443 (https) is https"),
    ({"name": "tls-x", "port": 443}, "443 (tls-x) is tls"),
    ({"name": "redis", "port": 6379}, "6379 (redis) is redis"),
    ({"name": "mongo", "port": 1}, "1 (mongo) is mongo"),
    ({"name": "http", "port": 80, "protocol": "UDP"}, "80 (http) is udp"),
    ({"name": "http", "port": 80, "appProtocol": "tcp"}, "80 (tcp) is tcp"),
    ({"name": "http", "port": 80, "appProtocol": "kubernetes.io/wss"}, "80 (kubernetes.io/wss) is https"),
    ({"port": 3306}, "3306 (no name) is tcp"),
    ({"name": "mail", "port": 25}, "25 (mail) is tcp"),
]


@pytest.mark.parametrize("port", HTTP_PORTS, ids=str)
def test_ports_that_carry_http(port: Json) -> None:
    assert told(replace(CLEAN, service=with_ports(port))) == []


@pytest.mark.parametrize(("port", "text"), OTHER_PORTS, ids=[text for _port, text in OTHER_PORTS])
def test_ports_that_do_not(port: Json, text: str) -> None:
    assert told(replace(CLEAN, service=with_ports(port))) == refused(
        f"no port of {NAME} is HTTP, and weights of http routes act on HTTP only: {text}; set appProtocol to http, "
        "http2 or grpc, or begin the port's name with that"
    )


def test_ports_of_both_kinds() -> None:
    view = replace(CLEAN, service=with_ports({"name": "http", "port": 80}, {"name": "tcp-admin", "port": 9000}))
    assert told(view) == warned(
        f"not every port of {NAME} is HTTP: 9000 (tcp-admin) is tcp; connections to the others go to all versions, "
        "leave it if that is meant"
    )


# ---------------------------------------------------------------- ambient mode


def test_a_service_in_ambient_mode() -> None:
    text = (
        "in ambient mode (istio.io/dataplane-mode): ztunnel knows no weights, and a release reads sidecars and "
        f"gateways only, no waypoints; {INSTEAD}"
    )
    assert told(namespaced("shop", AMBIENT)) == refused(f"Namespace shop is {text}")
    crowded = namespaced("shop", AMBIENT)
    crowded = replace(crowded, pods=(*crowded.pods, pod("another", "shop", "")))
    assert told(crowded) == refused(f"Namespace shop is {text}"), "and its other pods are not told again"
    marked = version("v2", "")
    marked["metadata"]["labels"]["istio.io/dataplane-mode"] = "ambient"
    view = replace(CLEAN, pods=(version("v1"), marked, pod("web-x", "web")))
    assert told(view) == refused(f"pods of the versions (shop/app-1-v2-7d9f-x) are {text}")
    seen = version("v2", "")
    seen["metadata"]["annotations"]["ambient.istio.io/redirection"] = "enabled"
    assert told(replace(view, pods=(version("v1"), seen, pod("web-x", "web")), namespaces=())) == told(view)


def test_clients_in_ambient_mode() -> None:
    view = namespaced("mobile", AMBIENT)
    view = replace(view, pods=(*view.pods, pod("phone", "mobile", ""), pod("with-sidecar", "mobile")))
    assert told(view) == warned(
        "pods in namespace mobile are in ambient mode (istio.io/dataplane-mode): what they send to Service shop/app-1 "
        f"follows no weights that a release sees; {INSTEAD}"
    )


@pytest.mark.parametrize("change", ["opted out", "hostNetwork", "finished", "leaving", "no pods"])
def test_who_is_not_in_ambient_mode(change: str) -> None:
    found = pod("phone", "mobile", "")
    if change == "opted out":
        found["metadata"]["labels"]["istio.io/dataplane-mode"] = "none"
    elif change == "hostNetwork":
        found["spec"]["hostNetwork"] = True
    elif change == "finished":
        found["status"]["phase"] = "Succeeded"
    elif change == "leaving":
        found["metadata"]["deletionTimestamp"] = OLDER
    view = namespaced("mobile", AMBIENT)
    assert told(replace(view, pods=(*view.pods, *([] if change == "no pods" else [found])))) == []


# ---------------------------------------------------------------- pods without a sidecar


def test_clients_without_a_sidecar() -> None:
    text = (
        ", labelled for injection, without a sidecar (web/old-0{rest}): what they send to Service shop/app-1 goes by "
        "endpoints, not by weights; restart them"
    )
    one = beside("pods", pod("old-0", "web", ""))
    assert told(one) == warned("1 pod in namespace web" + text.format(rest=""))
    many = beside("pods", *(pod(f"old-{i}", "web", "") for i in range(5)), pod("zzz", "shop", ""))
    assert told(many) == warned(
        "6 pods in namespaces shop, web, labelled for injection, without a sidecar (shop/zzz, web/old-0, web/old-1 and "
        "3 more): what they send to Service shop/app-1 goes by endpoints, not by weights; restart them"
    )


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("web", {}),
        ("web", {"istio-injection": "disabled"}),
        ("web", {"istio-injection": "disabled", "istio.io/rev": "default"}),
    ],
)
def test_namespaces_that_ask_for_no_sidecars(name: str, labels: dict[str, str]) -> None:
    view = namespaced(name, labels)
    assert told(replace(view, pods=(*view.pods, pod("plain", name, "")))) == []


@pytest.mark.parametrize("change", ["label", "annotation", "hostNetwork", "finished", "failed", "leaving"])
def test_pods_that_are_meant_to_have_none(change: str) -> None:
    found = pod("plain", "web", "")
    if change == "label":
        found["metadata"]["labels"]["sidecar.istio.io/inject"] = "false"
    elif change == "annotation":
        found["metadata"]["annotations"]["sidecar.istio.io/inject"] = "false"
    elif change == "hostNetwork":
        found["spec"]["hostNetwork"] = True
    elif change == "leaving":
        found["metadata"]["deletionTimestamp"] = OLDER
    else:
        found["status"]["phase"] = {"finished": "Succeeded", "failed": "Failed"}[change]
    assert told(beside("pods", found)) == []


def test_the_label_goes_before_the_annotation() -> None:
    found = pod("plain", "web", "")
    found["metadata"]["labels"]["sidecar.istio.io/inject"] = "true"
    found["metadata"]["annotations"]["sidecar.istio.io/inject"] = "false"
    assert len(told(beside("pods", found))) == 1


def test_a_version_without_a_sidecar() -> None:
    bare = version("v2", "")
    bare["metadata"]["name"] = "app-1-v2-bare"
    assert told(beside("pods", bare)) == warned(
        "1 of 2 pods of v2 without a sidecar (shop/app-1-v2-bare): requests to them are counted at their clients only, "
        "and what they send follows no weights; label the namespace for injection (istio-injection=enabled or "
        "istio.io/rev) and restart them"
    )


def test_pods_with_the_same_labels_elsewhere_are_no_version() -> None:
    assert told(beside("pods", pod("copy", "kube-system", "", app="app-1", version="v2"))) == []


# ---------------------------------------------------------------- traffic that comes another way


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            {"gateways": ["ingress/main"], "hosts": ["shop.example.com"], "http": [route()]},
            "by gateway ingress/main to Service shop/app-1 without subsets of the release",
        ),
        (
            {"gateways": ["ingress/main"], "hosts": ["*"], "http": [route("v0")]},
            "by gateway ingress/main to Service shop/app-1 without subsets of the release",
        ),
        (
            {"gateways": ["b", "a"], "hosts": ["shop.example.com"], "http": [route("v1")]},
            "by gateway a, b to Service shop/app-1 with weights of its own, which a release does not move",
        ),
        (
            {"hosts": ["shop.example.com"], "http": [route("v1", "v2")]},
            "for shop.example.com to Service shop/app-1 with weights of its own, which a release does not move",
        ),
        ({"hosts": [], "http": [route()]}, "by delegation to Service shop/app-1 without subsets of the release"),
    ],
)
def test_another_way_to_the_service(other: Json, text: str) -> None:
    view = beside("virtual_services", virtual_service("edge", "web", **other))
    assert told(view) == warned(f"VirtualService web/edge sends what comes {text}: {GO_ON}")
    along = told(replace(view, others=frozenset({"web/edge"})))
    assert not [said for _refused, said in along if GO_ON in said]


@pytest.mark.parametrize(
    "other",
    [
        {"gateways": ["main"], "hosts": ["shop.example.com"], "http": [route(host="app-1")]},
        {"gateways": ["main"], "hosts": ["shop.example.com"], "http": [route(host="app-10.shop.svc.cluster.local")]},
        {"gateways": ["main"], "hosts": ["shop.example.com"], "http": [{"redirect": {"uri": "/"}}]},
        {"gateways": ["main"], "hosts": ["shop.example.com"], "tcp": [{}], "http": []},
    ],
)
def test_ways_to_others(other: Json) -> None:
    assert told(beside("virtual_services", virtual_service("edge", "web", **other))) == []


def test_another_route_of_sidecars_is_told_once() -> None:
    (found,) = told(beside("virtual_services", virtual_service("younger", "web", YOUNGER)))
    assert found[1].startswith(
        "VirtualService web/younger is for app-1.shop.svc.cluster.local too, and sidecars ignore it"
    )


def test_our_own_gateway_is_no_other_way() -> None:
    assert told(ours(gateways=["mesh", "ingress/main"], hosts=["app-1", "shop.example.com"])) == []


# ---------------------------------------------------------------- other controllers


def moved(who: str, what: str) -> list[tuple[bool, str]]:
    return refused(
        f"{who} moves {what} too: two controllers undo each other's weights; end that, or release with it alone"
    )


def canary(name: str, target: str, service: str = "") -> Json:
    spec: Json = {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}}
    return {"metadata": meta(name), "spec": {**spec, "service": {"port": 80, **({"name": service} if service else {})}}}


@pytest.mark.parametrize(
    ("name", "target", "service"),
    [("a", "app-1", ""), ("b", "x", "app-1"), ("c", "app-1-v2", "y"), ("d", "app-1-v1", "")],
)
def test_flagger_has_the_service(name: str, target: str, service: str) -> None:
    assert told(replace(CLEAN, canaries=(canary(name, target, service),))) == moved(
        f"Flagger (Canary shop/{name})", "Service shop/app-1"
    )


def test_flagger_has_another_service() -> None:
    found = (
        canary("app-10", "app-10"),
        canary("x", "app-1-v20"),
        canary("y", "app", "app-10"),
        {"metadata": meta("z"), "spec": {}},
    )
    assert told(replace(CLEAN, canaries=found)) == []


def rollout(**strategy: Any) -> Json:
    return {"metadata": meta("app-1"), "spec": {"strategy": strategy}}


def istio(**spec: Any) -> Json:
    return rollout(canary={"trafficRouting": {"istio": spec}})


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (istio(virtualService={"name": "app-1"}), "VirtualService shop/app-1"),
        (istio(virtualService={"name": "app-1.shop", "routes": ["main"]}), "VirtualService shop/app-1"),
        (istio(virtualServices=[{"name": "x"}, {"name": "app-1"}]), "VirtualService shop/app-1"),
        (istio(destinationRule={"name": "app-1", "canarySubsetName": "v2"}), "DestinationRule shop/app-1"),
        (rollout(canary={"stableService": "app-1", "canaryService": "app-1-canary"}), "Service shop/app-1"),
        (rollout(blueGreen={"activeService": "app-1"}), "Service shop/app-1"),
    ],
)
def test_argo_rollouts_has_an_object_of_ours(found: Json, what: str) -> None:
    assert told(replace(CLEAN, rollouts=(found,))) == moved("Argo Rollouts (Rollout shop/app-1)", what)


@pytest.mark.parametrize(
    "found",
    [
        rollout(canary={"steps": [{"setWeight": 20}]}),
        istio(virtualService={"name": "app-10"}, destinationRule={"name": "app-10"}),
        istio(virtualService={"name": "app-1.web"}),
        rollout(blueGreen={"activeService": "app-10", "previewService": "app"}),
        {"metadata": meta("x"), "spec": {}},
    ],
)
def test_argo_rollouts_has_others(found: Json) -> None:
    assert told(replace(CLEAN, rollouts=(found,))) == []


def test_pods_of_a_rollout() -> None:
    found = version("v2")
    found["metadata"]["labels"]["rollouts-pod-template-hash"] = "7d9f"
    view = replace(CLEAN, pods=(version("v1"), found, pod("web-x", "web")))
    assert told(view) == moved("Argo Rollouts", "pods of the versions (shop/app-1-v2-7d9f-x)")


@pytest.mark.parametrize(
    ("group", "kind", "who"),
    [
        ("flagger.app/v1beta1", "Canary", "Flagger (Canary shop/mine)"),
        ("argoproj.io/v1alpha1", "Rollout", "Argo Rollouts (Rollout shop/mine)"),
    ],
)
def test_owners(group: str, kind: str, who: str) -> None:
    owned = copy.deepcopy(CLEAN.route)
    owned = {
        **owned,
        "metadata": {**owned["metadata"], "ownerReferences": [{"apiVersion": group, "kind": kind, "name": "mine"}]},
    }
    assert told(replace(CLEAN, route=owned)) == moved(who, "VirtualService shop/app-1")
    rule = destination_rule("app-1")
    rule["metadata"]["ownerReferences"] = [{"apiVersion": group, "kind": kind, "name": "mine"}]
    view = replace(CLEAN, destination_rules=(rule, *CLEAN.destination_rules[1:]))
    assert told(view) == moved(who, "DestinationRule shop/app-1")
    rule["metadata"]["namespace"] = "quiet"
    assert told(replace(CLEAN, destination_rules=(*CLEAN.destination_rules, rule))) == [], "of another namespace"
    owned["metadata"]["ownerReferences"][0]["apiVersion"] = "example.com/v1"
    assert told(replace(CLEAN, route=owned)) == [], "of somebody else's group"


@pytest.mark.parametrize(
    ("manager", "plural", "who"),
    [("flagger", "canaries", "Flagger"), ("rollouts-controller", "rollouts", "Argo Rollouts")],
)
def test_who_wrote_last_counts_where_their_objects_cannot_be_seen(manager: str, plural: str, who: str) -> None:
    entry = {"manager": manager, "time": OLDER, "fieldsV1": {"f:spec": {"f:http": {}}}}
    written = {**CLEAN.route, "metadata": {**CLEAN.route["metadata"], "managedFields": [entry]}}
    view = replace(CLEAN, route=written)
    assert told(view) == [], "it has no object here: it is history"
    found = told(replace(view, unseen={plural: f"{plural} in namespace shop"}))
    assert found[:1] == moved(f"{who} (it wrote it last)", "VirtualService shop/app-1")
    assert [refuse for refuse, _text in found] == [True, False]


# ---------------------------------------------------------------- what cannot be seen


def test_what_cannot_be_seen() -> None:
    unseen = {"namespaces": "namespaces outside namespace shop", "canaries": "canaries.flagger.app in namespace shop"}
    assert told(replace(CLEAN, unseen=unseen)) == warned(
        "namespaces outside namespace shop, canaries.flagger.app in namespace shop could not be looked at: the account "
        "that runs this may not list them. What they do to the weights is not known; grant it that"
    )


# ---------------------------------------------------------------- what becomes of findings

FOUND: list[Finding] = [refusal("a"), refusal("b"), warning("c")]


def test_refusals_end_it_and_warnings_are_said() -> None:
    said: list[str] = []
    with pytest.raises(ReleaseError, match=r"^a; also: b$"):
        settle(FOUND, enforce=True, say=said.append)
    assert said == ["WARNING  c"]


def test_refusals_that_are_not_enforced_are_said() -> None:
    said: list[str] = []
    settle(FOUND, enforce=False, say=said.append)
    settle([], enforce=True, say=said.append)
    assert said == ["WARNING  a", "WARNING  b", "WARNING  c"]


def test_a_virtual_service_beside_an_http_route() -> None:
    backends = {"kind": "HTTPRoute", "metadata": meta("app-1"), "spec": {"rules": []}}
    gateway = replace(CLEAN.service, kind="HTTPRoute")
    view = replace(CLEAN, service=gateway, route=backends, virtual_services=[], destination_rules=[])
    assert told(view) == []
    edge = virtual_service("edge", gateways=["main"])
    other = virtual_service("other", hosts=["app-10"])
    assert told(replace(view, virtual_services=[edge, other])) == []
    ((refused, text),) = told(replace(view, virtual_services=[virtual_service("old", "web", OLDER)]))
    assert refused
    assert text.startswith(
        "VirtualService web/old routes app-1.shop.svc.cluster.local as well as HTTPRoute shop/app-1, "
    )
