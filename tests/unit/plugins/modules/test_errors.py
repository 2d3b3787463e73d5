# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong input and missing things: whole modules give one clear line, no traceback, and nothing is written."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _begin

from .conftest import CORE, HOST, ApiServer, Run, pod

SERVICE: dict[str, Any] = {"namespace": "namespace-1", "name": "app-1"}
WEIGHT: dict[str, Any] = {**SERVICE, "weights": {"v1": 90, "v2": 10}, "verify": "none"}
CANARY: dict[str, Any] = {**SERVICE, "canary_version": "v2"}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("istio_weight", WEIGHT),
    ("istio_canary", CANARY),
    ("istio_canary_info", {**SERVICE, "seconds": 0.1}),
    ("istio_gate", SERVICE),
]
NO_CLIENT = "a client without a sidecar ignores weights: label its namespace for injection"
FORWARD = "The account that runs this needs get and create on pods/portforward"


def refused(result: dict[str, Any], api: ApiServer) -> str:
    """The error, after making sure that it is one line, and that the server was asked to write nothing."""
    assert result["failed"] is True
    assert not result.get("changed")
    assert "exception" not in result
    text: str = result["msg"]
    assert "\n" not in text
    assert api.written == []
    return text


def start_proxies(api: ApiServer) -> None:
    """The pods' proxies run; the server lets nobody through to them."""
    for version in ("v1", "v2"):
        status = api.objects[f"{CORE}/pods/app-1-{version}"]["status"]
        status["containerStatuses"] = [{"name": "istio-proxy", "ready": True, "state": {"running": {}}}]


# ---------------------------------------------------------------- the way to the cluster


@pytest.fixture
def dead_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_unreachable(name: str, options: dict[str, Any], api: ApiServer, run: Run, dead_port: int) -> None:
    host = f"http://127.0.0.1:{dead_port}"
    text = refused(run(name, **options, host=host), api)
    todo = "mend host or kubeconfig, or run it again when it answers"
    if name == "istio_weight":
        todo = "run it again: it writes only what is still missing"
    assert text == f"{host} does not answer: [Errno 111] Connection refused; {todo}"


def test_unreachable_in_check_mode(api: ApiServer, run: Run, dead_port: int) -> None:
    result = run("istio_canary", check=True, **CANARY, host=f"http://127.0.0.1:{dead_port}")
    assert "does not answer: [Errno 111] Connection refused; mend host or kubeconfig" in refused(result, api)


def test_a_name_that_does_not_resolve(api: ApiServer, run: Run) -> None:
    text = refused(run("istio_weight", **WEIGHT, host="http://api.invalid"), api)
    assert text.startswith("http://api.invalid does not answer: ")
    assert "object at 0x" not in text
    assert "Connection(" not in text


def test_not_a_tls_server(api: ApiServer, run: Run) -> None:
    host = api.url.replace("http:", "https:")
    text = refused(run("istio_weight", **WEIGHT, host=host), api)
    assert text.startswith(f"{host} does not answer: ")
    assert "SSL" in text


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_no_kubeconfig(name: str, options: dict[str, Any], api: ApiServer, run: Run) -> None:
    text = refused(run(name, **options, host=None, api_key=None, kubeconfig="/no/such/file"), api)
    assert text.startswith("cannot use the cluster's access options: ")
    # The oldest kubernetes.core takes the path for a secret.
    assert re.search(r" \(kubeconfig (/no/such/file|\*+)\); mend it, or give host and api_key$", text)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_is_overloaded(status: int, api: ApiServer, run: Run) -> None:
    api.broken = status
    text = refused(run("istio_weight", **WEIGHT), api)
    assert text.startswith(f"{api.url} answers {status} to GET /apis/networking.istio.io/v1/")
    assert text.endswith("; run it again: it writes only what is still missing")


def test_a_server_that_is_broken(api: ApiServer, run: Run) -> None:
    api.broken = 500
    text = refused(run("istio_gate", **SERVICE), api)
    assert text == f"GET {CORE}/configmaps/progressive-istio-app-1: etcdserver: leader changed"


