# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of `build`: each has a key made of the contents it depends on, and is done once for each key."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .shell import LabError, say, write

Tick = Callable[[float], None]


def digest(*parts: str | bytes) -> str:
    """A hash of texts, each with its length so that they cannot run into each other."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(f"{len(data)}:".encode() + data)
    return total.hexdigest()


def digest_files(folder: Path, patterns: Iterable[str]) -> str:
    """A hash of names and contents of the files below a folder."""
    files = sorted({file for pattern in patterns for file in folder.rglob(pattern) if file.is_file()})
    return digest(*(part for file in files for part in (str(file.relative_to(folder)).encode(), file.read_bytes())))


@dataclass(frozen=True)
class Step:
    """One thing that `build` makes.

    seconds: what it costs on two cores with empty caches (measured), for the estimate of what remains.
    key: hash of everything that its results depend on.
    results: files that exist when it has been done.
    """

    name: str
    what: str
    seconds: float
    key: str
    results: tuple[Path, ...]
    action: Callable[[Tick], object]


class Stamps:
    """Which steps are done, one small file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, step: Step) -> bool:
        stamp = self.folder / step.name
        try:
            return stamp.read_text() == step.key and all(result.exists() for result in step.results)
        except FileNotFoundError:
            return False

    def forget(self, step: Step) -> None:
        (self.folder / step.name).unlink(missing_ok=True)

    def set(self, step: Step) -> None:
        write(self.folder / step.name, step.key)


def minutes(seconds: float) -> str:
    """Seconds as m:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 60}:{whole % 60:02}"


def run_steps(steps: list[Step], stamps: Stamps, pause: float = 15.0) -> int:
    """Do the steps that are not done; a line for each, and one every `pause` seconds within it. Returns how many.

    What remains is the sum of the steps' measured costs, scaled by how this machine did so far.
    """
    todo = [step for step in steps if not stamps.done(step)]
    spent = planned = 0.0
    for number, step in enumerate(todo, 1):
        pace = spent / planned if planned > 30 else 1.0
        rest = sum(later.seconds for later in todo[number:]) * pace
        expected = step.seconds * pace
        head = f"[{number}/{len(todo)}] {step.what}"
        say(f"{head}: about {minutes(expected)}" + (f", then {minutes(rest)}" if rest else ""))
        spoken = 0.0

        def tick(seconds: float, head: str = head, expected: float = expected, rest: float = rest) -> None:
            nonlocal spoken
            if seconds - spoken >= pause:
                spoken = seconds
                left = max(expected - seconds, 0.1 * expected) + rest
                say(f"{head}: {minutes(seconds)} so far, about {minutes(left)} left in all")

        stamps.forget(step)
        began = time.monotonic()
        step.action(tick)
        missing = [str(result) for result in step.results if not result.exists()]
        if missing:
            raise LabError(f"{step.what}: ended well but did not make {missing[0]}")
        stamps.set(step)
        spent += time.monotonic() - began
        planned += step.seconds
    return len(todo)
