# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes Events on the Service, and an API server that does not take them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster
from ansible_collections.progressive.istio.plugins.module_utils._events import NOTE_BYTES, EventWriter, event

from .conftest import ApiServer, service

PATH = "/apis/events.k8s.io/v1/namespaces/namespace-1/events"
META = {"name": "app-1", "namespace": "namespace-1", "uid": "uid-1"}


def writer(api: ApiServer, said: list[str]) -> EventWriter:
    cluster = Cluster(SimpleNamespace(params={"host": api.url, "api_key": "secret-token"}, fail_json=None))
    return EventWriter(cluster, service, "me", said.append)


def test_it_is_about_the_service() -> None:
    found = event(META, "CanaryHeld", "HELD  step 1/3", 1_700_000_000.25, "me", warning=True)
    assert found["eventTime"] == "2023-11-14T22:13:20.250000Z"
    assert found["regarding"] == {"apiVersion": "v1", "kind": "Service", **META}
    assert (found["type"], found["reason"], found["note"]) == ("Warning", "CanaryHeld", "HELD  step 1/3")
    assert event(META, "CanaryStep", "", 0.0, "", warning=False)["type"] == "Normal"


def test_a_long_text_is_cut_between_its_letters() -> None:
    note = event(META, "CanaryHeld", "ä" * NOTE_BYTES, 0.0, "me", warning=True)["note"]
    assert note == "ä" * (NOTE_BYTES // 2)


def test_where_it_is_forbidden_it_is_said_once_and_not_tried_again(api: ApiServer) -> None:
    said: list[str] = []
    api.denied.add(("create", "events"))
    told = writer(api, said)
    for _time in range(3):
        told.tell("CanaryStarted", "v1 -> v2")
    assert [path for _method, path in api.requests].count(PATH) == 1
    assert len(said) == 1
    assert said[0].startswith("not told as Kubernetes Events: ")


@pytest.mark.parametrize("status", [500, 503])
def test_trouble_harms_nobody(api: ApiServer, status: int) -> None:
    said: list[str] = []
    told = writer(api, said)
    told.tell("CanaryStarted", "v1 -> v2")
    api.broken = status
    told.tell("CanaryStep", "step 2/3")
    assert said == []
    assert [path for _method, path in api.requests].count(PATH) == 2
