# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""VirtualServices as people write them: the route is found or the error says why, and a patch changes nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._routes import (
    MAX_WEIGHT,
    Operation,
    RouteError,
    all_routes,
    apply_patch,
    check_weights,
    expected_clusters,
    field_manager,
    find_route,
    full_host,
    pick_route,
    serves,
    weight_patch,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from .shapes import HOST, METADATA, OURS, SHAPES, routed, shape, virtual_service, with_weights

# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("entry", "weights"),
    [
        ("v1=90,v2=10", {"v1": 90, "v2": 10}),
        ("v1,v2", {"v1": 0, "v2": 0}),
        ("v1=3,v2", {"v1": 3, "v2": 0}),
        ("v1", {"v1": 100}),
        ("v1=0", {"v1": 100}),
        ("v1=7", {"v1": 100}),
    ],
)
def test_effective_weights(entry: str, weights: dict[str, int]) -> None:
    assert all_routes(routed(entry))[0].weights() == weights


def test_only_routes_with_destinations_count_and_keep_their_index() -> None:
    routes = all_routes(shape("redirect, rewrite, delegate and a direct answer around it"))
    assert [(route.index, route.name) for route in routes] == [(3, "main"), (4, "")]
    assert [route.label() for route in routes] == ["http[3] (main)", "http[4]"]
    assert all_routes({"metadata": {}}) == all_routes({"metadata": {}, "spec": {"tcp": []}}) == []


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("reviews", HOST),
        ("reviews.prod", HOST),
        ("reviews.prod.svc", HOST),
        (HOST, HOST),
        ("www.example.com", "www.example.com"),
        ("*", "*"),
        ("*.prod.svc.cluster.local", "*.prod.svc.cluster.local"),
    ],
)
def test_full_host(host: str, full: str) -> None:
    assert full_host(host, "prod") == full


def test_serves() -> None:
    assert serves(shape("plain"), HOST)
    assert serves(shape("two hosts in one object"), "ratings.prod.svc.cluster.local")
    assert not serves(shape("short hosts and no weights", namespace="stage"), HOST)
    assert not serves({"metadata": {"name": "delegate"}, "spec": {"http": []}}, HOST)


# ---------------------------------------------------------------- finding


@pytest.mark.parametrize("name", SHAPES)
def test_find_and_pick_agree(name: str) -> None:
    obj, index, route = shape(name), SHAPES[name][1], SHAPES[name][2]
    found = find_route(obj, ["v1", "v2"], route)
    assert found.index == index
    assert find_route(obj, ["v2", "v1"], route) == found
    assert pick_route(obj, HOST, "v2", route) == found


@pytest.mark.parametrize(
    ("obj", "subsets", "name", "text"),
    [
        (
            routed("v1=100,v2=0"),
            ["v1", "v9"],
            "",
            "VirtualService prod/reviews has no route with exactly the destinations v1, v9; there are: http[0]: v1, v2",
        ),
        (
            routed("v1=1,v2=1,v3=1", "v1"),
            ["v1", "v2"],
            "",
            (
                "VirtualService prod/reviews has no route with exactly the destinations v1, v2; "
                "there are: http[0]: v1, v2, v3; http[1]: v1"
            ),
        ),
        (
            virtual_service("{hosts: [reviews], http: [{redirect: {uri: /}}]}"),
            ["v1"],
            "",
            "VirtualService prod/reviews has no route with exactly the destinations v1; there are: no routes",
        ),
        (
            routed("a:v1=100,v2=0", "v1=100,v2=0"),
            ["v1", "v2"],
            "",
            (
                "VirtualService prod/reviews has 2 routes with the destinations v1, v2 (http[0] (a), http[1]); "
                "give the one that is meant a name and say which with 'route'"
            ),
        ),
        (
            routed("a:v1=100,v2=0", "b:v1"),
            ["v1", "v2"],
            "c",
            "VirtualService prod/reviews has no routes named 'c'; named routes there: a, b",
        ),
        (
            routed("v1=100,v2=0"),
            ["v1", "v2"],
            "c",
            "VirtualService prod/reviews has no routes named 'c'; named routes there: none",
        ),
        (
            routed("a:v1=100,v2=0", "a:v1=100,v2=0"),
            ["v1", "v2"],
            "a",
            "VirtualService prod/reviews has 2 routes named 'a'; named routes there: a, a",
        ),
        (
            routed("a:v1=100,"),
            ["v1", "v2"],
            "a",
            "VirtualService prod/reviews http[0] (a) has no destination v2; it has reviews, v1",
        ),
        (
            routed("a:v1=100,v2=0,v2=0"),
            ["v1", "v2"],
            "a",
            "VirtualService prod/reviews http[0] (a) names a destination twice; weights would be ambiguous",
        ),
    ],
)
def test_find_route_says_why_not(obj: dict[str, Any], subsets: list[str], name: str, text: str) -> None:
    with pytest.raises(RouteError) as caught:
        find_route(obj, subsets, name)
    assert str(caught.value) == text


