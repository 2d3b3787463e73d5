# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change windows and freezes: when a release may begin and its weight may rise. Private to this collection.

Pure, but for the time zones of the host. Times are seconds since the epoch; what is closed is closed from its first
second on, and open again from its last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEK = timedelta(days=7)
MOST_TURNS = 10_000  # windows and freezes that are gone through until an answer is given up


class CalendarError(ValueError):
    """An option that makes no sense; the text names it, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Window:
    """On these days (0 is Monday) from one minute of the day to another one, of the next day where that is not later.

    A time that the clocks skip is so many minutes after their change; one that they show twice is the first one.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: tzinfo
    name: str  # of the zone

    def spans(self, since: date, days: int) -> Iterator[tuple[float, float]]:
        """Begin and end of each that begins on one of so many days; none is empty."""
        for day in (since + timedelta(days=number) for number in range(days)):
            if day.weekday() in self.days:
                begin, end = self._at(day, self.start), self._at(day, self.end + 1440 * (self.end <= self.start))
                if begin < end:
                    yield begin, end

    def _at(self, day: date, minutes: int) -> float:
        at = datetime(day.year, day.month, day.day, tzinfo=self.zone) + timedelta(minutes=minutes)
        return at.timestamp()


@dataclass(frozen=True, slots=True)
class Freeze:
    """From one time to another one nothing rises, whatever the windows are."""

    start: float
    end: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Calendar:
    """No windows: always open but for the freezes."""

    windows: tuple[Window, ...] = ()
    freezes: tuple[Freeze, ...] = ()

    def opens(self, now: float) -> float:
        """The first time from now on that is open; infinity where there is none."""
        for _turn in range(MOST_TURNS):
            later = max((freeze.end for freeze in self.freezes if freeze.start <= now < freeze.end), default=now)
            spans = self._spans(later)
            if not any(begin <= later < end for begin, end in spans):
                later = min((begin for begin, _end in spans if begin > later), default=math.inf)
            if later in (now, math.inf):
                return later
            now = later
        return math.inf

    def closes(self, now: float) -> float:
        """The first time from now on that is not open; infinity where there is none."""
        until = now
        for _turn in range(MOST_TURNS):
            later = max((end for begin, end in self._spans(until) if begin <= until < end), default=until)
            if later == until or later - now > 2 * WEEK.total_seconds():  # a whole week without a gap has none
                break
            until = later
        until = math.inf if until > now + WEEK.total_seconds() or not self.windows else until
        return min([until, *(max(now, freeze.start) for freeze in self.freezes if freeze.end > now)])

    def left(self, now: float) -> float:
        """Seconds until it closes; infinity where it is closed already, or never is."""
        return math.inf if self.closed(now) else self.closes(now) - now

    def open_seconds(self, start: float, end: float) -> float:
        """How much of the time between the two is open."""
        seconds = 0.0
        while (begin := self.opens(start)) < end:
            start = min(self.closes(begin), end)
            seconds += start - begin
        return seconds

    def closed(self, now: float) -> str:
        """Why nothing may rise now, and when it may again, in words; empty when it may."""
        again = self.opens(now)
        if again == now:
            return ""
        frozen = next((freeze for freeze in self.freezes if freeze.start <= now < freeze.end), None)
        why = "outside the change windows"
        if frozen:
            why = f"freeze ({frozen.reason})" if frozen.reason else "freeze"
        return f"{why}; it may go on at {self.said(again)}" if again < math.inf else f"{why}, and none is to come"

    def too_long(self, now: float, needed: float) -> str:
        """Why a release that takes so many seconds does not begin now, in words; empty when it may."""
        if closed := self.closed(now):
            return closed
        left = self.closes(now) - now
        if needed <= left:
            return ""
        return (
            f"it needs about {minutes(needed)} min, and the window ends in {left // 60:.0f} min "
            f"(at {self.said(now + left)})"
        )

    def said(self, at: float) -> str:
        """A time for a person, in the time zone of the first window."""
        zone, name = (self.windows[0].zone, self.windows[0].name) if self.windows else (UTC, "UTC")
        return f"{datetime.fromtimestamp(at, zone):%a %Y-%m-%d %H:%M} {name}"

    def _spans(self, now: float) -> list[tuple[float, float]]:
        """Those of the windows around now and in the week to come."""
        if not self.windows:
            return [(-math.inf, math.inf)]
        found = []
        for window in self.windows:
            since = datetime.fromtimestamp(now, window.zone).date() - timedelta(days=2)
            found += list(window.spans(since, 11))
        return found


def minutes(seconds: float) -> int:
    """Rounded up."""
    return math.ceil(seconds / 60)


def calendar(windows: Sequence[Mapping[str, Any]], freezes: Sequence[Mapping[str, Any]]) -> Calendar:
    """Of the options. Raises CalendarError."""
    return Calendar(
        tuple(_window(f"windows[{number}]", one) for number, one in enumerate(windows, 1)),
        tuple(_freeze(f"freezes[{number}]", one) for number, one in enumerate(freezes, 1)),
    )


def _window(option: str, given: Mapping[str, Any]) -> Window:
    days = frozenset(day for text in given.get("days") or DAYS for day in _days(f"{option}.days", text))
    start, end = _minute(f"{option}.from", given["from"]), _minute(f"{option}.to", given["to"])
    if start == end:
        raise CalendarError(
            f"{option} is from {given['from']} to {given['to']}, which is no time at all; a whole day is 00:00 to 24:00"
        )
    if start == 1440:
        raise CalendarError(f"{option}.from is 24:00; a window begins at 00:00 of the next day instead")
    name = given.get("timezone") or "UTC"
    return Window(days, start, end, _zone(f"{option}.timezone", name), name)


def _days(option: str, text: str) -> list[int]:
    first, dash, last = text.strip().lower().partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise CalendarError(f"{option}: {text!r} is no day; expected one of {', '.join(DAYS)}, or two with a dash")
    begin = DAYS.index(first)
    count = (DAYS.index(last) - begin) % 7 if dash else 0
    return [(begin + number) % 7 for number in range(count + 1)]


def _minute(option: str, text: str) -> int:
    hours, colon, rest = text.strip().partition(":")
    if colon and hours.isdecimal() and rest.isdecimal() and len(rest) == 2 and len(hours) <= 2:
        found = 60 * int(hours) + int(rest)
        if int(rest) < 60 and found <= 1440:
            return found
    quote = "; YAML reads it as a number: put it into quotes" if text.isdecimal() else ""
    raise CalendarError(f'{option} is {text!r}; expected a time of the day, such as "09:00" or "24:00"{quote}')


def _zone(option: str, name: str) -> tzinfo:
    if name == "UTC":  # also where the host has no time zones
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise CalendarError(
            f"{option} is {name!r}, which this host does not know; expected a name such as Europe/Berlin. "
            "Where even that is not known, install tzdata"
        ) from None


def _freeze(option: str, given: Mapping[str, Any]) -> Freeze:
    start, end = _instant(f"{option}.from", given["from"]), _instant(f"{option}.to", given["to"])
    if start >= end:
        raise CalendarError(f"{option} is from {given['from']} to {given['to']}; it has to end after it begins")
    return Freeze(start, end, " ".join((given.get("reason") or "").split()))


def _instant(option: str, text: str) -> float:
    hint = "expected a time with its distance from UTC, such as 2026-12-20T00:00:00+01:00"
    try:
        at = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise CalendarError(f"{option} is {text!r}; {hint}") from None
    if at.tzinfo is None:
        raise CalendarError(f"{option} is {text!r}, and nobody knows in which time zone; {hint}")
    return at.timestamp()
