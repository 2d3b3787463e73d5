# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh that is not there: objects of an API server, and what the Envoys and the istiod of any number of pods answer.

No network in here, and no clock: every question comes with the time. The bodies are recorded ones (``fixtures``) with
names, weights, counters and times put in, so that reading them costs what it costs. A proxy runs new weights after a
delay that is drawn from measured ones; a change of one VirtualService reaches the proxies in one of the measured ways.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

Json: TypeAlias = "dict[str, Any]"
FIXTURES = Path(__file__).resolve().parent / "fixtures"
NAMESPACE = "namespace-1"
ISTIO = "networking.istio.io/v1"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
VERSIONS = ("v1", "v2")
ON_ITS_WAY = 0.005  # seconds from an istiod's sending to the proxy's acknowledgement: an assumption
STAMP = "@last_updated@"
RECORDED = ("client-7c999bcbf7-nzz7z", "916a8127-402b-4074-aebb-eb1bbc7f20c9", "10.244.0.9")  # name, UID, address


class Refused(Exception):
    """The API server says no: HTTP status and message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Size:
    """``services`` with a pod for each of two versions, ``proxies`` in all, ``callers`` of each service.

    ``neighbours``: services besides on the same port, whose routes stand in every proxy's configuration.
    ``rate``: requests a second that each caller sends to each service that it calls.
    """

    proxies: int
    services: int = 1
    callers: int = 1
    neighbours: int = 0
    rate: float = 50.0

    def check(self) -> None:
        """Raises ValueError for what cannot be."""
        if self.proxies < 2 * self.services + (self.services == 1):
            raise ValueError(f"{self.services} services need more than {self.proxies} pods: two each, and a client")


def stamp(at: float) -> str:
    """As Envoy writes times: to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text_of(name: str) -> str:
    return (FIXTURES / name).read_text("utf-8")


# ---------------------------------------------------------------- objects


def pod_of(number: int, app: str, version: str) -> Json:
    """The recorded pod under another name."""
    name = f"{app}-{version or 'pod'}-7c999bcbf7-{number:05d}"
    text = text_of("pod.json").replace(RECORDED[0], name).replace(RECORDED[1], uid_of(number))
    pod: Json = json.loads(text.replace(RECORDED[2], address_of(number)))
    pod["metadata"]["labels"] |= {"app": app, "service.istio.io/canonical-name": app}
    if version:
        pod["metadata"]["labels"] |= {"version": version, "pod-template-hash": f"hash-{version}"}
        pod["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    return pod


def uid_of(number: int) -> str:
    """UIDs in no order of the numbers, as real ones are."""
    return f"{(number * 2654435761) % 2**32:08x}-402b-4074-aebb-eb1bbc7f20c9"


def address_of(number: int) -> str:
    return f"10.244.{number // 250}.{number % 250 + 1}"


def host_of(service: str) -> str:
    return f"{service}.{NAMESPACE}.svc.cluster.local"


def objects_of(service: str) -> Iterator[tuple[str, Json]]:
    """(path of the collection, object) of all that a service has but its pods."""
    host = host_of(service)
    meta = {
        "name": service,
        "namespace": NAMESPACE,
        "uid": f"uid-{service}",
        "resourceVersion": "1",
        "creationTimestamp": "2026-11-23T23:26:21Z",
        "labels": {"app": service},
    }
    port = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}
    spec: Json = {"ports": [port], "selector": {"app": service}}
    yield f"/api/v1/namespaces/{NAMESPACE}/services", {"metadata": meta, "spec": spec}
    networking = f"/apis/{ISTIO}/namespaces/{NAMESPACE}"
    subsets = [{"name": version, "labels": {"version": version}} for version in VERSIONS]
    yield f"{networking}/destinationrules", {"metadata": meta, "spec": {"host": host, "subsets": subsets}}
    weights = zip(VERSIONS, (100, 0), strict=True)
    route = [{"destination": {"host": host, "subset": version}, "weight": weight} for version, weight in weights]
    spec = {"hosts": [host], "http": [{"name": service, "route": route}]}
    kind = {"apiVersion": ISTIO, "kind": "VirtualService"}
    yield f"{networking}/virtualservices", {**kind, "metadata": meta, "spec": spec}


