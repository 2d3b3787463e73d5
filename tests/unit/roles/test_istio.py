# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role istio installs, what it counts as use of the mesh, and how it says that nothing is validated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Render = Callable[..., Any]


def releases(render: Render, **variables: Any) -> list[dict[str, Any]]:
    known = {"_istio_flat": {"stat": {"exists": True}}, "_istio_default": "default"}
    found: list[dict[str, Any]] = render("istio", "releases.yml.j2", **{**known, **variables})
    return found


def test_values_may_stand_under_pilot_or_at_the_top(render: Render) -> None:
    _base, istiod = releases(
        render,
        istio_hub="example.org/istio",
        istio_revision="1-31",
        istio_values={"pilot": {"env": {"A": "1"}}, "resources": {"x": 1}, "global": {"proxy": {"y": 2}}},
    )
    assert istiod["release"] == "istiod-1-31"
    assert istiod["values"] == {
        "global": {"istioNamespace": "istio-system", "hub": "example.org/istio", "tag": "1.31.0", "proxy": {"y": 2}},
        "revision": "1-31",
        "env": {"A": "1"},
        "resources": {"x": 1},
    }


@pytest.mark.parametrize(
    ("charts", "flat", "chart"),
    [
        ("https://example.org/charts", False, "istiod"),
        ("oci://example.org/charts", False, "istiod"),
        ("/charts", True, "istiod"),
        ("/charts", False, "istio-control/istio-discovery"),
    ],
)
def test_where_the_chart_is(render: Render, charts: str, flat: bool, chart: str) -> None:
    found = releases(
        render,
        istio_charts=charts,
        _istio_flat={"stat": {"exists": flat}} if "://" not in charts else {"skipped": True},
        istio_gateways=[{"name": "in", "namespace": "edge", "values": {"a": 1}}, {"name": "out"}],
    )
    assert [(r["release"], r["chart"], r["namespace"]) for r in found] == [
        ("istio-base", "base", "istio-system"),
        ("istiod", chart, "istio-system"),
        ("in", "gateway", "edge"),
        ("out", "gateway", "istio-system"),
    ]


