# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cohort, cookie and mirror go into every shape of route, and out of it again without a trace."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._audience import Audience, Match, Shown, parse
from ansible_collections.progressive.istio.plugins.module_utils._proxies import lag
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    PROGRESSING,
    PROMOTED,
    Record,
    Step,
    Version,
    loads,
)
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    Route,
    RouteError,
    all_routes,
    apply_patch,
    find_route,
    pick_route,
)
from ansible_collections.progressive.istio.plugins.module_utils._shown import (
    COHORT,
    STICKY,
    added_name,
    astray,
    mirror_of,
    patch,
    refuse_foreign_mirror,
    take_out,
)

from .shapes import SHAPES, routed, shape, virtual_service

COOKIE = "app-release"
TESTERS = Match({"x-tester": {"exact": "yes"}}, {})
TEAM = Match({}, {"team": "checkout"})
ALL = Shown((TESTERS, TEAM), COOKIE, "9f3c21ab", "Path=/; Max-Age=60", 20)
END = Shown((), COOKIE, "", "Path=/; Max-Age=60", 0)
REGEX = r"(.*;\s*)?app\-release=9f3c21ab(;.*)?"

HTTP_ROUTE: dict[str, Any] = {
    "kind": "HTTPRoute",
    "metadata": {"name": "app", "namespace": "ns", "resourceVersion": "1"},
    "spec": {
        "parentRefs": [{"group": "", "kind": "Service", "name": "app", "port": 80}],
        "rules": [
            {"matches": [{"path": {"type": "Exact", "value": "/other"}}], "backendRefs": [{"name": "web", "port": 80}]},
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "timeouts": {"request": "3s"},
                "backendRefs": [
                    {"group": "", "kind": "Service", "name": "app-v1", "port": 80, "weight": 100},
                    {"group": "", "kind": "Service", "name": "app-v2", "port": 80, "weight": 0},
                ],
            },
        ],
    },
}


def without_version(obj: dict[str, Any]) -> dict[str, Any]:
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}}


def both(obj: dict[str, Any], route: Route, canary: str, shown: Shown, end: Shown = END) -> tuple[Any, Any]:
    """The object while it is shown, and after it was taken out again; doing either twice changes nothing."""
    there = apply_patch(obj, patch(obj, route, canary, shown))
    again = _again(there, route)
    assert astray(there, again, canary, shown) == ""
    assert patch(there, again, canary, shown) == []
    gone = apply_patch(there, patch(there, again, canary, end))
    assert astray(gone, route, canary, end) == ""
    assert patch(gone, route, canary, end) == []
    return there, gone


def _again(obj: dict[str, Any], route: Route) -> Route:
    """The same route in another state of its object."""
    wanted = {d.version for d in route.destinations}
    return next(r for r in all_routes(obj) if r.name == route.name and set(r.weights()) == wanted)


# ---------------------------------------------------------------- in and out


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "the same subsets twice, one of them named"])
def test_every_shape_is_the_same_afterwards(name: str) -> None:
    obj = shape(name)
    before = copy.deepcopy(obj)
    route = find_route(obj, ["v1", "v2"], SHAPES[name][2])
    there, gone = both(obj, route, "v2", ALL)
    assert gone == before == obj
    http, at = there["spec"]["http"], route.index
    assert [entry.get("name") for entry in http[at : at + 2]] == [COHORT, STICKY]
    assert http[:at] == obj["spec"]["http"][:at]
    assert http[at + 3 :] == obj["spec"]["http"][at + 1 :]
    for entry in http[at : at + 2]:
        assert [d["destination"]["subset"] for d in entry["route"]] == ["v2"]
        kept = {k: v for k, v in entry.items() if k not in ("name", "match", "route")}
        assert kept == {k: v for k, v in obj["spec"]["http"][at].items() if k not in ("name", "match", "route")}


