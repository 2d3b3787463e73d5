# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each counter of a proxy sees of each kind of failure, beside what the client itself has counted.

Two clients, one behind a proxy with Envoy's cluster counters and one with Istio's default stats matcher, on a cluster
of the lab. Writes docs/results/counters-<date>.txt, and the raw numbers beside it as .json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

from ansible_collections.progressive.istio.plugins.module_utils import _metrics, _prometheus, _stats
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._looks import (
    GRPC,
    UNAVAILABLE,
    Counts,
    Look,
    ProxyLook,
    carry,
    difference,
    errors_between,
)
from ansible_collections.progressive.istio.plugins.module_utils._mesh import Mesh, Proxy
from ansible_collections.progressive.istio.plugins.module_utils._verdict import LATENCY
from ansible_collections.progressive.istio.plugins.module_utils._verdict import UNANSWERED as WITHOUT
from ansible_collections.progressive.istio.tests.bench.failures import (
    BACKENDS,
    GOOD,
    HEALTHY,
    KINDS,
    NAMESPACE,
    PREFIXES,
    RATE,
    TIMEOUT,
    Kind,
    client,
    objects,
    route,
)
from ansible_collections.progressive.istio.tests.bench.seen import (
    CLUSTER,
    HOSTS,
    PROMETHEUS,
    SLOW,
    STATS,
    UNANSWERED,
    report,
    table,
)
from ansible_collections.progressive.istio.tests.demo.stage import (
    SERVICE,
    Json,
    Stage,
    StageError,
    enter,
    entered,
    inside,
    is_ready,
    keep,
    machine,
    prepare,
    versions,
)

MODULE = "ansible_collections.progressive.istio.tests.bench.counters"
REST = 8.0  # seconds: Envoy adds to its histograms every 5 s, and the lab's Prometheus scrapes as often
EDGE = 500.0  # ms: what a busy machine does to a request rarely takes so long
MAX_AGE = 60.0  # s, of samples
MATCHER = "/config_dump?mask=bootstrap.stats_config.stats_matcher"
Say = Callable[[str], None]


# ---------------------------------------------------------------- what is counted


class Watched:
    """One client and its proxy: what both have counted since ``begin``."""

    def __init__(self, stage: Stage, cluster: Cluster, name: str, proxy: Proxy, *, prometheus: bool) -> None:
        self.stage, self.cluster, self.name, self.proxy = stage, cluster, name, proxy
        self._prometheus = prometheus  # whether there is one
        self._mesh = Mesh(cluster)
        self.begin()

    def begin(self) -> None:
        """Forget what was; the first looks."""
        self._since = self.cluster.now()
        self._total: dict[str, Counts | None] = dict.fromkeys((CLUSTER, SLOW, HOSTS, UNANSWERED))
        self._look = self._looked(None)
        self._stats, self._samples = self._by_stats(), self._sampled(None)
        self.own = self.counts()

    def counts(self) -> Json:
        """The client's own."""
        found: Json = self.stage.call(f"/api/v1/namespaces/{NAMESPACE}/pods/{self.proxy.pod}:8082/proxy/counts")
        return found

    def _looked(self, before: Look | None) -> Look:
        now = self.cluster.now()
        proxies: dict[str, ProxyLook] = {}
        unread: dict[str, str] = {}
        for proxy, answer in self._mesh.counters([self.proxy], BACKENDS):
            if isinstance(answer, ProxyLook):
                proxies[proxy.uid] = answer
            else:
                unread[proxy.uid] = answer
        look = _metrics.settle(before, Look(now, proxies, unread), self._since, EDGE, {})
        return carry(before, look) if before else look

    def look(self) -> None:
        """Read the proxy's admin interface, and add what it has counted since the last time."""
        before, self._look = self._look, self._looked(self._look)
        mine = self._look.proxies.get(self.proxy.uid)
        if mine is None:
            raise StageError(f"{self.proxy.name} has not told anything: {self._look.unread}")
        every = {
            HOSTS: difference(before, self._look, self._since, _metrics.HOSTS),
            UNANSWERED: difference(before, self._look, self._since, WITHOUT),
        }
        if mine.epoch.startswith("requests:"):
            every[CLUSTER] = errors_between(before, self._look, self._since)
            every[SLOW] = difference(before, self._look, self._since, LATENCY)
        for counter, by_version in every.items():
            self._total[counter] = summed([self._total[counter] or (0, 0), *by_version.values()])

    def _by_stats(self) -> Look:
        body = self.cluster.read(NAMESPACE, self.proxy.pod, _stats.PORT, _stats.path(BACKENDS))
        sent, (grpc, unavailable) = _stats.sent(body, BACKENDS, {}), _stats.statuses(body, BACKENDS)
        also = {GRPC: grpc, UNAVAILABLE: unavailable}
        mine = ProxyLook(self.proxy.name, "requests:0", self.proxy.born, sent, also)
        return Look(self.cluster.now(), {self.proxy.uid: mine} if sent else {}, {})

    def _sampled(self, before: Look | None) -> Look:
        asked, now = _prometheus.Asked(BACKENDS, {}, {"pod": self.proxy.pod}), self.cluster.now()
        if not self._prometheus:
            return _prometheus.silent(before, now, "there is none")
        fields = {"query": _prometheus.query(asked, _prometheus.span(before, now, MAX_AGE)), "time": f"{now:.3f}"}
        body = ask(self.stage, self.cluster, f"/api/v1/query?{urlencode(fields)}")
        return _prometheus.look_of(_prometheus.parse(body), asked, before, now, MAX_AGE)

    def scraped(self) -> bool:
        """Whether the Prometheus has samples of its proxy."""
        return bool(self._sampled(None).proxies)

    def end(self) -> dict[str, Counts | None]:
        """By counter, requests and bad ones since ``begin``; None where the proxy does not have that counter."""
        self.look()
        stats, samples = self._by_stats(), self._sampled(self._samples)
        sampled = errors_between(self._samples, samples, self._since)
        return {
            **self._total,
            STATS: summed(errors_between(self._stats, stats, self._since).values()) if stats.proxies else None,
            PROMETHEUS: summed(sampled.values()) if samples.proxies else None,
        }


