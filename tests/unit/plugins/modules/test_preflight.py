# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preflight of whole modules: what is read for it, with which permissions, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _begin, _preview
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld

from .conftest import CORE, HOST, NETWORKING, ApiServer, Json, Run, destination_rule, pod, virtual_service

SERVICE: dict[str, Any] = {"namespace": "namespace-1", "name": "app-1"}
CANARY: dict[str, Any] = {**SERVICE, "canary_version": "v2"}
NO_WRITE = "in namespace namespace-1 the account that runs this may not patch virtualservices.networking.istio.io"
OLDER = (
    f"VirtualService namespace-1/older is for {HOST} too and is older (2025-01-01T00:00:00Z, ours "
    "2026-01-01T00:00:00Z): sidecars in namespace namespace-1 take it and ignore VirtualService namespace-1/app-1; "
    "put the routes into one of them, or take the host out of the other"
)
YOUNGER = (
    f"VirtualService namespace-1/younger is for {HOST} too, and sidecars ignore it, as VirtualService "
    "namespace-1/app-1 goes before it; take the host out of it, or delete it"
)


@pytest.fixture(autouse=True)
def clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """This API server has no proxies that could be read."""
    for module in (_begin, _preview):
        monkeypatch.setattr(module, "require_clients", lambda *_given: None)
    monkeypatch.setattr(_preview, "RATE_SECONDS", 0.01)


def another(api: ApiServer, name: str, created: str) -> None:
    """A second VirtualService for the host; the release is told which one is its own."""
    found = virtual_service()
    found["metadata"] |= {"name": name, "uid": name, "creationTimestamp": created}
    api.objects[f"{NETWORKING}/virtualservices/{name}"] = found


def ends_there(api: ApiServer) -> None:
    """A release that begins is told what it may not write, before it writes."""
    api.denied |= {("patch", "virtualservices")}


def said(result: Json) -> list[str]:
    return [event["text"] for event in result["events"]]


def test_nothing_is_found(api: ApiServer, run: Run) -> None:
    ends_there(api)
    result = run("istio_canary", **CANARY)
    assert result["msg"].startswith(NO_WRITE)
    assert said(result) == []
    planned = run("istio_canary", check=True, **CANARY)
    assert (planned["phase"], planned["findings"]) == ("planned", [])
    assert planned["msg"] == "would release v2 (now 0 %) against v1"
    assert run("istio_canary_info", **SERVICE, seconds=0.1)["findings"] == []
    assert api.written == []


def test_a_refusal(api: ApiServer, run: Run) -> None:
    another(api, "older", "2025-01-01T00:00:00Z")
    result = run("istio_canary", **CANARY, route_object="app-1")
    assert (result["failed"], result["phase"], result["finished"], result["msg"]) == (True, "refused", True, OLDER)
    planned = run("istio_canary", check=True, **CANARY, route_object="app-1")
    assert (planned["failed"], planned["phase"], planned["msg"], planned["plan"]) == (True, "refused", OLDER, [])
    assert planned["findings"] == [{"refuse": True, "text": OLDER}]
    info = run("istio_canary_info", **SERVICE, route_object="app-1", seconds=0.1)
    assert (info["failed"], info["findings"]) == (False, planned["findings"])
    assert api.written == []


def test_a_refusal_that_is_not_enforced(api: ApiServer, run: Run) -> None:
    another(api, "older", "2025-01-01T00:00:00Z")
    ends_there(api)
    result = run("istio_canary", **CANARY, route_object="app-1", preflight="warn")
    assert result["msg"].startswith(NO_WRITE)
    assert said(result) == [f"WARNING  {OLDER}"]
    planned = run("istio_canary", check=True, **CANARY, route_object="app-1", preflight="warn")
    assert (planned["failed"], planned["phase"]) == (False, "planned")
    assert planned["findings"] == [{"refuse": True, "text": OLDER}]


def test_a_warning(api: ApiServer, run: Run) -> None:
    another(api, "younger", "2027-01-01T00:00:00Z")
    ends_there(api)
    result = run("istio_canary", **CANARY, route_object="app-1")
    assert result["msg"].startswith(NO_WRITE)
    assert said(result) == [f"WARNING  {YOUNGER}"]
    planned = run("istio_canary", check=True, **CANARY, route_object="app-1")
    assert planned["msg"] == "would release v2 (now 0 %) against v1; with 1 warning of what may not follow the weights"
    assert said(planned)[:2] == [f"WARNING  {YOUNGER}", planned["msg"]]
    assert planned["findings"] == [{"refuse": False, "text": YOUNGER}]


