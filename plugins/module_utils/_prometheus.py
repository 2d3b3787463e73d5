# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Istio's own metrics in a Prometheus, as looks at the proxies that it scrapes. Private to this collection, pure.

Raw samples are asked for (``istio_requests_total{...}[60s]``), never rate() or increase(): these lose the first count
of every new series, and for a canary that is most of its errors. Every target is a proxy of ``_looks``; every run of a
raw series between two falls of its counter is a series there, ``version@series~start``. The start is the time of the
first sample after the fall, which a look that comes later finds again as long as it is in the window, and which it
takes from the last look afterwards. So a counter that falls and outgrows its old value between two looks is noticed.

A target first seen is a base line, as nobody knows what came before. A series that is new in a target that was there
before counts from 0. What vanishes keeps what it had.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, isfinite
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._looks import BAD_GRPC, Counts, Look, ProxyLook
from ansible_collections.progressive.istio.plugins.module_utils._metrics import CODES
from ansible_collections.progressive.istio.plugins.module_utils._verdict import UNANSWERED

METRIC = "istio_requests_total"
SOURCE = "prometheus"  # whose silence is told in Look.unread, beside that of single targets
LONGEST = 3600  # seconds of raw samples that are asked for at once
#: A target whose pod is not known and that has had no new sample for so many times max_age is taken to be gone.
GONE = 3.0
#: What makes a target. Other labels make series, so that a label more or less does not make another target.
TARGET = (
    "cluster",
    "prometheus",
    "job",
    "instance",
    "namespace",
    "pod_namespace",
    "kubernetes_namespace",
    "pod",
    "pod_name",
    "kubernetes_pod_name",
)
_NAMESPACES, PODS = ("pod_namespace", "kubernetes_namespace", "namespace"), ("pod", "pod_name", "kubernetes_pod_name")
_LABEL = re.compile(r"[a-zA-Z_]\w*")

Labels = Mapping[str, str]


class Unusable(ValueError):
    """An answer that tells nothing; the text says why in one line."""


@dataclass(frozen=True, slots=True)
class Series:
    """One raw series: its labels, and its samples (seconds since the epoch, count), oldest first."""

    labels: Labels
    points: tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose requests: by version what its clusters are called (``subset|full host``), and versions by revision.

    ``labels``: matchers that are added to every query, by name.
    """

    backends: Mapping[str, str]
    revisions: Mapping[str, str]
    labels: Labels = field(default_factory=dict)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Full names of the versions' Services."""
        return tuple(sorted({key.partition("|")[2] for key in self.backends.values()}))

    def version(self, labels: Labels) -> str:
        """Whose requests a series counts; empty: nobody's."""
        host = labels.get("destination_service", "")
        own = next((version for version, key in self.backends.items() if key == f"|{host}"), "")
        revision = labels.get("destination_canonical_revision") or labels.get("destination_version", "")
        found = own or self.revisions.get(revision, revision)
        return found if found in self.backends and self.backends[found].partition("|")[2] == host else ""


def check_labels(labels: Mapping[str, Any]) -> dict[str, str]:
    """Extra matchers as text. Raises ValueError, naming the field."""
    for name in labels:
        if not _LABEL.fullmatch(name):
            raise ValueError(f"labels: expected names of labels, got {name!r}")
    return {name: str(value) for name, value in labels.items()}


# ---------------------------------------------------------------- what is asked


def quoted(text: str) -> str:
    """A string of PromQL."""
    return json.dumps(text, ensure_ascii=False)


def query(asked: Asked, seconds: float) -> str:
    """PromQL of the raw samples of the last ``seconds``, of clients' and of the versions' own proxies."""
    hosts = "|".join(re.escape(host) for host in asked.hosts)
    matchers = [f"destination_service=~{quoted(hosts)}", 'reporter=~"source|destination"']
    matchers += [f"{name}={quoted(value)}" for name, value in sorted(asked.labels.items())]
    return f"{METRIC}{{{','.join(matchers)}}}[{min(LONGEST, max(1, ceil(seconds)))}s]"


def span(before: Look | None, now: float, max_age: float) -> float:
    """So many seconds of samples tell all that has happened since the last look, and who is late."""
    since = now - before.time if before else 0.0
    return max(since, 0.0) + (GONE + 1.0) * max_age


# ---------------------------------------------------------------- what is answered


