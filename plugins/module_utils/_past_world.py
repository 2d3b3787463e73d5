# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a Prometheus for a past span of time, and the gate what it would have said then. Private to this collection."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ansible_collections.progressive.istio.plugins.module_utils import _past, _prometheus
from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._find import find_service
from ansible_collections.progressive.istio.plugins.module_utils._metrics import tolerances
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._prometheus_http import Access, Prometheus
from ansible_collections.progressive.istio.plugins.module_utils._routes import full_host
from ansible_collections.progressive.istio.plugins.module_utils._verdict import UNANSWERED, Tolerance, Verdict

#: Labels of pods that Istio takes the canonical revision from, the first one first.
REVISION = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")


@dataclass(frozen=True, slots=True)
class PastWish:
    """Which service, when, and what is compared: option ``past`` of istio_gate."""

    namespace: str
    name: str
    begin: str
    end: str | None
    window: float
    halves: bool
    canary: str | None
    stable: str | None


@dataclass(frozen=True, slots=True)
class Past:
    """What was said when, the last verdict, and the first query."""

    said: Sequence[_past.Said]
    verdict: Verdict
    query: str


def judge_past(wish: PastWish, where: Access, connect: Callable[[], Cluster], limits: Tolerance) -> Past:
    """Raises ReleaseError, naming the field. Without ``connect`` where nothing of the cluster is needed."""
    if wish.halves == bool(wish.canary or wish.stable) or bool(wish.canary) != bool(wish.stable):
        raise ReleaseError("past: expected either halves: true, or canary and stable")
    try:
        span = _past.span(wish.begin, wish.end or "", wish.window, time.time())
    except ValueError as error:
        raise ReleaseError(str(error)) from None
    cluster = connect() if where.service or not wish.halves else None
    asked, prometheus = _asked(wish, where, cluster), Prometheus(where, cluster)

    def ask(at: float, seconds: float) -> list[_prometheus.Series]:
        series = _prometheus.parse(prometheus.ask(_prometheus.query(asked, seconds), at))
        return _past.as_clients(series) if wish.halves else series

    try:
        looks = list(_past.looks(ask, asked, span, where.max_age))
    except (NoAnswer, _prometheus.Unusable) as error:
        raise ReleaseError(f"{prometheus.name}: {error}") from None
    if wish.canary and wish.stable:
        counted = _past.of_versions(looks, span.begin, wish.canary, wish.stable)
    else:
        counted = _past.of_halves(looks, span.begin)
    said, verdict = _past.replay(Panel(tolerances((UNANSWERED,), limits)), counted, _past.share(counted))
    return Past(said, verdict, _prometheus.query(asked, _past.CHUNK))


def _asked(wish: PastWish, where: Access, cluster: Cluster | None) -> _prometheus.Asked:
    if not wish.canary or cluster is None:  # whatever the versions
        backends = {wish.name: f"|{full_host(wish.name, wish.namespace)}"}
        return _prometheus.Asked(backends, {}, where.labels)
    service = find_service(cluster, wish.namespace, wish.name)
    for field, version in (("canary", wish.canary), ("stable", wish.stable)):
        if version not in service.backends:
            known = ", ".join(sorted(service.backends))
            raise ReleaseError(f"past.{field}: expected one of {known}, got {version!r}")
    revisions = {
        next((labels[key] for key in REVISION if key in labels), ""): name for name, labels in service.subsets.items()
    }
    return _prometheus.Asked(service.backends, revisions, where.labels)
