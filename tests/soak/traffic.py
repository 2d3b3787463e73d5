# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The soak of loss: whatever is done with two versions under load, no client loses a request.

All cases run one after the other on one deployment, under clients that never stop. Nothing is set back in between:
what a case begins with is what the one before it has left, by the same playbooks. The routes do not retry, and the app
is gone at once when it is told to end (traffic.yml). The counter-proofs do the same things as people do them without a
tool, last, and have to lose something to the same clients.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml
from ansible_collections.progressive.istio.tests.demo.stage import (
    CHECKOUT,
    RECORD,
    SERVICE,
    Json,
    Played,
    Playing,
    Stage,
    StageError,
)
from ansible_collections.progressive.istio.tests.soak.crowd import KINDS, Crowd, say

VARIABLES = CHECKOUT / "tests" / "soak" / "traffic.yml"
EDGE = CHECKOUT / "tests" / "soak" / "edge.yml"
NAMESPACE = "soak-traffic"  # app_namespace of traffic.yml
ROUTES = (SERVICE, "edge", "edge-grpc")  # the VirtualServices: the mesh's, which has the record, and the gateway's two
FAILED = 2  # ansible-playbook's exit code when a task of a host failed
LONG = [{"weight": 50, "min_seconds": 500}, {"weight": 100, "min_seconds": 3}]  # stays at 50 % until somebody acts
INTERRUPTED = "interrupted"
AFTER_SECONDS = 2.0  # a loss that the last write of a case makes is the case's
COUNTER_PROOFS = 3  # runs of each of them at most: one suffices to show that the clients see losses
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
NETWORKING = f"/apis/networking.istio.io/v1/namespaces/{NAMESPACE}"
MERGE = "application/merge-patch+json"


@dataclass(slots=True)
class Scene:
    """The service under load, and the playbooks on it. What goes wrong is collected in ``wrong``."""

    stage: Stage
    wrong: list[str]
    played: list[Json]

    def shares(self, name: str = SERVICE) -> dict[str, int]:
        """Weight by subset in a VirtualService; those without any are left out."""
        routes = self.stage.call(f"{NETWORKING}/virtualservices/{name}")["spec"]["http"][0]["route"]
        weights = {r["destination"]["subset"]: r.get("weight", 100 if len(routes) == 1 else 0) for r in routes}
        return {version: weight for version, weight in weights.items() if weight}

    def live(self) -> str:
        """The version that has all traffic of all routes. Raises StageError when none has."""
        shares = {name: self.shares(name) for name in ROUTES}
        found = {version for weights in shares.values() for version in weights}
        if len(found) != 1:
            raise StageError(f"no version has all traffic: {shares}")
        return found.pop()

    def idle(self) -> str:
        """The other one."""
        return "v1" if self.live() == "v2" else "v2"

    def expect(self, version: str, phase: str) -> None:
        """After a case: who has all traffic everywhere, and how the release on record ended."""
        shares = {name: self.shares(name) for name in ROUTES}
        if any(weights.keys() != {version} for weights in shares.values()):
            self.wrong.append(f"{version} does not have all traffic: {shares}")
        if self.stage.record().get("phase") != phase:
            self.wrong.append(f"the release on record is {self.stage.record().get('phase')}, not {phase}")

    def start(self, name: str, **variables: object) -> Playing:
        """Start a playbook with the soak's variables, and these."""
        return self.stage.play(name, "-e", f"@{VARIABLES}", "-e", json.dumps(variables))

    def end(self, playing: Playing, code: int = 0) -> Played:
        """Wait for its end, which has to be with that exit code."""
        done = playing.end()
        words = " ".join(map(str, playing.process.args)) if isinstance(playing.process.args, list) else ""
        playbook = words.partition("playbooks/")[2].partition(".yml")[0]
        self.played.append({"playbook": playbook, "seconds": round(done.seconds, 1), "lines": stamped(done)})
        if done.code != code:
            self.wrong.append(f"{playbook}.yml ended with {done.code}, not {code}: {done.lines[-3:]}")
        return done

    def promote(self, version: str, *weights: int) -> Played:
        """Release a version to 100 %, three seconds a step."""
        steps = {"canary_steps": [{"weight": weight, "min_seconds": 3} for weight in weights]} if weights else {}
        return self.end(self.start("promote", canary_version=version, **steps))

    def half(self, version: str) -> Playing:
        """Begin to release a version, up to the moment when it has 50 % in all proxies."""
        playing = self.start("promote", canary_version=version, canary_steps=LONG)
        try:
            playing.wait_for(r"step 1/2 .*weight 50 % in", 400)
        except (StageError, KeyboardInterrupt):
            playing.process.terminate()
            playing.process.wait(30)
            raise
        time.sleep(2.0)
        return playing

    def change_template(self, version: str) -> None:
        """What a new build does: another pod template, which the Deployment rolls out at once."""
        annotations = {"example.com/build": f"{time.time():.3f}"}
        body = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
        self.stage.call(f"{APPS}/{SERVICE}-{version}", "PATCH", body, MERGE)

    def rolled_out(self, version: str) -> None:
        """Wait until the Deployment has its new pods only."""
        name = f"deployment/{SERVICE}-{version}"
        self.stage.kubectl("rollout", "status", "-n", NAMESPACE, name, "--timeout=120s")
        self.stage.ready(f"app={SERVICE},version={version}", 1)

    def scale(self, version: str, replicas: int) -> None:
        """kubectl scale, without a wait."""
        self.stage.call(f"{APPS}/{SERVICE}-{version}/scale", "PATCH", {"spec": {"replicas": replicas}}, MERGE)


