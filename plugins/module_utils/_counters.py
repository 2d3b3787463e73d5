# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own counters as metrics: of what (total) there was how much, and how much of it was bad. Private, pure.

They are read as ``_prometheus`` reads requests: raw samples of each series, by target; runs between two falls of a
counter; a target first seen is a base line, and a series that is new in a known target counts from 0. Each version is
asked for by its name. The counts become windows and are judged by a gate of their own (``_panel``).

What is not known is never 0. Nothing is counted from an answer that fails, is incomplete or has nothing new; the next
good one covers the gap. A version whose total is there and whose `bad` is not has none only where both are of one
metric (labels come with the first failure); a `bad` of another name may have been renamed, so that counts nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from ansible_collections.progressive.istio.plugins.module_utils._looks import (
    Counts,
    Look,
    ProxyLook,
    by_version,
    differences,
)
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import (
    GONE,
    LONGEST,
    PODS,
    Series,
    name_of,
    runs_of,
    series_id,
    span,
    target_of,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Verdict, Window

VERSION = "{version}"
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\s*(\{.*\})?\s*", re.DOTALL)
ASK_SECONDS = 5.0  # from an answer to the next question
METRIC = "counted"  # in ProxyLook.also
Part = Literal["total", "bad"]
PARTS: tuple[Part, Part] = ("total", "bad")


@dataclass(frozen=True, slots=True)
class Counter:
    """Two selectors of PromQL with ``{version}`` in them. ``bad`` counts a part of what ``total`` counts.

    ``floor``: the tolerance's, if not that of errors. ``max_age`` in seconds. ``where``: the World's own, whom to ask.
    """

    name: str
    total: str
    bad: str
    floor: float | None = None
    max_age: float = 60.0
    where: object = None

    def query(self, part: Part, version: str, seconds: float) -> str:
        """For the raw samples of the last ``seconds``."""
        selector = self.total if part == "total" else self.bad
        return f"{selector.strip().replace(VERSION, version)}[{min(LONGEST, max(1, round(seconds)))}s]"

    def seconds(self, before: Look | None, now: float) -> float:
        """So many seconds of samples tell all that has happened since the last look, and who is late."""
        return span(before, now, self.max_age)

    @property
    def one_metric(self) -> bool:
        """Whether ``bad`` is ``total`` with more labels."""
        names = {found[1] for one in (self.total, self.bad) if (found := SELECTOR.fullmatch(one.strip()))}
        return len(names) == 1 and None not in names

    @property
    def mark(self) -> str:
        """Changes with the queries: what was counted by others is no base line for these."""
        return hashlib.sha256(f"{self.total}\n{self.bad}".encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class Samples:
    """An answer: until when (seconds since the epoch), by version the raw series of each part; or why there is none."""

    at: float
    series: Mapping[str, Mapping[Part, Sequence[Series]]] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """Where a counter stands, kept with the evidence: its last look, and what is lacking in it, in words."""

    mark: str
    floor: float | None = None
    look: Look | None = None
    why: str = "has not been asked yet"

    def packed(self) -> list[Any]:
        """Plain JSON types."""
        return [self.mark, self.floor, self.why, _packed(self.look)]

    def bare(self) -> Counted:
        """Without the counters: the next look is a base line."""
        return replace(self, look=None)


def _packed(look: Look | None) -> list[Any] | None:
    if look is None:
        return None
    targets = {uid: [p.name, {k: list(c) for k, c in p.also[METRIC].items()}] for uid, p in look.proxies.items()}
    return [look.time, targets]


def unpacked(data: Sequence[Any]) -> Counted:
    """What was ``packed``. Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
    mark, floor, why, kept = data
    look = None
    if kept is not None:
        time, targets = kept
        proxies = {
            str(uid): _target(str(name), {str(key): (int(n), int(x)) for key, (n, x) in series.items()})
            for uid, (name, series) in targets.items()
        }
        look = Look(float(time), proxies, {}, sampled=True)
    return Counted(str(mark), None if floor is None else float(floor), look, str(why))


def _target(name: str, series: Mapping[str, Counts]) -> ProxyLook:
    return ProxyLook(name, "requests:0", 0.0, {}, {METRIC: series})


# ---------------------------------------------------------------- from samples to counts


@dataclass
class _Tally:
    """What is known of one target while an answer is taken apart."""

    name: str
    pod: str
    newest: float = 0.0
    series: dict[str, Counts] = field(default_factory=dict)


def look_of(counter: Counter, samples: Samples, before: Look | None, living: Collection[str] = ()) -> tuple[Look, str]:
    """The look that an answer is, and what it lacks. Raises ValueError, in words, for one that nothing is counted from.

    ``living``: names of the versions' pods: a target of theirs without a new sample is late, however long.
    """
    if samples.why:
        raise ValueError(samples.why)
    known = before.proxies if before else {}
    found: dict[str, _Tally] = {}
    for prefix, one in _by_prefix(samples):
        uid = target_of(one.labels)
        pod = next((one.labels[name] for name in PODS if one.labels.get(name)), "")
        tally = found.setdefault(uid, _Tally(name_of(one.labels), pod))
        tally.newest = max(tally.newest, one.points[-1][0])
        key = f"{prefix}{series_id(one.labels)}~"
        old = known[uid].also[METRIC] if uid in known else {}
        starts = [int(had.rpartition("~")[2]) for had in old if had.startswith(key)]
        for start, count in runs_of(one.points, starts).items():
            tally.series[f"{key}{start}"] = (count, 0) if f"@{PARTS[0]}" in prefix else (0, count)
    fresh = [tally.newest for tally in found.values() if samples.at - tally.newest <= counter.max_age]
    if not fresh:
        raise ValueError(_why_silent(counter, samples, found))
    if missing := _without_bad(counter, samples):
        raise ValueError(missing)
    late = [
        f"{tally.name} has no sample of the last {samples.at - tally.newest:.0f} s"
        for tally in found.values()
        if samples.at - tally.newest > counter.max_age
        and (tally.pod in living or samples.at - tally.newest <= GONE * counter.max_age)
    ]
    late += [
        f"{target.name} has no samples any more"
        for uid, target in known.items()
        if uid not in found and target.name.rpartition("/")[2] in living
    ]
    proxies = dict(known)
    for uid, tally in found.items():
        old = known[uid].also[METRIC] if uid in known else {}
        proxies[uid] = _target(tally.name, {**old, **tally.series})
    time = max(min(fresh), before.time if before else 0.0)
    return Look(time, proxies, {}, sampled=True), ", ".join(sorted(late)[:3])


def _by_prefix(samples: Samples) -> Iterator[tuple[str, Series]]:
    for version, parts in samples.series.items():
        for part, series in parts.items():
            for one in series:
                if one.points:
                    yield f"{version}@{part}", one


def _why_silent(counter: Counter, samples: Samples, found: Mapping[str, _Tally]) -> str:
    if not found:
        return f"there is no series of {counter.total}"
    age = samples.at - max(tally.newest for tally in found.values())
    return f"the newest sample is {age:.0f} s old, max_age is {counter.max_age:g} s"


def _without_bad(counter: Counter, samples: Samples) -> str:
    """What to say where a version has a total and nothing that tells how much of it is bad, or nothing."""
    if counter.one_metric:
        return ""
    for version, parts in samples.series.items():
        alive = [one for one in parts["total"] if one.points and samples.at - one.points[-1][0] <= counter.max_age]
        if alive and not any(one.points for one in parts["bad"]):
            return (
                f"{version} has no series of {counter.bad.replace(VERSION, version)}; it has to be there, if only as 0"
            )
    return ""


def newest(series: Sequence[Series]) -> int:
    """What these series have counted, by their last samples."""
    return sum(one.points[-1][1] for one in series if one.points)


def said_of(counter: Counter, samples: Samples) -> str:
    """For a person: what an answer has of each version."""
    if samples.why:
        return f"no answer: {samples.why}"
    parts = []
    for version, found in samples.series.items():
        total, bad = found["total"], found["bad"]
        if not total:
            parts.append(f"{version} has no series of it yet")
        else:
            of = f"{newest(bad):,}" if bad else "0 (no series yet)" if counter.one_metric else "(no series)"
            parts.append(f"{version} {of} bad of {newest(total):,}")
    return ", ".join(parts)


# ---------------------------------------------------------------- in a release

Ask: TypeAlias = Callable[[Counter, Sequence[str], float], "Samples | None"]


@dataclass(frozen=True, slots=True)
class Place:
    """What the present window belongs to: the step and its weight, since when, and the versions, canary first."""

    step: int
    weight: int
    since: float
    versions: tuple[str, str]


class Counters:
    """The counters of one release. ``ask`` begins to ask, or brings the answer; None while there is none yet."""

    def __init__(self, counters: Sequence[Counter], ask: Ask) -> None:
        self._counters, self._ask = counters, ask
        self._waiting: set[str] = set()
        self._asked: dict[str, float] = {}

    def known(self, stored: Mapping[str, Counted]) -> dict[str, Counted]:
        """What is stored, with those that are new, or ask for something else by now, at their beginning."""
        found = dict(stored)
        for one in self._counters:
            old = stored.get(one.name)
            same = old is not None and old.mark == one.mark
            found[one.name] = replace(old, floor=one.floor) if old and same else Counted(one.mark, one.floor)
        return found

    @property
    def waiting(self) -> bool:
        """Whether any answer is still to come."""
        return bool(self._waiting)

    def look(
        self,
        stored: Mapping[str, Counted],
        past: Mapping[str, Sequence[Window]],
        place: Place,
        now: float,
        living: Collection[str],
        once: bool = False,
    ) -> tuple[dict[str, Counted], dict[str, Window]]:
        """Ask what is due; where the counters stand by what has come, and the windows that end by it.

        ``past``: the windows so far. A window that began before the step may have counts of the step before; it counts
        as that, so that nothing from another weight ever speaks for this one. ``once``: what has answered is not asked
        again.
        """
        found, windows = dict(stored), {}
        for one in self._counters:
            asked = self._asked.get(one.name)
            due = asked is None or (not once and now - asked >= ASK_SECONDS)
            if one.name not in self._waiting and not due:
                continue
            before = found[one.name].look
            samples = self._ask(one, place.versions, one.seconds(before, now))
            if samples is None:
                self._waiting.add(one.name)
                continue
            self._waiting.discard(one.name)
            self._asked[one.name] = now
            try:
                look, late = look_of(one, samples, before, living)
            except ValueError as error:
                found[one.name] = replace(found[one.name], why=str(error))
                continue
            found[one.name] = replace(found[one.name], look=look, why=late)
            if before is not None:
                windows[one.name] = _window(before, look, place, past.get(one.name, ()))
        return found, windows

    def lacks(self, stored: Mapping[str, Counted], verdict: Verdict, now: float, enough: float) -> dict[str, Lack]:
        """What keeps a step from being passed, by name. ``enough``: a time that the samples have to reach."""
        found = {}
        for one in self._counters:
            counted = stored[one.name]
            lack = lack_of(one.name, counted, verdict)
            if lack is None and counted.look and now - counted.look.time > one.max_age:
                lack = "no_data", f"the newest sample is {now - counted.look.time:.0f} s old"
            if lack is None and counted.look and counted.look.time < enough:
                lack = "wait", f"{enough - counted.look.time:.0f} s of the step are not in the samples yet"
            if lack:
                found[one.name] = lack
        return found


def _window(before: Look, now: Look, place: Place, past: Sequence[Window]) -> Window:
    step, weight = place.step, place.weight
    if before.time < place.since and past:
        step, weight = past[-1].step, past[-1].weight
    counts = by_version(differences(before.proxies, now.proxies, float("inf"), METRIC))
    (n_c, x_c), (n_b, x_b) = (counts.get(name, (0, 0)) for name in place.versions)
    # A failure is counted last: what it belongs to may have counted at the look before.
    return Window(step, weight, max(0.0, now.time - before.time), max(n_c, x_c), x_c, max(n_b, x_b), x_b)


Lack: TypeAlias = 'tuple[Literal["wait", "no_data"], str]'


def lack_of(name: str, counted: Counted, verdict: Verdict) -> Lack | None:
    """What a counter lacks for a pass, by what is stored of it."""
    if counted.why:
        return "no_data", counted.why
    part = next((part for part in verdict.also if part.metric == name), None)
    if part is None or part.counts.n_c == 0:
        return "no_data", f"nothing of the canary has been counted at {verdict.weight} % yet"
    return None


def held_back(verdict: Verdict, lacks: Mapping[str, Lack]) -> Verdict:
    """The verdict, but no `pass` while a counter lacks something. A proven failure stays one."""
    if not lacks or not (verdict.kind == "pass" or (verdict.kind == "wait" and verdict.decided_by in lacks)):
        return verdict
    kinds = {kind for kind, _text in lacks.values()}
    reason = "; ".join(f"counter {name}: {text}" for name, (_kind, text) in lacks.items())
    return replace(
        verdict, kind="no_data" if "no_data" in kinds else "wait", reason=reason, decided_by=next(iter(lacks))
    )
