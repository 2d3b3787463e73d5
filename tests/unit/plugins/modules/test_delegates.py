# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole modules on a delegate: which one is found, and what is said where nobody delegates to it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _begin

from .conftest import HOST, NETWORKING, ApiServer, Json, Run, virtual_service

WEIGHT: dict[str, Any] = {"namespace": "namespace-1", "name": "weights", "weights": {"v1": 90, "v2": 10}}
CANARY: dict[str, Any] = {"namespace": "namespace-1", "name": "app-1", "canary_version": "v2"}
REACHES_NOBODY = "VirtualService namespace-1/weights has no hosts, and no VirtualService delegates to it"
PATH = f"{NETWORKING}/virtualservices"


@pytest.fixture(autouse=True)
def clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """This API server has no proxies that could be read."""
    monkeypatch.setattr(_begin, "require_clients", lambda *_given: None)


def put(api: ApiServer, name: str, *delegates: str, namespace: str = "namespace-1", **spec: Any) -> Json:
    """A VirtualService; with names, one that delegates to these of namespace-1."""
    found = virtual_service()
    found["metadata"] |= {"name": name, "uid": name, "namespace": namespace}
    entries = [{"delegate": {"name": one, "namespace": "namespace-1"}} for one in delegates]
    found["spec"] |= {"http": entries or found["spec"]["http"], **spec}
    api.objects[f"{PATH.replace('namespace-1', namespace)}/{name}"] = found
    return found


def test_the_one_delegate_is_found_beside_a_root_for_the_host(api: ApiServer, run: Run) -> None:
    put(api, "app-1", "weights")
    put(api, "weights", hosts=[])
    put(api, "other", hosts=[], http=[{"route": [{"destination": {"host": "app-2", "subset": "v2"}}]}])
    info = run("istio_canary_info", namespace="namespace-1", name="app-1", seconds=0.1)
    assert info["weights"]["applied"] == {"v1": 100, "v2": 0}
    # No proxy is there that could run it.
    programmed = info["weights"]["programmed"]
    assert programmed["lagging"] == [
        "VirtualService namespace-1/weights: no proxy runs it by VirtualService namespace-1/app-1 http[0]"
    ]
    assert info["findings"] == []


def test_a_route_object_with_weights_of_its_own_goes_before_a_delegate(api: ApiServer, run: Run) -> None:
    put(api, "weights", hosts=[])
    api.denied |= {("patch", "virtualservices")}
    info = run("istio_canary_info", namespace="namespace-1", name="app-1", seconds=0.1)
    assert info["weights"]["programmed"]["lagging"] == []


def test_several_delegates(api: ApiServer, run: Run) -> None:
    del api.objects[f"{PATH}/app-1"]
    for name in ("first", "second"):
        put(api, name, hosts=[])
    text = (
        f"2 VirtualServices in namespace namespace-1 without hosts (delegates) hold weights of {HOST}: first, second; "
        "say which one with route_object"
    )
    assert run("istio_canary", **CANARY)["msg"] == text
    assert run("istio_canary", **CANARY, route_object="first")["msg"].startswith("VirtualService namespace-1/first has")
    assert api.written == []


def test_a_root_that_is_named_instead_of_its_delegate(api: ApiServer, run: Run) -> None:
    put(api, "app-1", "weights")
    put(api, "weights", hosts=[])
    text = run("istio_canary", **CANARY, route_object="app-1")["msg"]
    assert "(it delegates to namespace-1/weights: name that with route_object, if the weights are there)" in text


def test_nobody_delegates_to_it(api: ApiServer, run: Run) -> None:
    del api.objects[f"{PATH}/app-1"]
    put(api, "weights", hosts=[])
    before = copy.deepcopy(api.objects)
    refused = run("istio_canary", **CANARY)
    assert (refused["phase"], refused["msg"].startswith(REACHES_NOBODY)) == ("refused", True)
    for verify in ("proxies", "istiod"):
        result = run("istio_weight", **WEIGHT, verify=verify)
        assert result["failed"]
    assert run("istio_weight", **WEIGHT)["msg"].startswith(f"{REACHES_NOBODY}: its weights reach nobody; ")
    assert (api.written, api.objects) == ([], before)
    assert run("istio_weight", **WEIGHT, verify="none")["changed"]


def test_a_root_in_a_namespace_that_may_not_be_listed(api: ApiServer, run: Run) -> None:
    del api.objects[f"{PATH}/app-1"]
    put(api, "weights", hosts=[])
    put(api, "root", "weights", namespace="namespace-2")
    no_proxy = "no proxy in the mesh runs a route of VirtualService namespace-1/weights: none is there"
    assert run("istio_weight", **WEIGHT, verify_timeout=0.1)["msg"].startswith(no_proxy)
    api.denied |= {("list", "virtualservices", "")}
    assert run("istio_weight", **WEIGHT, verify_timeout=0.1)["msg"].startswith(REACHES_NOBODY)
    put(api, "near", "weights")
    assert run("istio_weight", **WEIGHT, verify_timeout=0.1)["msg"].startswith(no_proxy)
