# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""istio_gate about a past span, asked through the API server by real HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .conftest import HOST, ApiServer, Run

PROMETHEUS = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query"
GATE = {"namespace": "namespace-1", "name": "app-1", "prometheus": {"service": "monitoring/prometheus:9090"}}
HALVES = {"begin": "30m", "halves": True}
VERSIONS = {"begin": "30m", "canary": "v2", "stable": "v1"}


def answer(reporter: str, bad: dict[tuple[str, str], int]) -> str:
    """Samples of the last hour, 100 requests a scrape; ``bad``: so many of them, by pod and version."""
    now = time.time()
    times = [now - 3600 + 15 * number for number in range(241)]
    result: list[dict[str, Any]] = []
    for (pod, version), failed in bad.items():
        labels = {"reporter": reporter, "namespace": "namespace-1", "pod": pod, "destination_service": HOST}
        labels |= {"destination_canonical_revision": version, "response_flags": "-"}
        for code, each in (("200", 100 - failed), ("500", failed)):
            values = [[at, str(each * number)] for number, at in enumerate(times)]
            result.append({"metric": labels | {"response_code": code}, "values": values})
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


def test_two_halves_of_the_pods(api: ApiServer, run: Run) -> None:
    api.texts[PROMETHEUS] = answer("destination", {(f"app-1-{n}", "v1"): 1 for n in range(4)})
    result = run("istio_gate", **GATE, past=HALVES)
    assert (result["verdict"], result["changed"]) == ("pass", False)
    assert result["history"][-1]["verdict"] == "pass"
    assert time.strptime(result["history"][-1]["time"], "%Y-%m-%dT%H:%M:%SZ")
    assert result["queries"][0].startswith("istio_requests_total{destination_service=~")
    assert api.written == []
    api.texts[PROMETHEUS] = answer("destination", {("app-1-1", "v1"): 20, ("app-1-2", "v1"): 0})
    assert run("istio_gate", **GATE, past=HALVES)["verdict"] == "fail"


def test_two_versions_of_the_past(api: ApiServer, run: Run) -> None:
    api.texts[PROMETHEUS] = answer("source", {("client", "v1"): 0, ("client", "v2"): 9})
    result = run("istio_gate", **GATE, past=VERSIONS)
    assert (result["verdict"], result["details"]["counts"]["x_b"]) == ("fail", 0)
    api.texts[PROMETHEUS] = answer("source", {("client", "v1"): 0, ("client", "v2"): 0})
    assert run("istio_gate", **GATE, past=VERSIONS)["verdict"] == "pass"


@pytest.mark.parametrize(
    ("past", "text"),
    [
        ({"begin": "1h"}, "past: expected either halves: true, or canary and stable"),
        ({"begin": "1h", "canary": "v2"}, "past: expected either halves: true, or canary and stable"),
        ({"begin": "1h", "canary": "v2", "stable": "v1", "halves": True}, "past: expected either halves: true, or"),
        ({"begin": "1h", "canary": "v9", "stable": "v1"}, "past.canary: expected one of v1, v2, got 'v9'"),
        ({"begin": "soon", "halves": True}, "past.begin: expected 2026-11-27T10:00:00Z, or how long ago: 24h; got"),
        (HALVES, "Prometheus in Service monitoring/prometheus:9090: "),
    ],
)
def test_what_is_wrong_is_named(api: ApiServer, run: Run, past: dict[str, Any], text: str) -> None:
    result = run("istio_gate", **GATE, past=past)
    assert result["failed"]
    assert result["msg"].startswith(text)
    assert api.written == []
