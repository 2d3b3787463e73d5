# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Case of the soak: the evidence of a release against what the clients themselves have counted.

The release begins without any client. Then three client pods come, send, and stay: one of them is deleted (and replaced
by its Deployment), one more is added, the proxy of a third is restarted, and v1 goes from two pods to one. So all that
the clients ever send falls into the release's windows, and the sums can be compared without any guess about times.
"""

from __future__ import annotations

import json
import time

from ansible_collections.progressive.istio.plugins.module_utils._evidence import loads
from ansible_collections.progressive.istio.tests.demo.clients import PODS, Clients, Total
from ansible_collections.progressive.istio.tests.demo.stage import NAMESPACE, SERVICE, Json, Stage, StageError
from ansible_collections.progressive.istio.tests.soak.cases import APPS, RATE, begin, plan

SEND_SECONDS = 60  # each client, from its own start
STEPS = [{"weight": 30, "min_seconds": 600}, {"weight": 100, "min_seconds": 0}]
LOOK_SECONDS = 1.0  # between two looks at the proxies: what a pod sends after the last look before its end is not seen
SAVED_SECONDS = 25.0  # after this the evidence has been saved with everything in it


def windows(stage: Stage, clients: Clients) -> Json:
    """Windows of the release next to the clients' counts, by version, and the difference."""
    begin(stage)
    autoscaler = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{SERVICE}-v1"
    stage.call(autoscaler, "PATCH", {"spec": {"minReplicas": 2}}, "application/merge-patch+json")
    _scale(stage, f"{SERVICE}-v1", 2)
    stage.ready(f"app={SERVICE},version=v1", 2)
    clients.remove()
    playing = stage.play("promote", *plan(STEPS), "-e", "canary_version=v2")
    try:
        playing.wait_for(r"step 1/2 .*weight 30 % in", 120)
        clients.start(RATE, PODS, SECONDS=str(SEND_SECONDS))
        time.sleep(15.0)
        deleted, restarted, *_others = clients.names()
        stage.kubectl("delete", "pod", "-n", NAMESPACE, deleted, "--wait=false")
        time.sleep(5.0)
        _scale(stage, clients.name, PODS + 1)
        stage.ready(f"app={clients.name}", PODS + 1)
        clients.follow()
        time.sleep(5.0)
        quit_proxy = ("pilot-agent", "request", "POST", "quitquitquit")
        stage.kubectl("exec", "-n", NAMESPACE, restarted, "-c", "istio-proxy", "--", *quit_proxy)
        time.sleep(5.0)
        stage.call(autoscaler, "PATCH", {"spec": {"minReplicas": 1}}, "application/merge-patch+json")
        _scale(stage, f"{SERVICE}-v1", 1)
        _all_done(clients)
        time.sleep(SAVED_SECONDS)
        pods = clients.names()
        evidence = stage.evidence()
        told = {pod: clients.counts(pod) for pod in pods}
    finally:
        ended = stage.play("abort").end()
        playing.end(60)
    gone = clients.last_word(deleted)
    total = Total.of([*told.values(), gone])
    return _compare(evidence, told, deleted, gone, restarted, total, ended.code)


def _scale(stage: Stage, name: str, replicas: int) -> None:
    stage.call(f"{APPS}/{name}/scale", "PATCH", {"spec": {"replicas": replicas}}, "application/merge-patch+json")


def _all_done(clients: Clients) -> None:
    until = time.monotonic() + 3 * SEND_SECONDS
    while time.monotonic() < until:
        if all(one["done"] for one in map(clients.counts, clients.names())):
            return
        time.sleep(1.0)
    raise StageError(f"the clients did not end within {3 * SEND_SECONDS} s")


def _compare(
    evidence: Json, told: dict[str, Json], deleted: str, gone: Json, restarted: str, total: Total, code: int
) -> Json:
    rows = loads(json.dumps(evidence)).windows
    seen = {"v2": sum(row.n_c for row in rows), "v1": sum(row.n_b for row in rows)}
    bad = {"v2": sum(row.x_c for row in rows), "v1": sum(row.x_b for row in rows)}
    by_pod = _by_pod(evidence)
    # A pod that lived until the end, its proxy never restarted: its proxy's counters and its own must be equal.
    pods = {}
    for pod, one in told.items():
        mine = Total.of([one])
        pods[pod] = {
            "proxy": by_pod.get(pod, 0),
            "answers": sum(mine.good.values()) + mine.bad_answer,
            "no_answer": mine.no_answer,
            "restarted": pod == restarted,
        }
    answers = sum(total.good.values()) + total.bad_answer
    difference = answers - sum(seen.values())
    # What an ending pod, and an ending proxy, have counted since they were last read, two looks at most.
    unseen = 2 * (2 * LOOK_SECONDS * RATE / PODS)
    wrong = []
    for pod, one in pods.items():
        if not one["restarted"] and one["proxy"] != one["answers"]:
            wrong.append(f"{pod}: its proxy counted {one['proxy']}, it counted {one['answers']} answers itself")
    if not 0 <= difference <= unseen:
        wrong.append(f"the windows have {sum(seen.values())}, the clients {answers}: more than {unseen:.0f} apart")
    if sum(bad.values()) > total.lost:
        wrong.append(f"the windows have {bad} bad requests, the clients lost {total.lost}")
    if code:
        wrong.append(f"playbooks/abort.yml ended with {code}")
    return {
        "wrong": wrong,
        "windows": seen,
        "windows_bad": bad,
        "answers": {"v1": total.answered("v1"), "v2": total.answered("v2"), "none": total.bad["none"]},
        "difference": difference,
        "at_most_unseen": round(unseen),
        "pods": pods,
        "deleted": {
            "pod": deleted,
            "answers": sum(Total.of([gone]).good.values()),
            "last_read": by_pod.get(deleted, 0),
        },
        "clients": total.plain(),
        "evidence": json.dumps(evidence),
    }


def _by_pod(evidence: Json) -> dict[str, int]:
    """Requests to all versions by pod, as its proxy counted them when it was last read."""
    found: dict[str, int] = {}
    for proxy in loads(json.dumps(evidence)).look.proxies.values():
        pod = proxy.name.partition("/")[2]
        found[pod] = found.get(pod, 0) + sum(proxy.requests().values())
    return found
