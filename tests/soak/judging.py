# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The soak of judging: how soon a bad version is taken back, and at what price, by the count of its clients.

Three client pods send 100 requests a second through their sidecars; v1 is stable, and v2 is bad in one way for each
case. Every run has new clients, so no proxy has a past, and v1 has had some seconds of traffic when the release
begins. The numbers of a case are the medians of its runs. A limit that is not met is said, and is no error of the soak.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from ansible_collections.progressive.istio.tests.demo.clients import PODS, Clients, Total, seconds_of, short
from ansible_collections.progressive.istio.tests.demo.stage import (
    CHECKOUT,
    SERVICE,
    Json,
    Playing,
    Stage,
    StageError,
    is_ready,
)

VARIABLES = CHECKOUT / "tests" / "soak" / "judging.yml"
NAMESPACE = "soak-judging"
RATE = 100.0  # requests a second, all clients together
TIMES = 3  # runs of each case that a result needs
POLL_SECONDS = 0.2  # between two readings of a client
HISTORY = 600  # v1's answers before a release begins
FINAL_SECONDS = 3.0  # what is still under way at weight 0 is answered by then
CLIENT_TIMEOUT = 10.0
LATE_SECONDS = 1.0  # a request that was under way at weight 0 may be answered so much later
END_SECONDS = 4200.0  # no release of these takes longer
HEALTHY = {"error_rate": 0, "latency_ms": 0, "latency_rate": 1, "hang_rate": 0, "grpc_rate": 0, "ready": "true"}
STABLE, CANARY = "v1", "v2"
NOBODY = "none"  # a client's proxy answers for a version that has no endpoint
STEPS = [{"weight": weight, "min_seconds": 10} for weight in (10, 25, 50, 100)]
TO_FULL = [{"weight": 10, "min_seconds": 10}, {"weight": 100, "min_seconds": 600}]
LONG = [{"weight": 10, "min_seconds": 850}, {"weight": 100, "min_seconds": 10}]
HEAD = (
    "100 requests a second by three client pods in the mesh; v1 is stable, v2 released by the default analysis.",
    "Seconds: from the first bad answer, by the client's clock, to the line that says weight 0 in all proxies.",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A version that is bad in one way, and what is asked of the release.

    ``at``: the weight at which it turns bad, ``good_seconds`` after it got there; 0: it has always been so.
    ``seconds``, ``failed``: limits of the medians. ``silent``: nobody gets a bad answer before weight 0 has to be
    reached, so the seconds count from the moment when the weight was in the proxies, or it turned bad.
    """

    what: str
    faults: Mapping[str, object] = field(default_factory=dict)
    stable: float = 0.0  # v1's rate of errors
    at: int = 0
    good_seconds: float = 0.0
    steps: Sequence[Json] = tuple(STEPS)
    analysis: Mapping[str, object] = field(default_factory=dict)
    expected: str = "aborted"  # or promoted, refused, not promoted
    seconds: float | None = None
    failed: int | None = None
    silent: bool = False
    crash: bool = False
    client: Mapping[str, str] = field(default_factory=dict)  # environment of the clients


# Rate of errors: seconds and failed answers at most; doubled at weight 100 and after minutes.
LIMITS = {1.0: (2.0, 15), 0.2: (6.0, 15), 0.05: (30.0, 15), 0.02: (120.0, 30)}


def _errors() -> dict[str, Case]:
    """Every rate of errors from the start, against two kinds of v1."""
    found = {}
    for rate, (seconds, failed) in LIMITS.items():
        for stable, name, told in ((0.0, "", "0"), (0.001, "-stable-0.1", "0.1 %")):
            what = f"{100 * rate:g} % errors, stable {told}"
            faults = {"error_rate": rate}
            found[f"errors-{100 * rate:g}{name}"] = Case(what, faults, stable, seconds=seconds, failed=failed)
    return found


def _turning(name: str, what: str, at: int, good_seconds: float, steps: Sequence[Json]) -> dict[str, Case]:
    """Every rate of errors in a version that turns bad; stable fails 0.1 %. Twice the limits."""
    return {
        f"errors-{100 * rate:g}-{name}": Case(
            f"{100 * rate:g} % errors, {what}",
            {"error_rate": rate},
            0.001,
            at,
            good_seconds,
            steps,
            seconds=2 * seconds,
            failed=2 * failed,
        )
        for rate, (seconds, failed) in LIMITS.items()
    }


CASES: dict[str, Case] = {
    **_errors(),
    **_turning("at-100", "from 5 s after it got 100 %, stable 0.1 %", 100, 5.0, TO_FULL),
    "latency": Case("+300 ms (150 to 450) on 10 % of answers", {"latency_ms": 300, "latency_rate": 0.1}, silent=True),
    "hang": Case("no answer to any request; clients wait 10 s", {"hang_rate": 1}, silent=True),
    "hang-10": Case("no answer to 10 % of requests; clients wait 10 s", {"hang_rate": 0.1}, silent=True),
    "hang-impatient": Case("no answer to any request; clients wait 1 s", {"hang_rate": 1}, client={"TIMEOUT": "1"}),
    "crash": Case("its process ends again and again, from the first step on", at=10, crash=True),
    "not-ready": Case("its pods stop being ready in the first step", {"ready": "false"}, at=10),
    "never-ready": Case("its pods have never been ready", {"ready": "false"}, expected="refused", failed=0),
    "grpc-14": Case(
        "gRPC status 14 in an HTTP 200, 20 % of calls",
        {"grpc_rate": 0.2, "grpc_status": 14},
        seconds=LIMITS[0.2][0],
        failed=LIMITS[0.2][1],
        client={"URL": "grpc://{service}.{namespace}:9000"},
    ),
    "errors-0.5": Case(
        "0.5 % errors, stable 0, tolerance 0.2 %",
        {"error_rate": 0.005},
        analysis={"tolerance_floor": 0.002},
        expected="not promoted",
    ),
    "healthy-1": Case(
        "healthy: 1 % errors as stable has; steps 25, 50, 100",
        {"error_rate": 0.01},
        0.01,
        steps=STEPS[1:],
        expected="promoted",
    ),
    **_turning("after-5-min", "after 5 good minutes at 10 %, stable 0.1 %", 10, 300.0, LONG),
}


# ---------------------------------------------------------------- what the clients say


def lost_to(counts: Json, blamed: Container[str]) -> int:
    """How many requests a client has lost to these versions."""
    return sum(sum(codes.values()) for version, codes in counts["lost_by"].items() if short(version) in blamed)


def note(readings: list[Json], counts: Json) -> None:
    """Keep a reading of a client; of many without a change between them only the first and the last."""
    if len(readings) > 1 and readings[-2]["lost"] == readings[-1]["lost"] == counts["lost"]:
        readings.pop()
    readings.append(counts)


def first_bad(readings: Sequence[Json], blamed: Container[str]) -> float | None:
    """When a client lost its first request to one of these versions (epoch, by its own clock).

    Exactly, unless others failed it, too, in the same POLL_SECONDS: then the time of the reading before.
    """
    for before, after in pairwise(readings):
        mine = lost_to(after, blamed)
        if mine and mine == after["lost"]:
            return seconds_of(after["first_bad"])
        if mine and after["lost"] - before["lost"] == 1:
            return seconds_of(after["last_bad"])
        if mine:
            return seconds_of(before["began"]) + float(before["seconds"])
    return None


class Log:
    """What every client had lost, five times a second, by a thread of its own."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.readings: dict[str, list[Json]] = {pod: [] for pod in clients.names()}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(pod,), daemon=True) for pod in self.readings]

    def _follow(self, pod: str) -> None:
        while not self._over.is_set():
            with suppress(StageError):  # a reading that fails makes the next one's span longer, and loses nothing
                note(self.readings[pod], self.clients.counts(pod))
            self._over.wait(POLL_SECONDS)

    def __enter__(self) -> Log:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30.0)

    def first_bad(self, blamed: Container[str]) -> float | None:
        """By any of the clients."""
        found = [first_bad(readings, blamed) for readings in self.readings.values()]
        return min((when for when in found if when is not None), default=None)

    def plain(self, blamed: Container[str], since: float) -> list[list[float]]:
        """For a result file: seconds since then and requests lost, at each reading of a client that had lost more."""
        found = []
        for readings in self.readings.values():
            for before, after in pairwise(readings):
                if more := lost_to(after, blamed) - lost_to(before, blamed):
                    at = seconds_of(after["began"]) + float(after["seconds"])
                    found.append([round(at - since, 2), more])
        return sorted(found)[:200]


