# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom to ask in a large mesh."""

from __future__ import annotations

from ansible_collections.progressive.istio.plugins.module_utils._mesh import Proxy, split


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
