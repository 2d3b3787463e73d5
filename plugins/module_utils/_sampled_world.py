# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The World of a release that is judged by a Prometheus. Private to this collection.

Requests are counted there alone. Which weights proxies run, which endpoints they have, and who is a client is still
theirs to tell: they are asked as without a Prometheus, but for counters only now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _prometheus, _proxies, _stats
from ansible_collections.progressive.istio.plugins.module_utils._cluster import Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Evidence
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding
from ansible_collections.progressive.istio.plugins.module_utils._plan import State
from ansible_collections.progressive.istio.plugins.module_utils._prometheus_http import Prometheus, access
from ansible_collections.progressive.istio.plugins.module_utils._run import Run
from ansible_collections.progressive.istio.plugins.module_utils._world import SWEEP_SECONDS, LiveWorld, Target

PROXIES, PROMETHEUS = "proxies", "prometheus"


def sampled(
    prometheus: Prometheus, asked: _prometheus.Asked, before: Look | None, now: float, living: Collection[str]
) -> Look:
    """What it tells of the time since the last look; where it tells nothing, all that was known, and why."""
    max_age = prometheus.access.max_age

    def series(seconds: float) -> list[_prometheus.Series]:
        return _prometheus.parse(prometheus.ask(_prometheus.query(asked, seconds), now))

    try:
        found = series(_prometheus.span(before, now, max_age))
        if not found and not (before and before.proxies):  # one that is far behind is not one that has nothing
            found = series(_prometheus.LONGEST)
    except NoAnswer as error:
        return _prometheus.silent(before, now, str(error))
    except _prometheus.Unusable as error:
        return _prometheus.silent(before, now, f"{prometheus.name}: {error}")
    return _prometheus.look_of(found, asked, before, now, max_age, living)


class SampledWorld(LiveWorld):
    """One service in one cluster, counted by a Prometheus."""

    def __init__(
        self,
        cluster: Cluster,
        target: Target,
        run: Run,
        say: Callable[[str], None],
        prometheus: Prometheus,
    ) -> None:
        super().__init__(cluster, target, run, say)
        self._prometheus = prometheus
        self._samples: Look | None = None
        self._clients_at = float("-inf")

    def by_weight(self, state: State) -> bool:  # noqa: ARG002 - the split is not judged: no sample tells at which weight
        return False

    def look(self) -> Look:
        if time.monotonic() - self._clients_at >= SWEEP_SECONDS:
            super().look()  # who sends requests, so that these are asked for endpoints and weights
            self._clients_at = time.monotonic()
        else:
            self._slow_reads_if_any()
        self._samples = look = self._sampled(self.cluster.now())
        return look

    def _sampled(self, now: float) -> Look:
        living = {proxy.name for proxy in self.mesh.proxies if proxy.should_answer}
        return sampled(self._prometheus, self._asked(), self._samples, now, living)

    def _asked(self) -> _prometheus.Asked:
        return _prometheus.Asked(self.service().backends, self.mesh.revisions, self._prometheus.access.labels)

    def query(self, now: float | None = None) -> str:
        """PromQL of the next look, or of a first one."""
        before, max_age = self._samples if now else None, self._prometheus.access.max_age
        return _prometheus.query(self._asked(), _prometheus.span(before, now or 0.0, max_age))

    def preflight(self, state: State, look: Look) -> Sequence[Finding]:
        return super().preflight(state, self._last_look or look)

    def load_evidence(self) -> Evidence | None:
        known = self._last_look
        stored = super().load_evidence()
        self._last_look = known  # what is stored are targets of the Prometheus, not proxies
        if stored and self._samples is None:
            self._samples = stored.look
        return stored


def world_of(
    cluster: Cluster, target: Target, run: Run, say: Callable[[str], None], analysis: Mapping[str, Any]
) -> LiveWorld:
    """The World that option ``analysis`` asks for. Raises ReleaseError."""
    if analysis["source"] == PROXIES:
        return LiveWorld(cluster, target, run, say)
    return SampledWorld(cluster, target, run, say, Prometheus(access(analysis["prometheus"]), cluster))


def queries(world: LiveWorld) -> list[str]:
    """What is asked for evidence: PromQL, or of each proxy a path of its admin interface, or of its port 15090."""
    if isinstance(world, SampledWorld):
        return [world.query()]
    backends = world.service().backends
    if world.mesh.by_stats:
        return [_stats.path(backends)]
    return [_proxies.stats_path(backends), _proxies.clusters_path(backends)]