# ---------------------------------------------------------------- a run


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a playbook with the times when they came."""

    heard: list[tuple[float, str]] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Take in the next one."""
        self.heard.append((time.time(), line))

    def when(self, pattern: str) -> float | None:
        """When the first that matches came."""
        return next((at for at, line in self.heard if re.search(pattern, line)), None)


def set_back(stage: Stage) -> None:
    """Both versions healthy and ready with no crash on record, all traffic on v1, no release on record."""
    stage.reset(STABLE)
    for version in (STABLE, CANARY):
        selector = f"app={SERVICE},version={version}"
        for pod in stage.pods(selector):
            if any(one["restartCount"] for one in pod["status"].get("containerStatuses") or []):
                name = pod["metadata"]["name"]
                stage.kubectl("delete", "pod", "-n", stage.namespace, name, "--grace-period=1")
        stage.tell(version, HEALTHY)
        stage.ready(selector, 1)


def _turn_bad(stage: Stage, case: Case, playing: Playing) -> float:
    """Wait until it is time, and make the canary bad; when that was."""
    playing.wait_for(rf"step .*weight {case.at} % in", 900)
    until = time.monotonic() + case.good_seconds
    while time.monotonic() < until:
        if playing.process.poll() is not None:
            raise StageError(f"the release ended before {CANARY} turned bad: {playing.lines[-3:]}")
        time.sleep(0.1)
    at = time.time()
    if case.faults:
        stage.faults(CANARY, **case.faults)
    while case.crash and playing.process.poll() is None:
        for pod in stage.pods(f"app={SERVICE},version={CANARY}"):
            with suppress(StageError):  # it is down already; and a crash has no answer
                path = f"/api/v1/namespaces/{stage.namespace}/pods/{pod['metadata']['name']}:8081/proxy/crash"
                stage.call(path, "POST")
        time.sleep(1.0)
    return at