def test_what_is_added() -> None:
    obj = routed("main:v1=90,v2=10")
    there, _gone = both(obj, all_routes(obj)[0], "v2", ALL)
    cohort, sticky, main = there["spec"]["http"]
    only = [{"destination": {"host": "reviews", "subset": "v2"}}]
    assert cohort == {
        "name": COHORT,
        "match": [{"headers": {"x-tester": {"exact": "yes"}}}, {"sourceLabels": {"team": "checkout"}}],
        "route": only,
    }
    assert sticky == {"name": STICKY, "match": [{"headers": {"cookie": {"regex": REGEX}}}], "route": only}
    cookie = {"response": {"add": {"set-cookie": "app-release=9f3c21ab; Path=/; Max-Age=60"}}}
    assert main["route"][1] == {**obj["spec"]["http"][0]["route"][1], "headers": cookie}
    assert main["mirrors"] == [{"destination": {"host": "reviews", "subset": "v2"}, "percentage": {"value": 20}}]


def test_the_weighted_route_is_still_found() -> None:
    obj = routed("v1=90,v2=10")
    there, _gone = both(obj, all_routes(obj)[0], "v2", ALL)
    assert pick_route(there, "reviews.prod.svc.cluster.local", "v2").index == 2
    assert find_route(there, ["v1", "v2"]).index == 2


def test_what_the_weighted_route_matches_is_matched_as_well() -> None:
    obj = shape("weights that do not add up to 100")
    there, _gone = both(obj, find_route(obj, ["v1", "v2"]), "v2", ALL)
    base = {"port": 8443, "sourceLabels": {"app": "productpage"}, "sourceNamespace": "front"}
    assert there["spec"]["http"][0]["match"] == [
        {**base, "headers": {"x-tester": {"exact": "yes"}}},
        {**base, "sourceLabels": {"app": "productpage", "team": "checkout"}},
    ]


def test_foreign_fields_beside_ours_stay() -> None:
    obj = routed("v1=90,v2=10")
    entry = obj["spec"]["http"][0]
    entry["route"][1]["headers"] = {"response": {"add": {"x-who": "v2"}, "remove": ["server"]}, "request": {"set": {}}}
    entry["mirrors"] = [{"destination": {"host": "audit"}}]
    before = copy.deepcopy(obj)
    there, gone = both(obj, all_routes(obj)[0], "v2", ALL)
    assert gone == before
    added = there["spec"]["http"][2]["route"][1]["headers"]["response"]["add"]
    assert added["x-who"] == "v2"
    assert there["spec"]["http"][1]["mirrors"] == [{"destination": {"host": "audit"}}]
    assert there["spec"]["http"][1]["route"][0]["headers"] == before["spec"]["http"][0]["route"][1]["headers"]


def test_the_mirror_of_each_step() -> None:
    obj = routed("v1=100,v2=0")
    route = all_routes(obj)[0]
    for percent in (20, 50, 50, 0):
        obj = apply_patch(obj, patch(obj, route, "v2", Shown(mirror=percent)))
        assert mirror_of(obj, route, "v2") == percent
    assert obj == routed("v1=100,v2=0")


def test_leftovers_of_a_run_without_a_record_are_replaced() -> None:
    obj = routed("v1=90,v2=10")
    there, _gone = both(obj, all_routes(obj)[0], "v2", ALL)
    other = replace(ALL, value="11111111", cohort=(), mirror=None)
    new = apply_patch(there, patch(there, _again(there, all_routes(obj)[0]), "v2", other))
    assert [entry.get("name") for entry in new["spec"]["http"]] == [STICKY, None]
    assert "=11111111" in json.dumps(new)
    assert "=9f3c21ab" not in json.dumps(new)


def test_an_http_route() -> None:
    obj = copy.deepcopy(HTTP_ROUTE)
    route = next(r for r in all_routes(obj) if len(r.destinations) == 2)
    shown = replace(ALL, cohort=(TESTERS, Match({"x-slot": {"prefix": "gre.n"}}, {})))
    there, gone = both(obj, route, "app-v2", shown)
    assert gone == obj == HTTP_ROUTE
    _other, main, cohort, sticky = there["spec"]["rules"]
    base = {"path": {"type": "PathPrefix", "value": "/"}}
    backend = {"group": "", "kind": "Service", "name": "app-v2", "port": 80}
    assert cohort["matches"] == [
        {**base, "headers": [{"name": "x-tester", "type": "Exact", "value": "yes"}]},
        {**base, "headers": [{"name": "x-slot", "type": "RegularExpression", "value": r"gre\.n.*"}]},
    ]
    assert sticky["matches"] == [{**base, "headers": [{"name": "cookie", "type": "RegularExpression", "value": REGEX}]}]
    for rule in (cohort, sticky):
        assert rule["backendRefs"] == [backend]
        assert rule["timeouts"] == {"request": "3s"}
        assert "filters" not in rule
    assert main["filters"] == [{"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": 20}}]
    added = {"add": [{"name": "Set-Cookie", "value": "app-release=9f3c21ab; Path=/; Max-Age=60"}]}
    assert main["backendRefs"][1]["filters"] == [{"type": "ResponseHeaderModifier", "responseHeaderModifier": added}]


