# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cases of the soak: two runs at the same moment, and a run that nobody takes up."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time

from ansible_collections.progressive.istio.tests.demo.clients import Clients
from ansible_collections.progressive.istio.tests.demo.stage import NAMESPACE, SERVICE, Json, Playing, Stage
from ansible_collections.progressive.istio.tests.soak.cases import RATE, again, begin, plan, told
from ansible_collections.progressive.istio.tests.soak.kills import STEPS, children

PERIOD_SECONDS = 30.0  # of the schedule that looks after releases whose run has died
PASSES = 8
MORE_SECONDS = 5.0  # that a pass may take
ALONE = [{"weight": 10, "min_seconds": 300}, {"weight": 100, "min_seconds": 5}]


def two_at_once(stage: Stage, clients: Clients) -> Json:
    """Two runs of one promote, started together: one of them releases, and the other writes nothing."""
    begin(stage)
    clients.start(RATE)
    at = time.time()
    both = [stage.play("promote", *plan(STEPS), "-e", "canary_version=v2") for _run in range(2)]
    played = [run.end() for run in both]
    ended = stage.record()
    moves = [entry for entry in stage.audit(at) if entry["resource"] == "virtualservices" and entry["verb"] == "patch"]
    third, same = again(stage, "v2", STEPS)
    total = clients.stop()
    wrong = []
    if sorted(run.code == 0 for run in played) != [False, True] or ended.get("phase") != "promoted":
        wrong.append(f"not one release: exit codes {[run.code for run in played]}, {ended.get('phase')}")
    if len(moves) != len(STEPS) + 1:  # each step, and the end
        wrong.append(f"{len(moves)} writes of the VirtualService")
    if not any("is being run by" in line for run in played for line in run.lines):
        wrong.append(f"neither says that the other is at it: {[run.lines[-4:] for run in played]}")
    if third.code or third.changed or not same:
        wrong.append(f"the third run is not changed=0: {third.recap}, object the same: {same}")
    if total.lost:
        wrong.append(f"{total.lost} requests lost: {dict(total.codes)}")
    return {"wrong": wrong, "clients": total.plain(), "first": told(played[0]), "second": told(played[1])}


def orphaned(stage: Stage, clients: Clients) -> Json:
    """A run is killed, its version turns bad, and nobody is there but the schedule, which ticks at a random moment."""
    begin(stage)
    clients.start(RATE)
    run = stage.play("promote", *plan(ALONE), "-e", "canary_version=v2")
    run.wait_for(r"step 1/2 .*weight 10 % in", 400)
    time.sleep(random.uniform(5.0, 15.0))
    for pid in children(run.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.process.wait(10)
    stage.faults("v2", error_rate=0.5)
    bad = time.time()
    first = bad + random.uniform(0.0, PERIOD_SECONDS)
    passes: list[Playing] = []
    for number in range(PASSES):
        time.sleep(max(0.0, first + number * PERIOD_SECONDS - time.time()))
        passes.append(stage.play("reconcile", "-e", json.dumps({"canary_reconcile_namespace": NAMESPACE})))
        passes[-1].end()
        if stage.record().get("phase") == "aborted":
            break
    zero = _weight_0(stage, bad)
    total = clients.stop()
    wrong = []
    alone = None if zero is None else round(zero - bad, 1)
    if alone is None:
        wrong.append(f"weight {stage.weights()} after {len(passes)} passes: {passes[-1].lines[-4:]}")
    elif alone > PERIOD_SECONDS + MORE_SECONDS:
        wrong.append(f"alone for {alone} s, at a period of {PERIOD_SECONDS:.0f} s")
    failed = total.plain()["bad"].get("v2", 0)
    return {"wrong": wrong, "alone": alone, "passes": len(passes), "failed": failed, "clients": total.plain()}


def _weight_0(stage: Stage, since: float) -> float | None:
    """When the release was taken back in the route object; None: it was not."""
    if stage.record().get("phase") != "aborted":
        return None
    moves = [
        entry["at"]
        for entry in stage.audit(since)
        if (entry["resource"], entry["name"], entry["verb"]) == ("virtualservices", SERVICE, "patch")
    ]
    return moves[0] if moves else None