def _wait_unready(stage: Stage) -> None:
    """Until Kubernetes and the proxies know that the canary is not ready."""
    while any(map(is_ready, stage.pods(f"app={SERVICE},version={CANARY}"))):
        time.sleep(0.5)
    time.sleep(2.0)


def run_case(stage: Stage, clients: Clients, name: str) -> Json:
    """One release of the case, and what its clients counted."""
    case = CASES[name]
    set_back(stage)
    stage.faults(STABLE, error_rate=case.stable)
    if not case.at:
        stage.faults(CANARY, **case.faults)
    url = case.client.get("URL", "http://{service}.{namespace}/").format(service=SERVICE, namespace=stage.namespace)
    environment = {"TIMEOUT": f"{CLIENT_TIMEOUT:g}", "CONNECTIONS": "64", "SECONDS": f"{END_SECONDS:g}"}
    clients.start(RATE, PODS, **{**environment, **case.client, "URL": url})
    if case.expected == "refused":
        _wait_unready(stage)
    while clients.now().ok < HISTORY:
        time.sleep(0.5)
    lines = Lines()
    variables = {
        "app_namespace": stage.namespace,
        "canary_version": CANARY,
        "canary_steps": list(case.steps),
        "canary_analysis": dict(case.analysis),
    }
    with Log(clients) as log:
        playing = stage.play("promote", "-e", f"@{VARIABLES}", "-e", json.dumps(variables), show=lines.add)
        try:
            onset = _turn_bad(stage, case, playing) if case.at else None
            done = playing.end(END_SECONDS)
        except StageError as error:
            raise StageError(f"{error}; {said_of(playing.lines)}") from None
        finally:
            playing.process.terminate()  # whatever has interrupted the wait
        record = stage.record()
        time.sleep(FINAL_SECONDS)
    total = clients.stop()
    onset = onset or lines.when(rf"step 1/\d+ .*weight {case.steps[0]['weight']} % in")
    aborted = next((event for event in done.events if event.startswith("ABORTED  weight 0")), "")
    told = re.search(r"in (\d+) of (\d+) proxies ([\d.]+) s after the verdict +(.*)", aborted)
    verdict = str(record.get("phase") or ("refused" if done.code else "none"))
    blamed = (CANARY, NOBODY)
    began = log.first_bad(blamed)
    base = onset if case.silent else began
    # Not the record's times: they are by the API server's clock, which is known to a second.
    weight_0 = lines.when(r"ABORTED  weight 0 in") if told and verdict == "aborted" else None
    last = total.last_answer.get(CANARY)
    wrong = amiss(case, total, weight_0, last)
    if verdict == "aborted" and (told is None or told[1] != told[2]):
        wrong.append(f"weight 0 is not in all proxies: {aborted or done.lines[-3:]}")
    said = [event for event in done.events if event.startswith(("ABORTED", "HELD", "PROMOTED"))]
    return {
        "verdict": verdict,
        "wrong": wrong,
        "seconds": apart(base, weight_0),
        "seconds_to_verdict": apart(base, weight_0 - float(told[3]) if weight_0 and told else None),
        "seconds_to_last_answer": apart(base, last),
        "first_bad_after_onset": apart(onset, began),
        "failed": total.bad[CANARY] + total.bad[NOBODY] + total.no_answer,
        "failed_stable": total.bad[STABLE],
        "said": said or said_of(done.lines),
        "log": log.plain(blamed, began) if began else [],
        "clients": total.plain(),
        "release": {"seconds": round(done.seconds, 1), "exit_code": done.code, "events": done.events[-60:]},
    }


