# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw samples become looks whose differences are what was counted: no request twice, none that was never made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._looks import Look, carry, difference
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import (
    SOURCE,
    Asked,
    Series,
    Unusable,
    bad,
    check_labels,
    gone,
    look_of,
    parse,
    query,
    silent,
    span,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import UNANSWERED
from hypothesis import given
from hypothesis import strategies as st

HOST = "app-1.shop.svc.cluster.local"
ASKED = Asked({"v1": f"v1|{HOST}", "v2": f"v2|{HOST}"}, {"blue": "v1", "green": "v2"})
MAX_AGE = 30.0


def one(
    points: list[tuple[float, int]],
    revision: str = "green",
    pod: str = "client-1",
    reporter: str = "source",
    **more: str,
) -> Series:
    labels = {
        "reporter": reporter,
        "job": "pods",
        "namespace": "clients",
        "pod": pod,
        "destination_service": HOST,
        "destination_canonical_revision": revision,
        "response_code": "200",
        "response_flags": "-",
    }
    return Series({**labels, **more}, tuple(points))


def look(series: list[Series], before: Look | None = None, now: float = 100.0, living: Any = None) -> Look:
    return look_of(series, ASKED, before, now, MAX_AGE, living)


def counted(before: Look, now: Look, metric: str = "errors") -> dict[str, tuple[int, int]]:
    return {version: counts for version, counts in difference(before, now, 50.0, metric).items() if counts != (0, 0)}


def test_the_question() -> None:
    asked = Asked(ASKED.backends, {}, {"cluster": 'a"b'})
    assert query(asked, 41.2) == (
        r'istio_requests_total{destination_service=~"app\\-1\\.shop\\.svc\\.cluster\\.local",'
        r'reporter=~"source|destination",cluster="a\"b"}[42s]'
    )
    assert query(asked, 1e9).endswith("[3600s]")
    first = look([one([(95, 1)])])
    assert span(first, 100.0, MAX_AGE) == 125.0
    assert span(None, 100.0, MAX_AGE) == 120.0
    with pytest.raises(ValueError, match="labels: expected names of labels, got 'a-b'"):
        check_labels({"a-b": 1})


def test_what_is_counted_between_two_looks() -> None:
    first = look([one([(95, 1000)]), one([(95, 9000)], "blue"), one([(95, 7)], response_code="503")])
    now = look(
        [
            one([(95, 1000), (105, 1010)]),
            one([(95, 9000), (105, 9090)], "blue"),
            one([(95, 7), (105, 9)], response_code="503", response_flags="-"),
            one([(105, 3)], response_code="500"),  # its first sample: all of it is new
        ],
        first,
        110.0,
    )
    assert counted(first, now) == {"v1": (90, 0), "v2": (15, 5)}
    assert (first.time, now.time) == (95.0, 105.0)
    assert counted(now, look([], now, 112.0)) == {}


def test_a_new_target_is_a_base_line() -> None:
    first = look([one([(95, 1000)])])
    second = look([one([(105, 1000)]), one([(105, 400)], pod="client-2")], first, 110.0)
    assert counted(first, second) == {}
    third = look([one([(115, 1001)]), one([(115, 420)], pod="client-2")], second, 120.0)
    assert counted(second, third) == {"v2": (21, 0)}


def test_a_target_that_was_scraped_before_counts_from_its_first_request() -> None:
    first = look([one([(95, 1)]), one([(95, 50)], pod="app-1", reporter="destination")])
    second = look([one([(105, 1)]), one([(105, 4)], "blue", pod="app-1")], first, 110.0)
    assert counted(first, second) == {"v1": (4, 0)}


def test_a_fall_between_two_looks() -> None:
    first = look([one([(95, 1000)])])
    samples = [(95.0, 1000), (100.0, 1020), (105.0, 5), (110.0, 1500)]  # outgrew what it was when last seen
    second = look([one(samples)], first, 112.0)
    assert counted(first, second) == {"v2": (1520, 0)}
    third = look([one([*samples[1:], (115.0, 1501)])], second, 118.0)
    assert counted(second, third) == {"v2": (1, 0)}
    fourth = look([one([(120.0, 1503)])], third, 121.0)  # the fall is out of the window
    assert counted(third, fourth) == {"v2": (2, 0)}


def test_what_vanishes_keeps_what_it_had() -> None:
    first = look([one([(95, 10)]), one([(95, 500)], pod="client-2")])
    second = look([one([(150, 11)])], first, 151.0)
    third = look([one([(160, 12)]), one([(160, 503)], pod="client-2")], second, 161.0)
    assert counted(first, second) == {"v2": (1, 0)}
    assert counted(second, third) == {"v2": (4, 0)}


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ({"response_code": "503"}, "bad"),
        ({"response_code": "200"}, "good"),
        ({"response_code": "404"}, "good"),
        ({"response_code": "0", "response_flags": "UF"}, "bad"),
        ({"response_code": "0", "response_flags": "UF,URX"}, "bad"),
        ({"response_code": "0", "response_flags": "DC"}, "gone"),
        ({"response_code": "503", "response_flags": "DC"}, "gone"),
        ({"response_code": "0", "response_flags": "-"}, "gone"),
        ({"response_code": "200", "grpc_response_status": "0"}, "good"),
        ({"response_code": "200", "grpc_response_status": "5"}, "good"),
        *(({"response_code": "200", "grpc_response_status": str(n)}, "bad") for n in (2, 4, 12, 13, 14, 15)),
    ],
)
def test_what_is_bad(labels: dict[str, str], kind: str) -> None:
    assert gone(labels) == (kind == "gone")
    if kind != "gone":
        assert bad(labels) == (kind == "bad")


