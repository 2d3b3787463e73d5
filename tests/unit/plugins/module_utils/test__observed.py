# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New weights are seen in what proxies send: soon when they are there, and hardly ever when they are not."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._observed import Observed, intended
from ansible_collections.progressive.istio.plugins.module_utils._record import (
    ABORTED,
    HELD,
    PROGRESSING,
    PROMOTED,
    Record,
    Step,
    Version,
)

RECORD = Record(
    "r", "u", Version("v1", "a"), Version("v2", "b"), (Step(10), Step(50), Step(100)), 0, PROGRESSING, 0.0, 0.0
)


def shares(weight: int) -> dict[str, float]:
    return {"v1": 1 - weight / 100, "v2": weight / 100}


@pytest.mark.parametrize(
    ("phase", "step", "now", "earlier"),
    [
        (PROGRESSING, 0, 10, [0]),
        (PROGRESSING, 1, 50, [10]),
        (HELD, 2, 100, [10, 50]),
        (PROMOTED, 2, 100, [10, 50]),
        (ABORTED, 0, 0, [10]),
        (ABORTED, 2, 0, [50, 100]),
    ],
)
def test_what_proxies_may_still_run(phase: str, step: int, now: int, earlier: list[int]) -> None:
    assert intended(replace(RECORD, phase=phase, step=step)) == (shares(now), tuple(map(shares, earlier)))


class Client:
    """Sends so many requests a look, by the weights that it runs."""

    def __init__(self, rng: random.Random, name: str, weight: int) -> None:
        self.rng, self.name, self.weight = rng, name, weight
        self.counts = {"v1": 1000, "v2": 50}

    def send(self, number: int) -> Mapping[str, int]:
        canary = sum(100 * self.rng.random() < self.weight for _one in range(number))
        self.counts = {"v1": self.counts["v1"] + number - canary, "v2": self.counts["v2"] + canary}
        return self.counts


@pytest.mark.parametrize(
    ("old", "new", "most"), [(0, 10, 120), (10, 50, 100), (50, 100, 40), (50, 0, 40), (10, 0, 100)]
)
def test_a_change_is_seen_after_so_many_requests(old: int, new: int, most: int) -> None:
    for seed in range(50):
        client = Client(random.Random(seed), "shop/client", new)
        seen = Observed(shares(new), [shares(old)])
        seen.add("1", client.name, client.counts)
        assert seen.told()[2] == ("no proxy has sent a request since",)
        for _look in range(0, most, 10):
            seen.add("1", client.name, client.send(10))
        assert seen.told() == (1, 1, ()), seed


@pytest.mark.parametrize(("old", "new"), [(0, 10), (10, 50), (50, 100), (50, 0), (10, 0), (100, 0), (45, 50)])
def test_what_is_not_there_is_hardly_ever_seen(old: int, new: int) -> None:
    """A sum of log likelihood ratios crosses log(1000) once in 1000 requests at most, on average (Page 1954)."""
    wrong = 0
    for seed in range(200):
        client = Client(random.Random(seed), "shop/client", old)
        seen = Observed(shares(new), [shares(old)])
        seen.add("1", client.name, client.counts)
        for _look in range(10):
            seen.add("1", client.name, client.send(10))
        wrong += not seen.told()[2]
    assert wrong <= 200 * 100 / 1000


def test_a_change_that_comes_late_is_seen_then() -> None:
    client = Client(random.Random(1), "shop/client", 50)
    seen = Observed(shares(0), [shares(50)])
    for _look in range(20):
        seen.add("1", client.name, client.send(20))
    (late,) = seen.told()[2]
    assert late.startswith("shop/client has sent v1 ")
    client.weight = 0
    for _look in range(3):
        seen.add("1", client.name, client.send(20))
    assert seen.told() == (1, 1, ())


def test_every_weight_that_it_may_have_run_is_ruled_out() -> None:
    client = Client(random.Random(2), "shop/client", 50)
    seen = Observed(shares(0), [shares(10), shares(50)])
    seen.add("1", client.name, client.counts)
    client.weight = 0
    seen.add("1", client.name, client.send(30))
    assert seen.told()[1] == 0, "thirty requests to v1 alone rule out 50 %, and not 10 %"
    seen.add("1", client.name, client.send(60))
    assert seen.told() == (1, 1, ())


def test_a_proxy_that_sends_little_does_not_keep_the_others() -> None:
    busy, idle = (Client(random.Random(n), f"shop/{n}", 50) for n in range(2))
    seen = Observed(shares(50), [shares(10)])
    for _look in range(2):
        for client in (busy, idle):
            seen.add(client.name, client.name, client.send(100 if client is busy else 2))
    assert seen.told() == (2, 1, ())
    seen.add("shop/1", "shop/1", idle.send(20))
    seen.keep(frozenset({"shop/1"}))
    assert seen.told()[0] == 1


def test_a_proxy_that_begins_again_has_sent_nothing_yet() -> None:
    seen = Observed(shares(50), [shares(10)])
    seen.add("1", "shop/client", {"v1": 100, "v2": 10})
    seen.add("1", "shop/client", {"v1": 150, "v2": 60})
    assert seen.told()[:2] == (1, 1)
    seen.add("1", "shop/client", {"v1": 3})
    assert seen.told() == (0, 0, ("no proxy has sent a request since",))