def said_of(lines: Sequence[str]) -> list[str]:
    """Why a playbook failed, by its own word."""
    return [line for line in lines if line.startswith("[ERROR]")][:1]


def apart(first: float | None, second: float | None) -> float | None:
    """Seconds between two times, if both are there."""
    return None if first is None or second is None else round(second - first, 2)


def amiss(case: Case, total: Total, weight_0: float | None, last: float | None) -> list[str]:
    """What makes a run no measurement, whatever its verdict: the mesh or the clients did what nobody told them to."""
    wrong = []
    if weight_0 is not None and last is not None and last - weight_0 > LATE_SECONDS:
        wrong.append(f"{CANARY} answered {last - weight_0:.1f} s after weight 0 was in the proxies")
    if total.bad[STABLE] and not case.stable:
        wrong.append(f"{total.bad[STABLE]} bad answers of {STABLE}, which was to have none")
    if total.skipped > 0.02 * total.sent:
        wrong.append(f"the clients could not send {total.skipped} requests, and sent {total.sent}")
    return wrong


def one_run(stage: Stage, name: str, number: int) -> Json:
    """A run of a case, with when and on how busy a machine; what breaks it is a result, too."""
    began, load = time.time(), os.getloadavg()[0]
    with Clients(stage) as clients:
        try:
            found = run_case(stage, clients, name)
        except StageError as error:
            found = {"verdict": "broken", "wrong": [f"did not come to its end: {error}"]}
    head = {"case": name, "run": number, "began": time.strftime("%H:%M:%S", time.gmtime(began)), "load": round(load, 1)}
    return {**head, "took": round(time.time() - began, 1), **found}


def deploy(stage: Stage) -> None:
    """The two versions, and a port for gRPC beside that of the role app, which an edge team might add."""
    for version in (STABLE, CANARY):  # an earlier soak may have ended anywhere, and the playbook waits for ready pods
        with suppress(StageError):
            stage.faults(version, **HEALTHY)
    where = json.dumps({"app_namespace": stage.namespace})
    stage.played("deploy", "-e", f"@{VARIABLES}", "-e", where)
    port = {"name": "grpc", "port": 9000, "targetPort": 9000, "protocol": "TCP"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE}, "spec": {"ports": [port]}}
    words = ("--server-side", "--force-conflicts", "--field-manager=edge-team", "-n", stage.namespace, "-f", "-")
    stage.kubectl("apply", *words, stdin=json.dumps(service))


# ---------------------------------------------------------------- the result


