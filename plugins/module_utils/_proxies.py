# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to ask an Envoy's admin interface, and what its answers mean. Private to this collection.

Pure: paths go out, bodies come in; ``_cluster.py`` carries them. Cluster names are taken apart at their bars and
compared whole (``outbound|80|v2|app-1.namespace-1.svc.cluster.local``): ``app-1`` is a prefix of ``app-10``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ansible_collections.progressive.istio.plugins.module_utils._evidence import Counts
from ansible_collections.progressive.istio.plugins.module_utils._routes import HttpRoute, Object, expected_clusters

_STAT = re.compile(r"^cluster\.outbound\|(\d+)\|([^|]+)\|([^|;]+?);?\.(upstream_rq_\w+): (\d+)$", re.MULTILINE)


class ProxyError(ValueError):
    """A proxy answered something that cannot be read."""


# ---------------------------------------------------------------- weights


def routes_path(ports: Iterable[int]) -> str:
    """Admin path of the route configurations that can hold routes of a service with these ports (none: of any).

    Sidecars name them by port (``80``), or ``host:port`` where the protocol is sniffed; gateways ``http.8080``.
    """
    numbers = "|".join(str(port) for port in sorted(set(ports))) or r"\d+"
    return "/config_dump?resource=dynamic_route_configs&name_regex=" + quote(
        f"^(({numbers})|.*:({numbers})|https?\\..*)$"
    )


def _shares(route: Mapping[str, Any]) -> dict[str, float]:
    """Share of each ``subset|host`` in one Envoy route."""
    action = route.get("route") or {}
    if "cluster" in action:
        clusters = [(action["cluster"], 1)]
    else:
        clusters = [
            (c["name"], c.get("weight", 0)) for c in (action.get("weighted_clusters") or {}).get("clusters", [])
        ]
    total = sum(weight for _name, weight in clusters)
    shares: dict[str, float] = {}
    for name, weight in clusters:
        _direction, _port, subset, host = [*name.split("|"), "", "", ""][:4]
        if total and weight:
            shares[f"{subset}|{host}"] = shares.get(f"{subset}|{host}", 0.0) + weight / total
    return shares


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-6 for k in a)


def _say(shares: Mapping[str, float]) -> str:
    parts = (f"{key.partition('|')[0] or '(no subset)'} {100 * share:g} %" for key, share in sorted(shares.items()))
    return ", ".join(parts) or "nothing"


def envoy_routes(body: bytes, namespace: str, name: str) -> list[tuple[str, dict[str, float]]]:
    """(route name, shares) of every Envoy route that istiod made from the VirtualService ``namespace/name``."""
    try:
        configs = json.loads(body).get("configs", [])
    except ValueError:
        raise ProxyError(f"config_dump is not JSON: {body[:80]!r}") from None
    ending = f"/namespaces/{namespace}/virtual-service/{name}"
    found = []
    for config in configs:
        for host in (config.get("route_config") or {}).get("virtual_hosts", []):
            for route in host.get("routes", []):
                source = ((route.get("metadata") or {}).get("filter_metadata") or {}).get("istio", {}).get("config", "")
                if source.endswith(ending):
                    found.append((route.get("name", ""), _shares(route)))
    return found


def lag(body: bytes, obj: Object, route: HttpRoute, subsets: Sequence[str] = ()) -> str | None:
    """None: the proxy does not have the route. Empty: it runs the weights of ``obj``. Else what it runs instead.

    Several http routes may go to the same subsets (a match route for testers above the weighted one), and Envoy's
    routes carry no index; so what is there has to be among what the object's routes of that name ask for, and what
    ``route`` asks for has to be there. ``subsets``: those that ``route`` had before this change, if it lost any.
    """
    meta = obj["metadata"]
    expected = expected_clusters(obj, route)
    intended = expected[0]
    ours = {key for shares in expected for key in shares}
    host = next(iter(intended), "|").partition("|")[2]
    ours |= {f"{name}|{host}" for name in (*(d.subset for d in route.destinations), *subsets)}
    candidates = [
        shares
        for name, shares in envoy_routes(body, meta.get("namespace", ""), meta["name"])
        if (name == route.name or name.startswith(route.name + ".")) and shares.keys() <= ours
    ]
    if not candidates:
        return None
    for shares in candidates:
        if not any(_same(shares, wanted) for wanted in expected):
            return _say(shares)
    if any(_same(shares, intended) for shares in candidates):
        return ""
    return _say(candidates[0])


# ---------------------------------------------------------------- counters


def stats_path(host: str, subsets: Iterable[str]) -> str:
    """Admin path of the cluster counters: whole requests as the client got them, after retries."""
    names = "|".join(re.escape(subset) for subset in sorted(subsets))
    pattern = rf"^cluster\.outbound\|\d+\|({names})\|{re.escape(host)};?\.upstream_rq_(total|completed|5xx)$"
    return "/stats?filter=" + quote(pattern)


def parse_stats(body: bytes, host: str) -> dict[str, Counts] | None:
    """Counts by version, all ports together. None where the stats matcher drops these counters, as Istio's does."""
    found: dict[str, dict[str, int]] = {}
    for _port, subset, there, stat, value in _STAT.findall(body.decode(errors="replace")):
        if there == host:
            counters = found.setdefault(subset, {})
            counters[stat] = counters.get(stat, 0) + int(value)
    if not found:
        return None
    return {s: (c.get("upstream_rq_completed", 0), c.get("upstream_rq_5xx", 0)) for s, c in found.items()}


def clusters_path(host: str) -> str:
    """Admin path of the clusters whose name holds the host; always answered, whatever the stats settings."""
    return "/clusters?format=json&filter=" + quote(rf"\|{re.escape(host)}")


def parse_clusters(body: bytes, host: str) -> tuple[dict[str, Counts], dict[str, int]]:
    """(counts by ``version@address``, healthy endpoints by version). The counts are attempts: retries count again.

    Completed attempts (success and error), because an attempt that is still under way has no outcome yet.
    """
    try:
        clusters = json.loads(body).get("cluster_statuses", [])
    except ValueError:
        raise ProxyError(f"clusters is not JSON: {body[:80]!r}") from None
    counts: dict[str, Counts] = {}
    healthy: dict[str, int] = {}
    for cluster in clusters:
        direction, _port, subset, there = [*cluster["name"].split("|"), "", "", ""][:4]
        if direction != "outbound" or not subset or there.rstrip(";") != host:
            continue
        healthy.setdefault(subset, 0)
        for endpoint in cluster.get("host_statuses", []):
            stats = {s["name"]: int(s.get("value", 0)) for s in endpoint.get("stats", [])}
            address = (endpoint.get("address") or {}).get("socket_address") or {}
            key = f"{subset}@{address.get('address', '?')}:{address.get('port_value', '')}"
            good, bad = stats.get("rq_success", 0), stats.get("rq_error", 0)
            have = counts.get(key, (0, 0))
            counts[key] = (have[0] + good + bad, have[1] + bad)
            healthy[subset] += _healthy(endpoint.get("health_status") or {})
    return counts, healthy


def _healthy(status: Mapping[str, Any]) -> bool:
    """Whether Envoy would send it requests: healthy by EDS, and not ejected or failed by its own checks."""
    failed = any(value is True for key, value in status.items() if key.startswith("failed_"))
    return status.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN") and not failed
