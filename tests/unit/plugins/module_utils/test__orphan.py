# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run leaves on its Lease: every option comes back, no secret does, and clocks and editors do no harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._lease import OPTIONS, holding
from ansible_collections.progressive.istio.plugins.module_utils._module import CANARY_SPEC, RELEASE_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._orphan import as_begun, kept
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError

SPEC = {**RELEASE_SPEC, **CANARY_SPEC}
SECRET = "c0rrect-h0rse"
NOW = 1_700_000_000.0


def params(**more: Any) -> dict[str, Any]:
    analysis: dict[str, Any] = {"tolerance_floor": 0.05, "prometheus": None, "checks": []}
    begun = {"namespace": "shop", "name": "app", "canary_version": "v2", "analysis": analysis, "retry": True}
    return {**dict.fromkeys(SPEC), **begun, "state": "promoted", "reason": "", "wait": True, **more}


def with_secrets() -> dict[str, Any]:
    prometheus = {"url": "https://prometheus", "bearer_token": SECRET, "headers": {"X-Scope": SECRET}, "password": None}
    page = {"name": "page", "http": {"url": "http://app/", "secret_headers": {"X-Key": SECRET}}, "promql": None}
    return params(analysis={"tolerance_floor": 0.05, "prometheus": prometheus, "checks": [page]})


@pytest.mark.parametrize(("policy", "state"), [("resume", "promoted"), ("abort", "aborted"), ("pause", "paused")])
def test_options_come_back_as_they_were_but_for_what_is_to_be_done(policy: str, state: str) -> None:
    begun = params(steps=[{"weight": 100, "min_seconds": 5, "mirror": 0}], until_step=1, on_drift="abort")
    stored = json.loads(json.dumps(kept(begun, SPEC)))
    found = as_begun(params(on_orphan=policy, canary_version="", steps=[], on_drift="hold"), stored)
    assert found["state"] == state
    assert (found["retry"], found["wait"]) == (False, False)
    assert found["reason"] == ("" if policy == "resume" else "its run had died")
    for name in ("steps", "until_step", "on_drift", "analysis", "canary_version", "namespace", "name"):
        assert found[name] == begun[name]
    assert found["on_orphan"] == policy


def test_no_secret_is_stored_and_a_release_that_needs_one_is_not_resumed_without() -> None:
    stored = kept(with_secrets(), SPEC)
    assert SECRET not in json.dumps(stored)
    assert stored["options"]["analysis"]["prometheus"]["url"] == "https://prometheus"
    assert stored["options"]["analysis"]["checks"][0]["http"]["url"] == "http://app/"
    assert stored["secrets"] == [
        "analysis.checks[1].http.secret_headers",
        "analysis.prometheus.bearer_token",
        "analysis.prometheus.headers",
    ]
    with pytest.raises(ReleaseError, match=r"analysis\.prometheus\.bearer_token.*run promote again"):
        as_begun(params(on_orphan="resume"), stored)
    assert as_begun(params(on_orphan="abort", reason="at night"), stored)["reason"] == "at night"


def test_a_lease_of_an_older_collection_has_no_options() -> None:
    found = as_begun(params(on_orphan="resume", canary_version="v3"), {})
    assert (found["canary_version"], found["state"]) == ("v3", "promoted")


def lease(renewed: Any, holder: str = "host/1", **more: Any) -> dict[str, Any]:
    spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}
    return {"metadata": {"name": "progressive-istio-app", **more}, "spec": spec}


@pytest.mark.parametrize(
    ("renewed", "holder", "late", "left"),
    [
        ("2023-11-14T22:13:19.000000Z", "host/1", False, 15.0),
        ("2023-11-14T22:13:13.000000Z", "host/1", True, 9.0),
        ("2023-11-14T22:12:20.000000Z", "host/1", True, -44.0),
        ("2023-11-14T22:12:20.000000Z", "", False, -44.0),  # given back
        ("2023-11-14T22:20:00.000000Z", "host/1", False, 16.0),  # of a clock that goes before
        ("yesterday", "host/1", False, 16.0),
        (None, "host/1", False, 16.0),
    ],
)
def test_how_long_a_lease_lasts(renewed: Any, holder: str, late: bool, left: float) -> None:
    found = holding(lease(renewed, holder), NOW)
    assert found.late == late
    assert found.left == pytest.approx(left)


@pytest.mark.parametrize("text", ["", "[]", "no JSON", '{"options": {"name": "app"}}'])
def test_options_that_somebody_has_edited_are_none(text: str) -> None:
    found = holding(lease("2023-11-14T22:13:20Z", annotations={OPTIONS: text}), NOW)
    assert found.options == ({"options": {"name": "app"}} if text.startswith("{") else {})
