# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases judged by a Prometheus that is asked over real HTTP, and that fails in every way that one can.

The clock is the simulated one: ten minutes behind are as quick as none.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._evidence import loads
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Asked
from ansible_collections.progressive.istio.plugins.module_utils._prometheus_http import Prometheus, access
from ansible_collections.progressive.istio.plugins.module_utils._sampled_world import sampled
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Tolerance
from ansible_collections.progressive.istio.tests.sim.simulated import WANT, Mesh, Runner, check_end, steady

HOST = "app.ns.svc.cluster.local"
ASKED = Asked({"v1": f"v1|{HOST}", "v2": f"v2|{HOST}"}, {})
SCRAPE, BEHIND, MAX_AGE = 5.0, 600.0, 15.0  # seconds
GAP = 30.0  # every other so many seconds nothing is scraped
SAMPLED = replace(WANT, tolerance=Tolerance(floor=0.05), max_wait=300, interval=2 * SCRAPE)
HTTP_ERRORS = {
    "overloaded": (422, b'{"status": "error", "errorType": "execution", "error": "query timed out"}'),
    "restarting": (503, b"Service Unavailable"),
    "sick": (200, b'{"status": "error", "errorType": "internal", "error": "open block: I/O error"}'),
    "proxied": (200, b"<html>Sign in</html>"),
    "partial": (200, b'{"status": "success", "warnings": ["store-1 is away"], "data": {"resultType": "matrix"}}'),
}
WORDS = {  # by what is wrong with it, what a person has to be told
    "killed": r"Prometheus at http://\S+ does not answer: ",
    "slow": r"Prometheus at http://\S+ does not answer: .*timed out",
    "empty": f'it has no istio_requests_total of requests to {HOST} with reporter="source" and a known version',
    "behind": r"its newest sample is \d+ s old, max_age is 15 s",
    "overloaded": "answers 422: query timed out",
    "restarting": "answers 503: Service Unavailable",
    "sick": r"Prometheus at http://\S+: internal: open block: I/O error",
    "proxied": r"its answer is not Prometheus': b'<html>Sign in</html>'",
    "partial": "its answer is not complete: store-1 is away",
}


class Server:
    """Scrapes the clients of a mesh, and answers instant queries of a range. ``mode``: what is wrong with it."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.mode = mesh, ""
        self.broke = -math.inf  # since when it is as the mode says
        self.samples: dict[tuple[str, str, str], list[tuple[float, int]]] = {}  # by client, version and code
        self.scraped = -math.inf
        self.over = threading.Event()  # an answer that is slow waits for it
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                if server.mode == "killed":
                    return
                if server.mode == "slow":
                    server.over.wait()
                    return
                status, body = server.answer(asked["query"][0], float(asked["time"][0]))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def client(self) -> Prometheus:
        """Who asks; it waits for an answer that comes, however busy this machine is."""
        timeout = 0.1 if self.mode == "slow" else 60.0
        options = {"url": self.url, "max_age": MAX_AGE, "validate_certs": True, "timeout": timeout}
        return Prometheus(access(options), None)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def scrape(self) -> None:
        """What a scrape would have now, if it is time for one."""
        now = self.mesh.time
        if now - self.scraped < SCRAPE or (self.mode == "gaps" and int(now / GAP) % 2):
            return
        self.scraped = now
        for client in self.mesh.clients:
            for version, (requests, bad) in client.counts.items():
                for code, count in (("200", requests - bad), ("503", bad)):
                    if count:
                        self.samples.setdefault((client.uid, version, code), []).append((now, count))

    def stored(self, version: str, until: float) -> int:
        """Requests to a version by the last samples until then."""
        mine = [points for (_client, name, _code), points in self.samples.items() if name == version]
        return sum(max((count for time, count in points if time <= until), default=0) for points in mine)

    def answer(self, query: str, now: float) -> tuple[int, bytes]:
        """Status and body; of a query only its range counts."""
        if self.mode in HTTP_ERRORS:
            return HTTP_ERRORS[self.mode]
        seconds = int(re.search(r"\[(\d+)s\]$", query).group(1))  # type: ignore[union-attr]
        until = max(now - BEHIND, self.broke) if self.mode == "behind" else now
        result = []
        for (client, version, code), points in self.samples.items() if self.mode != "empty" else ():
            values = [[time, str(count)] for time, count in points if now - seconds < time <= until]
            labels = {"reporter": "source", "namespace": "ns", "pod": client, "destination_service": HOST}
            labels |= {"destination_version": version, "response_code": code, "response_flags": "-"}
            if values:
                result.append({"metric": labels, "values": values})
        return 200, json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


class Sampled(Runner):
    """A run that counts by what the Prometheus tells. ``breaks``: from this step on, in which mode it is."""

    def __init__(self, server: Server, breaks: tuple[int, str] = (99, "")) -> None:
        super().__init__(server.mesh)
        self.server, self.breaks = server, breaks
        self._before: Look | None = None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.server.scrape()

    def by_weight(self, state: Any) -> bool:
        return False

    def look(self) -> Look:
        record, (step, mode) = self.mesh.record(), self.breaks
        if record and record.step >= step and self.server.mode != mode:
            self.server.mode, self.server.broke = mode, self.mesh.time
        if not self._before and self.mesh.evidence:
            self._before = loads(self.mesh.evidence).look
        living = {f"ns/{client.uid}" for client in self.mesh.clients}
        self._before = sampled(self.server.client, ASKED, self._before, self.mesh.time, living)
        return self._before


def served(bad: float) -> Iterator[Server]:
    """A mesh that has run for longer than its Prometheus can be behind; ``bad``: of the canary's answers."""
    mesh = Mesh(23, steady(bad), steady(0.0))
    server = Server(mesh)
    for _unused in range(int((BEHIND + 120) / SCRAPE)):
        mesh.advance(SCRAPE)
        server.scrape()
    yield server
    server.close()