def test_what_the_api_server_adds_to_a_rule_is_no_change() -> None:
    obj = copy.deepcopy(HTTP_ROUTE)
    route = next(r for r in all_routes(obj) if len(r.destinations) == 2)
    there = apply_patch(obj, patch(obj, route, "app-v2", ALL_BUT_LABELS))
    for rule in there["spec"]["rules"][2:]:
        rule["backendRefs"][0]["weight"] = 1
    assert astray(there, route, "app-v2", ALL_BUT_LABELS) == ""
    assert patch(there, route, "app-v2", ALL_BUT_LABELS) == []


ALL_BUT_LABELS = replace(ALL, cohort=(TESTERS,))


# ---------------------------------------------------------------- no room


def spoiled(**fields: Any) -> dict[str, Any]:
    obj = routed("v1=100,v2=0")
    entry = obj["spec"]["http"][0]
    entry["route"][1].update({k: v for k, v in fields.items() if k == "headers"})
    entry.update({k: v for k, v in fields.items() if k != "headers"})
    return obj


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"match": [{"headers": {"X-Tester": {"exact": "no"}}}]}, "matches header x-tester itself"),
        ({"match": [{"sourceLabels": {"team": "shop"}}]}, "matches pods with team=shop itself"),
        ({"mirror": {"host": "audit"}}, "has a mirror of its own"),
        ({"mirrors": []}, "has an empty list of mirrors"),
        ({"headers": {"response": {"add": {"Set-Cookie": "a=b"}}}}, "no room for Set-Cookie"),
        ({"headers": {"response": {}}}, "no room for Set-Cookie"),
        ({"headers": {}}, "no room for Set-Cookie"),
    ],
)
def test_a_route_without_room_is_named(fields: dict[str, Any], said: str) -> None:
    obj = spoiled(**fields)
    with pytest.raises(RouteError, match=rf"^VirtualService prod/reviews http\[0\] .*{said}"):
        patch(obj, all_routes(obj)[0], "v2", ALL)


def test_source_labels_are_not_for_an_http_route() -> None:
    route = next(r for r in all_routes(HTTP_ROUTE) if len(r.destinations) == 2)
    with pytest.raises(RouteError, match=r"^cohort.source_labels: an HTTPRoute knows no source labels"):
        patch(HTTP_ROUTE, route, "app-v2", ALL)


def test_a_mirror_to_the_canary_that_was_there_before() -> None:
    obj = spoiled(mirrors=[{"destination": {"host": "reviews.prod.svc.cluster.local", "subset": "v2"}}])
    with pytest.raises(RouteError, match=r"mirrors to v2 already"):
        refuse_foreign_mirror(obj, all_routes(obj)[0], "v2")
    refuse_foreign_mirror(obj, all_routes(obj)[0], "v1")


def test_a_release_without_mirrors_leaves_a_foreign_one_alone() -> None:
    obj = spoiled(mirrors=[{"destination": {"host": "reviews", "subset": "v2"}, "percentage": {"value": 3}}])
    _there, gone = both(obj, all_routes(obj)[0], "v2", replace(ALL, mirror=None), replace(END, mirror=None))
    assert gone == obj


# ---------------------------------------------------------------- changed by somebody else


