# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs steps, each with a log of its own and a line of the report. Knows nothing of what the steps are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

TAIL = 40  # lines of the log that are shown when a step fails
TERM_SECONDS = 20.0  # how long a command may clean up after SIGTERM


class Failed(Exception):
    """A step that did not pass. The message is one line; `failed` of `passed + failed` checks did not pass."""

    def __init__(self, message: str, *, passed: int = 0, failed: int = 1) -> None:
        super().__init__(message)
        self.passed = passed
        self.failed = failed


class Commands:
    """The commands that run now, so that an interrupted run leaves none behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    @contextlib.contextmanager
    def started(
        self, command: Sequence[str], cwd: Path | None, environment: Mapping[str, str], output: IO[bytes]
    ) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            if self._stopping:
                raise Failed("interrupted")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            yield process
        finally:
            stop(process)
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Refuse new commands and end those that run."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        for process in running:
            stop(process)

    def resume(self) -> None:
        """Allow commands again: for what has to be cleaned up after an interruption."""
        with self._lock:
            self._stopping = False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started in its own session: SIGTERM, then SIGKILL after TERM_SECONDS."""
    for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


@dataclass(slots=True)
class Log:
    """What a step may use: its log file and a way to run commands into it."""

    path: Path
    commands: Commands
    environment: Mapping[str, str] = field(default_factory=dict)
    code: int = 0  # what the last command ended with

    def write(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")

    def text(self) -> str:
        return self.path.read_text("utf-8", "replace")

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 600.0,
        follow: bool = False,
        may_fail: bool = False,
    ) -> str:
        """Run a command; its output (both streams) is returned and logged, with `follow` also shown as it comes.

        Raises Failed when it ends with another code than 0 (unless it `may_fail`) or takes longer than `seconds`.
        """
        words = [str(word) for word in command]
        everything = {**os.environ, **self.environment, **(environment or {})}
        self.write("$ " + " ".join(words))
        at = self.path.stat().st_size
        with self.path.open("ab") as stream, self.commands.started(words, cwd, everything, stream) as process:
            ended = self._wait(process, at, seconds, follow)
        if ended is None:
            raise Failed(f"`{words[0].rpartition('/')[2]}` took longer than {seconds:.0f} s and was stopped")
        self.code = ended
        if ended and not may_fail:
            raise Failed(f"`{' '.join([words[0].rpartition('/')[2], *words[1:4]])}` ended with {ended}")
        return self.path.read_bytes()[at:].decode("utf-8", "replace")

    def _wait(self, process: subprocess.Popen[bytes], at: int, seconds: float, follow: bool) -> int | None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5 if follow else max(0.0, deadline - time.monotonic()))
            if follow:
                fresh = self.path.read_bytes()[at:]
                at += len(fresh)
                sys.stdout.write(fresh.decode("utf-8", "replace"))
                sys.stdout.flush()
            if process.returncode is not None:
                return process.returncode
            if time.monotonic() >= deadline:
                return None


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the report. `work` returns how many checks passed.

    live: it works with clusters, so most of its time is waiting. It starts when the steps of `needs` have passed and
    those of `after` have ended. optional: where time is short it may be left out, and is named.
    """

    name: str
    group: str
    about: str
    work: Callable[[Log], int]
    live: bool = False
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    step: Step
    seconds: float
    passed: int
    failed: int
    message: str
    left_out: bool = False

    @property
    def ok(self) -> bool:
        return self.failed == 0 and not self.left_out


class Runner:
    """Runs steps and prints a line for each: those that compute one after the other, live ones two at a time beside.
    When no live one is left, who ran those computes, too.

    An optional step is left out when time.monotonic() is beyond ``late``.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], late: float | None = None) -> None:
        self.commands = Commands()
        self.results: list[Result] = []
        self.started: set[str] = set()
        self._open: set[str] = set()  # the names of the steps that have not ended
        self._logs = logs
        self._environment = environment
        self._late = late
        self._printing = threading.Lock()
        self._choosing = threading.Lock()
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, steps: Sequence[Step]) -> list[Result]:
        """Run everything, also after a failure; a step whose `needs` failed counts as failed."""
        self._open = {step.name for step in steps}
        quiet, live = [step for step in steps if not step.live], [step for step in steps if step.live]
        lanes = [(quiet,), (live,), (live, quiet)]
        with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
            try:
                for future in [pool.submit(self._lanes, lane) for lane in lanes]:
                    future.result()
            except BaseException:
                quiet.clear()
                live.clear()
                self.commands.stop()
                raise
        return self.results

    def _lanes(self, lanes: Sequence[list[Step]]) -> None:
        for waiting in lanes:
            self._lane(waiting)

    def _lane(self, waiting: list[Step]) -> None:
        """Run steps until none is waiting; two lanes may share a list."""
        while waiting:
            with self._choosing:
                ready = [step for step in waiting if not self._open.intersection((*step.needs, *step.after))]
                if ready:
                    waiting.remove(ready[0])
            if not ready:
                time.sleep(0.2)
                continue
            try:
                self.one(ready[0])
            finally:
                self._open.discard(ready[0].name)

    def one(self, step: Step) -> Result:
        if step.optional and self._late is not None and time.monotonic() > self._late:
            return self._ended(Result(step, 0.0, 0, 0, "no time left for it", left_out=True))
        log = Log(self._logs / f"{step.name.replace('/', '-')}.log", self.commands, self._environment)
        log.path.write_text("", "utf-8")
        began = time.monotonic()
        self.started.add(step.name)
        broken = [result.step.name for result in self.results if not result.ok and result.step.name in step.needs]
        passed, failed, message = 0, 0, ""
        if step.live:
            self._say(f"....  {step.name}: {step.about}")
        try:
            if broken:
                raise Failed(f"not run: {broken[0]} failed")
            passed = step.work(log)
            if passed < 1:
                raise Failed("it checked nothing")
        except Failed as error:
            passed, failed, message = error.passed, error.failed, str(error)
        except OSError as error:
            failed, message = 1, str(error)
        result = self._ended(Result(step, time.monotonic() - began, passed, failed, message))
        if failed and not broken:
            tail = log.text().splitlines()[-TAIL:]
            self._say("".join(f"    | {text}\n" for text in tail) + f"    | log: {log.path}")
        return result

    def _ended(self, result: Result) -> Result:
        self.results.append(result)
        self._say(line(result))
        return result

    def _say(self, text: str) -> None:
        with self._printing:
            print(text, flush=True)


def line(result: Result) -> str:
    if result.left_out:
        return f"NOT RUN  {result.step.name}: {result.message}"
    mark = "ok  " if result.ok else "FAIL"
    text = f"{mark}  {result.step.name:<18} {result.seconds:6.1f} s  {result.passed} passed"
    if result.failed:
        text += f", {result.failed} failed"
    return f"{text}: {result.message}" if result.message else text


def table(results: Sequence[Result]) -> str:
    """The closing table and the closing line, `N passed, N failed`, alone on its line; before it what was not run."""
    rows = ["", *(line(result) for result in results), ""]
    left_out = [result.step.name for result in results if result.left_out]
    rows += [f"not run: {', '.join(left_out)}"] if left_out else []
    rows.append(f"{sum(result.passed for result in results)} passed, {sum(result.failed for result in results)} failed")
    return "\n".join(rows)
