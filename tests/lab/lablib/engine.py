# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker engine of the lab's own: Debian's containerd and dockerd in a network namespace that has no way out."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from . import leftovers, node
from .host import may_give_every_capability, missing_packages
from .paths import REGISTRY, SOURCE, Places
from .shell import LabError, locked, output, say, succeeds, system_env, wait_for, write

# Settings of the whole machine that kubelet changes, and the one that many clusters need more of: put back by `down`.
SYSCTLS = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
)
INOTIFY_INSTANCES = 1024
# Folders outside of any root that containerd, dockerd, ip and umount make; removed where they are empty at the end.
EMPTIED = tuple(
    map(
        Path, ("/run/containerd/s", "/run/containerd", "/run/netns", "/run/docker/plugins", "/run/docker", "/run/mount")
    )
)
# Plugins of containerd that the lab does not need and that complain.
SNAPSHOTTERS = ("aufs", "btrfs", "devmapper", "zfs")


def lock_file(places: Places) -> Path:
    return places.cache / "locks/engine"


def docker_env(places: Places) -> dict[str, str]:
    """The environment in which `docker` and `kind` talk to this engine, and never to another."""
    return system_env(
        {
            "DOCKER_HOST": places.docker_socket,
            "DOCKER_CONFIG": str(places.cache / "docker-config"),
            "HOME": str(places.cache),
            "PATH": f"{places.tools}:{system_env()['PATH']}",
            leftovers.MARK: str(places.run),
        }
    )


def inside(places: Places) -> list[str]:
    """What stands before a command in the engine's network namespace (`ip netns exec` would hide the cgroups)."""
    return ["nsenter", f"--net={places.netns}", "--"]


def answers(places: Places) -> bool:
    return (
        succeeds(["docker", "version"], env=docker_env(places), timeout=10)
        if (places.run / "docker.sock").exists()
        else False
    )


def containers(places: Places, *, everything: bool = False) -> dict[str, str]:
    """Name -> full id of the engine's containers, running ones or all."""
    text = output(
        ["docker", "ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}", *(["-a"] if everything else [])],
        env=docker_env(places),
    )
    return dict(line.split() for line in text.splitlines())


def _daemon_alive(places: Places, name: str) -> bool:
    try:
        pid, _, start = (places.run / f"{name}.pid").read_text().strip().partition(" ")
    except FileNotFoundError:
        return False
    return bool(start) and leftovers.start_time(int(pid)) == start