def stamped(done: Played) -> list[str]:
    """The live lines with their times, to lay beside the time of a loss; without them the last lines."""
    events = [line.partition("] ")[2][:200] for line in done.lines if line.startswith("[") and "] " in line]
    return events or done.lines[-3:]


HEAD = (
    "150 requests a second: three client pods in the mesh, each HTTP 20 and gRPC 15; one outside, HTTP 25 and gRPC 20",
    "by an ingress gateway. No retries; the app is gone at once on SIGTERM. Judging is not asked (tolerance 0.5).",
)

# ---------------------------------------------------------------- cases


def to_100(scene: Scene) -> None:
    """Release the idle version to 100 %, step by step."""
    version = scene.idle()
    scene.promote(version)
    scene.expect(version, "promoted")


def abort(scene: Scene) -> None:
    """Take a release back at 50 %, by the playbook, while it runs."""
    live, version = scene.live(), scene.idle()
    running = scene.half(version)
    scene.end(scene.start("abort"))
    running.end()  # it sees the record change, and stops
    scene.expect(live, "aborted")


def rollback(scene: Scene) -> None:
    """Release to 100 %, then go back: a release of the version before, in one step."""
    before, version = scene.live(), scene.idle()
    scene.promote(version, 50, 100)
    scene.expect(version, "promoted")
    scene.promote(before, 100)
    scene.expect(before, "promoted")


def newer(scene: Scene) -> None:
    """At 50 % the canary's pod template changes: that release takes itself back, then the newer version is released."""
    live, version = scene.live(), scene.idle()
    running = scene.half(version)
    scene.change_template(version)
    done = scene.end(running, FAILED)
    if not any("changed in the middle of its release" in event for event in done.events):
        scene.wrong.append(f"it was not taken back for the newer version: {done.events[-2:]}")
    scene.expect(live, "aborted")
    scene.rolled_out(version)
    scene.promote(version, 50, 100)
    scene.expect(version, "promoted")


def retire(scene: Scene) -> None:
    """Release to 100 %, retire the version that it left behind, and deploy that again for the case that follows."""
    old, version = scene.live(), scene.idle()
    scene.promote(version, 50, 100)
    scene.end(scene.start("retire"))
    scene.expect(version, "promoted")
    if scene.stage.pods(f"app={SERVICE},version={old}"):
        scene.wrong.append(f"{old} was retired, and its pods are still there")
    for name in ROUTES:
        route = scene.stage.call(f"{NETWORKING}/virtualservices/{name}")["spec"]["http"][0]["route"]
        if old in {entry["destination"]["subset"] for entry in route}:
            scene.wrong.append(f"{old} was retired, and is still a destination of {name}")
    scene.end(scene.start("deploy"))


