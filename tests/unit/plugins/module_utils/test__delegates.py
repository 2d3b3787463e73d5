# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A delegate is read back by its roots: against what a real sidecar and a real gateway ran of one (fixtures)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._delegates import (
    Carrier,
    carriers,
    delegated,
    holds_weights,
    is_delegate,
    merged,
    roots_of,
)
from ansible_collections.progressive.istio.plugins.module_utils._proxies import envoy_routes, lag
from ansible_collections.progressive.istio.plugins.module_utils._routes import pick_route

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "delegates"
HOST = "app-1.exp.svc.cluster.local"
MESH_ROOT, GATEWAY_ROOT = "VirtualService exp/app-1", "VirtualService exp/edge"


def recorded() -> dict[str, Json]:
    """By name: the delegate ``weights``, and its roots ``app-1`` (mesh) and ``edge`` (gateway)."""
    items: list[Json] = json.loads((FOLDER / "virtual_services.json").read_text())["items"]
    return {one["metadata"]["name"]: one for one in items}


def carried(found: dict[str, Json], delegate: str = "weights", ports: tuple[int, ...] = (80,)) -> list[Carrier]:
    obj = {**found[delegate], "kind": "VirtualService"}
    return carriers(obj, pick_route(obj, HOST, "v2"), list(found.values()), ports)


def runs(proxy: str, found: dict[str, Json]) -> list[str | None]:
    """What the recorded proxy runs by each carrier, without the time."""
    body = (FOLDER / f"{proxy}.json").read_bytes()
    answers = [lag(body, one.obj, one.route) for one in carried(found)]
    return [answer and answer.partition(" since ")[0] for answer in answers]


def weighted(found: dict[str, Json], v1: int, v2: int) -> dict[str, Json]:
    changed = copy.deepcopy(found)
    for part, weight in zip(changed["weights"]["spec"]["http"][1]["route"], (v1, v2), strict=True):
        part["weight"] = weight
    return changed


def test_no_proxy_names_the_delegate() -> None:
    found = recorded()
    bodies = [(FOLDER / name).read_bytes() for name in ("sidecar.json", "gateway.json")]
    assert [envoy_routes(body, found["weights"]) for body in bodies] == [[], []]
    assert [one.name for one in envoy_routes(bodies[0], found["app-1"])] == ["legacy", "api-beta", "api-main"]
    assert [one.name for one in envoy_routes(bodies[1], found["edge"])] == ["", "beta", "main"]


def test_it_is_carried_by_each_entry_that_names_it() -> None:
    found = carried(recorded())
    assert [(one.where, one.route.name, one.route.index, tuple(one.ports)) for one in found] == [
        (f"VirtualService exp/weights in {MESH_ROOT} http[1]", "api-main", 2, (80,)),
        (f"VirtualService exp/weights in {GATEWAY_ROOT} http[1]", "main", 2, (80,)),
        (f"VirtualService exp/weights in {GATEWAY_ROOT} http[2]", "twice-main", 4, (80,)),
    ]


def test_both_proxies_run_what_is_there_and_nothing_else() -> None:
    found = recorded()
    # The gateway has no route of its third entry: the second one takes all requests before it.
    assert (runs("sidecar", found), runs("gateway", found)) == (["", None, None], [None, "", None])
    other = weighted(found, 50, 50)
    instead = "v1 90 %, v2 10 %"
    assert (runs("sidecar", other), runs("gateway", other)) == ([instead, None, None], [None, instead, None])
    assert runs("sidecar", weighted(found, 9, 1)) == ["", None, None], "parts of the sum, not percent"


