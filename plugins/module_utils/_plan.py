# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user wants, what is there, and whether and how a release may begin or go on. Private to this collection.

Pure: frozen dataclasses in, a decision out, no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience
from ansible_collections.progressive.istio.plugins.module_utils._calendar import Calendar
from ansible_collections.progressive.istio.plugins.module_utils._checks import Check
from ansible_collections.progressive.istio.plugins.module_utils._counters import Counter
from ansible_collections.progressive.istio.plugins.module_utils._evidence import Evidence
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look
from ansible_collections.progressive.istio.plugins.module_utils._metrics import LATENCY_FLOOR
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    HELD,
    SUPERSEDED,
    Record,
    Step,
    Version,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Tolerance, Verdict
from ansible_collections.progressive.istio.plugins.module_utils._wish import Goal

STOPPING = ("aborted", "paused", "rolled_back")  # states that end what is under way, whoever runs it
INCONCLUSIVE = ("hold", "abort", "promote")
FLOORS = ("autoscalers", "workloads", "none")


class ReleaseError(ValueError):
    """Something that the user has to mend before the release can go on; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Want:
    """The user's wish: options of istio_canary. Times in seconds."""

    canary: str
    stable: str = ""
    steps: tuple[Step, ...] = ()
    state: str = "promoted"
    reason: str = ""  # of STOPPING
    tolerance: Tolerance = field(default_factory=Tolerance)
    interval: float = 1.0
    max_wait: float = 1200.0
    max_hold: float = 3600.0
    on_inconclusive: str = "hold"
    on_drift: str = "hold"
    on_newer: str = "refuse"
    queue_timeout: float = 3600.0
    calendar: Calendar = field(default_factory=Calendar)
    max_duration: float = 0.0  # of a whole release; 0: as long as it takes
    verify_timeout: float = 30.0
    retry: bool = False
    adopt: bool = False
    until_step: int | None = None
    preflight: str = "enforce"
    min_coverage: float = 0.8
    capacity: bool = True  # a canary that is short of capacity does not pass
    latency: Tolerance | None = field(default_factory=lambda: Tolerance(floor=LATENCY_FLOOR))  # None: is not judged
    edge: float = 0.0  # of latency in ms; 0: chosen by what stable is like
    warm_up: float = 10.0  # in which latency is not judged
    observe: bool = False
    checks: tuple[Check, ...] = ()
    counters: tuple[Counter, ...] = ()
    audience: Audience = field(default_factory=Audience)
    drain_timeout: float = 60.0  # of retired
    orphan: bool = False  # only a release whose run has died
    approval_timeout: float = 0.0  # that a run stays at a release which waits for approval
    goal: Goal = field(default_factory=Goal)  # of a plan
    floors: str = "autoscalers"  # one of FLOORS: whose floors are raised
    floors_timeout: float = 300.0  # that pods for a step may take


