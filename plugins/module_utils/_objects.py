# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What objects of the API say about a service: its versions, their pods, its record. Private to this collection.

Pure: objects of the API come in as plain dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.progressive.istio.plugins.module_utils import _record
from ansible_collections.progressive.istio.plugins.module_utils._plan import Workload
from ansible_collections.progressive.istio.plugins.module_utils._record import ANNOTATION, Record, Version
from ansible_collections.progressive.istio.plugins.module_utils._routes import Object

CONTAINER = "istio-proxy"


@dataclass(frozen=True, slots=True)
class Service:
    """The Service, and the labels of each subset of its DestinationRule. ``obj``: as the API server gave it."""

    host: str
    ports: tuple[int, ...]
    selector: Mapping[str, str]
    subsets: Mapping[str, Mapping[str, str]]
    obj: Object = field(default_factory=dict)


def labels_of(obj: Object) -> Mapping[str, str]:
    """Labels, none being none."""
    return obj["metadata"].get("labels") or {}


def proxy_kind(pod: Object) -> str:
    """``sidecar``, ``router`` (a gateway), ``waypoint``, ``ztunnel``; empty for a pod without a proxy of Istio's.

    A native sidecar is an init container.
    """
    spec = pod["spec"]
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        if container["name"] == CONTAINER:
            arguments: list[str] = container.get("args") or []
            return arguments[1] if arguments[:1] == ["proxy"] and len(arguments) > 1 else "sidecar"
    return ""


def record_of(obj: Object) -> Record | None:
    """The release on record, or None: also for a copy of a VirtualService, whose record speaks of another object."""
    text = (obj["metadata"].get("annotations") or {}).get(ANNOTATION)
    if not text:
        return None
    record = _record.loads(text)
    return record if record.uid == obj["metadata"]["uid"] else None


def stays(pod: Object) -> bool:
    """Whether a pod is there to stay: neither finished nor on its way out."""
    return not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") in ("Pending", "Running")


def pods_of(selector: Mapping[str, str], labels: Mapping[str, str], pods: Sequence[Object]) -> list[Object]:
    """The pods of a version: those that the Service's selector and the subset's labels both select."""
    wanted = {**selector, **labels}
    return [pod for pod in pods if stays(pod) and wanted.items() <= labels_of(pod).items()]


def workloads(service: Service, pods: Sequence[Object]) -> dict[str, Workload]:
    """The pods of each subset: how many, how many ready, and the template they come from (the newest, if several)."""
    found = {}
    for name, labels in service.subsets.items():
        mine = pods_of(service.selector, labels, pods)
        newest = sorted(mine, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        hashes = [_template_hash(pod) for pod in newest]
        ready = sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])
            for pod in mine
        )
        meshed = not mine or any(proxy_kind(pod) for pod in mine)
        found[name] = Workload(
            Version(name, hashes[-1] if hashes else ""), len(mine), ready, len(set(hashes)) > 1, meshed
        )
    return found


def _template_hash(pod: Object) -> str:
    labels = labels_of(pod)
    return str(labels.get("pod-template-hash") or labels.get("controller-revision-hash") or "")
