# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version that goes: which route it is taken out of, who still uses it, and that nothing else is touched."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._proxies import ProxyError, in_flight, leads_to
from ansible_collections.progressive.istio.plugins.module_utils._retire import (
    find_destination,
    sends_to,
    subset_patch,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    RouteError,
    all_routes,
    apply_patch,
    removal_patch,
)

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
HOST = "app-1.namespace-1.svc.cluster.local"
KEY = f"v1|{HOST}"
RECORD = {"progressive.istio/release": "{}"}


def http(*weights: tuple[str, int | None], host: str = "app-1", **more: Any) -> dict[str, Any]:
    route = [{"destination": {"host": host, "subset": s}, **({} if w is None else {"weight": w})} for s, w in weights]
    return {**more, "route": route}


def virtual_service(*entries: dict[str, Any], name: str = "app-1") -> dict[str, Any]:
    meta = {"name": name, "namespace": "namespace-1", "uid": "u", "resourceVersion": "7", "labels": {"x": "y"}}
    return {
        "kind": "VirtualService",
        "metadata": {**meta, "annotations": {"example.com/a": "<b>"}},
        "spec": {"http": list(entries)},
    }


def http_route(*backends: tuple[str, int]) -> dict[str, Any]:
    rule = {"backendRefs": [{"name": name, "port": 80, "weight": weight} for name, weight in backends]}
    meta = {"name": "app-1", "namespace": "namespace-1", "resourceVersion": "7"}
    return {"kind": "HTTPRoute", "metadata": meta, "spec": {"rules": [rule]}}


# ---------------------------------------------------------------- patches


@pytest.mark.parametrize("weight", [0, None])
def test_the_destination_goes_and_nothing_else(weight: int | None) -> None:
    foreign = http(("v1", 100), name="theirs", match=[{"uri": {"prefix": "/x"}}])
    obj = virtual_service(foreign, http(("v1", weight), ("v2", 100), ("v3", 0), timeout="3s"))
    patch = removal_patch(obj, all_routes(obj)[1], "v1", RECORD)
    assert [op["op"] for op in patch] == ["test"] * (3 + (weight == 0)) + ["replace", "remove", "add"]
    assert {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"} in patch
    expected = copy.deepcopy(obj)
    del expected["spec"]["http"][1]["route"][0]
    expected["metadata"]["annotations"].update(RECORD)
    assert apply_patch(obj, patch) == expected
    moved = virtual_service(foreign, http(("v3", 0), ("v2", 100), ("v1", 0)))
    with pytest.raises(RouteError):
        apply_patch(moved, patch)


def test_nothing_to_take_out_is_no_patch_and_the_note_alone_is_one() -> None:
    obj = virtual_service(http(("v2", 100)))
    (route,) = all_routes(obj)
    assert removal_patch(obj, route, "v1") == []
    assert [op["op"] for op in removal_patch(obj, route, "v1", RECORD)] == ["test", "replace", "add"]
    obj["metadata"]["annotations"] |= RECORD
    assert removal_patch(obj, route, "v1", RECORD) == []


def test_a_backend_of_an_http_route_goes() -> None:
    obj = http_route(("app-1-v1", 0), ("app-1-v2", 1))
    patch = removal_patch(obj, all_routes(obj)[0], "app-1-v1")
    assert apply_patch(obj, patch)["spec"]["rules"][0]["backendRefs"] == [{"name": "app-1-v2", "port": 80, "weight": 1}]


def test_the_subset_goes_and_nothing_else() -> None:
    subsets = [
        {"name": "all", "labels": {}},
        {"name": "v1", "labels": {"version": "v1"}},
        {"name": "v2", "labels": {"version": "v2"}, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
    ]
    spec: dict[str, Any] = {"host": "app-1", "trafficPolicy": {"x": 1}, "subsets": subsets, "exportTo": ["."]}
    rule = {"metadata": {"name": "app-1", "namespace": "namespace-1", "resourceVersion": "7"}, "spec": spec}
    patch = subset_patch(rule, "v1")
    assert patch == [
        {"op": "test", "path": "/spec/host", "value": "app-1"},
        {"op": "test", "path": "/spec/subsets/1/name", "value": "v1"},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "remove", "path": "/spec/subsets/1"},
    ]
    expected: dict[str, Any] = copy.deepcopy(rule)
    expected["spec"]["subsets"] = [subsets[0], subsets[2]]
    assert apply_patch(rule, patch) == expected
    moved = {**rule, "spec": {**spec, "subsets": subsets[::-1][:1] * 3}}
    with pytest.raises(RouteError):
        apply_patch(moved, patch)


# ---------------------------------------------------------------- which route, and who else


@pytest.mark.parametrize(
    ("entries", "name", "index"),
    [
        ((http(("v1", 0), ("v2", 100)),), "", 0),
        ((http(("v2", None), match=[{}]), http(("v2", 100), ("v1", 0))), "", 1),
        ((http(("v3", None), match=[{}]), http(("v2", 100))), "", 1),
        ((http(("v1", None)),), "", 0),
        ((http(("v1", 0), ("v2", 100), name="a"), http(("v1", 0), ("v2", 100), name="b")), "b", 1),
        ((http(("v1", 0), ("v2", 100), host="other"), http(("v1", 0), ("v2", 100))), "", 1),
        ((http(("v1", 0), ("v2", 100), host="other"),), "", None),
        ((), "", None),
    ],
    ids=["plain", "behind a match", "out already", "alone", "named", "another service before", "another one", "none"],
)
def test_which_route(entries: tuple[dict[str, Any], ...], name: str, index: int | None) -> None:
    found = find_destination(virtual_service(*entries), HOST, "v1", "v2", name)
    assert (found.index if found else None) == index


def test_two_routes_that_have_it_are_not_guessed_at() -> None:
    obj = virtual_service(*[http(("v1", 0), ("v2", 100), name=name) for name in ("a", "b")])
    with pytest.raises(ReleaseError, match=r"has v1 in http\[0\] \(a\), http\[1\] \(b\); say which one with 'route'"):
        find_destination(obj, HOST, "v1", "v2")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (http(("v1", 0), ("v2", 100)), ""),
        (http(("v2", 100)), ""),
        (http(("v1", 100), host="app-10"), ""),
        (http(("v1", None)), "http[0] gives it a weight of 100"),
        (http(("v1", 1), ("v2", 99), host=HOST), "http[0] gives it a weight of 1"),
        ({**http(("v2", 1)), "mirror": {"host": "app-1", "subset": "v1"}}, "http[0] mirrors to it"),
        ({**http(("v2", 1)), "mirrors": [{"destination": {"host": "app-1", "subset": "v1"}}]}, "http[0] mirrors to it"),
        ({**http(("v2", 1)), "mirror": {"host": "app-1", "subset": "v2"}}, ""),
    ],
)
def test_who_still_sends_requests(entry: dict[str, Any], said: str) -> None:
    found = sends_to([virtual_service(entry, name="web")], KEY)
    assert found == ([f"VirtualService namespace-1/web {said}"] if said else [])


