# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules cost: istio_weight against kubernetes.core.k8s, and what a step of a release costs besides waiting.

Both on one cluster of the lab, over the same kubeconfig. Writes docs/results/bench-<date>.txt with every raw number.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.progressive.istio.tests.demo.clients import PODS, Clients
from ansible_collections.progressive.istio.tests.demo.stage import (
    NAMESPACE,
    SERVICE,
    Json,
    Playing,
    Stage,
    StageError,
    enter,
    entered,
    inside,
    keep,
    machine,
    prepare,
    versions,
)

MODULE = "ansible_collections.progressive.istio.tests.bench.bench"
RATE = 150.0  # requests a second under which a release is timed
WEIGHTS = (50, 60, 70, 80, 90, 100)
# A gate that is content with a handful of requests, and looks as often as it may: what a step still takes is overhead.
GATE = {"tolerance_floor": 0.5, "alpha_pass": 0.5, "interval": 0.2, "latency": False}
KINDS = ("istio_weight", "istio_weight, verify: none", "k8s, merge patch", "k8s, apply")


def destination(subset: str, weight: int) -> Json:
    """One destination of the example's route."""
    host = f"{SERVICE}.{NAMESPACE}.svc.cluster.local"
    return {"destination": {"host": host, "subset": subset}, "weight": weight}


def task(kind: str, number: int, weight: int) -> Json:
    """One task that changes the weights; its name says which kind it is of."""
    if kind.startswith("istio_weight"):
        verify = "none" if "none" in kind else "proxies"
        options = {"namespace": NAMESPACE, "name": SERVICE, "weights": {"v1": 100 - weight, "v2": weight, "v3": 0}}
        return {"name": f"{kind}#{number}", "progressive.istio.istio_weight": {**options, "verify": verify}}
    http = [
        {"name": SERVICE, "route": [destination("v1", 100 - weight), destination("v2", weight), destination("v3", 0)]}
    ]
    definition = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"hosts": [f"{SERVICE}.{NAMESPACE}.svc.cluster.local"], "http": http},
    }
    how = {"apply": True} if "apply" in kind else {"merge_type": "merge"}
    return {"name": f"{kind}#{number}", "kubernetes.core.k8s": {"state": "present", "definition": definition, **how}}


def playbook(rounds: int) -> list[Json]:
    """Every kind once in each round, in an order that turns; no two tasks in a row set the same weight."""
    tasks = []
    for number in range(rounds):
        order = KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]
        tasks += [task(kind, number, 10 + len(KINDS) * (number % 10) + place) for place, kind in enumerate(order)]
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": tasks,
    }
    return [play]


def measure_weights(stage: Stage, rounds: int) -> dict[str, list[float]]:
    """Seconds of each task by kind, as ansible's own junit callback takes them: from its start to its result."""
    with tempfile.TemporaryDirectory(prefix="progressive-istio-bench-") as name:
        folder = Path(name)
        book = folder / "bench.yml"
        book.write_text(json.dumps(playbook(rounds)), "utf-8")  # JSON is YAML
        environment = {
            **stage.environment,
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
            "JUNIT_OUTPUT_DIR": str(folder / "junit"),
        }
        done = Playing(["ansible-playbook", str(book)], environment, lambda _line: None).end(3600)
        if done.code or done.changed != rounds * len(KINDS):
            raise StageError(f"{rounds * len(KINDS)} changed tasks expected: {done.recap} {done.lines[-6:]}")
        cases = [case for file in (folder / "junit").glob("*.xml") for case in ET.parse(file).iter("testcase")]
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for case in cases:
        kind = next((k for k in KINDS if f"{k}#" in case.get("name", "")), None)
        if kind:
            seconds[kind].append(float(case.get("time", "nan")))
    if {len(found) for found in seconds.values()} != {rounds}:
        got = {kind: len(found) for kind, found in seconds.items()}
        raise StageError(f"{rounds} times of each kind expected, got {got}")
    return seconds


def patches(stage: Stage, since: float) -> list[float]:
    """When the VirtualService was patched, by the API server's audit log (seconds since the epoch)."""
    entries = stage.audit(since)
    return sorted(e["at"] for e in entries if e["resource"] == "virtualservices" and e["verb"] == "patch")


def measure_steps(stage: Stage, releases: int) -> dict[str, list[float]]:
    """Seconds of each step, from its write to the next one, in releases that go back and forth between v1 and v2."""
    found: dict[str, list[float]] = {"step": [], "before": [], "after": []}
    plan = {"canary_steps": [{"weight": weight} for weight in WEIGHTS], "canary_analysis": GATE}
    for number in range(releases):
        version = "v2" if number % 2 == 0 else "v1"
        stage.reset("v1" if version == "v2" else "v2")  # no record of the last one
        began = time.time()
        done = stage.played("promote", "-e", json.dumps(plan), "-e", f"canary_version={version}")
        ended = time.time()
        times = patches(stage, began)
        if len(times) != len(WEIGHTS) + 1:  # one for each step, and one for the end
            raise StageError(f"{len(WEIGHTS) + 1} patches expected, {len(times)} in the audit log; {done.events[-1:]}")
        found["step"] += [after - before for before, after in itertools.pairwise(times)]
        found["before"].append(times[0] - began)
        found["after"].append(ended - times[-1])
    return found