def counted(runs: Iterable[Json], name: str) -> list[Json]:
    """The runs of a case that measured something."""
    return [run for run in runs if run["case"] == name and run["verdict"] != "broken"]


def missing(runs: Sequence[Json], names: Sequence[str], times: int) -> list[tuple[int, str]]:
    """What is still to run, as (number, case): every case once in each round, beside what is there."""
    there = {name: len(counted(runs, name)) for name in names}
    return [(number, name) for number in range(1, times + 1) for name in names if number > there[name]]


def median(runs: Sequence[Json], key: str) -> float:
    """Of the runs; one that was not taken back took for ever. NaN would hide that."""
    return statistics.median(inf if run[key] is None else float(run[key]) for run in runs)


def assess(case: Case, runs: Sequence[Json]) -> tuple[bool, str]:
    """Whether these runs are what is asked of the case, and that in words."""
    if not runs:
        return False, "not run"
    verdicts = Counter(run["verdict"] for run in runs)
    told = ", ".join(f"{verdict} {number}" for verdict, number in sorted(verdicts.items()))
    lacks = []
    if case.expected == "not promoted":
        if verdicts["promoted"]:
            lacks.append(f"promoted {verdicts['promoted']} of {len(runs)} times")
    elif verdicts[case.expected] < len(runs):
        lacks.append(f"{told}; {case.expected} is asked for")
    for key, limit, unit in (("seconds", case.seconds, "s"), ("failed", case.failed, "failed answers")):
        if limit is not None and (found := median(runs, key)) > limit:
            lacks.append(f"{'never' if found == inf else f'{found:g} {unit}'}, at most {limit:g} {unit}")
    few = f" ({len(runs)} of {TIMES} runs)" if len(runs) < TIMES else ""
    if lacks:
        return False, f"NOT MET{few}: {'; '.join(lacks)}"
    return True, ("met" if case.seconds is not None else "as it has to be") + few


def limit_of(case: Case) -> str:
    """What is asked for, for the table."""
    limits = [f"{case.seconds:g} s" if case.seconds is not None else ""]
    limits.append(f"{case.failed} failed" if case.failed is not None else "")
    return ", ".join(filter(None, (case.expected if case.expected != "aborted" else "", *limits))) or case.expected


def spread(runs: Sequence[Json], key: str) -> str:
    """min / median / max of the runs that have the number; one number alone as it is."""
    known = [float(run[key]) for run in runs if run.get(key) is not None]
    if len(known) < 2:
        return f"{known[0]:.4g}" if known else "-"
    return f"{min(known):.4g} / {statistics.median(known):.4g} / {max(known):.4g}"


def summary(runs: Sequence[Json], head: Sequence[str]) -> str:
    """The table of a result: a line for each case; then what was not met, and every run's own words."""
    width = max(map(len, CASES)) + 2
    lines = [*head, "", f"{'case':<{width}}{'runs':>5}  {'seconds':<22}{'failed answers':<18}{'asked for':<26}result"]
    for name, case in CASES.items():
        mine = counted(runs, name)
        text = f"{spread(mine, 'seconds'):<22}{spread(mine, 'failed'):<18}{limit_of(case):<26}{assess(case, mine)[1]}"
        lines.append(f"{name:<{width}}{len(mine):>5}  {text}")
    lines += ["", "What the cases are, and until v2's last answer (seconds, by the clients):"]
    for name, case in CASES.items():
        lines.append(f"  {name:<{width}}{spread(counted(runs, name), 'seconds_to_last_answer'):<22}{case.what}")
    lines += ["", "Every run: load of the machine, verdict, seconds, failed answers, the release's own words"]
    for run in sorted(runs, key=lambda one: (list(CASES).index(one["case"]), one["run"])):
        numbers = f"{run.get('seconds')} s, {run.get('failed')} failed"
        lines.append(f"  {run['case']} {run['run']}, {run['began']}, load {run['load']}: {run['verdict']}, {numbers}")
        lines += [f"      {text}" for text in run.get("said", [])]
    wrong = [f"  {run['case']} {run['run']}, {run['began']}: {text}" for run in runs for text in run["wrong"]]
    return "\n".join([*lines, "", "not as it has to be in a run:", *(wrong or ["  nothing"])]) + "\n"