def test_a_client_that_went_away_is_no_error() -> None:
    away = {"response_code": "0", "response_flags": "DC"}
    first = look([one([(95, 10)]), one([(95, 0)], **away)])
    second = look([one([(105, 20)]), one([(105, 4)], **away)], first, 106.0)
    assert counted(first, second) == {"v2": (10, 0)}
    assert counted(first, second, UNANSWERED) == {"v2": (14, 4)}


def test_other_services_and_versions_are_not_ours() -> None:
    other = one([(95, 5)], destination_service="app-10.shop.svc.cluster.local")
    unknown = one([(95, 5)], "unknown")
    assert look([other, unknown]).unread[SOURCE].startswith("it has no istio_requests_total of requests to app-1.shop")
    backends = {"a": "|app-a.shop.svc.cluster.local", "b": "|app-b.shop.svc.cluster.local"}
    own = one([(95, 5)], "whatever", destination_service="app-b.shop.svc.cluster.local")
    found = look_of([own], Asked(backends, {}), None, 96.0, MAX_AGE)
    assert [proxy.requests() for proxy in found.proxies.values()] == [{"b": 5}]


def test_versions_by_label() -> None:
    by_label = one([(95, 5)], "", destination_version="green")
    named = one([(95, 5)], "v2", pod="client-2")
    assert [proxy.requests() for proxy in look([by_label, named]).proxies.values()] == [{"v2": 5}, {"v2": 5}]


def test_late_samples_tell_nothing() -> None:
    first = look([one([(95, 10)])])
    late = look([one([(95, 10)])], first, 700.0)
    assert late.unread == {SOURCE: "its newest sample is 605 s old, max_age is 30 s"}
    assert late.proxies == first.proxies
    assert late.time == 95.0
    assert counted(first, carry(first, late)) == {}


def test_a_late_target_is_told_until_its_pod_is_gone() -> None:
    series = [one([(95, 10)]), one([(190, 500)], pod="client-2")]
    first = look(series[:1])
    told = {"clients/client-1 has no sample of the last 105 s"}
    assert set(look(series, first, 200.0, {"clients/client-1"}).unread.values()) == told
    assert look(series, first, 200.0, set()).unread == {}
    assert look(series, first, 200.0).unread == {}
    assert set(look([one([(190, 10)]), one([(140, 5)], pod="b")], None, 200.0).unread.values()) == {
        "clients/b has no sample of the last 60 s"
    }
    assert set(look(series[1:], first, 200.0, {"clients/client-1"}).unread.values()) == {
        "clients/client-1 has no samples any more"
    }


def test_the_versions_own_proxies_are_read_until_the_clients_were() -> None:
    first = look([one([(95, 0)]), one([(90, 0)], pod="app", reporter="destination")])
    own = one([(90, 0), (100, 40), (109, 90)], pod="app", reporter="destination")
    second = look([one([(105, 40)]), own], first, 110.0)
    assert sum(requests for proxy in second.served.values() for requests, _bad in proxy.series.values()) == 40


def answer(**more: Any) -> bytes:
    result = [{"metric": {"a": "b"}, "values": [[95.5, "10"], [100, "NaN"], [105, "1.2e+01"]]}]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}, **more}).encode()


def test_answers() -> None:
    assert parse(answer()) == [Series({"a": "b"}, ((95.5, 10), (105.0, 12)))]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>", "its answer is not Prometheus': b'<html>'"),
        (b"[]", "its answer is not Prometheus': b'\\[\\]'"),
        (b'{"status": "success"}', "its answer is not Prometheus'"),
        (answer(status="error", errorType="execution", error="too many\nsamples"), "execution: too many samples"),
        (answer(warnings=["store-1: deadline"]), "its answer is not complete: store-1: deadline"),
        (answer(data={"resultType": "vector", "result": []}), "it answers with a vector instead of raw samples"),
        (answer(data={"resultType": "matrix", "result": [{}]}), "its answer is not Prometheus'"),
    ],
)
def test_answers_that_tell_nothing(body: bytes, why: str) -> None:
    with pytest.raises(Unusable, match=f"^{why}"):
        parse(body)


def test_silence_keeps_all() -> None:
    first = look([one([(95, 10)])])
    assert silent(first, 99.0, "why").proxies == first.proxies
    assert silent(None, 99.0, "why").unread == {SOURCE: "why"}


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=2, max_size=40),
    st.integers(1, 6),
    st.integers(1, 12),
)
def test_the_sum_of_the_windows_is_what_was_counted(steps: list[tuple[int, bool]], between: int, overlap: int) -> None:
    """A counter that grows and falls: looks at any distance, with windows that overlap, see each request once."""
    points: list[tuple[float, int]] = []
    value = total = 0
    for number, (more, falls) in enumerate(steps):
        fell = falls and value > more  # a fall to more than it was cannot be seen by anybody
        value = more if fell else value + more
        total += more if number else 0
        points.append((100.0 + 5 * number, value))
    seen, last = look([one(points[:1])], now=points[0][0]), 0
    first, found = seen, 0
    while last < len(points) - 1:
        start, last = max(0, last - overlap + 1), min(len(points) - 1, last + between)
        now = look([one(points[start : last + 1])], seen, points[last][0])
        found += counted(seen, now).get("v2", (0, 0))[0]
        seen = now
    assert found == total
    assert sum(counts[0] for counts in difference(first, seen, 0.0).values()) == total
