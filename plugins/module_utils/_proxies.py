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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ansible_collections.progressive.istio.plugins.module_utils._looks import BAD_GRPC, GRPC_UNAVAILABLE, Counts, Flow
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    RULES,
    Object,
    Route,
    envoy_name,
    expected_clusters,
    expected_mirrors,
    full_host,
)
from ansible_collections.progressive.istio.plugins.module_utils._shown import added_name, everywhere, ours

_STAT = re.compile(r"^cluster\.outbound\|\d+\|([^|]*\|[^|;]+?);?\.(upstream_\w+|grpc\.\d+): (.+)$", re.MULTILINE)
_BUCKET = re.compile(r"B([\d.e+]+)\((\d+),(\d+)\)")
Backends = Mapping[str, str]  # by version, what its clusters are called behind direction and port: ``subset|full host``


class ProxyError(ValueError):
    """A proxy answered something that cannot be read."""


# ---------------------------------------------------------------- weights


def routes_path(ports: Iterable[int], section: str = "http") -> str:
    """Admin path of the configurations that can hold routes of a service with these ports (none: of any).

    Routes of HTTP: sidecars name their configurations by port (``80``), or ``host:port`` where the protocol is sniffed;
    gateways ``http.8080``. TCP and TLS have none, their weights stand in listeners: ``10.96.7.1_5432``.
    """
    numbers = "|".join(str(port) for port in sorted(set(ports))) or r"\d+"
    if section in ("tcp", "tls"):
        return "/config_dump?resource=dynamic_listeners&name_regex=" + quote(f"^.*_({numbers})$")
    return "/config_dump?resource=dynamic_route_configs&name_regex=" + quote(
        f"^(({numbers})|.*:({numbers})|https?\\..*)$"
    )


def _shares(action: Mapping[str, Any]) -> dict[str, float]:
    """Share of each ``subset|host`` in the action of an Envoy route, or in a TCP proxy."""
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
    """By subset; where there is none, by Service."""
    names = {key: subset or host.partition(".")[0] for key in shares for subset, _bar, host in [key.partition("|")]}
    return ", ".join(f"{names[key]} {100 * share:g} %" for key, share in sorted(shares.items())) or "nothing"


def _configs(body: bytes) -> list[Mapping[str, Any]]:
    try:
        configs: list[Mapping[str, Any]] = json.loads(body).get("configs", [])
    except ValueError:
        raise ProxyError(f"config_dump is not JSON: {body[:80]!r}") from None
    return configs


def _source(part: Mapping[str, Any]) -> str:
    """From which object istiod made this part of the configuration."""
    return str(((part.get("metadata") or {}).get("filter_metadata") or {}).get("istio", {}).get("config", ""))


@dataclass(frozen=True, slots=True)
class EnvoyRoute:
    """What a proxy runs of a route: its name there, the share of each ``subset|host``, and since when."""

    name: str
    shares: Mapping[str, float]
    since: str = ""
    mirrors: Mapping[str, float] = field(default_factory=dict)

    def say(self) -> str:
        """For a message: ``v1 90 %, v2 10 % since 2026-11-23T14:34:14Z``."""
        since = f" since {self.since.partition('.')[0].rstrip('Z')}Z" if self.since else ""
        mirrored = f" and mirrors {_say(self.mirrors)}" if self.mirrors else ""
        return _say(self.shares) + mirrored + since


Part = tuple[str, str, Mapping[str, Any]]  # source, name, action


def _http_routes(config: Mapping[str, Any]) -> Iterator[Part]:
    """Every route of a route configuration."""
    for host in (config.get("route_config") or {}).get("virtual_hosts", []):
        for route in host.get("routes", []):
            yield _source(route), route.get("name", ""), route.get("route") or {}


def _chains(config: Mapping[str, Any]) -> Iterator[Part]:
    """The TCP proxy of every filter chain of a listener that is in use."""
    for chain in ((config.get("active_state") or {}).get("listener") or {}).get("filter_chains", []):
        for one in chain.get("filters", []):
            typed = one.get("typed_config") or {}
            if typed.get("@type", "").endswith(".TcpProxy"):
                yield _source(chain), "", typed