def selected(obj: Json, selector: str) -> bool:
    """``key``, ``key=value``, and several of them with commas."""
    labels = obj["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        key, equals, value = part.partition("=")
        if labels.get(key) != value if equals else key not in labels:
            return False
    return True


def patched(obj: Json, patch: Sequence[Mapping[str, Any]]) -> Json:
    """JSON Patch: test, add and replace. Raises Refused with 422 where a test fails, as an API server does."""
    done = copy.deepcopy(obj)
    for operation in patch:
        *path, last = [unquote(p).replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        there: Any = done
        try:
            for step in path:
                there = there[int(step)] if isinstance(there, list) else there[step]
            if isinstance(there, list) and last == "-":
                there.append(operation["value"])
                continue
            key: Any = int(last) if isinstance(there, list) else last
            if operation["op"] == "test":
                if there[key] != operation["value"]:
                    raise Refused(422, f"test of {operation['path']} failed: it is {there[key]!r}")
            elif operation["op"] == "add" and isinstance(there, list):
                there.insert(key, operation["value"])
            else:
                there[key] = operation["value"]
        except (KeyError, IndexError, ValueError) as error:
            raise Refused(422, f"{operation['op']} {operation['path']}: nothing is there ({error})") from None
    return done


# ---------------------------------------------------------------- proxies


@dataclass(slots=True)
class Change:
    """Weights of a service, by version, and when each proxy takes them (by its number; seconds since the epoch)."""

    weights: Mapping[str, int]
    at: Sequence[float]


@dataclass
class Service:
    """A service with its changes, and who calls it."""

    name: str
    callers: Sequence[int]
    changes: list[Change] = field(default_factory=list)
    counted: dict[int, tuple[float, dict[str, float]]] = field(default_factory=dict)  # by caller: until when, how much
    hosts: list[str] = field(default_factory=list)  # by change, the virtual host as text

    def running(self, proxy: int, now: float) -> int:
        """Which change a proxy runs. They are few on their way at any time, and the last one mostly has arrived."""
        for number in range(len(self.changes) - 1, 0, -1):
            if self.changes[number].at[proxy] <= now:
                return number
        return 0


class Mesh:
    """Everything at once. ``delays``: for each measured change, the seconds after which its proxies ran it."""

    def __init__(self, size: Size, delays: Sequence[Sequence[float]], seed: int, now: float) -> None:
        size.check()
        self.size, self._delays, self._random, self._began = size, delays, random.Random(seed), now
        self.objects: dict[str, dict[str, Json]] = {}
        self._version, self._lists = 1, dict[tuple[str, str], tuple[int, bytes]]()
        self._writes: dict[str, int] = {}  # by collection, the version of its last write
        self.pods: list[Json] = []
        self.services: dict[str, Service] = {}
        self._inbound: dict[int, tuple[str, str]] = {}  # by proxy of a version's pod: (service, version)
        names = ["app-1"] if size.services == 1 else [f"app-{n + 1}" for n in range(size.services)]
        for name in names:
            for collection, obj in objects_of(name):
                self._put(collection, obj)
            for version in VERSIONS:
                self._inbound[len(self.pods)] = (name, version)
                self.pods.append(pod_of(len(self.pods), name, version))
        while len(self.pods) < size.proxies:
            self.pods.append(pod_of(len(self.pods), "client", ""))
        self.names = {pod["metadata"]["name"]: number for number, pod in enumerate(self.pods)}
        for pod in self.pods:
            self._put(f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
        istiod = copy.deepcopy(self.pods[0])
        istiod["metadata"] |= {"name": "istiod-1", "namespace": "istio-system", "labels": {"app": "istiod"}}
        self._put("/api/v1/namespaces/istio-system/pods", istiod)
        labels = {"istio-injection": "enabled"}
        self._put("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels, "resourceVersion": "1"}})
        first = 2 * size.services
        for place, name in enumerate(names):
            pool = range(first, size.proxies) if size.services == 1 else [*range(first)]
            turn = 0 if size.services == 1 else 2 * place + 2  # pods of the next services call this one
            callers = [pool[(turn + n) % len(pool)] for n in range(min(size.callers, len(pool)))]
            self.services[name] = Service(name, callers)
            self._push(name, now, first=True)
        self._before, self._after = self._frame()
        self._dumps: dict[tuple[int, ...], tuple[bytes, bytes]] = {}
        self._clusters = self._counters("clusters.json")
        self._come_in = self._counters("inbound.json")
        self._entry = json.dumps(json.loads(text_of("syncz.json"))[0], separators=(",", ":"))

    # ------------------------------------------------------------ the API server

    def _put(self, collection: str, obj: Json) -> Json:
        self._version += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self.objects.setdefault(collection, {})[obj["metadata"]["name"]] = obj
        self._writes[collection.rpartition("/")[2]] = self._version
        return obj

    def list(self, path: str, selector: str) -> bytes:
        """The answer to a list, made anew only after a write: a real API server has it in memory, too."""
        root, _slash, plural = path.rpartition("/")
        found = self._lists.get((path, selector))
        if found and found[0] == self._writes.get(plural, 0):
            return found[1]
        every = path in self.objects or "/namespaces/" in path
        places = [path] if every else [c for c in self.objects if c.startswith(f"{root}/") and c.endswith(f"/{plural}")]
        items = [obj for place in places for obj in self.objects.get(place, {}).values() if selected(obj, selector)]
        body = json.dumps({"kind": "List", "items": items}, separators=(",", ":")).encode()
        self._lists[path, selector] = (self._writes.get(plural, 0), body)
        return body

    def get(self, path: str) -> Json | None:
        collection, _slash, name = path.rpartition("/")
        return self.objects.get(collection, {}).get(name)

    def write(self, method: str, path: str, body: Any, now: float) -> Json:
        """POST, PUT and PATCH. Raises Refused."""
        if method == "POST":
            return self._put(path, body)
        collection, _slash, name = path.rpartition("/")
        there = self.objects.get(collection, {}).get(name)
        if there is None:
            raise Refused(404, f"{collection.rpartition('/')[2]} {name!r} not found")
        new = patched(there, body) if method == "PATCH" else body
        wanted = new["metadata"].get("resourceVersion")
        if wanted and wanted != there["metadata"]["resourceVersion"]:
            raise Refused(409, "the object has been modified; please apply your changes to the latest version")
        if new == there:
            return there
        done = self._put(collection, new)
        if collection.endswith("/virtualservices"):
            self._push(name, now)
        return done

    # ------------------------------------------------------------ changes

    def _push(self, name: str, now: float, *, first: bool = False) -> None:
        """What the proxies are to run from now on; nothing where only the record has changed."""
        obj = self.objects[f"/apis/{ISTIO}/namespaces/{NAMESPACE}/virtualservices"][name]
        route = obj["spec"]["http"][0]["route"]
        weights = {entry["destination"]["subset"]: entry.get("weight", 0) for entry in route}
        service = self.services[name]
        if service.changes and service.changes[-1].weights == weights:
            return
        way = (0.0,) if first else self._random.choice(self._delays)
        drawn = [now + self._random.choice(way) for _proxy in range(self.size.proxies)]
        before = service.changes[-1].at if service.changes else drawn
        service.changes.append(Change(weights, [max(pair) for pair in zip(drawn, before, strict=True)]))
        service.hosts.append(virtual_host(name, weights))

    def arrivals(self, name: str) -> Sequence[float]:
        """When each proxy takes, or took, the last change of a service."""
        return self.services[name].changes[-1].at

    # ------------------------------------------------------------ Envoy

    def _frame(self) -> tuple[str, str]:
        """The recorded configuration before and after its one virtual host, with the neighbours' hosts in it."""
        dump = json.loads(text_of("routes.json"))
        hosts = dump["configs"][0]["route_config"]["virtual_hosts"]
        neighbours = [virtual_host(f"neighbour-{n + 1}", {"v1": 90, "v2": 10}) for n in range(self.size.neighbours)]
        hosts[0] = "@hosts@"
        dump["configs"][0]["last_updated"] = STAMP
        before, _mark, after = json.dumps(dump, indent=1).partition('"@hosts@"')
        return before + "".join(f"{host},\n     " for host in neighbours), after

    def routes(self, proxy: int, now: float) -> bytes:
        """The route configurations of a proxy, as its config_dump has them."""
        running = tuple(service.running(proxy, now) for service in self.services.values())
        if running not in self._dumps:
            hosts = [service.hosts[number] for service, number in zip(self.services.values(), running, strict=True)]
            text = self._before + ",\n     ".join(hosts) + self._after
            before, _mark, after = text.partition(STAMP)
            if len(self._dumps) > 500:
                self._dumps.clear()
            self._dumps[running] = (before.encode(), after.encode())
        at = max(s.changes[number].at[proxy] for s, number in zip(self.services.values(), running, strict=True))
        head, tail = self._dumps[running]
        return head + stamp(at).encode() + tail

    @staticmethod
    def _counters(name: str) -> str:
        """A recorded /clusters whose endpoints of v1 and v2 have marks for their counts of whole requests."""
        statuses = json.loads(text_of(name))
        for status in statuses["cluster_statuses"]:
            version = [*status["name"].split("|"), "", ""][2]
            for number, endpoint in enumerate(status.get("host_statuses", [])):
                for stat in endpoint["stats"]:
                    if stat["name"] in ("rq_success", "rq_total"):
                        first = not number and (version or name == "inbound.json")
                        stat["value"] = f"@{version or 'all'}@" if first else "0"
        return json.dumps(statuses, indent=1)

    def clusters(self, proxy: int, pattern: str, now: float) -> bytes:
        """What a proxy tells of the clusters that a pattern asks for: those that come in, or a service's."""
        if pattern.startswith("^inbound"):
            name, version = self._inbound.get(proxy, ("", ""))
            callers = self.services[name].callers if name else ()
            total = sum(int(self._count(self.services[name], caller, now)[version]) for caller in callers)
            return self._come_in.replace("@all@", str(total)).replace("10.244.0.7", address_of(proxy)).encode()
        name = pattern.replace("\\", "").partition("(")[2].partition(".")[0]
        if name not in self.services:
            return b"{}\n"
        text = self._clusters.replace("app-1.", f"{name}.")
        counts = self._count(self.services[name], proxy, now)
        for version in VERSIONS:
            text = text.replace(f"@{version}@", str(int(counts[version])))
        return text.encode()

    def _count(self, service: Service, caller: int, now: float) -> Mapping[str, float]:
        """Requests by version that a proxy has sent to a service: its rate, by the weights that it ran meanwhile."""
        since, counts = service.counted.get(caller, (self._began, dict.fromkeys(VERSIONS, 0.0)))
        if caller not in service.callers or now <= since:
            return counts
        counts = dict(counts)
        starts = [change.at[caller] for change in service.changes]
        begin = bisect_right(starts, since) - 1
        edges = [since, *(at for at in starts[begin + 1 :] if at < now), now]
        for number, (start, end) in enumerate(itertools.pairwise(edges), max(begin, 0)):
            weights = service.changes[number].weights
            for version in VERSIONS:
                share = weights.get(version, 0) / (sum(weights.values()) or 1)
                counts[version] += (end - start) * self.size.rate * share
        service.counted[caller] = (now, counts)
        return counts

    # ------------------------------------------------------------ istiod

    def syncz(self, now: float) -> bytes:
        """What an istiod has sent to each proxy, and what was acknowledged: both change a moment apart."""
        entries = []
        for number, pod in enumerate(self.pods):
            sent = tuple(s.running(number, now + ON_ITS_WAY) for s in self.services.values())
            acked = tuple(s.running(number, now) for s in self.services.values())
            entry = json.loads(self._entry)
            entry["proxy"] = f"{pod['metadata']['name']}.{NAMESPACE}"
            entry["resources"][ROUTES] |= {"sent": f"{sum(sent)}/{hash(sent)}", "acked": f"{sum(acked)}/{hash(acked)}"}
            entry |= {"route_sent": f"{sum(sent)}/{hash(sent)}", "route_acked": f"{sum(acked)}/{hash(acked)}"}
            entries.append(entry)
        return json.dumps(entries, separators=(",", ":")).encode()


def virtual_host(service: str, weights: Mapping[str, int]) -> str:
    """The recorded virtual host for another service and other weights, as text, indented as Envoy has it."""
    host = copy.deepcopy(json.loads(text_of("routes.json"))["configs"][0]["route_config"]["virtual_hosts"][0])
    name, shares = host_of("app-1"), {version: weight for version, weight in weights.items() if weight}
    clusters = [{"name": f"outbound|80|{version}|{name}", "weight": weight} for version, weight in shares.items()]
    host["routes"][0]["route"]["weighted_clusters"]["clusters"] = clusters
    text = json.dumps(host, indent=1).replace("\n", "\n     ")
    return text.replace("app-1", service)
