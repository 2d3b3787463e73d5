# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether proxies run new weights, told by what they send, where their routes may not be read. Private.

Pure. For each proxy a cumulative sum of log likelihood ratios (Page 1954, "Continuous inspection schemes", Biometrika
41): every request is so much likelier under the new weights than under each of those that it may still run. The sum
never falls below 0, so what was sent before the change arrived counts for nothing. A proxy counts when it is a thousand
times likelier that it runs the new ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.progressive.istio.plugins.module_utils._record import Record

SURE = math.log(1000.0)
LITTLE = 0.05  # of the requests: so many may come from proxies that send too little to tell
LEAST = 1e-4  # a request to a version without weight was on its way, or it is not so: nothing is impossible
Shares = Mapping[str, float]


def intended(record: Record) -> tuple[Shares, tuple[Shares, ...]]:
    """What the record intends, and what proxies may still run: the steps before it. Shares of stable and canary."""
    done = [step.weight for step in record.steps[: record.step + record.taken_back]]
    earlier = dict.fromkeys(weight for weight in (done[-2:] or [0]) if weight != record.weight)
    return _shares(record, record.weight), tuple(_shares(record, weight) for weight in earlier)


def _shares(record: Record, weight: int) -> Shares:
    return {record.stable.name: 1 - weight / 100, record.canary.name: weight / 100}


@dataclass(slots=True)
class _Proxy:
    name: str
    last: Mapping[str, int]
    since: dict[str, int]
    sums: list[float]


@dataclass(slots=True)
class Observed:
    """One change of weights, from ``earlier`` (any of these) to ``now``, seen in what the proxies send."""

    now: Shares
    earlier: Sequence[Shares]
    proxies: dict[str, _Proxy] = field(default_factory=dict)  # by pod UID

    def add(self, uid: str, name: str, counts: Mapping[str, int]) -> None:
        """What a proxy has counted up to now, by version. The first time is where it begins."""
        known = self.proxies.get(uid)
        if known is None or any(counts.get(version, 0) < n for version, n in known.last.items()):
            self.proxies[uid] = _Proxy(name, dict(counts), {}, [0.0] * len(self.earlier))
            return
        new = {version: counts.get(version, 0) - known.last.get(version, 0) for version in self.now}
        for index, before in enumerate(self.earlier):
            gain = sum(n * math.log(_at_least(self.now[v]) / _at_least(before[v])) for v, n in new.items())
            known.sums[index] = max(0.0, known.sums[index] + gain)
        known.since = {version: known.since.get(version, 0) + n for version, n in new.items()}
        known.last = dict(counts)

    def keep(self, uids: frozenset[str]) -> None:
        """Forget proxies that are gone."""
        self.proxies = {uid: proxy for uid, proxy in self.proxies.items() if uid in uids}

    def told(self) -> tuple[int, int, tuple[str, ...]]:
        """(proxies that send, those that run the new weights, and in words what keeps the change from being true)."""
        sending = [proxy for proxy in self.proxies.values() if any(proxy.since.values())]
        late = [proxy for proxy in sending if min(proxy.sums, default=SURE) < SURE]
        total = sum(_requests(proxy) for proxy in sending)
        if not sending:
            return 0, 0, ("no proxy has sent a request since",)
        if sum(_requests(proxy) for proxy in late) <= LITTLE * total:
            return len(sending), len(sending) - len(late), ()
        return len(sending), len(sending) - len(late), tuple(sorted(_say(proxy) for proxy in late))


def _at_least(share: float) -> float:
    return max(LEAST, share)


def _requests(proxy: _Proxy) -> int:
    return sum(proxy.since.values())


def _say(proxy: _Proxy) -> str:
    there = ", ".join(f"{version} {n}" for version, n in sorted(proxy.since.items()))
    return f"{proxy.name} has sent {there} since, too little or too late to tell"
