# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a release stands: what istio_canary_info tells. Reads only. Private to this collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._evidence import Coverage, covered, judge_again
from ansible_collections.progressive.istio.plugins.module_utils._find import NoRouteObject
from ansible_collections.progressive.istio.plugins.module_utils._gate import Verdict
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, difference
from ansible_collections.progressive.istio.plugins.module_utils._mesh import SILENT, Proxy
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Want,
    Workload,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    PROGRESSING,
    Record,
)
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld


def findings_of(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """What the preflight has found, for a result."""
    return [{"refuse": finding.refuse, "text": finding.text} for finding in findings]


def info(world: LiveWorld, want: Want, seconds: float) -> dict[str, Any]:
    """Result of istio_canary_info: record, weights as intended, applied, programmed and observed, evidence, lease."""
    try:
        state = world.observe()
    except NoRouteObject:
        return _unrouted(world)
    record = state.record
    before: Look = world.look()
    world.sleep(seconds)
    after = world.look()
    counts = difference(before, after, before.time)
    coverage = Coverage(0, 0, *covered(counts, before, after, before.time, list(state.versions)))
    total = sum(n for n, _bad in counts.values())
    programmed = world.programmed(state)
    evidence = world.load_evidence()
    mine = evidence if evidence and record and evidence.release == record.id else None
    verdict = judge_again(mine, want.tolerance, want.latency) if mine and mine.windows else None
    return {
        "exists": record is not None,
        "routed": True,
        "phase": record.phase if record else "none",
        "weights": {
            "intended": record.weights() if record else None,
            "applied": dict(state.weights),
            "others": {other.where: dict(other.weights) for other in state.others},
            "programmed": {
                "asked": programmed.asked,
                "programmed": programmed.programmed,
                "lagging": list(programmed.lagging),
            },
            "observed": {name: round(n / total, 4) for name, (n, _bad) in sorted(counts.items())} if total else {},
        },
        "coverage": {"seen": coverage.seen, "served": coverage.served, "share": coverage.share},
        "requests_per_second": round(total / seconds, 1),
        "versions": _versions(world, state.versions, world.read_proxies()),
        "evidence": {
            "windows": [list(row) for row in _rows(mine.windows)] if mine else [],
            "verdict": verdict.to_dict() if verdict else None,
            "lines": _lines(world, want, record, verdict) if record and verdict else [],
        },
        "lease": world.lease(),
        "findings": findings_of(world.preflight(state, before)),
        "record": _record(record),
    }


def _versions(world: LiveWorld, found: Mapping[str, Workload], proxies: Sequence[Proxy]) -> dict[str, Any]:
    """Pods of each version; and of the proxies that know the service, which have a healthy endpoint of it."""
    service = world.service()
    answers = world.mesh.endpoints(proxies, {**service.backends, "": f"|{service.host}"})
    known = {name: answer for name, answer in answers.items() if isinstance(answer, str) or "" in answer}
    versions = {}
    for version, w in sorted(found.items()):
        without = [
            f"{name} {SILENT}: {answer}" if isinstance(answer, str) else name
            for name, answer in sorted(known.items())
            if isinstance(answer, str) or not answer.get(version)
        ]
        versions[version] = {
            "hash": w.version.hash,
            "pods": w.pods,
            "ready": w.ready,
            "proxies": {"asked": len(known), "healthy": len(known) - len(without), "without": without},
        }
    return versions


def _unrouted(world: LiveWorld) -> dict[str, Any]:
    """The same of a service that has no route object yet: its versions, and nothing else."""
    return {
        "exists": False,
        "routed": False,
        "phase": "none",
        "weights": {
            "intended": None,
            "applied": {},
            "others": {},
            "programmed": {"asked": 0, "programmed": 0, "lagging": []},
            "observed": {},
        },
        "coverage": {"seen": 0, "served": 0, "share": None},
        "requests_per_second": 0.0,
        "versions": _versions(world, world.workloads(), world.mesh.proxies),
        "evidence": {"windows": [], "verdict": None, "lines": []},
        "lease": world.lease(),
        "findings": [],
        "record": None,
    }


def _lines(world: LiveWorld, want: Want, record: Record, verdict: Verdict) -> list[str]:
    """The verdict for a person. Only a running step has a clock."""
    running = record.phase == PROGRESSING
    return verdict.lines(
        f"{world.namespace}/{world.name}",
        record.step + 1,
        len(record.steps),
        canary=record.canary.name,
        stable=record.stable.name,
        elapsed=world.now() - record.since if running else None,
        limit=want.max_wait if running else None,
    )


def _rows(windows: Any) -> list[tuple[Any, ...]]:
    return [(w.step, w.weight, round(w.seconds, 3), w.n_c, w.x_c, w.n_b, w.x_b) for w in windows]


def _record(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "id": record.id,
        "stable": {"version": record.stable.name, "hash": record.stable.hash},
        "canary": {"version": record.canary.name, "hash": record.canary.hash},
        "steps": [asdict(step) for step in record.steps],
        "step": record.step + 1,
        "started": record.started,
        "since": record.since,
        "by": record.by,
        "reason": record.reason,
        "others": list(record.others),
        "audience": asdict(record.audience),
        "observe": record.observe,
        "retired": record.retired,
        "approvals": [asdict(approval) for approval in record.approvals],
        "floors": [asdict(floor) for floor in record.floors],
        "begun": record.begun,
        "previous": [
            {
                **asdict(past),
                "stable": {"version": past.stable.name, "hash": past.stable.hash},
                "canary": {"version": past.canary.name, "hash": past.canary.hash},
            }
            for past in record.previous
        ],
    }