@pytest.fixture
def healthy() -> Iterator[Server]:
    yield from served(0.0)


@pytest.fixture
def broken() -> Iterator[Server]:
    yield from served(1.0)


@pytest.mark.parametrize("mode", WORDS)
def test_without_samples_nothing_begins_and_it_is_said_why(mode: str, healthy: Server) -> None:
    healthy.mode = mode
    with pytest.raises(ReleaseError, match=f"^nothing counts the requests to Service ns/app: .*{WORDS[mode]}"):
        Sampled(healthy).run(SAMPLED)
    assert healthy.mesh.writes == []


@pytest.mark.parametrize("mode", ["killed", "slow", "empty", "behind", "overloaded", "sick"])
def test_what_fails_in_the_middle_holds_the_release_until_it_is_back(mode: str, healthy: Server) -> None:
    outcome = Sampled(healthy, (1, mode)).run(replace(SAMPLED, max_wait=80))
    assert (outcome.phase, outcome.weight) == ("held", 50)
    assert outcome.verdict is not None
    assert (outcome.verdict.kind, outcome.verdict.counts.x_c) == ("no_data", 0)
    assert re.search(WORDS[mode], outcome.text), outcome.text
    healthy.mode = ""
    after = Sampled(healthy).run(replace(SAMPLED, retry=True))
    check_end(healthy.mesh, after)
    assert after.phase == "promoted"


@pytest.mark.parametrize("mode", ["killed", "empty", "behind"])
def test_nobody_fails_by_what_was_not_told(mode: str, broken: Server) -> None:
    outcome = Sampled(broken, (0, mode)).run(replace(SAMPLED, max_wait=60))
    assert (outcome.phase, outcome.weight) == ("held", 10)
    assert outcome.verdict is not None
    assert outcome.verdict.kind == "no_data"
    broken.mode = ""
    after = Sampled(broken).run(SAMPLED)  # what it tells now is enough
    check_end(broken.mesh, after)
    assert after.phase == "aborted"


def test_gaps_between_scrapes_lose_nothing(healthy: Server) -> None:
    runner = Sampled(healthy, (0, "gaps"))
    outcome = runner.run(SAMPLED)
    check_end(healthy.mesh, outcome)
    assert outcome.phase == "promoted"
    assert any("NO DATA" in line for line in runner.said), "there were no gaps"
    assert outcome.evidence is not None
    assert outcome.record is not None
    windows, until = outcome.evidence.windows, outcome.evidence.look.time
    for version, told in (("v1", sum(w.n_b for w in windows)), ("v2", sum(w.n_c for w in windows))):
        assert told == healthy.stored(version, until) - healthy.stored(version, outcome.record.started)
        assert told > 0
    assert sum(w.x_c + w.x_b for w in windows) == 0


def test_gaps_between_scrapes_hide_nothing(broken: Server) -> None:
    outcome = Sampled(broken, (0, "gaps")).run(SAMPLED)
    check_end(broken.mesh, outcome)
    assert outcome.phase == "aborted"
