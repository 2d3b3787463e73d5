# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role load reads out of a log of fortio."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

FOUND = {
    "ActualQPS": 99.96,
    "ActualDuration": 10004000000,
    "RetCodes": {"-1": 2, "200": 990, "302": 3, "503": 5},
    "DurationHistogram": {
        "Count": 1000,
        "Min": 0.0011,
        "Max": 0.2,
        "Avg": 0.003,
        "Percentiles": [{"Percentile": 50, "Value": 0.0025}, {"Percentile": 99.9, "Value": 0.15}],
    },
}


def test_result(render: Callable[..., Any]) -> None:
    lines = json.dumps(FOUND, indent=2).split("\n")
    # Both streams of a container arrive in one log, line by line.
    noise = [
        "Fortio running at 100 queries per second",
        '{"ts":1,"level":"warn","msg":"x"}',
        "> 0.001 <= 0.002 , 0.0015",
        "All done",
    ]
    mixed = [noise[0], *lines[:3], noise[1], *lines[3:9], noise[2], *lines[9:], noise[3], ""]
    found = render(
        "load",
        "result.yml.j2",
        _load_log={"log_lines": mixed},
        _load_job={"result": {"metadata": {"name": "load-abc"}}},
        load_url="http://x/",
    )
    assert found == {
        "url": "http://x/",
        "job": "load-abc",
        "requests": 1000,
        "ok": 993,
        "bad": 7,
        "rate": 100.0,
        "seconds": 10.0,
        "codes": {"-1": 2, "200": 990, "302": 3, "503": 5},
        "latency_ms": {"min": 1.1, "mean": 3.0, "max": 200.0, "p50": 2.5, "p99.9": 150.0},
    }


def test_the_job_ends_and_is_bounded(render: Callable[..., Any]) -> None:
    job = render(
        "load", "job.yml.j2", load_seconds="30", load_rate="50", load_revision="1-31", load_arguments=["-H", "a: b"]
    )
    assert job["spec"]["activeDeadlineSeconds"] == 150
    template = job["spec"]["template"]
    assert template["metadata"]["annotations"] == {"sidecar.istio.io/nativeSidecar": "true"}
    assert template["metadata"]["labels"]["istio.io/rev"] == "1-31"
    arguments = template["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("-qps") + 1] == "50"
    assert arguments[arguments.index("-t") + 1] == "30s"
    assert arguments[-3:] == ["-H", "a: b", "http://app-1.namespace-1:80/"]
    assert job["metadata"]["generateName"] == "load-"
    named = render("load", "job.yml.j2", load_job="app-1-canary-load")
    assert named["metadata"] == {"name": "app-1-canary-load", "namespace": "namespace-1", "labels": {"app": "load"}}
