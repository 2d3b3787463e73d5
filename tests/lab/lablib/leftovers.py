# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab leaves on a machine, found by marks that only the lab sets, and taken away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .paths import Places
from .shell import say, system_env

# In the environment of everything that the lab starts: the run folder; and, for the commands of `up`, the cluster.
MARK = "PROGRESSIVE_ISTIO_LAB"
UP_MARK = "PROGRESSIVE_ISTIO_LAB_UP"
_CGROUPS = Path("/sys/fs/cgroup")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def ancestors() -> set[int]:
    """This process and those above it."""
    found, pid = set(), os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        status = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        pid = int(status[1]) if len(status) > 1 else 0
    return found


def _has_mark(pid: int, mark: str, value: str) -> bool:
    return f"{mark}={value}".encode() in _read(f"/proc/{pid}/environ").split(b"\0")


def _pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def netns_of(pid: int | str) -> tuple[int, int] | None:
    """Device and inode of a process's network namespace."""
    try:
        found = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def processes(places: Places) -> set[int]:
    """Processes of this lab: in its network namespace, in its cgroups, or with its mark; not this one."""
    try:
        found = places.netns.stat()
        inside: tuple[int, int] | None = (found.st_dev, found.st_ino)
    except OSError:
        inside = None
    if inside == netns_of("self"):
        inside = None
    below = f":/{places.name}/".encode()
    result = set()
    for pid in _pids():
        if (
            (inside and netns_of(pid) == inside)
            or any(below in line + b"/" for line in _read(f"/proc/{pid}/cgroup").splitlines())
            or _has_mark(pid, MARK, str(places.run))
        ):
            result.add(pid)
    return result - ancestors()


def orphans(places: Places, cluster: str) -> set[int]:
    """What an `up` of this cluster started and did not live to see end. Ask only while holding the cluster's lock."""
    value = f"{places.run}/{cluster}"
    return {pid for pid in _pids() if _has_mark(pid, UP_MARK, value)} - ancestors()


def kill(pids: set[int], grace: float = 2.0) -> None:
    """SIGTERM, then SIGKILL after `grace` seconds; a pid that now is another process is left alone."""
    started = {pid: start for pid in pids if (start := start_time(pid))}
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        alive = {pid for pid, start in started.items() if start_time(pid) == start}
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + patience
        while time.monotonic() < end and any(start_time(pid) == start for pid, start in started.items()):
            time.sleep(0.05)


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot; empty if there is none or only a zombie."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return fields[19].decode() if len(fields) > 19 and fields[0] not in (b"Z", b"X") else ""


def mounts(*below: Path) -> list[str]:
    """Mount points at or below the given paths, the deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].replace("\\040", " ")
        if any(point == str(path) or point.startswith(f"{path}/") for path in below):
            points.append(point)
    return sorted(points, key=lambda point: (-point.count("/"), point))


def unmount(*below: Path) -> None:
    for point in mounts(*below):
        command = ["umount", point]
        if subprocess.run(command, env=system_env(), check=False, stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*command, "-l"], env=system_env(), check=False, stderr=subprocess.DEVNULL)


def cgroups(places: Places) -> list[Path]:
    """The lab's cgroups in all hierarchies, the deepest first."""
    roots = [path / places.name for path in [_CGROUPS, *_CGROUPS.glob("*")] if (path / places.name).is_dir()]
    return sorted(
        {folder for root in roots for folder in [root, *(Path(name) for name, _, _ in os.walk(root))]},
        key=lambda folder: (-len(folder.parts), folder),
    )


def remove_cgroups(places: Places, keep: frozenset[str] = frozenset()) -> None:
    """Remove the lab's empty cgroups: kind leaves some when it deletes a cluster. keep: ids of living containers."""
    for _ in range(20):
        busy = False
        for folder in cgroups(places):
            if keep and (folder.name == places.name or keep.intersection(folder.parts)):
                continue
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                busy = True
        if not busy:
            return
        time.sleep(0.1)


def shim_sockets(places: Places) -> list[Path]:
    """Sockets of containerd's shims: at a fixed place outside of any root, named in the bundles."""
    found = []
    for address in (places.run / "containerd").glob("io.containerd.runtime.v2.task/*/*/address"):
        text = _read(str(address)).decode(errors="replace").removeprefix("unix://").strip()
        if text.startswith("/run/containerd/s/"):
            found.append(Path(text))
    return found


def sweep(places: Places) -> None:
    """Take away everything of this engine that still stands, whoever was killed before."""
    for _ in range(5):
        left = processes(places)
        if not left:
            break
        kill(left)
    left = processes(places)
    if left:
        say(f"these processes do not end: {sorted(left)}")
    for socket in shim_sockets(places):
        socket.unlink(missing_ok=True)
    unmount(places.run, places.data)
    remove_cgroups(places)
    if places.netns.exists():
        unmount(places.netns)
        places.netns.unlink(missing_ok=True)


def remove_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
