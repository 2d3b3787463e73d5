# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own counters: read from options, and asked of a Prometheus, each in a thread of its own. Private."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._checks import NAME
from ansible_collections.progressive.istio.plugins.module_utils._checks_world import Questions
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._counters import (
    PARTS,
    SELECTOR,
    VERSION,
    Counter,
    Part,
    Samples,
    newest,
)
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._prometheus import Series, Unusable, parse
from ansible_collections.progressive.istio.plugins.module_utils._prometheus_http import (
    PROMETHEUS_SPEC,
    Access,
    BadQuery,
    Prometheus,
    access,
)
from ansible_collections.progressive.istio.plugins.module_utils._verdict import ERRORS, LATENCY, UNANSWERED

TAKEN = (ERRORS, UNANSWERED, LATENCY, "capacity", "checks")  # what else may decide a verdict

COUNTER_SPEC: Mapping[str, Any] = {
    "name": {"type": "str", "required": True},
    "total": {"type": "str", "required": True},
    "bad": {"type": "str", "required": True},
    "tolerance_floor": {"type": "float"},
    "prometheus": {"type": "dict", "options": dict(PROMETHEUS_SPEC)},
}


def counters_of(analysis: Mapping[str, Any]) -> tuple[Counter, ...]:
    """The counters of option ``analysis``. Raises ReleaseError, naming the field."""
    found: dict[str, Counter] = {}
    for number, given in enumerate(analysis["counters"], 1):
        where = f"analysis.counters[{number}]"
        counter = _counter(where, given, analysis)
        if counter.name in found:
            raise ReleaseError(f"{where}.name: {counter.name!r} is there twice; names tell counters apart")
        found[counter.name] = counter
    return tuple(found.values())


def _counter(where: str, given: Mapping[str, Any], analysis: Mapping[str, Any]) -> Counter:
    if not NAME.fullmatch(given["name"]):
        raise ReleaseError(f"{where}.name: expected at most 30 of a-z, 0-9 and -, got {given['name']!r}")
    if given["name"] in TAKEN:
        raise ReleaseError(f"{where}.name: {given['name']!r} is judged by that name already; take another one")
    for part in PARTS:
        text = given[part].strip()
        if not text or not SELECTOR.fullmatch(text):
            raise ReleaseError(
                f'{where}.{part}: expected the selector of a counter, as in orders_total{{version="{VERSION}"}}, '
                f"without functions and ranges, as its raw samples are asked for; got {given[part]!r}"
            )
        if VERSION not in text:
            raise ReleaseError(
                f"{where}.{part}: expected {VERSION} in it, which stands for the name of each version; without it both "
                f"would have the same counts; got {given[part]!r}"
            )
    floor = given.get("tolerance_floor")
    if floor is not None and not 1e-6 <= floor <= 0.5:
        raise ReleaseError(f"{where}.tolerance_floor: expected a number from 1e-06 to 0.5, got {floor:g}")
    own = given.get("prometheus")
    if own is None and analysis.get("prometheus") is None:
        raise ReleaseError(f"{where}: there is no Prometheus to ask; set analysis.prometheus, or {where}.prometheus")
    place = access(own, f"{where}.prometheus") if own is not None else access(analysis["prometheus"])
    return Counter(given["name"], given["total"], given["bad"], floor, place.max_age, place)


class CounterReader:
    """Asks counters. Times are the API server's."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._questions: Questions[None, Samples] = Questions(lambda why: Samples(0.0, why=why))

    def ask(self, counter: Counter, versions: Sequence[str], seconds: float) -> Samples | None:
        """Begin to ask for the last ``seconds``, or bring the samples; None while there are none. Does not raise."""
        return self._questions.ask(counter.name, None, lambda: self.answer(counter, versions, seconds))

    def answer(self, counter: Counter, versions: Sequence[str], seconds: float) -> Samples:
        """Ask, and wait for the answer. Does not raise."""
        try:
            return self._samples(counter, versions, seconds)
        except (NoAnswer, Unusable, ApiError) as error:
            return Samples(0.0, why=str(error))
        except Exception as error:  # noqa: BLE001 - what nobody has foreseen must not pass for counts, nor be silent
            return Samples(0.0, why=f"{type(error).__name__}: {error}")

    def _samples(self, counter: Counter, versions: Sequence[str], seconds: float) -> Samples:
        if not isinstance(counter.where, Access):
            raise TypeError("a counter without a Prometheus")
        prometheus, at = Prometheus(counter.where, self._cluster), self._cluster.now()

        def part(name: Part, version: str) -> Sequence[Series]:
            query = counter.query(name, version, seconds)
            try:
                return parse(prometheus.ask(query, at))
            except BadQuery as error:
                raise BadQuery(f"{name}: {error}; the query is {query}") from None

        return Samples(at, {version: {name: part(name, version) for name in PARTS} for version in versions})

    def rehearse(self, counters: Sequence[Counter], versions: Sequence[str]) -> None:
        """Ask once, and write nothing. Raises ReleaseError for what cannot work; what does not answer may yet.

        ``versions``: canary, stable.
        """
        for counter in counters:
            try:
                samples = self._samples(counter, versions, counter.seconds(None, 0.0))
            except BadQuery as error:
                raise ReleaseError(f"counter {counter.name}: {error}") from None
            except (NoAnswer, Unusable, ApiError):
                continue
            for version, found in samples.series.items():
                total, bad = newest(found["total"]), newest(found["bad"])
                if bad > total:
                    raise ReleaseError(
                        f"counter {counter.name}: bad has counted {bad:,} of {version}, and total {total:,}; bad has "
                        "to be a part of total"
                    )