def test_a_route_of_the_root_is_not_taken_for_the_delegates() -> None:
    """One with the name that the merged route has, to the same versions."""
    found = recorded()
    found["app-1"]["spec"]["http"][0] |= {"name": "api-main"}
    body = json.loads((FOLDER / "sidecar.json").read_text())
    for host in body["configs"][0]["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route["name"] = "api-main" if route.get("name") == "legacy" else route.get("name", "")
    sidecar = carried(found)[0]
    assert lag(json.dumps(body).encode(), sidecar.obj, sidecar.route) == ""


def test_other_delegates_of_a_root_are_merged_too() -> None:
    """Their routes may have the same name in Envoy, and the same destinations."""
    found = recorded()
    found["early"] = copy.deepcopy(found["weights"])
    found["early"]["metadata"]["name"] = "early"
    found["app-1"]["spec"]["http"].insert(0, {"name": "api", "delegate": {"name": "early"}})
    changed = weighted(found, 50, 50)
    here = carried(changed)[0]
    assert (here.where, here.route.index) == (f"VirtualService exp/weights in {MESH_ROOT} http[2]", 4)
    dump = json.loads((FOLDER / "sidecar.json").read_text())
    # The 90/10 that it runs is what "early" asks for, and the 50/50 of "weights" is not there.
    assert str(lag(json.dumps(dump).encode(), here.obj, here.route)).startswith("v1 90 %, v2 10 % since")
    for host in dump["configs"][0]["route_config"]["virtual_hosts"]:
        for route in [route for route in host["routes"] if route.get("name") == "api-main"]:
            host["routes"].append(copy.deepcopy(route))
            for cluster in host["routes"][-1]["route"]["weighted_clusters"]["clusters"]:
                cluster["weight"] = 50
    assert lag(json.dumps(dump).encode(), here.obj, here.route) == ""


def test_an_object_with_hosts_is_run_as_it_is() -> None:
    found = recorded()
    obj = {**found["app-1"], "kind": "VirtualService"}
    route = pick_route(obj, HOST, "v1", "legacy")
    assert carriers(obj, route, (), (80,)) == [Carrier(MESH_ROOT, obj, route, (80,))]


def test_a_delegate_that_nobody_names() -> None:
    found = recorded()
    assert carried({"weights": found["weights"]}) == []
    found["app-1"]["spec"]["http"][1]["delegate"]["namespace"] = "another"
    left = [one.where.partition(" in ")[2] for one in carried(found)]
    assert left == [f"{GATEWAY_ROOT} http[1]", f"{GATEWAY_ROOT} http[2]"]


def test_names_are_joined_as_istiod_does() -> None:
    root: Json = {"metadata": {"name": "r", "namespace": "a"}, "spec": {"hosts": ["x"], "http": []}}
    delegate: Json = {"metadata": {"name": "d", "namespace": "b"}, "spec": {"http": []}}
    for outer in ({}, {"name": "root"}):
        for inner in ({}, {"name": "own"}):
            root["spec"]["http"].append({**outer, "delegate": {"name": f"d{len(inner)}", "namespace": "b"}})
    delegates = {f"b/d{n}": {**delegate, "spec": {"http": [{"name": "own"} if n else {}]}} for n in (0, 1)}
    assert [entry.get("name") for entry in merged(root, delegates)["spec"]["http"]] == [None, "own", "root", "root-own"]


def test_what_is_merged() -> None:
    root: Json = {
        "metadata": {"name": "r", "namespace": "edge"},
        "spec": {
            "hosts": ["shop.example.com"],
            "gateways": ["edge"],
            "http": [
                {
                    "match": [{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}, "gateways": ["mesh"]}],
                    "timeout": "9s",
                    "retries": {"attempts": 0},
                    "delegate": {"name": "d", "namespace": "shop"},
                },
                {"route": [{"destination": {"host": "rest"}}]},
            ],
        },
    }
    match, route = [{"headers": {"x": {"exact": "1"}}}], [{"destination": {"host": "app-1"}}]
    delegate: Json = {
        "metadata": {"name": "d", "namespace": "shop"},
        "spec": {"http": [{"match": match, "timeout": "2s", "route": route}]},
    }
    mine, rest = merged(root, {"shop/d": delegate})["spec"]["http"]
    assert mine == {
        "match": [
            {"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "1"}}},
            {"uri": {"prefix": "/b"}, "gateways": ["mesh"], "headers": {"x": {"exact": "1"}}},
        ],
        "timeout": "2s",
        "retries": {"attempts": 0},
        "route": [{"destination": {"host": "app-1.shop.svc.cluster.local"}}],
    }
    assert rest == root["spec"]["http"][1]
    assert merged(root, {"shop/d": delegate}, only="shop/d")["spec"]["http"] == [mine]
    assert merged(root, {})["spec"]["http"] == [rest], "istiod leaves out what is not there"


def test_a_root_for_other_hosts_may_be_called_on_any_port() -> None:
    found = recorded()
    found["app-1"]["spec"]["hosts"] = ["front.example.com"]
    assert [tuple(one.ports) for one in carried(found)] == [(), (80,), (80,)]


def test_what_a_delegate_is() -> None:
    found = recorded()
    assert [is_delegate(one) for one in found.values()] == [True, False, False]
    assert not is_delegate({"kind": "HTTPRoute", "metadata": {"name": "x"}, "spec": {"parentRefs": []}})
    assert delegated(found["edge"]) == ["", "exp/weights", "exp/weights"]
    assert [one["metadata"]["name"] for one in roots_of(found["weights"], found.values())] == ["app-1", "edge"]
    nested = {"metadata": {"name": "n", "namespace": "exp"}, "spec": {"http": [{"delegate": {"name": "weights"}}]}}
    assert roots_of(found["weights"], [nested]) == []


@pytest.mark.parametrize(
    ("http", "holds"),
    [
        ({"route": [{"destination": {"host": "app-1", "subset": "v1"}}]}, True),
        ({"match": [{}], "route": [{"destination": {"host": "app-1", "subset": "v1"}}]}, False),
        ({"match": [{}], "route": [{"destination": {"host": "app-1", "subset": s}} for s in ("v1", "v2")]}, True),
        ({"route": [{"destination": {"host": "app-10", "subset": "v1"}}]}, False),
        ({"route": [{"destination": {"host": h, "subset": "v1"}} for h in ("app-1", "app-10")]}, False),
        ({"delegate": {"name": "weights"}}, False),
    ],
)
def test_who_can_hold_weights(http: Json, holds: bool) -> None:
    obj = {"metadata": {"name": "x", "namespace": "exp"}, "spec": {"hosts": ["app-1"], "http": [http]}}
    assert holds_weights(obj, HOST) == holds
