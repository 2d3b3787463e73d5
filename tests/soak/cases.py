# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cases of the soak about whole releases: one that goes through, one that is not ours, and broken versions.

Every case begins with all traffic on v1 and no release on record, has counting clients of its own, and returns raw
numbers with `wrong`: what was not as it has to be, empty if nothing.
"""

from __future__ import annotations

import copy
import json
import re
import time

from ansible_collections.progressive.istio.tests.demo.clients import Clients, Total
from ansible_collections.progressive.istio.tests.demo.stage import (
    NAMESPACE,
    SERVICE,
    Json,
    Played,
    Stage,
)

RATE = 100.0  # requests a second, all clients together
FLOOR = {"tolerance_floor": 0.01}  # a step passes after some 300 requests without an error
STEPS = [{"weight": 10, "min_seconds": 5}, {"weight": 50, "min_seconds": 5}, {"weight": 100, "min_seconds": 5}]
FAILED = 2  # ansible-playbook's exit code when a task of a host failed
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
NETWORKING = f"/apis/networking.istio.io/v1/namespaces/{NAMESPACE}"


def plan(steps: list[Json], **analysis: object) -> list[str]:
    """Extra variables of a release with these steps."""
    return ["-e", json.dumps({"canary_steps": steps, "canary_analysis": {**FLOOR, **analysis}})]


def begin(stage: Stage) -> None:
    """All versions as they were deployed, all traffic on v1, no release on record."""
    stage.reset()
    for version in ("v1", "v2", "v3"):
        stage.faults(version, error_rate=0.05 if version == "v3" else 0, latency_ms=0, hang_rate=0, ready="true")


def told(done: Played) -> Json:
    """What a playbook said, for the result file."""
    return {"exit_code": done.code, "seconds": round(done.seconds, 1), "recap": done.recap, "events": done.events}


def again(stage: Stage, version: str, steps: list[Json]) -> tuple[Played, bool]:
    """The same promote once more, and whether it left the VirtualService byte for byte as it was."""
    before = stage.route()
    done = stage.play("promote", *plan(steps), "-e", f"canary_version={version}").end()
    return done, stage.route() == before


def release(stage: Stage, clients: Clients) -> Json:
    """v1 -> v2 under load to 100 %, and the same once more: lost = 0, then changed=0."""
    begin(stage)
    clients.start(RATE)
    done = stage.play("promote", *plan(STEPS), "-e", "canary_version=v2").end()
    time.sleep(3.0)
    second, same = again(stage, "v2", STEPS)
    total = clients.stop()
    wrong = []
    if done.code or stage.weights().get("v2") != 100:
        wrong.append(f"not promoted: exit code {done.code}, {done.lines[-3:]}")
    if total.lost:
        wrong.append(f"{total.lost} requests lost: {dict(total.codes)}")
    if second.code or second.changed or not same:
        wrong.append(f"the second run is not changed=0: {second.recap}, object the same: {same}")
    return {"wrong": wrong, "clients": total.plain(), "first": told(done), "second": told(second)}


def naive(stage: Stage, clients: Clients) -> Json:
    """What the release is compared with: apply route, subset and new Deployment, and scale the old one down, at once.

    It has to show losses to the same clients; if it did not, a release without losses would prove nothing.
    """
    begin(stage)
    rule, route = stage.call(f"{NETWORKING}/destinationrules/{SERVICE}"), stage.route()
    old = stage.call(f"{APPS}/{SERVICE}-v2")
    new = _renamed(old, "v4")
    objects = [_applied(route), _applied(rule), new]
    objects[0]["spec"]["http"][0]["route"] = [_destination(route, "v4")]
    objects[1]["spec"]["subsets"].append({"name": "v4", "labels": {"version": "v4"}})
    clients.start(RATE)
    time.sleep(3.0)
    before = clients.now()
    try:
        stage.apply(*objects)
        stage.call(f"{APPS}/{SERVICE}-v1/scale", "PATCH", {"spec": {"replicas": 0}}, "application/merge-patch+json")
        stage.ready(f"app={SERVICE},version=v4", 1)
        time.sleep(5.0)
        total = clients.stop()
    finally:
        stage.call(f"{APPS}/{SERVICE}-v1/scale", "PATCH", {"spec": {"replicas": 1}}, "application/merge-patch+json")
        stage.ready(f"app={SERVICE},version=v1", 1)
        for path, found in ((f"destinationrules/{SERVICE}", rule), (f"virtualservices/{SERVICE}", route)):
            stage.call(f"{NETWORKING}/{path}", "PATCH", {"spec": found["spec"]}, "application/merge-patch+json")
        stage.call(f"{APPS}/{SERVICE}-v4", "DELETE")
    wrong = [f"{before.lost} lost before anything was applied"] if before.lost else []
    if not total.lost:
        wrong.append("no request was lost: these clients could not have seen a loss")
    return {"wrong": wrong, "clients": total.plain()}


def _applied(found: Json) -> Json:
    """An object as a person has it in a file."""
    keep = {key: found["metadata"][key] for key in ("name", "namespace", "labels") if key in found["metadata"]}
    return {**copy.deepcopy({k: found[k] for k in ("apiVersion", "kind", "spec")}), "metadata": keep}


def _renamed(deployment: Json, version: str) -> Json:
    new = _applied(deployment)
    new["metadata"]["name"] = f"{SERVICE}-{version}"
    new["spec"]["selector"]["matchLabels"]["version"] = version
    new["spec"]["template"]["metadata"]["labels"]["version"] = version
    new["spec"]["replicas"] = 1
    return new


def _destination(route: Json, version: str) -> Json:
    first = route["spec"]["http"][0]["route"][0]["destination"]
    return {"destination": {**first, "subset": version}, "weight": 100}


def broken_first(stage: Stage, clients: Clients, rate: float) -> Json:
    """A v3 that is bad from the start: taken back in the first step, and refused the next time."""
    begin(stage)
    stage.faults("v3", error_rate=rate)
    clients.start(RATE)
    done = stage.play("promote", *plan(STEPS), "-e", "canary_version=v3").end()
    return _taken_back(stage, clients, done, STEPS, rate)


def broken_last(stage: Stage, clients: Clients, rate: float) -> Json:
    """A v3 that is good until it has all traffic, and then turns bad."""
    begin(stage)
    stage.faults("v3", error_rate=0)
    steps = [{"weight": 50, "min_seconds": 5}, {"weight": 100, "min_seconds": 120}]
    clients.start(RATE)
    playing = stage.play("promote", *plan(steps), "-e", "canary_version=v3")
    playing.wait_for(r"step 2/2 .*weight 100 % in", 400)
    time.sleep(5.0)
    stage.faults("v3", error_rate=rate)
    return _taken_back(stage, clients, playing.end(), steps, rate)


def _taken_back(stage: Stage, clients: Clients, done: Played, steps: list[Json], rate: float) -> Json:
    weights, record = stage.weights(), stage.record()
    time.sleep(3.0)
    counted = clients.now()
    refused, same = again(stage, "v3", steps)
    total = clients.stop()
    aborted = next((event for event in done.events if event.startswith("ABORTED  weight 0")), "")
    seconds = re.search(r"in (\d+) of (\d+) proxies ([\d.]+) s after", aborted)
    wrong = []
    if done.code != FAILED or record.get("phase") != "aborted" or not seconds:
        wrong.append(f"not taken back: exit code {done.code}, {done.lines[-3:]}")
    if {name: weight for name, weight in weights.items() if weight} != {"v1": 100}:
        wrong.append(f"v1 does not have all traffic: {weights}")
    if seconds and (seconds[1] != seconds[2] or float(seconds[3]) > 1.0):
        wrong.append(
            f"weight 0 in {seconds[1]} of {seconds[2]} proxies after {seconds[3]} s; within 1 s in all is needed"
        )
    if total.answered("v3") != counted.answered("v3"):
        wrong.append(f"v3 answered {total.answered('v3') - counted.answered('v3')} requests after it was taken back")
    if set(total.bad) - {"v3"} or total.no_answer:
        wrong.append(f"lost to others than v3: {total.no_answer} without answer, {dict(total.bad)}")
    if refused.code != FAILED or not same or "was taken back by release" not in " ".join(refused.lines):
        wrong.append(f"the same v3 is not refused: exit code {refused.code}, object the same: {same}")
    return {
        "wrong": wrong,
        "error_rate": rate,
        "failed_answers": total.bad["v3"],
        "verdict_to_weight_0": float(seconds[3]) if seconds else None,
        "first_bad_to_verdict": _since(total, record.get("since")),
        "first_bad_to_last_answer": _since(total, total.last_answer.get("v3")),
        "clients": total.plain(),
        "first": told(done),
        "second": told(refused),
    }


def _since(total: Total, when: float | None) -> float | None:
    """Seconds from the clients' first bad answer; of the API server's clock, which is this machine's."""
    return round(when - total.first_bad, 2) if when and total.first_bad else None