def test_an_account_that_is_not_known(api: ApiServer, run: Run) -> None:
    api.broken = 401
    text = refused(run("istio_canary", **CANARY), api)
    assert text == f"{api.url} does not accept the account (etcdserver: leader changed); renew its access"


# ---------------------------------------------------------------- permissions


def forbidden(verb: str, plural: str, name: str = "", group: str = "networking.istio.io") -> str:
    what = f'{plural} "{name}"' if name else plural
    return (
        f'{what} is forbidden: User "deployer" cannot {verb} resource "{plural}" in API group "{group}" '
        'in the namespace "namespace-1"; '
        "give the account that runs this that permission"
    )


@pytest.mark.parametrize(
    ("module", "options", "verb", "plural", "name", "group"),
    [
        ("istio_weight", WEIGHT, "get", "virtualservices", "app-1", "networking.istio.io"),
        ("istio_weight", WEIGHT, "list", "destinationrules", "", "networking.istio.io"),
        ("istio_canary", CANARY, "get", "services", "app-1", ""),
        ("istio_canary", CANARY, "list", "pods", "", ""),
        ("istio_canary", CANARY, "list", "destinationrules", "", "networking.istio.io"),
        ("istio_canary", CANARY, "list", "virtualservices", "", "networking.istio.io"),
        ("istio_canary", CANARY, "get", "virtualservices", "app-1", "networking.istio.io"),
        ("istio_canary_info", SERVICE, "get", "services", "app-1", ""),
        ("istio_gate", SERVICE, "get", "configmaps", "progressive-istio-app-1", ""),
    ],
)
def test_a_read_is_forbidden(
    module: str,
    options: dict[str, Any],
    verb: str,
    plural: str,
    name: str,
    group: str,
    api: ApiServer,
    run: Run,
) -> None:
    api.denied = {(verb, plural)}
    told, *more = refused(run(module, **options), api).split(". In all it lacks: ")
    assert told == forbidden(verb, plural, name, group)
    assert more == (["list pods, list pods in all namespaces"] if plural == "pods" else [])


def test_the_first_read_that_is_forbidden_names_all_that_are(api: ApiServer, run: Run) -> None:
    api.denied = {("list", "destinationrules"), ("list", "virtualservices"), ("create", "pods")}
    assert refused(run("istio_canary", **CANARY), api) == (
        forbidden("list", "destinationrules") + ". In all it lacks: list virtualservices.networking.istio.io, "
        "list destinationrules.networking.istio.io, create pods/portforward"
    )


def test_the_write_is_forbidden(api: ApiServer, run: Run) -> None:
    api.denied = {("patch", "virtualservices")}
    before = dict(api.objects)
    result = run("istio_weight", **WEIGHT)
    assert result["failed"] is True
    assert result["msg"] == forbidden("patch", "virtualservices", "app-1")
    assert api.objects == before
    assert len(api.written) == 1, "asked once, and not again"


def test_all_that_a_release_may_not_write_is_named_before_the_first_write(
    api: ApiServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_begin, "require_clients", lambda *_given: None)  # this API server has no proxies
    api.denied = {("patch", "virtualservices"), ("create", "leases")}
    assert refused(run("istio_canary", **CANARY), api) == (
        "in namespace namespace-1 the account that runs this may not patch virtualservices.networking.istio.io, "
        "create leases.coordination.k8s.io; nothing was written. Grant it that"
    )


def test_port_forwards_are_forbidden(api: ApiServer, run: Run) -> None:
    start_proxies(api)
    api.denied = {("get", "pods")}
    text = refused(run("istio_canary", **CANARY), api)
    assert text.startswith(
        "none of the 2 proxies of the mesh could be read, for example no port-forward to namespace-1/"
    )
    assert "app-1-v1: 403 Forbidden" in text
    assert text.endswith(FORWARD)
    text = refused(run("istio_weight", **{**WEIGHT, "verify": "proxies"}), api)
    assert text == (
        "no proxy tells what it runs of VirtualService namespace-1/app-1, for example namespace-1/app-1-v1 does not "
        "tell: no port-forward to namespace-1/app-1-v1: 403 Forbidden; nothing was written. "
        f"{FORWARD}; or use verify: none"
    )


