# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a release may begin or go on: every answer, and every error in its own words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._admit import admit
from ansible_collections.progressive.istio.plugins.module_utils._gate import Tolerance
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Adopt,
    Done,
    Refuse,
    ReleaseError,
    Resume,
    Start,
    State,
    Want,
    Workload,
    check_want,
    require_clients,
    taken_over,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    HELD,
    PROGRESSING,
    PROMOTED,
    Record,
    Step,
    Version,
)

WHERE = "VirtualService prod/app"
STEPS = (Step(10, 60), Step(50, 60), Step(100, 60))
WANT = Want("v2", steps=STEPS)
V1, V2 = Version("v1", "h1"), Version("v2", "h2")


def workload(version: Version, **changes: Any) -> Workload:
    return replace(Workload(version, 3, 3), **changes)


def record(phase: str, step: int = 1, canary: Version = V2, reason: str = "") -> Record:
    return Record("9f3c", "uid", V1, canary, STEPS, step, phase, 10.0, 20.0, "me", reason)


def state(weights: dict[str, int] | None = None, found: Record | None = None, **versions: Workload) -> State:
    there = {"v1": workload(V1), "v2": workload(V2), **versions}
    return State(WHERE, "Service prod/app", "uid", weights or {"v1": 100, "v2": 0}, found, "kubectl-edit", there)


def error(call: Any, *args: Any) -> str:
    with pytest.raises(ReleaseError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- the wish


def test_good_wishes() -> None:
    check_want(WANT)
    check_want(Want("", state="aborted"))
    check_want(replace(WANT, until_step=1, steps=(Step(100),)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"steps": (Step(10, pause=True), Step(100))},
            "steps[1].pause: a release begins with its first step; who starts it approves that",
        ),
        ({"stable": "v2"}, "canary_version and stable_version are both 'v2'"),
        ({"steps": ()}, "steps is empty; give at least one, for example [{weight: 10}, {weight: 100}]"),
        (
            {"steps": (Step(0),)},
            "steps[1].weight is 0, so nobody sees the canary; give a weight from 1 to 100, a mirror, or a cohort",
        ),
        ({"steps": (Step(10), Step(101))}, "steps[2].weight is 101; a whole number from 0 to 100 is needed"),
        ({"steps": (Step(10), Step(10))}, "steps[2].weight is 10 after 10; weights must rise from step to step"),
        ({"steps": (Step(50), Step(20))}, "steps[2].weight is 20 after 50; weights must rise from step to step"),
        ({"steps": (Step(100, -1),)}, "steps[1].min_seconds is -1; it cannot be negative"),
        (
            {"steps": (Step(10, 5), Step(100, 1200))},
            (
                "steps[2].min_seconds is 1200 and analysis.max_wait 1200: the step would end without a verdict before "
                "it can pass; make max_wait the longer one"
            ),
        ),
        (
            {"steps": (Step(90),)},
            "the last step has weight 90; a release ends at 100 (use until_step to wait before it)",
        ),
        ({"until_step": 0}, "until_step is 0; steps count from 1"),
        ({"on_inconclusive": "pray"}, "analysis.on_inconclusive is 'pray'; one of hold, abort, promote"),
        ({"interval": 0.1}, "analysis.interval is 0.1; at least 0.2 s is needed"),
        ({"interval": float("nan")}, "analysis.interval is nan; at least 0.2 s is needed"),
        ({"max_wait": 0}, "analysis.max_wait is 0; at least 1 s is needed"),
        ({"max_hold": -5}, "analysis.max_hold is -5; at least 1 s is needed"),
        ({"verify_timeout": 0.5}, "verify_timeout is 0.5; at least 1 s is needed"),
        (
            {"tolerance": Tolerance(floor=0.9)},
            "analysis: tolerance_floor: expected a number from 1e-06 to 0.5, got 0.9",
        ),
    ],
)
def test_bad_wishes(changes: dict[str, Any], text: str) -> None:
    assert error(check_want, replace(WANT, **changes)) == text


# ---------------------------------------------------------------- what is there


def test_shares_are_relative_and_may_be_nothing() -> None:
    assert state({"v1": 3, "v2": 1}).weight_of("v2") == 25
    assert state({"v1": 3, "v2": 1}).weight_of("v9") == 0
    assert state({"v1": 0, "v2": 0}).weight_of("v2") == 0
    assert state().version("v9") == Workload(Version("v9", ""), 0, 0)


def test_a_start() -> None:
    assert admit(WANT, state()) == Start(V1, V2)
    assert admit(replace(WANT, stable="v1"), state({"v1": 1})) == Start(V1, V2)
    assert admit(WANT, state(found=record(PROMOTED, 2, canary=V1))) == Start(V1, V2)


def test_all_traffic_already() -> None:
    for found in (None, record(PROMOTED, 2), record(ABORTED)):
        assert admit(WANT, state({"v1": 0, "v2": 100}, found)) == Done(PROMOTED, "v2 has all traffic already")


def test_a_canary_of_somebody_else() -> None:
    split = state({"v1": 70, "v2": 30})
    assert admit(WANT, split) == Refuse(
        "refused",
        "VirtualService prod/app gives v2 30 % and carries no record of a running release: released by somebody else "
        "(last writer kubectl-edit); set adopt to go on from there, or set its weight to 0",
    )
    assert admit(replace(WANT, adopt=True), split) == Adopt(
        V1, V2, (STEPS[0], Step(30, STEPS[1].min_seconds), *STEPS[1:]), 1
    )


