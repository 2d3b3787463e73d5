# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of real proxies are read as they are meant; tests/unit/fixtures says where they come from."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._proxies import (
    EnvoyRoute,
    ProxyError,
    clusters_path,
    envoy_routes,
    lag,
    parse_clusters,
    parse_inbound,
    parse_stats,
    parse_syncz,
    routes_path,
    stats_path,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    all_routes,
    find_route,
    pick_route,
    weight_patch,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import apply_patch as apply

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
HOST = "app-1.namespace-1.svc.cluster.local"
Shares = dict[str, int]


def body(when: str, name: str) -> bytes:
    return (FIXTURES / when / name).read_bytes()


def parsed(when: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body(when, name))
    return found


def dumped(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()


def route_of(when: str) -> tuple[dict[str, Any], Any]:
    obj = parsed(when, "virtual_service.json")
    return obj, pick_route(obj, HOST, "v2")


def config(*routes: tuple[str, Shares], source: str = "namespace-1/virtual-service/app-1", host: str = HOST) -> bytes:
    """A config_dump as recorded, with these (name, weight by subset) in place of the one route to the service.

    One positive weight alone becomes a plain cluster, as older istiod do.
    """
    dump = parsed("split", "routes.json")
    virtual_host = dump["configs"][0]["route_config"]["virtual_hosts"][0]
    template = virtual_host["routes"][0]
    virtual_host["routes"] = []
    for name, shares in routes:
        route = copy.deepcopy(template)
        route["name"] = name
        route["metadata"]["filter_metadata"]["istio"]["config"] = f"/apis/networking.istio.io/v1/namespaces/{source}"
        clusters = [{"name": f"outbound|80|{s}|{host}", "weight": w} for s, w in shares.items() if w]
        if len(clusters) == 1:
            del route["route"]["weighted_clusters"]
            route["route"]["cluster"] = clusters[0]["name"]
        else:
            route["route"]["weighted_clusters"]["clusters"] = clusters
        virtual_host["routes"].append(route)
    return dumped(dump)


def virtual_service(*routes: tuple[str, Shares], host: str = HOST) -> dict[str, Any]:
    http = [
        {
            **({"name": name} if name else {}),
            "route": [{"destination": {"host": host, "subset": s}, "weight": w} for s, w in shares.items()],
        }
        for name, shares in routes
    ]
    return {
        "metadata": {"name": "app-1", "namespace": "namespace-1", "resourceVersion": "1"},
        "spec": {"hosts": [host], "http": http},
    }


def backends(*versions: str) -> dict[str, str]:
    return {version: f"{version}|{HOST}" for version in versions}


BACKENDS = backends("v1", "v2", "v3", "v10")


# ---------------------------------------------------------------- weights


def test_a_recorded_proxy_runs_what_its_object_says() -> None:
    for when in ("before", "split"):
        obj, route = route_of(when)
        assert lag(body(when, "routes.json"), obj, route) == ""


def test_a_recorded_proxy_lags_behind_the_next_weight() -> None:
    obj, route = route_of("before")
    after = apply(obj, weight_patch(obj, route, {"v1": 90, "v2": 10}))
    assert lag(body("before", "routes.json"), after, pick_route(after, HOST, "v2")) == (
        f"v1 100 % since {parsed('before', 'routes.json')['configs'][0]['last_updated'][:19]}Z"
    )
    assert lag(body("split", "routes.json"), after, pick_route(after, HOST, "v2")) == ""
    obj, route = route_of("split")
    after = apply(obj, weight_patch(obj, route, {"v1": 100, "v2": 0}))
    assert lag(body("split", "routes.json"), after, pick_route(after, HOST, "v2")) == (
        f"v1 90 %, v2 10 % since {parsed('split', 'routes.json')['configs'][0]['last_updated'][:19]}Z"
    )


def test_only_routes_of_the_object_are_looked_at() -> None:
    def found(namespace: str, name: str) -> list[EnvoyRoute]:
        return envoy_routes(body("split", "routes.json"), {"metadata": {"namespace": namespace, "name": name}})

    (only,) = found("namespace-1", "app-1")
    assert (only.name, only.shares) == ("app-1", {f"v1|{HOST}": 0.9, f"v2|{HOST}": 0.1})
    assert found("namespace-1", "app") == found("namespace", "app-1") == []


SPLIT_SINCE = parsed("split", "routes.json")["configs"][0]["last_updated"][:19] + "Z"
ONE: list[tuple[str, Shares]] = [("main", {"v1": 90, "v2": 10})]
TESTERS: list[tuple[str, Shares]] = [("main", {"v2": 100}), ("main", {"v1": 90, "v2": 10})]


@pytest.mark.parametrize(
    ("routes", "index", "there", "expected"),
    [
        (ONE, 0, [("main", {"v1": 90, "v2": 10})], ""),
        (ONE, 0, [("main", {"v1": 9, "v2": 1})], ""),
        (ONE, 0, [("main", {"v1": 75, "v2": 25})], "v1 75 %, v2 25 %"),
        (ONE, 0, [("main", {"v2": 100})], "v2 100 %"),
        (ONE, 0, [("main.beta", {"v1": 90, "v2": 10}), ("main.ios", {"v1": 90, "v2": 10})], ""),
        (ONE, 0, [("main.beta", {"v1": 90, "v2": 10}), ("main.ios", {"v1": 100})], "v1 100 %"),
        (ONE, 0, [("mainly", {"v1": 90, "v2": 10})], None),
        (ONE, 0, [("main", {"v1": 90, "v9": 10})], None),
        (ONE, 0, [], None),
        ([("main", {"v1": 100, "v2": 0})], 0, [("main", {"v1": 100})], ""),
        ([("main", {"v1": 7})], 0, [("main", {"v1": 100})], ""),
        # Unnamed routes, one for testers beside the weighted one: both have to run.
        ([("", {"v2": 100}), ("", {"v1": 90, "v2": 10})], 1, [("", {"v2": 100}), ("", {"v1": 90, "v2": 10})], ""),
        (
            [("", {"v2": 100}), ("", {"v1": 90, "v2": 10})],
            1,
            [("", {"v2": 100}), ("", {"v1": 95, "v2": 5})],
            "v1 95 %, v2 5 %",
        ),
        (TESTERS, 1, [("main.testers", {"v2": 100}), ("main", {"v1": 90, "v2": 10})], ""),
        (TESTERS, 1, [("main.testers", {"v2": 100}), ("main", {"v1": 50, "v2": 50})], "v1 50 %, v2 50 %"),
        # Testers' route alone is no proof that the weighted one is there.
        (TESTERS, 1, [("main.testers", {"v2": 100})], "v2 100 %"),
        # A foreign route of the same object by another name does not matter.
        (
            [*ONE, ("other", {"v1": 100})],
            0,
            [("main", {"v1": 90, "v2": 10}), ("other", {"v2": 100})],
            "",
        ),
    ],
)
def test_lag(
    routes: list[tuple[str, Shares]], index: int, there: list[tuple[str, Shares]], expected: str | None
) -> None:
    obj = virtual_service(*routes)
    assert lag(config(*there), obj, all_routes(obj)[index]) == (expected and f"{expected} since {SPLIT_SINCE}")


def test_a_redirect_of_the_same_name_goes_nowhere_and_that_is_meant() -> None:
    obj = virtual_service(("", {"v1": 90, "v2": 10}))
    obj["spec"]["http"].insert(0, {"match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/"}})
    there = config(("", {}), ("", {"v1": 90, "v2": 10}))
    assert lag(there, obj, all_routes(obj)[0]) == ""
    assert lag(config(("", {})), obj, all_routes(obj)[0]) == f"nothing since {SPLIT_SINCE}"
    # Without one in the object, it is a route whose Service is missing: Envoy answers 500.
    del obj["spec"]["http"][0]
    assert lag(there, obj, all_routes(obj)[0]) == f"nothing since {SPLIT_SINCE}"


