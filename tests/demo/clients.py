# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client pods that send a fixed rate and count every answer themselves: what this project's numbers come from.

The pods are the lab's `client` image behind sidecars. `/counts` of each is read while it runs; the last word is the
line that it prints when it is told to end, after the answers to all its requests have come.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.progressive.istio.tests.demo.stage import NAMESPACE, SERVICE, Json, Stage, StageError

NO_ANSWER = ("timeout", "refused", "reset", "closed", "error")  # what the client calls a request without an answer
PODS = 3
MOST_SECONDS = 1800  # a client that nobody ends stops sending by itself


def seconds_of(stamp: str) -> float:
    """A time in the client's JSON (RFC 3339, nanoseconds) as seconds since the epoch."""
    head, _sep, rest = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(head + "+00:00").timestamp() + (float(f"0.{rest}") if rest else 0.0)


@dataclass(slots=True)
class Total:
    """The counts of several clients together. Times are seconds since the epoch. sent = ok + lost + in_flight."""

    sent: int = 0
    ok: int = 0
    lost: int = 0
    in_flight: int = 0
    skipped: int = 0
    no_answer: int = 0  # of the lost: nobody answered
    bad_answer: int = 0  # of the lost: an answer that is an error
    good: Counter[str] = field(default_factory=Counter)  # good answers by version
    bad: Counter[str] = field(default_factory=Counter)  # bad answers by version; "none": a proxy's own
    codes: Counter[str] = field(default_factory=Counter)
    first_bad: float | None = None
    last_bad: float | None = None
    last_answer: dict[str, float] = field(default_factory=dict)  # by version, good or bad
    p99_ms: float = 0.0  # the worst client's

    @staticmethod
    def of(counts: Iterable[Json]) -> Total:
        """Add up what clients said."""
        total = Total()
        for one in counts:
            total._add(one)
        return total

    def _add(self, one: Json) -> None:
        self.sent += one["sent"]
        self.ok += one["ok"]
        self.lost += one["lost"]
        self.in_flight += one["in_flight"]
        self.skipped += one["skipped"]
        self.good.update({short(version): n for version, n in one["by_version"].items()})
        self.codes.update(one["by_code"])
        for version, codes in one["lost_by"].items():
            for code, number in codes.items():
                if code.removeprefix("cut_") in NO_ANSWER:
                    self.no_answer += number
                else:
                    self.bad_answer += number
                    self.bad[short(version)] += number
        if one["first_bad"]:
            first = seconds_of(one["first_bad"])
            self.first_bad = first if self.first_bad is None else min(self.first_bad, first)
        if one["last_bad"]:
            last = seconds_of(one["last_bad"])
            self.last_bad = last if self.last_bad is None else max(self.last_bad, last)
        for version, stamp in one["last_answer"].items():
            name = short(version)
            self.last_answer[name] = max(self.last_answer.get(name, 0.0), seconds_of(stamp))
        self.p99_ms = max(self.p99_ms, (one.get("latency_ms") or {}).get("p99", 0.0))

    def answered(self, version: str) -> int:
        """Answers of a version, good and bad."""
        return self.good[version] + self.bad[version]

    def plain(self) -> Json:
        """For a result file."""
        return {
            "sent": self.sent,
            "ok": self.ok,
            "lost": self.lost,
            "in_flight": self.in_flight,
            "skipped": self.skipped,
            "no_answer": self.no_answer,
            "bad_answer": self.bad_answer,
            "good": dict(self.good),
            "bad": dict(self.bad),
            "codes": dict(self.codes),
            "p99_ms": round(self.p99_ms, 1),
        }


def short(version: str) -> str:
    """`Hello World v2!` is v2."""
    words = version.strip("! ").split()
    return words[-1] if words else "none"


def deployment(name: str, replicas: int, rate: float, environment: dict[str, str], namespace: str = NAMESPACE) -> Json:
    """A Deployment of clients that send `rate` requests a second together, at most for MOST_SECONDS."""
    env = {
        "URL": f"http://{SERVICE}.{namespace}/",
        "RATE": f"{rate / max(replicas, 1):g}",
        "SECONDS": str(MOST_SECONDS),
        "CONNECTIONS": "16",
        "TIMEOUT": "10",
        "LINGER": "true",
        **environment,
    }
    container = {
        "name": "client",
        "image": "lab.invalid/client:1",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "ports": [{"containerPort": 8082}],
        "resources": {"requests": {"cpu": "20m", "memory": "16Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                # The client must not begin before its proxy can carry requests, or it counts its own start as losses.
                "metadata": {
                    "labels": {"app": name},
                    "annotations": {"proxy.istio.io/config": '{"holdApplicationUntilProxyStarts": true}'},
                },
                "spec": {"terminationGracePeriodSeconds": 20, "containers": [container]},
            },
        },
    }


