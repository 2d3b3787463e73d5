# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where stop sends all weight, and what status says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Render = Callable[..., Any]
NAMES = {"app_name": "app-1", "app_namespace": "namespace-1"}


def virtual_service(phase: str = "", uid: str = "u", routes: int = 1) -> dict[str, Any]:
    metadata: dict[str, Any] = {"uid": "u"}
    if phase:
        record = {"uid": uid, "phase": phase, "stable": {"name": "v1"}, "canary": {"name": "v2"}}
        metadata["annotations"] = {"progressive.istio/release": json.dumps(record)}
    ours = [
        {"name": f"r{i}", "route": [{"destination": {"host": "app-1", "subset": s}} for s in ("v1", "v2", "v3")]}
        for i in range(routes)
    ]
    foreign = [{"name": "foreign", "route": [{"destination": {"host": "other"}}]}, {"redirect": {"uri": "/"}}]
    return {"resources": [{"metadata": metadata, "spec": {"http": foreign + ours}}]}


@pytest.mark.parametrize("phase", ["progressing", "held", "aborted"])
def test_stop_uses_the_record(render: Render, phase: str) -> None:
    found = render("canary", "stop.yml.j2", _canary_route=virtual_service(phase), **NAMES)
    assert found == {"stable": "v1", "weights": {"v1": 100, "v2": 0, "v3": 0}, "others": [], "error": ""}


def test_stop_knows_what_moves_along(render: Render) -> None:
    route = virtual_service("progressing")
    annotations = route["resources"][0]["metadata"]["annotations"]
    record = json.loads(annotations["progressive.istio/release"])
    annotations["progressive.istio/release"] = json.dumps(
        {**record, "others": ["edge/web", f"{NAMES['app_namespace']}/more"]}
    )
    found = render(
        "canary", "stop.yml.j2", _canary_route=route, canary_other_route_objects=["edge/web", "more"], **NAMES
    )
    home = NAMES["app_namespace"]
    assert found["others"] == ["edge/web", f"{home}/more"]


def test_stop_obeys_the_variable(render: Render) -> None:
    route = virtual_service("progressing")
    found = render("canary", "stop.yml.j2", _canary_route=route, canary_stable_version="v3", **NAMES)
    assert found["weights"] == {"v1": 0, "v2": 0, "v3": 100}


def test_stop_takes_the_named_route(render: Render) -> None:
    found = render("canary", "stop.yml.j2", _canary_route=virtual_service("held", routes=2), canary_route="r1", **NAMES)
    assert found["error"] == ""


@pytest.mark.parametrize(
    ("route", "variables", "error"),
    [
        ({"resources": []}, {}, "does not exist"),
        (virtual_service(), {}, "has no record of a release"),
        (virtual_service("held", uid="of another object"), {}, "has no record of a release"),
        (virtual_service("promoted"), {}, "the release of VirtualService namespace-1/app-1 to v2 is over"),
        (virtual_service(), {"canary_stable_version": "v9"}, "no http route with subset v9"),
        (virtual_service("held", routes=2), {}, "2 http routes with subset v1"),
        (virtual_service("held"), {"canary_route": "nix"}, "no http route nix with subset v1"),
    ],
)
def test_stop_does_not_guess(render: Render, route: Any, variables: dict[str, str], error: str) -> None:
    found = render("canary", "stop.yml.j2", _canary_route=route, **variables, **NAMES)
    assert error in found["error"]
    assert "set" in found["error"] or "say" in found["error"] or "correct" in found["error"]


def test_status(render: Render) -> None:
    status = {
        "exists": True,
        "phase": "held",
        "record": {
            "id": "9f3c",
            "stable": {"version": "v1"},
            "canary": {"version": "v2"},
            "steps": [{}, {}],
            "step": 1,
            "reason": "no verdict",
        },
        "weights": {
            "intended": {"v1": 90, "v2": 10},
            "applied": {"v1": 90, "v2": 10},
            "programmed": {"asked": 3, "programmed": 2, "lagging": ["namespace-1/load-1"]},
            "observed": {"v1": 0.912, "v2": 0.088},
        },
        "requests_per_second": 99.5,
        "versions": {"v1": {"pods": 2, "ready": 1}},
        "evidence": {"lines": ["namespace-1/app-1  step 1/2  10 %   WAIT", "  errors   v2 0 of 9"]},
        "findings": [{"refuse": True, "text": "an older route"}, {"refuse": False, "text": "a bare pod"}],
        "lease": {"holder": "me"},
    }
    assert render("canary", "status.j2", canary_status=status, **NAMES).splitlines() == [
        "namespace-1/app-1: held",
        "release     9f3c, v1 to v2, step 1 of 2, no verdict",
        "intended    v1 90, v2 10",
        "applied     v1 90, v2 10",
        "observed    v1 91.2, v2 8.8",
        "programmed  in 2 of 3 proxies, not in namespace-1/load-1",
        "requests    99.5 a second",
        "version     v1: 1 of 2 pods ready",
        "judged      namespace-1/app-1  step 1/2  10 %   WAIT",
        "  errors   v2 0 of 9",
        "refusal     an older route",
        "warning     a bare pod",
        "run by      me",
    ]
    nothing = {"exists": False, "weights": {}, "record": None, "lease": None, "evidence": {"verdict": None}}
    assert (
        render("canary", "status.j2", canary_status=nothing, **NAMES).splitlines()[0].endswith("no release on record")
    )


def test_stop_says_where_a_root_delegates_to(render: Render) -> None:
    more = {"name": "more", "namespace": "other"}
    entries = [{"delegate": {"name": "weights"}}, {"delegate": more}, {"redirect": {}}]
    root = {"resources": [{"metadata": {"uid": "u"}, "spec": {"http": entries}}]}
    found = render("canary", "stop.yml.j2", _canary_route=root, **NAMES)
    assert found["error"] == (
        "VirtualService namespace-1/app-1 delegates to namespace-1/weights, other/more: set canary_route_object to the "
        "one that holds the weights"
    )
    held = virtual_service("held")
    held["resources"][0]["spec"]["http"] += entries
    assert render("canary", "stop.yml.j2", _canary_route=held, **NAMES)["error"] == ""