def test_what_istiod_says_of_its_proxies() -> None:
    """As istiod 1.31 answers: one that took everything, one that rejects, one that is silent; and as older ones do."""
    route, listener = (f"type.googleapis.com/x.{kind}" for kind in ("RouteConfiguration", "Listener"))

    def entry(name: str, **resources: dict[str, str]) -> dict[str, Any]:
        kinds = {"route": route, "listener": listener, "endpoint": "type.googleapis.com/x.ClusterLoadAssignment"}
        return {"proxy": name, "resources": {kinds[kind]: status for kind, status in resources.items()}}

    same = {"sent": "2026-11-23T17:55:53Z/67", "acked": "2026-11-23T17:55:53Z/67"}
    other = {"sent": "2026-11-23T17:55:53Z/67", "acked": "2026-11-23T17:54:00Z/66"}
    told = parse_syncz(
        json.dumps(
            [
                entry("c-1.web", route=same, listener=same, endpoint=other),
                entry("c-2.web", route={**other, "lastError": "Invalid\n regex"}, listener=same),
                entry("c-3.web", route=same, listener=other),
                {"proxy": "c-4.web", "route_sent": other["sent"], "route_acked": other["acked"]},
            ]
        ).encode()
    )
    late = "it has not acknowledged what istiod sent at 2026-11-23T17:55:53Z"
    assert told["web/c-1"].sent == "2026-11-23T17:55:53Z/67 2026-11-23T17:55:53Z/67"
    assert told["web/c-4"].sent == "None 2026-11-23T17:55:53Z/67"
    assert {name: sync.trouble for name, sync in told.items()} == {
        "web/c-1": "",
        "web/c-2": "it rejects the update: Invalid regex",
        "web/c-3": late,
        "web/c-4": late,
    }
    with pytest.raises(ProxyError, match=r"^/debug/syncz is not what is expected: b'"):
        parse_syncz(b"nothing")


