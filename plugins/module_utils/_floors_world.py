# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and sets the floors of a service's versions: autoscalers, or workloads without one. Private.

Without the rights for it nothing is kept, and that is said once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._capacity import target_of
from ansible_collections.progressive.istio.plugins.module_utils._capacity_world import AUTOSCALERS, METRICS
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._find import reading, writing
from ansible_collections.progressive.istio.plugins.module_utils._floors import AUTOSCALER, Floor, Scaler, Supply
from ansible_collections.progressive.istio.plugins.module_utils._objects import Service, pods_of
from ansible_collections.progressive.istio.plugins.module_utils._objects import workloads as workloads_of
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._routes import Object
from ansible_collections.progressive.istio.plugins.module_utils._scalers import (
    WORKLOADS,
    failure_of,
    scaler_of,
    supply_of,
    targets_of,
    workload_of,
)

LIST_SECONDS = 15.0  # between looks for autoscalers that were not there before; those that are known are read each time
METRICS_SECONDS = 5.0


class FloorReader:
    """Of the versions of one service. ``now``: its Service, and the pods of all versions."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        say: Callable[[str], None],
        now: Callable[[], tuple[Service, Sequence[Object]]],
    ) -> None:
        self._cluster, self._namespace, self._say, self._now = cluster, namespace, say, now
        self._names: Sequence[str] = ()
        self._listed = self._measured = float("-inf")
        self._metrics: Sequence[Object] | None = None
        self._refused = ""
        self._may: dict[tuple[str, str], bool] = {}

    def read(self, versions: Sequence[str], workloads: bool) -> Mapping[str, Supply]:
        """Autoscalers as they are this moment; empty where this account may not read or set them."""
        service, pods = self._now()
        mine = {name: pods_of(service.selector, service.subsets.get(name, {}), pods) for name in versions}
        with reading():
            autoscalers = self._autoscalers()
            if self._refused:
                return {}
            found = {}
            for version, own in mine.items():
                targets = targets_of(own)
                scalers = [obj for obj in autoscalers if target_of(obj) in targets]
                if scalers and not self._allowed("autoscaling", AUTOSCALERS[1]):
                    self._refuse(f"this account may not patch {AUTOSCALERS[1]}.autoscaling in {self._namespace}")
                    return {}
                workload = self._workload(targets) if workloads and not scalers else None
                # Stable's numbers matter where the canary has an autoscaler and it has none, too.
                metrics = self._usage() if autoscalers else None
                obstacle = ""
                if scalers or workload:
                    obstacle = "; ".join(filter(None, (self._failure(targets), *_obstacles(service, own, version))))
                found[version] = supply_of(own, scalers, workload, metrics, obstacle)
        return found

    def _autoscalers(self) -> Sequence[Object]:
        try:
            if time.monotonic() - self._listed >= LIST_SECONDS:
                listed = self._cluster.select(AUTOSCALERS[0], self._namespace, AUTOSCALERS[1])
                self._names, self._listed = [obj["metadata"]["name"] for obj in listed], time.monotonic()
            # The list may be from a cache that does not know of our own last write yet.
            found = (self._cluster.get(AUTOSCALERS[0], self._namespace, AUTOSCALERS[1], name) for name in self._names)
            return [obj for obj in found if obj]
        except ApiError as error:
            if error.status != 403:
                raise
            self._refuse(str(error))
            return ()

    def _refuse(self, why: str) -> None:
        if not self._refused:
            self._say(f"floors are left as they are, autoscalers may shrink or grow late: {why}")
        self._refused = why

    def _allowed(self, group: str, plural: str) -> bool:
        if (group, plural) not in self._may:
            self._may[group, plural] = self._cluster.may("patch", group, plural, self._namespace)
        return self._may[group, plural]

    def _usage(self) -> Sequence[Object] | None:
        """None where nobody measures."""
        if time.monotonic() - self._measured >= METRICS_SECONDS:
            try:
                self._metrics = self._cluster.select(METRICS[0], self._namespace, METRICS[1])
            except (ApiError, NoAnswer):
                self._metrics = None
            self._measured = time.monotonic()
        return self._metrics

    def _workload(self, targets: frozenset[tuple[str, str]]) -> Scaler | None:
        """A workload of its own kind that nobody scales; None where it is of another, or may not be scaled by us."""
        for kind, name in sorted(targets):
            plural = WORKLOADS.get(kind)
            if plural and self._allowed("apps", f"{plural}/scale"):
                try:
                    scale = self._cluster.get("apps/v1", self._namespace, plural, f"{name}/scale")
                except ApiError:
                    return None
                return workload_of(kind, name, scale) if scale else None
        return None

    def _failure(self, targets: frozenset[tuple[str, str]]) -> str:
        """Why a Deployment cannot make pods (a quota), where this account may read that."""
        for kind, name in sorted(targets):
            if kind == "Deployment":
                try:
                    return failure_of(self._cluster.get("apps/v1", self._namespace, "deployments", name))
                except ApiError:
                    return ""
        return ""

    def find(self, floor: Floor) -> Scaler | None:
        mine = floor.kind == AUTOSCALER
        api, plural, name = (
            (*AUTOSCALERS, floor.name) if mine else ("apps/v1", WORKLOADS[floor.kind], f"{floor.name}/scale")
        )
        with reading():
            try:
                obj = self._cluster.get(api, self._namespace, plural, name)
            except ApiError as error:
                raise ReleaseError(str(error)) from None
        if obj is None:
            return None
        return scaler_of(obj, ()) if mine else workload_of(floor.kind, floor.name, obj)

    def set(self, scaler: Scaler, value: int) -> None:
        obj: Any = scaler.token
        mine = scaler.kind == AUTOSCALER
        api, plural = AUTOSCALERS if mine else ("apps/v1", WORKLOADS[scaler.kind])
        name = scaler.name if mine else f"{scaler.name}/scale"
        path = "/spec/minReplicas" if mine else "/spec/replicas"
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": obj["metadata"]["resourceVersion"]},
            {"op": "add", "path": path, "value": value},
        ]
        target = {"metadata": {"namespace": self._namespace, "name": name}}
        with writing(409):
            self._cluster.patch_json(api, target, plural, patch)


def _obstacles(service: Service, pods: Sequence[Object], version: str) -> Sequence[str]:
    """What keeps pods of a version from running."""
    return workloads_of(service, pods)[version].obstacles[:3]