def parse(body: bytes) -> list[Series]:
    """The raw series of an answer to /api/v1/query. Raises Unusable: an error, part of an answer, something else."""
    data = _answered(body)
    try:
        if data["resultType"] != "matrix":
            raise Unusable(f"it answers with a {data['resultType']} instead of raw samples")
        return [Series(dict(one["metric"]), tuple(_points(one["values"]))) for one in data["result"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, Unusable):
            raise
        raise _not_its(body) from None


def _answered(body: bytes) -> Mapping[str, Any]:
    """What is in a complete answer."""
    try:
        answer = json.loads(body)
        status, data = answer["status"], answer.get("data") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _not_its(body) from None
    if status != "success":
        raise Unusable(f"{answer.get('errorType') or 'error'}: {one_line(answer.get('error'))}")
    if answer.get("warnings"):
        raise Unusable(f"its answer is not complete: {one_line(answer['warnings'][0])}")
    found: Mapping[str, Any] = data
    return found


def _not_its(body: bytes) -> Unusable:
    return Unusable(f"its answer is not Prometheus': {body[:80]!r}")


def values(body: bytes) -> list[float]:
    """The numbers of an answer to /api/v1/query: one for a scalar, one for each series of a vector. Raises Unusable."""
    data = _answered(body)
    try:
        kind, found = data["resultType"], data["result"]
        if kind == "scalar":
            return [float(found[1])]
        if kind == "vector":
            return [float(one["value"][1]) for one in found]
    except (KeyError, TypeError, ValueError, IndexError):
        raise _not_its(body) from None
    raise Unusable(f"it answers with a {kind} instead of a number; has the query a range in the outermost place?")


def _points(values: Iterable[Any]) -> Iterator[tuple[float, int]]:
    for time, value in values:
        number = float(value)
        if isfinite(number) and number >= 0:
            yield float(time), round(number)


def one_line(text: object) -> str:
    """For a message: without line breaks, and not too long."""
    return " ".join(str(text).split())[:200]


def bad(labels: Labels) -> bool:
    """Whether a request of this series had a bad answer: 5xx, none from upstream, or a bad gRPC status."""
    flags = set(labels.get("response_flags", "-").split(",")) - {"-", ""}
    code = labels.get("response_code", "")
    return code.startswith("5") or (code == "0" and bool(flags)) or labels.get("grpc_response_status") in BAD_GRPC


def gone(labels: Labels) -> bool:
    """Whether the client went away before there was an answer: nobody knows what it would have been."""
    flags = set(labels.get("response_flags", "-").split(",")) - {"-", ""}
    return "DC" in flags or (labels.get("response_code") == "0" and not flags and not bad(labels))


def target_of(labels: Labels) -> str:
    return "/".join(labels.get(name, "") for name in TARGET)


def name_of(labels: Labels) -> str:
    """``namespace/pod`` where the labels tell, else the target's address; whatever tells it from others."""
    namespace = next((labels[name] for name in _NAMESPACES if labels.get(name)), "")
    pod = next((labels[name] for name in PODS if labels.get(name)), "")
    return f"{namespace}/{pod}" if namespace and pod else labels.get("instance") or pod or "target without a name"


def series_id(labels: Labels) -> str:
    own = json.dumps(sorted((name, value) for name, value in labels.items() if name not in TARGET))
    return hashlib.sha256(own.encode()).hexdigest()[:10]


def runs_of(points: Iterable[tuple[float, int]], known: Collection[int]) -> dict[int, int]:
    """The last count of each run between two falls, by its start (ms); ``known``: starts of runs in the last look."""
    found: dict[int, int] = {}
    start = last = -1
    for time, count in points:
        at = int(time * 1000)
        if start < 0:  # goes on with the run that was under way then
            start = max((one for one in known if one <= at), default=0)
        elif count < last:
            start = at
        found[start] = last = count
    return found


@dataclass
class _Tally:
    """What is known of one target while an answer is taken apart."""

    name: str
    newest: float = 0.0
    series: dict[str, Counts] = field(default_factory=dict)  # answered requests, and bad ones
    every: dict[str, Counts] = field(default_factory=dict)  # all requests, and those without an answer
    codes: dict[str, int] = field(default_factory=dict)

    def add(self, one: Series, version: str, before: ProxyLook | None) -> None:
        prefix = f"{version}@{series_id(one.labels)}~"
        known = [key for key in (before.also.get(UNANSWERED, {}) if before else {}) if key.startswith(prefix)]
        runs = runs_of(one.points, [int(key.rpartition("~")[2]) for key in known])
        for start, count in runs.items():
            key = f"{prefix}{start}"
            self.every[key] = (count, count if gone(one.labels) else 0)
            if not gone(one.labels):
                self.series[key] = (count, count if bad(one.labels) else 0)
        if bad(one.labels) and not gone(one.labels):
            code = f"{version}@{one.labels.get('response_code', '')}"
            self.codes[code] = self.codes.get(code, 0) + sum(runs.values())

    def look(self, before: ProxyLook | None) -> ProxyLook:
        old_every = before.also.get(UNANSWERED, {}) if before else {}
        codes = {key: (count, count) for key, count in self.codes.items()}
        also = {UNANSWERED: {**old_every, **self.every}, CODES: codes}
        return ProxyLook(self.name, "requests:0", 0.0, {**(before.series if before else {}), **self.series}, also)


def _tallied(
    series: Iterable[Series], asked: Asked, before: Mapping[str, ProxyLook], until: float = float("inf")
) -> dict[str, _Tally]:
    """By target; samples after ``until`` are left out."""
    found: dict[str, _Tally] = {}
    for one in series:
        version = asked.version(one.labels)
        points = tuple(point for point in one.points if point[0] <= until)
        if not version or not points:
            continue
        uid = target_of(one.labels)
        tally = found.setdefault(uid, _Tally(name_of(one.labels)))
        tally.newest = max(tally.newest, points[-1][0])
        tally.add(Series(one.labels, points), version, before.get(uid))
    return found


def look_of(
    series: Iterable[Series],
    asked: Asked,
    before: Look | None,
    now: float,
    max_age: float,
    living: Collection[str] | None = None,
) -> Look:
    """The look that an answer is. Its time is that until which all targets have been scraped.

    ``living``: ``namespace/pod`` of the proxies that are there, where that is known: a target of theirs that has no new
    sample is late; any other is gone, and keeps what it had.
    """
    by_reporter: dict[str, list[Series]] = {}
    for one in series:
        by_reporter.setdefault(one.labels.get("reporter", ""), []).append(one)
    known = before.proxies if before else {}
    sent = _tallied(by_reporter.get("source", ()), asked, known)
    fresh = [tally.newest for tally in sent.values() if now - tally.newest <= max_age]
    if not sent or not fresh:
        return silent(before, now, _why_silent(asked, sent, now, max_age))
    unread = {
        uid: f"{tally.name} has no sample of the last {now - tally.newest:.0f} s"
        for uid, tally in sent.items()
        if now - tally.newest > max_age and _should_tell(tally, now, max_age, living)
    }
    for uid, proxy in known.items():
        if uid not in sent and proxy.counted and living is not None and proxy.name in living:
            unread[uid] = f"{proxy.name} has no samples any more"
    until = min(fresh)  # what the versions' own proxies have counted later has no counterpart yet
    was_served = before.served if before else {}
    got = _tallied(by_reporter.get("destination", ()), asked, was_served, until)
    proxies = {**known, **{uid: tally.look(known.get(uid)) for uid, tally in sent.items()}}
    for uid, tally in got.items():  # it was scraped, and has sent nothing so far
        proxies.setdefault(uid, ProxyLook(tally.name, "idle:0", 0.0, {}))
    served = {**was_served, **{uid: tally.look(was_served.get(uid)) for uid, tally in got.items()}}
    return Look(max(until, before.time if before else 0.0), proxies, unread, served, sampled=True)


def _should_tell(tally: _Tally, now: float, max_age: float, living: Collection[str] | None) -> bool:
    if living is not None and "/" in tally.name:
        return tally.name in living
    return now - tally.newest <= GONE * max_age


def silent(before: Look | None, now: float, why: str) -> Look:
    """No news: all that was known, and why there is no more."""
    if before is None:
        return Look(now, {}, {SOURCE: why}, sampled=True)
    return Look(before.time, before.proxies, {SOURCE: why}, before.served, sampled=True)


def _why_silent(asked: Asked, sent: Mapping[str, _Tally], now: float, max_age: float) -> str:
    if sent:
        newest = max(tally.newest for tally in sent.values())
        return f"its newest sample is {now - newest:.0f} s old, max_age is {max_age:g} s"
    return f'it has no {METRIC} of requests to {" or ".join(asked.hosts)} with reporter="source" and a known version'
