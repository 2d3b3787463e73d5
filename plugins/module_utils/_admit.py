# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a wish may be followed, from what is there: begin, go on, roll back, or refuse. Private to this collection.

Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.progressive.istio.plugins.module_utils._plan import (
    STOPPING,
    Adopt,
    Approve,
    Await,
    Decision,
    Done,
    Refuse,
    ReleaseError,
    Resume,
    RollBack,
    Start,
    State,
    Supersede,
    Want,
    Workload,
    joined,
    newer_canary,
    said,
    share_of,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    APPROVE,
    PROGRESSING,
    PROMOTED,
    ROLLED_BACK,
    WAITING,
    Record,
)


def admit(want: Want, state: State) -> Decision:
    """Whether the wish may be followed, from what is there alone. Raises ReleaseError for what has to be mended."""
    record = state.record
    if record and record.running:
        return _running(want, state, record)
    if want.state == "rolled_back":
        return _roll_back(want, state)
    if want.state == "approved":
        return Refuse("refused", f"no release is under way on {state.where}; nothing waits for approval")
    if want.state == "promoted" and not want.canary:
        if record and record.phase == PROMOTED and state.weight_of(record.canary.name) == 100:
            return Done(PROMOTED, f"{record.canary.name} has all traffic already")
        raise ReleaseError(
            "canary_version is empty; say which version (subset) is to be released: none is under way that could go on"
        )
    if want.state in STOPPING:
        what = "abort" if want.state == "aborted" else "pause"
        return Done(record.phase if record else "none", f"no release is running; nothing to {what}")
    canary = _known(state, want.canary)
    if refused := _rejected(want, state, canary):
        return refused
    others = {name: weight for name, weight in state.weights.items() if name != want.canary}
    if state.weights.get(want.canary, 0) and not any(others.values()):
        return _together(state, want.canary) or Done(PROMOTED, f"{want.canary} has all traffic already")
    stable = _known(state, _stable(want, state, others))
    given, share = state.weights.get(want.canary, 0), state.weight_of(want.canary)
    if given and not want.adopt:
        return Refuse(
            "refused",
            f"{state.where} gives {want.canary} {share or '<1'} % and carries no record of a running release: released "
            f"by somebody else (last writer {state.manager}); set adopt to go on from there, or set its weight to 0",
        )
    following = want.on_newer == "supersede" and record and record.made_room and record.canary.name == want.canary
    if record and following and (canary.mixed or not canary.ready):  # nobody gets it meanwhile
        return Await(f"{want.canary} is in the middle of its rollout, which is what superseded release {record.id}")
    _fit(canary)
    _fit(stable)
    if not (canary.meshed or stable.meshed):
        raise ReleaseError(
            f"no pod of {want.canary} or {stable.version.name} has an Istio sidecar; weights need them. "
            "Label the namespace for injection (istio-injection=enabled or istio.io/rev) and restart its workloads"
        )
    if refused := _together(state, want.canary):
        return refused
    if not given:
        return Start(stable.version, canary.version)
    return Adopt(stable.version, canary.version, *joined(want.steps, share))


def _rejected(want: Want, state: State, canary: Workload) -> Refuse | None:
    """A version that was sent back has to change before it is released again."""
    record = state.record
    ruled = record.ruling(canary.version) if record else None
    if ruled and ruled.rejects and not want.retry and not state.weights.get(want.canary, 0):
        how = "taken back" if ruled.phase == ABORTED else "rolled back"
        return Refuse(
            ruled.phase,
            f"{want.canary} was {how} by release {ruled.id} ({ruled.reason}) and has not changed since; "
            "change its pod template, or set retry",
        )
    return None


def _together(state: State, canary: str) -> Refuse | None:
    """A release begins where all route objects of the service say the same of the canary."""
    share = state.weight_of(canary)
    for other in state.others:
        there = share_of(other.weights, canary)
        if there != share:
            return Refuse(
                "refused",
                f"{other.where} gives {canary} {there} %, and {state.where} {share} %; they are released together: "
                f"give it {share} % there, too (istio_weight)",
            )
    return None


def _running(want: Want, state: State, record: Record) -> Decision:
    if want.canary and want.canary != record.canary.name:
        return _newer(want, state, record)
    if want.state == "approved":
        return _approve(state, record)
    return Resume(record, _changed(want, state, record) if want.state == "promoted" else "")


def _changed(want: Want, state: State, record: Record) -> str:
    return newer_canary(record, state, want.on_newer == "supersede")


