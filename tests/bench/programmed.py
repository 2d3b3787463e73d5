# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a patch to "all proxies run it": p50, p99, what of it is ours; what a proxy, a step and many services cost.

Real proxies on a cluster of the lab first; then fake ones in any number, that take a change after delays measured on
the real ones. Writes docs/results/bench-proxies-<date>.txt, and the raw numbers beside it as .json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ansible_collections.progressive.istio.tests.bench import clocked
from ansible_collections.progressive.istio.tests.bench.clocked import BenchError, Dumps, Meter
from ansible_collections.progressive.istio.tests.bench.fake_mesh import Size
from ansible_collections.progressive.istio.tests.bench.fake_server import served
from ansible_collections.progressive.istio.tests.bench.fleet import fleet
from ansible_collections.progressive.istio.tests.bench.tables import (
    cost_rows,
    fleet_rows,
    plain,
    report,
    row_of,
    step_rows,
    told,
)
from ansible_collections.progressive.istio.tests.demo.clients import deployment
from ansible_collections.progressive.istio.tests.demo.stage import (
    LAB,
    NAMESPACE,
    SERVICE,
    Json,
    Stage,
    StageError,
    clean,
    entered,
    inside,
    keep,
    machine,
    prepare,
    versions,
)

MODULE = "ansible_collections.progressive.istio.tests.bench.programmed"
WHERE = (NAMESPACE, SERVICE)
RATE = 100.0  # requests a second of the real clients together
VERSIONS = [{"name": "v1"}, {"name": "v2"}]
MOST_CALLERS = 10
TIMES = 20  # repetitions of what is cheap
WAYS = (("istio_weight", clocked.weigh), ("istio_canary", clocked.release))
Say = Callable[[str], None]


def numbers(text: str) -> list[int]:
    """``3,30`` as a list."""
    return [int(part) for part in text.split(",") if part]


# ---------------------------------------------------------------- real proxies


def real(sizes: Sequence[int], rounds: int, say: Say, *, installed: bool) -> Json:
    """Runs in the cluster's network: both ways, at every number of proxies (two pods of the versions, else clients)."""
    with entered() as stage:
        if not installed:
            stage.played("install", "-e", f"@{os.environ['LAB_VARS']}")
            words = ("-e", "@tests/demo/vars.yml", "-e", json.dumps({"app_versions": VERSIONS}))
            stage.played("deploy", *words)
        stage.kubectl("delete", "hpa", "-n", NAMESPACE, "--all")  # the number of proxies is to stay
        head = [versions(stage), f"at the start of the real part: {machine()}"]
        rows = [row for size in sizes for row in _real(stage, size, rounds, say)]
        stage.kubectl("delete", "deployment", "-n", NAMESPACE, "client", "--ignore-not-found")
        return {"head": [*head, f"at its end: {machine()}"], "rows": rows}


def _real(stage: Stage, size: int, rounds: int, say: Say) -> list[Json]:
    clients = size - len(VERSIONS)
    stage.kubectl("delete", "deployment", "-n", NAMESPACE, "client", "--ignore-not-found")
    stage.apply(deployment("client", clients, RATE, {}))
    stage.ready("app=client", clients, 120.0 + 20.0 * clients)
    stage.ready(f"app={SERVICE}", len(VERSIONS))
    stage.reset()
    with clocked.connected(None) as cluster:
        truth = Dumps(cluster, stage.route())
        while len(truth()) != size:  # clients that were deleted are still on their way out
            time.sleep(1)
        rows = []
        for way, measure in WAYS:
            rows.append(row_of("real", size, way, measure(None, WHERE, truth, rounds)))
            say(told(rows[-1]))
        return rows


# ---------------------------------------------------------------- fake proxies


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="progressive-istio-bench-") as name:
        yield Path(name)


def fake(size: int, rounds: int, delays: list[list[float]], say: Say) -> list[Json]:
    """Both ways on a fake mesh."""
    rows = []
    callers = min(MOST_CALLERS, size - len(VERSIONS))
    with temporary() as folder, served(Size(size, callers=callers), delays, folder) as mesh:
        truth = partial(mesh.ask, "arrivals", service=SERVICE)
        for way, measure in WAYS:
            rows.append(row_of("fake", size, way, measure(mesh.kubeconfig, WHERE, truth, rounds)))
            say(told(rows[-1]))
    return rows


def costs(size: int, neighbours: int, delays: list[list[float]], say: Say) -> Json:
    """What listing, connecting and reading cost."""
    with temporary() as folder, served(Size(size, neighbours=neighbours), delays, folder) as mesh:
        meter = Meter(partial(mesh.ask, "counters"))
        found = clocked.looking(mesh.kubeconfig, WHERE, meter, TIMES)
    result = {"size": size, "neighbours": neighbours, "costs": {what: plain(cost) for what, cost in found.items()}}
    say("\n".join(cost_rows(result)))
    return result


