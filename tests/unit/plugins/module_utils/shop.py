# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh in which nothing is wrong, for the tests of preflight, and the objects to make something wrong with.

Service shop/app-1 with v1 and v2; clients in namespace web, a gateway in namespace ingress, and others that look alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._objects import Service, View

Json = dict[str, Any]

HOST = "app-1.shop.svc.cluster.local"
OURS = "2026-03-01T10:00:00Z"  # when our objects were made
OLDER, YOUNGER = "2026-01-01T10:00:00Z", "2026-05-01T10:00:00Z"
SUBSETS = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}


def meta(name: str, namespace: str = "shop", created: str = OURS, **more: Any) -> Json:
    return {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "creationTimestamp": created, **more}


def space(name: str, labels: dict[str, str] | None = None) -> Json:
    """A namespace."""
    return {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **(labels or {})}}}


def pod(name: str, namespace: str = "shop", kind: str = "sidecar", /, **labels: str) -> Json:
    """A running pod. ``kind``: of its proxy, or empty."""
    found: Json = {"name": "app", "image": "example.com/app"}
    annotations = {"istio.io/rev": "default", "sidecar.istio.io/status": "{}"} if kind else {}
    containers = [found, *([{"name": "istio-proxy", "args": ["proxy", kind, "--domain", "x"]}] if kind else [])]
    return {
        "metadata": meta(name, namespace, labels=labels, annotations=annotations),
        "spec": {"containers": containers},
        "status": {"phase": "Running"},
    }


def version(name: str, kind: str = "sidecar") -> Json:
    """A pod of that version."""
    found = pod(f"app-1-{name}-7d9f-x", "shop", kind, app="app-1", version=name)
    found["metadata"]["labels"]["pod-template-hash"] = "7d9f"
    found["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"app-1-{name}-7d9f"}
    ]
    return found


def route(*subsets: str, host: str = HOST) -> Json:
    """An http route to these subsets; to none in particular without any."""
    destinations = [{"host": host, "subset": subset} for subset in subsets] or [{"host": host}]
    weights = [100, *(0 for _subset in subsets[1:])]
    return {"route": [{"destination": d, "weight": w} for d, w in zip(destinations, weights, strict=True)]}


def virtual_service(name: str, namespace: str = "shop", created: str = OURS, /, **spec: Any) -> Json:
    labels = spec.pop("labels", {})
    return {
        "metadata": meta(name, namespace, created, labels=labels),
        "spec": {"hosts": [HOST], "http": [route("v1", "v2")], **spec},
    }


def destination_rule(
    name: str,
    namespace: str = "shop",
    created: str = OURS,
    /,
    subsets: dict[str, dict[str, str]] | None = None,
    **spec: Any,
) -> Json:
    """A rule with both subsets, or those given."""
    labels = spec.pop("labels", {})
    listed = [{"name": key, "labels": value} for key, value in (SUBSETS if subsets is None else subsets).items()]
    return {
        "metadata": meta(name, namespace, created, labels=labels),
        "spec": {"host": HOST, **({"subsets": listed} if listed else {}), **spec},
    }


SERVICE = {
    "metadata": meta("app-1"),
    "spec": {
        "selector": {"app": "app-1"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
    },
}
CLEAN = View(
    Service(HOST, (80,), {"app": "app-1"}, SUBSETS, SERVICE),
    {**virtual_service("app-1"), "kind": "VirtualService"},
    ("v1", "v2"),
    frozenset({"web"}),
    namespaces=(
        space("shop", {"istio-injection": "enabled"}),
        space("web", {"istio.io/rev": "default"}),
        space("quiet", {"istio-injection": "enabled"}),
        space("ingress"),
        space("kube-system"),
        space("istio-system"),
    ),
    pods=(
        version("v1"),
        version("v2"),
        pod("app-10-x", app="app-10", version="v2"),
        pod("web-x", "web", app="web"),
        pod("quiet-x", "quiet"),
        pod("gateway-x", "ingress", "router", istio="ingressgateway"),
        pod("waypoint-x", "web", "waypoint"),
        pod("coredns-x", "kube-system", ""),
    ),
    virtual_services=(
        virtual_service("app-1"),
        virtual_service("app-10", "shop", OLDER, hosts=["app-10"], http=[route("v1", host="app-10")]),
        virtual_service("app-1", "shop2", OLDER, hosts=["app-1"], http=[route("v1", host="app-1")]),
        virtual_service("another", "web", OLDER, hosts=["xapp-1.shop.svc.cluster.local"], http=[route(host="x")]),
        virtual_service("front", "web", OLDER, hosts=["shop.example.com"], gateways=["main"], http=[route(host="web")]),
        virtual_service("rest", "istio-system", OLDER, hosts=["*.shop.svc.cluster.local"], http=[route(host="x")]),
    ),
    destination_rules=(
        destination_rule("app-1"),
        destination_rule("app-10", "shop", YOUNGER, subsets={}, host="app-10"),
        destination_rule("app-1", "web", OLDER, subsets={}, host="app-1"),
        destination_rule("dotted", "web", OLDER, subsets={}, host="app-1.shop"),
        destination_rule("others", "web", OLDER, subsets={}, host="*.shop2.svc.cluster.local"),
        destination_rule("mtls", "istio-system", OLDER, subsets={}, host="*.local"),
        destination_rule("all", "shop", OLDER, subsets={}, host="*.shop.svc.cluster.local"),
        destination_rule("hidden", "web", OLDER, subsets={}, exportTo=["shop2"]),
    ),
)


def ours(**spec: Any) -> View:
    """The clean mesh with something else in our VirtualService."""
    found = {**virtual_service("app-1", **spec), "kind": "VirtualService"}
    others = CLEAN.virtual_services[1:]
    return replace(CLEAN, route=found, virtual_services=(found, *others))


def rules(*found: Json) -> View:
    """The clean mesh with these DestinationRules instead of ours."""
    return replace(CLEAN, destination_rules=(*found, *CLEAN.destination_rules[1:]))


def beside(kind: str, *found: Json) -> View:
    """The clean mesh and these objects."""
    changes: dict[str, Any] = {kind: (*getattr(CLEAN, kind), *found)}
    return replace(CLEAN, **changes)
