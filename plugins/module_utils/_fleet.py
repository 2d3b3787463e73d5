# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All releases of a namespace or of a cluster, by their Leases. Reads only. Private to this collection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster
from ansible_collections.progressive.istio.plugins.module_utils._find import (
    find_route_object,
    find_service,
    reading,
)
from ansible_collections.progressive.istio.plugins.module_utils._lease import Holding, leases
from ansible_collections.progressive.istio.plugins.module_utils._objects import record_of
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError


def releases(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Where each of them stands, sorted; ``namespace`` is empty for all. Raises ReleaseError and Unreachable."""
    with reading():
        found = leases(cluster, namespace)
    return [_standing(cluster, *one) for one in sorted(found, key=lambda one: one[:2])]


def _standing(cluster: Cluster, namespace: str, name: str, lease: Holding) -> dict[str, Any]:
    options: Mapping[str, Any] = lease.options.get("options") or {}
    kind = options.get("route_kind") or "VirtualService"
    head = {
        "namespace": namespace,
        "name": name,
        "lease": {"holder": lease.holder, "age": round(lease.age, 1), "late": lease.late},
    }
    try:
        with reading():
            host = find_service(cluster, namespace, name, kind).host
            record = record_of(find_route_object(cluster, kind, namespace, host, options.get("route_object") or ""))
    except ReleaseError as error:
        return {**head, "phase": "unknown", "reason": str(error)}
    if record is None:
        return {**head, "phase": "none", "reason": ""}
    return {
        **head,
        "phase": record.phase,
        "reason": record.reason,
        "stable": record.stable.name,
        "canary": record.canary.name,
        "weight": record.weight,
        "step": record.step + 1,
        "steps": len(record.steps),
    }
