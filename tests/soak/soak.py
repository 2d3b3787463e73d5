# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases under load, again and again, counted by the clients; writes docs/results/soak-<date>.json and .txt.

Three groups of cases: how releases end and what they see (``cases``), whether moving traffic loses requests
(``traffic``, in docs/results/soak-traffic-<date>), and how soon bad versions are taken back (``judging``, likewise).
Exit code 0 only if every run of every case came out as it has to.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from ansible_collections.progressive.istio.tests.demo.clients import Clients
from ansible_collections.progressive.istio.tests.demo.stage import (
    CHECKOUT,
    Json,
    Stage,
    StageError,
    enter,
    entered,
    inside,
    machine,
    prepare,
    versions,
)
from ansible_collections.progressive.istio.tests.soak import judging, traffic
from ansible_collections.progressive.istio.tests.soak.cases import (
    article,
    broken_first,
    broken_last,
    naive,
    release,
)
from ansible_collections.progressive.istio.tests.soak.kills import killed
from ansible_collections.progressive.istio.tests.soak.life import orphaned, two_at_once
from ansible_collections.progressive.istio.tests.soak.windows import windows

MODULE = "ansible_collections.progressive.istio.tests.soak.soak"
Case = Callable[[Stage, Clients], Json]
ONCE = ("windows", "article")  # cases that take long: fewer runs unless they are named
CASES: dict[str, tuple[str, Case]] = {
    "release": ("v1 -> v2 to 100 %, run again", release),
    "naive": ("the same by plain apply and scale-down, for comparison", naive),
    "kill-playbook": ("SIGKILL of ansible-playbook alone", partial(killed, whole_tree=False)),
    "kill-tree": ("SIGKILL of its whole process tree", partial(killed, whole_tree=True)),
    "two-at-once": ("two runs of one release, started together", two_at_once),
    "orphaned": ("a run is killed, its version turns bad; reconcile every 30 s", orphaned),
    "broken-5-first": ("v3 with 5 % errors, first step", partial(broken_first, rate=0.05)),
    "broken-100-first": ("v3 with 100 % errors, first step", partial(broken_first, rate=1.0)),
    "broken-5-last": ("v3 turns to 5 % errors at 100 %", partial(broken_last, rate=0.05)),
    "broken-100-last": ("v3 turns to 100 % errors at 100 %", partial(broken_last, rate=1.0)),
    "windows": ("evidence against the clients' counts", windows),
    "article": ("90/10, and the autoscalers under 200 a second", article),
}


def one_run(stage: Stage, name: str) -> Json:
    """A run of a case; what breaks it is a result, too."""
    began = time.time()
    head: Json = {"case": name, "began": time.strftime("%H:%M:%S", time.gmtime(began)), "load": os.getloadavg()[0]}
    with Clients(stage) as clients:
        try:
            found = CASES[name][1](stage, clients)
        except StageError as error:
            found = {"wrong": [f"did not come to its end: {error}"]}
    return {**head, "seconds": round(time.time() - began, 1), **found}