def test_pick_takes_the_route_without_match_for_a_version_that_no_route_knows() -> None:
    obj = shape("testers by header above the weighted route")
    assert pick_route(obj, HOST, "v3").index == 1


@pytest.mark.parametrize(
    ("obj", "canary", "name", "text"),
    [
        (
            routed("v1=100,v2=0", "v1=100,v2=0"),
            "v2",
            "",
            (
                f"VirtualService prod/reviews has 2 routes to {HOST} that can carry 'v2'; "
                "there are: http[0]: v1, v2; http[1]: v1, v2. Say which one with 'route' (its name)"
            ),
        ),
        (
            routed("a:v1", "b:v2"),
            "v3",
            "",
            (
                f"VirtualService prod/reviews has 2 routes to {HOST} that can carry 'v3'; "
                "there are: http[0] (a): v1; http[1] (b): v2. Say which one with 'route' (its name)"
            ),
        ),
        (
            routed("a:v1=100,v2=0"),
            "v2",
            "b",
            (
                f"VirtualService prod/reviews has no routes to {HOST} named 'b'; "
                "there are: http[0] (a): v1, v2. Say which one with 'route' (its name)"
            ),
        ),
        (
            virtual_service("{hosts: [reviews], http: [{route: [{destination: {host: other, subset: v2}}]}]}"),
            "v2",
            "",
            (
                f"VirtualService prod/reviews has no routes to {HOST} that can carry 'v2'; "
                "there are: none. Say which one with 'route' (its name)"
            ),
        ),
        (
            routed(""),
            "v2",
            "",
            "VirtualService prod/reviews http[0] needs one destination for each version, it has (no subset)",
        ),
        (
            routed("v1=50,v2=10,v1=40"),
            "v2",
            "",
            "VirtualService prod/reviews http[0] needs one destination for each version, it has v1, v2, v1",
        ),
    ],
)
def test_pick_route_says_why_not(obj: dict[str, Any], canary: str, name: str, text: str) -> None:
    with pytest.raises(RouteError) as caught:
        pick_route(obj, HOST, canary, name)
    assert str(caught.value) == text


# ---------------------------------------------------------------- patching


def test_a_patch_never_tests_the_text_of_an_annotation() -> None:
    """The API server compares strings as they are escaped; Go writes ">" as an escape, Python does not."""
    obj = virtual_service("http: [{route: [{destination: {host: a, subset: v1}, weight: 100}]}]")
    obj["metadata"]["annotations"] = {OURS: "odds >1,000 : 1 \u00e9"}
    patch = weight_patch(obj, all_routes(obj)[0], {}, {OURS: "new"})
    assert [(op["op"], op["path"]) for op in patch if "annotations" in op["path"]] == [
        ("add", "/metadata/annotations/progressive.istio~1release")
    ]
    assert ("replace", "/metadata/resourceVersion") in [(op["op"], op["path"]) for op in patch]


