# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads autoscalers and the CPU that pods take. Both are optional: what cannot be read is said, once. Private."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._capacity import Capacity, capacity_of
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._objects import Service, pods_of

READ_SECONDS = 15.0  # autoscalers and metrics-server look no more often than that
AUTOSCALERS = ("autoscaling/v2", "horizontalpodautoscalers")
METRICS = ("metrics.k8s.io/v1beta1", "pods")


class CapacityReader:
    """Of the versions of one service; ``say`` is told once what cannot be read."""

    def __init__(self, cluster: Cluster, namespace: str, say: Callable[[str], None]) -> None:
        self._cluster, self._namespace, self._say = cluster, namespace, say
        self._last, self._read_at = Capacity(), float("-inf")

    def read(self, service: Service, pods: Sequence[Mapping[str, Any]]) -> Capacity:
        """What is known now, or was 15 s ago. Does not raise."""
        if time.monotonic() - self._read_at < READ_SECONDS:
            return self._last
        self._read_at, known = time.monotonic(), self._last.unknown
        unknown: list[str] = []
        scalers = self._list(AUTOSCALERS, "autoscalers", unknown)
        metrics = self._list(METRICS, "the CPU that pods take", unknown)
        mine = {name: pods_of(service.selector, labels, pods) for name, labels in service.subsets.items()}
        self._last = Capacity(capacity_of(mine, scalers, metrics), tuple(unknown))
        for text in unknown:
            if text.partition(":")[0] not in {one.partition(":")[0] for one in known}:
                self._say(f"not looked at: {text}")
        return self._last

    def _list(self, where: tuple[str, str], what: str, unknown: list[str]) -> Sequence[Mapping[str, Any]]:
        try:
            return self._cluster.select(where[0], self._namespace, where[1])
        except (ApiError, NoAnswer) as error:
            unknown.append(f"{what}: {error}")
            return ()