def spread(values: Sequence[float | None]) -> str:
    """min / median / max of the numbers that are there."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{min(known):.4g} / {statistics.median(known):.4g} / {max(known):.4g}"


def summary(runs: Sequence[Json], head: Sequence[str]) -> str:
    """The table of a result: one line for each case, then what was not as it has to be."""
    lines = [*head, "", f"{'case':<20}{'runs':>5}{'good':>5}{'sent':>9}{'lost':>7}   what"]
    for name, (what, _case) in CASES.items():
        mine = [run for run in runs if run["case"] == name]
        if not mine:
            continue
        good = sum(not run["wrong"] for run in mine)
        counted = [run["clients"] for run in mine if "clients" in run]
        sent, lost = sum(c["sent"] for c in counted), sum(c["lost"] for c in counted)
        lines.append(f"{name:<20}{len(mine):>5}{good:>5}{sent:>9,}{lost:>7,}   {what}")
    lines += ["", "min / median / max over the runs", *details(runs)]
    wrong = [f"  {run['case']} {run['began']}: {text}" for run in runs for text in run["wrong"]]
    return "\n".join([*lines, "", "not as it has to be:", *(wrong or ["  nothing"])]) + "\n"


def details(runs: Sequence[Json]) -> list[str]:
    """Numbers of those cases that have more than sent and lost."""
    lines = []
    for name in CASES:
        mine = [run for run in runs if run["case"] == name and "clients" in run]
        if not mine:
            continue
        for key, text in (
            ("failed_answers", "failed answers until v3 had weight 0"),
            ("first_bad_to_verdict", "s from the first bad answer to the verdict"),
            ("verdict_to_weight_0", "s from the verdict to weight 0 in all proxies"),
            ("first_bad_to_last_answer", "s from the first bad answer to v3's last"),
            ("processes_gone_after", "s until the killed run's processes had ended"),
            ("alone", "s from when its version turned bad to weight 0"),
            ("difference", "answers that the windows do not have"),
            ("at_most_unseen", "of them, those of ended pods and proxies at most"),
            ("share_v1", "share of v1"),
        ):
            if key in mine[0]:
                lines.append(f"  {name:<20}{spread([run[key] for run in mine]):<28}{text}")
        if name == "naive":
            lines.append(f"  {name:<20}{spread([run['clients']['lost'] for run in mine]):<28}requests lost")
        if name == "article":
            lines.append(
                f"  {name:<20}replicas {mine[-1]['replicas']}, use in percent of the request {mine[-1]['use']}"
            )
        if name == "windows":
            lines.append(f"  {name:<20}windows {mine[-1]['windows']}, clients {mine[-1]['answers']}")
    return lines


Table = Callable[[Sequence[Json], Sequence[str]], str]


def write(path: Path, runs: Sequence[Json], head: Sequence[str], table: Table = summary) -> str:
    """Raw counts as JSON, one run a line, and the table beside them. Returns the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(run, sort_keys=True) for run in runs)
    path.with_suffix(".json").write_text(
        '{"head": ' + json.dumps(list(head)) + ', "runs": [\n' + rows + "\n]}\n", "utf-8"
    )
    text = table(runs, head)
    path.with_suffix(".txt").write_text(text, "utf-8")
    return text


def earlier(path: Path) -> tuple[list[str], list[Json]]:
    """Head and runs of a result that is there already; nothing without one."""
    with contextlib.suppress(FileNotFoundError):
        found = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return [*found["head"], ""], found["runs"]
    return [], []


def headed(stage: Stage, heads: Sequence[str], *more: str) -> list[str]:
    """The lines that a result begins with: of the runs that it goes on from, then of these."""
    began = f"Soak of {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    return [*heads, began, versions(stage), f"at its start: {machine()}", *more]


def soak_cases(names: Sequence[str], asked: argparse.Namespace, path: Path) -> bool:
    """Run the cases in turn, and write the result after every run. Whether all is good."""
    heads, runs = earlier(path) if asked.append else ([], [])
    known, times = len(runs), asked.runs or 5
    text = ""
    with entered() as stage:
        if not asked.installed:
            stage.played("install", "-e", f"@{os.environ['LAB_VARS']}")
            stage.played("deploy", "-e", "@tests/demo/vars.yml")
        head = headed(stage, heads)
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(times):
                for name in names:
                    if name in ONCE and number and not asked.case:
                        continue
                    runs.append(one_run(stage, name))
                    last = runs[-1]
                    verdict = "; ".join(last["wrong"]) or "good"
                    print(f"{number + 1}/{times}  {name:<18} {last['seconds']:>6.0f} s  {verdict}", flush=True)
                    text = write(path, runs, head)
            print(text)
    return len(runs) > known and not any(run["wrong"] for run in runs[known:])


