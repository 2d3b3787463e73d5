# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the counters of many proxies to the four integers of a window, and how evidence is kept. Private.

Pure. Counters are cumulative, belong to one proxy process, and come and go with pods and hosts; so differences are
taken per proxy and per series, and only then added up. Adding up first would turn a host that leaves (its counter
vanishes) and comes back into requests that are counted again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._gate import Tolerance, Verdict, Window, compact, judge

FORMAT = 2  # 1 has windows without by_weight, and nothing of before
MAX_BYTES = 256 * 1024
LONG_SECONDS = 5.0  # between two looks: no run was at it
ENOUGH_SERVED = 30

Counts = tuple[int, int]  # requests, bad requests


class EvidenceError(ValueError):
    """Stored evidence cannot be used; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class ProxyLook:
    """What one proxy counted since its process began.

    ``epoch`` is ``unit:process``: requests, attempts, or idle where nothing was counted yet (Envoy makes its cluster
    counters with the first request), and what changes with the process (its restart count).
    ``born`` is the pod's creation by the API server's clock, in seconds. ``series`` maps ``version`` or
    ``version@host`` to cumulative counts.
    """

    name: str
    epoch: str
    born: float
    series: Mapping[str, Counts]

    @property
    def counted(self) -> bool:
        """Whether it has sent any request to the service."""
        return any(requests for requests, _bad in self.series.values())

    def requests(self) -> dict[str, int]:
        """All that it has counted, by version."""
        found: dict[str, int] = {}
        for key, (requests, _bad) in self.series.items():
            version = key.partition("@")[0]
            found[version] = found.get(version, 0) + requests
        return found


@dataclass(frozen=True, slots=True)
class Look:
    """All proxies at one time, by pod UID. ``unread`` are those that should have answered and did not, with why."""

    time: float
    proxies: Mapping[str, ProxyLook]
    unread: Mapping[str, str]
    served: Mapping[str, ProxyLook] = field(default_factory=dict)  # the versions' own: what has come in to their pods


def _difference(before: ProxyLook | None, now: ProxyLook, since: float) -> Iterable[tuple[str, Counts]]:
    units = {look.epoch.partition(":")[0] for look in (before, now) if look}
    other_unit = units >= {"requests", "attempts"}
    for key, (requests, bad) in now.series.items():
        version = key.partition("@")[0]
        if other_unit:  # it counted attempts and now counts requests, or the other way: a new base line
            continue
        if before is None:
            # A proxy that we meet for the first time: all it has counted is ours if it is younger than the release's
            # first look; of an older one we cannot know what came before, so this look is only its base line.
            if now.born >= since:
                yield version, (requests, bad)
            continue
        old_requests, old_bad = before.series.get(key, (0, 0)) if before.epoch == now.epoch else (0, 0)
        if requests < old_requests or bad < old_bad:  # the process or the host is new: its counters began at 0
            old_requests = old_bad = 0
        yield version, (requests - old_requests, bad - old_bad)


def difference(before: Look, now: Look, since: float) -> dict[str, Counts]:
    """Requests and bad requests by version between two looks. ``since`` is the time of the release's first look."""
    return _total(before.proxies, now.proxies, since)


def _total(before: Mapping[str, ProxyLook], now: Mapping[str, ProxyLook], since: float) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    for uid, proxy in now.items():
        for version, (requests, bad) in _difference(before.get(uid), proxy, since):
            have = total.get(version, (0, 0))
            total[version] = (have[0] + requests, have[1] + bad)
    return total


def carry(before: Look, now: Look) -> Look:
    """``now``, with the last known counters of proxies that did not answer this time: their next answer covers both."""
    kept = {uid: before.proxies[uid] for uid in now.unread if uid in before.proxies}
    return replace(now, proxies={**kept, **now.proxies})


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the requests that the versions' own proxies have ``served`` in a step, how many the clients' were ``seen`` to
    send. A client without a sidecar, or whose proxy may not be read, is missing from what is seen.
    """

    step: int = 0
    weight: int = 0
    seen: int = 0
    served: int = 0

    def plus(self, step: int, weight: int, seen: int, served: int) -> Coverage:
        """With the next window, which may begin another step."""
        if (step, weight) != (self.step, self.weight):
            return Coverage(step, weight, seen, served)
        return Coverage(step, weight, self.seen + seen, self.served + served)

    @property
    def share(self) -> float | None:
        """0..1; None while too little has come in to tell it from requests in flight, or where nobody counts it."""
        return min(1.0, self.seen / self.served) if self.served >= ENOUGH_SERVED else None

    def say(self) -> str:
        """``coverage 98 %``, rounded down; nothing where it is not known."""
        return "" if self.share is None else f"coverage {int(100 * self.share + 1e-9)} %"

    def lack(self, least: float) -> str:
        """What to say when it is below ``least``, or nothing."""
        if self.share is None or self.share >= least:
            return ""
        return (
            f"{self.say()}, {100 * least:g} % needed: the versions served {self.served:,} requests, the proxies of "
            f"their clients sent {self.seen:,} of them; the others come from clients without a sidecar or with one "
            "that may not be read, or past this route"
        )


def covered(
    seen: Mapping[str, Counts], before: Look, now: Look, since: float, versions: Sequence[str]
) -> tuple[int, int]:
    """(seen, served) between two looks, of the versions with proxies of their own. ``seen``: their ``difference``.

    Nothing where nobody has looked for long and a client went meanwhile: what it sent last is with the versions' own
    proxies alone, and would pass for requests of clients that nobody sees.
    """
    gone = any(proxy.counted and uid not in now.proxies for uid, proxy in before.proxies.items())
    if gone and now.time - before.time > LONG_SECONDS:
        return 0, 0
    served = _total(before.served, now.served, since)
    mine = [version for version in versions if version in served]
    return sum(seen.get(version, (0, 0))[0] for version in mine), sum(served[version][0] for version in mine)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a release has seen: its windows, and the raw counters from which the next window starts."""

    release: str
    since: float
    windows: tuple[Window, ...]
    look: Look
    burst: float = 1.0  # how many counts one bad request may make
    coverage: Coverage = field(default_factory=Coverage)
    before: Counts = (0, 0)  # stable's, before the release: what its clients' proxies had counted at the first look


