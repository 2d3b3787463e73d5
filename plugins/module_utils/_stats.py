# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a proxy tells without its admin interface: the statistics on its port 15090. Private to this collection.

Pure. That port answers GET /stats/prometheus alone, so the API server's pod proxy reaches it without a WebSocket and
without power over the proxy; it tells what was sent, and nothing of routes. Envoy's cluster counters name the subset,
but Istio's default stats matcher drops them; then Istio's own ``istio_requests_total`` is there
(istio.io/latest/docs/reference/config/metrics), which names the revision of the pod that has answered.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import quote

from ansible_collections.progressive.istio.plugins.module_utils._looks import (
    BAD_GRPC,
    GRPC_UNAVAILABLE,
    Counts,
)
from ansible_collections.progressive.istio.plugins.module_utils._proxies import Backends, fewest

PORT = 15090
Labels = Mapping[str, str]
_SAMPLE = re.compile(r"^(\w+)\{([^}\n]*)\} ([\d.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ISTIO = "istio_requests_total"
_GRPC = "envoy_cluster_grpc_"


def path(backends: Backends) -> str:
    """Path and filter of all that the functions below read; the filter is for Envoy's own names."""
    hosts = "|".join(sorted({re.escape(key.partition("|")[2]) for key in backends.values()}))
    clusters = rf"cluster\.(outbound\|\d+\|[^|]*\|({hosts});?|inbound\|\d+\|\|;?)"
    return "/stats/prometheus?filter=" + quote(
        rf"(^{clusters}\.(upstream_rq_(completed|5xx)|membership_healthy|grpc\.({'|'.join(sorted(BAD_GRPC))}))$|{_ISTIO})"
    )


def _samples(body: bytes) -> Iterator[tuple[str, Labels, int]]:
    for name, labels, value in _SAMPLE.findall(body.decode(errors="replace")):
        yield name, dict(_LABEL.findall(labels)), int(float(value))


def _cluster(labels: Labels, versions: Mapping[str, str]) -> tuple[str | None, str]:
    """Version (by ``subset|full host``) and port of a client's cluster; None for any other."""
    direction, port, subset, host = [*labels.get("cluster_name", "").split("|"), "", "", ""][:4]
    return (versions.get(f"{subset}|{host.rstrip(';')}") if direction == "outbound" else None), port


def sent(body: bytes, backends: Backends, revisions: Mapping[str, str]) -> dict[str, Counts]:
    """Requests and those that failed by version, all ports together; empty where nothing is counted.

    By Envoy's counters failed is 5xx alone, the rest are `statuses`; Istio's own metrics have both in one.

    ``revisions``: version by canonical revision, for the metrics that know nothing of subsets.
    """
    versions = {key: version for version, key in backends.items()}
    clusters: dict[str, list[int]] = {}
    istio: dict[str, list[int]] = {}
    for name, labels, value in _samples(body):
        version, _port = _cluster(labels, versions)
        if version is not None:
            _add(clusters.setdefault(version, [0, 0]), name, labels, value)
        elif name == _ISTIO and labels.get("reporter") == "source":
            service, revision = labels.get("destination_service", ""), labels.get("destination_canonical_revision", "")
            named = versions.get(f"|{service}", revisions.get(revision, ""))
            if named in backends and service == backends[named].partition("|")[2]:
                _add(istio.setdefault(named, [0, 0]), name, labels, value)
    return {version: (counts[0], counts[1]) for version, counts in (clusters or istio).items()}


def statuses(body: bytes, backends: Backends) -> tuple[dict[str, Counts], dict[str, Counts]]:
    """By version: gRPC calls with a bad status, and apart from these UNAVAILABLE ones, by Envoy's counters."""
    versions = {key: version for version, key in backends.items()}
    grpc: dict[str, Counts] = {}
    unavailable: dict[str, Counts] = {}
    for name, labels, value in _samples(body):
        status = name.removeprefix(_GRPC)
        version, _port = _cluster(labels, versions)
        if version is not None and name.startswith(_GRPC) and status in BAD_GRPC and value:
            found = unavailable if status == GRPC_UNAVAILABLE else grpc
            count = found.get(version, (0, 0))[0] + value
            found[version] = (count, count)
    return grpc, unavailable


def come_in(body: bytes, ports: Collection[int]) -> Counts:
    """Requests, and those that failed, that the proxy of a version's pod has handed on to these ports."""
    clusters, istio = [0, 0], [0, 0]
    for name, labels, value in _samples(body):
        direction, port, *_rest = [*labels.get("cluster_name", "").split("|"), ""]
        if direction == "inbound" and port.isdigit() and int(port) in ports:
            _add(clusters, name, labels, value)
        elif name == _ISTIO and labels.get("reporter") == "destination":
            _add(istio, name, labels, value)
    total = clusters if clusters[0] else istio
    return total[0], total[1]


def _add(counts: list[int], name: str, labels: Labels, value: int) -> None:
    if name in (_ISTIO, "envoy_cluster_upstream_rq_completed"):
        counts[0] += value
    failed = labels.get("response_code_class") == "5xx" or labels.get("response_code", "").startswith("5")
    failed = failed or (name == _ISTIO and labels.get("grpc_response_status") in BAD_GRPC)
    if name in (_ISTIO, "envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_xx") and failed:
        counts[1] += value


def healthy(body: bytes, backends: Backends) -> dict[str, int]:
    """Healthy endpoints of each version whose clusters are among the statistics; a version that is missing is not."""
    versions = {key: version for version, key in backends.items()}
    found: dict[str, dict[str, int]] = {}
    for name, labels, value in _samples(body):
        version, port = _cluster(labels, versions)
        if name == "envoy_cluster_membership_healthy" and version is not None:
            found.setdefault(version, {})[port] = value
    return fewest(found)
