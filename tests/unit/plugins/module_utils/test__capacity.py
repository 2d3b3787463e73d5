# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a version is short of, as its autoscaler and metrics-server tell it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._capacity import (
    Capacity,
    capacity_of,
    cores,
    held_back,
)
from ansible_collections.progressive.istio.plugins.module_utils._gate import Gate
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Kind, Tolerance, Verdict, Window


def pod(name: str, owner: tuple[str, str], limit: str | None = "500m", digest: str = "abc12") -> dict[str, Any]:
    resources = {"limits": {"cpu": limit}} if limit else {}
    return {
        "metadata": {
            "name": name,
            "labels": {"pod-template-hash": digest},
            "ownerReferences": [{"kind": owner[0], "name": owner[1]}],
        },
        "spec": {"containers": [{"name": "app", "resources": resources}, {"name": "plain"}]},
    }


def usage(name: str, cpu: str) -> dict[str, Any]:
    containers = [{"name": "app", "usage": {"cpu": cpu}}, {"name": "plain", "usage": {"cpu": "9"}}]
    return {"metadata": {"name": name}, "containers": containers}


def scaler(target: tuple[str, str], status: str = "True", reason: str = "TooManyReplicas") -> dict[str, Any]:
    return {
        "metadata": {"name": f"{target[1]}-hpa"},
        "spec": {"scaleTargetRef": {"kind": target[0], "name": target[1]}, "maxReplicas": 3},
        "status": {"conditions": [{"type": "ScalingLimited", "status": status, "reason": reason}]},
    }


V2 = pod("app-v2-abc12-x", ("ReplicaSet", "app-v2-abc12"))


@pytest.mark.parametrize(
    ("owner", "target"),
    [
        (("ReplicaSet", "app-v2-abc12"), ("Deployment", "app-v2")),
        (("ReplicaSet", "app-v2-abc12"), ("Rollout", "app-v2")),
        (("ReplicaSet", "app-v2-abc12"), ("ReplicaSet", "app-v2-abc12")),
        (("StatefulSet", "app-v2"), ("StatefulSet", "app-v2")),
    ],
)
def test_an_autoscaler_at_its_maximum(owner: tuple[str, str], target: tuple[str, str]) -> None:
    pods = {"v2": [pod("one", owner), pod("two", owner)], "v1": [pod("three", ("ReplicaSet", "app-v1-abc12"))]}
    found = capacity_of(pods, [scaler(target)], [])
    said = f"HorizontalPodAutoscaler {target[1]}-hpa wants more than its maximum of 3"
    assert found == {"v2": (said,), "v1": ()}


@pytest.mark.parametrize(("status", "reason"), [("False", "DesiredWithinRange"), ("True", "TooFewReplicas")])
def test_an_autoscaler_within_its_limits(status: str, reason: str) -> None:
    assert capacity_of({"v2": [V2]}, [scaler(("Deployment", "app-v2"), status, reason)], []) == {"v2": ()}


def test_an_autoscaler_that_is_new_has_no_status() -> None:
    new = {**scaler(("Deployment", "app-v2")), "status": None}
    assert capacity_of({"v2": [V2]}, [new], []) == {"v2": ()}


@pytest.mark.parametrize(
    ("used", "short"), [(("480m", "480000000n"), True), (("500m", "440m"), False), (("480m",), True)]
)
def test_a_container_at_its_limit_on_average(used: tuple[str, ...], short: bool) -> None:
    pods = [pod(f"p{i}", ("ReplicaSet", "app-v2-abc12")) for i in range(2)]
    found = capacity_of({"v2": pods}, [], [usage(f"p{i}", cpu) for i, cpu in enumerate(used)])
    assert found == {"v2": ("container app takes 96 % of its CPU limit",) if short else ()}


def test_without_a_limit_nothing_is_at_it() -> None:
    pods = {"v2": [pod("p0", ("ReplicaSet", "app-v2-abc12"), None)]}
    assert capacity_of(pods, [], [usage("p0", "4")]) == {"v2": ()}


@pytest.mark.parametrize(
    ("text", "number"), [("250m", 0.25), ("2", 2), ("1500000n", 0.0015), ("3u", 3e-6), ("1k", 1000)]
)
def test_quantities(text: str, number: float) -> None:
    assert cores(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "m", "1x"])
def test_no_quantity(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        cores(text)


def verdict(good: int, bad: int = 0) -> Verdict:
    gate = Gate(Tolerance())
    gate.observe(Window(1, 10, 1.0, good + bad, bad, 9 * good, 0))
    return gate.verdict(min_over=True)


@pytest.mark.parametrize(
    ("short", "kind"),
    [
        ({"v2": ("little",)}, "wait"),
        ({"v1": ("little",)}, "pass"),
        ({"v1": ("x",), "v2": ("y",)}, "pass"),
        ({}, "pass"),
    ],
)
def test_who_is_short_alone_does_not_pass(short: dict[str, tuple[str, ...]], kind: Kind) -> None:
    told = held_back(verdict(2000), Capacity(short), "v2", "v1")
    assert told.kind == kind
    assert ("v2 is short of capacity: little" in told.reason) == (kind == "wait")


def test_a_failure_stays_one() -> None:
    assert held_back(verdict(10, 90), Capacity({"v2": ("little",)}), "v2", "v1").kind == "fail"