def test_what_may_not_be_listed_is_a_warning(api: ApiServer, run: Run) -> None:
    another(api, "younger", "2027-01-01T00:00:00Z")
    api.not_installed = {"rollouts"}
    api.denied = {("list", kind, "") for kind in ("namespaces", "virtualservices", "destinationrules")}
    api.denied |= {("list", "canaries")}
    ends_there(api)
    result = run("istio_canary", **CANARY, route_object="app-1")
    assert result["msg"].startswith(NO_WRITE)
    younger, unseen = said(result)
    assert younger == f"WARNING  {YOUNGER}"
    assert unseen == (
        "WARNING  namespaces outside namespace namespace-1, virtualservices.networking.istio.io outside namespace "
        "namespace-1, destinationrules.networking.istio.io outside namespace namespace-1, canaries.flagger.app in "
        "namespace namespace-1 could not be looked at: the account that runs this may not list them. What they do to "
        "the weights is not known; grant it that"
    )
    assert ("GET", "/api/v1/namespaces/namespace-1") in api.requests
    assert api.written == []


def test_an_own_namespace_that_may_not_be_read_either(api: ApiServer, run: Run) -> None:
    api.denied = {("list", "namespaces"), ("get", "namespaces"), ("list", "canaries"), ("list", "rollouts")}
    api.not_installed = set()
    ends_there(api)
    result = run("istio_canary", **CANARY)
    assert result["msg"].startswith(NO_WRITE)
    assert [text[:70] for text in said(result)] == [
        "WARNING  namespaces outside namespace namespace-1, canaries.flagger.ap"
    ]


def test_labels_of_namespaces_count(api: ApiServer, run: Run) -> None:
    labels = {"istio.io/dataplane-mode": "ambient"}
    api.objects["/api/v1/namespaces/namespace-1"] = {"metadata": {"name": "namespace-1", "labels": labels}}
    text = run("istio_canary", **CANARY)["msg"]
    assert text.startswith("Namespace namespace-1 is in ambient mode (istio.io/dataplane-mode): ")
    api.denied = {("list", "namespaces")}
    assert run("istio_canary", **CANARY)["msg"] == text


def test_other_controllers_are_asked_in_the_namespace(api: ApiServer, run: Run) -> None:
    api.not_installed = set()
    path = "/apis/flagger.app/v1beta1/namespaces/namespace-1/canaries"
    api.objects[f"{path}/app-1"] = {
        "metadata": {"name": "app-1", "namespace": "namespace-1"},
        "spec": {"targetRef": {"name": "app-1"}, "service": {"port": 80}},
    }
    assert run("istio_canary", **CANARY)["msg"].startswith("Flagger (Canary namespace-1/app-1) moves Service")
    paths = {path for _method, path in api.requests}
    assert {path, "/apis/argoproj.io/v1alpha1/namespaces/namespace-1/rollouts"} <= paths


@pytest.mark.parametrize(("requests", "refused"), [(5, True), (0, False)])
def test_who_has_sent_requests_is_a_client(
    requests: int, refused: bool, api: ApiServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Look(0.0, {"uid": ProxyLook("namespace-2/web", "requests:0", 0.0, {"v1": (requests, 0)})}, {})
    monkeypatch.setattr(LiveWorld, "look", lambda _self: look)
    core, networking = (path.replace("namespace-1", "namespace-2") for path in (CORE, NETWORKING))
    client, rule = pod("web"), destination_rule()
    for found in (client, rule):
        found["metadata"]["namespace"] = "namespace-2"
    rule["spec"] = {"host": "*.local"}
    api.objects |= {f"{core}/pods/web": client, f"{networking}/destinationrules/app-1": rule}
    ends_there(api)
    result = run("istio_canary", **CANARY)
    text = (
        "proxies in namespace namespace-2 use DestinationRule namespace-2/app-1 (*.local) and no other, without subset"
    )
    assert result["msg"].startswith(text if refused else NO_WRITE)
    assert any(text in line for line in said(result)) != refused


def test_a_release_that_is_under_way_is_not_looked_over_again(api: ApiServer, run: Run) -> None:
    another(api, "older", "2025-01-01T00:00:00Z")
    result = run("istio_canary", **SERVICE, route_object="app-1", state="aborted")
    assert (result["phase"], result["failed"]) == ("none", False)
    assert not any(path.endswith("/canaries") for _method, path in api.requests)


def test_a_server_that_breaks_down_is_told(api: ApiServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = api.answer

    def breaks(method: str, path: str, body: bytes) -> tuple[int, Json | str]:
        return (500, {"message": "etcd is away"}) if path.endswith("/canaries") else answer(method, path, body)

    monkeypatch.setattr(api, "answer", breaks)
    result = run("istio_canary", **CANARY)
    path = "/apis/flagger.app/v1beta1/namespaces/namespace-1/canaries"
    assert (result["failed"], result["msg"]) == (True, f"GET {path}: etcd is away")