def test_drift_is_named() -> None:
    obj = routed("v1=90,v2=10")
    there, _gone = both(obj, all_routes(obj)[0], "v2", ALL)
    route = _again(there, all_routes(obj)[0])
    assert astray(obj, all_routes(obj)[0], "v2", ALL) == (
        f"route {COHORT} is gone, route {STICKY} is gone, the answers of v2 do not set cookie {COOKIE}, "
        "0 % are mirrored to v2, not 20 %"
    )
    there["spec"]["http"][0]["match"][0]["headers"]["x-tester"] = {"exact": "everybody"}
    assert astray(there, route, "v2", ALL) == f"route {COHORT} was changed"
    there["spec"]["http"][2]["timeout"] = "7s"  # not ours: the copies are behind until the next step
    assert astray(there, route, "v2", ALL) == f"route {COHORT} was changed"
    assert f"route {COHORT} is there" in astray(there, route, "v2", END)


def test_by_hand() -> None:
    obj = routed("v1=90,v2=10")
    there, _gone = both(obj, all_routes(obj)[0], "v2", ALL)
    operations = take_out(there, "http")
    assert [(o["op"], o["path"]) for o in operations] == [
        ("test", "/spec/http/1/name"),
        ("remove", "/spec/http/1"),
        ("test", "/spec/http/0/name"),
        ("remove", "/spec/http/0"),
    ]
    assert len(apply_patch(there, operations)["spec"]["http"]) == 1


# ---------------------------------------------------------------- options


def test_options() -> None:
    wish = parse(
        [
            {"headers": {"X-Tester": "yes", "x-team": {"prefix": "a"}}, "cookies": {"be.ta": "1"}},
            {"source_labels": {"team": "checkout"}},
        ],
        {"cookie": COOKIE, "attributes": "Path=/"},
    )
    regex = {"regex": r"(.*;\s*)?be\.ta=1(;.*)?"}
    assert wish == Audience(
        (Match({"x-tester": {"exact": "yes"}, "x-team": {"prefix": "a"}, "cookie": regex}, {}), TEAM), COOKIE, "Path=/"
    )
    assert parse([], None) == Audience()


@pytest.mark.parametrize(
    ("cohort", "sticky", "said"),
    [
        ([{}], None, r"cohort\[1\] is empty, it would be everybody"),
        ([{"headers": {"a": {"contains": "b"}}}], None, r"cohort\[1\].headers.a is .*exact, prefix, regex"),
        ([{"headers": {"a": True}}], None, r"cohort\[1\].headers.a is True; a text is needed \(quote it in YAML\)"),
        ([{"headers": {"a b": "c"}}], None, r"cohort\[1\].headers.a b is no name of a header"),
        ([{"headers": {"A": "c", "a": "d"}}], None, r"is no name of a header, or there twice"),
        ([{"cookies": {"a": "1", "b": "2"}}], None, r"more than one condition on the header cookie"),
        ([{"cookies": {"a": "1"}, "headers": {"Cookie": "x"}}], None, r"more than one condition on the header cookie"),
        ([{"cookies": {"a;": "1"}}], None, r"cohort\[1\].cookies.a; is no name of a cookie"),
        ([{"cookies": {"a": ""}}], None, r"cohort\[1\].cookies.a is ''; a text is needed"),
        ([], {"cookie": "a=b"}, r"sticky.cookie is 'a=b'"),
        ([], {"cookie": "a", "attributes": "Path=%2F"}, r"sticky.attributes is 'Path=%2F'"),
    ],
)
def test_nonsense_is_named(cohort: list[Any], sticky: Any, said: str) -> None:
    with pytest.raises(RouteError, match=said):
        parse(cohort, sticky)


# ---------------------------------------------------------------- the record


def record(**fields: Any) -> Record:
    steps = (Step(0, 5, 20), Step(10, 5), Step(100, 5))
    given = Record("9f3c21ab", "0-1", Version("v1", "h1"), Version("v2", "h2"), steps, 0, PROGRESSING, 1.0, 2.0)
    return replace(given, **fields)