@pytest.mark.parametrize("metadata", METADATA, ids=["bare", "empty", "foreign", "ours and foreign"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_patch_changes_two_weights_and_our_annotation_only(name: str, metadata: dict[str, Any]) -> None:
    obj = shape(name, **copy.deepcopy(metadata))
    before = copy.deepcopy(obj)
    route = find_route(obj, ["v1", "v2"], SHAPES[name][2])
    weights = {"v1": 83, "v2": 17}
    patch = weight_patch(obj, route, weights, {OURS: "/~ {}"})
    after = apply_patch(obj, patch)
    assert obj == before, "the object that was read is left alone"

    wanted = with_weights(obj, SHAPES[name][1], weights)
    wanted["metadata"].setdefault("annotations", {})[OURS] = "/~ {}"
    assert after == wanted
    assert weight_patch(after, find_route(after, ["v1", "v2"], SHAPES[name][2]), weights, {OURS: "/~ {}"}) == []
    written = {operation["path"] for operation in patch if operation["op"] != "test"}
    here = f"/spec/http/{SHAPES[name][1]}/route/"
    assert all(p.startswith((here, "/metadata/annotations", "/metadata/resourceVersion")) for p in written)
    assert "remove" not in {operation["op"] for operation in patch}


@pytest.mark.parametrize("name", SHAPES)
def test_a_patch_is_refused_on_an_object_that_has_changed(name: str) -> None:
    obj = shape(name)
    index = SHAPES[name][1]
    patch = weight_patch(obj, find_route(obj, ["v1", "v2"], SHAPES[name][2]), {"v1": 83, "v2": 17})
    moved = copy.deepcopy(obj)
    moved["spec"]["http"][index]["route"].reverse()
    with pytest.raises(RouteError, match="/destination is "):
        apply_patch(moved, patch)
    assert {"op": "replace", "path": "/metadata/resourceVersion", "value": "4711"} in patch


def test_a_weight_that_somebody_else_set_is_guarded() -> None:
    obj = routed("v1=90,v2=10")
    patch = weight_patch(obj, find_route(obj, ["v1", "v2"]), {"v1": 80, "v2": 20})
    with pytest.raises(RouteError) as caught:
        apply_patch(routed("v1=50,v2=50"), patch)
    assert str(caught.value) == "/spec/http/0/route/0/weight is 50, not 90"


def test_an_unwritten_weight_is_added_and_an_effective_one_left_unwritten() -> None:
    obj = routed("v1=100,v2")
    assert weight_patch(obj, find_route(obj, ["v1", "v2"]), {"v1": 100, "v2": 0}) == []
    patch = weight_patch(obj, find_route(obj, ["v1", "v2"]), {"v1": 100, "v2": 5})
    assert [op for op in patch if op["op"] != "test"] == [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "4711"},
        {"op": "add", "path": "/spec/http/0/route/1/weight", "value": 5},
    ]


def test_a_single_destination_has_everything_already() -> None:
    obj = routed("v1")
    assert weight_patch(obj, find_route(obj, ["v1"]), {"v1": 100}) == []


def test_destinations_that_are_not_named_keep_their_weight() -> None:
    obj = shape("a third version beside them")
    route = find_route(obj, ["v1", "v2"], "blue/green ~1")
    after = apply_patch(obj, weight_patch(obj, route, {"v1": 0, "v2": 70}))
    assert all_routes(after)[0].weights() == {"v0": 30, "v1": 0, "v2": 70}


def test_a_new_version_gets_a_copy_of_stables_entry() -> None:
    obj = shape("headers for each destination")
    route = pick_route(obj, HOST, "v3")
    patch = weight_patch(obj, route, {"v1": 90, "v3": 10}, clone=("v1", "v3"))
    after = apply_patch(obj, patch)
    wanted = with_weights(obj, 0, {"v1": 90})
    wanted["spec"]["http"][0]["route"].append(
        {
            "destination": {"host": "reviews", "subset": "v3"},
            "headers": {"response": {"add": {"hello": "world"}}},
            "weight": 10,
        }
    )
    assert after == wanted


def test_a_copy_beside_a_single_destination_makes_its_weight_explicit() -> None:
    obj = routed("v1")
    after = apply_patch(obj, weight_patch(obj, all_routes(obj)[0], {"v1": 100, "v2": 0}, clone=("v1", "v2")))
    assert after["spec"]["http"][0]["route"] == [
        {"destination": {"host": "reviews", "subset": "v1"}, "weight": 100},
        {"destination": {"host": "reviews", "subset": "v2"}, "weight": 0},
    ]


keys = st.text("ab/~.0", min_size=1, max_size=6)
values = st.text('aü/~"{', max_size=4)
weight = st.one_of(st.none(), st.integers(0, 100))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(weight, min_size=2, max_size=4),
    st.lists(st.integers(0, 100), min_size=2, max_size=4),
    st.one_of(st.none(), st.dictionaries(keys, values, max_size=4)),
    st.dictionaries(keys, values, max_size=3),
    st.integers(0, 2),
)
def test_patch_and_apply_round_trip(
    have: list[int | None], want: list[int], there: dict[str, str] | None, ours: dict[str, str], above: int
) -> None:
    foreign: list[dict[str, Any]] = [{"redirect": {"uri": f"/{i}"}} for i in range(above)]
    entries = [
        {"destination": {"host": "reviews", "subset": f"v{i}"}, **({} if w is None else {"weight": w})}
        for i, w in enumerate(have)
    ]
    obj: dict[str, Any] = {
        "metadata": {"name": "reviews", "namespace": "prod", "resourceVersion": "1", "annotations": there},
        "spec": {"http": [*foreign, {"route": entries}]},
    }
    if there is None:
        del obj["metadata"]["annotations"]
    weights = {f"v{i}": w for i, w in enumerate(want[: len(have)])}
    patch = weight_patch(obj, all_routes(obj)[0], weights, ours)
    after = apply_patch(obj, patch)
    wanted = with_weights(obj, above, weights)
    for entry, old in zip(wanted["spec"]["http"][above]["route"], entries, strict=True):
        if "weight" not in old and entry.get("weight") == 0:
            del entry["weight"]  # it was 0 without being written, and needs no write
    if ours:
        wanted["metadata"].setdefault("annotations", {}).update(ours)
    assert after == wanted
    assert weight_patch(after, all_routes(after)[0], weights, ours) == []