@dataclass(frozen=True, slots=True)
class Crash:
    """What has happened to a pod, such as a crash again and again, or too much memory: when last, and in words."""

    at: float  # seconds since the epoch
    text: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The pods of one version. ``mixed``: they come from more than one pod template (a rollout is under way).

    ``meshed``: at least one of them has a sidecar.
    """

    version: Version
    pods: int
    ready: int
    mixed: bool = False
    meshed: bool = True
    crashes: tuple[Crash, ...] = ()
    obstacles: tuple[str, ...] = ()  # what keeps pods of it from running, one each, in words
    taken: tuple[Crash, ...] = ()  # pods that the cluster is taking away: evictions, drained nodes, preemptions

    @property
    def why(self) -> str:
        """What to say after "no ready pod", or nothing where nobody knows."""
        return f": {'; '.join(self.obstacles[:3])}" if self.obstacles else ""

    def excuse(self, since: float) -> str:
        """What the cluster has done to it since then, or cannot do for it while none of its pods is ready, in words."""
        taken = [one.text for one in self.taken if one.at >= since]
        return "; ".join((*taken, *(() if self.ready else self.obstacles))[:3])

    def crashed_since(self, time: float) -> tuple[str, ...]:
        """Those of its crashes that were not before, in words."""
        return tuple(crash.text for crash in self.crashes if crash.at >= time)


@dataclass(frozen=True, slots=True)
class Other:
    """One more route object of the service: it has the same two versions, and follows the one with the record."""

    key: str  # namespace/name
    where: str
    weights: Mapping[str, int]
    manager: str
    token: object = None
    astray: str = ""  # what it lacks of the cohort, cookie and mirror of the record, or has left of them

    def has(self, weights: Mapping[str, int]) -> bool:
        """Whether it gives these weights to these versions."""
        return all(self.weights.get(name, 0) == weight for name, weight in weights.items())


@dataclass(frozen=True, slots=True)
class State:
    """What the World shows: the route's effective weights by subset, the record on it, and the versions' pods."""

    where: str
    service: str
    uid: str
    weights: Mapping[str, int]
    record: Record | None
    manager: str
    versions: Mapping[str, Workload]
    token: object = None  # the World's own: what a write is based on
    aliases: Mapping[str, str] = field(default_factory=dict)  # what else the versions may be called by the user
    others: tuple[Other, ...] = ()
    approval: str = ""  # text of the annotation APPROVE
    astray: str = ""  # what somebody else has changed of the record's cohort, cookie and mirror

    def weight_of(self, version: str) -> int:
        """The share of a version in percent of the route's weights, rounded."""
        return share_of(self.weights, version)

    def version(self, name: str) -> Workload:
        """The version's pods; none at all when its subset is gone."""
        return self.versions.get(name) or Workload(Version(name, ""), 0, 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended. ``finished``: nothing more to do by itself; ``failed``: the task should be red."""

    phase: str
    text: str
    failed: bool
    finished: bool
    changed: bool
    weight: int
    record: Record | None
    verdict: Verdict | None
    evidence: Evidence | None


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a release of ``canary`` against ``stable`` at the first step."""

    stable: Version
    canary: Version


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take over what somebody else released up to some weight: with these steps, at step ``first``."""

    stable: Version
    canary: Version
    steps: tuple[Step, ...]
    first: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with the release on record. ``changed`` says why it must be taken back instead, or is empty."""

    record: Record
    changed: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to do."""

    phase: str
    text: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing will be done, and the user should know why."""

    phase: str
    text: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Give all traffic back to the stable version of a release that is over. ``warning``: what speaks
    against it. Not ``due``: the route has it already, and only the proxies are asked.
    """

    record: Record
    warning: str = ""
    due: bool = True


@dataclass(frozen=True, slots=True)
class Approve:
    """Let a release that waits go on to its next step."""

    record: Record


@dataclass(frozen=True, slots=True)
class Supersede:
    """Take back the release on record, as another version is to be released in its place."""

    record: Record


@dataclass(frozen=True, slots=True)
class Await:
    """Nothing can be done yet, and it is worth waiting for."""

    text: str


Decision: TypeAlias = "Supersede | Await | Start | Adopt | Resume | RollBack | Approve | Done | Refuse"


def resolve(want: Want, state: State) -> Want:
    """The wish with the versions' own names."""
    names = state.aliases
    return replace(want, canary=names.get(want.canary, want.canary), stable=names.get(want.stable, want.stable))


def check_want(want: Want) -> None:
    """Raise ReleaseError for options that make no sense, naming the option."""
    if want.state == "promoted":
        if want.canary and want.canary == want.stable:
            raise ReleaseError(f"canary_version and stable_version are both '{want.canary}'")
        _check_steps(want.steps, bool(want.audience.cohort))
    if want.reason and want.state not in (*STOPPING, "approved"):
        raise ReleaseError(f"reason is for state aborted, approved, paused and rolled_back, not for {want.state}")
    if want.until_step is not None and want.until_step < 1:
        raise ReleaseError(f"until_step is {want.until_step}; steps count from 1")
    if want.on_inconclusive not in INCONCLUSIVE:
        raise ReleaseError(f"analysis.on_inconclusive is '{want.on_inconclusive}'; one of {', '.join(INCONCLUSIVE)}")
    if not 0 <= want.min_coverage <= 1:
        raise ReleaseError(f"analysis.min_coverage is {want.min_coverage}; a number from 0 to 1 is needed")
    for name, value, least in (
        ("analysis.latency_edge", want.edge, 0),
        ("analysis.warm_up", want.warm_up, 0),
        ("analysis.interval", want.interval, 0.2),
        ("analysis.max_wait", want.max_wait, 1),
        ("analysis.max_hold", want.max_hold, 1),
        ("verify_timeout", want.verify_timeout, 1),
        ("drain_timeout", want.drain_timeout, 6),
        ("approval_timeout", want.approval_timeout, 0),
        ("queue_timeout", want.queue_timeout, 0),
        ("max_duration", want.max_duration, 0),
        ("floors_timeout", want.floors_timeout, 1),
    ):
        if not value >= least:
            unit = "ms" if name == "analysis.latency_edge" else "s"
            raise ReleaseError(f"{name} is {value}; at least {least} {unit} is needed")
    if 0 < want.max_duration < least_seconds(want.steps) and want.state == "promoted":
        raise ReleaseError(
            f"max_duration is {want.max_duration:g}, and the min_seconds of steps are {least_seconds(want.steps)} s in "
            "all: no release could end in time; make max_duration the longer one"
        )
    for number, step in enumerate(want.steps, 1):
        if step.min_seconds >= want.max_wait and want.state == "promoted":
            raise ReleaseError(
                f"steps[{number}].min_seconds is {step.min_seconds} and analysis.max_wait {want.max_wait:g}: the step "
                "would end without a verdict before it can pass; make max_wait the longer one"
            )
    try:
        want.tolerance.check()
    except ValueError as error:
        raise ReleaseError(f"analysis: {error}") from None
    try:
        want.goal.check()
    except ValueError as error:
        raise ReleaseError(str(error)) from None


def least_seconds(steps: tuple[Step, ...]) -> int:
    """How long these steps take at least."""
    return sum(step.min_seconds for step in steps)


def _check_steps(steps: tuple[Step, ...], cohort: bool) -> None:
    if not steps:
        raise ReleaseError("steps is empty; give at least one, for example [{weight: 10}, {weight: 100}]")
    if steps[0].pause:
        raise ReleaseError("steps[1].pause: a release begins with its first step; who starts it approves that")
    before = (-1, -1)
    for number, step in enumerate(steps, 1):
        _check_step(f"steps[{number}]", step, cohort)
        if (step.weight, step.mirror) <= before or (step.weight == before[0] > 0):
            raise ReleaseError(
                f"steps[{number}].weight is {step.weight} after {before[0]}; weights must rise from step to step"
                + (" (at weight 0 the mirror may rise instead)" if not step.weight else "")
            )
        before = (step.weight, step.mirror)
    if before[0] != 100:
        raise ReleaseError(
            f"the last step has weight {before[0]}; a release ends at 100 (use until_step to wait before it)"
        )


def _check_step(option: str, step: Step, cohort: bool) -> None:
    for name, value in (("weight", step.weight), ("mirror", step.mirror)):
        if not 0 <= value <= 100:
            raise ReleaseError(f"{option}.{name} is {value}; a whole number from 0 to 100 is needed")
    if not (step.weight or step.mirror or cohort):
        raise ReleaseError(
            f"{option}.weight is 0, so nobody sees the canary; give a weight from 1 to 100, a mirror, or a cohort"
        )
    if step.min_seconds < 0:
        raise ReleaseError(f"{option}.min_seconds is {step.min_seconds}; it cannot be negative")


def behind(state: State, record: Record) -> tuple[Other, ...]:
    """The other route objects that do not have the weights of the record yet, or not its cohort, cookie and mirror."""
    return tuple(other for other in state.others if other.astray or not other.has(record.weights()))


def gone_meanwhile(state: State, record: Record) -> str:
    """What to say where a record gives more to a version that has lost its last ready pod since it was decided."""
    canary = state.version(record.canary.name)
    if canary.ready or record.weight <= state.weight_of(canary.version.name):
        return ""
    return f"{canary.version.name} has no ready pod any more{canary.why}; {record.weight} % was not given to it"


def strayed(state: State, record: Record, arrived: bool) -> str:
    """What to say when another route object has weights that somebody else has set, or nothing.

    A run that was killed may have left it one step behind; one that has ``arrived`` at this step has left nothing.
    Where a release was taken back, it may be at any of its steps.
    """
    if record.taken_back:
        known = [record.at(step, 0.0).weights() for step in range(len(record.steps))]
    elif arrived:
        known = []
    else:
        known = [record.at(record.step - 1, 0.0).weights() if record.step else {record.canary.name: 0}]
    for other in state.others:
        if not any(other.has(weights) for weights in (record.weights(), *known)):
            return (
                f"drift: {other.where} says {said(other.weights)}, this release sets {said(record.weights())}; "
                f"last written by {other.manager}"
            )
    return ""


def plan_of(record: Record) -> str:
    """For the first line of a release: ``steps 10, 50, 100 %``, and who else sees the canary."""
    titles = ["approval, " * step.pause + step.title.removesuffix(" %") for step in record.steps]
    more = [f"a cohort of {len(record.audience.cohort)} rules"] if record.audience.cohort else []
    more += [f"sticky by cookie {record.audience.cookie}"] if record.audience.cookie else []
    more += ["OBSERVE: goes on by time alone, whatever the verdict"] if record.observe else []
    return "  ".join((f"steps {', '.join(titles)} %", *more))


def joined(steps: tuple[Step, ...], share: int) -> tuple[tuple[Step, ...], int]:
    """The plan for who takes over ``share`` percent, and at which of its steps that is.

    A share that the plan does not have becomes a step of its own: the next one needs a pass at this one first.
    """
    at = next(i for i, step in enumerate(steps) if step.weight >= share)
    if not share or steps[at].weight == share:
        return steps, at
    return (*steps[:at], Step(share, steps[at].min_seconds), *steps[at:]), at


def adopted(record: Record, share: int, now: float) -> Record:
    """The record of the same release that goes on from a share that somebody else has set."""
    steps, at = joined(record.steps, share)
    more = len(steps) - len(record.steps)
    approvals = tuple(replace(one, step=one.step + more) if one.step > at else one for one in record.approvals)
    return replace(record, steps=steps, approvals=approvals).at(at, now)


def drift(state: State, record: Record) -> str:
    """What to say when somebody else has changed the weights that a release has set, or nothing."""
    want = record.weights()
    if all(state.weights.get(name, 0) == weight for name, weight in want.items()):
        return f"drift: {state.astray}; last written by {state.manager}" if state.astray else ""
    there, ours = said(state.weights), said(want)
    more = f"; {state.astray}" if state.astray else ""
    return f"drift: the route says {there}, this release set {ours}{more}; last written by {state.manager}"


def held_for_drift(record: Record) -> bool:
    """Whether somebody else's weights are why it waits: once they are set back, nothing is left to wait for."""
    return record.phase == HELD and record.reason.startswith("drift: ")


def said(weights: Mapping[str, int]) -> str:
    """For messages: ``v1 90, v2 10``."""
    return ", ".join(f"{name} {weight}" for name, weight in sorted(weights.items()))


def share_of(weights: Mapping[str, int], version: str) -> int:
    """Of a version in percent, rounded."""
    total = sum(weights.values())
    return round(100 * weights.get(version, 0) / total) if total else 0


def require_clients(state: State, look: Look) -> None:
    """Raise ReleaseError when no proxy could be read: weights act in the clients' proxies, and nowhere else."""
    if look.proxies:
        return
    if look.sampled:
        raise ReleaseError(f"nothing counts the requests to {state.service}: {'; '.join(look.unread.values())}")
    if look.unread:
        why = "; ".join(sorted(look.unread.values())[:2])
        raise ReleaseError(
            f"none of the {len(look.unread)} proxies of the mesh could be read, for example {why}. "
            "The account that runs this needs get and create on pods/portforward"
        )
    raise ReleaseError(
        f"no pod in the mesh has a sidecar that routes to {state.service}; a client without a sidecar ignores weights: "
        "label its namespace for injection and restart it"
    )


def newer_canary(record: Record, state: State, supersede: bool = False) -> str:
    """What to say when the canary's pods come from another template than the one that is being released, or nothing.

    ``supersede``: that one is to be released in its place.
    """
    canary = state.version(record.canary.name)
    if not canary.pods or canary.version == record.canary:
        return ""
    if supersede:
        return (
            f"{SUPERSEDED}{record.canary.name} of pod template {canary.version.hash}, "
            f"in the middle of the release of {record.canary.hash}"
        )
    return (
        f"{record.canary.name} changed in the middle of its release "
        f"(pod template {record.canary.hash} is now {canary.version.hash}): that is a newer version"
    )


def taken_over(state: State, record: Record) -> str:
    """What to say when the record on the route object is not ``record`` any more."""
    if state.record is None:
        return (
            f"drift: the record of release {record.id} is gone from {state.where}, last writer {state.manager}; "
            "the weights are as they were"
        )
    if state.record.summary().superseded:
        return f"release {state.record.id} of {state.record.canary.name} was {state.record.reason}"
    return f"release {state.record.id} ({state.record.phase}, by {state.record.by}) is on {state.where} now"