def test_weights_of_connections_stand_in_filter_chains() -> None:
    destinations = [{"destination": {"host": HOST, "subset": v}, "weight": w} for v, w in (("v1", 90), ("v2", 10))]
    obj = {"metadata": {"name": "db", "namespace": "namespace-1"}, "spec": {"tcp": [{"route": destinations}]}}

    def listener(source: str, proxy: dict[str, Any]) -> bytes:
        typed = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", **proxy}
        path = f"/apis/networking.istio.io/v1alpha3/namespaces/namespace-1/virtual-service/{source}"
        metadata = {"filter_metadata": {"istio": {"config": path}}}
        chains = [{"metadata": metadata, "filters": [{"name": "stats"}, {"typed_config": typed}]}]
        state = {"listener": {"filter_chains": chains}, "last_updated": "2026-11-23T14:34:14.9Z"}
        return json.dumps({"configs": [{"name": "10.96.0.7_5432", "active_state": state}]}).encode()

    def cluster(subset: str) -> str:
        return f"outbound|5432|{subset}|{HOST}"

    def both(one: int, two: int) -> dict[str, Any]:
        clusters = [{"name": cluster("v1"), "weight": one}, {"name": cluster("v2"), "weight": two}]
        return {"weighted_clusters": {"clusters": clusters}}

    (route,) = all_routes(obj)
    assert lag(listener("db", both(9, 1)), obj, route) == ""
    assert lag(listener("db", both(1, 1)), obj, route) == "v1 50 %, v2 50 % since 2026-11-23T14:34:14Z"
    assert lag(listener("db", {"cluster": cluster("v1")}), obj, route) == "v1 100 % since 2026-11-23T14:34:14Z"
    assert lag(listener("other", both(1, 1)), obj, route) is None
    path = unquote(routes_path([5432], "tcp"))
    assert path.startswith("/config_dump?resource=dynamic_listeners&")
    pattern = path.partition("name_regex=")[2]
    assert re.fullmatch(pattern, "10.96.0.7_5432")
    assert not re.fullmatch(pattern, "10.96.0.7_15432")