def statistics(**sent: int) -> str:
    """Of a proxy that has sent so many requests to each version."""
    return "".join(
        f'envoy_cluster_upstream_rq_completed{{cluster_name="outbound|80|{version}|{HOST}"}} {number}\n'
        for version, number in sent.items()
    )


def test_statistics_are_asked_for_where_no_port_may_be_forwarded(api: ApiServer, run: Run) -> None:
    start_proxies(api)
    for version in ("v1", "v2"):
        api.texts[f"{CORE}/pods/app-1-{version}:15090/proxy/stats/prometheus"] = statistics(v1=900, v2=100)
    result = run("istio_canary", check=True, **CANARY)
    (text,) = [event["text"] for event in result["events"] if event["text"].startswith("WARNING  no port-forward")]
    assert "Proxies are asked for their statistics instead" in text
    assert (result["phase"], api.written) == ("planned", [])
    text = refused(run("istio_canary", **CANARY, cohort=[{"headers": {"x-tester": {"exact": "yes"}}}]), api)
    assert text.startswith("cohort, sticky and mirror need pods/portforward: ")
    there = run("istio_weight", **{**WEIGHT, "verify": "proxies", "weights": {"v1": 100, "v2": 0}})
    assert (there["changed"], there["proxies"]["asked"]) == (False, 0)
    for path in api.texts:
        api.texts[path] = statistics()
    text = refused(run("istio_weight", **{**WEIGHT, "verify": "proxies"}), api)
    assert "no proxy has sent a request by VirtualService namespace-1/app-1 yet; nothing was written" in text


# ---------------------------------------------------------------- missing objects


def test_no_service(api: ApiServer, run: Run) -> None:
    api.without("services")
    expected = "Service namespace-1/app-1 does not exist; deploy it, or mend namespace and name"
    assert refused(run("istio_canary", **CANARY), api) == expected
    assert refused(run("istio_canary_info", **SERVICE), api) == expected


def test_no_virtual_service(api: ApiServer, run: Run) -> None:
    api.without("virtualservices")
    missing = "VirtualService namespace-1/app-1 does not exist; deploy it, or mend namespace and name"
    assert refused(run("istio_weight", **WEIGHT), api) == missing
    assert refused(run("istio_canary", **CANARY, route_object="app-1"), api) == missing
    assert refused(run("istio_canary", **CANARY), api) == (
        f"no VirtualService in namespace namespace-1 has {HOST} among its hosts; make one with all weight on the "
        "stable version, when the proxies know the subsets: the role app does so in the right order (tasks_from: route)"
    )


def test_versions_of_a_service_without_a_route_object(api: ApiServer, run: Run) -> None:
    api.without("virtualservices")
    start_proxies(api)
    result = run("istio_canary_info", **SERVICE)
    assert (result["routed"], result["exists"], result["weights"]["applied"]) == (False, False, {})
    assert (result["versions"]["v1"]["ready"], api.written) == (1, [])
    proxies = result["versions"]["v1"]["proxies"]
    assert (proxies["asked"], proxies["healthy"]) == (2, 0)
    assert all("does not tell: no port-forward to namespace-1/app-1-v" in text for text in proxies["without"])


def test_no_destination_rule(api: ApiServer, run: Run) -> None:
    api.without("destinationrules")
    assert refused(run("istio_canary", **CANARY), api) == (
        f"no DestinationRule in namespace namespace-1 has subsets for {HOST}; "
        "a release needs one subset for each version"
    )
    assert refused(run("istio_weight", **WEIGHT), api) == (
        f"no DestinationRule has subset v1, v2 for {HOST}, its requests would be answered with 503; add it first. "
        "There are: no subsets"
    )


def test_a_subset_that_no_rule_has(api: ApiServer, run: Run) -> None:
    for path, obj in api.objects.items():
        if "destinationrules" in path:
            obj["spec"]["subsets"].pop()
    assert refused(run("istio_weight", **WEIGHT), api) == (
        f"no DestinationRule has subset v2 for {HOST}, its requests would be answered with 503; add it first. "
        "There are: v1"
    )