def prometheus_pods(stage: Stage) -> list[str]:
    """Of the lab's."""
    found = stage.call("/api/v1/namespaces/monitoring/pods?labelSelector=app=prometheus")["items"]
    return [pod["metadata"]["name"] for pod in found if is_ready(pod)]


def ask(stage: Stage, cluster: Cluster, path: str, seconds: float = 60.0) -> bytes:
    """The Prometheus' answer; others may restart it. Raises StageError."""
    until, why = time.monotonic() + seconds, "no pod of it is ready"
    while time.monotonic() < until:
        for pod in prometheus_pods(stage):
            try:
                return cluster.read("monitoring", pod, 9090, path)
            except NoAnswer as error:
                why = str(error)
        time.sleep(1.0)
    raise StageError(f"the lab's Prometheus does not answer: {why}")


def summed(counts: Iterable[Counts]) -> Counts:
    """Of several versions."""
    every = list(counts)
    return sum(requests for requests, _bad in every), sum(bad for _requests, bad in every)


def lost(before: Json, after: Json) -> Counter[str]:
    """A client's bad requests between two readings, by code."""
    found: Counter[str] = Counter()
    for sign, counts in ((1, after), (-1, before)):
        for codes in counts["lost_by"].values():
            for code, number in codes.items():
                found[code] += sign * number
    return +found


# ---------------------------------------------------------------- the run


def calm(clients: Sequence[Watched], seconds: float = 180.0) -> None:
    """Wait until every client has had two seconds of good answers alone. Raises StageError."""
    until = time.monotonic() + seconds
    before = [one.counts() for one in clients]
    while time.monotonic() < until:
        time.sleep(2.0)
        after = [one.counts() for one in clients]
        pairs = list(zip(before, after, strict=True))
        if all(b["lost"] == a["lost"] and a["ok"] - b["ok"] > RATE for b, a in pairs):
            return
        before = after
    raise StageError(f"the clients still lose requests: {[one['by_code'] for one in before]}")


