# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests without an answer and slow ones, out of what proxies count: none is invented, none is counted twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import inf

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._looks import (
    Counts,
    Flow,
    Look,
    ProxyLook,
    alarming,
    carry,
    difference,
    pause,
)
from ansible_collections.progressive.istio.plugins.module_utils._metrics import (
    LEAST_EDGE,
    STUCK,
    USUAL_EDGE,
    Flows,
    choose_edge,
    counted_by,
    judged_by,
    settle,
    slow,
    tolerances,
    words,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import (
    ERRORS,
    LATENCY,
    UNANSWERED,
    Tolerance,
)

START = 1000.0


def proxy(
    flows: dict[str, Flow] | None = None,
    histogram: dict[float, int] | None = None,
    epoch: str = "requests:0",
    born: float = START - 500,
) -> ProxyLook:
    series = {key: (answered, 0) for key, (_total, answered, _active) in (flows or {}).items()}
    return ProxyLook("ns/pod", epoch, born, series, {}, flows or {}, {"v2": histogram} if histogram else {})


def look(time: float, **proxies: ProxyLook) -> Look:
    return Look(time, proxies, {})


def counted(looks: list[Look], stuck: bool = False, metric: str = UNANSWERED) -> dict[str, Counts]:
    """Sums over all windows."""
    flows, total = Flows(), {"v1": (0, 0), "v2": (0, 0)}
    flows.add(looks[0])
    before = settle(None, looks[0], START, 250.0, {})
    for raw in looks[1:]:
        flows.add(raw)
        now = carry(before, settle(before, raw, START, 250.0, flows.earlier("v1") if stuck else {}))
        for version, (requests, bad) in difference(before, now, START, metric).items():
            assert requests >= bad >= 0
            total[version] = (total[version][0] + requests, total[version][1] + bad)
        before = now
    return total


# ---------------------------------------------------------------- unanswered


def test_who_gives_up_is_counted_when_he_does() -> None:
    looks = [
        look(START, a=proxy({"v2@x": (100, 100, 0)})),
        look(START + 1, a=proxy({"v2@x": (110, 106, 4)})),  # four wait
        look(START + 2, a=proxy({"v2@x": (110, 106, 1)})),  # three of them give up
        look(START + 3, a=proxy({"v2@x": (110, 107, 0)})),  # one gets its answer
    ]
    assert counted(looks)["v2"] == (10, 3)


def test_what_was_under_way_at_the_first_look_is_nobodys_fault() -> None:
    """Headers may have come before, so that it ends without another answer."""
    looks = [look(START, a=proxy({"v2@x": (100, 100, 5)})), look(START + 1, a=proxy({"v2@x": (100, 100, 0)}))]
    assert counted(looks)["v2"] == (0, 0)


def test_a_body_that_follows_its_headers_later_is_an_answer() -> None:
    looks = [
        look(START, a=proxy({"v2@x": (0, 0, 0)})),
        look(START + 1, a=proxy({"v2@x": (10, 10, 10)})),
        look(START + 2, a=proxy({"v2@x": (10, 10, 0)})),
        look(START + 3, a=proxy({"v2@x": (20, 20, 10)})),
    ]
    assert counted(looks)["v2"] == (20, 0)


def test_a_new_proxy_counts_from_its_birth_and_an_old_one_from_the_first_look_at_it() -> None:
    past = {"v2@x": (50, 20, 0)}  # 30 without answer, whenever that was
    looks = [look(START), look(START + 9, old=proxy(past), young=proxy(past, born=START + 5))]
    assert counted(looks)["v2"] == (50, 30)
    assert counted([*looks, look(START + 10, old=proxy({"v2@x": (60, 22, 0)}))])["v2"] == (60, 38)


def test_a_new_process_begins_anew() -> None:
    looks = [
        look(START, a=proxy({"v2@x": (10, 8, 0)})),
        look(START + 1, a=proxy({"v2@x": (20, 15, 0)})),  # 3 more without answer
        look(START + 2, a=proxy({"v2@x": (4, 3, 0)}, epoch="requests:1")),  # 1 more
        look(START + 3, a=proxy({"v2@x": (6, 4, 0)}, epoch="requests:1")),  # 1 more
    ]
    assert counted(looks)["v2"] == (7 + 3 + 4 + 2, 5)


def test_refused_connections_are_errors_without_a_request() -> None:
    """Envoy counts such an error, and no request: there is nothing to be missed."""
    looks = [look(START, a=proxy({"v2@x": (10, 10, 0)})), look(START + 1, a=proxy({"v2@x": (10, 16, 0)}))]
    assert counted(looks)["v2"] == (6, 0)


@dataclass
class Endpoint:
    """A host as a proxy counts it; ``when`` are the ends of requests under way: time, and whether with an answer."""

    total: int = 0
    answered: int = 0
    when: list[tuple[float, bool]] = field(default_factory=list)
    missing: int = 0

    def advance(self, time: float) -> Flow:
        for end, good in sorted(self.when):
            if end <= time:
                self.answered += good
                self.missing += not good
        self.when = [(end, good) for end, good in self.when if end > time]
        return self.total, self.answered, len(self.when)


@pytest.mark.parametrize("seed", range(20))
def test_in_the_end_it_is_what_clients_saw(seed: int) -> None:
    """Any requests, at any times, answered or given up: never more than there were, and at rest exactly those."""
    rng = random.Random(seed)
    hosts = {"v2@x": Endpoint(), "v2@y": Endpoint()}
    looks, time = [look(START, a=proxy(dict.fromkeys(hosts, (0, 0, 0))))], START
    for tick in range(200):
        time += 1
        for host in hosts.values():
            for _unused in range(rng.randrange(5) if tick < 150 else 0):
                host.total += 1
                host.when.append((time + rng.random() * 8, rng.random() > 0.2))
        looks.append(look(time, a=proxy({key: host.advance(time) for key, host in hosts.items()})))
        if tick % 20 == 0:
            assert counted(looks)["v2"][1] <= sum(host.missing for host in hosts.values())
    requests, missing = (sum(of) for of in zip(*((h.total, h.missing) for h in hosts.values()), strict=True))
    assert counted(looks)["v2"] == (requests, missing)


# ---------------------------------------------------------------- clients that wait for ever


def steady(seconds: int, hanging: float, long: float = 0.0) -> list[Look]:
    """100 requests a second to v1, which take ``long`` seconds, and 10 to v2, of which a part never ends."""
    return [
        look(
            START + t,
            a=proxy(
                {
                    "v1@x": (5000 + 100 * t, 5000 + 100 * t - int(100 * long), int(100 * long)),
                    "v2@y": (10 * t, int(10 * t * (1 - hanging)), int(10 * t * hanging)),
                }
            ),
        )
        for t in range(seconds)
    ]


def test_what_hangs_for_long_has_no_answer() -> None:
    assert counted(steady(5, 1.0), stuck=True)["v2"] == (0, 0)
    assert counted(steady(int(STUCK) + 3, 1.0), stuck=True)["v2"] == (20, 20)
    requests, missing = counted(steady(120, 0.2), stuck=True)["v2"]
    assert (requests, missing) == (0.8 * 1190 + missing, 1140 - 0.8 * 1190)
    assert counted(steady(120, 0.2))["v2"][1] == 0


def test_where_stable_takes_long_by_itself_waiting_means_nothing() -> None:
    assert counted(steady(60, 1.0, long=0.9), stuck=True)["v2"][1] > 0
    assert counted(steady(60, 1.0, long=2.0), stuck=True)["v2"] == (0, 0)


def test_nothing_is_said_without_stable_traffic() -> None:
    looks = [look(START + t, a=proxy({"v2@y": (10 * t, 0, 10 * t)})) for t in range(20)]
    assert counted(looks, stuck=True)["v2"] == (0, 0)


# ---------------------------------------------------------------- latency


HISTOGRAM = {50.0: 900, 100.0: 990, 250.0: 999, 1000.0: 1000, inf: 1000}


def test_slower_than_an_edge() -> None:
    assert slow(HISTOGRAM, 100.0) == (1000, 10)
    assert slow(HISTOGRAM, 99.0) == (1000, 10)
    assert slow(HISTOGRAM, 5000.0) == (1000, 0)
    assert slow({100.0: 7}, 250.0) == (7, 0)
    assert slow({}, 100.0) == (0, 0)


def test_the_edge_is_where_stable_is_hardly_ever() -> None:
    assert choose_edge(look(START, a=proxy(histogram=HISTOGRAM)), "v2") == 250.0
    quick = {0.5: 1000, 50.0: 1000, 100.0: 1000, 250.0: 1000}
    assert choose_edge(look(START, a=proxy(histogram=quick)), "v2") == LEAST_EDGE
    few = {edge: count // 10 for edge, count in HISTOGRAM.items()}
    assert choose_edge(look(START, a=proxy(histogram=few)), "v2") == 0.0
    assert choose_edge(look(START, a=proxy(histogram=few)), "v2", last_chance=True) == USUAL_EDGE
    assert choose_edge(look(START), "v2", last_chance=True) == USUAL_EDGE
    assert choose_edge(look(START, a=proxy(histogram={100.0: 1, 250.0: 1, inf: 1})), "v2", last_chance=True) == 250.0
    assert choose_edge(look(START, a=proxy(histogram=few), b=proxy(histogram=HISTOGRAM)), "v2") == 250.0
    assert choose_edge(look(START, a=proxy(histogram=HISTOGRAM)), "v1") == 0.0
    assert choose_edge(look(START), "v2") == 0.0


def test_windows_of_latency() -> None:
    later = {edge: count + (100 if edge > 250 else 60) for edge, count in HISTOGRAM.items()}
    looks = [
        look(START, a=proxy(histogram=HISTOGRAM)),
        look(START + 1, a=proxy(histogram=later)),
        look(START + 2, a=proxy(histogram=later)),
    ]
    assert counted(looks, metric=LATENCY)["v2"] == (100, 40)


# ---------------------------------------------------------------- what is judged


def test_the_parts_of_alpha_add_up_and_retries_blur_errors_only() -> None:
    main = Tolerance(burst=3.0, slo=0.1)
    assert tolerances((), main) == {ERRORS: main}
    found = tolerances((UNANSWERED, LATENCY), main, Tolerance(2.0, 0.02))
    assert sum(t.alpha_fail for t in found.values()) == pytest.approx(main.alpha_fail)
    assert found[ERRORS].alpha_fail > found[LATENCY].alpha_fail == found[UNANSWERED].alpha_fail
    assert [t.burst for t in found.values()] == [3.0, 1.0, 1.0]
    assert (found[LATENCY].ratio, found[LATENCY].floor) == (2.0, 0.02)
    assert (found[UNANSWERED].ratio, found[UNANSWERED].floor) == (main.ratio, main.floor)
    assert {t.alpha_pass for t in found.values()} == {main.alpha_pass}


def test_only_what_the_proxies_count_is_judged_and_it_is_said() -> None:
    both = look(START, a=proxy({"v2@x": (1000, 1000, 0)}, HISTOGRAM))
    assert counted_by(both, latency=True) == (UNANSWERED, LATENCY)
    assert counted_by(both, latency=False) == (UNANSWERED,)
    assert judged_by(both, (UNANSWERED, LATENCY), 250.0, "v2") == (
        "judges requests that are bad, without answer, slower than 250 ms (v2 so far: 1 of 1,000 slower)"
    )
    plain = look(START, a=proxy({"v2@x": (10, 10, 0)}))
    assert counted_by(plain, latency=True) == (UNANSWERED,)
    assert judged_by(plain, (UNANSWERED,), 1000.0, "v2").endswith("latency is not: the proxies keep no histogram of it")
    assert judged_by(plain, (UNANSWERED,), 0.0, "v2", latency=False) == "judges requests that are bad, without answer"
    assert judged_by(both, (UNANSWERED, LATENCY), 0.0, "v2") == (
        "judges requests that are bad, without answer, slow (what is slow is found out when v2 has had 500 requests: "
        "1,000 so far)"
    )
    assert counted_by(look(START, a=proxy()), latency=True) == (UNANSWERED, LATENCY)  # nobody has counted anything yet
    attempts = ProxyLook("ns/pod", "requests:0", 0.0, {"v2": (5, 0)})
    assert counted_by(look(START, a=attempts), latency=True) == ()
    assert words(LATENCY, 2500.0) == "slower than 2,500 ms"


@pytest.mark.parametrize(
    ("interval", "canary", "stable", "reads", "seconds"),
    [
        (1.0, 0.0, 100.0, 5, 1.0),  # nothing to lose
        (1.0, 10.0, 90.0, 5, 1.0),  # ten requests in a second
        (1.0, 25.0, 75.0, 5, 0.4),
        (1.0, 90.0, 10.0, 5, 1.0),  # stable would have too few to compare with
        (1.0, 90.0, 40.0, 5, 0.25),
        (1.0, 100.0, 0.0, 5, 0.1),  # nobody to compare with
        (1.0, 100_000.0, 0.0, 0, 0.1),
        (1.0, 100_000.0, 0.0, 25, 0.5),  # 50 reads a second
        (1.0, 100_000.0, 0.0, 500, 1.0),
        (0.2, 100_000.0, 0.0, 500, 0.2),  # as the user has it
        (2.0, 100_000.0, 100_000.0, inf, 2.0),
    ],
)
def test_looks_are_closer_where_many_requests_are_at_stake(
    interval: float, canary: float, stable: float, reads: float, seconds: float
) -> None:
    assert pause(interval, canary, stable, reads) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("requests", "bad", "tolerance", "at_once"),
    [
        (10, 2, 0.005, True),
        (10, 1, 0.005, False),  # one is none
        (100, 2, 0.005, False),  # no more than the tolerance allows now and then
        (100, 3, 0.005, True),
        (100, 20, 0.05, False),  # a service that is bad itself
        (5, 5, 0.3, False),  # both are broken
        (0, 0, 0.005, False),
    ],
)
def test_what_looks_bad_is_looked_at_again_at_once(requests: int, bad: int, tolerance: float, at_once: bool) -> None:
    assert alarming(requests, bad, tolerance) is at_once


def test_samples_come_when_they_come() -> None:
    counting = {"a": proxy({"v2@x": (10, 10, 0)}), "b": proxy()}
    served = {"c": ProxyLook("ns/app", "served:0", 0.0, {})}
    assert Look(START, counting, {}, served).reads == 2
    assert Look(START, counting, {}, served, sampled=True).reads == inf
