# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events as they happen, and the result at the end. Private to this collection."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._plan import Outcome


class Journal:
    """Events of one module call: for its result, and at once in a file that the action plugin reads along."""

    def __init__(self, path: str, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self.clock = clock
        self.events: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        """One line for a person. The file is only a copy; a run without it is told everything at the end."""
        event = {"time": time.strftime("%H:%M:%S", time.gmtime(self.clock())), "text": text}
        self.events.append(event)
        if self._path:
            try:
                with Path(self._path).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(event) + "\n")
            except OSError:
                self._path = ""


def result_of(outcome: Outcome, events: list[dict[str, Any]]) -> dict[str, Any]:
    """The module's result for a pass of a release."""
    result: dict[str, Any] = {
        "phase": outcome.phase,
        "failed": outcome.failed,
        "finished": outcome.finished,
        "changed": outcome.changed,
        "weight": outcome.weight,
        "events": events,
        "msg": outcome.text,
    }
    if outcome.record:
        result.update(
            release_id=outcome.record.id,
            step=outcome.record.step + 1,
            steps=len(outcome.record.steps),
            weights=outcome.record.weights(),
        )
    if outcome.evidence and outcome.evidence.checks.tallies:
        result["checks"] = outcome.evidence.checks.shown()
    if outcome.verdict:
        result["verdict"] = outcome.verdict.to_dict()
    return result