def steps(size: int, callers: int, seconds: float, delays: list[list[float]], say: Say) -> Json:
    """What a release that stands at a step costs, with so many proxies that send requests to the service."""
    with temporary() as folder, served(Size(size, callers=callers), delays, folder) as mesh:
        cost, looks, whom = clocked.step(mesh.kubeconfig, WHERE, Meter(partial(mesh.ask, "counters")), seconds)
    result = {"size": size, "callers": callers, "looks": looks, "whom": whom, "cost": plain(cost)}
    say("\n".join(step_rows(result)))
    return result


# ---------------------------------------------------------------- the whole


def main() -> int:
    """The real part runs in the cluster's network, as a process of its own; all the rest here."""
    parser = argparse.ArgumentParser(prog="tests/bench/run programmed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cluster", default="soak", help="which cluster of the lab (default: %(default)s); it is made")
    parser.add_argument("--installed", action="store_true", help="leave install and deploy out: they have run on it")
    parser.add_argument("--rounds", type=int, default=100, help="changes of each kind at each size (%(default)s)")
    parser.add_argument("--real", type=numbers, default=[3, 30], help="numbers of real proxies (3,30)")
    parser.add_argument("--fake", type=numbers, default=[3, 30, 100, 300], help="of fake ones (3,30,100,300)")
    parser.add_argument("--services", type=numbers, default=[1, 10, 50], help="so many released at once (1,10,50)")
    parser.add_argument("--fleet-size", type=int, default=100, help="proxies of the mesh with many services")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a step is watched, and 20 s are a third")
    parser.add_argument("--measured", type=Path, help="take the real part from this .json of an earlier run")
    parser.add_argument("--output", type=Path, help="default: docs/results/bench-proxies-<date>.txt")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # the real part's result, for the process outside
    arguments = parser.parse_args()
    say = partial(print, flush=True)
    try:
        if arguments.into:
            found = real(arguments.real, arguments.rounds, say, installed=arguments.installed)
            arguments.into.write_text(json.dumps(found), "utf-8")
            return 0
        found = everything(arguments, say)
    except (BenchError, StageError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    keep("bench-proxies", arguments.output, report(found), found)
    print(report(found), end="")
    return 0


def everything(arguments: argparse.Namespace, say: Say) -> Json:
    """All four parts. Raises BenchError and StageError."""
    if arguments.measured:
        before = json.loads(arguments.measured.read_text("utf-8"))
        measured = {"head": before["real_head"], "rows": [row for row in before["rows"] if row["what"] == "real"]}
    else:
        measured = outside(arguments.cluster, say)
    largest = max(row["size"] for row in measured["rows"])
    delays = [way for row in measured["rows"] if row["size"] == largest for way in row["delays"]]
    start = f"at the start of the fake part: {machine()}"
    rows, least = [], round(arguments.seconds / 3)
    for size in arguments.fake:
        rows += fake(size, arguments.rounds, delays, say)
    sizes = [(max(arguments.fake), 0), (100, 0), (100, 99)]
    found = {
        "real_head": measured["head"],
        "rows": [*measured["rows"], *({k: v for k, v in row.items() if k != "delays"} for row in rows)],
        "costs": [costs(size, beside, delays, say) for size, beside in dict.fromkeys(sizes)],
        "steps": [steps(100, callers, arguments.seconds, delays, say) for callers in (MOST_CALLERS, 98)],
        "step_seconds": arguments.seconds,
        "fleet_size": arguments.fleet_size,
        "least": least,
        "fleet": [],
    }
    most = max(arguments.services)
    for runs in arguments.services:
        size = Size(arguments.fleet_size, services=most, callers=2)
        found["fleet"].append(fleet(runs, size, delays, least).plain())
        say("\n".join(fleet_rows(found["fleet"][-1])))
    end = f"at its end: {machine()}"
    when = f"Bench of proxies, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    found["head"] = [when, *measured["head"], start, end]
    return found


def outside(cluster: str, say: Say) -> Json:
    """The real part, by this same program in the cluster's network."""
    if inside():
        raise StageError(
            "run this outside of the cluster's network: the fake cluster is to have the machine for itself"
        )
    prepare(cluster, say)
    with temporary() as folder:
        into = folder / "real.json"
        words = [str(LAB), "--cluster", cluster, "run", sys.executable, "-B", "-m", MODULE, *sys.argv[1:]]
        words += ["--into", str(into)]
        if subprocess.run(words, env=clean(os.environ), check=False).returncode:
            raise StageError("the real part failed; the line above says why")
        found: Json = json.loads(into.read_text("utf-8"))
        return found


if __name__ == "__main__":
    sys.exit(main())