def _newer(want: Want, state: State, record: Record) -> Decision:
    """Another version than the one that is being released is asked for."""
    text = f"release {record.id} of {record.canary.name} is {record.phase} at {record.weight} % on {state.where}"
    if want.state != "promoted" or want.on_newer == "refuse":
        return Refuse("refused", f"{text}; promote or abort it before {want.canary} can be released")
    ruled = record.ruling(_known(state, want.canary).version)
    if want.on_newer == "queue":
        return Await(f"{text}; {want.canary} is next")
    if ruled and ruled.superseded and not want.retry:  # two runs that both want to would take turns for ever
        return Refuse("refused", f"{text}, and {want.canary} was {ruled.reason}; set retry to release it instead")
    return Supersede(record)


def _approve(state: State, record: Record) -> Decision:
    given = next((a for a in record.approvals if a.step in (record.step + 1, record.step + 2)), None)
    if record.phase == WAITING and record.pause:
        return Approve(record)
    if given and record.phase == PROGRESSING:
        return Done(PROGRESSING, f"step {given.step} is approved already, by {given.by}")
    return Refuse("refused", f"release {record.id} on {state.where} is {record.phase}; it does not wait for approval")


def approve_by_hand(state: State, record: Record) -> str:
    """The kubectl command with which a person approves the next step."""
    kind, _space, key = state.where.partition(" ")
    namespace, _slash, name = key.partition("/")
    text = f"{APPROVE}={record.id}/{record.pause}"
    return f"kubectl -n {namespace} annotate --overwrite {kind.lower()} {name} {text}"


def _roll_back(want: Want, state: State) -> Decision:
    """All traffic back to the version that a release which is over has left behind."""
    record = state.record
    if record is None:
        return Refuse(
            "refused",
            f"{state.where} has no record of a release; set weights with istio_weight, or promote one",
        )
    stable, canary = state.version(record.stable.name), state.version(record.canary.name)
    name = record.stable.name
    third = {one: weight for one, weight in state.weights.items() if one not in record.weights() and weight}
    if third:
        return Refuse(
            "refused",
            f"{state.where} gives {said(third)}, which release {record.id} ({name} to {record.canary.name}) knows "
            "nothing of; set the weights with istio_weight",
        )
    back = not state.weights.get(record.canary.name, 0) and state.weights.get(name, 0)
    if record.phase == ROLLED_BACK and back:
        return RollBack(record, due=False)
    if record.phase == ABORTED and back:
        return Done(record.phase, f"{name} has all traffic already: {record.reason}")
    if record.retired == name or name not in state.versions:
        return Refuse(
            "refused",
            f"{name} was retired after release {record.id}; deploy it again, and release it as any other version: "
            f"promote with canary_version {name}",
        )
    if not stable.ready:
        return Refuse(
            "refused", f"{name} has no ready pod to go back to (pods: {stable.pods}){stable.why}; scale it up first"
        )
    if stable.mixed or stable.version != record.stable:
        return Refuse(
            "refused",
            f"{name} is not what release {record.id} has left behind: its pod template {record.stable.hash} is now "
            f"{stable.version.hash}; release it as any other version: promote with canary_version {name}",
        )
    if stable.ready >= canary.ready or back:
        return RollBack(record)
    few = f"ready pods: {name} has {stable.ready}, and {record.canary.name}, which has the traffic, {canary.ready}"
    if want.preflight == "warn":
        return RollBack(record, few)
    return Refuse("refused", f"{few}; scale {name} to {canary.ready} first, or set preflight to warn")


def _stable(want: Want, state: State, others: Mapping[str, int]) -> str:
    live = sorted((name for name, weight in others.items() if weight), key=lambda name: -others[name])
    if not live:
        raise ReleaseError(f"{state.where} has no other destination with traffic to compare {want.canary} with")
    if len(live) > 1:
        shares = ", ".join(f"{name} {others[name]}" for name in live)
        raise ReleaseError(f"{state.where} splits traffic among {shares}; a release moves it between two versions only")
    if want.stable and want.stable != live[0]:
        raise ReleaseError(f"stable_version is '{want.stable}', but the traffic of {state.where} is on '{live[0]}'")
    return live[0]


def _known(state: State, name: str) -> Workload:
    if name not in state.versions:
        raise ReleaseError(
            f"{state.service} has no version '{name}' (subset of its DestinationRule, or Service of an HTTPRoute); "
            f"there are: {', '.join(sorted(state.versions)) or 'none'}"
        )
    return state.versions[name]


def _fit(workload: Workload) -> None:
    name = workload.version.name
    if not workload.ready:
        raise ReleaseError(
            f"{name} has no ready pod (pods of its subset: {workload.pods}){workload.why}; weight would be answered "
            "with 503. Deploy it and wait until it is ready"
        )
    if workload.mixed:
        raise ReleaseError(
            f"{name} is in the middle of a rollout (pods of two templates){workload.why}; wait until it is complete"
        )
