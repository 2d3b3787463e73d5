# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One verdict from several metrics: a gate for each of them. Private to the collection, pure.

**fail** when any metric proves it with its own part of alpha_fail (`_metrics.tolerances`): the parts add up to
alpha_fail, so a canary within the tolerance of every metric fails with a probability of at most that (union bound). The
mean of all E's would find a little more, but when it did would depend on how windows of several metrics were cut, and a
verdict has to come out the same from stored evidence. **pass** when every metric that is counted passes by itself.
What speaks of the source, the split or the stable version is told by errors alone: all metrics have the same requests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ._gate import Gate
from ._verdict import ERRORS, Health, Tolerance, Verdict, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Panel:
    """Takes windows of all metrics in as they come, and tells the verdict at any time."""

    def __init__(
        self,
        tolerances: Mapping[str, Tolerance],
        before: tuple[int, int] = (0, 0),
        words: Mapping[str, str] | None = None,
    ) -> None:
        """``tolerances`` by metric, ERRORS among them; ``before`` as of Gate; ``words``: what makes a request bad."""
        self._gates = {name: Gate(t, before if name == ERRORS else (0, 0)) for name, t in tolerances.items()}
        self._words = words or {}

    @property
    def errors(self) -> Gate:
        """The gate of bad answers."""
        return self._gates[ERRORS]

    @property
    def weight(self) -> int:
        """The weight that verdicts are about, in percent."""
        return self.errors.weight

    def begin_step(self, step: int, weight: int) -> None:
        """The step that verdicts are about from now on."""
        for gate in self._gates.values():
            gate.begin_step(step, weight)

    def observe(self, window: Window, also: Mapping[str, Window]) -> None:
        """Take in what was counted between two looks: errors, and by name the other metrics."""
        self.errors.observe(window)
        for name, other in also.items():
            self._gates[name].observe(other)

    def replay(self, windows: Iterable[Window], also: Mapping[str, Iterable[Window]]) -> None:
        """Take in what was stored."""
        for name, past in ((ERRORS, windows), *also.items()):
            for window in past:
                self._gates[name].observe(window)
        self.begin_step(self.errors.step, self.errors.weight)  # whichever step a metric's last window is of

    def verdict(self, min_over: bool, source_ok: bool = True, why: str = "", health: Health | None = None) -> Verdict:
        """The verdict on all metrics together; the arguments as of Gate.verdict."""
        main = self.errors.verdict(min_over, source_ok, why, health)
        parts = [
            replace(gate.verdict(min_over=True), metric=name, words=self._words.get(name, name))
            for name, gate in self._gates.items()
            if name != ERRORS
        ]
        verdict = replace(main, also=tuple(parts))
        if main.kind == "fail":
            return verdict
        if failed := next((part for part in parts if part.kind == "fail"), None):
            return _decided(verdict, failed)
        behind = [part for part in parts if part.kind != "pass" and part.counts.n_c + part.counts.n_b]
        if behind and (main.kind == "pass" or (main.kind == "wait" and main.more_requests == 0)):
            return _decided(verdict, max(behind, key=lambda part: part.more_requests or float("inf")))
        return verdict


def _decided(verdict: Verdict, part: Verdict) -> Verdict:
    """The verdict that one of the other metrics decides."""
    return replace(
        verdict,
        kind="fail" if part.kind == "fail" else "wait",
        reason=f"{part.words}: {part.reason}",
        decided_by=part.metric,
        more_requests=part.more_requests,
        more_seconds=part.more_seconds,
    )
