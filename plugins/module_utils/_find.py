# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of a release, by name or by what they are for, in a cluster. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _evidence, _record, _routes
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._delegates import holds_weights, is_delegate
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Evidence
from ansible_collections.progressive.istio.plugins.module_utils._mesh import NETWORKING
from ansible_collections.progressive.istio.plugins.module_utils._objects import Service, versions_by_service
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Conflict, Lost, Unreachable

SERVER_ERROR = 500


class NoRouteObject(ReleaseError):
    """Nobody has made a route object for the service yet."""


@contextmanager
def reading() -> Iterator[None]:
    """Errors of the API as the release knows them."""
    try:
        yield
    except NoAnswer as error:
        raise Unreachable(str(error)) from None
    except ApiError as error:
        raise ReleaseError(str(error)) from None
    except (_routes.RouteError, _record.RecordError) as error:
        raise ReleaseError(str(error)) from None


@contextmanager
def writing(*conflicts: int) -> Iterator[None]:
    """The same around a write: what may have happened is Lost. ``conflicts``: what the API answers to a stale one."""
    try:
        yield
    except NoAnswer as error:
        raise Lost(str(error)) from None
    except ApiError as error:
        if error.status in conflicts:
            raise Conflict(str(error)) from None
        if error.status >= SERVER_ERROR:  # a webhook that does not answer, for one: istiod's own
            raise Lost(str(error)) from None
        raise ReleaseError(str(error)) from None


def find_service(cluster: Cluster, namespace: str, name: str, kind: str = "VirtualService") -> Service:
    """The Service and its versions. Raises ReleaseError for what is missing, naming it."""
    service = cluster.get("v1", namespace, "services", name)
    if service is None:
        raise ReleaseError(f"Service {namespace}/{name} does not exist; deploy it, or mend namespace and name")
    host = _routes.full_host(name, namespace)
    if kind == "VirtualService":
        rules = [
            rule
            for rule in cluster.select(NETWORKING, namespace, "destinationrules")
            if _routes.full_host(rule["spec"].get("host", ""), namespace) == host
        ]
        versions = {s["name"]: s.get("labels") or {} for rule in rules for s in rule["spec"].get("subsets") or []}
        missing = f"no DestinationRule in namespace {namespace} has subsets for {host}; a release needs one subset for"
    else:
        versions = versions_by_service(service, cluster.select("v1", namespace, "services"))
        missing = f"no other Service selects some of the pods of Service {namespace}/{name}; an HTTPRoute needs one for"
    if not versions:
        raise ReleaseError(f"{missing} each version")
    spec = service["spec"]
    ports = tuple(port["port"] for port in spec.get("ports") or [])
    return Service(host, ports, spec.get("selector") or {}, versions, service, kind)


def find_route_object(cluster: Cluster, kind: str, namespace: str, host: str, name: str = "") -> dict[str, Any]:
    """The route object named ``name``, or the one of the namespace that serves ``host``; where none of these holds its
    weights, the one delegate (a VirtualService without hosts) that does. Raises ReleaseError.
    """
    api, plural = _routes.RESOURCES[kind]
    if name:
        found = cluster.get(api, namespace, plural, name)
        if found is None:
            raise ReleaseError(f"{kind} {namespace}/{name} does not exist; deploy it, or mend namespace and name")
        return found
    chosen = _choose(kind, namespace, host, cluster.select(api, namespace, plural))
    # A list item has no kind, and comes from a cache; what a write is based on is read by name.
    return find_route_object(cluster, kind, namespace, host, chosen["metadata"]["name"])


def _choose(kind: str, namespace: str, host: str, there: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    serving = [one for one in there if _routes.serves({"kind": kind, **one}, host)]
    if kind == "VirtualService" and not any(holds_weights(one, host) for one in serving):
        delegates = [one for one in there if is_delegate(one) and holds_weights(one, host)]
        if len(delegates) > 1:
            raise ReleaseError(
                f"{len(delegates)} VirtualServices in namespace {namespace} without hosts (delegates) hold weights of "
                f"{host}: {', '.join(one['metadata']['name'] for one in delegates)}; say which one with route_object"
            )
        serving = delegates or serving
    if not serving:
        what = "among its hosts" if kind == "VirtualService" else "as parent"
        raise NoRouteObject(
            f"no {kind} in namespace {namespace} has {host} {what}; make one with all weight on the stable version, "
            "when the proxies know the subsets: the role app does so in the right order (tasks_from: route)"
        )
    if len(serving) > 1:
        names = ", ".join(one["metadata"]["name"] for one in serving)
        what = "have it among their hosts" if kind == "VirtualService" else "have it as parent"
        raise ReleaseError(
            f"{len(serving)} {kind}s in namespace {namespace} are for {host} ({what}): {names}; "
            "say which one with route_object"
        )
    return serving[0]


def all_route_objects(cluster: Cluster, kind: str, namespace: str) -> tuple[list[dict[str, Any]], str]:
    """Whatever may route requests anywhere, and in words what of that may not be listed. Raises ApiError."""
    unseen = ""
    api, plural = _routes.RESOURCES["VirtualService"]
    try:
        listed = cluster.select(api, "", plural)
    except ApiError as error:
        if error.status != 403:
            raise
        listed = cluster.select(api, namespace, plural)
        unseen = f"VirtualServices outside namespace {namespace}"
    if kind != "VirtualService":
        api, plural = _routes.RESOURCES[kind]
        listed += [{"kind": kind, **one} for one in cluster.select(api, namespace, plural)]
    return listed, unseen


def stored_evidence(cluster: Cluster, namespace: str, name: str) -> Evidence | None:
    """What the last release of a service has stored. Raises EvidenceError when it cannot be used."""
    with reading():
        found = cluster.get("v1", namespace, "configmaps", own_name(name))
    if found is None:
        return None
    try:
        return _evidence.loads((found.get("data") or {})["evidence"])
    except KeyError:
        raise _evidence.EvidenceError(f"ConfigMap {namespace}/{own_name(name)} holds no evidence") from None


def own_name(service: str) -> str:
    """Name of a release's Lease and evidence ConfigMap."""
    return f"progressive-istio-{service}"