def test_apply_knows_what_a_patch_of_ours_may_hold() -> None:
    obj = routed("v1")
    patch: list[Operation] = [{"op": "test", "path": "/metadata/name", "value": "ratings"}]
    with pytest.raises(RouteError, match=r"^/metadata/name is 'reviews', not 'ratings'$"):
        apply_patch(obj, patch)


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({}, "weights is empty; name each destination with its weight, for example {v1: 90, v2: 10}"),
        ({"v1": 110, "v2": -10}, "weights.v2 is -10; a weight cannot be negative"),
        ({"v1": 0, "v2": 0}, "weights are all 0; at least one destination needs a positive weight"),
        ({"v1": 99.5, "v2": 0.5}, "weights.v1 is 99.5; a whole number from 0 up is needed"),
        ({"v1": True}, "weights.v1 is True; a whole number from 0 up is needed"),
        ({"v1": None}, "weights.v1 is None; a whole number from 0 up is needed"),
        ({"v1": "90%"}, "weights.v1 is '90%'; a whole number from 0 up is needed"),
        (
            {"v1": MAX_WEIGHT, "v2": 1},
            "weights add up to 2147483648, more than Istio's int32 can hold (2147483647)",
        ),
    ],
)
def test_weights_that_istio_would_misread(weights: dict[str, Any], text: str) -> None:
    with pytest.raises(RouteError) as caught:
        check_weights(weights)
    assert str(caught.value) == text


def test_weights_that_are_fine() -> None:
    check_weights({"v1": 0, "v2": 1})
    check_weights({"v1": MAX_WEIGHT})


def test_expected_clusters_leave_out_zero_and_begin_with_the_route_itself() -> None:
    obj = routed("v1=100,v2=0", "v2", "v1=3,v2=1", "x:v3")
    assert expected_clusters(obj, all_routes(obj)[2]) == [
        {f"v1|{HOST}": 0.75, f"v2|{HOST}": 0.25},
        {f"v1|{HOST}": 1.0},
        {f"v2|{HOST}": 1.0},
    ]


def test_the_manager_that_wrote_the_routes_last() -> None:
    def entry(manager: str, time: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {"manager": manager, "time": time, "fieldsV1": fields}

    fields = [
        entry("argocd-controller", "2026-01-01T00:00:00Z", {"f:spec": {"f:http": {}}}),
        entry("kubectl-edit", "2026-01-02T00:00:00Z", {"f:spec": {"f:http": {}}}),
        entry("labeller", "2026-01-03T00:00:00Z", {"f:metadata": {"f:labels": {}}}),
    ]
    assert field_manager(routed("v1", managedFields=fields)) == "kubectl-edit"
    assert field_manager(routed("v1")) == "unknown"
