# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Case of the soak: SIGKILL after a write of a release, of ansible-playbook alone or of its whole process tree."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from ansible_collections.progressive.istio.tests.demo.clients import Clients
from ansible_collections.progressive.istio.tests.demo.stage import Json, Stage
from ansible_collections.progressive.istio.tests.soak.cases import RATE, again, begin, plan, told

STEPS = [{"weight": 10, "min_seconds": 5}, {"weight": 50, "min_seconds": 20}, {"weight": 100, "min_seconds": 5}]
WATCH_SECONDS = 20.0  # longer than a lease lasts, and than the time between two savings of the evidence
#: What the run has just said when it is killed: after a weight, or where evidence and the next weight are written.
MOMENTS = (r"step 1/3 .*weight 10 % in", r"step 1/3 .*PASS", r"step 2/3 .*weight 50 % in", r"step 2/3 .*PASS")
GRACE_SECONDS = 0.5  # a request that was on its way when its process was killed may still arrive


def children(root: int) -> set[int]:
    """The process and all its descendants, whatever sessions they are in."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text("utf-8", "replace")
            parents[int(path.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z":
                found.add(pid)
    return found


def killed(stage: Stage, clients: Clients, whole_tree: bool) -> Json:
    """Kill it within a second after a write of its own, watch for more, go on with a second run, and run a third."""
    begin(stage)
    clients.start(RATE)
    first = stage.play("promote", *plan(STEPS), "-e", "canary_version=v2")
    moment = random.choice(MOMENTS)
    first.wait_for(moment, 400)
    time.sleep(random.uniform(0.0, 1.0))
    tree = children(first.process.pid)
    victims = tree if whole_tree else {first.process.pid}
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    at = time.time()
    first.process.wait(10)
    time.sleep(GRACE_SECONDS)
    record = stage.record()
    before = stage.route()["metadata"]["resourceVersion"]
    gone_after = None
    while time.time() - at < WATCH_SECONDS:
        if gone_after is None and not alive(tree):
            gone_after = round(time.time() - at, 1)
        time.sleep(0.2)
    after = stage.route()["metadata"]["resourceVersion"]
    written = [
        entry
        for entry in stage.audit(at + GRACE_SECONDS)
        if entry["resource"] in ("virtualservices", "configmaps", "leases")
        and not entry["user"].startswith("system:serviceaccount:")
    ]
    for pid in alive(tree):  # only ours: what the killed playbook had started, and did not end by itself
        os.kill(pid, signal.SIGKILL)
    second = stage.play("promote", *plan(STEPS), "-e", "canary_version=v2").end()
    ended = stage.record()
    time.sleep(2.0)
    third, same = again(stage, "v2", STEPS)
    total = clients.stop()
    went_on = next((event for event in second.events if event.startswith("goes on with release")), "")
    wrong = []
    if written or before != after:
        wrong.append(f"written after the kill: {written}, resourceVersion {before} -> {after}")
    if gone_after is None:
        wrong.append(f"processes of the killed run still there after {WATCH_SECONDS:.0f} s")
    if not went_on.startswith(f"goes on with release {record['id']} at step {record['step'] + 1}/3"):
        wrong.append(
            f"the second run did not go on at step {record['step'] + 1} of {record['id']}: {second.events[:2]}"
        )
    if second.code or (ended.get("phase"), ended.get("id")) != ("promoted", record["id"]):
        wrong.append(f"not the same end: exit code {second.code}, {ended.get('phase')} {ended.get('id')}")
    if third.code or third.changed or not same:
        wrong.append(f"the third run is not changed=0: {third.recap}, object the same: {same}")
    if total.lost:
        wrong.append(f"{total.lost} requests lost: {dict(total.codes)}")
    return {
        "wrong": wrong,
        "killed": "whole tree" if whole_tree else "ansible-playbook alone",
        "moment": moment,
        "processes_gone_after": gone_after,
        "writes_after": written,
        "clients": total.plain(),
        "before": first.lines,
        "first": told(second),
        "second": told(third),
    }
