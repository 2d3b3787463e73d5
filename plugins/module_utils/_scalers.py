# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Autoscalers, scales, pods and PodMetrics as floors see them. Private, pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.progressive.istio.plugins.module_utils._capacity import cores, owners_of
from ansible_collections.progressive.istio.plugins.module_utils._floors import AUTOSCALER, Scaler, Supply
from ansible_collections.progressive.istio.plugins.module_utils._objects import is_ready, labels_of, seconds_of
from ansible_collections.progressive.istio.plugins.module_utils._routes import Object, field_manager

WORKLOADS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}
KEDA = "scaledobject.keda.sh/name"
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def targets_of(pods: Sequence[Object]) -> frozenset[tuple[str, str]]:
    """Kind and name of what may be scaled of these pods."""
    return frozenset(owner for pod in pods for owner in owners_of(pod))


def supply_of(
    pods: Sequence[Object],
    autoscalers: Sequence[Object],
    workload: Scaler | None,
    metrics: Sequence[Object] | None,
    obstacle: str = "",
) -> Supply:
    """What a version has. metrics: PodMetrics of its namespace, None where nobody measures."""
    scalers = tuple(scaler_of(one, pods) for one in autoscalers)
    ready = [pod for pod in pods if is_ready(pod)]
    used, since = _used(ready, metrics or (), _container(autoscalers[0]) if autoscalers else "")
    return Supply(len(ready), scalers, workload, used, since, metrics is not None, obstacle)


def scaler_of(autoscaler: Object, pods: Sequence[Object]) -> Scaler:
    """An autoscaling/v2 HorizontalPodAutoscaler, and what a pod of its version may take by its target."""
    meta, spec = autoscaler["metadata"], autoscaler["spec"]
    usable, why = _usable(autoscaler, pods)
    keda = labels_of(autoscaler).get(KEDA) or next(
        (owner["name"] for owner in meta.get("ownerReferences") or [] if owner["kind"] == "ScaledObject"), ""
    )
    keeper = f"KEDA's ScaledObject {keda}, by its minReplicaCount" if keda else ""
    manager = field_manager(autoscaler, "minReplicas")
    least = spec.get("minReplicas", 1)
    return Scaler(AUTOSCALER, meta["name"], least, spec["maxReplicas"], usable, why, keeper, manager, autoscaler)


def workload_of(kind: str, name: str, scale: Object) -> Scaler:
    """A workload without an autoscaler. scale: its autoscaling/v1 Scale."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    manager = field_manager(scale, "replicas")
    why = f"{kind} {name} has no autoscaler"
    return Scaler(kind, name, replicas, None, None, why, "", manager, scale)


def failure_of(deployment: Object | None) -> str:
    """Why a Deployment cannot make pods, such as a quota."""
    conditions = ((deployment or {}).get("status") or {}).get("conditions") or []
    failed = ("ReplicaFailure", "True")
    return next((str(c.get("message", "")) for c in conditions if (c["type"], c["status"]) == failed), "")


def _cpu(autoscaler: Object) -> tuple[str, Mapping[str, object]]:
    """Container ("" for all) and target of the metric that is CPU; no target where it has none."""
    for metric in autoscaler["spec"].get("metrics") or []:
        for key in ("resource", "containerResource"):
            if metric.get(key, {}).get("name") == "cpu":
                return str(metric[key].get("container", "")), metric[key]["target"]
    return "", {}


def _container(autoscaler: Object) -> str:
    return _cpu(autoscaler)[0]


def _usable(autoscaler: Object, pods: Sequence[Object]) -> tuple[float | None, str]:
    """Cores that a pod may take by the autoscaler's target; None and why where that is unknown."""
    container, target = _cpu(autoscaler)
    name = autoscaler["metadata"]["name"]
    if not target:
        return None, f"{AUTOSCALER} {name} does not scale by CPU"
    if target["type"] == "AverageValue":
        return cores(str(target["averageValue"])), ""
    requests = [_requested(pod, container) for pod in pods]
    known = [one for one in requests if one]
    if not known or len(known) < len(requests):
        return None, f"not every container of {name}'s pods requests CPU"
    return min(known) * float(str(target["averageUtilization"])) / 100, ""


def _requested(pod: Object, container: str) -> float:
    """Cores that a pod, or one of its containers, requests; 0 where one of them does not, as the autoscaler has it."""
    total = 0.0
    for one in _long_running(pod):
        if container and one["name"] != container:
            continue
        request = ((one.get("resources") or {}).get("requests") or {}).get("cpu")
        if not request:
            return 0.0
        total += cores(str(request))
    return total


def _long_running(pod: Object) -> Iterator[Object]:
    yield from pod["spec"]["containers"]
    yield from (one for one in pod["spec"].get("initContainers") or [] if one.get("restartPolicy") == "Always")


def _used(pods: Sequence[Object], metrics: Sequence[Object], container: str) -> tuple[float | None, float]:
    """Cores that these pods take together, and since when that was measured; None where it is not of every one."""
    known = {one["metadata"]["name"]: one for one in metrics}
    mine = [known.get(pod["metadata"]["name"]) for pod in pods]
    total, since = 0.0, float("inf")
    for one in mine:
        if one is None:
            return None, 0.0
        since = min(since, seconds_of(one["timestamp"]) - _duration(str(one["window"])))
        total += sum(cores(str(c["usage"].get("cpu", "0"))) for c in one["containers"] if container in ("", c["name"]))
    return (total, since) if mine else (None, 0.0)


def _duration(text: str) -> float:
    """Seconds of Go's way to write a duration: ``1m0.5s``."""
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)(h|ms|us|µs|ns|m|s)", text))
