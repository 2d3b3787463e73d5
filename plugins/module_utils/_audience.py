# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who sees a canary besides its share of the requests: a cohort, users who stay, a mirror. Private to this collection.

Pure: the options, checked, and what a route object is to have of them at one moment. ``_shown.py`` puts it there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._routes import RouteError

OPERATORS = ("exact", "prefix", "regex")
_TOKEN = re.compile(r"[!#$&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, without %, which means something to Envoy


@dataclass(frozen=True, slots=True)
class Match:
    """Requests of the cohort: all of these headers (lower-case name: {operator: text}), from pods with these labels."""

    headers: Mapping[str, Mapping[str, str]]
    source_labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Audience:
    """A release's wish: any of the matches, and the name and attributes of the cookie of those who stay."""

    cohort: tuple[Match, ...] = ()
    cookie: str = ""
    attributes: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a route object is to have at one moment. ``value``: of the cookie, empty when it is to be gone.

    ``mirror``: percent of the requests; 0 when it is to be gone, None when the release has nothing to do with mirrors.
    """

    cohort: tuple[Match, ...] = ()
    cookie: str = ""
    value: str = ""
    attributes: str = ""
    mirror: int | None = None


# ---------------------------------------------------------------- options


def parse(cohort: Sequence[Mapping[str, Any]], sticky: Mapping[str, Any] | None) -> Audience:
    """The options ``cohort`` and ``sticky`` of istio_canary. Raises RouteError, naming the option."""
    matches = tuple(_match(f"cohort[{number}]", given) for number, given in enumerate(cohort, 1))
    cookie = str((sticky or {}).get("cookie") or "")
    attributes = str((sticky or {}).get("attributes") or "")
    if sticky and not _TOKEN.fullmatch(cookie):
        raise RouteError(f"sticky.cookie is '{cookie}'; a cookie's name is needed (letters, digits, - and _)")
    if set("%\r\n") & set(attributes):
        raise RouteError(f"sticky.attributes is {attributes!r}; it is put into a header, without % and line ends")
    return Audience(matches, cookie, attributes)


def _match(option: str, given: Mapping[str, Any]) -> Match:
    headers: dict[str, Mapping[str, str]] = {}
    for name, value in (given.get("headers") or {}).items():
        where = f"{option}.headers.{name}"
        wanted = dict(value) if isinstance(value, Mapping) else {"exact": value}
        if len(wanted) != 1 or next(iter(wanted)) not in OPERATORS:
            raise RouteError(f"{where} is {value!r}; a text, or one of {', '.join(OPERATORS)} with a text, is needed")
        if not _TOKEN.fullmatch(str(name)) or str(name).lower() in headers:
            raise RouteError(f"{where} is no name of a header, or there twice")
        headers[str(name).lower()] = {key: _text(where, text) for key, text in wanted.items()}
    cookies = given.get("cookies") or {}
    if len(cookies) > 1 or (cookies and "cookie" in headers):
        raise RouteError(f"{option} has more than one condition on the header cookie; Istio matches a header once")
    for name, value in cookies.items():
        where = f"{option}.cookies.{name}"
        if not _TOKEN.fullmatch(str(name)):
            raise RouteError(f"{where} is no name of a cookie")
        headers["cookie"] = {"regex": cookie_regex(str(name), _text(where, value))}
    labels = {
        str(key): _text(f"{option}.source_labels.{key}", value)
        for key, value in (given.get("source_labels") or {}).items()
    }
    if not headers and not labels:
        raise RouteError(f"{option} is empty, it would be everybody; give headers, cookies or source_labels")
    return Match(headers, labels)


def _text(where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value):
        raise RouteError(f"{where} is {value!r}; a text is needed (quote it in YAML)")
    return str(value)


def cookie_regex(name: str, value: str) -> str:
    """Of the header ``cookie`` of a request that has this one, perhaps among others (RE2, the whole header)."""
    return rf"(.*;\s*)?{re.escape(name)}={re.escape(value)}(;.*)?"


def restored(data: Any) -> Audience:
    """An audience as it stands in a record. Raises TypeError for what nobody but an editor can have written."""
    if not isinstance(data, Mapping):
        raise TypeError("audience is no object")
    cookie, attributes = data.get("cookie"), data.get("attributes")
    if not isinstance(cookie, str) or not isinstance(attributes, str):
        raise TypeError("audience.cookie and attributes hold text")
    return Audience(tuple(_whole(match) for match in data.get("cohort", ())), cookie, attributes)


def _whole(data: Any) -> Match:
    match = Match(**data)
    groups = [match.source_labels, *dict(match.headers).values()]
    if not all(isinstance(group, Mapping) for group in groups):
        raise TypeError("audience.cohort holds objects")
    texts = [text for group in groups for pair in group.items() for text in pair]
    if not all(isinstance(text, str) for text in texts) or not all(len(wanted) == 1 for wanted in groups[1:]):
        raise TypeError("audience.cohort holds texts")
    return match
