# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role app makes, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Render = Callable[..., Any]
HOST = "app-1.namespace-1.svc.cluster.local"


def workloads(render: Render, **variables: Any) -> dict[tuple[str, str], Any]:
    objects = render("app", "workloads.yml.j2", **{"_app_releasing": False, "_app_autoscalers": {}, **variables})
    return {(o["kind"], o["metadata"]["name"]): o for o in objects}


def autoscaler(minimum: int, *managers: str) -> dict[str, Any]:
    fields = [{"manager": name, "fieldsV1": {"f:spec": {"f:minReplicas": {}}}} for name in managers]
    return {
        "resources": [{"metadata": {"name": "app-1-v1", "managedFields": fields}, "spec": {"minReplicas": minimum}}]
    }


def route(phase: str = "progressing", uid: str = "u", text: str | None = None) -> dict[str, Any]:
    record = json.dumps({"phase": phase, "uid": uid}) if text is None else text
    return {"resources": [{"metadata": {"uid": "u", "annotations": {"progressive.istio/release": record}}}]}


def test_workloads_of_the_article(render: Render) -> None:
    objects = workloads(render)
    assert set(objects) == {(k, f"app-1-{v}") for k in ("Deployment", "HorizontalPodAutoscaler") for v in ("v1", "v2")}
    deployment = objects["Deployment", "app-1-v1"]["spec"]
    assert "replicas" not in deployment
    assert deployment["selector"]["matchLabels"] == {"app": "app-1", "version": "v1"}
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/", "port": 80}
    assert container["ports"] == [{"name": "http", "containerPort": 80, "protocol": "TCP"}]
    (metric,) = objects["HorizontalPodAutoscaler", "app-1-v1"]["spec"]["metrics"]
    assert metric["containerResource"]["container"] == container["name"]


def test_a_version_says_otherwise(render: Render) -> None:
    version = {
        "name": "v2",
        "image": "i:2",
        "port": "8080",
        "env": {"B": True, "A": 1, "T": "text"},
        "content": "two",
        "max_replicas": 9,
        "readiness_probe": {},
        "drain_seconds": 0,
        "container": {"volumeMounts": [{"name": "x", "mountPath": "/x"}]},
        "pod": {"containers": [{"name": "side", "image": "s:1"}], "volumes": [{"name": "x", "emptyDir": {}}]},
    }
    objects = workloads(render, app_versions=[{"name": "v1"}, version], app_env={"A": "all", "C": "c"})
    pod = objects["Deployment", "app-1-v2"]["spec"]["template"]["spec"]
    app, side = pod["containers"]
    assert (app["image"], side["image"]) == ("i:2", "s:1")
    assert app["ports"][0]["containerPort"] == 8080
    assert {e["name"]: e["value"] for e in app["env"]} == {"A": "1", "B": "true", "C": "c", "T": "text"}
    assert "readinessProbe" not in app
    assert "lifecycle" not in app
    assert [m["name"] for m in app["volumeMounts"]] == ["files", "x"]
    assert [v["name"] for v in pod["volumes"]] == ["files", "x"]
    assert objects["HorizontalPodAutoscaler", "app-1-v2"]["spec"]["maxReplicas"] == 9


def test_other_files_are_another_template(render: Render) -> None:
    def checksum(**variables: Any) -> str:
        meta = workloads(render, **variables)["Deployment", "app-1-v1"]["spec"]["template"]["metadata"]
        return str(meta["annotations"]["progressive.istio/files"])

    assert checksum() == checksum()
    assert checksum() != checksum(app_content="other")
    assert checksum() != checksum(app_files={"more": "x"})


def test_without_files_there_is_no_mount(render: Render) -> None:
    template = workloads(render, app_files_path="")["Deployment", "app-1-v1"]["spec"]["template"]
    assert "volumes" not in template["spec"]
    assert "volumeMounts" not in template["spec"]["containers"][0]
    assert template["metadata"]["annotations"] == {}
    assert [o["kind"] for o in render("app", "service.yml.j2", app_files_path="")] == ["Service"]


@pytest.mark.parametrize(
    ("releasing", "found", "expected"),
    [
        (False, {}, 2),
        (True, {}, 2),
        (False, autoscaler(4, "release"), 2),
        (True, autoscaler(4, "release"), None),
        (True, autoscaler(4, "progressive.istio"), 4),
    ],
    ids=["new", "new in a release", "declared", "a floor is its owner's", "ours is said again"],
)
def test_floor(render: Render, releasing: bool, found: dict[str, Any], expected: int | None) -> None:
    objects = workloads(render, app_min_replicas=2, _app_releasing=releasing, _app_autoscalers=found)
    assert objects["HorizontalPodAutoscaler", "app-1-v1"]["spec"].get("minReplicas") == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"resources": []}, "no"),
        ({"resources": [{"metadata": {"uid": "u"}}]}, "no"),
        (route("progressing"), "yes"),
        (route("held"), "yes"),
        (route("aborted"), "no"),
        (route("promoted"), "no"),
        (route(uid="of the object it was copied from"), "no"),
        (route(text="somebody's own text"), "no"),
    ],
)
def test_releasing(render: Render, found: dict[str, Any], expected: str) -> None:
    assert render("app", "releasing.j2", _app_route=found).strip() == expected


def test_a_release_of_a_delegate_is_one_of_its_root(render: Render) -> None:
    delegating = {"metadata": {"name": "app-1", "uid": "r"}, "spec": {"http": [{"delegate": {"name": "w"}}]}}
    root = {"resources": [delegating]}
    for name, expected in (("w", "yes"), ("another", "no")):
        delegate = route("held")["resources"][0]
        delegate["metadata"]["name"] = name
        found = {"resources": [*root["resources"], delegate]}
        assert render("app", "releasing.j2", _app_route=root, _app_delegates=found).strip() == expected


