# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many pods a version needs, and what is on record of a floor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._floors import (
    AUTOSCALER,
    SPARE,
    Floor,
    Need,
    Scaler,
    Share,
    Supply,
    lowered,
    need,
    raised,
    restored,
    seen,
)
from ansible_collections.progressive.istio.plugins.module_utils._scalers import failure_of, scaler_of, supply_of
from hypothesis import given
from hypothesis import strategies as st

SCALER = Scaler(AUTOSCALER, "v2", 2, 10, 0.2)
FLOOR = Floor("v2", AUTOSCALER, "v2", original=2, before=2, value=5, at=1.0)
SINCE = 100.0


def needed(used: float, now: int, then: int, pods: int = 2, idle: float = 0.0, usable: float = 0.2) -> Need:
    canary = Supply(pods, used=used, since=SINCE, measured=True)
    found = need(canary, Supply(6), replace(SCALER, usable=usable), Share(now, then, SINCE), 6, idle, late=False)
    assert found
    return found


shares = st.integers(1, 100)
amounts = st.floats(0.001, 50)


@given(amounts, shares, shares, st.integers(1, 50), st.floats(0, 1), st.floats(0.01, 4))
def test_pods_carry_the_next_share_and_one_less_would_not(
    used: float, now: int, then: int, pods: int, idle: float, usable: float
) -> None:
    """As far as idle pods are believed to take something: never more than half of anything."""
    number = needed(used, now, then, pods, idle, usable).pods
    idle = min(idle, used / pods / 2, usable / 2)
    load = (used - idle * pods) * then / now * (1 + SPARE)
    assert number * (usable - idle) >= load * (1 - 1e-6) - 1e-6
    assert number == 1 or (number - 1) * (usable - idle) <= load * (1 + 1e-6)


@given(amounts, shares, shares, shares)
def test_a_greater_share_never_needs_fewer(used: float, now: int, one: int, two: int) -> None:
    low, high = sorted((one, two))
    assert needed(used, now, low).pods <= needed(used, now, high).pods


def test_the_numbers_are_told() -> None:
    assert needed(0.1, 10, 75).pods == 5
    assert needed(0.1, 10, 75).why == "by its 0.1 cores at 10 %, 20 % spare, 0.2 cores a pod by its target"
    assert "and 0.02 of each idle pod" in needed(0.1, 10, 75, idle=0.02).why


def test_the_first_share_is_by_stable_and_one_that_is_not_measured_is_waited_for() -> None:
    stable, share = Supply(6, used=1.0, since=0.0, measured=True), Share(0, 50, SINCE)
    first = need(Supply(2, measured=True), stable, SCALER, share, 6, 0.0, late=False)
    assert first == Need(3, "by the stable version's 1 cores at 100 %, 20 % spare, 0.2 cores a pod by its target")
    later, old = Share(10, 50, SINCE), Supply(2, used=0.1, since=SINCE - 1, measured=True)
    assert need(old, stable, SCALER, later, 6, 0.0, late=False) is None
    assert need(old, stable, SCALER, later, 6, 0.0, late=True) == Need(
        3, "50 % of the 6 pods that the stable version has (its CPU is not known)"
    )
    assert need(Supply(2), stable, replace(SCALER, usable=None, why="no"), later, 5, 0.0, late=False) == Need(
        3, "50 % of the 5 pods that the stable version has (no)"
    )


def test_the_original_outlives_every_raise_until_somebody_else_sets_it() -> None:
    first = raised(None, SCALER, "v2", 5, 1.0, idle=0.1)
    assert first == replace(FLOOR, idle=0.1)
    assert (first.pending, first.ours) == (True, True)
    done = seen((first,), {"v2": Supply(5, (replace(SCALER, minimum=5),))})
    assert [(one.pending, one.ours) for one in done] == [(False, True)]
    assert seen((first,), {"v2": Supply(2, (SCALER,))}) == (first,)
    second = raised(done[0], replace(SCALER, minimum=5), "v2", 8, 2.0)
    assert (second.original, second.before, second.value, second.idle) == (2, 5, 8, 0.1)
    theirs = raised(second, replace(SCALER, minimum=3), "v2", 9, 3.0)
    assert (theirs.original, theirs.before, theirs.value) == (3, 3, 9)
    assert not raised(None, SCALER, "v2", 1, 1.0).ours


def test_a_floor_that_was_taken_away() -> None:
    there = replace(SCALER, minimum=3, manager="argocd-controller")
    assert "v2 is 3, this release had set it to 5; last written by argocd-controller" in lowered(
        FLOOR, Supply(3, (there,))
    )
    assert lowered(FLOOR, Supply(3, (replace(there, minimum=6),))) == ""
    assert lowered(FLOOR, Supply(3)).startswith("floor: HorizontalPodAutoscaler v2 is gone")
    assert lowered(replace(FLOOR, value=2), Supply(3)) == ""


