# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench of counters: the kinds of failure, and the objects of the service and its clients. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.progressive.istio.tests.bench.seen import DEFAULT, WIDE
from ansible_collections.progressive.istio.tests.demo.clients import deployment
from ansible_collections.progressive.istio.tests.demo.stage import SERVICE, Json

NAMESPACE = "bench-counters"
HOST = f"{SERVICE}.{NAMESPACE}.svc.cluster.local"
RATE, TIMEOUT = 30.0, 3.0  # of each client: requests a second; seconds until it gives up
# Subsets: the app; a pod where nobody listens on the app's ports; both; and one that no DestinationRule has.
GOOD, REFUSING, MIXED, UNKNOWN = "v1", "refusing", "mixed", "unknown"
BACKENDS = {subset: f"{subset}|{HOST}" for subset in (GOOD, REFUSING, MIXED, UNKNOWN)}
HEALTHY = {"error_rate": 0, "latency_ms": 0, "hang_rate": 0, "grpc_rate": 0, "ready": "true"}
PREFIXES = {WIDE: ["cluster.outbound", "cluster.inbound"], DEFAULT: ["none"]}  # Istio adds its own to them
URLS = {"http": f"http://{HOST}/", "grpc": f"grpc://{HOST}:9000"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to fail: what the app is told, or where the route leads. ``slow``: bad are all requests meanwhile."""

    what: str
    faults: Mapping[str, object] = field(default_factory=dict)
    protocol: str = "http"
    subset: str = GOOD
    retries: Json = field(default_factory=dict)
    crash: bool = False
    slow: bool = False


KINDS = (
    Kind("20 % HTTP 500", {"error_rate": 0.2}),
    Kind("30 % HTTP 500, retried by the route", {"error_rate": 0.3}, retries={"attempts": 2, "retryOn": "5xx"}),
    Kind("no answer to 20 %, the client gives up", {"hang_rate": 0.2}),
    Kind("all 500 to 1500 ms later", {"latency_ms": 1000}, slow=True),
    Kind("connections refused", subset=REFUSING),
    Kind("refused by one of two endpoints, retried", subset=MIXED),
    Kind("no ready endpoint (UH)", {"ready": "false"}),
    Kind("unknown subset (NC)", subset=UNKNOWN),
    Kind("app killed with answers under way", {"latency_ms": 300}, crash=True),
    Kind("gRPC: 20 % status 14 in an HTTP 200", {"grpc_rate": 0.2, "grpc_status": 14}, "grpc"),
    Kind("gRPC: no answer to 20 %, deadline", {"hang_rate": 0.2}, "grpc"),
    Kind("gRPC: connections refused", subset=REFUSING, protocol="grpc"),
    Kind("gRPC: no ready endpoint (UH)", {"ready": "false"}, "grpc"),
    Kind("gRPC: unknown subset (NC)", subset=UNKNOWN, protocol="grpc"),
)


# ---------------------------------------------------------------- what is deployed


def pod_set(name: str, version: str, container: Json, pod: Json, annotations: Mapping[str, str] | None = None) -> Json:
    """A Deployment of one pod of the service."""
    labels = {"app": SERVICE, "version": version}
    meta = {"labels": labels, "annotations": dict(annotations or {})}
    spec = {"terminationGracePeriodSeconds": 1, "containers": [{"imagePullPolicy": "IfNotPresent", **container}], **pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": meta, "spec": spec}},
    }


def objects() -> list[Json]:
    """The namespace, the app, the pod that refuses, and what the mesh knows of them."""
    where = {"namespace": NAMESPACE}
    page = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page", **where}}
    page["data"] = {"index.html": f"Hello World {GOOD}!\n"}
    hello = {
        "name": "hello",
        "image": "lab.invalid/hello:1",
        "volumeMounts": [{"name": "page", "mountPath": "/app"}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8081},
            "periodSeconds": 1,
            "failureThreshold": 1,
            "timeoutSeconds": 10,
        },
    }
    environment = {"URL": "http://127.0.0.1:8082/counts", "RATE": "0.1"}  # of itself, rarely
    idle: Json = {"name": "idle", "image": "lab.invalid/client:1"}
    idle["env"] = [{"name": name, "value": value} for name, value in environment.items()]
    ports = [
        {"name": name, "port": port, "targetPort": target}
        for name, port, target in (("http", 80, 8080), ("grpc", 9000, 9000))
    ]
    subsets = [{"name": name, "labels": {"version": name}} for name in (GOOD, REFUSING)]
    rule = {"host": HOST, "subsets": [*subsets, {"name": MIXED, "labels": {"app": SERVICE}}]}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"istio-injection": "enabled"}},
        },
        page,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, **where},
            "spec": {"selector": {"app": SERVICE}, "ports": ports},
        },
        pod_set("app", GOOD, hello, {"volumes": [{"name": "page", "configMap": {"name": "page"}}]}),
        pod_set("idle", REFUSING, idle, {}, {"sidecar.istio.io/inject": "false"}),
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": SERVICE, **where},
            "spec": rule,
        },
        route(GOOD),
    ]


def route(subset: str, retries: Json | None = None) -> Json:
    """The VirtualService: all to one subset, on all ports."""
    rule = {"route": [{"destination": {"host": HOST, "subset": subset}}], **({"retries": retries} if retries else {})}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"hosts": [HOST], "http": [rule]},
    }


def client(name: str, protocol: str) -> Json:
    """A client whose proxy has the stats matcher of that name."""
    environment = {"URL": URLS[protocol], "TIMEOUT": f"{TIMEOUT:g}", "CONNECTIONS": "64"}
    found = deployment(f"client-{name}", 1, RATE, environment)
    found["metadata"]["namespace"] = NAMESPACE
    proxy = {"holdApplicationUntilProxyStarts": True, "proxyStatsMatcher": {"inclusionPrefixes": PREFIXES[name]}}
    found["spec"]["template"]["metadata"]["annotations"] = {"proxy.istio.io/config": json.dumps(proxy)}
    return found