def row(name: str, values: Sequence[float], base: float | None = None) -> str:
    """min, median, max in seconds, and the medians' ratio."""
    text = f"  {name:<30}{len(values):>4}{min(values):>9.2f}{statistics.median(values):>9.2f}{max(values):>9.2f}"
    return text + ("" if base is None else f"{statistics.median(values) / base:>9.2f}")


def paired(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio round by round: neighbours in time, so that what else the machine does falls on both."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"min {ratios[0]:.2f}, median {statistics.median(ratios):.2f}, max {ratios[-1]:.2f}"


def report(weights: dict[str, list[float]], steps: dict[str, list[float]], head: Sequence[str]) -> str:
    """The whole result as text."""
    base = statistics.median(weights["k8s, merge patch"])
    lines = [
        *head,
        "",
        "One task that changes the two weights, from its start to its result, by ansible's junit callback. All kinds",
        "once in each round, in turning order, on the same VirtualService with one kubeconfig; istio_weight with its",
        f"verification in {PODS} client pods' and 3 app pods' proxies. Ratio: to the median of k8s with a merge patch.",
        f"  {'seconds':<30}{'n':>4}{'min':>9}{'median':>9}{'max':>9}{'ratio':>9}",
        *(row(kind, weights[kind], base) for kind in KINDS),
        f"  istio_weight / k8s merge patch, round by round: {paired(weights[KINDS[0]], weights[KINDS[2]])}",
        f"  istio_weight / k8s apply,       round by round: {paired(weights[KINDS[0]], weights[KINDS[3]])}",
        "",
        f"A step of a release, from its write to the next step's, by the API server's audit log. Steps {WEIGHTS} %",
        f"without least time, under {RATE:.0f} requests a second, with a gate that is content with a handful of",
        f"requests ({GATE}): what is left is reading, patching,",
        "verifying in all proxies, one or two looks with the pause of 0.2 s between them, and saving the evidence.",
        "before: from the start of ansible-playbook to the first write; after: from the last write to its end.",
        f"  {'seconds':<30}{'n':>4}{'min':>9}{'median':>9}{'max':>9}",
        row("step", steps["step"]),
        row("before", steps["before"]),
        row("after", steps["after"]),
        "",
        "Raw, in seconds, in the order of the rounds:",
    ]
    for name, values in {**weights, **steps}.items():
        lines.append(f"  {name}: " + " ".join(f"{value:.3f}" for value in values))
    return "\n".join(lines) + "\n"


def run(rounds: int, releases: int, *, installed: bool) -> str:
    """Measure everything; the report."""
    with entered() as stage, Clients(stage) as clients:
        if not installed:
            stage.played("install", "-e", f"@{os.environ['LAB_VARS']}")
            stage.played("deploy", "-e", "@tests/demo/vars.yml")
        stage.reset()
        head = [
            f"Bench of {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC",
            versions(stage),
            f"at its start: {machine()}",
        ]
        clients.start(RATE)
        weights = measure_weights(stage, rounds)
        for kind in KINDS:
            print(row(kind, weights[kind]), flush=True)
        stage.reset()
        steps = measure_steps(stage, releases)
        counted = clients.stop()
        head += [
            f"at its end: {machine()}",
            f"the clients sent {counted.sent:,}, lost {counted.lost:,}, skipped {counted.skipped:,}",
        ]
        stage.reset()
        return report(weights, steps, head)


def main() -> int:
    """Outside of the cluster's network: make the cluster, then go on inside."""
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cluster", default="soak", help="which cluster of the lab (default: %(default)s); it is made")
    parser.add_argument("--rounds", type=int, default=20, help="times that each module changes the weights")
    parser.add_argument("--releases", type=int, default=4, help="releases of six steps")
    parser.add_argument("--installed", action="store_true", help="leave install and deploy out: they have run on it")
    parser.add_argument("--output", type=Path, help="default: docs/results/bench-<date>.txt")
    arguments = parser.parse_args()
    try:
        if not inside():
            prepare(arguments.cluster, lambda line: print(line, flush=True))
            enter(arguments.cluster, MODULE, sys.argv[1:])
        text = run(arguments.rounds, arguments.releases, installed=arguments.installed)
    except StageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    keep("bench", arguments.output, text)
    print(text, end="")
    print(f"tests/lab/lab --cluster {inside()} down  removes the cluster")
    return 0


if __name__ == "__main__":
    sys.exit(main())
