# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change windows and freezes: what is open agrees with the clock on the wall, also where clocks change."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._calendar import (
    DAYS,
    Calendar,
    CalendarError,
    calendar,
)

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")
OFFICE = {"days": ["mon-thu"], "from": "09:00", "to": "16:00", "timezone": "Europe/Berlin"}


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def is_open(found: Calendar, when: float) -> bool:
    return not found.closed(when)


def some(rng: random.Random, clean: bool = False) -> Calendar:
    """Any calendar; a ``clean`` one has no window with a border in the hours in which clocks change."""
    windows = []
    for _number in range(rng.randint(0 if not clean else 1, 3)):
        start, end = rng.sample(range(4 * 60 if clean else 0, 1440, 30), 2)
        clock = [f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end)]
        days = rng.sample(DAYS, rng.randint(1, 7))
        windows.append({"days": days, "from": clock[0], "to": clock[1], "timezone": rng.choice(ZONES)})
    freezes = []
    for _number in range(rng.randint(0, 2)):
        begin = 1_790_000_000 + rng.randint(0, 40 * 86400)
        ends = [datetime.fromtimestamp(t, UTC).isoformat() for t in (begin, begin + rng.randint(1, 20 * 86400))]
        freezes.append({"from": ends[0], "to": ends[1], "reason": ""})
    return calendar(windows, freezes)


@pytest.mark.parametrize("seed", range(60))
def test_what_opens_and_closes_agrees_with_what_is_open(seed: int) -> None:
    rng = random.Random(seed)
    found = some(rng)
    now = 1_790_000_000.0 + rng.random() * 40 * 86400
    opens = found.opens(now)
    assert opens >= now
    assert opens < math.inf
    assert is_open(found, opens)
    assert not any(is_open(found, now + (opens - now) * rng.random() * 0.999) for _try in range(20) if opens > now)
    closes = found.closes(opens)
    assert closes > opens
    until = min(closes, opens + 30 * 86400)
    assert all(is_open(found, opens + (until - opens) * rng.random() * 0.999) for _try in range(20))
    if closes < math.inf:
        assert not is_open(found, closes)
    middle, end = now + 86400.0 * rng.random() * 9, now + 86400.0 * 9
    both = found.open_seconds(now, middle) + found.open_seconds(middle, end)
    assert both == pytest.approx(found.open_seconds(now, end))
    assert 0.0 <= both <= end - now
    assert found.open_seconds(now, opens) == 0.0


@pytest.mark.parametrize("seed", range(40))
def test_the_clock_on_the_wall_says_the_same(seed: int) -> None:
    rng = random.Random(seed)
    found = some(rng, clean=True)
    for _try in range(100):
        when = float(1_790_000_000 + rng.randint(0, 400 * 86400))
        expected = False
        for window in found.windows:
            there = datetime.fromtimestamp(when, window.zone)
            minute, today = there.hour * 60 + there.minute, there.weekday()
            if window.start < window.end:
                expected |= today in window.days and window.start <= minute < window.end
            else:
                expected |= today in window.days and minute >= window.start
                expected |= (today - 1) % 7 in window.days and minute < window.end
        frozen = any(freeze.start <= when < freeze.end for freeze in found.freezes)
        assert is_open(found, when) == (expected and not frozen), when


def test_a_window_keeps_to_its_clock_when_clocks_change() -> None:
    found = calendar([{**OFFICE, "days": ["sun", "mon"]}], [])
    for day in ("2026-03-29", "2026-10-25"):
        assert found.opens(at(f"{day}T00:00")) == at(f"{day}T09:00")
        assert found.closes(at(f"{day}T09:00")) - at(f"{day}T09:00") == 7 * 3600
    night = calendar([{"days": ["sat"], "from": "22:00", "to": "06:00", "timezone": "Europe/Berlin"}], [])
    for evening, hours in (("2026-03-28T22:00", 7), ("2026-10-24T22:00", 9), ("2026-06-06T22:00", 8)):
        assert night.closes(at(evening)) - at(evening) == hours * 3600


