# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release that is forgotten, by the whole module: what is written, what check mode shows, what it may lack."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ANNOTATION,
    APPROVE,
    PROGRESSING,
    PROMOTED,
    Record,
    Step,
    Version,
)

from .conftest import CORE, NETWORKING, ApiServer, Run, shipped_rights

FORGET: dict[str, Any] = {"namespace": "namespace-1", "name": "app-1", "state": "absent"}
ROUTE = f"{NETWORKING}/virtualservices/app-1"
EVIDENCE = f"{CORE}/configmaps/progressive-istio-app-1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/namespace-1/leases/progressive-istio-app-1"


def released(api: ApiServer, phase: str = PROMOTED, uid: str = "uid-1") -> None:
    """A release is over (or not), and has left all that it leaves."""
    record = Record("1234", uid, Version("v1", "a"), Version("v2", "b"), (Step(100),), 0, phase, 1.0, 2.0)
    notes = {ANNOTATION: record.dumps(), APPROVE: "1234/2", "team": "shop"}
    api.objects[ROUTE]["metadata"]["annotations"] = notes
    api.objects[EVIDENCE] = {"metadata": {"name": "progressive-istio-app-1"}, "data": {"evidence": "secret"}}
    meta = {"name": "progressive-istio-app-1", "namespace": "namespace-1", "resourceVersion": "4"}
    api.objects[LEASE] = {"metadata": meta, "spec": {"holderIdentity": ""}}


def test_everything_of_ours_goes_and_nothing_else(api: ApiServer, run: Run) -> None:
    released(api)
    spec = api.objects[ROUTE]["spec"]
    result = run("istio_canary", **FORGET)
    assert (result["changed"], result.get("failed", False), result["phase"]) == (True, False, "none")
    assert api.objects[ROUTE]["metadata"]["annotations"] == {"team": "shop"}
    assert api.objects[ROUTE]["spec"] == spec
    assert not {EVIDENCE, LEASE} & api.objects.keys()
    assert api.called <= shipped_rights() | {("create", "authorization.k8s.io", "selfsubjectaccessreviews")}
    api.requests.clear()
    again = run("istio_canary", **FORGET)
    assert (again["changed"], again["phase"], api.written) == (False, "none", [])


def test_a_copied_record_goes_too(api: ApiServer, run: Run) -> None:
    released(api, PROGRESSING, "of another object")
    assert run("istio_canary", **FORGET)["changed"]
    assert api.objects[ROUTE]["metadata"]["annotations"] == {"team": "shop"}


def test_check_mode_names_all_of_it_and_writes_nothing(api: ApiServer, run: Run) -> None:
    released(api)
    result = run("istio_canary", check=True, **FORGET)
    assert (result["changed"], result["phase"], api.written) == (True, "planned", [])
    route, evidence, lease = result["diff"]
    assert set(route["before"]["metadata"]["annotations"]) == {ANNOTATION, APPROVE, "team"}
    assert route["after"]["metadata"]["annotations"] == {"team": "shop"}
    assert route["before"]["spec"] == route["after"]["spec"]
    assert [one["before_header"].partition(" ")[0] for one in (evidence, lease)] == ["ConfigMap", "Lease"]
    assert "secret" not in str(result)
    run("istio_canary", **FORGET)
    again = run("istio_canary", check=True, **FORGET)
    assert (again["changed"], again["phase"], again["diff"]) == (False, "none", [])


def test_a_running_release_is_refused(api: ApiServer, run: Run) -> None:
    released(api, PROGRESSING)
    for check in (True, False):
        result = run("istio_canary", check=check, **FORGET)
        assert (result["failed"], result["phase"], api.written) == (True, "refused", [])
        assert "a running release is not forgotten: abort it first" in result["msg"]


@pytest.mark.parametrize("plural", ["configmaps", "leases"])
def test_it_says_which_right_is_missing_before_it_writes(plural: str, api: ApiServer, run: Run) -> None:
    released(api)
    api.denied.add(("delete", plural))
    result = run("istio_canary", **FORGET)
    assert result["failed"]
    assert f"may not delete {plural}" in result["msg"]
    assert api.written == []


def test_a_service_that_is_gone_leaves_nothing_behind(api: ApiServer, run: Run) -> None:
    released(api)
    for kind in ("services", "destinationrules", "virtualservices"):
        api.without(kind)
    assert run("istio_canary", **FORGET)["changed"]
    assert not {EVIDENCE, LEASE} & api.objects.keys()
