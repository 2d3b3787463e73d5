# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running commands, saying what happens, failing in one line with the log that explains it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_begun = time.monotonic()


class LabError(Exception):
    """What went wrong and what to do, one line; and, where there is one, the log that tells more."""

    def __init__(self, text: str, log: Path | str | None = None, lines: int = 8) -> None:
        super().__init__(text)
        self.log = log
        self.lines = lines

    def tail(self) -> list[str]:
        """The last lines of the log that are not empty."""
        if self.log is None:
            return []
        if isinstance(self.log, Path):
            try:
                text = self.log.read_text(errors="replace")
            except OSError:
                return []
        else:
            text = self.log
        return [line.rstrip() for line in text.splitlines() if line.strip()][-self.lines :]


def say(text: str) -> None:
    """One line for the user, with the seconds since the start, on stderr: stdout belongs to `run` and `audit`."""
    print(f"lab {time.monotonic() - _begun:5.0f}s  {text}", file=sys.stderr, flush=True)


def system_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A small environment that no proxy, Docker context or kubeconfig of the user can reach."""
    env = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    env.update(extra or {})
    return env


def output(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = 120,
) -> str:
    """Standard output of a short command; LabError with its last lines when it fails or is not done in time."""
    args = [str(part) for part in command]
    try:
        done = subprocess.run(
            args,
            env=dict(env) if env is not None else system_env(),
            cwd=cwd,
            input=stdin,
            text=True,
            errors="replace",
            capture_output=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL if stdin is None else None,
            check=False,
        )
    except FileNotFoundError as exc:
        raise LabError(f"the program {args[0]} is not there: run `lab build`") from exc
    except subprocess.TimeoutExpired as exc:
        raise LabError(f"`{' '.join(args[:4])} ...` took longer than {timeout:.0f} s") from exc
    if done.returncode:
        raise LabError(f"`{' '.join(args[:6])}` ended with {done.returncode}", done.stderr + done.stdout)
    return done.stdout


def succeeds(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout: float = 30) -> bool:
    """Whether a short command ends with 0 within `timeout` seconds."""
    try:
        output(command, env=env, timeout=timeout)
    except LabError:
        return False
    return True


def logged(
    command: Sequence[str | Path],
    log: Path,
    what: str,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | None = None,
    timeout: float = 3600,
    tick: Callable[[float], None] | None = None,
) -> None:
    """Run a long command with its output in a file; `tick` is called every second with the seconds so far."""
    log.parent.mkdir(parents=True, exist_ok=True)
    args = [str(part) for part in command]
    with log.open("ab") as out:
        out.write(f"$ {' '.join(args)}\n".encode())
        out.flush()
        try:
            process = subprocess.Popen(
                args,
                env=dict(env) if env is not None else system_env(),
                cwd=cwd,
                stdin=stdin or subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as exc:
            raise LabError(f"the program {args[0]} is not there: run `lab build`") from exc
        started = time.monotonic()
        try:
            code: int | None = None
            while code is None:
                try:
                    code = process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    spent = time.monotonic() - started
                    if spent > timeout:
                        raise LabError(f"{what}: not done after {timeout:.0f} s (log: {log})", log) from None
                    if tick:
                        tick(spent)
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait()
    if code:
        raise LabError(f"{what}: ended with {code} (log: {log})", log)


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.2) -> bool:
    """Whether the condition became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


@contextlib.contextmanager
def locked(path: Path, what: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file; yields whether it was got (always, if `wait`). It dies with the process, whatever kills it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a+") as handle:
        got = False
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            got = True
        except BlockingIOError:
            if wait:
                say(f"waiting for another lab process: {what}")
                fcntl.flock(handle, mode)
                got = True
        yield got


def write(path: Path, text: str) -> None:
    """Write a file so that nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text)
    new.replace(path)
