# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release would do from here: check mode. Reads only. Private to this collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._admit import admit
from ansible_collections.progressive.istio.plugins.module_utils._begin import first_record, not_now
from ansible_collections.progressive.istio.plugins.module_utils._checks import About, Answer, Job, about
from ansible_collections.progressive.istio.plugins.module_utils._counters import PARTS, said_of
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Coverage, covered
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, burst_of, difference
from ansible_collections.progressive.istio.plugins.module_utils._metrics import (
    KNOWN,
    choose_edge,
    counted_by,
    past,
    tolerances,
    unjudged,
    words,
)
from ansible_collections.progressive.istio.plugins.module_utils._newer import QUEUED, in_its_place, left_alone
from ansible_collections.progressive.istio.plugins.module_utils._objects import Finding
from ansible_collections.progressive.istio.plugins.module_utils._patches import (
    follow_patch,
    patch_for,
    shown_difference,
    token_of,
    visible,
)
from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    STOPPING,
    Adopt,
    Approve,
    Await,
    Done,
    Refuse,
    ReleaseError,
    Resume,
    RollBack,
    Start,
    State,
    Supersede,
    Want,
    require_clients,
    resolve,
)
from ansible_collections.progressive.istio.plugins.module_utils._planner import (
    Basis,
    Judged,
    StepForecast,
    forecast,
    late,
    plain,
    table,
    to_dict,
    warnings,
)
from ansible_collections.progressive.istio.plugins.module_utils._preflight import settle
from ansible_collections.progressive.istio.plugins.module_utils._raising import Raising
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    HELD,
    PROGRESSING,
    PROMOTED,
    ROLLED_BACK,
    WAITING,
    Record,
)
from ansible_collections.progressive.istio.plugins.module_utils._status import findings_of
from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, LATENCY, duration, percent
from ansible_collections.progressive.istio.plugins.module_utils._wish import answer
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld
from ansible_collections.progressive.istio.plugins.module_utils._writes import Writes

#: How long the traffic is looked at, in seconds, and up to how many times so long where there is little of it (or where
#: a Prometheus has no newer samples yet).
RATE_SECONDS, PATIENCE, FEW = 2.0, 5, 20


def preview(world: LiveWorld, want: Want) -> dict[str, Any]:
    """Result of istio_canary in check mode: phase, plan (a list of steps), diff of the next write. Writes nothing."""
    state = world.observe()
    want = resolve(want, state)
    decision = admit(want, state)
    if isinstance(decision, Refuse):
        return {"phase": decision.phase, "failed": True, "changed": False, "msg": decision.text, "plan": []}
    if isinstance(decision, Done):
        return {"phase": decision.phase, "changed": False, "msg": decision.text, "plan": []}
    if isinstance(decision, Approve):
        text = f"would approve step {decision.record.pause} of release {decision.record.id}"
        return {"phase": "planned", "changed": True, "msg": text, "plan": []}
    if isinstance(decision, RollBack):
        return _rolled_back(world, state, want, decision)
    if isinstance(decision, Await):
        return {"phase": QUEUED, "changed": False, "msg": f"would wait: {decision.text}", "plan": []}
    if isinstance(decision, Supersede):
        return _superseding(world, state, want, decision.record)
    return _begun_or_resumed(world, state, want, decision)


def _superseding(world: LiveWorld, state: State, want: Want, record: Record) -> dict[str, Any]:
    """The release on record taken back first, and then the plan of the other one; or why that could not begin."""
    over, after, then = in_its_place(world, state, want, record)
    if not isinstance(then, Start):
        text = left_alone(then, record)
        return {"phase": "refused", "failed": True, "changed": False, "msg": text, "plan": []}
    result = _begun_or_resumed(world, after, want, then)
    if result.get("failed"):
        return result
    first = _line(state, over, {})
    return {
        **result,
        "msg": f"would take back {record.canary.name} (release {record.id}): {over.reason}; then {result['msg']}",
        "diff": shown_difference(state, over),
        "plan": [first, *result["plan"]],
        "lines": [f"plan  {first['text']}", *result["lines"]],
    }