def test_no_evidence(api: ApiServer, run: Run) -> None:
    assert refused(run("istio_gate", **SERVICE), api) == "no release of namespace-1/app-1 has stored evidence"


def test_unknown_versions_and_routes(api: ApiServer, run: Run) -> None:
    assert refused(run("istio_canary", **SERVICE, canary_version="v9"), api) == (
        "Service namespace-1/app-1 has no version 'v9' (subset of its DestinationRule, or Service of an HTTPRoute); "
        "there are: v1, v2"
    )
    assert refused(run("istio_weight", **{**WEIGHT, "weights": {"v1": 50, "v9": 50}}), api) == (
        "VirtualService namespace-1/app-1 has no route with exactly the destinations v1, v9; "
        "there are: http[0] (main): v1, v2"
    )
    assert refused(run("istio_weight", **WEIGHT, route="nope"), api) == (
        "VirtualService namespace-1/app-1 has no routes named 'nope'; named routes there: main"
    )
    assert refused(run("istio_canary", **CANARY, route="nope"), api) == (
        f"VirtualService namespace-1/app-1 has no routes to {HOST} named 'nope'; "
        "there are: http[0] (main): v1, v2. Say which one with 'route' (its name)"
    )


# ---------------------------------------------------------------- no sidecars, no pods


def test_no_proxy_in_the_mesh(api: ApiServer, run: Run) -> None:
    assert NO_CLIENT in refused(run("istio_canary", **CANARY), api)
    assert NO_CLIENT in refused(run("istio_canary", check=True, **CANARY), api)
    assert refused(run("istio_weight", **{**WEIGHT, "verify": "proxies"}), api) == (
        "no proxy in the mesh runs a route of VirtualService namespace-1/app-1: none is there; nothing was written. "
        f"{NO_CLIENT[0].upper()}{NO_CLIENT[1:]}, restart it, or use verify: none"
    )


def test_a_service_without_sidecars(api: ApiServer, run: Run) -> None:
    for version in ("v1", "v2"):
        api.objects[f"{CORE}/pods/app-1-{version}"] = pod(version, sidecar=False)
    assert refused(run("istio_canary", **CANARY), api) == (
        "no pod of v2 or v1 has an Istio sidecar; weights need them. "
        "Label the namespace for injection (istio-injection=enabled or istio.io/rev) and restart its workloads"
    )


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_version_that_is_not_ready(version: str, api: ApiServer, run: Run) -> None:
    api.objects[f"{CORE}/pods/app-1-{version}"] = pod(version, ready=False)
    assert refused(run("istio_canary", **CANARY), api) == (
        f"{version} has no ready pod (pods of its subset: 1); weight would be answered with 503. "
        "Deploy it and wait until it is ready"
    )


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"v1": -10, "v2": 110}, "weights.v1 is -10; a weight cannot be negative"),
        ({"v1": "-10", "v2": "110"}, "weights.v1 is -10; a weight cannot be negative"),
        ({"v1": 0, "v2": 0}, "weights are all 0; at least one destination needs a positive weight"),
        ({}, "weights is empty; name each destination with its weight, for example {v1: 90, v2: 10}"),
        ({"v1": "--5", "v2": 1}, "weights.v1 is '--5'; a whole number from 0 up is needed"),
        ({"v1": "²", "v2": 1}, "weights.v1 is '²'; a whole number from 0 up is needed"),
        ({"v1": 12.5}, "weights.v1 is 12.5; a whole number from 0 up is needed"),
        ({"v1": None}, "weights.v1 is None; a whole number from 0 up is needed"),
    ],
)
def test_wrong_weights(weights: dict[str, Any], text: str, api: ApiServer, run: Run) -> None:
    assert refused(run("istio_weight", **{**WEIGHT, "weights": weights}), api) == text
    assert api.requests == [], "known before anybody is asked"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": []}, "steps is empty; give at least one, for example [{weight: 10}, {weight: 100}]"),
        (
            {"steps": [{"weight": 0}, {"weight": 100}]},
            "steps[1].weight is 0, so nobody sees the canary; give a weight from 1 to 100, a mirror, or a cohort",
        ),
        (
            {"cohort": [{}]},
            "cohort[1] is empty, it would be everybody; give headers, cookies or source_labels",
        ),
        (
            {"sticky": {"cookie": "a b"}},
            "sticky.cookie is 'a b'; a cookie's name is needed (letters, digits, - and _)",
        ),
        ({"steps": [{"weight": 101}]}, "steps[1].weight is 101; a whole number from 0 to 100 is needed"),
        (
            {"steps": [{"weight": 50}, {"weight": 50}]},
            "steps[2].weight is 50 after 50; weights must rise from step to step",
        ),
        (
            {"steps": [{"weight": 50}]},
            "the last step has weight 50; a release ends at 100 (use until_step to wait before it)",
        ),
        (
            {"steps": [{"weight": 100, "min_seconds": -1}]},
            "steps[1].min_seconds is -1; it cannot be negative",
        ),
        (
            {"steps": [{"weight": 10, "pause": True}, {"weight": 100}]},
            "steps[1].pause: a release begins with its first step; who starts it approves that",
        ),
        ({"stable_version": "v2"}, "canary_version and stable_version are both 'v2'"),
        ({"verify_timeout": 0}, "verify_timeout is 0.0; at least 1 s is needed"),
        ({"analysis": {"interval": 0.01}}, "analysis.interval is 0.01; at least 0.2 s is needed"),
        (
            {"analysis": {"tolerance_ratio": 0.5}},
            "analysis.tolerance_ratio: expected a number from 1 to 100, got 0.5",
        ),
    ],
)
def test_wrong_options_of_a_release(options: dict[str, Any], text: str, api: ApiServer, run: Run) -> None:
    result = run("istio_canary", **{**CANARY, **options})
    assert refused(result, api) == text
    assert (result["phase"], result["finished"], result["events"]) == ("refused", True, [])
    assert api.requests == []