def watch(clients: Sequence[Watched], seconds: float, meanwhile: Callable[[], object]) -> None:
    """Look once a second for so long."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        began = time.monotonic()
        meanwhile()
        for one in clients:
            one.look()
        time.sleep(max(0.0, min(left, 1.0 - (time.monotonic() - began))))


def crash(stage: Stage) -> None:
    """End the app's process, if it is there."""
    for pod in stage.pods(f"app={SERVICE},version={GOOD}"):
        with suppress(StageError):  # it is down already; and a crash has no answer
            stage.call(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:8081/proxy/crash", "POST")


def measure(stage: Stage, clients: Sequence[Watched], kind: Kind, seconds: float) -> list[Json]:
    """A row for each client."""
    calm(clients)
    for one in clients:
        one.begin()
    if kind.faults:
        stage.tell(GOOD, kind.faults)
    if kind.subset != GOOD or kind.retries:
        stage.apply(route(kind.subset, kind.retries))
    sent = [one.counts()["sent"] for one in clients]
    watch(clients, seconds, partial(crash, stage) if kind.crash else lambda: None)
    meanwhile = [one.counts()["sent"] - before for one, before in zip(clients, sent, strict=True)]
    if kind.faults and not kind.crash:
        stage.tell(GOOD, HEALTHY)
    if kind.subset != GOOD or kind.retries:
        stage.apply(route(GOOD))
    if kind.crash:
        stage.ready(f"app={SERVICE},version={GOOD}", 1, 180.0)
    watch(clients, REST, lambda: None)
    rows = []
    for one, slow in zip(clients, meanwhile, strict=True):
        saw, after = one.end(), one.counts()
        codes = lost(one.own, after)
        own = slow if kind.slow else codes.total()
        rows.append(
            {
                "kind": kind.what,
                "client": one.name,
                "sent": after["sent"] - one.own["sent"],
                "own": own,
                "codes": dict(codes),
                "saw": saw,
            }
        )
    return rows


@contextmanager
def deployed(stage: Stage) -> Iterator[None]:
    """The app; gone afterwards."""
    stage.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    try:
        stage.apply(*objects())
        stage.ready(f"app={SERVICE}", 2)
        yield
    finally:
        stage.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def watched(stage: Stage, cluster: Cluster, protocol: str) -> list[Watched]:
    """New clients that speak so, when both are answered."""
    stage.apply(*(client(name, protocol) for name in PREFIXES))
    for name in PREFIXES:
        stage.kubectl("rollout", "status", "-n", NAMESPACE, f"deployment/client-{name}", "--timeout=120s")
        stage.ready(f"app=client-{name}", 1)
    mesh = Mesh(cluster)
    mesh.refresh()
    there, clients = bool(prometheus_pods(stage)), []
    for name in PREFIXES:
        pods = {pod["metadata"]["uid"] for pod in stage.pods(f"app=client-{name}")}
        proxies = [proxy for proxy in mesh.proxies if proxy.uid in pods]
        clients += [Watched(stage, cluster, name, proxy, prometheus=there) for proxy in proxies]
    if len(clients) != len(PREFIXES):
        raise StageError(f"{len(PREFIXES)} clients with a proxy expected: {[one.proxy.name for one in clients]}")
    until = time.monotonic() + 60.0
    while there and not any(one.scraped() for one in clients):  # its first sample of a proxy is a base line
        if time.monotonic() > until:
            raise StageError("the lab's Prometheus has no sample of the clients' proxies")
        time.sleep(1.0)
    return clients


def matcher(cluster: Cluster, proxy: Proxy) -> str:
    """The stats matcher that a proxy has, by its bootstrap."""
    dump = json.loads(cluster.admin(proxy.namespace, proxy.pod, MATCHER))
    patterns = dump["configs"][0]["bootstrap"]["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    said: list[str] = []
    for pattern in patterns:
        ((how, text),) = pattern.items()
        said.append({"prefix": f"{text}*", "suffix": f"*{text}"}.get(how) or f"/{text.get('regex', text)}/")
    return ", ".join(said)


def run(seconds: float, kinds: Sequence[Kind], say: Say, *, installed: bool) -> Json:
    """Measure everything. Raises StageError."""
    rows: list[Json] = []
    with entered(NAMESPACE) as stage:
        if not installed:
            stage.played("install", "-e", f"@{os.environ['LAB_VARS']}")
        when = f"Bench of counters, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
        head = [when, versions(stage), f"at its start: {machine()}"]
        cluster = Cluster(SimpleNamespace(params={}))
        matchers: dict[str, str] = {}
        try:
            with deployed(stage):
                for protocol in dict.fromkeys(kind.protocol for kind in kinds):
                    clients = watched(stage, cluster, protocol)
                    matchers |= {one.name: matcher(cluster, one.proxy) for one in clients}
                    for kind in kinds:
                        if kind.protocol == protocol:
                            rows += measure(stage, clients, kind, seconds)
                            say(table(rows[-len(clients) :]))
        finally:
            cluster.forget(set())
        head.append(f"at its end: {machine()}")
    told = {"rate": RATE, "timeout": TIMEOUT, "seconds": seconds, "rest": REST, "edge": EDGE}
    return {"head": head, "told": told, "matchers": matchers, "rows": rows}


def main() -> int:
    """Outside of the cluster's network: make the cluster, then go on inside."""
    parser = argparse.ArgumentParser(prog="tests/bench/run counters", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cluster", default="soak", help="which cluster of the lab (default: %(default)s); it is made")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each kind of failure lasts (%(default)s)")
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--installed", action="store_true", help="leave the installation of Istio out: it has run")
    parser.add_argument("--output", type=Path, help="default: docs/results/counters-<date>.txt")
    arguments = parser.parse_args()
    kinds = [kind for kind in KINDS if arguments.only in kind.what]
    if not kinds:
        parser.error(f"--only: no kind has {arguments.only!r} in it; there are {', '.join(k.what for k in KINDS)}")
    say = partial(print, flush=True)
    try:
        if not inside():
            prepare(arguments.cluster, say)
            enter(arguments.cluster, MODULE, sys.argv[1:])
        found = run(arguments.seconds, kinds, say, installed=arguments.installed)
    except (StageError, NoAnswer, ApiError, _prometheus.Unusable) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    keep("counters", arguments.output, report(found), found)
    print(report(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