def _pod(name: str, containers: list[str], init: list[str], **metadata: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": c} for c in containers], "initContainers": [{"name": c} for c in init]}
    return {"metadata": {"namespace": "n", "name": name, **metadata}, "spec": spec}


def test_users(render: Render) -> None:
    pods = [
        _pod("plain", ["app"], []),
        _pod("sidecar", ["app", "istio-proxy"], []),
        _pod("native", ["app"], ["istio-init", "istio-proxy"]),
        _pod("other-revision", ["istio-proxy"], [], annotations={"istio.io/rev": "1-30"}),
        _pod("own-gateway", ["istio-proxy"], [], labels={"app": "in"}),
        _pod("of-istioctl", ["istio-proxy"], [], labels={"operator.istio.io/component": "IngressGateways"}),
    ]
    objects = [
        {"kind": "VirtualService", "metadata": {"namespace": "n", "name": "x"}},
        {
            "kind": "EnvoyFilter",
            "metadata": {"namespace": "i", "name": "y", "labels": {"operator.istio.io/component": "Pilot"}},
        },
    ]
    found = render(
        "istio",
        "users.yml.j2",
        istio_gateways=[{"name": "in"}],
        _istio_pods={"resources": pods},
        _istio_objects={"results": [{"resources": objects}, {"skipped": True}]},
    )
    assert found == ["pod n/sidecar", "pod n/native", "VirtualService n/x"]


def _compared(before: Any, after: Any) -> dict[str, Any]:
    return {"diff": {"before": before, "after": after}, "result": {"metadata": {"name": "x"}}}


@pytest.mark.parametrize(
    ("compared", "expected"),
    [
        (_compared({}, {}), []),
        (_compared({"spec": 1}, {"spec": 2}), ["x"]),
        ({"diff": {}, "result": {"metadata": {"name": "x"}}}, []),
        ({"result": {"results": [_compared({}, {}), _compared({}, {"spec": 2})]}}, ["x"]),
    ],
    ids=["only managed fields", "another object", "the same object", "several objects"],
)
def test_what_istioctl_would_change(render: Render, compared: dict[str, Any], expected: list[str]) -> None:
    assert render("istio", "differs.yml.j2", _istio_compared=compared) == expected


def _istiod(labels: dict[str, str], annotations: dict[str, str] | None) -> dict[str, Any]:
    metadata = {"name": "istiod", "namespace": "istio-system", "labels": labels}
    return {"metadata": metadata | ({} if annotations is None else {"annotations": annotations})}


@pytest.mark.parametrize(
    ("istiod", "by_helm", "by_istioctl"),
    [
        (_istiod({"app.kubernetes.io/managed-by": "Helm"}, {"meta.helm.sh/release-name": "istiod"}), True, False),
        (
            _istiod({"app.kubernetes.io/managed-by": "Helm", "operator.istio.io/managed": "Reconcile"}, None),
            False,
            True,
        ),
        (_istiod({"app.kubernetes.io/managed-by": "Helm"}, {}), False, False),
    ],
    ids=["helm", "istioctl renders helm's labels too", "neither"],
)
def test_who_installed_it(template: Render, istiod: dict[str, Any], by_helm: bool, by_istioctl: bool) -> None:
    tasks = yaml.safe_load((Path(__file__).parents[3] / "roles" / "istio" / "tasks" / "main.yml").read_text())
    variables = {"_istio_mine": [istiod]}
    assert template(tasks[1]["vars"]["_istio_by_helm"], **variables) is by_helm
    assert template(tasks[1]["vars"]["_istio_by_istioctl"], **variables) is by_istioctl


def _validators(revision: str) -> dict[str, Any]:
    return {"resources": [{"metadata": {"name": "istiod-default-validator", "labels": {"istio.io/rev": revision}}}]}


@pytest.mark.parametrize(
    ("validators", "answer", "text"),
    [
        ({"resources": []}, {}, "there is no default revision"),
        (_validators("1-30"), {}, "points at revision 1-30, which does not answer"),
        (
            _validators("default"),
            {"msg": "Internal error:\n failed calling webhook"},
            "Internal error: failed calling webhook",
        ),
    ],
)
def test_nothing_validates(render: Render, validators: dict[str, Any], answer: dict[str, str], text: str) -> None:
    found = render(
        "istio", "unvalidated.j2", _istio_validators=validators, _istio_refused=answer, _istio_found={"resources": []}
    ).strip()
    assert text in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"observedGeneration": 3, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}, "yes"),
        ({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}, "no"),
        ({"observedGeneration": 3, "updatedReplicas": 2, "replicas": 3, "availableReplicas": 3}, "no"),
        ({"observedGeneration": 3, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}, "no"),
        ({}, "no"),
    ],
)
def test_rolled_out(render: Render, status: dict[str, int], expected: str) -> None:
    istiod = {"metadata": {"generation": 3}, "spec": {"replicas": 2}, "status": status}
    assert render("istio", "rolled_out.j2", _istio_istiod={"resources": [istiod]}).strip() == expected


def test_established(render: Render) -> None:
    def crd(name: str, status: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Established", "status": status}]}}

    crds = {"resources": [crd("a.istio.io", "True"), crd("b.istio.io", "False"), {"metadata": {"name": "c.istio.io"}}]}
    assert render("istio", "established.yml.j2", _istio_crds=crds) == ["a.istio.io"]


def test_what_another_method_left_of_the_base_is_handed_to_helm(render: Render) -> None:
    def found(kind: str, name: str, **more: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **more}}

    crd = "CustomResourceDefinition"
    mine = found(crd, "a.istio.io", annotations={"meta.helm.sh/release-name": "istio-base"})
    crds = {"resources": [mine, found(crd, "b.istio.io"), found(crd, "c.example.org"), found(crd, "d.x")]}
    reader = {"resources": [found("ServiceAccount", "istio-reader-service-account", namespace="istio-system")]}
    patches = render("istio", "adopt.yml.j2", _istio_crds=crds, _istio_reader=reader)
    assert [(one["kind"], one["metadata"]["name"]) for one in patches] == [
        (crd, "b.istio.io"),
        ("ServiceAccount", "istio-reader-service-account"),
    ]
    assert [one["metadata"].get("namespace") for one in patches] == [None, "istio-system"]
    assert patches[0]["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "Helm"}
    assert render("istio", "adopt.yml.j2", _istio_crds={"resources": [mine]}, _istio_reader={"resources": []}) == []