def test_a_record_says_what_is_to_be_shown() -> None:
    wish = Audience((TESTERS, TEAM), COOKIE, "Path=/; Max-Age=60")
    running = record(audience=wish)
    assert running.shown == ALL
    assert running.at(1, 3.0).shown == replace(ALL, mirror=0)
    for phase in (ABORTED, PROMOTED):
        assert running.ended(phase, 3.0, "").shown == END
    assert record(steps=(Step(100),)).shown == Shown()
    assert loads(running.dumps()) == running
    assert [step.judged for step in running.steps] == [20, 10, 100]
    assert [step.title for step in (*running.steps, Step(10, 0, 5), Step(0))] == [
        "mirror 20 %",
        "10 %",
        "100 %",
        "10 %, mirror 5 %",
        "0 %",
    ]


# ---------------------------------------------------------------- in the proxies


def dump(obj: dict[str, Any], but: str = "", mirror: int = 200_000) -> bytes:
    """What a proxy runs of an object like that, as istiod writes it, without the routes named ``but``."""
    source = {"filter_metadata": {"istio": {"config": "/apis/x/v1/namespaces/prod/virtual-service/reviews"}}}
    routes = []
    for entry in obj["spec"]["http"]:
        clusters = [
            {"name": f"outbound|80|{d['destination']['subset']}|reviews.prod.svc.cluster.local", "weight": d["weight"]}
            for d in entry["route"]
            if d.get("weight")
        ]
        action: dict[str, Any] = {"weighted_clusters": {"clusters": clusters}}
        if not clusters:
            action = {"cluster": "outbound|80|v2|reviews.prod.svc.cluster.local"}
        if entry.get("mirrors") and mirror:
            share = {"numerator": mirror, "denominator": "MILLION"}
            to = "outbound|80|v2|reviews.prod.svc.cluster.local"
            action["request_mirror_policies"] = [{"cluster": to, "runtime_fraction": {"default_value": share}}]
        if entry.get("name", "") != but or not but:
            routes.append({"name": entry.get("name", ""), "metadata": source, "route": action})
    config = {"route_config": {"virtual_hosts": [{"routes": routes}]}, "last_updated": "2026-11-23T14:34:14Z"}
    return json.dumps({"configs": [config]}).encode()


@pytest.mark.parametrize(
    ("but", "mirror", "said"),
    [
        ("", 200_000, ""),
        (COHORT, 200_000, f"has no route {COHORT} yet"),
        (STICKY, 200_000, f"has no route {STICKY} yet"),
        ("", 100_000, "v1 90 %, v2 10 % and mirrors v2 10 % since 2026-11-23T14:34:14Z"),
        ("", 0, "v1 90 %, v2 10 % since 2026-11-23T14:34:14Z"),
    ],
)
def test_a_proxy_that_does_not_show_it_lags_behind(but: str, mirror: int, said: str) -> None:
    obj = routed("v1=90,v2=10")
    there, _gone = both(obj, all_routes(obj)[0], "v2", ALL)
    assert lag(dump(there, but, mirror), there, find_route(there, ["v1", "v2"])) == said


def test_a_proxy_that_still_shows_it_lags_behind() -> None:
    obj = routed("v1=90,v2=10")
    there, gone = both(obj, all_routes(obj)[0], "v2", ALL)
    assert (
        lag(dump(there, mirror=0), gone, all_routes(gone)[0]) == f"still has route {COHORT}, still has route {STICKY}"
    )
    assert lag(dump(gone), gone, all_routes(gone)[0]) == ""


def test_pods_that_are_not_in_the_cohort_do_not_get_its_route() -> None:
    """istiod leaves out a route for pods with other labels."""
    obj = virtual_service("{hosts: [reviews], http: []}")
    obj["spec"]["http"] = routed("v1=90,v2=10")["spec"]["http"]
    there, _gone = both(obj, all_routes(obj)[0], "v2", Shown((TEAM,)), Shown())
    assert lag(dump(there, COHORT), there, find_route(there, ["v1", "v2"])) == ""
    assert lag(dump(there), there, find_route(there, ["v1", "v2"])) == ""


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("progressive-istio-cohort", "progressive-istio-cohort"),
        ("progressive-istio-sticky.0", "progressive-istio-sticky"),
        ("api-progressive-istio-cohort.1", "api-progressive-istio-cohort"),
        ("progressive-istio-cohorts", ""),
        ("main", ""),
    ],
)
def test_an_added_route_is_known_by_its_name_also_behind_that_of_a_root(name: str, added: str) -> None:
    assert added_name(name) == added