def article(stage: Stage, clients: Clients) -> Json:
    """Nine of ten answers from v1 at 90/10; 200 requests a second by role load: both autoscalers, and a scale-out."""
    begin(stage)
    for version in ("v1", "v2"):
        _fresh_autoscaler(stage, version)
    stage.reset(v1=90, v2=10, v3=0)
    time.sleep(2.0)
    clients.start(20.0, 1)
    playing = stage.play(
        "load", "-e", json.dumps({"load_rate": 200, "load_seconds": 90, "load_image": "lab.invalid/fortio:1"})
    )
    samples: list[Json] = []
    while playing.process.poll() is None:
        samples.append(_autoscalers(stage))
        time.sleep(5.0)
    done, total = playing.end(), clients.stop()
    share = total.answered("v1") / max(1, total.sent)
    use = {v: [s[v]["use"] for s in samples if s[v]["use"] is not None] for v in ("v1", "v2")}
    most = {v: max(s[v]["replicas"] for s in samples) for v in ("v1", "v2")}
    target = samples[0]["v1"]["target"]
    wrong = []
    if done.code:
        wrong.append(f"playbooks/load.yml ended with {done.code}: {done.lines[-3:]}")
    # Four standard deviations of a binomial share: less than one false alarm in ten thousand runs.
    if abs(share - 0.9) > 4 * (0.09 / max(1, total.sent)) ** 0.5:
        wrong.append(f"{100 * share:.1f} % of the answers from v1; 90 % is expected")
    if not use["v1"] or not use["v2"] or not max(use["v1"]) > max(use["v2"]) > 0:
        wrong.append(f"the autoscalers do not report sensible use: {use}")
    elif (max(use["v1"]) > 1.1 * target) != (most["v1"] > 1):
        wrong.append(f"v1 used {max(use['v1'])} % of {target} % and had {most['v1']} replicas")
    shown = "\n".join(done.lines)
    return {
        "wrong": wrong,
        "share_v1": share,
        "replicas": most,
        "use": use,
        "samples": samples,
        "clients": total.plain(),
        "load": shown[shown.find("{") : shown.rfind("}") + 1],
        "first": told(done),
    }


