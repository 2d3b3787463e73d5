# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows out of cumulative counters that come and go: no request is counted twice, none is invented."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._evidence import (
    FORMAT,
    MAX_BYTES,
    Coverage,
    Evidence,
    EvidenceError,
    covered,
    dumps,
    loads,
)
from ansible_collections.progressive.istio.plugins.module_utils._gate import Window
from ansible_collections.progressive.istio.plugins.module_utils._looks import (
    GRPC,
    UNAVAILABLE,
    Counts,
    Look,
    ProxyLook,
    burst_of,
    carry,
    difference,
    errors_between,
    history,
)
from ansible_collections.progressive.istio.plugins.module_utils._proxies import parse_stats, stats_path

HOST = "app-1.namespace-1.svc.cluster.local"
SUBSETS = {"v1": f"v1|{HOST}", "v2": f"v2|{HOST}"}
START = 1000.0
OLD, YOUNG = START - 500, START + 5


def proxy(epoch: str = "requests:0", born: float = OLD, **series: Counts) -> ProxyLook:
    """``v1_a`` stands for ``v1@a``."""
    return ProxyLook("ns/pod", epoch, born, {key.replace("_", "@"): counts for key, counts in series.items()})


def look(time: float = START, unread: tuple[str, ...] = (), **proxies: ProxyLook) -> Look:
    return Look(time, proxies, dict.fromkeys(unread, "no answer"))


def counted(*looks: Look) -> dict[str, Counts]:
    """Sums over all windows between the looks, proxies that are silent being carried."""
    total: dict[str, Counts] = {}
    before = looks[0]
    for now in looks[1:]:
        after = carry(before, now)
        for version, (requests, bad) in difference(before, after, START).items():
            assert requests >= bad >= 0
            have = total.get(version, (0, 0))
            total[version] = (have[0] + requests, have[1] + bad)
        before = after
    return total


def test_the_plain_case_adds_up_over_proxies_and_hosts() -> None:
    before = look(a=proxy(v1_x=(10, 1), v1_y=(5, 0)), b=proxy(v1_x=(100, 0), v2_z=(7, 7)))
    after = look(a=proxy(v1_x=(15, 2), v1_y=(5, 0)), b=proxy(v1_x=(101, 1), v2_z=(9, 8)))
    assert counted(before, after) == {"v1": (6, 2), "v2": (2, 1)}


def test_a_new_young_proxy_counts_from_its_beginning() -> None:
    assert counted(look(), look(a=proxy(born=YOUNG, v2=(40, 2)))) == {"v2": (40, 2)}


def test_a_new_old_proxy_is_a_base_line_first() -> None:
    assert counted(look(), look(a=proxy(v2=(40, 2)))) == {}
    assert counted(look(), look(a=proxy(v2=(40, 2))), look(a=proxy(v2=(41, 3)))) == {"v2": (1, 1)}


def test_a_restarted_proxy_counts_from_0_even_when_it_has_more_than_before() -> None:
    before, after = proxy("requests:0", v2=(10, 0)), proxy("requests:1", v2=(30, 3))
    assert counted(look(a=before), look(a=after)) == {"v2": (30, 3)}


def test_a_counter_that_fell_was_reset() -> None:
    assert counted(look(a=proxy(v2=(10, 4))), look(a=proxy(v2=(3, 1)))) == {"v2": (3, 1)}
    assert counted(look(a=proxy(v2=(10, 4))), look(a=proxy(v2=(12, 1)))) == {"v2": (12, 1)}


def test_a_host_that_vanishes_takes_nothing_away_and_begins_at_0_when_it_comes_back() -> None:
    looks = [
        look(a=proxy(v2_x=(100, 10), v2_y=(50, 0))),
        look(a=proxy(v2_y=(60, 0))),
        look(a=proxy(v2_x=(5, 1), v2_y=(60, 0))),
    ]
    assert counted(*looks) == {"v2": (15, 1)}


def test_a_proxy_that_is_gone_takes_nothing_away() -> None:
    assert counted(look(a=proxy(v1=(9, 0)), b=proxy(v1=(5, 0))), look(b=proxy(v1=(6, 0)))) == {"v1": (1, 0)}


def test_a_proxy_that_is_silent_for_a_while_is_counted_once() -> None:
    looks = [look(a=proxy(v1=(9, 0))), look(unread=("a",)), look(unread=("a",)), look(a=proxy(v1=(20, 1)))]
    assert counted(*looks) == {"v1": (11, 1)}


