# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes of TCP and TLS, and HTTPRoutes of the Gateway API: found and patched like http routes of a VirtualService."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    RouteError,
    all_routes,
    apply_patch,
    by_hand,
    check_weights,
    envoy_name,
    expected_clusters,
    find_route,
    pick_route,
    require_requests,
    serves,
    weight_patch,
)

from .shapes import HOST, virtual_service

TCP = """
hosts: [reviews]
tcp:
  - match: [{port: 5432}]
    route:
      - {destination: {host: reviews, subset: v1}, weight: 90}
      - {destination: {host: reviews, subset: v2}, weight: 10}
tls:
  - match: [{port: 443, sniHosts: [reviews.example.com]}]
    route: [{destination: {host: reviews, subset: v1}}]
"""


def http_route(*rules: str) -> dict[str, Any]:
    """Rules as ``name/reviews-v1=90,reviews-v2``; no name without the slash, no weight without the equals sign."""
    made = []
    for rule in rules:
        name, slash, backends = rule.rpartition("/")
        refs = [one.partition("=") for one in backends.split(",")]
        given = [{"name": n, "port": 80, **({"weight": int(w)} if w else {})} for n, _equals, w in refs]
        made.append({**({"name": name} if slash else {}), "backendRefs": given})
    parents = [{"group": "", "kind": "Service", "name": "reviews"}]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "reviews", "namespace": "prod", "uid": "u", "resourceVersion": "7"},
        "spec": {"parentRefs": parents, "rules": made},
    }


def test_a_tcp_route_is_moved_and_the_tls_route_beside_it_is_not_touched() -> None:
    obj = virtual_service(TCP)
    route = find_route(obj, ["v1", "v2"])
    assert (route, route.label()) == (pick_route(obj, HOST, "v2"), "tcp[0]")
    after = apply_patch(obj, weight_patch(obj, route, {"v1": 50, "v2": 50}))
    assert [entry["weight"] for entry in after["spec"]["tcp"][0]["route"]] == [50, 50]
    assert after["spec"]["tls"] == obj["spec"]["tls"]
    assert expected_clusters(after, find_route(after, ["v1", "v2"])) == [{f"v1|{HOST}": 0.5, f"v2|{HOST}": 0.5}]
    with pytest.raises(RouteError, match=r"^VirtualService prod/reviews tcp\[0\] carries connections, "):
        require_requests(obj, route)


def test_an_http_route_has_one_service_for_each_version() -> None:
    obj = http_route("testers/reviews-v2", "reviews-v1=90,reviews-v2=10")
    route = pick_route(obj, HOST, "reviews-v2")
    assert (route.label(), route.weights()) == ("rules[1]", {"reviews-v1": 90, "reviews-v2": 10})
    assert envoy_name(obj, route) == "prod.reviews.1"
    assert envoy_name(obj, all_routes(obj)[0]) == "testers"
    assert expected_clusters(obj, route) == [
        {"|reviews-v1.prod.svc.cluster.local": 0.9, "|reviews-v2.prod.svc.cluster.local": 0.1}
    ]


def test_a_backend_without_a_weight_has_one_part() -> None:
    assert all_routes(http_route("reviews-v1,reviews-v2"))[0].weights() == {"reviews-v1": 1, "reviews-v2": 1}
    assert all_routes(http_route("reviews-v1"))[0].weights() == {"reviews-v1": 1}


def test_a_patch_of_an_http_route_guards_the_name_of_each_backend() -> None:
    obj = http_route("reviews-v1,reviews-v2=0")
    route = find_route(obj, ["reviews-v1", "reviews-v2"])
    patch = weight_patch(obj, route, {"reviews-v1": 90, "reviews-v2": 10})
    assert patch == [
        {"op": "test", "path": "/spec/rules/0/backendRefs/0/name", "value": "reviews-v1"},
        {"op": "test", "path": "/spec/rules/0/backendRefs/1/name", "value": "reviews-v2"},
        {"op": "test", "path": "/spec/rules/0/backendRefs/1/weight", "value": 0},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "add", "path": "/spec/rules/0/backendRefs/0/weight", "value": 90},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 10},
    ]
    assert by_hand(obj, route, route.destinations[1], 0) == [
        {"op": "test", "path": "/spec/rules/0/backendRefs/1/name", "value": "reviews-v2"},
        {"op": "add", "path": "/spec/rules/0/backendRefs/1/weight", "value": 0},
    ]


def test_a_new_backend_is_a_copy_of_stables() -> None:
    obj = http_route("reviews-v1")
    obj["spec"]["rules"][0]["backendRefs"][0]["filters"] = [{"type": "RequestHeaderModifier"}]
    route = pick_route(obj, HOST, "reviews-v2")
    weights = {"reviews-v1": 90, "reviews-v2": 10}
    after = apply_patch(obj, weight_patch(obj, route, weights, clone=("reviews-v1", "reviews-v2")))
    assert after["spec"]["rules"][0]["backendRefs"] == [
        {"name": "reviews-v1", "port": 80, "filters": [{"type": "RequestHeaderModifier"}], "weight": 90},
        {"name": "reviews-v2", "port": 80, "filters": [{"type": "RequestHeaderModifier"}], "weight": 10},
    ]


def test_which_http_route_serves_a_service() -> None:
    assert serves(http_route("reviews-v1"), HOST)
    assert not serves(http_route("reviews-v1"), "ratings.prod.svc.cluster.local")
    gateway = http_route("reviews-v1")
    gateway["spec"]["parentRefs"] = [{"name": "reviews"}]
    assert not serves(gateway, HOST)


def test_a_rule_that_sends_to_the_service_itself_holds_no_versions() -> None:
    with pytest.raises(RouteError, match="has no routes to"):
        pick_route(http_route("reviews"), HOST, "reviews-v2")


def test_a_rule_for_everything_is_no_match() -> None:
    obj = http_route("reviews-v1", "reviews-v1")
    obj["spec"]["rules"][0]["matches"] = [{"headers": [{"name": "x", "value": "y"}]}]
    obj["spec"]["rules"][1]["matches"] = [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert pick_route(obj, HOST, "reviews-v2").index == 1


def test_backends_have_a_limit() -> None:
    check_weights({"a": 1_000_000}, "HTTPRoute")
    with pytest.raises(RouteError, match=r"weights.a is 1000001; an HTTPRoute allows 1000000 at most"):
        check_weights({"a": 1_000_001}, "HTTPRoute")