def test_a_canary_with_less_than_a_percent_is_not_overlooked() -> None:
    split = state({"v1": 999, "v2": 1})
    found = admit(WANT, split)
    assert isinstance(found, Refuse)
    assert "gives v2 <1 %" in found.text
    assert admit(replace(WANT, adopt=True), split) == Adopt(V1, V2, STEPS, 0)


def test_what_was_taken_back_stays_back_until_it_changes() -> None:
    taken = state(found=record(ABORTED, reason="bad: 5 of 10"))
    assert admit(WANT, taken) == Refuse(
        ABORTED,
        "v2 was taken back by release 9f3c (bad: 5 of 10) and has not changed since; "
        "change its pod template, or set retry",
    )
    assert admit(replace(WANT, retry=True), taken) == Start(V1, V2)
    newer = Version("v2", "h3")
    assert admit(WANT, state(found=record(ABORTED), v2=workload(newer))) == Start(V1, newer)


@pytest.mark.parametrize("phase", [PROGRESSING, HELD])
def test_a_release_that_is_under_way(phase: str) -> None:
    running = record(phase)
    there = state({"v1": 50, "v2": 50}, running)
    assert admit(WANT, there) == Resume(running)
    assert admit(Want("", state="aborted"), there) == Resume(running)
    assert admit(replace(WANT, canary="v3"), there) == Refuse(
        "refused",
        f"release 9f3c of v2 is {phase} at 50 % on VirtualService prod/app; "
        "promote or abort it before v3 can be released",
    )


def test_a_newer_canary_in_the_middle() -> None:
    running = record(PROGRESSING)
    newer = workload(Version("v2", "h3"))
    assert admit(WANT, state({"v1": 50, "v2": 50}, running, v2=newer)) == Resume(
        running, "v2 changed in the middle of its release (pod template h2 is now h3): that is a newer version"
    )
    assert admit(Want("", state="aborted"), state(found=running, v2=newer)) == Resume(running)
    gone = workload(Version("v2", ""), pods=0, ready=0)
    assert admit(WANT, state(found=running, v2=gone)) == Resume(running), "no pods at all is not a newer version"


@pytest.mark.parametrize(("found", "phase"), [(None, "none"), (record(ABORTED), ABORTED), (record(PROMOTED), PROMOTED)])
def test_nothing_to_abort(found: Record | None, phase: str) -> None:
    assert admit(Want("", state="aborted"), state(found=found)) == Done(
        phase, "no release is running; nothing to abort"
    )


@pytest.mark.parametrize(
    ("want", "there", "text"),
    [
        (
            replace(WANT, canary="v9"),
            state(),
            (
                "Service prod/app has no version 'v9' (subset of its DestinationRule, or Service of an HTTPRoute); "
                "there are: v1, v2"
            ),
        ),
        (
            WANT,
            state({"v0": 100, "v2": 0}),
            (
                "Service prod/app has no version 'v0' (subset of its DestinationRule, or Service of an HTTPRoute); "
                "there are: v1, v2"
            ),
        ),
        (
            replace(WANT, stable="v0"),
            state(),
            "stable_version is 'v0', but the traffic of VirtualService prod/app is on 'v1'",
        ),
        (
            WANT,
            state({"v1": 60, "v0": 40, "v2": 0}),
            "VirtualService prod/app splits traffic among v1 60, v0 40; a release moves it between two versions only",
        ),
        (
            WANT,
            state({"v1": 0, "v2": 0}),
            "VirtualService prod/app has no other destination with traffic to compare v2 with",
        ),
        (
            WANT,
            state(v2=workload(V2, ready=0)),
            (
                "v2 has no ready pod (pods of its subset: 3); weight would be answered with 503. "
                "Deploy it and wait until it is ready"
            ),
        ),
        (
            WANT,
            state(v1=workload(V1, pods=0, ready=0)),
            (
                "v1 has no ready pod (pods of its subset: 0); weight would be answered with 503. "
                "Deploy it and wait until it is ready"
            ),
        ),
        (
            WANT,
            state(v2=workload(V2, mixed=True)),
            "v2 is in the middle of a rollout (pods of two templates); wait until it is complete",
        ),
        (
            WANT,
            state(v1=workload(V1, meshed=False), v2=workload(V2, meshed=False)),
            (
                "no pod of v2 or v1 has an Istio sidecar; weights need them. "
                "Label the namespace for injection (istio-injection=enabled or istio.io/rev) and restart its workloads"
            ),
        ),
    ],
)
def test_what_has_to_be_mended(want: Want, there: State, text: str) -> None:
    assert error(admit, want, there) == text


def test_clients() -> None:
    require_clients(state(), Look(0.0, {"a": ProxyLook("ns/a", "requests:0", 0.0, {})}, {"b": "silent"}))
    assert error(require_clients, state(), Look(0.0, {}, {})) == (
        "no pod in the mesh has a sidecar that routes to Service prod/app; a client without a sidecar ignores weights: "
        "label its namespace for injection and restart it"
    )
    silent = {f"uid-{i}": f"proxy of ns/{i} does not answer" for i in range(3)}
    assert error(require_clients, state(), Look(0.0, {}, silent)) == (
        "none of the 3 proxies of the mesh could be read, for example proxy of ns/0 does not answer; "
        "proxy of ns/1 does not answer. The account that runs this needs get and create on pods/portforward"
    )


def test_a_record_that_is_not_ours_any_more() -> None:
    assert taken_over(state(), record(PROGRESSING)) == (
        "drift: the record of release 9f3c is gone from VirtualService prod/app, last writer kubectl-edit; "
        "the weights are as they were"
    )
    assert taken_over(state(found=record(HELD)), record(PROGRESSING)) == (
        "release 9f3c (held, by me) is on VirtualService prod/app now"
    )
