# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs a release, and whether that somebody still lives. Private to this collection.

A killed ansible-playbook leaves its worker, and the worker its module, running. So the action plugin hands down the
processes that the module works for, and the module asks before every write whether they are still there. A process is
told by its boot, its PID namespace, its number and its start (numbers are used again).
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Process: TypeAlias = "dict[str, str | int]"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()  # a process may have any name
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def process(pid: int) -> Process:
    """A process of this machine, so that it can be known again."""
    return {"boot": _read("/proc/sys/kernel/random/boot_id"), "ns": _namespace(), "pid": pid, "start": started(pid)}


def started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when it is gone (or a zombie)."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def is_dead(proc: Mapping[str, Any]) -> bool:
    """Whether a process is gone for certain: only a process of this boot and PID namespace can be known to be."""
    here = process(os.getpid())
    if not here["boot"] or (proc["boot"], proc["ns"]) != (here["boot"], here["ns"]):
        return False
    return started(int(proc["pid"])) != str(proc["start"])


def new_id() -> str:
    """``host/random``: the lease's holder identity."""
    return f"{socket.gethostname()}/{secrets.token_hex(4)}"


def who() -> str:
    """``user@host``, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def handed_down() -> dict[str, Any]:
    """What the action plugin gives to every module call of one run: the run's id, and the processes it lives by."""
    return {"id": new_id(), "processes": [process(os.getppid()), process(os.getpid())]}


class Run:
    """The run that a module call belongs to. Without an action plugin it lives by the module's parent process."""

    def __init__(self, given: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None) -> None:
        """``options``: what whoever takes its release over has to know."""
        self.by, self.options = who(), options or {}
        self.id: str = given["id"] if given else new_id()
        self._processes: Sequence[Mapping[str, Any]] = given["processes"] if given else [process(os.getppid())]
        self.process: Mapping[str, Any] = self._processes[0]

    def alive(self) -> bool:
        """Whether nobody that this run lives by is known to be dead."""
        return not any(is_dead(proc) for proc in self._processes)

    @staticmethod
    def knows_dead(proc: Mapping[str, Any]) -> bool:
        """Whether the process of another run is gone for certain."""
        return is_dead(proc)