def test_a_proxy_that_nobody_ever_read_is_not_carried() -> None:
    assert carry(look(), look(unread=("a",))).proxies == {}


def test_a_change_of_unit_is_a_new_base_line() -> None:
    looks = [
        look(a=proxy("attempts:0", v1=(30, 3))),
        look(a=proxy("requests:0", v1=(35, 3))),
        look(a=proxy("requests:0", v1=(36, 3))),
    ]
    assert counted(*looks) == {"v1": (1, 0)}


def test_a_proxy_that_was_idle_counts_from_its_first_request() -> None:
    stored = loads(dumps(Evidence("r", START, (), look(a=proxy(), b=proxy(v1=(1, 0))))))
    assert counted(stored.look, look(a=proxy(v2=(4, 1)), b=proxy(v1=(1, 0)))) == {"v1": (0, 0), "v2": (4, 1)}


@pytest.mark.parametrize("unit", ["requests", "attempts"])
def test_a_proxy_that_was_idle_counts_from_nothing_in_either_unit(unit: str) -> None:
    counted = difference(look(a=proxy("idle:0", v1=(0, 0))), look(a=proxy(f"{unit}:0", v1=(7, 2))), START)
    assert counted == {"v1": (7, 2)}
    assert burst_of(look(a=proxy("idle:0", v1=(0, 0)))) == 1.0


def test_attempts_come_in_bursts() -> None:
    assert burst_of(look(a=proxy("requests:0"))) == 1.0
    assert burst_of(look(a=proxy("requests:0"), b=proxy("attempts:2"))) == 3.0
    assert burst_of(look()) == 1.0


def test_a_service_under_load_with_pods_that_come_and_go() -> None:
    """Random histories: what is counted never exceeds what was sent, and equals it while nothing is lost."""
    rng = random.Random(7)
    for number in range(60):
        flaky = number % 2 == 1
        sent: dict[str, list[int]] = {"v1": [0, 0], "v2": [0, 0]}
        state = {
            f"p{i}": {"epoch": 0, "born": OLD, "series": {"v1@x": [rng.randrange(99), 0], "v2@y": [0, 0]}}
            for i in range(4)
        }
        looks = [_snapshot(state, START, ())]
        for second in range(1, 12):
            what = rng.random()
            victim = rng.choice(sorted(state))
            if what < 0.15:  # a new client
                state[f"n{second}"] = {"epoch": 0, "born": START + second, "series": {}}
            elif what < 0.3 and len(state) > 1:  # one leaves, with what it counted since the last look: nothing
                del state[victim]
            elif what < 0.4:  # one restarts
                state[victim].update(epoch=int(str(state[victim]["epoch"])) + 1, series={})
            for client in state.values():
                for version, host in (("v1", "x"), ("v2", "y")):
                    n = rng.randrange(9)
                    bad = rng.randrange(n + 1)
                    series: Any = client["series"]
                    have = series.setdefault(f"{version}@{host}", [0, 0])
                    have[0], have[1] = have[0] + n, have[1] + bad
                    sent[version][0] += n
                    sent[version][1] += bad
            silent = tuple(uid for uid in state if rng.random() < 0.1) if flaky and second < 11 else ()
            looks.append(_snapshot(state, START + second, silent))
        total = counted(*looks)
        for version, (requests, bad) in total.items():
            assert requests <= sent[version][0]
            assert bad <= sent[version][1]
        if not flaky:  # then nobody leaves with requests that were not read
            assert total == {version: (n, x) for version, (n, x) in sent.items()}


def _snapshot(state: dict[str, dict[str, Any]], time: float, silent: tuple[str, ...]) -> Look:
    proxies = {
        uid: ProxyLook(uid, f"requests:{p['epoch']}", p["born"], {k: (v[0], v[1]) for k, v in p["series"].items()})
        for uid, p in state.items()
        if uid not in silent
    }
    return Look(time, proxies, dict.fromkeys(silent, "no answer"))


# ---------------------------------------------------------------- kept


WINDOWS = (Window(0, 10, 1.0, 5, 0, 45, 0), Window(0, 10, 1.0, 5, 1, 45, 0), Window(1, 50, 2.0, 50, 0, 50, 1))


def served(**series: Counts) -> dict[str, ProxyLook]:
    return {version: ProxyLook("ns/pod", "served:0", OLD, {version: counts}) for version, counts in series.items()}