@pytest.mark.parametrize(
    "change", [{"value": "5"}, {"value": True}, {"original": -1}, {"name": 3}, {"at": "now"}, {"x": 1}]
)
def test_what_nobody_but_an_editor_writes_is_refused(change: dict[str, Any]) -> None:
    data = {"version": "v2", "kind": AUTOSCALER, "name": "v2", "original": 2, "before": 2, "value": 5, "at": 1.0}
    assert restored([data]) == (FLOOR,)
    with pytest.raises(TypeError):
        restored([{**data, **change}])


def autoscaler(*metrics: dict[str, Any], **meta: Any) -> dict[str, Any]:
    target = {"kind": "Deployment", "name": "v2"}
    fields = [
        {"manager": "helm", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:minReplicas": {}}}},
        {"manager": "hpa", "time": "2026-02-01T00:00:00Z", "fieldsV1": {"f:status": {}}},
    ]
    spec = {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9, "metrics": list(metrics)}
    return {"metadata": {"name": "v2", "managedFields": fields, **meta}, "spec": spec}


def by_cpu(**target: Any) -> dict[str, Any]:
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def pod(name: str, ready: bool = True, request: str | None = "200m") -> dict[str, Any]:
    requests = {"requests": {"cpu": request}} if request else {}
    proxy = {"name": "istio-proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}}
    return {
        "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "app", "resources": requests}],
            "initContainers": [proxy, {"name": "once", "resources": {"requests": {"cpu": "3"}}}],
        },
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def usage(name: str, app: str, at: str = "2026-01-01T00:01:00Z") -> dict[str, Any]:
    containers = [{"name": "app", "usage": {"cpu": app}}, {"name": "istio-proxy", "usage": {"cpu": "10m"}}]
    return {"metadata": {"name": name}, "timestamp": at, "window": "1m0.5s", "containers": containers}


UTILIZATION = by_cpu(type="Utilization", averageUtilization=80)
ONE_CONTAINER = {
    "type": "ContainerResource",
    "containerResource": {"name": "cpu", "container": "app", "target": UTILIZATION["resource"]["target"]},
}


@pytest.mark.parametrize(
    ("metric", "usable"),
    [
        (UTILIZATION, 0.2),  # 80 % of 250m
        (ONE_CONTAINER, 0.16),
        (by_cpu(type="AverageValue", averageValue="300m"), 0.3),
    ],
)
def test_what_a_pod_may_take_by_the_target(metric: dict[str, Any], usable: float) -> None:
    found = scaler_of(autoscaler(metric), [pod("one"), pod("two")])
    assert found.usable == pytest.approx(usable)
    assert (found.minimum, found.maximum, found.manager, found.keeper) == (2, 9, "helm", "")


def test_where_it_is_not_known() -> None:
    assert "does not scale by CPU" in scaler_of(autoscaler(), [pod("one")]).why
    assert "requests CPU" in scaler_of(autoscaler(UTILIZATION), [pod("one"), pod("two", request=None)]).why


@pytest.mark.parametrize(
    "meta",
    [
        {"labels": {"scaledobject.keda.sh/name": "orders"}},
        {"ownerReferences": [{"kind": "ScaledObject", "name": "orders"}]},
    ],
)
def test_kedas_own_are_known(meta: dict[str, Any]) -> None:
    assert "KEDA's ScaledObject orders" in scaler_of(autoscaler(**meta), []).keeper


def test_cpu_of_the_ready_pods_and_since_when_it_was_measured() -> None:
    pods = [pod("one"), pod("two"), pod("three", ready=False)]
    metrics = [usage("one", "100m"), usage("two", "0.2", "2026-01-01T00:02:00Z")]
    found = supply_of(pods, [autoscaler(UTILIZATION)], None, metrics)
    assert (found.ready, found.measured) == (2, True)
    assert found.used == pytest.approx(0.32)
    assert found.since == pytest.approx(1767225599.5)  # half a second before the year began
    assert supply_of(pods, [autoscaler(ONE_CONTAINER)], None, metrics).used == pytest.approx(0.3)
    assert supply_of(pods, [autoscaler(UTILIZATION)], None, metrics[:1]).used is None
    assert not supply_of(pods, [autoscaler(UTILIZATION)], None, None).measured


def test_why_a_deployment_has_no_more_pods() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods=9"}
    assert failure_of({"status": {"conditions": [condition]}}) == "exceeded quota: pods=9"
    assert failure_of({"status": {"conditions": [{**condition, "status": "False"}]}}) == failure_of(None) == ""
