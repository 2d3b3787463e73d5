# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release has seen, window by window, how that is kept, and the verdict on it. Private, pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._checks import Round, unpacked
from ansible_collections.progressive.istio.plugins.module_utils._counters import Counted, held_back, lack_of
from ansible_collections.progressive.istio.plugins.module_utils._counters import unpacked as counted
from ansible_collections.progressive.istio.plugins.module_utils._gate import compact
from ansible_collections.progressive.istio.plugins.module_utils._looks import (
    Counts,
    Look,
    ProxyLook,
    by_version,
    differences,
)
from ansible_collections.progressive.istio.plugins.module_utils._metrics import CODES, HOSTS, tolerances, words
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._verdict import Tolerance, Verdict, Window

FORMAT = 3  # 2 knows errors only; 1 has windows without by_weight, and nothing of before
MAX_BYTES = 256 * 1024
LONG_SECONDS = 5.0  # between two looks: no run was at it
ENOUGH_SERVED = 30


class EvidenceError(ValueError):
    """Stored evidence cannot be used; the text is one line for a person."""


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
    served = by_version(differences(before.served, now.served, since))
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
    also: Mapping[str, tuple[Window, ...]] = field(default_factory=dict)  # by name of each metric beside errors
    edge: float = 0.0  # in ms: slower requests are those that LATENCY counts as bad
    blame: Mapping[str, int] = field(default_factory=dict)  # the canary's bad answers by pod address and by code
    checks: Round = field(default_factory=Round)  # the user's own, in the present step
    counters: Mapping[str, Counted] = field(default_factory=dict)  # by name, the user's own: their windows are in also


def panel_of(evidence: Evidence, tolerance: Tolerance, latency: Tolerance | None = None) -> Panel:
    """A panel that has seen all windows of the evidence."""
    main = replace(tolerance, burst=max(tolerance.burst, evidence.burst))
    panel = Panel(
        tolerances(tuple(evidence.also), main, latency, {name: one.floor for name, one in evidence.counters.items()}),
        evidence.before,
        {name: words(name, evidence.edge) for name in evidence.also},
    )
    panel.replay(evidence.windows, evidence.also)
    return panel


def judge_again(evidence: Evidence, tolerance: Tolerance, latency: Tolerance | None = None) -> Verdict:
    """The verdict on all that was stored, as if the least time of the step were over."""
    verdict = panel_of(evidence, tolerance, latency).verdict(min_over=True)
    lacks = {name: lack for name, one in evidence.counters.items() if (lack := lack_of(name, one, verdict))}
    return held_back(verdict, lacks)


def blamed(evidence: Evidence, look: Look, canary: str) -> dict[str, int]:
    """The canary's bad answers by pod address and by code, with those since the last look; retried ones count, too."""
    found = dict(evidence.blame)
    for metric in (HOSTS, CODES):
        for key, (_every, bad) in differences(evidence.look.proxies, look.proxies, evidence.since, metric).items():
            version, _at, what = key.partition("@")
            if bad and version == canary:
                found[what] = found.get(what, 0) + bad
    return found


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
        "windows": _rows(evidence.windows),
        "also": {name: _rows(windows) for name, windows in evidence.also.items()},
        "edge": evidence.edge,
        "blame": dict(evidence.blame),
        "proxies": proxies,
        "idle": sorted(uid for uid in look.proxies if uid not in proxies),
        "served": {uid: _packed(p) for uid, p in look.served.items()},
        "coverage": list(astuple(evidence.coverage)),
        "before": list(evidence.before),
        "checks": evidence.checks.packed(),
        "counters": {name: one.packed() for name, one in evidence.counters.items()},
    }
    text = json.dumps(data, separators=(",", ":"))
    if len(text) > MAX_BYTES:
        data["idle"] = []
        data["proxies"] = {uid: _packed(_bare(p)) for uid, p in look.proxies.items() if p.counted}
        text = json.dumps(data, separators=(",", ":"))
    if len(text) > MAX_BYTES:
        # Without its counters a proxy's next look is a base line: requests of one gap are lost, none are invented.
        data["proxies"], data["served"], data["since"] = {}, {}, look.time
        data["counters"] = {name: one.bare().packed() for name, one in evidence.counters.items()}
        text = json.dumps(data, separators=(",", ":"))
    return text


def _rows(windows: Iterable[Window]) -> list[list[float]]:
    rows = []
    for w in compact(windows):
        pending = [w.pending_c, w.pending_b] if w.pending_c or w.pending_b else []
        rows.append([w.step, w.weight, round(w.seconds, 3), w.n_c, w.x_c, w.n_b, w.x_b, int(w.by_weight), *pending])
    return rows


def _windows(rows: Iterable[Sequence[Any]]) -> tuple[Window, ...]:
    windows = tuple(Window(*row) for row in rows)
    for window in windows:
        window.check()
    return windows


def _packed(look: ProxyLook) -> list[Any]:
    also = {name: _lists(series) for name, series in look.also.items()}
    return [look.name, look.epoch, look.born, _lists(look.series), *([also] if also else [])]


def _bare(look: ProxyLook) -> ProxyLook:
    """Without what is only there to explain a failure."""
    return replace(look, also={name: series for name, series in look.also.items() if name not in (HOSTS, CODES)})


def _lists(series: Mapping[str, Counts]) -> dict[str, list[int]]:
    return {key: list(counts) for key, counts in series.items()}


def _unpacked(data: Mapping[str, Any]) -> dict[str, ProxyLook]:
    looks = {}
    for uid, (name, epoch, born, series, *more) in data.items():
        also = {str(metric): _pairs(found) for part in more for metric, found in part.items()}
        looks[uid] = ProxyLook(str(name), str(epoch), float(born), _pairs(series), also)
    return looks


def _pairs(series: Mapping[str, Sequence[Any]]) -> dict[str, Counts]:
    return {key: (int(counts[0]), int(counts[1])) for key, counts in series.items()}


def loads(text: str) -> Evidence:
    """Evidence out of the ConfigMap's text. Raises EvidenceError for a newer format or a broken text."""
    try:
        data: dict[str, Any] = json.loads(text)
        if data["format"] > FORMAT:
            raise EvidenceError(f"evidence has format {data['format']}, this collection knows {FORMAT}")
        idle = {uid: ProxyLook("", "", 0.0, {}) for uid in data["idle"]}
        look = Look(float(data["time"]), {**idle, **_unpacked(data["proxies"])}, {}, _unpacked(data.get("served", {})))
        coverage = Coverage(*map(int, data.get("coverage", ())))
        requests, bad = map(int, data.get("before", (0, 0)))
        return Evidence(
            str(data["release"]),
            float(data["since"]),
            _windows(data["windows"]),
            look,
            float(data["burst"]),
            coverage,
            (requests, bad),
            {str(name): _windows(rows) for name, rows in data.get("also", {}).items()},
            float(data.get("edge", 0.0)),
            {str(what): int(number) for what, number in data.get("blame", {}).items()},
            unpacked(data["checks"]) if "checks" in data else Round(),
            {str(name): counted(one) for name, one in data.get("counters", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, EvidenceError):
            raise
        raise EvidenceError(f"stored evidence cannot be read ({error}); it is started anew") from None
