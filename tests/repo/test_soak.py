# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The soak of loss counts everything, says of every loss what it was, and does not hide what did not run."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.progressive.istio.tests.demo.clients import Total
from ansible_collections.progressive.istio.tests.demo.stage import StageError
from ansible_collections.progressive.istio.tests.soak import crowd, traffic
from environment import CHECKOUT


def reading(sent: int, codes: dict[str, int], lost: dict[str, dict[str, int]], began: str = "b") -> dict[str, Any]:
    """What a client answers on /counts."""
    bad = sum(number for found in lost.values() for number in found.values())
    ok = sum(codes.values()) - bad
    numbers = {"sent": sent, "ok": ok, "lost": bad, "in_flight": sent - ok - bad, "skipped": 0}
    told = {"by_version": {"v1": ok}, "by_code": codes, "lost_by": lost, "last_answer": {}, "latency_ms": {}}
    last = "2026-11-23T18:00:07.25Z" if bad else None
    return {**numbers, **told, "url": "http://x/", "began": began, "first_bad": last, "last_bad": last}


FIRST = reading(100, {"200": 97, "503": 2}, {"none": {"503": 2}})
SECOND = reading(160, {"200": 155, "503": 5}, {"none": {"503": 4}, "v2": {"503": 1}})


def test_a_run_has_what_was_counted_between_two_readings() -> None:
    counted = crowd.difference(FIRST, SECOND)
    assert (counted["sent"], counted["lost"], counted["in_flight"]) == (60, 3, -1)
    assert counted["sent"] == counted["ok"] + counted["lost"] + counted["in_flight"]
    assert counted["by_code"] == {"200": 58, "503": 3}
    assert counted["lost_by"] == {"none": {"503": 2}, "v2": {"503": 1}}


def test_no_request_falls_between_two_runs() -> None:
    nothing = reading(0, {}, {})
    parts = [crowd.difference(nothing, FIRST), crowd.difference(FIRST, SECOND)]
    assert Total.of(parts).plain() == Total.of([SECOND]).plain()


def test_a_client_that_was_restarted_has_no_counts() -> None:
    with pytest.raises(StageError, match="was restarted"):
        crowd.difference(FIRST, reading(200, {"200": 200}, {}, began="later"))


def test_a_loss_is_said_with_client_code_version_and_time() -> None:
    loss = {"client": "mesh gRPC", "pod": "p", "after": 1.25, "last": 2.5, "lost_by": {"none": {"grpc_14": 2}}}
    assert crowd.say([loss]) == ["mesh gRPC (p): 2 x grpc_14 by nobody, 00:00:01.2 to 00:00:02.5"]
    soon = {**loss, "after": 2.75, "last": 3.5, "lost_by": {"v2": {"grpc_14": 1}, "none": {"grpc_14": 1}}}
    later = {**loss, "after": 9.0, "last": 9.5}
    assert crowd.say([loss, soon, later]) == [
        "mesh gRPC (p): 3 x grpc_14 by nobody, 1 x grpc_14 by v2, 00:00:01.2 to 00:00:03.5",
        "mesh gRPC (p): 2 x grpc_14 by nobody, 00:00:09.0 to 00:00:09.5",
    ]


def run(name: str, lost: int) -> dict[str, Any]:
    """A run as the soak keeps it."""
    by_kind = {kind.name: 0 for kind in crowd.KINDS} | {crowd.KINDS[-1].name: lost}
    told = {"losses": ["what it was"] if lost else [], "evidence": {"proxies": {"p counter": lost}} if lost else {}}
    wrong = [f"{lost} requests lost"] if lost else []
    sent = {kind.name: 100 for kind in crowd.KINDS}
    return {"case": name, "run": 1, "began": "18:00:00", "wrong": wrong, "sent": sent, "lost": by_kind, **told}


def test_the_table_has_every_loss_and_what_did_not_run() -> None:
    table = traffic.summary([run("to-100", 0), run("to-100", 3), run("abort", 0)], ["head"]).splitlines()
    rows = {line.split()[0]: line.split() for line in table if line and not line.startswith(" ")}
    assert rows["to-100"][1:5] == ["2", "1", "800", "3"]
    assert rows["abort"][1:5] == ["1", "1", "400", "0"]
    assert rows["rollback"][1:3] == ["not", "run"]
    assert "    what it was" in table
    assert "    p counter +3" in table
    assert "  none" not in table


def test_counter_proofs_come_last() -> None:
    plan = traffic.schedule(list(traffic.CASES), 10)
    counted = {name: sum(one == name for _number, one in plan) for name in traffic.CASES}
    assert {counted[name] for name in traffic.CASES if name not in traffic.LOSING} == {10}
    assert {name for _number, name in plan[-6:]} == set(traffic.LOSING)


def test_nothing_on_the_way_retries_or_drains() -> None:
    app = yaml.safe_load(traffic.VARIABLES.read_text("utf-8"))
    edge = yaml.safe_load(traffic.EDGE.read_text("utf-8"))["items"]
    routes = [route for one in edge if one["kind"] == "VirtualService" for route in one["spec"]["http"]]
    assert [route["retries"] for route in (app["app_route"], *routes)] == [{"attempts": 0}] * 3
    assert app["app_drain_seconds"] == 0
    assert "GRACEFUL" not in str(app) + (CHECKOUT / "examples" / "hello.yml").read_text("utf-8")


def test_the_clients_send_150_requests_a_second_over_http_and_grpc() -> None:
    assert sum(kind.rate * crowd.PODS[kind.pods] for kind in crowd.KINDS) == 150
    assert {(kind.pods, kind.url.partition(":")[0]) for kind in crowd.KINDS} == {
        (pods, scheme) for pods in crowd.PODS for scheme in ("http", "grpc")
    }