def envoy_routes(body: bytes, obj: Object, section: str = "http") -> list[EnvoyRoute]:
    """Every Envoy route that istiod made from ``obj``, and for an HTTPRoute from others that it is merged with."""
    namespace = re.escape(obj["metadata"].get("namespace", ""))
    name = _internal_names(obj) if section == RULES else re.escape(obj["metadata"]["name"])
    ours = re.compile(rf"/namespaces/{namespace}/virtual-service/({name})$")
    found = []
    for config in _configs(body):
        state = config.get("active_state") or config
        for source, called, action in _chains(config) if section in ("tcp", "tls") else _http_routes(config):
            if ours.search(source):
                when = str(state.get("last_updated", ""))
                found.append(EnvoyRoute(called, _shares(action), when, _mirrored(action)))
    return found


def _internal_names(obj: Object) -> str:
    """Regular expression of the VirtualServices that istiod makes of an HTTPRoute (gateway/route_collections.go).

    Since 1.31 one for each namespace, port and host, of all HTTPRoutes together (``ns~80~app-1.ns.svc.cluster.local``),
    or for each gateway and host. Before that, one for each HTTPRoute: ``app-1-0-istio-autogenerated-k8s-gateway``.
    """
    meta = obj["metadata"]
    namespace, own = meta.get("namespace", ""), "istio-autogenerated-k8s-gateway"
    parents = [p for p in obj["spec"].get("parentRefs") or [] if p.get("kind") == "Service"]
    hosts = [rf"{re.escape(p['name'])}\.{re.escape(p.get('namespace') or namespace)}\.svc\..+" for p in parents]
    merged = [rf"{re.escape(namespace)}(~\d+)?~{host}" for host in hosts]
    return "|".join([*merged, rf"[^~]+~.*{own}.*~.+", rf"{re.escape(meta['name'])}[~-]\d+[~-]{own}"])


_OF = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}


def _mirrored(action: Mapping[str, Any]) -> dict[str, float]:
    """Share of the requests that an Envoy route mirrors to each ``subset|host``."""
    found: dict[str, float] = {}
    for policy in action.get("request_mirror_policies") or []:
        _direction, _port, subset, host = [*policy.get("cluster", "").split("|"), "", "", ""][:4]
        given = (policy.get("runtime_fraction") or {}).get("default_value") or {"numerator": 100}
        found[f"{subset}|{host}"] = given.get("numerator", 0) / _OF[given.get("denominator", "HUNDRED")]
    return found


def intended(obj: Object, route: Route) -> tuple[Any, ...]:
    """All that ``lag`` compares a proxy with: whoever runs it, needs not be asked again until it changes."""
    added = [entry["name"] for _index, entry in ours(obj, route.section)]
    return expected_clusters(obj, route), expected_mirrors(obj, route), added


def _lags_in_added(there: Sequence[EnvoyRoute], obj: Object, section: str) -> str:
    """What is wrong with the routes that a release has added for some of the users."""
    wanted = {str(entry["name"]): everywhere(entry) for _index, entry in ours(obj, section)}
    have = {added_name(one.name) for one in there} - {""}
    late = [f"has no route {name} yet" for name, needed in wanted.items() if needed and name not in have]
    return ", ".join([*late, *(f"still has route {name}" for name in sorted(have - wanted.keys()))])