def _begun_or_resumed(world: LiveWorld, state: State, want: Want, decision: Start | Adopt | Resume) -> dict[str, Any]:
    now = world.now()
    if not isinstance(decision, Resume) and (closed := not_now(want, decision, now)):
        return {"phase": "refused", "failed": True, "changed": False, "msg": closed, "plan": []}
    look = world.look()
    require_clients(state, look)
    findings: Sequence[Finding] = ()
    floors: list[str] = []
    if isinstance(decision, Resume):
        record = decision.record
        writes, then = _resumed(want, decision, now)
        text = f"release {record.id} is {record.phase} at step {record.step + 1} of {len(record.steps)}; {then}"
    else:
        record = first_record("(new)", want, decision, state, world.identity(), now)
        world.rehearse(state, record)
        world.checks.rehearse(want.checks, _subject(record))
        world.counters.rehearse(want.counters, (record.canary.name, record.stable.name))
        raising = Raising(world, want, floors.append, Writes(world, want.interval, floors.append))
        record = replace(raising.begin(record, isinstance(decision, Adopt)), begun=True)
        floors += raising.planned(record)
        writes = [record, *_rest(record, now)]
        share = state.weight_of(record.canary.name)
        text = f"would release {record.canary.name} (now {share} %) against {record.stable.name}"
        findings = world.preflight(state, look)
        try:
            settle(findings, want.preflight == "enforce", world.say)
        except ReleaseError as error:
            refused = {"phase": "refused", "failed": True, "changed": False, "msg": str(error), "plan": []}
            return {**refused, "findings": findings_of(findings)}
        if findings:
            text += (
                f"; with {len(findings)} warning{'s' if len(findings) > 1 else ''} of what may not follow the weights"
            )
    result: dict[str, Any] = {
        "phase": "planned",
        "changed": bool(writes),
        "msg": text,
        "release_id": record.id,
        "findings": findings_of(findings),
        "diff": shown_difference(state, writes[0]) if writes else {},
        **({"checks": _checks(world, want, record)} if want.checks else {}),
        **({"counters": _counters(world, want, record)} if want.counters else {}),
    }
    told: dict[int, StepForecast] = {}
    stopping = isinstance(decision, Resume) and (want.state in STOPPING or decision.changed)
    if not stopping:
        traffic = _traffic(world, want, look, list(state.versions), record.stable.name)
        begun = isinstance(decision, Resume)
        outlook = _outlook(want, traffic, record, begun, now)
        told = dict(enumerate(outlook.pop("per_step"), record.step))
        rate, proxies = round(traffic.basis.pace, 1), traffic.proxies
        result |= {"requests_per_second": rate, "client_proxies": proxies, **outlook}
    result["plan"] = [_line(state, written, told) for written in writes]
    lines = result.get("lines") or [f"plan  {line['text']}" for line in result["plan"]]
    result |= {"lines": [*floors, *lines], "floors": floors}
    return result


def _rolled_back(world: LiveWorld, state: State, want: Want, decision: RollBack) -> dict[str, Any]:
    if not decision.due:
        text = f"{decision.record.stable.name} has all traffic already"
        return {"phase": ROLLED_BACK, "changed": False, "msg": text, "plan": []}
    record = decision.record.ended(ROLLED_BACK, world.now(), want.reason or "asked for")
    text = f"would give all traffic back to {record.stable.name}" + f"; WARNING: {decision.warning}" * bool(
        decision.warning
    )
    return {
        "phase": "planned",
        "changed": True,
        "msg": text,
        "release_id": record.id,
        "diff": shown_difference(state, record),
        "plan": [_line(state, record, {})],
    }


def _resumed(want: Want, decision: Resume, now: float) -> tuple[list[Record], str]:
    """What would be written of a release that is under way, and in words what would become of it."""
    record, why = decision.record, decision.changed or want.reason or "asked for"
    if want.state in ("aborted", "rolled_back") or decision.changed:
        return [record.ended(ABORTED, now, why)], f"it would be aborted: {why}"
    if want.state == "paused":
        held = record.phase == HELD
        return [] if held else [record.ended(HELD, now, why)], "it stays so" if held else f"it would be held: {why}"
    return _rest(record, now), record.reason if record.phase == WAITING else "it would go on"


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


def _counters(world: LiveWorld, want: Want, record: Record) -> list[dict[str, Any]]:
    """The user's counters, asked now."""
    versions, found = (record.canary.name, record.stable.name), []
    for one in want.counters:
        seconds = one.seconds(None, 0.0)
        queries = [one.query(part, version, seconds) for version in versions for part in PARTS]
        text = said_of(one, world.counters.answer(one, versions, seconds))
        found.append({"name": one.name, "queries": queries, "text": text})
    return found


