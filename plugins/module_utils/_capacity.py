# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a version has what it needs: autoscalers at their maximum, containers at their CPU limit. Private, pure.

A canary that is short of something serves its share well for now, and may not serve the next one. So it does not pass
while it is short and stable is not. It does not fail for it either: no user has been hurt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._verdict import Verdict, percent

Object = Mapping[str, Any]
AT_LIMIT = 0.95  # of a container's CPU limit, on average over metrics-server's window: the kernel throttles it then
SHOWN = 3
_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6}


@dataclass(frozen=True, slots=True)
class Capacity:
    """What each version is short of, in words. ``unknown``: what nobody could tell, and why."""

    short: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def held_back(verdict: Verdict, capacity: Capacity, canary: str, stable: str) -> Verdict:
    """The verdict, but no `pass` for a canary that is short of something when stable is not."""
    lacks = capacity.short.get(canary, ())
    if verdict.kind != "pass" or not lacks or capacity.short.get(stable):
        return verdict
    reason = f"{canary} is short of capacity: {'; '.join(lacks[:SHOWN])}"
    return replace(verdict, kind="wait", reason=reason, decided_by="capacity")


def capacity_of(
    pods: Mapping[str, Sequence[Object]], autoscalers: Iterable[Object], metrics: Iterable[Object]
) -> Mapping[str, tuple[str, ...]]:
    """What each version is short of.

    pods: of each version. autoscalers: HorizontalPodAutoscalers of their namespace (autoscaling/v2), metrics: its
    PodMetrics (metrics.k8s.io/v1beta1).
    """
    scalers, used = list(autoscalers), {one["metadata"]["name"]: one for one in metrics}
    found: dict[str, tuple[str, ...]] = {}
    for version, mine in pods.items():
        owners = {owner for pod in mine for owner in owners_of(pod)}
        maxed = [text for scaler in scalers if target_of(scaler) in owners for text in _at_maximum(scaler)]
        found[version] = (*maxed, *_at_limit(mine, used))
    return found


def owners_of(pod: Object) -> Iterable[tuple[str, str]]:
    """Kind and name of what a pod belongs to; of a ReplicaSet also its Deployment, by name."""
    digest = (pod["metadata"].get("labels") or {}).get("pod-template-hash", "")
    for owner in pod["metadata"].get("ownerReferences") or []:
        yield owner["kind"], owner["name"]
        if owner["kind"] == "ReplicaSet" and digest and owner["name"].endswith(f"-{digest}"):
            name = owner["name"].removesuffix(f"-{digest}")
            yield from (("Deployment", name), ("Rollout", name))


def target_of(scaler: Object) -> tuple[str, str]:
    target = scaler["spec"]["scaleTargetRef"]
    return target["kind"], target["name"]


def _at_maximum(scaler: Object) -> Iterable[str]:
    """Its own word: it wants more replicas than it may have."""
    for condition in (scaler.get("status") or {}).get("conditions") or []:
        if (condition["type"], condition["status"], condition.get("reason")) == (
            "ScalingLimited",
            "True",
            "TooManyReplicas",
        ):
            name, most = scaler["metadata"]["name"], scaler["spec"]["maxReplicas"]
            yield f"HorizontalPodAutoscaler {name} wants more than its maximum of {most}"


def _at_limit(pods: Sequence[Object], used: Mapping[str, Object]) -> Iterable[str]:
    """Containers that take all the CPU they may have, on average over the pods of a version."""
    limits: dict[str, float] = {}
    usage: dict[str, float] = {}
    for pod in pods:
        taken = {one["name"]: one["usage"].get("cpu", "0") for one in _containers(used.get(pod["metadata"]["name"]))}
        for container in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]:
            name, limit = container["name"], ((container.get("resources") or {}).get("limits") or {}).get("cpu")
            if limit and name in taken:
                limits[name] = limits.get(name, 0.0) + cores(str(limit))
                usage[name] = usage.get(name, 0.0) + cores(str(taken[name]))
    for name, limit in limits.items():
        if limit > 0 and usage[name] >= AT_LIMIT * limit:
            yield f"container {name} takes {percent(usage[name] / limit)} of its CPU limit"


def _containers(metrics: Object | None) -> Sequence[Object]:
    found: Sequence[Object] = metrics["containers"] if metrics else ()
    return found


def cores(quantity: str) -> float:
    """A Kubernetes quantity of CPU in cores: ``250m`` is 0.25. ValueError for what is none."""
    number = quantity.rstrip("numkM")
    return float(number) * _SUFFIXES[quantity[len(number) :]]