def lag(body: bytes, obj: Object, route: Route, subsets: Sequence[str] = ()) -> str | None:
    """None: the proxy does not have the route. Empty: it runs the weights of ``obj``. Else what it runs instead.

    Several http routes may go to the same subsets (a match route for testers above the weighted one), and Envoy's
    routes carry no index; so what is there has to be among what the object's routes of that name ask for, and what
    ``route`` asks for has to be there. ``subsets``: those that ``route`` had before this change, if it lost any.
    """
    expected = expected_clusters(obj, route)
    named = envoy_name(obj, route)
    asked = expected[0]
    ours_keys = {key for shares in expected for key in shares}
    namespace = obj["metadata"].get("namespace", "")
    ours_keys |= {f"{d.subset}|{full_host(d.host, namespace)}" for d in route.destinations}
    ours_keys |= {f"{name}|{full_host(d.host, namespace)}" for d in route.destinations for name in subsets}
    every = envoy_routes(body, obj, route.section)
    candidates = [
        there
        for there in every
        if (there.name == named or there.name.startswith(named + ".")) and there.shares.keys() <= ours_keys
    ]
    if not candidates:
        return None
    for there in candidates:
        if not any(_same(there.shares, wanted) for wanted in expected):
            return there.say()
    mirrors = {key: share for key, share in expected_mirrors(obj, route).items() if key in ours_keys}
    found = [there for there in candidates if _same(there.shares, asked)]
    if not found:
        return candidates[0].say()
    for there in found:
        if not _same({key: share for key, share in there.mirrors.items() if key in ours_keys}, mirrors):
            return there.say()
    return _lags_in_added(every, obj, route.section)


SYNCZ = "/debug/syncz"  # of istiod: what it has sent to each of its proxies, and what they said to it
_CARRY_WEIGHTS = re.compile(r"\.(RouteConfiguration|Listener)$")


@dataclass(frozen=True, slots=True)
class Sync:
    """What an istiod last sent to a proxy of routes and listeners, and what keeps it from running that, or nothing."""

    sent: str
    trouble: str


def parse_syncz(body: bytes) -> dict[str, Sync]:
    """By ``namespace/pod`` of the proxies that are connected to this istiod.

    An istiod that does not know ``resources`` with ``lastError`` tells only what was sent and what was acknowledged.
    """
    try:
        entries = json.loads(body)
        return {_name_of(str(entry["proxy"])): Sync(_sent(entry), _trouble(entry)) for entry in entries}
    except (ValueError, TypeError, KeyError):
        raise ProxyError(f"{SYNCZ} is not what is expected: {body[:80]!r}") from None


def _name_of(proxy: str) -> str:
    pod, _dot, namespace = proxy.partition(".")
    return f"{namespace}/{pod}"


def _sent(entry: Mapping[str, Any]) -> str:
    kinds = {kind: status.get("sent") for kind, status in (entry.get("resources") or {}).items()}
    carrying = [str(sent) for kind, sent in sorted(kinds.items()) if _CARRY_WEIGHTS.search(kind)]
    return " ".join(carrying or [str(entry.get(f"{kind}_sent")) for kind in ("listener", "route")])


def _trouble(entry: Mapping[str, Any]) -> str:
    found = []
    for kind, status in (entry.get("resources") or {}).items():
        if _CARRY_WEIGHTS.search(kind):
            if status.get("lastError"):
                return f"it rejects the update: {' '.join(str(status['lastError']).split())[:200]}"
            found.append((status.get("sent"), status.get("acked")))
    found += [(entry.get(f"{kind}_sent"), entry.get(f"{kind}_acked")) for kind in ("route", "listener")]
    late = [sent for sent, acked in found if sent != acked]
    return f"it has not acknowledged what istiod sent at {str(late[0]).partition('/')[0]}" if late else ""


# ---------------------------------------------------------------- counters


def stats_path(backends: Backends) -> str:
    """Admin path of the cluster counters: whole requests as the client got them, after retries, their durations, and
    the statuses of gRPC calls (of Envoy's filter grpc_stats, which istiod configures everywhere).
    """
    names = "|".join(re.escape(key) for _version, key in sorted(backends.items()))
    wanted = rf"(upstream_rq_(completed|5xx|[1-5]\d\d|time)|grpc\.({'|'.join(sorted(BAD_GRPC))}))"
    pattern = rf"^cluster\.outbound\|\d+\|({names});?\.{wanted}$"
    return "/stats?histogram_buckets=cumulative&filter=" + quote(pattern)


