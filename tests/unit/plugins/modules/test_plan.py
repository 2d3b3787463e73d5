# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode as a plan: what it is made from, and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _preview
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld

from .conftest import ApiServer, Json, Run

CANARY: dict[str, Any] = {"namespace": "namespace-1", "name": "app-1", "canary_version": "v2"}
STEPS = [{"weight": 10, "min_seconds": 60}, {"weight": 50, "min_seconds": 60}, {"weight": 100, "min_seconds": 60}]
TOLD = "proxyStatsMatcher with cluster.outbound makes them"


@dataclass
class Client:
    """A client's proxy: what its counters show, look by look, two seconds apart."""

    pace: float = 100.0
    past: int = 9_800  # stable's requests before
    bad: float = 0.001
    slow: float = 0.0005
    histogram: bool = True
    flows: bool = True
    served: float = 1.0  # of what stable's own proxies serve, per request of this client
    sampled: bool = False
    looks: Iterator[int] = field(default_factory=count)

    def look(self) -> Look:
        """The next one."""
        passed = 2.0 * next(self.looks)
        n = self.past + round(self.pace * passed)
        proxy = ProxyLook("namespace-1/web", "requests:0", 0.0, {"v1": (n, round(self.bad * n))} if n else {})
        if self.flows and n:
            proxy = replace(proxy, flows={"v1@10.0.0.1:8080": (n, n, 0)})
        if self.histogram and n:
            quick = n - round(self.slow * n)
            proxy = replace(proxy, histograms={"v1": {100.0: quick, 1000.0: n, float("inf"): n}})
        came = {"pod": ProxyLook("v1", "served:0", 0.0, {"v1": (round(self.served * n), 0)})}
        return Look(1000.0 + passed, {"uid": proxy}, {}, came, self.sampled)


@pytest.fixture
def plan(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``plan(client, **options)``: the result of istio_canary in check mode."""
    for name in ("require_clients", "RATE_SECONDS"):
        monkeypatch.setattr(_preview, name, (lambda *_given: None) if name == "require_clients" else 0.001)

    def call(client: Client, **options: Any) -> Json:
        monkeypatch.setattr(LiveWorld, "look", lambda _self: client.look())
        return run("istio_canary", check=True, **{**CANARY, "steps": STEPS, **options})

    return call


def said(result: Json) -> list[str]:
    return [event["text"] for event in result["events"]]


def test_a_plan(plan: Any, api: ApiServer) -> None:
    result = plan(Client())
    assert said(result) == [result["msg"], *result["lines"]]
    assert result["lines"][0] == (
        "plan  at 100 requests a second, v1 with 0.1 % bad; judged: bad, without answer, slower than 100 ms"
    )
    assert [line.split()[1] for line in result["lines"][2:]] == ["step", "10", "50", "100", "all"]
    assert result["plan_warnings"] == []
    assert "goal" not in result
    forecast: Mapping[str, Any] = result["forecast"]
    assert (forecast["requests_per_second"], forecast["not_judged"]) == (100.0, {})
    rates = {metric["name"]: metric["rate"] for metric in forecast["metrics"]}
    assert rates == {"errors": pytest.approx(0.001), "unanswered": 0.0, "latency": pytest.approx(0.0005)}
    assert [line["phase"] for line in result["plan"]] == ["progressing"] * 3 + ["promoted"]
    first = result["plan"][0]
    assert first["pass"]["share"] == 1.0
    assert first["text"].startswith("10 %: at least 60 s and ")
    assert [bad["times"] for bad in first["catches"]] == [2, 5, 10]
    assert api.written == []


def test_what_is_not_judged_and_why(plan: Any) -> None:
    assert plan(Client(histogram=False))["forecast"]["not_judged"] == {
        "latency": f"the proxies keep no histogram of it; {TOLD}"
    }
    off = plan(Client(), analysis={"latency": False})
    assert "plan  not judged: latency, as analysis.latency is false" in off["lines"]
    blind = plan(Client(histogram=False, flows=False))["forecast"]["not_judged"]
    assert set(blind) == {"unanswered", "latency"}
    sampled = plan(Client(histogram=False, sampled=True))["forecast"]["not_judged"]
    assert sampled == {"latency": "a Prometheus as the source is not asked for it"}


@pytest.mark.parametrize(
    ("client", "analysis", "text"),
    [
        (Client(pace=0.0), {}, "there is no traffic, so this plan decides nothing"),
        (Client(served=2.0), {}, "nothing would pass: coverage 50 %, 80 % needed"),
        (
            Client(bad=0.02),
            {"slo": 0.01},
            "nothing would pass: v1 itself has 2 % bad, more than its analysis.slo of 1 %",
        ),
        (Client(), {"observe": True}, "analysis.observe: verdicts are only said, nothing is taken back"),
        (Client(past=100), {}, "only 300 requests of v1 are known, too few to choose an edge by"),
        (Client(pace=0.0, past=0), {}, "nothing is known of v1 yet: it is taken to be without errors"),
    ],
)
def test_warnings(client: Client, analysis: Json, text: str, plan: Any) -> None:
    result = plan(client, analysis=analysis)
    assert any(warning.startswith(text) for warning in result["plan_warnings"]), result["plan_warnings"]
    assert [line for line in result["lines"] if line.startswith("WARNING")] == [
        f"WARNING  {warning}" for warning in result["plan_warnings"]
    ]


def test_little_traffic_is_looked_at_for_longer(plan: Any) -> None:
    client = Client(pace=2.0)
    assert plan(client)["forecast"]["requests_per_second"] == 2.0
    assert next(client.looks) == 1 + _preview.PATIENCE
    busy = Client()
    plan(busy)
    assert next(busy.looks) == 2


def test_a_goal(plan: Any) -> None:
    result = plan(Client(), goal={"minutes": 3})
    assert result["goal"]["met"] is False
    assert result["goal"]["proposal"]["steps"][-1]["weight"] == 100
    assert any(line.startswith("PROPOSAL  steps: [") for line in result["lines"])
    again = plan(Client(), steps=result["goal"]["proposal"]["steps"], goal={"minutes": 3})
    assert (again["goal"]["met"], again["goal"]["proposal"]) == (True, None)


def test_a_goal_that_makes_no_sense(plan: Any) -> None:
    result = plan(Client(), goal={"failures": 0})
    assert (result["failed"], result["msg"]) == (
        True,
        "goal.failures is 0; at least 1 is needed, as proof takes failures",
    )
