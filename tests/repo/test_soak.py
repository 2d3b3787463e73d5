# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The soaks count everything, say of every loss what it was, and do not hide what did not run or was not met."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.progressive.istio.tests.demo.clients import Total, seconds_of
from ansible_collections.progressive.istio.tests.demo.stage import StageError
from ansible_collections.progressive.istio.tests.soak import crowd, judging, traffic
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


# ---------------------------------------------------------------- judging

BLAMED = ("v2", "none")


def heard(seconds: float, lost: dict[str, int], first: str | None = None, last: str | None = None) -> dict[str, Any]:
    """A reading of a client of judging, so many seconds after 18:00:00; ``first``, ``last``: of its bad answers."""
    found = reading(1000, {"200": 1000}, {version: {"500": number} for version, number in lost.items()})
    stamps = {"first_bad": first, "last_bad": last, "seconds": seconds}
    return {**found, **stamps, "began": "2026-11-27T18:00:00Z", "lost": sum(lost.values())}


def at(readings: list[dict[str, Any]]) -> float | None:
    """Seconds after 18:00:00 of the first bad answer."""
    when = judging.first_bad(readings, BLAMED)
    return None if when is None else round(when - seconds_of("2026-11-27T18:00:00Z"), 3)


def test_the_first_bad_answer_is_the_clients_own_where_only_the_canary_fails() -> None:
    stamp = "2026-11-27T18:00:01.125Z"
    last = "2026-11-27T18:00:01.19Z"
    assert at([heard(1.0, {}), heard(1.2, {"v2": 3}, stamp, last)]) == 1.125
    assert at([heard(1.0, {}), heard(1.2, {"none": 1}, stamp, stamp)]) == 1.125
    assert at([heard(1.0, {}), heard(1.2, {})]) is None
    assert at([]) is None


def test_bad_answers_of_stable_are_not_the_canarys() -> None:
    early, mine = "2026-11-27T18:00:00.5Z", "2026-11-27T18:00:01.125Z"
    before = [heard(0.2, {}), heard(1.0, {"v1": 1}, early, early)]
    assert at(before) is None
    # One more than before: it is the last one.
    assert at([*before, heard(1.2, {"v1": 1, "v2": 1}, early, mine)]) == 1.125
    # Several: not before the last reading without any.
    assert at([*before, heard(1.2, {"v1": 1, "v2": 2}, early, mine)]) == 1.0
    assert at([*before, heard(1.2, {"v1": 2, "v2": 1}, early, mine)]) == 1.0


def test_readings_without_a_change_are_not_all_kept() -> None:
    stamp = "2026-11-27T18:00:01.125Z"
    kept: list[dict[str, Any]] = []
    for number in range(6):
        judging.note(kept, heard(0.2 * number, {}))
    judging.note(kept, heard(1.2, {"v2": 1}, stamp, stamp))
    assert [round(one["seconds"], 1) for one in kept] == [0.0, 1.0, 1.2]


def judged(
    verdict: str, seconds: float | None, failed: int, name: str = "errors-100", number: int = 1
) -> dict[str, Any]:
    """A run of judging as the soak keeps it."""
    head = {"case": name, "run": number, "began": "18:00:00", "load": 1.0, "wrong": [], "said": []}
    return {**head, "verdict": verdict, "seconds": seconds, "failed": failed, "seconds_to_last_answer": seconds}


def met(name: str, *runs: dict[str, Any]) -> tuple[bool, str]:
    return judging.assess(judging.CASES[name], runs)


def test_a_limit_is_met_by_the_median_of_three() -> None:
    case = judging.CASES["errors-100"]
    assert case.seconds is not None
    assert case.failed is not None
    good, slow = judged("aborted", case.seconds, case.failed), judged("aborted", 2 * case.seconds, 2 * case.failed)
    assert met("errors-100", good, good, slow) == (True, "met")
    assert not met("errors-100", good, slow, slow)[0]
    assert met("errors-100", good) == (True, "met (1 of 3 runs)")
    assert met("errors-100") == (False, "not run")


def test_many_failed_answers_are_said_though_it_was_quick() -> None:
    quick = judged("aborted", 0.5, 99)
    assert met("errors-100", quick, quick, quick) == (False, "NOT MET: 99 failed answers, at most 15 failed answers")


def test_one_that_was_not_taken_back_meets_nothing() -> None:
    good, passed = judged("aborted", 1.0, 9), judged("promoted", None, 9)
    ok, text = met("errors-100", good, good, passed)
    assert not ok
    assert "promoted 1" in text
    ok, text = met("errors-100", good, passed, passed)
    assert not ok
    assert "never, at most" in text


def test_never_promoted_means_held_will_do() -> None:
    held, aborted = judged("held", None, 9), judged("aborted", 300.0, 9)
    assert met("errors-0.5", held, aborted, held)[0]
    assert not met("errors-0.5", held, aborted, judged("promoted", None, 9))[0]


def test_a_soak_that_was_cut_short_is_continued() -> None:
    names = ["errors-100", "hang"]
    runs = [judged("aborted", 1.0, 9), judged("aborted", 1.0, 9, "hang"), judged("broken", None, 0)]
    assert judging.missing(runs, names, 2) == [(2, "errors-100"), (2, "hang")]
    assert judging.missing([], names, 1) == [(1, "errors-100"), (1, "hang")]


def test_the_table_of_judging_has_every_case_and_every_run() -> None:
    broken = {**judged("broken", None, 0, number=2), "wrong": ["did not come to its end: why"]}
    del broken["seconds"], broken["failed"]
    table = judging.summary([judged("aborted", 1.0, 9), broken], ["head"])
    rows = {line.split()[0]: line for line in table.splitlines() if line and not line.startswith(" ")}
    assert set(judging.CASES) <= set(rows)
    assert rows["errors-100"].split()[1:4] == ["1", "1", "9"]
    assert "NOT" not in rows["errors-100"]
    assert all(rows[name].endswith("not run") for name in judging.CASES if name != "errors-100")
    assert "errors-100 2, 18:00:00: did not come to its end: why" in table


def test_a_run_that_measured_something_else_says_so() -> None:
    case = judging.CASES["errors-100"]
    total = Total.of([reading(100, {"200": 99, "500": 1}, {"v1": {"500": 1}})])
    late = judging.amiss(case, total, 10.0, 10.0 + 2 * judging.LATE_SECONDS)
    assert len(late) == 2
    assert judging.amiss(judging.CASES["errors-100-stable-0.1"], total, 10.0, 10.0) == []


def test_names_of_cases_are_unique_and_each_turns_bad_at_one_of_its_weights() -> None:
    names = [*judging.CASES, *traffic.CASES]
    assert len(names) == len(set(names))
    for case in judging.CASES.values():
        assert case.at in (0, *(step["weight"] for step in case.steps))