@dataclass(frozen=True, slots=True)
class Sent:
    """Whole requests by version, all ports together: counts, bad ones by ``version@code``, the histogram of their
    durations (ms), and calls with a bad gRPC status. Bad is 5xx.
    """

    counts: Mapping[str, Counts]
    codes: Mapping[str, Counts]
    histograms: Mapping[str, Mapping[float, int]]
    grpc: Mapping[str, Counts]
    unavailable: Mapping[str, Counts]


def parse_stats(body: bytes, backends: Backends) -> Sent | None:
    """What a proxy has sent. None where the stats matcher drops these counters, as Istio's does."""
    versions = {key: version for version, key in backends.items()}
    found: dict[str, dict[str, int]] = {}
    histograms: dict[str, dict[float, int]] = {}
    for key, stat, value in _STAT.findall(body.decode(errors="replace")):
        if key not in versions:
            continue
        if stat == "upstream_rq_time":
            histogram = histograms.setdefault(versions[key], {})
            for edge, _lately, count in _BUCKET.findall(value):
                histogram[float(edge)] = histogram.get(float(edge), 0) + int(count)
        elif value.isdecimal():
            counters = found.setdefault(versions[key], {})
            counters[stat] = counters.get(stat, 0) + int(value)
    if not found:
        return None
    codes = {
        f"{version}@{stat.removeprefix('upstream_rq_').replace('.', ' ')}": (count, count)
        for version, counters in found.items()
        for stat, count in counters.items()
        if re.fullmatch(r"upstream_rq_5\d\d|grpc\.\d+", stat)
    }
    counts = {v: (c.get("upstream_rq_completed", 0), c.get("upstream_rq_5xx", 0)) for v, c in found.items()}
    grpc = {v: sum(c.get(f"grpc.{status}", 0) for status in BAD_GRPC - {GRPC_UNAVAILABLE}) for v, c in found.items()}
    unavailable = {v: c.get(f"grpc.{GRPC_UNAVAILABLE}", 0) for v, c in found.items()}
    return Sent(counts, codes, histograms, _twice(grpc), _twice(unavailable))


def _twice(counts: Mapping[str, int]) -> dict[str, Counts]:
    """Requests all of which are bad; those without any are left out."""
    return {version: (count, count) for version, count in counts.items() if count}


def clusters_path(backends: Backends) -> str:
    """Admin path of the clusters whose name holds a host; always answered, whatever the stats settings."""
    hosts = "|".join(sorted({re.escape(key.partition("|")[2]) for key in backends.values()}))
    return "/clusters?format=json&filter=" + quote(rf"\|({hosts})")


def parse_clusters(body: bytes, backends: Backends) -> tuple[dict[str, Counts], dict[str, int]]:
    """(counts by ``version@address``, healthy endpoints by version). The counts are attempts: retries count again.

    Endpoints are those of the port that has the fewest: a version that lacks one of the ports is not ready for all
    requests. A port at which no version has any is not in use.
    """
    versions = {key: version for version, key in backends.items()}
    counts: dict[str, Counts] = {}
    healthy: dict[str, dict[str, int]] = {}
    for cluster in _statuses(body):
        direction, port, subset, there = [*cluster["name"].split("|"), "", "", ""][:4]
        version = versions.get(f"{subset}|{there.rstrip(';')}")
        if direction != "outbound" or version is None:
            continue
        ports = healthy.setdefault(version, {})
        ports.setdefault(port, 0)
        for endpoint in cluster.get("host_statuses", []):
            key = f"{version}@{_address(endpoint)}"
            requests, bad = _attempts(endpoint)
            have = counts.get(key, (0, 0))
            counts[key] = (have[0] + requests, have[1] + bad)
            ports[port] += _healthy(endpoint.get("health_status") or {})
    return counts, fewest(healthy)


def parse_flows(body: bytes, backends: Backends) -> dict[str, Flow]:
    """Attempts by ``version@address``: in all, answered, under way."""
    versions = {key: version for version, key in backends.items()}
    flows: dict[str, Flow] = {}
    for cluster in _statuses(body):
        version = versions.get(_key_of(cluster["name"]))
        for endpoint in cluster.get("host_statuses", []) if version else ():
            stats = {s["name"]: int(s.get("value", 0)) for s in endpoint.get("stats", [])}
            key = f"{version}@{_address(endpoint)}"
            answered = stats.get("rq_success", 0) + stats.get("rq_error", 0)
            total, before, active = flows.get(key, (0, 0, 0))
            flows[key] = (total + stats.get("rq_total", 0), before + answered, active + stats.get("rq_active", 0))
    return flows