def _rest(record: Record, now: float) -> list[Record]:
    """The records that are still to be written if every step passes."""
    later = [record.at(step, now) for step in range(record.step + 1, len(record.steps))]
    return [*later, (later or [record])[-1].ended(PROMOTED, now, "")]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a plan is made from: basis, proxies read, metrics that are not judged and why, and what else to warn of."""

    basis: Basis
    proxies: int
    unjudged: Mapping[str, str]
    warnings: tuple[str, ...]


def _traffic(world: LiveWorld, want: Want, before: Look, versions: Sequence[str], stable: str) -> Traffic:
    """Between two looks; how stable is, by all that its clients' proxies have counted."""
    after, seen, requests = before, difference(before, before, before.time), 0
    for _unused in range(PATIENCE):
        world.sleep(RATE_SECONDS)
        after = world.look()
        seen = difference(before, after, before.time)
        requests = sum(n for n, _bad in seen.values())
        if requests >= FEW:
            break
    edge = 0.0 if want.latency is None else want.edge or choose_edge(after, stable, last_chance=True)
    names = counted_by(after, bool(edge))
    counts = past(after, (ERRORS, *names), edge, stable)
    main = replace(want.tolerance, burst=max(want.tolerance.burst, burst_of(after)))
    own = tuple(one.name for one in want.counters)  # they have their part of alpha_fail, and traffic of their own
    metrics = tuple(
        Judged(name, words(name, edge), how, counts[name][1] / counts[name][0] if counts[name][0] else 0.0)
        for name, how in tolerances((*names, *own), main, want.latency).items()
        if name in counts
    )
    pace = requests / max(after.time - before.time, 0.1)
    basis = Basis(pace, metrics, want.interval, want.max_wait, want.on_inconclusive, want.warm_up, after.reads)
    coverage = Coverage(0, 0, *covered(seen, before, after, before.time, versions))
    notes = [f"nothing would pass: {lack}"] if (lack := coverage.lack(want.min_coverage)) else []
    if want.tolerance.slo is not None and basis.errors.rate > want.tolerance.slo:
        bad, slo = percent(basis.errors.rate), percent(want.tolerance.slo)
        notes.append(f"nothing would pass: {stable} itself has {bad} bad, more than its analysis.slo of {slo}")
    if want.observe:
        notes.append(
            "analysis.observe: verdicts are only said, nothing is taken back, and steps end by their least time"
        )
    if own:
        notes.append(f"{', '.join(own)}: judged as well, but not in these times: nobody knows how much they will count")
    if not counts[ERRORS][0]:
        notes.append(f"nothing is known of {stable} yet: it is taken to be without errors")
    if LATENCY in names and not want.edge and counts[LATENCY][0] < KNOWN:
        notes.append(
            f"only {counts[LATENCY][0]:,} requests of {stable} are known, too few to choose an edge by: latency is "
            f"judged from the {KNOWN}th on, or by {edge:g} ms if {stable} gets no more; analysis.latency_edge names one"
        )
    return Traffic(basis, len(after.proxies), unjudged(after, names, want.latency is not None), tuple(notes))


def _outlook(want: Want, traffic: Traffic, record: Record, begun: bool, now: float) -> dict[str, Any]:
    """The part of the result that is about time and proof, for the steps to come."""
    steps, stable = record.steps[record.step :], record.stable.name
    told = forecast(traffic.basis, steps)
    basis = traffic.basis
    notes = [*traffic.warnings, *warnings(told), *late(told, want.calendar.left(now))]
    judged = ", ".join(metric.words for metric in basis.metrics)
    lines = [
        f"at {basis.pace:,.0f} requests a second, {stable} with {percent(basis.errors.rate)} bad; judged: {judged}",
        *(f"not judged: {name}, as {why}" for name, why in traffic.unjudged.items()),
        *(table(told) if basis.pace else ()),
    ]
    lines = [*(f"plan  {text}" for text in lines), *(f"WARNING  {text}" for text in notes)]
    result: dict[str, Any] = {
        "forecast": {**to_dict(told), "not_judged": dict(traffic.unjudged)},
        "plan_warnings": notes,
        "per_step": told.steps,
    }
    if want.goal and begun:
        lines.append("GOAL  a release that has begun keeps its steps")
    elif want.goal:
        said = answer(basis, steps, want.goal)
        lines += said.lines
        result["goal"] = said.to_dict()
    return {**result, "lines": lines}


def _told(one: StepForecast) -> dict[str, Any]:
    """What a line of the plan says of its step."""
    asked = "requests of the cohort" if not (one.step.weight or one.step.mirror) else "canary requests"
    requests = one.requests.say(lambda value: f"{value:,.0f}")
    text = f"{one.step.title}: at least {one.step.min_seconds} s and {requests} {asked}"
    if one.step.weight or one.step.mirror:
        text += f", {one.seconds.say(duration)}"
    return {"pass": plain(one), "catches": [plain(bad) for bad in one.found], "text": text}


def _line(state: State, record: Record, told: Mapping[int, StepForecast]) -> dict[str, Any]:
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
        line |= _told(told[record.step])
        if record.present.pause:
            line["text"] = f"waits for approval, then {line['text']}"
    else:
        line["text"] = f"then {record.phase}"
    return line
