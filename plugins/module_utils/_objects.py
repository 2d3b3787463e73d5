# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of the API as plain dictionaries: a service, its versions and their pods, and what is around it. Private.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ansible_collections.progressive.istio.plugins.module_utils import _record
from ansible_collections.progressive.istio.plugins.module_utils._plan import Crash, Workload
from ansible_collections.progressive.istio.plugins.module_utils._record import ANNOTATION, Record, Version
from ansible_collections.progressive.istio.plugins.module_utils._routes import Object, full_host

CONTAINER = "istio-proxy"
CANONICAL_REVISION = "service.istio.io/canonical-revision"
CANNOT_START = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}
MOST_WORDS = 160  # characters of a message that is not ours
NAMED = 3  # of many pods or namespaces, so many are named in a message


@dataclass(frozen=True, slots=True)
class Service:
    """The Service, and the labels of each of its versions. ``obj``: as the API server gave it.

    By ``kind`` of the route object the versions are subsets of a DestinationRule, or Services for some of the pods.
    """

    host: str
    ports: tuple[int, ...]
    selector: Mapping[str, str]
    subsets: Mapping[str, Mapping[str, str]]
    obj: Object = field(default_factory=dict)
    kind: str = "VirtualService"

    @property
    def backends(self) -> dict[str, str]:
        """By version, what its clusters are called in a proxy: ``subset|full host``."""
        if self.kind == "VirtualService":
            return {name: f"{name}|{self.host}" for name in self.subsets}
        return {name: f"|{full_host(name, namespace_of(self.obj))}" for name in self.subsets}

    @property
    def aliases(self) -> dict[str, str]:
        """What the versions of an HTTPRoute may be called as well: the value of the one label that sets their pods
        apart, where no two have the same.
        """
        extra = {name: labels.items() - self.selector.items() for name, labels in self.subsets.items()}
        called = [(next(iter(labels))[1], name) for name, labels in extra.items() if len(labels) == 1]
        values = [value for value, _name in called]
        there = {} if self.kind == "VirtualService" else self.subsets
        return {value: name for value, name in called if there and value not in there and values.count(value) == 1}


def versions_by_service(service: Object, others: Sequence[Object]) -> dict[str, Mapping[str, str]]:
    """The selectors of the Services that select some of this Service's pods, by name: the versions of an HTTPRoute."""
    mine = (service["spec"].get("selector") or {}).items()
    selectors = {one["metadata"]["name"]: one["spec"].get("selector") or {} for one in others}
    return {name: selector for name, selector in selectors.items() if mine and mine < selector.items()}