def history(look: Look, version: str) -> Counts:
    """All that the proxies have ever counted of a version, requests and bad ones."""
    found = [
        counts
        for proxy in look.proxies.values()
        for key, counts in proxy.series.items()
        if key.partition("@")[0] == version
    ]
    return sum(requests for requests, _bad in found), sum(bad for _requests, bad in found)


def judge_again(evidence: Evidence, tolerance: Tolerance) -> Verdict:
    """The verdict on all that was stored, as if the least time of the step were over."""
    tolerance = replace(tolerance, burst=max(tolerance.burst, evidence.burst))
    return judge(evidence.windows, tolerance, min_over=True, before=evidence.before)


def burst_of(look: Look) -> float:
    """Attempts count Istio's two default retries as well, so one bad request can be three of them."""
    return 3.0 if any(proxy.epoch.startswith("attempts:") for proxy in look.proxies.values()) else 1.0


def totals(evidence: Evidence | None) -> str:
    """What the whole release has counted, for the last line."""
    windows = evidence.windows if evidence else ()
    return (
        f"canary {sum(w.x_c for w in windows):,} bad of {sum(w.n_c for w in windows):,}, "
        f"stable {sum(w.x_b for w in windows):,} bad of {sum(w.n_b for w in windows):,}"
    )


def damage(evidence: Evidence | None) -> str:
    """What the canary's failures have cost: from the window of the first bad answer to the last look."""
    windows = evidence.windows if evidence else ()
    first = next((number for number, w in enumerate(windows) if w.x_c), len(windows))
    bad, seconds = sum(w.x_c for w in windows[first:]), sum(w.seconds for w in windows[first:])
    return f"{bad:,} bad answers of the canary, {seconds:.1f} s from the first of them to weight 0" if bad else ""


def dumps(evidence: Evidence) -> str:
    """JSON for the ConfigMap, at most MAX_BYTES: proxies that never counted a request are left out first."""
    look = evidence.look
    proxies = {uid: _packed(p) for uid, p in look.proxies.items() if p.counted}
    data: dict[str, Any] = {
        "format": FORMAT,
        "release": evidence.release,
        "since": evidence.since,
        "burst": evidence.burst,
        "time": look.time,
        "windows": [
            [w.step, w.weight, round(w.seconds, 3), w.n_c, w.x_c, w.n_b, w.x_b, int(w.by_weight)]
            for w in compact(evidence.windows)
        ],
        "proxies": proxies,
        "idle": sorted(uid for uid in look.proxies if uid not in proxies),
        "served": {uid: _packed(p) for uid, p in look.served.items()},
        "coverage": list(astuple(evidence.coverage)),
        "before": list(evidence.before),
    }
    text = json.dumps(data, separators=(",", ":"))
    if len(text) > MAX_BYTES:
        data["idle"] = []
        text = json.dumps(data, separators=(",", ":"))
    if len(text) > MAX_BYTES:
        # Without its counters a proxy's next look is a base line: requests of one gap are lost, none are invented.
        data["proxies"], data["served"], data["since"] = {}, {}, look.time
        text = json.dumps(data, separators=(",", ":"))
    return text


def _packed(look: ProxyLook) -> list[Any]:
    return [look.name, look.epoch, look.born, {key: list(counts) for key, counts in look.series.items()}]


def _unpacked(data: Mapping[str, Any]) -> dict[str, ProxyLook]:
    return {
        uid: ProxyLook(str(name), str(epoch), float(born), {k: (int(v[0]), int(v[1])) for k, v in series.items()})
        for uid, (name, epoch, born, series) in data.items()
    }


def loads(text: str) -> Evidence:
    """Evidence out of the ConfigMap's text. Raises EvidenceError for a newer format or a broken text."""
    try:
        data: dict[str, Any] = json.loads(text)
        if data["format"] > FORMAT:
            raise EvidenceError(f"evidence has format {data['format']}, this collection knows {FORMAT}")
        windows = tuple(Window(*row) for row in data["windows"])
        for window in windows:
            window.check()
        idle = {uid: ProxyLook("", "", 0.0, {}) for uid in data["idle"]}
        look = Look(float(data["time"]), {**idle, **_unpacked(data["proxies"])}, {}, _unpacked(data.get("served", {})))
        coverage = Coverage(*map(int, data.get("coverage", ())))
        requests, bad = map(int, data.get("before", (0, 0)))
        return Evidence(
            str(data["release"]), float(data["since"]), windows, look, float(data["burst"]), coverage, (requests, bad)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, EvidenceError):
            raise
        raise EvidenceError(f"stored evidence cannot be read ({error}); it is started anew") from None