def _fresh_autoscaler(stage: Stage, version: str) -> None:
    """One replica, and an autoscaler that does not keep for five minutes what an earlier case has needed."""
    folder = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
    old = stage.call(f"{folder}/{SERVICE}-{version}")
    stage.call(f"{folder}/{SERVICE}-{version}", "DELETE")
    path = f"{APPS}/{SERVICE}-{version}/scale"
    stage.call(path, "PATCH", {"spec": {"replicas": 1}}, "application/merge-patch+json")
    while len(stage.pods(f"app={SERVICE},version={version}")) > 1:
        time.sleep(1.0)
    stage.apply(_applied(old))


def _autoscalers(stage: Stage) -> Json:
    """Use in percent of the request, target, and replicas of v1's and v2's autoscalers now."""
    found: Json = {"time": round(time.time(), 1)}
    for version in ("v1", "v2"):
        path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{SERVICE}-{version}"
        scaler = stage.call(path)
        metrics = scaler["status"].get("currentMetrics") or [{}]
        use = (metrics[0].get("containerResource") or {}).get("current", {}).get("averageUtilization")
        target = scaler["spec"]["metrics"][0]["containerResource"]["target"]["averageUtilization"]
        found[version] = {"use": use, "target": target, "replicas": scaler["status"].get("currentReplicas") or 0}
    return found