def test_a_time_that_the_clocks_skip_or_show_twice() -> None:
    found = calendar([{"days": [], "from": "02:15", "to": "02:45", "timezone": "Europe/Berlin"}], [])
    skipped, twice = at("2026-03-29T00:00"), at("2026-10-25T00:00")
    assert found.opens(skipped) - skipped == (2 * 60 + 15) * 60
    assert found.opens(twice) - twice == (2 * 60 + 15) * 60
    assert found.closes(found.opens(twice)) - found.opens(twice) == 30 * 60
    assert found.opens(found.closes(found.opens(twice))) == at("2026-10-26T02:15")


def test_without_windows_it_is_always_open_and_with_the_whole_week_too() -> None:
    for found in (Calendar(), calendar([{"days": ["mon-sun"], "from": "00:00", "to": "24:00"}], [])):
        now = at("2026-11-28T12:00")
        assert (found.opens(now), found.closes(now), found.closed(now)) == (now, math.inf, "")
        assert found.open_seconds(now, now + 1e6) == 1e6


def test_what_is_said() -> None:
    freeze = {"from": "2026-11-30T00:00:00+01:00", "to": "2026-12-01T00:00:00Z", "reason": "sales"}
    found = calendar([OFFICE], [freeze])
    saturday = at("2026-11-28T12:00")
    assert found.closed(saturday) == "outside the change windows; it may go on at Tue 2026-12-01 09:00 Europe/Berlin"
    assert found.closed(at("2026-11-30T10:00")) == "freeze (sales); it may go on at Tue 2026-12-01 09:00 Europe/Berlin"
    late = at("2026-12-01T15:30")
    assert found.too_long(late, 1800.0) == ""
    assert found.too_long(late, 1801.0) == (
        "it needs about 31 min, and the window ends in 30 min (at Tue 2026-12-01 16:00 Europe/Berlin)"
    )


WINDOW = {"days": [], "from": "09:00", "to": "10:00", "timezone": "UTC"}
FREEZE = {"from": "2026-12-20T00:00:00Z", "to": "2026-12-21T00:00:00Z", "reason": ""}


@pytest.mark.parametrize(
    ("windows", "freezes", "text"),
    [
        (
            [{**WINDOW, "timezone": "Mars/Base"}],
            [],
            r"windows\[1\].timezone is 'Mars/Base', which this host does not know",
        ),
        ([{**WINDOW, "timezone": "../etc"}], [], r"windows\[1\].timezone is '../etc'"),
        ([WINDOW, {**WINDOW, "from": "540"}], [], r"windows\[2\].from is '540'.* put it into quotes"),
        ([{**WINDOW, "to": "24:01"}], [], r"windows\[1\].to is '24:01'; expected a time of the day"),
        ([{**WINDOW, "to": "09:00"}], [], r"windows\[1\] is from 09:00 to 09:00, which is no time at all"),
        ([{**WINDOW, "from": "24:00"}], [], r"windows\[1\].from is 24:00"),
        ([{**WINDOW, "days": ["mon-fry"]}], [], r"windows\[1\].days: 'mon-fry' is no day"),
        ([], [{**FREEZE, "to": "2026-12-20"}], r"freezes\[1\].to is '2026-12-20', and nobody knows in which time zone"),
        ([], [{**FREEZE, "from": "Christmas"}], r"freezes\[1\].from is 'Christmas'; expected a time"),
        ([], [{**FREEZE, "to": "2026-12-19T00:00:00Z"}], r"freezes\[1\] is from .* it has to end after it begins"),
    ],
)
def test_wrong_options(windows: list[dict[str, Any]], freezes: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(CalendarError, match=text):
        calendar(windows, freezes)


def test_days_may_go_over_the_end_of_the_week() -> None:
    found = calendar([{**WINDOW, "days": ["sat-mon"]}], []).windows[0]
    assert {DAYS[day] for day in found.days} == {"sat", "sun", "mon"}


def test_a_freeze_without_an_end_of_its_windows() -> None:
    begin = datetime(2026, 12, 1, tzinfo=UTC)
    freezes = [{"from": begin.isoformat(), "to": (begin + timedelta(days=400)).isoformat(), "reason": ""}]
    found = calendar([OFFICE], freezes)
    opens = found.opens(begin.timestamp() + 1)
    assert opens >= (begin + timedelta(days=400)).timestamp()
    assert is_open(found, opens)
