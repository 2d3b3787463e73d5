# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's fake mesh says what a real one would, as the collection reads it; and its numbers are what they say."""

from __future__ import annotations

import json

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _proxies, _routes
from ansible_collections.progressive.istio.plugins.module_utils._mesh import proxy_of
from ansible_collections.progressive.istio.tests.bench.clocked import Arrival, percentile
from ansible_collections.progressive.istio.tests.bench.fake_mesh import Json, Mesh, Refused, Size
from ansible_collections.progressive.istio.tests.bench.fleet import reasons
from ansible_collections.progressive.istio.tests.bench.tables import row_of, told

NOW = 1_800_000_000.0
DELAY = 0.25
ROUTE = "/apis/networking.istio.io/v1/namespaces/namespace-1/virtualservices/app-1"
BACKENDS = {version: f"{version}|app-1.namespace-1.svc.cluster.local" for version in ("v1", "v2")}


def mesh(**size: int) -> Mesh:
    return Mesh(Size(**{"proxies": 3, "rate": 100, **size}), [[DELAY]], 1, NOW)


def current(fake: Mesh) -> Json:
    found = fake.get(ROUTE)
    assert found is not None
    return found


def shifted(fake: Mesh, weight: int, at: float) -> Json:
    """The VirtualService after the collection's own patch to that weight of v2."""
    obj = current(fake)
    route = _routes.find_route(obj, ["v1", "v2"], "")
    return fake.write("PATCH", ROUTE, _routes.weight_patch(obj, route, {"v1": 100 - weight, "v2": weight}), at)


def lag(fake: Mesh, proxy: int, at: float) -> str | None:
    obj = current(fake)
    return _proxies.lag(fake.routes(proxy, at), obj, _routes.find_route(obj, ["v1", "v2"], ""))


@pytest.mark.parametrize("size", [{}, {"neighbours": 3}, {"services": 12, "proxies": 30}])
def test_a_proxy_runs_a_change_after_its_delay(size: dict[str, int]) -> None:
    fake = mesh(**size)
    assert lag(fake, 2, NOW + 1) == ""
    shifted(fake, 10, NOW + 10)
    assert str(lag(fake, 2, NOW + 10 + DELAY / 2)).startswith("v1 100 %")
    assert lag(fake, 2, NOW + 10 + DELAY) == ""
    (there,) = _proxies.envoy_routes(fake.routes(2, NOW + 20), current(fake))
    assert there.since == "2027-01-15T08:00:10.250Z"


def test_requests_follow_the_weights_that_the_caller_ran() -> None:
    fake = mesh()
    shifted(fake, 10, NOW + 10 - DELAY)
    body = fake.clusters(2, r"\|(app-1\.namespace-1\.svc\.cluster\.local)", NOW + 20)
    counts, healthy = _proxies.parse_clusters(body, BACKENDS)
    by_version = {key.partition("@")[0]: n for key, n in counts.items()}
    assert by_version == {"v1": (1900, 0), "v2": (100, 0)}
    assert healthy == {"v1": 1, "v2": 1}
    assert [_proxies.parse_inbound(fake.clusters(p, "^inbound", NOW + 20), [8080])[0] for p in (0, 1, 2)] == [
        1900,
        100,
        0,
    ]


def test_istiod_tells_of_what_is_on_its_way() -> None:
    fake = mesh()
    shifted(fake, 10, NOW)
    before, meanwhile, after = (_proxies.parse_syncz(fake.syncz(NOW + DELAY + later)) for later in (-0.1, -0.001, 0.0))
    assert {sync.trouble != "" for sync in meanwhile.values()} == {True}
    assert {sync.trouble for known in (before, after) for sync in known.values()} == {""}
    assert all(after[name].sent != before[name].sent for name in after)


def test_a_write_on_an_old_version_is_refused_as_an_api_server_does() -> None:
    fake = mesh()
    obj = current(fake)
    patch = _routes.weight_patch(obj, _routes.find_route(obj, ["v1", "v2"], ""), {"v1": 90, "v2": 10})
    fake.write("PATCH", ROUTE, patch, NOW)
    with pytest.raises(Refused, match=r"test of .* failed") as wrong:
        fake.write("PATCH", ROUTE, patch, NOW)
    assert wrong.value.status == 422
    stale = [operation for operation in patch if operation["op"] != "test"]
    with pytest.raises(Refused, match="modified") as late:
        fake.write("PATCH", ROUTE, stale, NOW)
    assert late.value.status == 409


def test_pods_are_proxies_that_a_selector_finds() -> None:
    fake = mesh(services=12, proxies=30)
    every = json.loads(fake.list("/api/v1/pods", "service.istio.io/canonical-name"))["items"]
    assert len({proxy.uid for pod in every if (proxy := proxy_of(pod)) and proxy.should_answer}) == 30
    own = json.loads(fake.list("/api/v1/namespaces/namespace-1/pods", "app=app-1"))["items"]
    assert [pod["metadata"]["labels"]["version"] for pod in own] == ["v1", "v2"]


def test_a_row_tells_parts_and_how_often_we_knew_too_early() -> None:
    arrivals = [Arrival(0.0, 0.1, [0.2, 0.3], 0.4), Arrival(0.0, 0.1, [0.2, 0.5], 0.4)]
    row = row_of("fake", 2, "istio_weight", arrivals)
    assert row["delays"] == [[0.2, 0.3], [0.2, 0.5]]
    assert told(row).split() == [
        "fake",
        "2",
        "istio_weight",
        "2",
        "0.300",
        "0.500",
        "-0.100",
        "0.100",
        "0.400",
        "0.400",
        "1",
    ]


def test_percentiles() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([3.0, 1.0], 0.5) == 1.0


def test_releases_that_failed_for_the_same_reason_are_told_once() -> None:
    lines = [
        'fatal: [app-1]: FAILED! => {"changed": false, "msg": "no port-forward to web/app-1-v2: timed out after 5 s"}',
        "fatal: [app-2]: FAILED! => no port-forward to web/app-22-v2: timed out after 10 s",
        "fatal: [app-3]: FAILED! => something else",
        "ok: [app-4]",
    ]
    assert reasons(lines) == {"no port-forward to #: timed out after # s": 2, "something else": 1}