def test_an_http_route_is_an_internal_virtual_service_to_a_proxy() -> None:
    hosts = {name: f"{name}.namespace-1.svc.cluster.local" for name in ("app-1-v1", "app-1-v2")}
    obj = {
        "kind": "HTTPRoute",
        "metadata": {"name": "app-1", "namespace": "namespace-1"},
        "spec": {
            "parentRefs": [{"kind": "Service", "name": "app-1", "port": 80}],
            "rules": [{"backendRefs": [{"name": name, "weight": w} for name, w in zip(hosts, (90, 10), strict=True)]}],
        },
    }

    def proxy(source: str, name: str, *weights: int) -> bytes:
        clusters = [{"name": f"outbound|80||{h}", "weight": w} for h, w in zip(hosts.values(), weights, strict=True)]
        path = f"/apis/networking.istio.io/v1alpha3/namespaces/namespace-1/virtual-service/{source}"
        metadata = {"filter_metadata": {"istio": {"config": path}}}
        route = {"name": name, "metadata": metadata, "route": {"weighted_clusters": {"clusters": clusters}}}
        return json.dumps({"configs": [{"route_config": {"virtual_hosts": [{"routes": [route]}]}}]}).encode()

    (route,) = all_routes(obj)
    for source in (
        "namespace-1~80~app-1.namespace-1.svc.cluster.local",
        "namespace-1~app-1.namespace-1.svc.example.org",
        "namespace-1~edge-istio-autogenerated-k8s-gateway-http~shop.example.com",
        "app-1~0~istio-autogenerated-k8s-gateway",
        "app-1-0-istio-autogenerated-k8s-gateway",
    ):
        assert lag(proxy(source, "namespace-1.app-1.0", 90, 10), obj, route) == ""
        assert lag(proxy(source, "namespace-1.app-1.0", 100, 0), obj, route) == "app-1-v1 100 %"
    for source in (
        "app-1",
        "namespace-1~80~app-10.namespace-1.svc.cluster.local",
        "app-10~0~istio-autogenerated-k8s-gateway",
    ):
        assert lag(proxy(source, "namespace-1.app-1.0", 90, 10), obj, route) is None
    merged = proxy("namespace-1~80~app-1.namespace-1.svc.cluster.local", "namespace-1.another.0", 90, 10)
    assert lag(merged, obj, route) is None, "an HTTPRoute that is merged with this one"


def test_a_service_whose_name_begins_like_another() -> None:
    obj = virtual_service(*ONE)
    route = find_route(obj, ["v1", "v2"])
    ten = "app-10.namespace-1.svc.cluster.local"
    assert lag(config(*ONE, source="namespace-1/virtual-service/app-10", host=ten), obj, route) is None
    assert lag(config(*ONE, host=ten), obj, route) is None


@pytest.mark.parametrize("source", ["namespace-1/virtual-service/other", "namespace-2/virtual-service/app-1"])
def test_a_foreign_virtual_service_for_the_same_host(source: str) -> None:
    obj = virtual_service(*ONE)
    assert lag(config(("main", {"v1": 50, "v2": 50}), source=source), obj, find_route(obj, ["v1", "v2"])) is None


def test_a_destination_that_was_taken_out_is_still_ours() -> None:
    obj = virtual_service(("main", {"v1": 100}))
    there = config(("main", {"v1": 90, "v2": 10}))
    assert lag(there, obj, all_routes(obj)[0]) is None
    assert lag(there, obj, all_routes(obj)[0], subsets=["v1", "v2"]) == f"v1 90 %, v2 10 % since {SPLIT_SINCE}"


def test_short_hosts_and_destinations_without_subset() -> None:
    obj = virtual_service(("main", {"v1": 90, "v2": 10}), host="app-1")
    assert lag(config(*ONE), obj, all_routes(obj)[0]) == ""
    bare = virtual_service(("main", {"": 100}))
    assert lag(config(("main", {"": 100})), bare, all_routes(bare)[0]) == ""


@pytest.mark.parametrize("answer", [b"", b"invalid path", b"{"])
def test_no_json(answer: bytes) -> None:
    obj = virtual_service(*ONE)
    with pytest.raises(ProxyError, match=r"^config_dump is not JSON: b'"):
        lag(answer, obj, all_routes(obj)[0])
    with pytest.raises(ProxyError, match=r"^clusters is not JSON: b'"):
        parse_clusters(answer, BACKENDS)


def test_a_proxy_without_any_route() -> None:
    obj = virtual_service(*ONE)
    assert lag(b"{}", obj, all_routes(obj)[0]) is None
    assert parse_clusters(b"{}", BACKENDS) == ({}, {})


# ---------------------------------------------------------------- paths