def _address(endpoint: Mapping[str, Any]) -> str:
    address = (endpoint.get("address") or {}).get("socket_address") or {}
    return f"{address.get('address', '?')}:{address.get('port_value', '')}"


def fewest(endpoints: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """By version, of its endpoints by port: those of the port that has the fewest, among ports that are in use."""
    used = {port for ports in endpoints.values() for port, number in ports.items() if number}
    return {v: min((ports[port] for port in used & ports.keys()), default=0) for v, ports in endpoints.items()}


INBOUND = "/clusters?format=json&filter=" + quote(r"^inbound\|")  # what a pod's own proxy hands on to its containers


def parse_inbound(body: bytes, ports: Collection[int]) -> Counts:
    """Requests, and bad ones, that a pod's proxy has handed on to these ports of the pod."""
    requests = bad = 0
    for cluster in _statuses(body):
        _direction, port = [*cluster["name"].split("|"), ""][:2]
        if port.isdecimal() and int(port) in ports:
            for endpoint in cluster.get("host_statuses", []):
                every, failed = _attempts(endpoint)
                requests, bad = requests + every, bad + failed
    return requests, bad


def _statuses(body: bytes) -> list[Mapping[str, Any]]:
    try:
        found: list[Mapping[str, Any]] = json.loads(body).get("cluster_statuses", [])
    except ValueError:
        raise ProxyError(f"clusters is not JSON: {body[:80]!r}") from None
    return found


def _attempts(endpoint: Mapping[str, Any]) -> Counts:
    """Completed attempts, and failed ones: one that is still under way has no outcome yet."""
    stats = {s["name"]: int(s.get("value", 0)) for s in endpoint.get("stats", [])}
    good, bad = stats.get("rq_success", 0), stats.get("rq_error", 0)
    return good + bad, bad


def _healthy(status: Mapping[str, Any]) -> bool:
    """Whether Envoy would send it requests: healthy by EDS, and not ejected or failed by its own checks."""
    failed = any(value is True for key, value in status.items() if key.startswith("failed_"))
    return status.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN") and not failed


# ---------------------------------------------------------------- a version that leaves


def leads_to(body: bytes, key: str) -> list[str]:
    """The objects (by name, as istiod leaves it) whose http routes send or mirror requests to ``subset|full host``.

    The route that every Service has of itself comes from no object: whoever calls a version's own Service means it.
    """
    found = set()
    for config in _configs(body):
        for source, _called, action in _http_routes(config):
            if not source:
                continue
            mirrors = [policy.get("cluster", "") for policy in action.get("request_mirror_policies") or []]
            if _shares(action).get(key) or any(_key_of(mirror) == key for mirror in mirrors):
                found.add(source.rpartition("/")[2])
    return sorted(found)


def in_flight(body: bytes, key: str) -> int | None:
    """Requests under way to the endpoints of ``subset|full host``, also those that wait for a connection there.

    None: the proxy knows no such cluster.
    """
    clusters = [cluster for cluster in _statuses(body) if _key_of(cluster["name"]) == key]
    if not clusters:
        return None
    endpoints = [endpoint for cluster in clusters for endpoint in cluster.get("host_statuses", [])]
    stats = [stat for endpoint in endpoints for stat in endpoint.get("stats", [])]
    return sum(int(stat.get("value", 0)) for stat in stats if stat["name"] in ("rq_active", "rq_pending_active"))


def _key_of(cluster: str) -> str:
    """``subset|full host`` of an outbound cluster's name; empty for another one."""
    direction, _port, subset, there = [*cluster.split("|"), "", "", ""][:4]
    return f"{subset}|{there.rstrip(';')}" if direction == "outbound" else ""
