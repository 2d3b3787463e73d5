# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: a real cluster, a real Istio, a release that goes through and one that is taken back.

Exit code 0 only if v2 was promoted without one lost request, v3 was taken back by itself (its playbook has to fail),
and v2 has all traffic at the end. All numbers of the closing table are the clients' own counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import textwrap
import time
from pathlib import Path

from ansible_collections.progressive.istio.tests.demo.clients import PODS, Clients, Total
from ansible_collections.progressive.istio.tests.demo.stage import (
    CHECKOUT,
    EVENT,
    Played,
    Stage,
    StageError,
    enter,
    entered,
    inside,
    machine,
    prepare,
    versions,
)

CLUSTER = "demo"
MODULE = "ansible_collections.progressive.istio.tests.demo.demo"
VARS = "tests/demo/vars.yml"
RATE = 150.0  # requests a second, all clients together: what two busy cores carry easily
WIDTH = 118
PROMOTE_FAILED = 2  # ansible-playbook: a task of a host failed
TERMINAL = sys.stdout.isatty()


def bold(text: str) -> str:
    """For a terminal; plain text elsewhere."""
    return f"\033[1m{text}\033[0m" if TERMINAL else text


class Show:
    """Prints, and keeps what was printed for a recording."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def line(self, text: str = "", *, strong: bool = False) -> None:
        """One line, now."""
        self.kept.append(text)
        print(bold(text) if strong else text, flush=True)

    def head(self, text: str) -> None:
        """What comes next."""
        self.line()
        self.line(text, strong=True)

    def release(self, line: str) -> None:
        """A line of ansible-playbook: live lines as they are, the reason of a failure, and the closing counts."""
        if EVENT.match(line):
            head, _sep, text = line.partition("] ")
            for number, part in enumerate(wrapped(text)):
                self.line(f"{head}] {part}" if not number else " " * (len(head) + 2) + part)
        elif re.match(r"^\S+ +: ok=", line):
            self.line(re.sub(r" +", " ", line))
        elif line.startswith("fatal:"):
            head, _sep, told = line.partition(" => ")
            with contextlib.suppress(ValueError):
                told = json.loads(told)["msg"]
            for number, part in enumerate(textwrap.wrap(f"{head} => {told}", WIDTH - 10)[:3]):
                self.line(part if not number else " " * 10 + part)


def wrapped(text: str) -> list[str]:
    """The text of a live line in pieces that fit, broken where it has two spaces; a command to copy is cut short."""
    stamp, _sep, rest = text.partition("  ")
    pieces = [stamp]
    for part in re.split(r"  +", rest.strip()):
        piece = part if "kubectl" not in part else part.partition(" --type")[0] + " ..."
        if len(pieces[-1]) + len(piece) + 12 <= WIDTH:
            pieces[-1] += "  " + piece
        else:
            pieces.append(" " * 10 + piece)
    return pieces


def install(stage: Stage, show: Show) -> None:
    """Istio and the app, by the project's playbooks."""
    show.head("$ ansible-playbook playbooks/install.yml -e @$LAB_VARS")
    done = stage.played("install", "-e", f"@{os.environ['LAB_VARS']}")
    show.line(f"Istio is installed and works  ({done.seconds:.0f} s, {done.recap})")
    show.head(f"$ ansible-playbook playbooks/deploy.yml -e @examples/hello.yml -e @{VARS}")
    done = stage.played("deploy", "-e", f"@{VARS}")
    shares = ", ".join(f"{name} {weight} %" for name, weight in sorted(stage.weights().items()))
    show.line(f"app-1 is deployed as v1, v2, v3: {shares} of the traffic  ({done.seconds:.0f} s, {done.recap})")


def promote(stage: Stage, version: str, show: Show) -> Played:
    """Release a version, with its lines as they come."""
    show.line(f"$ ansible-playbook playbooks/promote.yml -e @examples/hello.yml -e @{VARS} -e canary_version={version}")
    return stage.play("promote", "-e", f"@{VARS}", "-e", f"canary_version={version}", show=show.release).end()


def check_v2(stage: Stage, done: Played, counted: Total) -> list[str]:
    """What is wrong with the release of v2; empty if nothing is."""
    wrong = []
    if done.code or stage.record().get("phase") != "promoted" or stage.weights().get("v2") != 100:
        wrong.append(f"v2 was not promoted: exit code {done.code}, {done.lines[-6:]}")
    if counted.lost:
        wrong.append(f"{counted.lost} requests were lost while v2 was released: {dict(counted.codes)}")
    return wrong