def test_no_route_is_made_beside_a_delegate(render: Render) -> None:
    parts = [{"destination": {"host": "app-1", "subset": subset}} for subset in ("v1", "v2")]
    spec = {"http": [{"route": parts}]}
    delegate = {"metadata": {"name": "weights"}, "spec": spec}
    (error,) = render("app", "foreign.yml.j2", _app_route={"resources": []}, _app_delegates={"resources": [delegate]})
    assert "/weights is a delegate with weights of " in error
    assert error.endswith("set app_route_object to the one that holds the weights")
    for other in ({"hosts": ["x"], **spec}, {"http": [{"route": parts[:1]}]}):
        others = {"resources": [{"metadata": {"name": "w"}, "spec": other}]}
        assert render("app", "foreign.yml.j2", _app_route={"resources": []}, _app_delegates=others) == []


def test_route_has_every_version(render: Render) -> None:
    spec = render("app", "route.yml.j2", app_live_version="v2", app_route={"timeout": "3s"}, app_gateways=["g/in"])[
        "spec"
    ]
    assert spec["hosts"] == [HOST]
    assert spec["gateways"] == ["g/in", "mesh"]
    (http,) = spec["http"]
    assert http["timeout"] == "3s"
    assert {r["destination"]["subset"]: r["weight"] for r in http["route"]} == {"v1": 0, "v2": 100}


@pytest.mark.parametrize("subsets", [None, [{"name": "v1", "labels": {"version": "v1"}}]])
def test_missing_subsets_are_added_alone(render: Render, subsets: list[Any] | None) -> None:
    spec = {"host": "app-1"} if subsets is None else {"host": "app-1", "subsets": subsets}
    patch = render(
        "app",
        "subsets.yml.j2",
        _app_rule={"resources": [{"metadata": {"resourceVersion": "7"}, "spec": spec}]},
        _app_subsets=[s["name"] for s in subsets or []],
    )
    assert patch[:2] == [
        {"op": "test", "path": "/spec/host", "value": "app-1"},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
    ]
    added = ["v2"] if subsets else ["v1", "v2"]
    expected = [{"op": "add", "path": "/spec/subsets/-", "value": {"name": n, "labels": {"version": n}}} for n in added]
    assert patch[2:] == ([] if subsets else [{"op": "add", "path": "/spec/subsets", "value": []}]) + expected


def _rule(host: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"resources": [{"spec": {"host": host, "subsets": [{"name": "v1", "labels": labels}]}}]}


def _route(host: str) -> dict[str, Any]:
    return {"resources": [{"spec": {"http": [{"route": [{"destination": {"host": host}}]}]}}]}


@pytest.mark.parametrize(
    ("found_route", "found_rule", "error"),
    [
        ({"resources": []}, {"resources": []}, ""),
        (_route("app-1"), _rule(HOST, {"version": "v1"}), ""),
        (_route(HOST), _rule("app-1", {"app": "app-1"}), ""),
        (_route("app-10"), {"resources": []}, "none of its http routes goes to"),
        ({"resources": []}, _rule("app-10", {}), "for host app-10"),
        ({"resources": []}, _rule("app-1", {"track": "blue"}), "wants label track=blue"),
    ],
)
def test_objects_of_our_name(render: Render, found_route: Any, found_rule: Any, error: str) -> None:
    errors = render("app", "foreign.yml.j2", _app_route=found_route, _app_rule=found_rule)
    assert len(errors) == bool(error)
    assert error in "".join(errors)


def _deployment(name: str, **status: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "generation": 2}, "status": status}


DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        (DONE, True),
        (DONE | {"observedGeneration": 1}, False),
        (DONE | {"updatedReplicas": 1}, False),
        (DONE | {"unavailableReplicas": 1}, False),
        ({"observedGeneration": 2}, False),
    ],
)
def test_unready(render: Render, status: dict[str, int], ready: bool) -> None:
    found = {"resources": [_deployment("app-1-v1", **DONE), _deployment("app-1-v2", **status)]}
    assert render("app", "unready.yml.j2", _app_deployments=found) == ([] if ready else ["app-1-v2"])
    assert render("app", "unready.yml.j2", _app_deployments={"msg": "gone"}) == ["app-1-v1", "app-1-v2"]


def test_the_gateway_api_has_a_service_for_each_version(render: Render) -> None:
    kind = {"app_route_kind": "HTTPRoute"}
    route = render("app", "route.yml.j2", app_live_version="v2", app_gateways=["g/in"], **kind)
    assert (route["apiVersion"], route["kind"]) == ("gateway.networking.k8s.io/v1", "HTTPRoute")
    assert route["spec"] == {
        "parentRefs": [
            {"group": "", "kind": "Service", "name": "app-1", "port": 80},
            {"name": "in", "namespace": "g"},
        ],
        "rules": [
            {
                "backendRefs": [
                    {"name": "app-1-v1", "port": 80, "weight": 0},
                    {"name": "app-1-v2", "port": 80, "weight": 100},
                ]
            }
        ],
    }
    services = [one for one in render("app", "service.yml.j2", **kind) if one["kind"] == "Service"]
    assert {one["metadata"]["name"]: one["spec"]["selector"] for one in services} == {
        "app-1": {"app": "app-1"},
        "app-1-v1": {"app": "app-1", "version": "v1"},
        "app-1-v2": {"app": "app-1", "version": "v2"},
    }
    assert len([one for one in render("app", "service.yml.j2") if one["kind"] == "Service"]) == 1
