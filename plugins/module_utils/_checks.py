# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own checks: when they are asked, what their answers do to a verdict, what is said of them. Private, pure.

A check is asked in every step, from the moment on at which the step's weight is in the proxies. Nothing passes while
its last answer in this step is anything but `ok`. What nobody could answer is no failure: only answers count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal, TypeAlias

from ansible_collections.progressive.istio.plugins.module_utils._record import HELD, OURS, Record
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Verdict

State = Literal["ok", "failed", "unknown", "running"]
WORDS: Mapping[State, str] = {"ok": "ok", "failed": "FAILED", "unknown": "no answer", "running": "runs"}
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?")
LINES = 3  # that are said of all checks together in one step
LONGEST = 400  # characters of an answer that are kept
RUNNING_SECONDS = 2.0  # between two looks at a Job
FRESH = 2.0  # so many intervals an answer holds good: it may be older where nobody was at it for a while
DECIDES = "checks"  # Verdict.decided_by


@dataclass(frozen=True, slots=True)
class Promql:
    """A query whose one number must be in ``least`` to ``most``. ``where``: the World's own, whom to ask."""

    query: str
    least: float | None = None
    most: float | None = None
    where: object = None

    def judged(self, query: str, values: Sequence[float]) -> Answer:
        """``values`` that ``query`` was answered with."""
        if len(values) != 1:
            what = "nothing" if not values else f"{len(values)} series; aggregate them to one"
            return Answer("unknown", f"{query} is {what}")
        (value,) = values
        if not isfinite(value):
            return Answer("unknown", f"{query} is {value}")
        limits = ((self.least, "least"), (self.most, "most"))
        limit = " and ".join(f"at {word} {bound:g}" for bound, word in limits if bound is not None)
        good = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return Answer("ok" if good else "failed", f"{query} is {value:g}, has to be {limit}")


@dataclass(frozen=True, slots=True)
class Http:
    """A GET whose answer must have this status; ``timeout`` in seconds. ``headers`` may be secret."""

    url: str
    status: int = 200
    timeout: float = 5.0
    headers: Mapping[str, str] = field(default_factory=dict)
    validate_certs: bool = True
    ca_cert: str | None = None

    def judged(self, url: str, status: int) -> Answer:
        """The answer to ``url`` had ``status``."""
        if status == self.status:
            return Answer("ok", f"{url} answers {status}")
        return Answer("failed", f"{url} answers {status}, has to be {self.status}")


@dataclass(frozen=True, slots=True)
class Job:
    """A Job that must succeed: its manifest, or the name of a CronJob that has one."""

    template: Mapping[str, Any] = field(default_factory=dict)
    cronjob: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``failures``: so many in a row take the release back with ``on_failure`` abort, of a Job the first.

    ``interval``: seconds between an answer and the next question.
    """

    name: str
    asks: Promql | Http | Job
    on_failure: str = "wait"
    failures: int = 3
    interval: float = 15.0

    @property
    def least_failures(self) -> int:
        """A Job has retries of its own (backoffLimit), and runs once."""
        return 1 if isinstance(self.asks, Job) else self.failures


@dataclass(frozen=True, slots=True)
class About:
    """What a check is asked about: a step (from 1) of a release, begun at ``since`` (seconds since the epoch)."""

    release: str
    version: str
    stable: str
    step: int
    weight: int
    since: float

    def fill(self, text: str) -> str:
        """``text`` with values in place of ``{version}``, ``{stable}``, ``{release}``, ``{step}``, ``{weight}``."""
        for name, value in self._values().items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def _values(self) -> dict[str, str]:
        return {
            "version": self.version,
            "stable": self.stable,
            "release": self.release,
            "step": str(self.step),
            "weight": str(self.weight),
        }

    def environment(self) -> dict[str, str]:
        """The same for a Job's containers."""
        return {f"CANARY_{name.upper()}": value for name, value in self._values().items()}

    def job(self, check: str) -> str:
        """The name of a check's Job: one for each time that a step begins, whoever looks."""
        return f"{check}-{self.release}-{self.step}-{int(self.since):x}"


