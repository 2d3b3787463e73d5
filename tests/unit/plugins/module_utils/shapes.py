# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VirtualServices as Istio's documentation and its users write them, for the tests of routes."""

from __future__ import annotations

import copy
from typing import Any

import yaml

HOST = "reviews.prod.svc.cluster.local"
OURS = "progressive.istio/release"

# By name: (spec, the http entry that is meant, the name to find it by). Subsets v1 and v2 in every one.
SHAPES: dict[str, tuple[str, int, str]] = {
    "plain": (
        """
        hosts: [reviews.prod.svc.cluster.local]
        http:
          - route:
              - {destination: {host: reviews.prod.svc.cluster.local, subset: v1}, weight: 100}
              - {destination: {host: reviews.prod.svc.cluster.local, subset: v2}, weight: 0}
        """,
        0,
        "",
    ),
    "short hosts and no weights": (
        """
        hosts: [reviews]
        http:
          - route:
              - destination: {host: reviews, subset: v1}
              - destination: {host: reviews, subset: v2}
        """,
        0,
        "",
    ),
    "one weight written, the other not": (
        """
        hosts: [reviews, reviews.prod]
        http:
          - name: main
            route:
              - {destination: {host: reviews.prod, subset: v1, port: {number: 9080}}, weight: 1}
              - destination: {host: reviews, subset: v2, port: {number: 9080}}
        """,
        0,
        "",
    ),
    "testers by header above the weighted route": (
        """
        hosts: [reviews]
        http:
          - match:
              - headers: {end-user: {exact: jason}}
              - headers: {cookie: {regex: "^(.*?;)?(user=tester)(;.*)?$"}}
                withoutHeaders: {x-bot: {}}
            route:
              - destination: {host: reviews, subset: v2}
          - route:
              - {destination: {host: reviews, subset: v1}, weight: 75}
              - {destination: {host: reviews, subset: v2}, weight: 25}
        """,
        1,
        "",
    ),
    "fault, retries, timeout and cors": (
        """
        hosts: [reviews.prod.svc.cluster.local]
        http:
          - name: main
            fault:
              delay: {percentage: {value: 0.1}, fixedDelay: 5s}
              abort: {percentage: {value: 0.01}, httpStatus: 400}
            timeout: 10s
            retries: {attempts: 3, perTryTimeout: 2s, retryOn: "connect-failure,refused-stream,503"}
            corsPolicy:
              allowOrigins: [{exact: "https://example.com"}]
              allowMethods: [POST, GET]
              allowCredentials: false
              maxAge: 24h
            route:
              - {destination: {host: reviews, subset: v1}, weight: 90}
              - {destination: {host: reviews, subset: v2}, weight: 10}
        """,
        0,
        "main",
    ),
    "headers for each destination": (
        """
        hosts: [reviews]
        http:
          - headers: {request: {set: {test: "true"}}}
            route:
              - destination: {host: reviews, subset: v2}
                headers: {response: {set: {"Set-Cookie": "canary=v2; Path=/"}, remove: [foo]}}
                weight: 25
              - destination: {host: reviews, subset: v1}
                headers: {response: {add: {hello: world}}}
                weight: 75
        """,
        0,
        "",
    ),
    "a mirror to a third subset": (
        """
        hosts: [reviews]
        http:
          - route:
              - {destination: {host: reviews, subset: v1}, weight: 100}
              - {destination: {host: reviews, subset: v2}, weight: 0}
            mirrors:
              - {destination: {host: reviews, subset: v3}, percentage: {value: 12.5}}
        """,
        0,
        "",
    ),
    "redirect, rewrite, delegate and a direct answer around it": (
        """
        hosts: [bookinfo.example.com, reviews.prod.svc.cluster.local]
        gateways: [istio-system/bookinfo-gateway, mesh]
        exportTo: ["."]
        http:
          - match: [{uri: {prefix: /old}}]
            redirect: {uri: /new, redirectCode: 302}
          - match: [{uri: {prefix: /product}}]
            delegate: {name: products, namespace: prod}
          - name: robots
            match: [{uri: {exact: /robots.txt}}]
            directResponse: {status: 200, body: {string: "User-agent: *"}}
          - name: main
            match: [{uri: {prefix: /}}]
            rewrite: {uri: /v1}
            route:
              - {destination: {host: reviews.prod.svc.cluster.local, subset: v1}, weight: 50}
              - {destination: {host: reviews.prod.svc.cluster.local, subset: v2}, weight: 50}
          - route:
              - destination: {host: web.shop.svc.cluster.local}
        """,
        3,
        "",
    ),
    "a third version beside them": (
        """
        hosts: [reviews]
        http:
          - name: "blue/green ~1"
            route:
              - {destination: {host: reviews, subset: v0}, weight: 30}
              - {destination: {host: reviews, subset: v1}, weight: 40}
              - {destination: {host: reviews, subset: v2}, weight: 30}
        """,
        0,
        "blue/green ~1",
    ),
    "weights that do not add up to 100": (
        """
        hosts: [reviews]
        http:
          - match: [{port: 8443, sourceLabels: {app: "productpage"}, sourceNamespace: "front"}]
            route:
              - {destination: {host: reviews, subset: v1}, weight: 3}
              - {destination: {host: reviews, subset: v2}, weight: 1}
        tls:
          - match: [{port: 443, sniHosts: [reviews.example.com]}]
            route: [{destination: {host: reviews, subset: v1}, weight: 100}]
        tcp:
          - route:
              - {destination: {host: reviews, subset: v1}, weight: 80}
              - {destination: {host: reviews, subset: v2}, weight: 20}
        """,
        0,
        "",
    ),
    "the same subsets twice, one of them named": (
        """
        hosts: [reviews]
        http:
          - name: writes
            match: [{method: {exact: POST}}]
            route:
              - {destination: {host: reviews, subset: v1}, weight: 100}
              - {destination: {host: reviews, subset: v2}, weight: 0}
          - name: reads
            route:
              - {destination: {host: reviews, subset: v1}, weight: 100}
              - {destination: {host: reviews, subset: v2}, weight: 0}
        """,
        1,
        "reads",
    ),
    "two hosts in one object": (
        """
        hosts: [ratings, reviews]
        http:
          - match: [{authority: {prefix: ratings}}]
            route:
              - {destination: {host: ratings, subset: a}, weight: 10}
              - {destination: {host: ratings, subset: b}, weight: 90}
          - route:
              - {destination: {host: reviews, subset: v1}, weight: 60}
              - {destination: {host: reviews, subset: v2}, weight: 40}
        """,
        1,
        "",
    ),
}