def naive_apply(scene: Scene) -> None:
    """kubectl apply of VirtualServices, DestinationRule and Deployment of a new version, all at once."""
    stage, old = scene.stage, scene.live()
    rule = stage.call(f"{NETWORKING}/destinationrules/{SERVICE}")
    routes = [stage.call(f"{NETWORKING}/virtualservices/{name}") for name in ROUTES]
    deployment = plain(stage.call(f"{APPS}/{SERVICE}-{old}"))
    deployment["metadata"]["name"] = f"{SERVICE}-v3"
    deployment["spec"]["selector"]["matchLabels"]["version"] = "v3"
    deployment["spec"]["template"]["metadata"]["labels"]["version"] = "v3"
    deployment["spec"]["replicas"] = 1
    applied = [*map(plain, routes), plain(rule)]
    for one in applied[:-1]:
        first = one["spec"]["http"][0]["route"][0]["destination"]
        one["spec"]["http"][0]["route"] = [{"destination": {**first, "subset": "v3"}, "weight": 100}]
    applied[-1]["spec"]["subsets"].append({"name": "v3", "labels": {"version": "v3"}})
    try:
        stage.apply(*applied, deployment)
        stage.ready(f"app={SERVICE},version=v3", 1)
        time.sleep(AFTER_SECONDS)
    finally:
        for found in routes:
            path = f"{NETWORKING}/virtualservices/{found['metadata']['name']}"
            stage.call(path, "PATCH", {"spec": {"http": found["spec"]["http"]}}, MERGE)
        time.sleep(AFTER_SECONDS)
        subsets = {"spec": {"subsets": rule["spec"]["subsets"]}}
        stage.call(f"{NETWORKING}/destinationrules/{SERVICE}", "PATCH", subsets, MERGE)
        stage.call(f"{APPS}/{SERVICE}-v3", "DELETE")


def early_scale_down(scene: Scene) -> None:
    """Scale the old version down, and send all traffic to the new one in the same moment."""
    old, version = scene.live(), scene.idle()
    try:
        scene.scale(old, 0)
        set_back(scene.stage, version)
        time.sleep(AFTER_SECONDS)
    finally:
        scene.scale(old, 1)
        scene.stage.ready(f"app={SERVICE},version={old}", 1)


def plain(found: Json) -> Json:
    """An object as a person has it in a file."""
    keep = {key: found["metadata"][key] for key in ("name", "namespace", "labels") if key in found["metadata"]}
    return {**copy.deepcopy({key: found[key] for key in ("apiVersion", "kind", "spec")}), "metadata": keep}


Case = Callable[[Scene], None]
CASES: dict[str, tuple[str, Case]] = {
    "to-100": ("release to 100 %", to_100),
    "abort": ("release taken back at 50 %", abort),
    "rollback": ("release to 100 %, then back", rollback),
    "newer": ("newer version at 50 %, then that", newer),
    "retire": ("release, retire the old version", retire),
    "naive-apply": ("counter-proof: all applied at once", naive_apply),
    "early-scale-down": ("counter-proof: scaled down too early", early_scale_down),
}
LOSING = ("naive-apply", "early-scale-down")


# ---------------------------------------------------------------- the soak


def set_back(stage: Stage, version: str) -> None:
    """All traffic to one version in all routes at once, and no release on record: what a person does by hand."""
    for name in ROUTES:
        http = stage.call(f"{NETWORKING}/virtualservices/{name}")["spec"]["http"]
        destination = {**http[0]["route"][0]["destination"]}
        entries = {entry["destination"]["subset"]: entry for entry in http[0]["route"]}
        for one in ("v1", "v2"):
            entries.setdefault(one, {"destination": {**destination, "subset": one}})
            entries[one]["weight"] = 100 * (one == version)
        http[0]["route"] = [entries["v1"], entries["v2"]]
        body = {"metadata": {"annotations": {RECORD: None}}, "spec": {"http": http}}
        stage.call(f"{NETWORKING}/virtualservices/{name}", "PATCH", body, MERGE)