def check_v3(stage: Stage, done: Played, before: Total, counted: Total) -> list[str]:
    """What is wrong with the end of v3; empty if nothing is."""
    wrong, record = [], stage.record()
    if done.code != PROMOTE_FAILED or record.get("phase") != "aborted" or record["canary"]["name"] != "v3":
        wrong.append(f"v3 was not taken back: exit code {done.code}, {done.lines[-6:]}")
    if {name: weight for name, weight in stage.weights().items() if weight} != {"v2": 100}:
        wrong.append(f"v2 does not have all traffic at the end: {stage.weights()}")
    if counted.no_answer or set(counted.bad) - {"v3"}:
        wrong.append(f"requests were lost to others than v3: {counted.no_answer} without answer, {dict(counted.bad)}")
    if not counted.bad["v3"] > before.bad["v3"]:
        wrong.append("v3 has answered nothing badly: there was nothing to take it back for")
    return wrong


def table(first: Total, total: Total, done: Played, show: Show) -> None:
    """What the clients counted."""
    rows = [
        ("requests sent", f"{total.sent:,}"),
        ("lost while v2 was released", f"{first.lost:,}"),
        ("lost for want of an answer", f"{total.no_answer:,}"),
        ("lost to bad answers, all of v3", f"{total.bad['v3']:,}"),
    ]
    rows += [(f"answered by {name}", f"{total.answered(name):,}") for name in ("v1", "v2", "v3")]
    if total.first_bad:
        rows.append(("first bad answer -> last answer of v3", f"{total.last_answer['v3'] - total.first_bad:.1f} s"))
    verdict = re.search(r"([\d.]+) s after the verdict", " ".join(done.events))
    if verdict:
        rows.append(("verdict -> weight 0 in all client proxies", f"{float(verdict.group(1)):.2f} s"))
    show.head(f"What {PODS} client pods counted, {total.sent / max(1, RATE):.0f} s at {RATE:.0f} requests a second")
    for name, value in rows:
        show.line(f"  {name:<44}{value:>10}")


def run(show: Show) -> list[str]:
    """The whole show. Returns what was not as it has to be."""
    with entered() as stage, Clients(stage) as clients:
        install(stage, show)
        stage.reset()  # a second demo on the same cluster begins like the first
        clients.start(RATE)
        show.line(f"{PODS} client pods send {RATE:.0f} requests a second together")
        show.head("v2 is good")
        good = promote(stage, "v2", show)
        time.sleep(2.0)
        first = clients.now()
        wrong = check_v2(stage, good, first)
        broken: Played | None = None
        if not wrong:
            show.head("v3 is broken: one answer in twenty is an error")
            broken = promote(stage, "v3", show)
            show.line(f"ansible-playbook ended with {broken.code}: a release that was taken back is a failed task")
            time.sleep(2.0)
        total = clients.stop()
        if broken:
            wrong += check_v3(stage, broken, first, total)
            table(first, total, broken, show)
        return wrong + ([] if total.sent == total.ok + total.lost else [f"counts do not add up: {total.plain()}"])


def recording(path: Path, show: Show, seconds: float) -> None:
    """Write what was shown, without colours, under a header that says where it comes from."""
    with entered() as stage:
        what = versions(stage)
    head = [
        f"Recorded by `tests/demo/run --record {path.as_posix()}` on {time.strftime('%Y-%m-%d', time.gmtime())}:",
        what,
        f"{machine()}; {seconds:.0f} s in all, the lab was built",
    ]
    path = path if path.is_absolute() else CHECKOUT / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*head, *show.kept]).rstrip() + "\n", "utf-8")


def main() -> int:
    """Outside of the cluster's network: make the cluster, then go on inside."""
    parser = argparse.ArgumentParser(prog="tests/demo/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, metavar="FILE", help="also write what is shown to a file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    show = Show()
    try:
        if not inside():
            began = time.time()
            print(bold("A cluster of its own for the demo; yours is not touched"), flush=True)
            prepare(CLUSTER, show.line)
            os.environ["DEMO_BEGAN"] = json.dumps([began, show.kept])
            enter(CLUSTER, MODULE, sys.argv[1:])
        began, show.kept = json.loads(os.environ.pop("DEMO_BEGAN", json.dumps([time.time(), []])))
        wrong = run(show)
        seconds = time.time() - began
        show.line()
        if not wrong:
            show.line(f"v2 has all traffic, v3 was taken back: {seconds:.0f} s in all", strong=True)
        if arguments.record and not wrong:
            recording(arguments.record, show, seconds)
    except StageError as error:
        wrong = [str(error)]
    except KeyboardInterrupt:
        wrong = ["interrupted"]
    for text in wrong:
        print(f"demo: {text}", file=sys.stderr)
    print(
        "\nThe cluster is still there. To look around:\n"
        "  tests/lab/lab --cluster demo run kubectl get pods -n namespace-1\n"
        "  tests/lab/lab --cluster demo run ansible-playbook playbooks/status.yml -e @examples/hello.yml\n"
        "make demo-down removes it."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