METADATA: list[dict[str, Any]] = [
    {},
    {"annotations": {}},
    {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"a~1":"b/c"}', "example.com/~odd~0": ""}},
    {
        "annotations": {OURS: '{"format":1}', "argocd.argoproj.io/tracking-id": "shop:x/y:prod/reviews"},
        "labels": {"app.kubernetes.io/part-of": "shop", "a/b": "c"},
        "finalizers": ["example.com/keep"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}],
    },
]


def virtual_service(spec: str, **metadata: Any) -> dict[str, Any]:
    meta = {
        "name": "reviews",
        "namespace": "prod",
        "uid": "0-1",
        "resourceVersion": "4711",
        "generation": 3,
        **metadata,
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": meta,
        "spec": yaml.safe_load(spec),
    }


def shape(name: str, **metadata: Any) -> dict[str, Any]:
    return virtual_service(SHAPES[name][0], **metadata)


def routed(*entries: str, **metadata: Any) -> dict[str, Any]:
    """A VirtualService whose http routes have these subsets: ``name:v1=90,v2`` (name and weights can be left out)."""
    http = []
    for entry in entries:
        name, _colon, rest = entry.rpartition(":")
        route = []
        for part in rest.split(","):
            subset, _equals, weight = part.partition("=")
            destination = {"host": "reviews", **({"subset": subset} if subset else {})}
            route.append({"destination": destination, **({"weight": int(weight)} if weight else {})})
        http.append({**({"name": name} if name else {}), "route": route})
    return virtual_service(yaml.safe_dump({"hosts": ["reviews"], "http": http}), **metadata)


def with_weights(obj: dict[str, Any], index: int, weights: dict[str, int]) -> dict[str, Any]:
    """The object with these weights, set by hand."""
    wanted = copy.deepcopy(obj)
    for entry in wanted["spec"]["http"][index]["route"]:
        if entry["destination"]["subset"] in weights:
            entry["weight"] = weights[entry["destination"]["subset"]]
    return wanted
