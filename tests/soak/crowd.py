# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of four kinds that send all the time, what each has lost, and what the mesh says about a loss.

Three pods in the mesh and one outside of it, which comes by the ingress gateway, each with a container for HTTP and one
for gRPC. They are started once. The counts of a run are the difference of two readings, and the last reading of a run
is the first of the next one: no request falls between two runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from ansible_collections.progressive.istio.tests.demo.clients import Total, seconds_of
from ansible_collections.progressive.istio.tests.demo.stage import SERVICE, Json, Stage, StageError

POLL_SECONDS = 1.0  # a loss is known to this, and the last one of each client exactly
# Envoy's counters of requests that came to nothing: at which cluster, and how.
FAILED = (
    r"(upstream_cx_connect_fail|upstream_cx_none_healthy|upstream_rq_pending_failure_eject|upstream_rq_rx_reset"
    r"|upstream_rq_tx_reset|upstream_rq_timeout|upstream_rq_5..|cx_destroy_remote_with_active_rq|no_route|no_cluster)$"
)
NOISE = re.compile(r"\.(external|internal)\.|_rq_5\d\d$|^cluster\.xds-grpc")  # said twice; the way to istiod


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of client: its name in the results, where it sends and how often (each pod), the port of its counts."""

    name: str
    pods: str
    url: str
    rate: float
    port: int


# 150 requests a second: 3 x (20 + 15) in the mesh, 25 + 20 by the gateway.
KINDS = (
    Kind("mesh HTTP", "mesh-client", "http://{service}.{namespace}/", 20, 8082),
    Kind("mesh gRPC", "mesh-client", "grpc://{service}.{namespace}:9000", 15, 8083),
    Kind("gateway HTTP", "edge-client", "http://edge.{namespace}/", 25, 8082),
    Kind("gateway gRPC", "edge-client", "grpc://edge.{namespace}:9000", 20, 8083),
)
PODS = {"mesh-client": 3, "edge-client": 1}
Who = tuple[str, int]  # pod, port of its counts
Reading = Mapping[Who, Json]


def deployment(pods: str, namespace: str, seconds: float) -> Json:
    """A Deployment of clients, with a container for each kind; they stop by themselves after ``seconds``."""
    containers = [
        {
            "name": f"client-{kind.port}",
            "image": "lab.invalid/client:1",
            "imagePullPolicy": "IfNotPresent",
            "env": [
                {"name": name, "value": value}
                for name, value in {
                    "URL": kind.url.format(service=SERVICE, namespace=namespace),
                    "RATE": f"{kind.rate:g}",
                    "SECONDS": f"{seconds:.0f}",
                    "LINGER": "true",
                    "LISTEN": f":{kind.port}",
                }.items()
            ],
            "resources": {"requests": {"cpu": "20m", "memory": "16Mi"}},
        }
        for kind in KINDS
        if kind.pods == pods
    ]
    meshed = "true" if pods == "mesh-client" else "false"
    labels = {"app": pods}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": pods, "namespace": namespace},
        "spec": {
            "replicas": PODS[pods],
            "selector": {"matchLabels": labels},
            "template": {
                # A client must not begin before its proxy can carry requests, or it counts its own start as losses.
                "metadata": {
                    "labels": {**labels, "sidecar.istio.io/inject": meshed},
                    "annotations": {"proxy.istio.io/config": '{"holdApplicationUntilProxyStarts": true}'},
                },
                "spec": {"terminationGracePeriodSeconds": 1, "containers": containers},
            },
        },
    }


def difference(before: Json, after: Json) -> Json:
    """What a client has counted between two readings, as a reading. Raises StageError when it was restarted."""
    if after["began"] != before["began"]:
        raise StageError(f"a client that sends to {after['url']} was restarted; its counts are lost")
    numbers = {key: after[key] - before[key] for key in ("sent", "ok", "lost", "skipped", "in_flight")}
    tables = {key: _less(after[key], before[key]) for key in ("by_version", "by_code")}
    lost_by = {name: _less(codes, before["lost_by"].get(name, {})) for name, codes in after["lost_by"].items()}
    return {
        **numbers,
        **tables,
        "lost_by": {name: codes for name, codes in lost_by.items() if codes},
        "first_bad": None,
        "last_bad": after["last_bad"] if numbers["lost"] else None,
        "last_answer": after["last_answer"],
    }


def _less(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {key: number - before.get(key, 0) for key, number in after.items() if number > before.get(key, 0)}


def kind_of(who: Who) -> Kind:
    """Which kind of client a reading is of."""
    return next(kind for kind in KINDS if who[0].startswith(kind.pods) and kind.port == who[1])


class Crowd:
    """All clients, read once a second by a thread of its own, with a line for every loss that was seen."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.losses: list[Json] = []  # of the current run
        self.start_up = Total()  # what was counted before the first run
        self._who: list[Who] = []
        self._last: Reading = {}  # at the last poll
        self._mark: Reading = {}  # where the current run began
        self._failed: Counter[str] = Counter()  # failed requests by proxy and counter: up to the last lossy run,
        self._seen: Counter[str] = Counter()  # and the most that was seen since
        self._lock, self._asking = threading.Lock(), threading.Lock()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(8)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self, seconds: float) -> None:
        """Send for at most ``seconds``; returns when every client is answered."""
        self.stage.apply(*(deployment(pods, self.stage.namespace, seconds) for pods in PODS))
        for pods, number in PODS.items():
            found = self.stage.ready(f"app={pods}", number)
            ports = [kind.port for kind in KINDS if kind.pods == pods]
            self._who += [(pod["metadata"]["name"], port) for pod in found for port in ports]
        until = time.monotonic() + 60
        reading = self._read()
        while any(one["ok"] < 50 for one in reading.values()):
            if time.monotonic() > until:
                raise StageError(f"clients without answers: {[(w, one['by_code']) for w, one in reading.items()]}")
            time.sleep(0.5)
            reading = self._read()
        self.start_up = Total.of(reading.values())
        self._last = self._mark = reading
        self._failed = self._ask_proxies()
        self._thread.start()

    def _read(self) -> Reading:
        def counts(who: Who) -> Json:
            pod, port = who
            found: Json = self.stage.call(f"/api/v1/namespaces/{self.stage.namespace}/pods/{pod}:{port}/proxy/counts")
            return found

        return dict(zip(self._who, self._pool.map(counts, self._who), strict=True))

    def _watch(self) -> None:
        asked = 0
        while not self._over.wait(POLL_SECONDS):
            with suppress(StageError):  # a reading that fails makes the next one's span longer, and loses nothing
                self.poll()
                # At once: with a cluster that is taken out of a proxy its counters are gone.
                if asked < (found := len(self.losses)):
                    self._ask_proxies()
                asked = found

    def poll(self) -> Reading:
        """Read all clients now, and note what they have lost since the last time."""
        with self._lock:
            reading = self._read()
            for who, after in reading.items():
                before = self._last[who]
                if after["lost"] > before["lost"]:
                    self.losses.append(
                        {
                            "client": kind_of(who).name,
                            "pod": who[0],
                            "after": round(seconds_of(before["began"]) + before["seconds"], 2),
                            "last": round(seconds_of(after["last_bad"]), 2),
                            "lost_by": difference(before, after)["lost_by"],
                        }
                    )
            self._last = reading
            return reading

    def cut(self) -> tuple[dict[str, Total], list[Json]]:
        """End of a run and beginning of the next: the counts since the last cut by kind, and every loss in them."""
        reading = self._read_surely()
        parts: dict[str, list[Json]] = {kind.name: [] for kind in KINDS}
        for who, after in reading.items():
            parts[kind_of(who).name].append(difference(self._mark[who], after))
        with self._lock:
            self._mark, losses, self.losses = reading, self.losses, []
        return {name: Total.of(counts) for name, counts in parts.items()}, losses

    def _read_surely(self, tries: int = 5) -> Reading:
        """A poll, tried again when the API server does not answer. Raises StageError in the end."""
        try:
            return self.poll()
        except StageError:
            if tries <= 1:
                raise
            time.sleep(1.0)
            return self._read_surely(tries - 1)

    # ------------------------------------------------------------ evidence about a loss

    def evidence(self, since: float) -> Json:
        """What the mesh says about losses since a time: failed requests by proxy and cluster, events of Kubernetes."""
        failed = self._ask_proxies()
        with self._asking:
            grown, self._failed, self._seen = self._seen - self._failed, failed, Counter()
        return {"proxies": dict(sorted(grown.items())), "events": self._events(since)}

    def _ask_proxies(self) -> Counter[str]:
        """Envoy's counters of failed requests as ``pod counter``; a proxy that is going away has no say."""

        def ask(pod: str) -> dict[str, int]:
            path = f"stats?usedonly&format=json&filter={quote(FAILED)}"
            words = ("-n", self.stage.namespace, pod, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", path)
            with suppress(StageError, ValueError, subprocess.TimeoutExpired):
                text = self.stage.kubectl("exec", *words, seconds=30)
                stats = json.loads(text[text.index("{") :])["stats"]  # pilot-agent warns of this and that before
                return {f"{pod} {one['name']}": one["value"] for one in stats if not NOISE.search(one["name"])}
            return {}

        with self._asking:
            proxied = [pod["metadata"]["name"] for pod in self.stage.pods("app") if _has_proxy(pod)]
            found: Counter[str] = Counter()
            for counters in self._pool.map(ask, proxied):
                found.update(counters)
            self._seen |= found
        return found

    def _events(self, since: float) -> list[str]:
        """Events of pods that were unhealthy, killed or not scheduled, as ``time reason pod message``."""
        items = self.stage.call(f"/api/v1/namespaces/{self.stage.namespace}/events")["items"]
        found = []
        for event in items:
            stamp = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
            troubled = event["type"] == "Warning" or event["reason"] == "Killing"
            if troubled and event["involvedObject"].get("kind") == "Pod" and seconds_of(stamp) >= since - 1:
                text = f"{event['reason']} {event['involvedObject'].get('name', '')} {event.get('message', '')[:160]}"
                found.append(f"{stamp} {text}")
        return sorted(found)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(30.0)
        for pods in PODS:
            with suppress(StageError):
                words = ("-n", self.stage.namespace, pods, "--ignore-not-found", "--wait=false")
                self.stage.kubectl("delete", "deployment", *words)
        self._pool.shutdown(wait=False)


def _has_proxy(pod: Json) -> bool:
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
    return any(container["name"] == "istio-proxy" for container in containers)


def clock(when: float) -> str:
    """Seconds since the epoch as a time of the day, UTC, with tenths."""
    return datetime.fromtimestamp(when, UTC).strftime("%H:%M:%S.%f")[:-5]


def say(losses: Iterable[Json]) -> list[str]:
    """One line for every stretch of losses of a client: how many of what, by whom, and when."""
    stretches: list[Json] = []
    latest: dict[tuple[str, str], Json] = {}
    for loss in losses:
        client = (loss["client"], loss["pod"])
        codes = Counter({(v, code): number for v, found in loss["lost_by"].items() for code, number in found.items()})
        known = latest.get(client)
        if known and loss["after"] - known["last"] < 2 * POLL_SECONDS:
            known["codes"] += codes
            known["last"] = loss["last"]
        else:
            latest[client] = {"client": client, "codes": codes, "after": loss["after"], "last": loss["last"]}
            stretches.append(latest[client])
    lines = []
    for one in stretches:
        told = [f"{n} x {code} by {'nobody' if v == 'none' else v}" for (v, code), n in sorted(one["codes"].items())]
        kind, pod = one["client"]
        lines.append(f"{kind} ({pod}): {', '.join(told)}, {clock(one['after'])} to {clock(one['last'])}")
    return lines
