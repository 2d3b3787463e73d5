# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Statistics of proxies are read as they are meant.

Envoy's are recorded (tests/unit/fixtures/stats). Istio's own, which the lab's Envoy does not have, are written after
istio.io/latest/docs/reference/config/metrics.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._stats import (
    come_in,
    healthy,
    path,
    sent,
    statuses,
)

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "stats"
HOST = "app-1.molecule-incidents.svc.cluster.local"
SUBSETS = {"v1": f"v1|{HOST}", "v2": f"v2|{HOST}"}
SERVICES = {name: f"|{name}.shop.svc.cluster.local" for name in ("app-1-v1", "app-1-v2")}
REVISIONS = {"blue": "v1", "green": "v2"}


def recorded(name: str) -> bytes:
    return (FIXTURES / f"{name}.txt").read_bytes()


def istio(reporter: str, service: str, revision: str, code: str, value: int, flags: str = "-") -> bytes:
    labels = {
        "reporter": reporter,
        "source_workload": "client",
        "destination_service": service,
        "destination_service_name": service.partition(".")[0],
        "destination_canonical_revision": revision,
        "request_protocol": "http",
        "response_code": code,
        "response_flags": flags,
    }
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"istio_requests_total{{{text}}} {value}\n".encode()


def test_what_a_client_has_sent() -> None:
    counts = sent(recorded("client"), SUBSETS, {})
    assert counts == {"v1": (12058, 0), "v2": (2550, 68)}
    assert sent(recorded("client"), {"v1": "v1|other.shop.svc.cluster.local"}, {}) == {}
    assert sent(b"", SUBSETS, {}) == {}


def test_what_has_come_in() -> None:
    assert come_in(recorded("server"), {8080}) == (2678, 0)
    assert come_in(recorded("server"), {8081}) == (0, 0)


def test_healthy_endpoints() -> None:
    assert healthy(recorded("client"), SUBSETS) == {"v1": 1, "v2": 1}
    cluster = f'|v2|{HOST}"}} '
    gone = recorded("client").replace(f"{cluster}1".encode(), f"{cluster}0".encode())
    assert healthy(gone, SUBSETS) == {"v1": 1, "v2": 0}
    assert healthy(b"", SUBSETS) == {}


def test_istios_own_metrics_of_subsets() -> None:
    body = (
        istio("source", HOST, "blue", "200", 90)
        + istio("source", HOST, "blue", "404", 4)
        + istio("source", HOST, "green", "200", 9)
        + istio("source", HOST, "green", "503", 1, "UF")
        + istio("source", HOST, "unknown", "503", 7, "UH")
        + istio("source", "app-2.shop.svc.cluster.local", "blue", "200", 5)
        + istio("destination", HOST, "blue", "200", 3)
    )
    assert sent(body, SUBSETS, REVISIONS) == {"v1": (94, 0), "v2": (10, 1)}
    assert come_in(body, {8080}) == (3, 0)


def test_istios_own_metrics_of_services() -> None:
    body = istio("source", SERVICES["app-1-v1"][1:], "latest", "200", 8)
    body += istio("source", SERVICES["app-1-v2"][1:], "latest", "500", 2)
    assert sent(body, SERVICES, {}) == {"app-1-v1": (8, 0), "app-1-v2": (2, 2)}


def test_bad_statuses_of_grpc() -> None:
    """Envoy's counters of its filter grpc_stats, as the lab's proxies have them; in Istio's own they are a label."""
    clusters = "".join(
        f'envoy_cluster_grpc_{status}{{cluster_name="outbound|9000|{version}|{HOST};"}} {count}\n'
        for version, status, count in (("v1", 0, 90), ("v2", 0, 70), ("v2", 5, 3), ("v2", 13, 4), ("v2", 14, 9))
    )
    assert statuses(clusters.encode(), SUBSETS) == ({"v2": (4, 4)}, {"v2": (9, 9)})
    assert statuses(recorded("client"), SUBSETS) == ({}, {})
    body = istio("source", HOST, "green", "200", 6)
    for status, count in (("0", 20), ("5", 2), ("14", 3)):
        label = f',grpc_response_status="{status}"}} '.encode()
        body += istio("source", HOST, "green", "200", count).replace(b"} ", label)
    assert sent(body, SUBSETS, REVISIONS) == {"v2": (31, 3)}


def test_clusters_go_before_istios_metrics() -> None:
    both = recorded("client") + istio("source", HOST, "green", "200", 1)
    assert sent(both, SUBSETS, REVISIONS) == sent(recorded("client"), SUBSETS, {})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (f"cluster.outbound|80|v1|{HOST}.upstream_rq_completed", True),
        (f"cluster.outbound|80|v1|{HOST};.upstream_rq_5xx", True),
        (f"cluster.outbound|80||{HOST}.membership_healthy", True),
        (f"cluster.outbound|9000|v2|{HOST};.grpc.14", True),
        (f"cluster.outbound|9000|v2|{HOST};.grpc.0", False),
        ("cluster.inbound|8080||.upstream_rq_completed", True),
        ("cluster.inbound|8080||;.upstream_rq_5xx", True),
        (f"cluster.outbound|80|v1|{HOST}.upstream_rq_active_overflow", False),
        ("cluster.outbound|80|v1|app-10.shop.svc.cluster.local.upstream_rq_completed", False),
        ("istiocustom.istio_requests_total.reporter.=.source", True),
    ],
)
def test_the_filter_leaves_out_what_is_not_read(name: str, wanted: bool) -> None:
    expression = unquote(path(SUBSETS).partition("filter=")[2])
    assert bool(re.search(expression, name)) is wanted