def test_statuses_of_grpc_calls() -> None:
    """Names as a client's proxy on the lab has them. Which are the caller's own fault (5, not found) is left out."""
    lines = {
        f"cluster.outbound|9000|v2|{HOST};.upstream_rq_completed": 174,
        f"cluster.outbound|9000|v2|{HOST};.upstream_rq_5xx": 3,
        f"cluster.outbound|9000|v2|{HOST};.upstream_rq_503": 3,
        f"cluster.outbound|9000|v2|{HOST};.grpc.0": 150,
        f"cluster.outbound|9000|v2|{HOST};.grpc.5": 7,
        f"cluster.outbound|9000|v2|{HOST};.grpc.13": 9,
        f"cluster.outbound|9000|v2|{HOST};.grpc.14": 5,
        f"cluster.outbound|9000|v2|{HOST};.grpc.success": 150,
        f"cluster.outbound|9000|v2|{HOST};.grpc.total": 174,
    }
    pattern = unquote(stats_path(SUBSETS).partition("filter=")[2])
    asked = {name: count for name, count in lines.items() if re.search(pattern, name)}
    assert [name.rpartition(";.")[2] for name in asked if ".grpc." in name] == ["grpc.13", "grpc.14"]
    sent = parse_stats("".join(f"{name}: {count}\n" for name, count in asked.items()).encode(), SUBSETS)
    assert sent is not None
    assert (sent.counts, sent.grpc, sent.unavailable) == ({"v2": (174, 3)}, {"v2": (9, 9)}, {"v2": (5, 5)})
    assert sent.codes == {"v2@503": (3, 3), "v2@grpc 13": (9, 9), "v2@grpc 14": (5, 5)}


def grpc_look(time: float, every: int, bad: int, status: int, unavailable: int) -> Look:
    also = {GRPC: {"v2": (status, status)}, UNAVAILABLE: {"v2": (unavailable, unavailable)}}
    return Look(time, {"a": ProxyLook("ns/a", "requests:0", 0.0, {"v2": (every, bad)}, also)}, {})


@pytest.mark.parametrize(
    ("later", "counts"),
    [
        ((120, 5, 9, 7), (20, 0)),
        ((120, 5, 12, 9), (20, 5)),  # by the app alone, in an HTTP 200
        ((120, 8, 9, 10), (20, 3)),  # by the clients' own proxies: a 503 and a status 14 each
        ((120, 8, 10, 12), (20, 6)),  # both
        ((100, 5, 11, 7), (2, 2)),  # their requests had counted before
    ],
)
def test_bad_statuses_of_grpc_are_bad_answers_once(later: tuple[int, int, int, int], counts: tuple[int, int]) -> None:
    before, now = grpc_look(1.0, 100, 5, 9, 7), grpc_look(2.0, *later)
    assert errors_between(before, now, 0.5) == {"v2": counts}
    assert history(before, "v2") == (100, 16)
    stored = loads(dumps(Evidence("id", 0.5, (), before)))
    assert errors_between(stored.look, now, 0.5) == {"v2": counts}
    older = replace(before, proxies={uid: replace(p, also={}) for uid, p in before.proxies.items()})
    assert errors_between(older, now, 0.5)["v2"][1] == max(0, later[1] - 5)  # nobody knows what came before


def test_coverage_is_what_was_seen_of_what_was_served() -> None:
    before = Look(START, {"a": proxy(v1=(10, 0), v2=(5, 0))}, {}, served(v1=(100, 0), v2=(50, 0)))
    after = Look(START + 5, {"a": proxy(v1=(100, 0), v2=(15, 0))}, {}, served(v1=(200, 1), v2=(70, 0)))
    assert covered(difference(before, after, START), before, after, START, ["v1", "v2"]) == (100, 120)
    assert covered(difference(before, after, START), before, after, START, ["v1"]) == (90, 100)


def test_a_version_without_proxies_of_its_own_says_nothing_about_coverage() -> None:
    before = Look(START, {"a": proxy(v1=(10, 0), v2=(5, 0))}, {}, served(v1=(100, 0)))
    after = Look(START + 5, {"a": proxy(v1=(100, 0), v2=(15, 0))}, {}, served(v1=(190, 1)))
    assert covered(difference(before, after, START), before, after, START, ["v1", "v2"]) == (90, 90)
    before, after = Look(START, {}, {}), Look(START, {"a": proxy(v1=(10, 0))}, {})
    assert covered(difference(before, after, START), before, after, START, ["v1", "v2"]) == (0, 0)