def soak_traffic(names: Sequence[str], asked: argparse.Namespace, path: Path) -> bool:
    """The same for the cases of ``traffic``, which share their clients."""
    heads, runs = earlier(path) if asked.append else ([], [])
    known, times = len(runs), asked.runs or 10
    with entered(traffic.NAMESPACE) as stage:
        if not asked.installed:
            stage.played("install", "-e", f"@{os.environ['LAB_VARS']}")
            traffic.deploy(stage)
        traffic.mend(stage)  # an earlier soak may have ended anywhere
        head = headed(stage, heads, *traffic.HEAD)

        def keep(run: Json) -> None:
            runs.append(run)
            write(path, runs, head, traffic.summary)

        with contextlib.suppress(KeyboardInterrupt):
            traffic.soak(stage, names, times, keep)
        print(traffic.summary(runs, head))
    return len(runs) > known and not any(run["wrong"] for run in runs[known:])


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else adds to the results of a folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def soak_judging(names: Sequence[str], asked: argparse.Namespace, path: Path) -> bool:
    """The same for the cases of ``judging``; with --append only the runs that the file lacks. Whether all is met.

    The file is read again for every run: two soaks may add to it, each with a namespace of its own.
    """
    with entered(asked.namespace) as stage:
        if not asked.installed:
            stage.played("install", "-e", f"@{os.environ['LAB_VARS']}")
        judging.deploy(stage)
        with alone(path.parent):
            heads, runs = earlier(path) if asked.append else ([], [])
            more = () if heads else judging.HEAD
            which = "all cases" if len(names) == len(judging.CASES) else ", ".join(names)
            head = headed(stage, heads, f"in namespace {stage.namespace}: {which}", *more)
            write(path, runs, head, judging.summary)
        for number, name in judging.missing(runs, names, asked.runs or judging.TIMES):
            try:
                run = judging.one_run(stage, name, number)
            except KeyboardInterrupt:
                break
            with alone(path.parent):
                heads, runs = earlier(path)
                write(path, [*runs, run], heads[:-1], judging.summary)
            told = f"{run['verdict']:<9} {run.get('seconds')} s  {run.get('failed')} failed  {'; '.join(run['wrong'])}"
            print(f"{name:<24}{number}  {run['took']:>5.0f} s  {told}", flush=True)
    _heads, runs = earlier(path)
    print(judging.summary(runs, []))
    wrong = any(run["wrong"] for run in runs if run["case"] in names)
    met = all(judging.assess(judging.CASES[name], judging.counted(runs, name))[0] for name in names)
    return met and not wrong


GROUPS = {
    "cases": (list(CASES), soak_cases),
    "traffic": (list(traffic.CASES), soak_traffic),
    "judging": (list(judging.CASES), soak_judging),
}


def main() -> int:
    """Outside of the cluster's network: make the cluster, then go on inside."""
    parser = argparse.ArgumentParser(prog="tests/soak/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cluster", default="soak", help="which cluster of the lab (default: %(default)s); it is made")
    parser.add_argument(
        "--runs", type=int, help="how often each case runs (default: 5, an hour; traffic: 10; judging: 3)"
    )
    parser.add_argument("--only", choices=GROUPS, help="only this group of cases")
    every = [name for cases, _soak in GROUPS.values() for name in cases]
    parser.add_argument("--case", action="append", choices=every, help="only this one (may be repeated)")
    parser.add_argument("--append", action="store_true", help="add the runs to those of the result file that is there")
    parser.add_argument("--installed", action="store_true", help="leave install and deploy out: they have run on it")
    parser.add_argument("--namespace", default=judging.NAMESPACE, help="of the service that judging is asked about")
    parser.add_argument("--output", type=Path, help="default: docs/results/soak-<date>, soak-traffic-<date>")
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT is ignored in the background: a soak runs for long
        signal.signal(number, signal.default_int_handler)
    good = True
    try:
        if not inside():
            prepare(asked.cluster, lambda line: print(line, flush=True))
            enter(asked.cluster, MODULE, sys.argv[1:])
        for group, (cases, run) in GROUPS.items():
            names = [name for name in cases if not asked.case or name in asked.case]
            if names and asked.only in (None, group):
                middle = "" if group == "cases" else f"-{group}"
                dated = f"soak{middle}-{time.strftime('%Y-%m-%d', time.gmtime())}"
                path = CHECKOUT / "docs" / "results" / dated
                if asked.output:
                    path = asked.output.with_name(asked.output.name + ("" if asked.only else middle))
                good = run(names, asked, path) and good
    except StageError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    print(f"tests/lab/lab --cluster {inside()} down  removes the cluster")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