class Clients:
    """A Deployment of counting clients, and the last word of each of its pods, also of those that were deleted."""

    def __init__(self, stage: Stage, name: str = "client") -> None:
        self.stage, self.name = stage, name
        self.rate = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="progressive-istio-clients-")
        self._logs: dict[str, subprocess.Popen[bytes]] = {}
        self._pool = ThreadPoolExecutor(8)

    def start(self, rate: float, replicas: int = PODS, **environment: str) -> None:
        """Send; returns when all pods do. A Deployment of that name from before is replaced."""
        self.remove()
        self.rate = rate
        self.stage.apply(deployment(self.name, replicas, rate, environment, self.stage.namespace))
        self.stage.ready(f"app={self.name}", replicas)
        self.follow()
        while self.now().ok < 1:
            time.sleep(0.2)

    def names(self) -> list[str]:
        """The pods that are there."""
        return sorted(pod["metadata"]["name"] for pod in self.stage.pods(f"app={self.name}"))

    def follow(self) -> None:
        """Follow the output of pods that are not followed yet, to have their last word after they are gone."""
        for pod in self.names():
            if pod not in self._logs:
                with (Path(self._folder.name) / pod).open("wb") as output:
                    self._logs[pod] = subprocess.Popen(
                        ["kubectl", "logs", "-f", "-n", self.stage.namespace, pod, "-c", "client"],
                        env=self.stage.environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )

    def counts(self, pod: str) -> Json:
        """What one client has counted up to now."""
        path = f"/api/v1/namespaces/{self.stage.namespace}/pods/{pod}:8082/proxy/counts"
        for attempt in range(4):
            try:
                found: Json = self.stage.call(path)
                return found
            except StageError:
                if attempt == 3:
                    raise
                time.sleep(0.3 * (attempt + 1))
        raise AssertionError("unreachable")

    def now(self) -> Total:
        """All that live, together, as they count now."""
        return Total.of(self._pool.map(self.counts, self.names()))

    def stop(self) -> Total:
        """End the load, wait for the last answers, and return what all pods, also earlier ones, have counted."""
        self.follow()
        self.stage.kubectl(
            "delete", "deployment", "-n", self.stage.namespace, self.name, "--cascade=foreground", "--wait=false"
        )
        total = Total.of(self.last_word(pod) for pod in self._logs)
        self._logs = {}
        return total

    def last_word(self, pod: str, seconds: float = 60.0) -> Json:
        """The line that a client printed at its end. Raises StageError without one."""
        try:
            self._logs[pod].wait(seconds)
        except subprocess.TimeoutExpired:
            self._logs[pod].terminate()
            raise StageError(f"client {pod} did not end within {seconds:.0f} s") from None
        lines = (Path(self._folder.name) / pod).read_text("utf-8", "replace").strip().splitlines()
        said: list[Any] = []
        for line in reversed(lines):
            with suppress(ValueError):
                said.append(json.loads(line))
                break
        if not said:
            raise StageError(f"client {pod} ended without its counts: {lines[-1:]}")
        found: Json = said[0]
        return found

    def remove(self) -> None:
        """Take the Deployment away and wait until its pods are gone, without asking what they counted."""
        for process in self._logs.values():
            process.terminate()
        self._logs = {}
        self.stage.kubectl("delete", "deployment", "-n", self.stage.namespace, self.name, "--ignore-not-found")
        until = time.monotonic() + 60
        path = f"/api/v1/namespaces/{self.stage.namespace}/pods?labelSelector=app={self.name}"
        while self.stage.call(path)["items"] and time.monotonic() < until:
            time.sleep(0.5)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._logs.values():
            process.terminate()
        with suppress(StageError):
            self.stage.kubectl(
                "delete", "deployment", "-n", self.stage.namespace, self.name, "--ignore-not-found", "--wait=false"
            )
        self._pool.shutdown(wait=False)
        self._folder.cleanup()