def about(record: Record) -> About:
    """The present step of a release."""
    names = record.canary.name, record.stable.name
    return About(record.id, *names, record.step + 1, record.present.weight, record.since)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a check, in words. ``job``: the name of the Job that was made for it."""

    state: State
    text: str
    job: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """The last answer of a check in a step, when it came (seconds since the epoch), and failures in a row so far.

    ``told``: the state that was said last.
    """

    answer: Answer
    at: float
    failures: int = 0
    told: str = ""

    def plus(self, answer: Answer, now: float) -> Tally:
        """With the next answer. One that tells nothing does not count."""
        failures = {"ok": 0, "failed": self.failures + 1}.get(answer.state, self.failures)
        return replace(self, answer=replace(answer, text=_short(answer.text)), at=now, failures=failures)


@dataclass(frozen=True, slots=True)
class Round:
    """The checks in one step, by name. It is kept with the evidence. ``lines``: how many were said of it."""

    step: int = -1
    since: float = 0.0
    lines: int = 0
    tallies: Mapping[str, Tally] = field(default_factory=dict)

    def packed(self) -> list[Any]:
        """Plain JSON types."""
        rows = {
            name: [t.answer.state, t.answer.text, t.answer.job, t.at, t.failures, t.told]
            for name, t in self.tallies.items()
        }
        return [self.step, self.since, self.lines, rows]

    def shown(self) -> list[dict[str, Any]]:
        """For a result."""
        return [
            {"name": name, "state": t.answer.state, "text": t.answer.text, "failures": t.failures}
            for name, t in self.tallies.items()
        ]

    def leftover(self) -> tuple[str, ...]:
        """Names of the Jobs that nobody needs any more. One that has failed is left for its logs."""
        return tuple(t.answer.job for t in self.tallies.values() if t.answer.job and t.answer.state != "failed")


def unpacked(data: Sequence[Any]) -> Round:
    """What was ``packed``. Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
    step, since, lines, rows = data
    tallies = {}
    for name, (state, text, job, at, failures, told) in rows.items():
        if state not in WORDS:
            raise ValueError(f"a check is {state!r}")
        tallies[str(name)] = Tally(Answer(state, str(text), str(job)), float(at), int(failures), str(told))
    return Round(int(step), float(since), int(lines), tallies)


def of_step(last: Round, record: Record) -> Round:
    """``last`` if it is of the present step of a release, else a new one. A step that is begun again is a new one.

    The time of a held release begins with the hold, so of that only the step counts.
    """
    same = last.step == record.step and (record.phase == HELD or last.since == record.since)
    return last if same else Round(record.step, record.since)


Ask: TypeAlias = Callable[[Check, About], "Answer | None"]


class Checks:
    """The checks of one release. ``ask`` begins to ask, or brings the answer; None while there is none yet."""

    def __init__(self, checks: Sequence[Check], ask: Ask) -> None:
        self._checks, self._ask = checks, ask
        self._waiting: set[str] = set()
        self._answered: set[str] = set()

    def look(self, last: Round, record: Record, now: float) -> Round:
        """Ask what is due, and take in what has come."""
        present = of_step(last, record)
        if present is not last:
            self._waiting.clear()
        tallies = dict(present.tallies)
        for check in self._checks:
            due = _due(check, tallies.get(check.name), now)
            if record.phase == HELD:  # looked at once: each is asked once, but for a Job, which belongs to the step
                due = check.name not in self._answered and not isinstance(check.asks, Job)
            if check.name not in self._waiting and not due:
                continue
            answer = self._ask(check, about(record))
            self._waiting.discard(check.name)
            if answer is None:
                self._waiting.add(check.name)
            else:
                self._answered.add(check.name)
                before = tallies.get(check.name, Tally(answer, now))
                tallies[check.name] = before.plus(answer, now)
        return replace(present, tallies=tallies)

    @property
    def waiting(self) -> bool:
        """Whether any answer is still to come."""
        return bool(self._waiting)

    def news(self, now: Round) -> tuple[Round, str]:
        """What has changed since it was said last, in a line; of one step not more than LINES."""
        changed = {
            name: replace(t, told=t.answer.state)
            for name, t in now.tallies.items()
            if t.answer.state not in (t.told, "running")
        }
        if not changed or self._waiting or now.lines >= LINES:
            return now, ""
        text = "; ".join(f"{name} {WORDS[t.answer.state]}: {t.answer.text}" for name, t in changed.items())
        lines = now.lines + 1
        text += "; no more lines of the checks in this step" if lines == LINES else ""
        return replace(now, lines=lines, tallies={**now.tallies, **changed}), f"CHECKS  {text}"

    def decided(self, verdict: Verdict, now: Round, time: float) -> Verdict:
        """The verdict, but no `pass` while a check is not ok, and a `fail` for one that says so."""
        if verdict.kind == "fail":
            return verdict
        for check in self._checks:
            tally = now.tallies.get(check.name)
            if tally and check.on_failure == "abort" and tally.failures >= check.least_failures:
                times = f" {tally.failures} times in a row" if tally.failures > 1 else ""
                return _because(verdict, "fail", f"check {check.name} has failed{times}: {tally.answer.text}")
        if verdict.kind != "pass":
            return verdict
        missing = {check.name: _lack(check, now.tallies.get(check.name), time) for check in self._checks}
        lacks = {name: lack for name, lack in missing.items() if lack}
        if not lacks:
            return verdict
        blind = all(state == "unknown" for state, _text in lacks.values())
        reason = "; ".join(f"check {name}: {text}" for name, (_state, text) in lacks.items())
        return _because(verdict, "no_data" if blind else "wait", reason)


