# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The counters of many proxies at one time, and what was counted between two of them. Private to this collection.

Pure. Counters are cumulative, belong to one proxy process, and come and go with pods and hosts; so differences are
taken per proxy and per series, and only then added up. Adding up first would turn a host that leaves (its counter
vanishes) and comes back into requests that are counted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, UNANSWERED

Counts = tuple[int, int]  # requests, bad requests
Flow = tuple[int, int, int]  # requests in all, those answered (well or not), those under way

#: Calls with a bad gRPC status in ``ProxyLook.also``: all of them but UNAVAILABLE, which is on its own.
GRPC, UNAVAILABLE = "grpc", "grpc_unavailable"
#: Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss: not the caller's own fault.
BAD_GRPC = frozenset({"2", "4", "12", "13", "14", "15"})
GRPC_UNAVAILABLE = "14"
LEAST_SECONDS = 0.1  # between two looks, whatever the traffic is
EXPOSED = 10.0  # requests of the canary between two looks: so many answers may be bad before anybody sees it
COMPARED = 10.0  # requests of stable between two looks; with fewer the two versions take longer to compare
READS = 50.0  # proxies a second that may be asked for the sake of more looks
ALARM = 4.0  # times the tolerance: a window with so many bad answers of the canary is followed by the next at once


@dataclass(frozen=True, slots=True)
class ProxyLook:
    """What one proxy counted since its process began.

    ``epoch`` is ``unit:process``: requests, attempts, or idle where nothing was counted yet (Envoy makes its cluster
    counters with the first request), and what changes with the process (its restart count).
    ``born`` is the pod's creation by the API server's clock, in seconds. ``series`` maps ``version`` or
    ``version@host`` to cumulative counts of errors; ``also`` has those of other metrics.

    ``flows`` (by ``version@host``) and ``histograms`` (by version) are as the proxy tells them: other metrics are made
    of them by ``_metrics.settle``.
    """

    name: str
    epoch: str
    born: float
    series: Mapping[str, Counts]
    also: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)
    flows: Mapping[str, Flow] = field(default_factory=dict)
    histograms: Mapping[str, Mapping[float, int]] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        """Whether it has sent any request to the service."""
        unanswered = self.also.get(UNANSWERED, {})
        return any(counts[0] for source in (self.series, unanswered, self.flows) for counts in source.values())

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
    sampled: bool = False  # its time is that of samples which somebody else took, and lies back

    @property
    def reads(self) -> float:
        """How many proxies are asked for it: those that count, and the versions' own. Without end where samples are
        read, which come when they come.
        """
        return inf if self.sampled else len(self.served) + sum(proxy.counted for proxy in self.proxies.values())


def pause(interval: float, canary: float, stable: float, reads: float) -> float:
    """Seconds from one look to the next: `interval`, or fewer where much of the canary's traffic comes in that time.

    `canary`, `stable`: their requests a second; `reads`: how many proxies a look asks.
    """
    if canary <= 0:
        return interval
    short = max(LEAST_SECONDS, EXPOSED / canary, COMPARED / stable if stable > 0 else 0.0, reads / READS)
    return min(interval, short)


def alarming(requests: int, bad: int, tolerance: float) -> bool:
    """Whether a window of the canary has so many bad answers that nobody should wait for the next.

    `tolerance`: the rate (0..1) that is good enough. One bad answer alone never is; with ten requests in a window, at
    the default tolerance, two are: of a version that fails once in a hundred every 200th look finds as many.
    """
    return bad >= 2 and bad > ALARM * tolerance * requests


def _series(look: ProxyLook, metric: str) -> Mapping[str, Counts]:
    return look.series if metric == ERRORS else look.also.get(metric, {})


def _difference(before: ProxyLook | None, now: ProxyLook, since: float, metric: str) -> Iterable[tuple[str, Counts]]:
    units = {look.epoch.partition(":")[0] for look in (before, now) if look}
    other_unit = units >= {"requests", "attempts"}
    known = _series(before, metric) if before else {}
    unknown = before is not None and before.counted and metric != ERRORS and metric not in before.also
    for key, (requests, bad) in _series(now, metric).items():
        if other_unit or unknown:  # it counted attempts and now counts requests, or the other way: a new base line
            continue
        if before is None:
            # A proxy that we meet for the first time: all it has counted is ours if it is younger than the release's
            # first look; of an older one we cannot know what came before, so this look is only its base line.
            if now.born >= since:
                yield key, (requests, bad)
            continue
        old_requests, old_bad = known.get(key, (0, 0)) if before.epoch == now.epoch else (0, 0)
        if requests < old_requests or bad < old_bad:  # the process or the host is new: its counters began at 0
            old_requests = old_bad = 0
        yield key, (requests - old_requests, bad - old_bad)


def difference(before: Look, now: Look, since: float, metric: str = ERRORS) -> dict[str, Counts]:
    """Requests and bad requests by version between two looks. ``since`` is the time of the release's first look."""
    return by_version(differences(before.proxies, now.proxies, since, metric))


def differences(
    before: Mapping[str, ProxyLook], now: Mapping[str, ProxyLook], since: float, metric: str = ERRORS
) -> dict[str, Counts]:
    """The same by series, of proxies by pod UID."""
    total: dict[str, Counts] = {}
    for uid, proxy in now.items():
        _add(total, _difference(before.get(uid), proxy, since, metric))
    return total


def by_version(series: Mapping[str, Counts]) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    _add(total, ((key.partition("@")[0], counts) for key, counts in series.items()))
    return total


def _add(total: dict[str, Counts], more: Iterable[tuple[str, Counts]]) -> None:
    for key, (requests, bad) in more:
        have = total.get(key, (0, 0))
        total[key] = (have[0] + requests, have[1] + bad)


def carry(before: Look, now: Look) -> Look:
    """``now``, with the last known counters of proxies that did not answer this time: their next answer covers both."""
    kept = {uid: before.proxies[uid] for uid in now.unread if uid in before.proxies}
    return replace(now, proxies={**kept, **now.proxies})


def errors_between(before: Look, now: Look, since: float) -> dict[str, Counts]:
    """Requests and bad answers by version between two looks: 5xx, and bad statuses of gRPC in an HTTP 200."""
    every, grpc, unavailable = (difference(before, now, since, name) for name in (ERRORS, GRPC, UNAVAILABLE))
    return {
        version: _with_grpc(counts, grpc.get(version, (0, 0)), unavailable.get(version, (0, 0)))
        for version, counts in every.items()
    }


def _with_grpc(counts: Counts, grpc: Counts, unavailable: Counts) -> Counts:
    """A call that its client's own proxy answers is a 503 and a status 14 at once: the greater of both counts."""
    bad = grpc[1] + max(counts[1], unavailable[1])
    return max(counts[0], bad), bad  # a status comes last: its call may have counted as a request at the look before


def history(look: Look, version: str) -> Counts:
    """All that the proxies have ever counted of a version, requests and bad ones."""

    def total(metric: str) -> Counts:
        return by_version(_all_series(look, metric)).get(version, (0, 0))

    return _with_grpc(total(ERRORS), total(GRPC), total(UNAVAILABLE))


def _all_series(look: Look, metric: str) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    for proxy in look.proxies.values():
        _add(total, _series(proxy, metric).items())
    return total


def burst_of(look: Look) -> float:
    """Attempts count Istio's two default retries as well, so one bad request can be three of them."""
    return 3.0 if any(proxy.epoch.startswith("attempts:") for proxy in look.proxies.values()) else 1.0
