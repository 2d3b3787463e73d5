# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many services released at once by one ansible-playbook, on a fake mesh: CPU, memory, requests, time of steps."""

from __future__ import annotations

import json
import os
import re
import resource
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.progressive.istio.tests.bench.clocked import BenchError, less
from ansible_collections.progressive.istio.tests.bench.fake_mesh import NAMESPACE, Size
from ansible_collections.progressive.istio.tests.bench.fake_server import Fake, served
from ansible_collections.progressive.istio.tests.demo.stage import Json, Playing, clean

WEIGHTS = (10, 50, 100)
ANALYSIS = {"tolerance_floor": 0.5, "alpha_pass": 0.5, "latency": False}  # content with a handful of requests
SAMPLE_SECONDS = 5.0  # between looks at the memory of all processes


@dataclass(frozen=True, slots=True)
class Fleet:
    """What ``runs`` releases at once took; all times in seconds, memory in MB.

    ``begins`` and ``steps`` are of those that were promoted; ``others`` says how often the others ended why.
    """

    runs: int
    promoted: int
    others: Mapping[str, int]
    seconds: float
    cpu: float
    memory: float
    processes: int
    begins: list[float]  # from the start of ansible-playbook to each service's first write
    steps: list[float]  # each step beyond its least time
    asked: Mapping[str, int]
    sent: Mapping[str, int]
    server_cpu: float

    def plain(self) -> Json:
        """For the raw file."""
        return {name: getattr(self, name) for name in self.__slots__}


class Memory:
    """The most that a process and all below it took together: proportional shares, so nothing counts twice."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self.most, self.processes = 0.0, 0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            family = descendants(self._pid)
            self.most = max(self.most, sum(map(proportional, family)))
            self.processes = max(self.processes, len(family))

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def descendants(pid: int) -> set[int]:
    """A process and all below it that are there."""
    children = defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(file.read_text().rpartition(")")[2].split()[1])].append(int(file.parent.name))
    found, new = {pid}, [pid]
    while new:
        new = [child for parent in new for child in children[parent] if child not in found]
        found |= set(new)
    return found


def proportional(pid: int) -> float:
    """MB of a process, shared pages by halves, thirds and so on; 0 when it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def inventory(services: list[str], least: int) -> Json:
    """One host for each service, as docs and design say; JSON is YAML."""
    steps = [{"weight": weight, "min_seconds": least} for weight in WEIGHTS]
    shared = {"app_namespace": NAMESPACE, "canary_steps": steps, "canary_analysis": ANALYSIS}
    return {"all": {"hosts": {name: {"app_name": name} for name in services}, "vars": shared}}


def fleet(runs: int, size: Size, delays: list[list[float]], least: int) -> Fleet:
    """Releases ``runs`` of the mesh's services at once, three steps of ``least`` seconds each. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="progressive-istio-fleet-") as name:
        folder = Path(name)
        with served(size, delays, folder) as fake:
            return _released(runs, fake, folder, least)


def _released(runs: int, fake: Fake, folder: Path, least: int) -> Fleet:
    services = [f"app-{number + 1}" for number in range(runs)] if fake.size.services > 1 else ["app-1"]
    hosts = folder / "hosts.yml"
    hosts.write_text(json.dumps(inventory(services, least)), "utf-8")
    environment = {**clean(os.environ), "K8S_AUTH_KUBECONFIG": str(fake.kubeconfig)}
    words = ["ansible-playbook", "playbooks/promote.yml", "-i", str(hosts), "-f", str(runs)]
    words += ["-e", "target=all", "-e", "canary_version=v2"]
    before, used = fake.ask("counters"), resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.time()
    playing = Playing(words, environment, lambda _line: None)
    memory = Memory(playing.process.pid)
    try:
        done = playing.end(3600)
    finally:
        memory.end()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    after = fake.ask("counters")
    times: dict[str, list[float]] = defaultdict(list)
    for at, service in fake.ask("patches"):
        times[service].append(at)
    whole = [found for found in times.values() if len(found) == len(WEIGHTS) + 1]
    others = reasons(done.lines)
    if not whole or len(whole) + sum(others.values()) != runs:
        raise BenchError(f"{len(whole)} of {runs} releases were promoted; {others or done.lines[-4:]}")
    return Fleet(
        runs,
        len(whole),
        others,
        round(done.seconds, 1),
        round(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, 1),
        round(memory.most),
        memory.processes,
        [round(found[0] - began, 2) for found in whole],
        [round(found[n + 1] - found[n] - least, 2) for found in whole for n in range(len(WEIGHTS))],
        less(after["asked"], before["asked"]),
        less(after["sent"], before["sent"]),
        round(after["cpu"] - before["cpu"], 1),
    )


def reasons(lines: Sequence[str]) -> dict[str, int]:
    """How often tasks failed for which reason; names and numbers are left out, so that equal ones are told once."""
    found: Counter[str] = Counter()
    for line in lines:
        match = re.match(r"fatal: \[\S+\]: FAILED! => (.*)", line)
        if match:
            told = re.search(r'"msg": "(.*?)"[,}]', match[1])
            found[re.sub(r"[\w/.~-]*\d[\w/.~-]*", "#", told[1] if told else match[1])[:200]] += 1
    return dict(found.most_common())