def _because(verdict: Verdict, kind: Literal["fail", "wait", "no_data"], reason: str) -> Verdict:
    return replace(verdict, kind=kind, reason=reason, decided_by=DECIDES)


def _due(check: Check, tally: Tally | None, now: float) -> bool:
    """Whether to ask. A Job that has ended is not asked again, nor run again, in this step."""
    if tally is None:
        return True
    if isinstance(check.asks, Job) and tally.answer.state in ("ok", "failed"):
        return False
    return now - tally.at >= (RUNNING_SECONDS if tally.answer.state == "running" else check.interval)


def _lack(check: Check, tally: Tally | None, now: float) -> tuple[State, str] | None:
    """What keeps a check from being passed."""
    if tally is None:
        return "running", "not answered yet"
    if tally.answer.state != "ok":
        return tally.answer.state, f"{WORDS[tally.answer.state]}: {tally.answer.text}"
    if isinstance(check.asks, Job) or now - tally.at <= FRESH * check.interval:
        return None
    return "running", f"the last answer is {now - tally.at:.0f} s old"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


# ---------------------------------------------------------------- Jobs as objects

RELEASE_LABEL = "progressive.istio/release"
INJECT = "sidecar.istio.io/inject"
TTL_SECONDS = 3600


def job_manifest(template: Mapping[str, Any], check: str, where: About, namespace: str) -> dict[str, Any]:
    """The Job that is made of a template: its name, labels and variables are ours, the rest as it was given.

    Its pods stay out of the mesh unless the template says otherwise: a sidecar may keep a Job from its end.
    """
    spec = {"ttlSecondsAfterFinished": TTL_SECONDS, **template["spec"]}
    pod = spec["template"]
    given, inner = pod.get("metadata") or {}, pod["spec"]
    ours = {RELEASE_LABEL: where.release}
    labels = {INJECT: "false", **(given.get("labels") or {}), **ours}
    containers = {
        part: [_with_environment(one, where) for one in inner[part]]
        for part in ("initContainers", "containers")
        if inner.get(part)
    }
    spec["template"] = {**pod, "metadata": {**given, "labels": labels}, "spec": {**inner, **containers}}
    meta = template.get("metadata") or {}
    kept = {"annotations": meta["annotations"]} if meta.get("annotations") else {}
    own = {**(meta.get("labels") or {}), **OURS, **ours}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**kept, "name": where.job(check), "namespace": namespace, "labels": own},
        "spec": spec,
    }


def _with_environment(container: Mapping[str, Any], where: About) -> dict[str, Any]:
    given = list(container.get("env") or [])
    known = {one.get("name") for one in given}
    more = [{"name": name, "value": value} for name, value in where.environment().items() if name not in known]
    return {**container, "env": [*more, *given]}


def job_answer(job: Mapping[str, Any], release: str) -> Answer:
    """How a Job stands. One that somebody else has made under this name tells nothing."""
    meta, status = job["metadata"], job.get("status") or {}
    name = str(meta["name"])
    if (meta.get("labels") or {}).get(RELEASE_LABEL) != release:
        return Answer("unknown", f"Job {name} is there and not of this release; delete it")
    for one in status.get("conditions") or []:
        if one.get("status") == "True" and one.get("type") == "Complete":
            return Answer("ok", f"Job {name} has succeeded", name)
        if one.get("status") == "True" and one.get("type") == "Failed":
            why = ": ".join(filter(None, (one.get("reason"), one.get("message"))))
            return Answer("failed", f"Job {name} has failed ({why or 'no reason given'}); see kubectl logs", name)
    tried = f", {status['failed']} of its pods have failed" if status.get("failed") else ""
    return Answer("running", f"Job {name}{tried}", name)


def clash(selector: Mapping[str, str], manifest: Mapping[str, Any]) -> str:
    """What to say where a Job's pods would be endpoints of the service, or nothing."""
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    if not selector or not selector.items() <= labels.items():
        return ""
    said = ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
    return f"its pods have the labels that the Service selects ({said}) and would get its requests; take one out"
