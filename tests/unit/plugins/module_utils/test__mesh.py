# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom to ask in a large mesh, and what istiod's word means."""

from __future__ import annotations

import pytest
from ansible_collections.progressive.istio.plugins.module_utils import _mesh
from ansible_collections.progressive.istio.plugins.module_utils._cluster import NO_FORWARD, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._mesh import (
    ABSENT,
    LIST_MOST,
    LIST_SHARE,
    Mesh,
    Proxy,
    split,
    troubles,
)
from ansible_collections.progressive.istio.plugins.module_utils._proxies import Sync


def proxies(count: int, gateways: int = 0) -> list[Proxy]:
    """UIDs fall as the numbers rise, so that their order is not that of the list."""
    return [
        Proxy(f"uid-{1000 - i}", "web", f"c-{i}", "0", 0.0, should_answer=True, gateway=i < gateways)
        for i in range(count)
    ]


def test_a_small_mesh_is_asked_as_a_whole() -> None:
    read, rest = split(proxies(64), (), 64)
    assert (len(read), rest) == (64, [])


def test_gateways_and_who_moves_traffic_are_always_asked() -> None:
    mesh = proxies(200, gateways=3)
    movers = {proxy.uid for proxy in mesh[100:180]}
    read, rest = split(mesh, movers, 64)
    assert {proxy.uid for proxy in read} == movers | {proxy.uid for proxy in mesh[:3]}
    assert len(read) + len(rest) == 200


def test_the_sample_stays_the_same_while_pods_come_and_go() -> None:
    mesh = proxies(200)
    read, rest = split(mesh, (), 64)
    assert (len(read), len(rest)) == (64, 136)
    again, _rest = split([*reversed(mesh[:150]), *mesh[150:]], (), 64)
    assert again == read
    fewer, _rest = split([proxy for proxy in mesh if proxy != read[0]], (), 64)
    assert set(fewer) > set(read[1:])


def test_istiods_word_names_those_with_trouble_only() -> None:
    known = {"web/good": Sync("1", ""), "web/late": Sync("1", "it rejects the update"), "web/other": Sync("1", "late")}
    assert troubles(known, complete=True, names=["web/good", "web/late"]) == {"web/late": "it rejects the update"}


def test_a_proxy_that_no_istiod_knows_is_absent_only_if_all_of_them_told() -> None:
    assert troubles({}, complete=True, names=["web/gone"]) == {"web/gone": ABSENT}
    assert troubles({}, complete=False, names=["web/gone"]) == {}
    known = {"web/late": Sync("1", "late")}
    assert troubles(known, complete=False, names=["web/late", "web/gone"]) == {"web/late": "late"}


class SlowCluster:
    """An API server whose lists take ``takes`` seconds of a clock that nothing else moves; no proxy answers."""

    def __init__(self, takes: float) -> None:
        self.takes, self.now, self.lists = takes, 100.0, 0

    def monotonic(self) -> float:
        return self.now

    def select(self, *_what: str) -> list[object]:
        self.now += self.takes
        self.lists += 1
        return []

    def forget(self, _keep: object) -> None:
        pass

    def admin(self, *_what: object) -> bytes:
        raise NoAnswer("gone")


@pytest.mark.parametrize(("takes", "pause"), [(0.0, 0.0), (0.1, 0.1 / LIST_SHARE), (2.0, LIST_MOST)])
def test_a_mesh_that_takes_long_to_list_is_listed_less_often(
    monkeypatch: pytest.MonkeyPatch, takes: float, pause: float
) -> None:
    cluster = SlowCluster(takes)
    monkeypatch.setattr(_mesh, "time", cluster)
    mesh, began = Mesh(cluster), cluster.now  # type: ignore[arg-type]
    mesh.keep_up()
    if pause:
        cluster.now = began + pause - 0.01
        mesh.keep_up()
        assert cluster.lists == 1
    cluster.now = began + pause
    mesh.keep_up()
    assert cluster.lists == 2


def test_a_mesh_is_listed_again_when_a_proxy_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SlowCluster(1.0)
    monkeypatch.setattr(_mesh, "time", cluster)
    mesh = Mesh(cluster)  # type: ignore[arg-type]
    mesh.keep_up()
    assert mesh.healthy(proxies(1), {}, "v1") == {"web/c-0": "gone"}
    mesh.keep_up()
    assert cluster.lists == 2


class Ways:
    """A cluster in which some pods let a port be forwarded, and some are read by the pod proxy."""

    def __init__(self, forwarded: set[str], by_proxy: set[str]) -> None:
        self.forwarded, self.by_proxy = forwarded, by_proxy

    def admin(self, namespace: str, pod: str, _path: str) -> bytes:
        if pod not in self.forwarded:
            raise NoAnswer(f"{NO_FORWARD} {namespace}/{pod}: 403 Forbidden")
        return b"LIVE"

    def read(self, namespace: str, pod: str, _port: int, _path: str) -> bytes:
        if pod not in self.by_proxy:
            raise NoAnswer(f"no pod proxy to {namespace}/{pod}")
        return b""


@pytest.mark.parametrize(
    ("forwarded", "by_proxy", "why"),
    [
        (set(), {"c-0", "c-1", "c-2"}, ""),
        (set(), {"c-2"}, ""),
        ({"c-1"}, {"c-0", "c-1", "c-2"}, "there is a port-forward to another proxy"),
        (set(), set(), "no pod proxy to web/c-2"),
    ],
)
def test_statistics_are_for_a_mesh_without_any_port_forward(forwarded: set[str], by_proxy: set[str], why: str) -> None:
    """A pod that is on its way out refuses one, too."""
    mesh = Mesh(Ways(forwarded, by_proxy))  # type: ignore[arg-type]
    assert mesh.fall_back(proxies(3)) == why
    assert mesh.by_stats == (not why)
