# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release would do from here: check mode, and what istio_canary_info tells. Reads only. Private."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._checks import About, Answer, Job, about
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Coverage, covered, judge_again
from ansible_collections.progressive.istio.plugins.module_utils._find import NoRouteObject
from ansible_collections.progressive.istio.plugins.module_utils._gate import Verdict
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, burst_of, difference, history
from ansible_collections.progressive.istio.plugins.module_utils._mesh import SILENT, Proxy
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding
from ansible_collections.progressive.istio.plugins.module_utils._patches import follow_patch, patch_for, token_of
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    Adopt,
    Done,
    Refuse,
    ReleaseError,
    Resume,
    State,
    Want,
    Workload,
    admit,
    require_clients,
    resolve,
)
from ansible_collections.progressive.istio.plugins.module_utils._planner import regressions, requests_to_pass
from ansible_collections.progressive.istio.plugins.module_utils._preflight import settle
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    HELD,
    PROGRESSING,
    PROMOTED,
    Record,
    Step,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import apply_patch
from ansible_collections.progressive.istio.plugins.module_utils._verdict import percent
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld

RATE_SECONDS = 2.0


def preview(world: LiveWorld, want: Want) -> dict[str, Any]:
    """Result of istio_canary in check mode: phase, plan (a list of steps), diff of the next write. Writes nothing."""
    state = world.observe()
    want = resolve(want, state)
    decision = admit(want, state)
    if isinstance(decision, Refuse):
        return {"phase": decision.phase, "failed": True, "changed": False, "msg": decision.text, "plan": []}
    if isinstance(decision, Done):
        return {"phase": decision.phase, "changed": False, "msg": decision.text, "plan": []}
    now, look = world.now(), world.look()
    require_clients(state, look)
    findings: Sequence[Finding] = ()
    if isinstance(decision, Resume):
        record = decision.record
        writes, then = _resumed(want, decision, now)
        text = f"release {record.id} is {record.phase} at step {record.step + 1} of {len(record.steps)}; {then}"
    else:
        first = decision.first if isinstance(decision, Adopt) else 0
        steps = want.steps
        record = Record(
            "(new)", state.uid, decision.stable, decision.canary, steps, first, PROGRESSING, now, now, world.identity()
        )
        record = replace(record, audience=want.audience, observe=want.observe)
        world.rehearse(state, record)
        world.checks.rehearse(want.checks, _subject(record))
        writes = [record, *_rest(record, now)]
        share = state.weight_of(record.canary.name)
        text = f"would release {record.canary.name} (now {share} %) against {record.stable.name}"
        findings = world.preflight(state, look)
        try:
            settle(findings, want.preflight == "enforce", world.say)
        except ReleaseError as error:
            refused = {"phase": "refused", "failed": True, "changed": False, "msg": str(error), "plan": []}
            return {**refused, "findings": _findings(findings)}
        if findings:
            text += (
                f"; with {len(findings)} warning{'s' if len(findings) > 1 else ''} of what may not follow the weights"
            )
    traffic = _traffic(world, look, record.stable.name)
    return {
        "phase": "planned",
        "changed": bool(writes),
        "msg": text,
        "release_id": record.id,
        "requests_per_second": round(traffic.rate, 1),
        "client_proxies": traffic.proxies,
        "findings": _findings(findings),
        "plan": [_line(state, want, written, traffic) for written in writes],
        "diff": _diff(state, writes[0]) if writes else {},
        **({"checks": _checks(world, want, record)} if want.checks else {}),
    }


def _resumed(want: Want, decision: Resume, now: float) -> tuple[list[Record], str]:
    """What would be written of a release that is under way, and in words what would become of it."""
    record, why = decision.record, decision.changed or want.reason or "asked for"
    if want.state == "aborted" or decision.changed:
        return [record.ended(ABORTED, now, why)], f"it would be aborted: {why}"
    if want.state == "paused":
        held = record.phase == HELD
        return [] if held else [record.ended(HELD, now, why)], "it stays so" if held else f"it would be held: {why}"
    return _rest(record, now), "it would go on"


def _subject(record: Record) -> About:
    """What checks are asked about; the identifier of a release that has not begun has to do for a Job's name."""
    return replace(about(record), release=record.id.strip("()"))


def _checks(world: LiveWorld, want: Want, record: Record) -> list[dict[str, Any]]:
    """The user's checks, asked now; a Job is not made."""
    answers = {
        check.name: Answer("unknown", "its Job would be made in each step")
        if isinstance(check.asks, Job)
        else world.checks.answer(check, _subject(record))
        for check in want.checks
    }
    return [{"name": name, "state": answer.state, "text": answer.text} for name, answer in answers.items()]