def test_who_still_sends_requests_to_a_backend() -> None:
    key = "|app-1-v1.namespace-1.svc.cluster.local"
    assert sends_to([http_route(("app-1-v1", 0), ("app-1-v2", 1))], key) == []
    assert len(sends_to([http_route(("app-1-v1", 1), ("app-1-v2", 1))], key)) == 1
    mirror = http_route(("app-1-v2", 1))
    backend = {"backendRef": {"name": "app-1-v1", "port": 80}}
    mirror["spec"]["rules"][0]["filters"] = [{"type": "RequestMirror", "requestMirror": backend}]
    assert sends_to([mirror], key) == ["HTTPRoute namespace-1/app-1 rules[0] mirrors to it"]


# ---------------------------------------------------------------- proxies


def body(name: str) -> bytes:
    return (FIXTURES / "split" / name).read_bytes()


def routes_of(action: dict[str, Any], source: str = "") -> bytes:
    """A config_dump with one route, made of the VirtualService of that name, or of none."""
    config = f"/apis/networking.istio.io/v1/namespaces/namespace-1/virtual-service/{source}"
    route: dict[str, Any] = {"name": "default", "route": action}
    if source:
        route["metadata"] = {"filter_metadata": {"istio": {"config": config}}}
    return json.dumps({"configs": [{"route_config": {"virtual_hosts": [{"routes": [route]}]}}]}).encode()


def test_which_routes_of_a_real_proxy_lead_there() -> None:
    assert leads_to(body("routes.json"), KEY) == ["app-1"]
    assert leads_to(body("routes.json"), f"v9|{HOST}") == []
    assert leads_to(body("routes.json"), "v1|app-10.namespace-1.svc.cluster.local") == []


def test_a_mirror_leads_there_too() -> None:
    mirror = {"cluster": f"outbound|80|v9|{HOST}"}
    action = {"cluster": f"outbound|80|v2|{HOST}", "request_mirror_policies": [mirror]}
    assert leads_to(routes_of(action, "main"), f"v9|{HOST}") == ["main"]


def test_the_route_that_every_service_has_of_itself_is_no_route_of_ours() -> None:
    """With an HTTPRoute a version has a Service of its own, and every proxy of the mesh has that."""
    action = {"cluster": f"outbound|80||{HOST}"}
    assert leads_to(routes_of(action), f"|{HOST}") == []
    assert leads_to(routes_of(action, "namespace-1~80~app-1"), f"|{HOST}") == ["namespace-1~80~app-1"]


def test_requests_under_way_at_a_real_proxy() -> None:
    assert in_flight(body("clusters.json"), KEY) == 0
    assert in_flight(body("clusters.json"), f"v9|{HOST}") is None
    dump = json.loads(body("clusters.json"))
    for cluster in dump["cluster_statuses"]:
        for stat in cluster["host_statuses"][0]["stats"]:
            busy = {"rq_active": 3, "rq_pending_active": 2, "cx_active": 9}.get(stat["name"])
            if busy and "|v1|" in cluster["name"]:
                stat["value"] = str(busy)
    assert in_flight(json.dumps(dump).encode(), KEY) == 5
    with pytest.raises(ProxyError):
        in_flight(b"no", KEY)