def test_routes_path_names_the_configurations_of_a_port() -> None:
    pattern = unquote(routes_path([80]).partition("name_regex=")[2])
    for name in ("80", "app-1.namespace-1.svc.cluster.local:80", "http.8080", "https.443.https.gateway.namespace-1"):
        assert re.fullmatch(pattern, name), name
    for name in ("8080", "9080", "app-1.namespace-1.svc.cluster.local:8080", "inbound|80||"):
        assert not re.fullmatch(pattern, name), name
    anything = unquote(routes_path([]).partition("name_regex=")[2])
    assert re.fullmatch(anything, "9080")


def test_paths_are_quoted_and_match_what_was_recorded() -> None:
    assert " " not in stats_path(backends("v1")) + clusters_path(BACKENDS) + routes_path([80, 81])
    stats = unquote(stats_path(backends("v1", "v2")).partition("filter=")[2])
    for line in body("split", "stats.txt").decode().splitlines():
        name = line.rpartition(":")[0]
        assert bool(re.search(stats, name)) == (not name.endswith("_total")), line
    for other in ("v3", "v10"):
        assert not re.search(stats, f"cluster.outbound|80|{other}|{HOST};.upstream_rq_completed")
    assert not re.search(stats, f"cluster.outbound|80|v1|x-{HOST};.upstream_rq_completed")
    clusters = unquote(clusters_path(BACKENDS).partition("filter=")[2])
    assert re.search(clusters, f"outbound|80|v1|{HOST}")
    assert not re.search(clusters, "outbound|80|v1|app-1xnamespace-1.svc.cluster.local")
    assert not re.search(clusters, f"outbound|80|v1|my-{HOST}")


# ---------------------------------------------------------------- counters


def counted(text: bytes, of: dict[str, str]) -> Mapping[str, tuple[int, int]]:
    sent = parse_stats(text, of)
    assert sent is not None
    return sent.counts


def test_recorded_counters() -> None:
    assert counted(body("before", "stats.txt"), BACKENDS) == {"v1": (157, 0)}
    assert counted(body("split", "stats.txt"), BACKENDS) == {"v1": (662, 42), "v2": (23, 0)}
    counts, healthy = parse_clusters(body("split", "clusters.json"), BACKENDS)
    assert counts == {"v1@10.244.0.7:8080": (642, 0), "v2@10.244.0.8:8080": (23, 0), "v3@10.244.0.9:8080": (0, 0)}
    assert healthy == {"v1": 1, "v2": 1, "v3": 1}


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"cluster.outbound|80|v1|app-10.namespace-1.svc.cluster.local;.upstream_rq_completed: 5\n"]
)
def test_a_stats_matcher_that_drops_them(text: bytes) -> None:
    assert parse_stats(text, BACKENDS) is None


def test_stats_of_several_ports_add_up_with_and_without_a_semicolon() -> None:
    text = (
        f"cluster.outbound|80|v1|{HOST};.upstream_rq_completed: 5\n"
        f"cluster.outbound|80|v1|{HOST};.upstream_rq_5xx: 1\n"
        f"cluster.outbound|8080|v1|{HOST}.upstream_rq_completed: 7\n"
        f"cluster.outbound|80|v10|{HOST};.upstream_rq_completed: 100\n"
        "cluster.outbound|80|v1|app-10.namespace-1.svc.cluster.local;.upstream_rq_completed: 1000\n"
    )
    assert counted(text.encode(), BACKENDS) == {"v1": (12, 1), "v10": (100, 0)}


def test_one_service_for_each_version() -> None:
    """As with an HTTPRoute: the clusters have hosts of their own, and no subset."""
    two = {name: f"|{name}.namespace-1.svc.cluster.local" for name in ("app-1-v1", "app-1-v10")}
    text = "".join(
        f"cluster.outbound|80||{name}.namespace-1.svc.cluster.local;.upstream_rq_completed: {count}\n"
        for name, count in (("app-1", 9), ("app-1-v1", 5), ("app-1-v10", 3), ("app-1-v2", 1))
    )
    pattern = unquote(stats_path(two).partition("filter=")[2])
    asked = [line for line in text.splitlines() if re.search(pattern, line.rpartition(":")[0])]
    assert [line.rpartition(" ")[2] for line in asked] == ["5", "3"]
    assert counted(text.encode(), two) == {"app-1-v1": (5, 0), "app-1-v10": (3, 0)}
    assert re.search(unquote(clusters_path(two).partition("filter=")[2]), f"outbound|80|{two['app-1-v1']}")