def _rest(record: Record, now: float) -> list[Record]:
    """The records that are still to be written if every step passes."""
    later = [record.at(step, now) for step in range(record.step + 1, len(record.steps))]
    return [*later, (later or [record])[-1].ended(PROMOTED, now, "")]


def _findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [{"refuse": finding.refuse, "text": finding.text} for finding in findings]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests a second to all versions, proxies read, stable's rate of bad ones (0..1), counts that one makes."""

    rate: float
    proxies: int
    bad: float
    burst: float


def _traffic(world: LiveWorld, before: Look, stable: str) -> Traffic:
    """Between two looks; how stable is, by all that its clients' proxies have counted."""
    world.sleep(RATE_SECONDS)
    after = world.look()
    requests = sum(n for n, _bad in difference(before, after, before.time).values())
    every, bad = history(after, stable)
    rate = requests / max(after.time - before.time, 0.1)
    return Traffic(rate, len(after.proxies), bad / every if every else 0.0, burst_of(after))


def _forecast(want: Want, step: Step, traffic: Traffic) -> dict[str, Any]:
    """What a step takes to pass a canary that is like stable, and to find a worse one, at the present traffic."""
    tolerance = replace(want.tolerance, burst=max(want.tolerance.burst, traffic.burst))
    weight, least = min(step.judged, 99), step.min_seconds
    needed = requests_to_pass(tolerance, traffic.bad, traffic.bad, weight)
    like = f"with {percent(traffic.bad)} bad, as stable has" if traffic.bad else "without an error"
    said = f"{step.title}: at least {least} s and {'' if needed is None else f'{needed:,} '}"
    if not (step.weight or step.mirror):
        text = f"{said}requests of the cohort {like}"
        return {"canary_requests_to_pass": needed, "seconds": None, "catches": [], "text": text}
    pace = traffic.rate * step.judged / 100
    seconds = needed / pace if needed and pace else None
    worse = regressions(tolerance, traffic.bad, weight)
    text = f"{said}canary requests {like}, "
    if seconds is None:
        text += f"but {'there is no traffic' if needed else 'that is too many'}: this step cannot pass"
    else:
        text += f"about {max(least, seconds):.0f} s at {traffic.rate:.0f} requests a second; finds "
        text += ", ".join(one.say(pace) for one in worse)
        if seconds > want.max_wait:
            text += f"; more than max_wait ({want.max_wait:.0f} s): this step cannot pass"
    return {
        "canary_requests_to_pass": needed,
        "seconds": None if seconds is None else round(max(least, seconds)),
        "catches": [{"rate": one.rate, "within": one.within, "canary_requests": one.requests} for one in worse],
        "text": text,
    }


def _line(state: State, want: Want, record: Record, traffic: Traffic) -> dict[str, Any]:
    token = token_of(state)
    line: dict[str, Any] = {
        "step": record.step + 1,
        "phase": record.phase,
        "weights": record.weights(),
        "patch": visible(patch_for(token, record)),
    }
    if state.others:
        line["others"] = {other.where: visible(follow_patch(token_of(other), record)) for other in state.others}
    if record.phase == PROGRESSING:
        line |= _forecast(want, record.steps[record.step], traffic)
    else:
        line["text"] = f"then {record.phase}"
    return line


def visible(patch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a patch changes, without what guards it."""
    return [op for op in patch if op["op"] != "test" and "resourceVersion" not in op["path"]]


def _diff(state: State, record: Record) -> dict[str, Any] | list[dict[str, Any]]:
    """Of the next write: one, or one for each route object."""
    token = token_of(state)
    patches = {state.where: (token, patch_for(token, record))}
    for other in state.others:
        patches[other.where] = (token_of(other), follow_patch(token_of(other), record))
    diffs = [
        {
            "before": quiet(token.obj),
            "after": quiet(apply_patch(token.obj, patch)),
            "before_header": where,
            "after_header": where,
        }
        for where, (token, patch) in patches.items()
    ]
    return diffs if state.others else diffs[0]


def quiet(obj: Mapping[str, Any]) -> dict[str, Any]:
    meta = {k: v for k, v in obj["metadata"].items() if k in ("name", "namespace", "labels", "annotations")}
    return {"metadata": meta, "spec": obj["spec"]}


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
        "findings": _findings(world.preflight(state, before)),
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
    }