def labels_of(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("annotations") or {}


def namespace_of(obj: Object) -> str:
    return str(obj["metadata"].get("namespace", ""))


def key_of(obj: Object) -> str:
    """``namespace/name``."""
    return f"{namespace_of(obj)}/{obj['metadata']['name']}"


def some(names: Iterable[str]) -> str:
    """A few of many names."""
    found = sorted(names)
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")


def places(namespaces: Iterable[str]) -> str:
    """``namespace a``, or ``namespaces a, b``."""
    found = set(namespaces)
    return f"namespace{'s' if len(found) > 1 else ''} {some(found)}"


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
    text = annotations_of(obj).get(ANNOTATION)
    if not text:
        return None
    record = _record.loads(text)
    return record if record.uid == obj["metadata"]["uid"] else None


def stays(pod: Object) -> bool:
    """Whether a pod is there to stay: neither finished nor on its way out."""
    return not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") in ("Pending", "Running")


def is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


def pods_of(selector: Mapping[str, str], labels: Mapping[str, str], pods: Sequence[Object]) -> list[Object]:
    """The pods of a version: those that the Service's selector and the subset's labels both select."""
    return [pod for pod in pods if stays(pod) and _has(pod, selector, labels)]


def _has(pod: Object, selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return {**selector, **labels}.items() <= labels_of(pod).items()


@dataclass(frozen=True, slots=True)
class VersionPod:
    """A pod: which versions it belongs to (one, unless selectors overlap), and its ports that the Service leads to."""

    versions: tuple[str, ...]
    ports: frozenset[int]


def pod_names(pods: Sequence[Object], known: Mapping[str, VersionPod]) -> dict[str, str]:
    """Names of the pods of all versions by ``address:port``."""
    return {
        f"{(pod.get('status') or {}).get('podIP', '')}:{port}": str(pod["metadata"]["name"])
        for pod in pods
        if pod["metadata"]["uid"] in known
        for port in known[pod["metadata"]["uid"]].ports
    }


def version_pods(service: Service, pods: Sequence[Object]) -> dict[str, VersionPod]:
    """The pods of all versions by UID."""
    mine = {
        name: {pod["metadata"]["uid"] for pod in pods_of(service.selector, labels, pods)}
        for name, labels in service.subsets.items()
    }
    found = {}
    for pod in pods:
        uid = pod["metadata"]["uid"]
        if versions := tuple(name for name, uids in mine.items() if uid in uids):
            found[uid] = VersionPod(versions, _target_ports(service.obj, pod))
    return found


def revisions(service: Service, pods: Sequence[Object]) -> dict[str, str]:
    """Version by canonical revision (a label that Istio puts on every pod), where no two versions share it."""
    found: dict[str, set[str]] = {}
    for name, labels in service.subsets.items():
        for pod in pods_of(service.selector, labels, pods):
            found.setdefault(str((pod["metadata"].get("labels") or {}).get(CANONICAL_REVISION, "")), set()).add(name)
    return {revision: names.pop() for revision, names in found.items() if revision and len(names) == 1}


def _target_ports(service: Object, pod: Object) -> frozenset[int]:
    """A name means what the pod calls so."""
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
    named = {p["name"]: p["containerPort"] for c in containers for p in c.get("ports") or [] if "name" in p}
    wanted = [port.get("targetPort", port["port"]) for port in service["spec"].get("ports") or []]
    return frozenset(named.get(port, 0) if isinstance(port, str) else port for port in wanted) - {0}


def workloads(service: Service, pods: Sequence[Object]) -> dict[str, Workload]:
    """The pods of each subset: how many, how many ready, and the template they come from (the newest, if several)."""
    found = {}
    for name, labels in service.subsets.items():
        mine = pods_of(service.selector, labels, pods)
        newest = sorted(mine, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        hashes = [_template_hash(pod) for pod in newest]
        ready = sum(map(is_ready, mine))
        meshed = not mine or any(proxy_kind(pod) for pod in mine)
        version = Version(name, hashes[-1] if hashes else "")
        crashes = tuple(crash for pod in mine for crash in _crashes(pod))
        obstacles = tuple(filter(None, map(_obstacle, mine)))
        taken = tuple(one for pod in pods if _has(pod, service.selector, labels) for one in _taken(pod))
        found[name] = Workload(version, len(mine), ready, len(set(hashes)) > 1, meshed, crashes, obstacles, taken)
    return found


def _taken(pod: Object) -> Iterator[Crash]:
    """Whether the cluster takes it away; an app that has ended by itself has no such condition."""
    for condition in pod["status"].get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            text = f"{pod['metadata']['name']} {condition.get('reason') or 'disrupted'}"
            yield Crash(seconds_of(condition["lastTransitionTime"]), text)


def _obstacle(pod: Object) -> str:
    """What the cluster cannot do for a pod: find a node for it, pull an image, make a container. Empty if nothing."""
    name, status = pod["metadata"]["name"], pod["status"]
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"{name} Unschedulable, {_first_line(condition.get('message'))}"
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in CANNOT_START:
                return f"{name} {waiting['reason']} {container.get('image', '')}"
    return ""


def _first_line(text: str | None) -> str:
    line = (text or "no reason given").partition("\n")[0].partition(". ")[0].rstrip(".")
    return line if len(line) <= MOST_WORDS else f"{line[:MOST_WORDS]}..."


def _crashes(pod: Object) -> Iterator[Crash]:
    """By its containers but the proxy. An eviction, a drained node or a missing image is none of them.

    Two ends in a row are a loop as well: kubelet may say ``CrashLoopBackOff`` only after half a minute.
    """
    for status in pod["status"].get("containerStatuses") or []:
        state, before = status.get("state") or {}, (status.get("lastState") or {}).get("terminated") or {}
        now = state.get("terminated") or {}
        looping = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff" or now.get("exitCode")
        killed = next((end for end in (now, before) if end.get("reason") == "OOMKilled"), None)
        ended = killed or (before if looping and before.get("exitCode") else {})
        if status["name"] != CONTAINER and ended.get("finishedAt"):
            why = "OOMKilled" if killed else f"exit code {ended['exitCode']} again and again"
            text = f"{pod['metadata']['name']} {why} ({status['name']}, {status.get('restartCount', 0)} restarts)"
            yield Crash(seconds_of(ended["finishedAt"]), text)


def seconds_of(timestamp: str) -> float:
    """A time of the API, in seconds since the epoch."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def _template_hash(pod: Object) -> str:
    labels = labels_of(pod)
    return str(labels.get("pod-template-hash") or labels.get("controller-revision-hash") or "")


@dataclass(frozen=True, slots=True)
class View:
    """A service and what is around it, for preflight.

    ``versions``: the subsets that are to have traffic. ``clients``: namespaces whose proxies have sent requests to the
    service. ``unseen``: what the account may not list, by plural, in words.
    """

    service: Service
    route: Object
    versions: tuple[str, ...]
    clients: frozenset[str] = frozenset()
    namespaces: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    virtual_services: Sequence[Object] = ()
    destination_rules: Sequence[Object] = ()
    canaries: Sequence[Object] = ()
    rollouts: Sequence[Object] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()  # route objects that the release moves as well, ``namespace/name``

    @property
    def home(self) -> str:
        """Namespace of the service."""
        return namespace_of(self.service.obj)

    @property
    def name(self) -> str:
        """The service, in messages."""
        return f"Service {key_of(self.service.obj)}"

    def is_ours(self, virtual_service: Object) -> bool:
        """Whether it is the route object; in a list it may be older than as it was read."""
        return key_of(virtual_service) == key_of(self.route)

    def proxies(self, kind: str) -> dict[str, list[Object]]:
        """Pods with a proxy of that kind, by namespace."""
        found: dict[str, list[Object]] = {}
        for pod in self.pods:
            if stays(pod) and proxy_kind(pod) == kind:
                found.setdefault(namespace_of(pod), []).append(pod)
        return dict(sorted(found.items()))

    def selected(self, labels: Mapping[str, str]) -> list[Object]:
        """Pods of the service that have a subset's labels."""
        here = [pod for pod in self.pods if namespace_of(pod) == self.home]
        return pods_of(self.service.selector, labels, here)

    def version_pods(self) -> dict[str, list[Object]]:
        """The pods of each version."""
        return {name: self.selected(self.service.subsets.get(name, {})) for name in self.versions}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for a person. ``refuse``: weights would not do what they say, so a release should not begin."""

    refuse: bool
    text: str


def refusal(text: str) -> Finding:
    return Finding(refuse=True, text=text)


def warning(text: str) -> Finding:
    return Finding(refuse=False, text=text)