@pytest.mark.parametrize(("seconds", "told"), [(2.0, (0, 60)), (60.0, (0, 0))])
def test_a_client_that_went_while_nobody_looked_is_no_lack_of_coverage(seconds: float, told: tuple[int, int]) -> None:
    before = Look(START, {"a": proxy(v1=(10, 0)), "idle": proxy()}, {}, served(v1=(10, 0)))
    after = Look(START + seconds, {}, {}, served(v1=(70, 0)))
    assert covered({}, before, after, START, ["v1"]) == told
    after = Look(START + seconds, {"a": proxy(v1=(70, 0))}, {}, served(v1=(70, 0)))
    assert covered(difference(before, after, START), before, after, START, ["v1"]) == (60, 60), "an idle one may go"


def test_coverage_adds_up_over_a_step_and_begins_anew_with_the_next() -> None:
    coverage = Coverage().plus(0, 10, 10, 20).plus(0, 10, 80, 80)
    assert (coverage.seen, coverage.served, coverage.share) == (90, 100, 0.9)
    assert coverage.say() == "coverage 90 %"
    assert coverage.lack(0.9) == ""
    assert coverage.lack(0.95).startswith("coverage 90 %, 95 % needed: the versions served 100 requests, the proxies")
    assert coverage.plus(1, 50, 20, 30) == Coverage(1, 50, 20, 30)


def test_a_handful_of_requests_tells_no_coverage_and_more_seen_than_served_is_all() -> None:
    assert Coverage(0, 10, 0, 29).share is None
    assert (Coverage(0, 10, 0, 29).say(), Coverage(0, 10, 0, 29).lack(1.0)) == ("", "")
    assert Coverage(0, 10, 31, 30).share == 1.0


def test_round_trip() -> None:
    evidence = Evidence("9f3c", START, WINDOWS, look(a=proxy(v1=(10, 1)), b=proxy("attempts:1", v2_x=(3, 3))), 3.0)
    assert loads(dumps(evidence)) == evidence


def test_compaction_adds_windows_up_exactly() -> None:
    clean = (Window(0, 10, 1.0, 5, 0, 45, 0),) * 1000
    back = loads(dumps(Evidence("9f3c", START, (*clean, *WINDOWS), look())))
    assert len(back.windows) < 20
    for field in ("seconds", "n_c", "x_c", "n_b", "x_b"):
        assert sum(getattr(w, field) for w in back.windows) == sum(getattr(w, field) for w in (*clean, *WINDOWS))


def many(count: int, series: dict[str, Counts], born: float = OLD) -> Look:
    return Look(START, {f"uid-{i:060}": ProxyLook(f"ns/p{i}", "requests:0", born, series) for i in range(count)}, {})


@pytest.mark.parametrize(
    "before",
    [many(5000, {}), many(2500, {"v1@10.0.0.1:8080": (10, 1), "v2@10.0.0.2:8080": (7, 0)})],
    ids=["idle", "busy"],
)
@pytest.mark.parametrize("born", [OLD, START - 0.5], ids=["old", "young for its age"])
def test_the_cap_never_invents_requests(before: Look, born: float) -> None:
    text = dumps(Evidence("9f3c", START - 1, WINDOWS, before))
    assert len(text) <= MAX_BYTES
    back = loads(text)
    assert back.windows == WINDOWS
    now = Look(START + 1, {uid: ProxyLook(p.name, p.epoch, born, p.series) for uid, p in before.proxies.items()}, {})
    total = difference(back.look, now, back.since)
    assert sum(n for n, _bad in total.values()) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"format": FORMAT + 1}), f"evidence has format {FORMAT + 1}, this collection knows {FORMAT}"),
        ("", "stored evidence cannot be read (Expecting value: line 1 column 1 (char 0)); it is started anew"),
        ("{}", "stored evidence cannot be read ('format'); it is started anew"),
        ("[]", "stored evidence cannot be read (list indices must be integers or slices, not str); it is started anew"),
    ],
)
def test_evidence_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        loads(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "field", ["release", "since", "burst", "time", "windows", "proxies", "idle", "served", "coverage"]
)
@pytest.mark.parametrize("value", [None, 5, "x", [[1]], {"a": 1}])
def test_an_edited_field_is_refused_or_harmless(field: str, value: Any) -> None:
    data = json.loads(dumps(Evidence("9f3c", START, WINDOWS, look(a=proxy(v1=(10, 1))))))
    try:
        back = loads(json.dumps({**data, field: value}))
    except EvidenceError:
        return
    assert loads(dumps(back)) == back
    assert back.look.time + back.since + back.burst > 0
    assert all(n == 0 for n, _bad in difference(back.look, look(a=proxy(v1=(10, 1))), back.since).values())