def _start_daemon(places: Places, name: str, command: list[str | Path]) -> None:
    """Start a daemon that outlives this process; its pid file holds its start time too, for pids come back."""
    environment = system_env({leftovers.MARK: str(places.run), "HOME": str(places.run)})
    with (places.run / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [*inside(places), *map(str, command)],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    write(places.run / f"{name}.pid", f"{process.pid} {leftovers.start_time(process.pid)}")


def _settings(places: Places) -> None:
    run = places.run
    capable = may_give_every_capability()
    daemon: dict[str, object] = {
        "data-root": str(places.data / "docker"),
        "exec-root": str(run / "docker"),
        "pidfile": str(run / "docker.pid"),
        "hosts": [places.docker_socket],
        "containerd": str(run / "containerd.sock"),
        "cgroup-parent": f"/{places.name}",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "log-level": "warn",
        "deprecated-key-path": str(run / "key.json"),
    }
    if not capable:
        daemon["runtimes"] = {"lab": {"path": str(run / "runc")}}
        daemon["default-runtime"] = "lab"
        shutil.copy(SOURCE / "node/runc-without-sys-resource", run / "runc")
    write(run / "daemon.json", json.dumps(daemon, indent=1))
    unused = ["io.containerd.grpc.v1.cri", *(f"io.containerd.snapshotter.v1.{name}" for name in SNAPSHOTTERS)]
    lines = [
        "version = 2",
        f'root = "{places.data}/containerd"',
        f'state = "{run}/containerd"',
        f"disabled_plugins = {json.dumps(unused)}",
        "[grpc]",
        f'address = "{run}/containerd.sock"',
        "[debug]",
        'level = "warn"',
    ]
    write(run / "containerd.toml", "\n".join(lines) + "\n")


def _namespace(places: Places) -> None:
    if not leftovers.mounts(places.netns):
        netns = places.netns.parent
        netns.mkdir(parents=True, exist_ok=True)
        places.netns.touch()
        output(["unshare", f"--net={places.netns}", "true"])
    output([*inside(places), "sh", "-c", "ip link set lo up && echo 1 >/proc/sys/net/ipv4/ip_forward"])


def _save_sysctls(places: Places) -> None:
    kept = places.run / "sysctls.json"
    if not kept.exists():
        values = {
            name: Path("/proc/sys", name).read_text().strip() for name in SYSCTLS if Path("/proc/sys", name).exists()
        }
        write(kept, json.dumps(values))
    instances = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(instances.read_text()) < INOTIFY_INSTANCES:
        _set(instances, str(INOTIFY_INSTANCES))


def _set(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as exc:
        say(f"{path} stays as it is: {exc.strerror}")


def favour(places: Places) -> None:
    """Give the clusters ten times the weight of one process outside; by default all of them together have one's.

    Otherwise a compiler or a test beside them starves their proxies, and users' requests fail for no fault of ours.
    """
    for path, value in (
        (Path("/sys/fs/cgroup/cpu", places.name, "cpu.shares"), "10240"),
        (Path("/sys/fs/cgroup", places.name, "cpu.weight"), "1000"),
    ):
        if path.exists():
            _set(path, value)


def _restore_sysctls(places: Places) -> None:
    kept = places.run / "sysctls.json"
    if kept.exists():
        for name, value in json.loads(kept.read_text()).items():
            path = Path("/proc/sys", name)
            if path.read_text().strip() != value:
                _set(path, value)


def ensure(places: Places) -> None:
    """The engine runs, answers and has the node image; repairs what is half dead. Hold no lock of the engine."""
    if missing_packages():
        raise LabError(f"Debian packages are missing ({' '.join(missing_packages())}): run `lab build`")
    with locked(lock_file(places), "it starts or stops the engine"):
        alive = all(_daemon_alive(places, name) for name in ("containerd", "dockerd"))
        if not (alive and leftovers.mounts(places.netns) and answers(places)):
            if places.run.exists():
                say("the engine is half dead: taking away what is left and starting it again")
                stop_daemons(places)
                leftovers.sweep(places)
            _start(places)
        if node.load(places, docker_env(places)):
            say("node image loaded into the engine")
            _drop_old_images(places)


def _drop_old_images(places: Places) -> None:
    """Remove older node images; Docker refuses, rightly, where a cluster still uses one."""
    text = output(
        ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{REGISTRY}/node"], env=docker_env(places)
    )
    for name in text.split():
        if name != node.tag(places):
            subprocess.run(
                ["docker", "rmi", name],
                env=docker_env(places),
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


def _start(places: Places) -> None:
    places.run.mkdir(parents=True, exist_ok=True)
    places.data.mkdir(parents=True, exist_ok=True)
    _save_sysctls(places)
    _settings(places)
    _namespace(places)
    run = places.run
    _start_daemon(places, "containerd", ["containerd", "--config", run / "containerd.toml"])
    if not wait_for(
        lambda: (run / "containerd.sock").exists() or not _daemon_alive(places, "containerd"), 20
    ) or not _daemon_alive(places, "containerd"):
        raise LabError("containerd of the lab does not start", run / "containerd.log")
    _start_daemon(places, "dockerd", ["dockerd", "--config-file", run / "daemon.json"])
    if not wait_for(lambda: answers(places) or not _daemon_alive(places, "dockerd"), 60) or not answers(places):
        raise LabError("dockerd of the lab does not start", run / "dockerd.log")
    say("engine started")


def stop_daemons(places: Places) -> None:
    """Ask dockerd, then containerd, to end: each may take 20 s."""
    for name, grace in (("dockerd", 20.0), ("containerd", 5.0)):
        if _daemon_alive(places, name):
            leftovers.kill({int((places.run / f"{name}.pid").read_text().split()[0])}, grace)


def remove(places: Places) -> None:
    """Stop the engine and take away all of it but the images in the cache. Hold the engine's lock."""
    if answers(places):
        left = list(containers(places, everything=True))
        if left:
            output(["docker", "rm", "-f", "-v", *left], env=docker_env(places))
        for command in (["volume", "prune", "-f"], ["network", "prune", "-f"]):
            subprocess.run(
                ["docker", *command],
                env=docker_env(places),
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
    stop_daemons(places)
    leftovers.sweep(places)
    _forget_dead_containers(places)
    _restore_sysctls(places)
    run = places.run
    shutil.rmtree(run, ignore_errors=True)
    leftovers.remove_empty(*EMPTIED)


def _forget_dead_containers(places: Places) -> None:
    """Remove the data of an engine that was killed and so has records of containers that are no more.

    Their file systems would stay for ever. The next `up` loads the node image again.
    """
    if any((places.data / "docker/containers").glob("*")):
        shutil.rmtree(places.data, ignore_errors=True)


def status(places: Places) -> Mapping[str, str]:
    """For `lab status`."""
    if not places.run.exists():
        return {"engine": "not running"}
    dead = [name for name in ("containerd", "dockerd") if not _daemon_alive(places, name)]
    if dead:
        return {"engine": f"half dead ({', '.join(dead)} has gone): `lab up` repairs, `lab down --all` removes"}
    return {
        "engine": f"running ({places.docker_socket})" if answers(places) else "does not answer",
        "namespace": str(places.netns),
    }