def deploy(stage: Stage) -> None:
    """The app by its playbook, then what the edge team and the gRPC clients need."""
    stage.played("deploy", "-e", f"@{VARIABLES}")
    objects = yaml.safe_load(EDGE.read_text("utf-8"))["items"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ("--server-side", "--force-conflicts", "--field-manager=edge-team", "-n", stage.namespace, "-f", "-")
    stage.kubectl("apply", *words, stdin=text)
    stage.ready("app=edge", 1)


def schedule(chosen: Sequence[str], times: int) -> list[tuple[int, str]]:
    """Run by run: every case once in each round, the counter-proofs after all rounds."""
    rounds = [(number, name) for number in range(times) for name in chosen if name not in LOSING]
    proofs = [(number, name) for number in range(min(times, COUNTER_PROOFS)) for name in chosen if name in LOSING]
    return rounds + proofs


def one_run(stage: Stage, crowd: Crowd, number: int, name: str) -> Json:
    """A run of a case, with what every client counted in it; what breaks it is a result, too."""
    began, load = time.time(), os.getloadavg()[0]
    scene = Scene(stage, [], [])
    try:
        CASES[name][1](scene)
        time.sleep(AFTER_SECONDS)
    except StageError as error:
        scene.wrong.append(f"did not come to its end: {error}")
    except KeyboardInterrupt:
        scene.wrong.append(INTERRUPTED)
    mended = INTERRUPTED not in scene.wrong and (bool(scene.wrong) or name in LOSING)
    if mended:  # so that the case after it has something to begin with
        mend(stage)
    totals, losses = crowd.cut()
    lost = sum(total.lost for total in totals.values())
    if name in LOSING and not lost:
        scene.wrong.append("no request was lost: these clients could not have seen a loss")
    if name not in LOSING and lost:
        scene.wrong.append(f"{lost} requests lost")
    return {
        "case": name,
        "run": number + 1,
        "began": time.strftime("%H:%M:%S", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "load": round(load, 1),
        "wrong": scene.wrong,
        "set_back_by_hand": mended,
        "sent": {kind: total.sent for kind, total in totals.items()},
        "lost": {kind: total.lost for kind, total in totals.items()},
        "clients": {kind: total.plain() for kind, total in totals.items()},
        "losses": say(losses),
        "evidence": crowd.evidence(began) if lost else {},
        "playbooks": scene.played,
    }


def mend(stage: Stage) -> None:
    """Both versions ready, all traffic on v1, no release on record."""
    running = {pod["metadata"]["labels"]["version"] for pod in stage.pods(f"app={SERVICE}")}
    if not {"v1", "v2"} <= running:
        stage.played("deploy", "-e", f"@{VARIABLES}")
    for version in ("v1", "v2"):
        stage.ready(f"app={SERVICE},version={version}", 1)
    time.sleep(1.0)  # until the proxies know their endpoints
    set_back(stage, "v1")
    time.sleep(AFTER_SECONDS)


def line(run: Json, times: int) -> str:
    """What a run came to, on one line."""
    sent = ", ".join(f"{kind} {number:,}" for kind, number in run["sent"].items())
    codes: Counter[str] = Counter()
    for total in run["clients"].values():
        codes.update(total["codes"])
    told = ", ".join(f"{code} {number:,}" for code, number in sorted(codes.items()))
    head = f"{run['case']:<17}{run['run']:>2}/{times:<3}{run['seconds']:>4.0f} s"
    return f"{head}  sent {sent}  lost {sum(run['lost'].values())}  codes {told}  {'; '.join(run['wrong']) or 'good'}"


def summary(runs: Sequence[Json], head: Sequence[str]) -> str:
    """The table of a result: one line for each case, then every loss with its evidence."""
    columns = "".join(f"{kind.name:>16}" for kind in KINDS)
    lines = [*head, "", f"{'case':<18}{'runs':>5}{'good':>5}{'sent':>9}{'lost':>7}  lost by{columns}   what"]
    for name, (what, _case) in CASES.items():
        mine = [run for run in runs if run["case"] == name]
        if not mine:
            lines.append(f"{name:<18}{'not run':>10}{'':>16}{'':>9}{'':>{len(columns)}}   {what}")
            continue
        by_kind = {kind.name: sum(run["lost"].get(kind.name, 0) for run in mine) for kind in KINDS}
        sent = sum(sum(run["sent"].values()) for run in mine)
        good = sum(not run["wrong"] for run in mine)
        cells = "".join(f"{number:>16,}" for number in by_kind.values())
        lines.append(f"{name:<18}{len(mine):>5}{good:>5}{sent:>9,}{sum(by_kind.values()):>7,}{'':>9}{cells}   {what}")
    wrong = [f"  {run['case']} {run['run']}, {run['began']}: {text}" for run in runs for text in run["wrong"]]
    lines += ["", "not as it has to be:", *(wrong or ["  nothing"]), "", "every loss, and what the proxies counted:"]
    for run in runs:
        if run["losses"]:
            lines.append(f"  {run['case']} {run['run']}, {run['began']}")
            lines += [f"    {text}" for text in run["losses"]]
            lines += [f"    {key} +{number}" for key, number in run["evidence"].get("proxies", {}).items()]
            lines += [f"    {event}" for event in run["evidence"].get("events", [])]
    return "\n".join(lines if any(run["losses"] for run in runs) else [*lines, "  none"]) + "\n"


def soak(stage: Stage, chosen: Sequence[str], times: int, keep: Callable[[Json], object]) -> None:
    """Run the cases, a line for each; ``keep`` gets every run at once, so that what ends the soak loses none."""
    plan = schedule(chosen, times)
    with Crowd(stage) as crowd:
        crowd.start(600 + 180 * len(plan))
        for number, name in plan:
            run = one_run(stage, crowd, number, name)
            keep(run)
            if INTERRUPTED in run["wrong"]:  # its counts up to then are kept, too
                raise KeyboardInterrupt
            print("\n    ".join([line(run, times), *run["losses"]]), flush=True)