def test_a_retried_request_is_one_request_and_two_attempts() -> None:
    """The proxy tried a bad pod first, then a good one: the client got one good answer."""
    stats = f"cluster.outbound|80|v2|{HOST};.upstream_rq_completed: 1\n".encode()
    assert counted(stats, BACKENDS) == {"v2": (1, 0)}
    dump = parsed("split", "clusters.json")
    for cluster in dump["cluster_statuses"]:
        if "|v2|" in cluster["name"]:
            (good,) = cluster["host_statuses"]
            bad = copy.deepcopy(good)
            bad["address"]["socket_address"]["address"] = "10.244.0.99"
            for host, success, error in ((good, "1", "0"), (bad, "0", "1")):
                host["stats"] = [{"name": "rq_success", "value": success}, {"name": "rq_error", "value": error}]
            cluster["host_statuses"].append(bad)
    counts, _healthy = parse_clusters(dumped(dump), BACKENDS)
    assert counts["v2@10.244.0.8:8080"] == (1, 0)
    assert counts["v2@10.244.0.99:8080"] == (1, 1)


def test_what_comes_in_counts_by_the_ports_of_the_pod() -> None:
    def cluster(name: str, **stats: str) -> dict[str, Any]:
        return {"name": name, "host_statuses": [{"stats": [{"name": k, "value": v} for k, v in stats.items()]}]}

    body = dumped(
        {
            "cluster_statuses": [
                cluster("inbound|8080||", rq_success="40", rq_error="2", rq_total="43"),
                cluster("inbound|9090||", rq_success="7", rq_total="7"),
                {"name": "inbound|8081||"},
                cluster("InboundPassthroughCluster", rq_success="5"),
            ]
        }
    )
    assert parse_inbound(body, {8080, 8081}) == (42, 2)
    assert parse_inbound(body, {8081}) == (0, 0)


@pytest.mark.parametrize(
    ("status", "healthy"),
    [
        ({"eds_health_status": "HEALTHY"}, 1),
        ({}, 1),
        ({"eds_health_status": "UNKNOWN"}, 1),
        ({"eds_health_status": "UNHEALTHY"}, 0),
        ({"eds_health_status": "DRAINING"}, 0),
        ({"eds_health_status": "HEALTHY", "failed_outlier_check": True}, 0),
        ({"eds_health_status": "HEALTHY", "failed_active_health_check": True}, 0),
        ({"eds_health_status": "HEALTHY", "failed_outlier_check": False}, 1),
    ],
)
def test_healthy_endpoints(status: dict[str, Any], healthy: int) -> None:
    dump = parsed("split", "clusters.json")
    for cluster in dump["cluster_statuses"]:
        if "|v2|" in cluster["name"]:
            cluster["host_statuses"][0]["health_status"] = status
    assert parse_clusters(dumped(dump), BACKENDS)[1] == {"v1": 1, "v2": healthy, "v3": 1}


def test_a_version_without_endpoints_has_none_and_another_service_is_not_ours() -> None:
    dump = parsed("split", "clusters.json")
    for cluster in dump["cluster_statuses"]:
        if "|v2|" in cluster["name"]:
            del cluster["host_statuses"]
        if "|v3|" in cluster["name"]:
            cluster["name"] = "outbound|80|v3|app-10.namespace-1.svc.cluster.local"
    assert parse_clusters(dumped(dump), BACKENDS)[1] == {"v1": 1, "v2": 0}


def test_a_version_has_what_it_has_at_every_port_that_is_used() -> None:
    dump = parsed("split", "clusters.json")
    first = [cluster for cluster in dump["cluster_statuses"] if cluster["name"].startswith("outbound|80|")]
    for port, without in ((81, ("|v2|",)), (82, ("|v1|", "|v2|", "|v3|"))):
        for cluster in copy.deepcopy(first):
            cluster["name"] = cluster["name"].replace("|80|", f"|{port}|")
            if any(subset in cluster["name"] for subset in without):
                cluster["host_statuses"] = []
            dump["cluster_statuses"].append(cluster)
    assert parse_clusters(dumped(dump), BACKENDS)[1] == {"v1": 1, "v2": 0, "v3": 1}