def test_no_version_and_no_release_under_way(api: ApiServer, run: Run) -> None:
    assert refused(run("istio_canary", **{**CANARY, "canary_version": ""}), api) == (
        "canary_version is empty; say which version (subset) is to be released: none is under way that could go on"
    )


def test_stable_is_another_version_than_said(api: ApiServer, run: Run) -> None:
    assert refused(run("istio_canary", **CANARY, stable_version="v0"), api) == (
        "stable_version is 'v0', but the traffic of VirtualService namespace-1/app-1 is on 'v1'"
    )


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (
            {"weight": 10, "n_c": 1, "x_c": 2, "n_b": 1, "x_b": 0},
            "windows[1]: window.x_c: expected 0 to n_c = 1, got 2",
        ),
        (
            {"weight": 110, "n_c": 1, "x_c": 0, "n_b": 1, "x_b": 0},
            "windows[1]: window.weight: expected 0 to 100, got 110",
        ),
    ],
)
def test_wrong_windows(window: dict[str, int], text: str, api: ApiServer, run: Run) -> None:
    assert refused(run("istio_gate", windows=[window]), api) == text


# ---------------------------------------------------------------- and when nothing is wrong


def test_a_weight_is_written_once_and_checked_without_a_write(api: ApiServer, run: Run) -> None:
    checked = run("istio_weight", check=True, **WEIGHT)
    assert checked["changed"] is True
    assert checked["before"] == {"v1": 100, "v2": 0}
    assert checked["after"] == {"v1": 90, "v2": 10}
    assert [query for _path, query in api.queries if "dryRun=All" in query]
    done = run("istio_weight", **{**WEIGHT, "weights": {"v1": "90", "v2": "10"}})
    assert (done["failed"], done["changed"], done["after"]) == (False, True, {"v1": 90, "v2": 10})
    same = run("istio_weight", **WEIGHT)
    assert (same["failed"], same["changed"]) == (False, False)
    assert len(api.written) == 1


def test_the_gate_judges_what_it_is_given(run: Run) -> None:
    bad = run("istio_gate", windows=[{"weight": 50, "n_c": 500, "x_c": 100, "n_b": 500, "x_b": 0}])
    assert (bad["failed"], bad["changed"], bad["verdict"]) == (False, False, "fail")
    none = run("istio_gate", windows=[])
    assert (none["failed"], none["verdict"]) == (False, "no_data")
