# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first route of a live service, and what goes with a version that is retired."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Render = Callable[..., Any]
VERSIONS = [{"name": "blue", "labels": {"track": "stable"}}, {"name": "green", "labels": {"track": "next"}}]


def known(ready: int, **without: list[str]) -> dict[str, Any]:
    versions = {
        name: {"ready": pods, "proxies": {"asked": 3, "without": without.get(name, [])}}
        for name, pods in (("blue", ready), ("green", 0))
    }
    return {"versions": versions}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (known(1), []),
        (known(1, green=["ns/a"]), []),
        (known(1, blue=["ns/a"]), ["no healthy endpoint of blue in ns/a"]),
        (known(0), ["Service namespace-1/app-1 is live, but no ready pod of it has the labels of version blue: "]),
    ],
    ids=["all know it", "nobody needs a version without pods", "one does not", "labels of nobody"],
)
def test_who_would_be_answered_with_503(render: Render, found: dict[str, Any], said: list[str]) -> None:
    lines = render("app", "blind.yml.j2", _app_known=found, app_versions=VERSIONS)
    assert [line[: len(text)] for line, text in zip(lines, said, strict=True)] == said


def test_what_could_not_be_read_names_nobody(render: Render) -> None:
    assert render("app", "blind.yml.j2", _app_known={"failed": True, "msg": "no"}, app_versions=VERSIONS) == []


def test_subsets_of_pods_that_are_somebody_elses(render: Render) -> None:
    rule = render("app", "destination_rule.yml.j2", app_versions=VERSIONS, _app_own=False)
    assert [one["labels"] for one in rule["spec"]["subsets"]] == [{"track": "stable"}, {"track": "next"}]
    rule = render("app", "destination_rule.yml.j2", app_versions=VERSIONS)
    assert [one["labels"] for one in rule["spec"]["subsets"]] == [{"version": "blue"}, {"version": "green"}]


@pytest.mark.parametrize(("track", "errors"), [("stable", 0), ("other", 1)])
def test_a_subset_that_means_other_pods(render: Render, track: str, errors: int) -> None:
    subsets = [{"name": "blue", "labels": {"track": track}}]
    rule = {"resources": [{"spec": {"host": "app-1", "subsets": subsets}}]}
    found = render(
        "app", "foreign.yml.j2", app_versions=VERSIONS, _app_own=False, _app_rule=rule, _app_route={"resources": []}
    )
    assert len(found) == errors


def test_services_for_the_versions_of_somebody_elses(render: Render) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}, {"name": "x", "port": 81}]
    service = {"resources": [{"spec": {"selector": {"component": "shop"}, "ports": ports}}]}
    found = render("app", "backends.yml.j2", app_versions=VERSIONS, _app_service=service)
    assert {one["metadata"]["name"]: one["spec"]["selector"] for one in found} == {
        "app-1-blue": {"component": "shop", "track": "stable"},
        "app-1-green": {"component": "shop", "track": "next"},
    }
    assert found[0]["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": 8080}]


@pytest.mark.parametrize(("kind", "prefix"), [("VirtualService", ""), ("HTTPRoute", "app-1-")])
def test_weights_of_the_first_route(render: Render, kind: str, prefix: str) -> None:
    found = render("app", "weights.yml.j2", app_route_kind=kind, app_live_version="v2")
    assert found == {f"{prefix}v1": 0, f"{prefix}v2": 100}


def result(kind: str, **labels: str) -> dict[str, Any]:
    return {
        "item": {"kind": kind, "api": "x/v1"},
        "resources": [
            {
                "metadata": {
                    "name": "app-1-v1",
                    "labels": {"app": "app-1", "version": "v1", **labels},
                    "managedFields": [{"manager": "progressive.istio"}],
                }
            }
        ],
    }


def test_only_what_the_role_made_goes(render: Render) -> None:
    by_hand = result("ConfigMap")
    by_hand["resources"][0]["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    found = {"results": [result("Deployment"), by_hand, result("Service", version="v2")]}
    workloads = render("app", "retired.yml.j2", _app_found=found, app_retired_version="v1")
    assert workloads["ours"] == [{"apiVersion": "x/v1", "kind": "Deployment", "metadata": {"name": "app-1-v1"}}]
    assert workloads["said"].startswith(
        "Deployment of v1 removed; ConfigMap app-1-v1, Service app-1-v1 not made by this"
    )
    nothing = render("app", "retired.yml.j2", _app_found={"results": []}, app_retired_version="v1")
    assert nothing["ours"] == []
    assert "nothing of v1 here" in nothing["said"]


def test_which_versions_are_routed(render: Render) -> None:
    route = [{"destination": {"host": "app-1", "subset": "v2"}}]
    spec = {"http": [{"redirect": {}}, {"route": route}], "rules": [{"backendRefs": [{"name": "app-1-v3"}]}]}
    found = render("app", "routed.yml.j2", _app_route={"resources": [{"spec": spec}]})
    assert found == ["v2", "v3"]
