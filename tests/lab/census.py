# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a machine, counted without help of the lab's own code, to be compared before and after.

Another lab on the same machine may work at the same time: what carries *its* name is left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("/run", "/etc/docker", "/etc/cni", "/etc/containerd", "/opt/cni", "/var/lib/docker", "/var/lib/containerd",
           "/var/lib/cni", "/var/lib/kubelet", "/var/run/netns", "/usr/sbin/policy-rc.d")  # fmt: skip
SYSCTLS = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom",
           "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
           "fs/inotify/max_user_instances", "fs/inotify/max_user_watches")  # fmt: skip

PROGRAMS = re.compile(
    r"^(docker.*|containerd.*|runc|kind|kube.*|etcd|coredns|pause|systemd.*|nsenter|ctr|helm|pilot.*|envoy|prometheus|"
    r"metrics-server|hello|client|fortio|unshare)$"
)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


_NAMED = re.compile(
    r"(?:/run/|/run/netns/|/sys/fs/cgroup/|/sys/fs/cgroup/[\w,=]+/|:/|^)(progressive-istio(?:-[0-9a-f]{6})?)(?![\w-])"
)


def _foreign(text: str, name: str, data: Path) -> bool:
    """Whether a text speaks of another lab than the one of this name. data: where the other keeps its engine's data."""
    return str(data) in text or any(found != name for found in _NAMED.findall(text))


def _stat(pid: int) -> list[str]:
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def processes() -> dict[tuple[int, str], int]:
    """(pid, start time) -> parent, of all processes that are no zombies."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if len(fields) > 19 and fields[0] not in "ZX":
                found[int(entry.name), fields[19]] = int(fields[1])
    return found


def new_processes(before: dict[tuple[int, str], int], name: str, cache: Path, data: Path) -> list[str]:
    """Processes that were not there before and whom nobody looks after: their line of parents is new up to init.

    Counted are those that have the lab's name or cache somewhere about them, and all that run a program such as the lab
    runs, unless they speak of another lab: the rest of a machine goes on working meanwhile.
    """
    now = processes()
    starts = dict(now.keys())
    left = []
    for (pid, start), parent in now.items():
        if (pid, start) in before:
            continue
        above = parent
        while above > 1 and (above, starts.get(above, "")) not in before and above in starts:
            above = now[above, starts[above]]
        if above > 1:
            continue
        told = [_text(Path(f"/proc/{pid}/{part}")) for part in ("environ", "cgroup", "cmdline")]
        ours = any(name in text or str(cache) in text for text in told)
        known = PROGRAMS.search(_text(Path(f"/proc/{pid}/comm")).strip())
        if ours or (known and not any(_foreign(text, name, data) for text in told)):
            left.append(f"{pid} {told[2].replace(chr(0), ' ')[:120]}")
    return left


def _output(*command: str) -> list[str]:
    done = subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE)
    return done.stdout.splitlines()


def _firewall() -> list[str]:
    lines = []
    for program in ("iptables-save", "ip6tables-save", "iptables-legacy-save"):
        lines += [f"{program}: {line}" for line in _output(program) if not line.startswith("#")]
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in lines]


def _tree(folder: Path) -> Iterator[str]:
    if folder.exists():
        yield str(folder)
        for parent, folders, files in os.walk(folder):
            folders[:] = [one for one in folders if one not in ("user", "log", "lock", "postgresql")]
            yield from (f"{parent}/{one}" for one in (*folders, *files))


def _may_be_ours(cgroup: str) -> bool:
    """Not one below another program's own: those come and go with what it runs."""
    below = Path(cgroup).relative_to("/sys/fs/cgroup")
    return len(below.parts) <= 2 or re.search(r"docker|containerd|kube|kind|istio", cgroup) is not None


def state(name: str, data: Path, *homes: Path) -> dict[str, list[str]]:
    """Everything but processes, each as a sorted list. homes: folders that must not change, nor their files."""
    found = {
        "mounts": [" ".join(line.split(" ")[3:5]) for line in _text(Path("/proc/self/mountinfo")).splitlines()],
        "cgroups": [one for one in _tree(Path("/sys/fs/cgroup")) if Path(one).is_dir() and _may_be_ours(one)],
        "firewall": _firewall(),
        "links": [line.split(":")[1].strip() for line in _output("ip", "-o", "link")],
        "namespaces": _output("ip", "netns", "list"),
        "files": [one for folder in FOLDERS for one in _tree(Path(folder))],
        "home": [f"{one} {_text(Path(one))}" for home in homes for one in _tree(home)],
        "sysctls": [f"{one} {_text(Path('/proc/sys', one)).strip()}" for one in SYSCTLS],
    }
    # Shims of all labs have their sockets in one folder, by hash. These folders are as good as not there when empty.
    no_matter = re.compile(r"^/run/(containerd(/s(/[0-9a-f]{64})?)?|netns|docker|docker/plugins|mount)$")
    return {
        what: sorted(
            line for line in lines if not _foreign(line, name, data) and not (what == "files" and no_matter.match(line))
        )
        for what, lines in found.items()
    }


def shim_sockets() -> set[str]:
    """Sockets in the folder that all labs share."""
    return {str(entry) for entry in Path("/run/containerd/s").glob("*")}


def unix_sockets() -> set[str]:
    """Paths of the Unix sockets that are open in any network namespace of this machine."""
    namespaces = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            namespaces[(entry / "ns/net").readlink()] = entry
    lines = [line.split() for entry in namespaces.values() for line in _text(entry / "net/unix").splitlines()]
    return {fields[7] for fields in lines if len(fields) > 7}
