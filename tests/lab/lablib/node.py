# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node image of kind without a registry: Debian, kind's own files, our Kubernetes, the images of a node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from .host import may_give_every_capability
from .images import PAUSE, SETS, add_bytes, archive, config
from .paths import KUBERNETES, REGISTRY, SOURCE, Places
from .programs import module_folder
from .shell import LabError, logged, output, system_env, write
from .steps import Step, Tick, digest, digest_files

SUITE = "bookworm"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "conntrack",
    "iptables",
    "nftables",
    "iproute2",
    "ethtool",
    "util-linux",
    "mount",
    "kmod",
    "procps",
    "jq",
    "ca-certificates",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "hostname",
    "ebtables",
    "socat",
    "curl",
)
# Units that make no sense in a node: kind's own image drops the same.
WANTS = (
    "lib/systemd/system/multi-user.target.wants",
    "lib/systemd/system/local-fs.target.wants",
    "lib/systemd/system/basic.target.wants",
    "etc/systemd/system/multi-user.target.wants",
)
LIMITS = ("LimitNOFILE", "LimitNPROC", "LimitCORE", "OOMScoreAdjust", "TasksMax")
# A containerd for the import alone: content and metadata, no CRI, nothing that mounts.
IMPORT_CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.zfs"]
"""
IMPORT = """set -e
mount -t proc proc /proc
containerd --config /lab-import/config.toml >/lab-import/containerd.log 2>&1 &
for n in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
for file in /lab-import/*.tar; do ctr -n k8s.io images import --no-unpack "$file"; done
kill $!
wait $! || true
"""


def folder(places: Places) -> Path:
    return places.built / "node"


def tag(places: Places) -> str:
    """The name of the node image in the engine: it changes with the contents."""
    return f"{REGISTRY}/node:{identity(places)[:12]}"


def identity(places: Places) -> str:
    """Hash of the node image's config, its identity in the engine."""
    try:
        return (folder(places) / "id").read_text().strip()
    except FileNotFoundError:
        raise LabError("the node image is not built: run `lab build`") from None


def _root_file_system(places: Places, log: Path, tick: Tick) -> None:
    target = places.built / "rootfs.tar"
    beside = target.with_name("rootfs.new.tar")
    beside.unlink(missing_ok=True)
    logged(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, beside],
        log,
        "mmdebstrap of the node's root file system",
        env={**os.environ, **system_env()},
        tick=tick,
    )
    beside.replace(target)


def _edit(root: Path, places: Places) -> None:
    """kind's files and settings into an unpacked Debian."""
    files = module_folder(places, "kind", "sigs.k8s.io/kind") / "images/base/files"
    for part in ("etc", "kind", "usr"):
        for source in sorted((files / part).rglob("*")):
            target = root / source.relative_to(files)
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                target.chmod(0o755 if target.parent.name == "bin" else 0o644)
    for name in (
        "etc/kubernetes/manifests",
        "opt/cni/bin",
        "kind/manifests",
        "kind/lab-images",
        "etc/cni/net.d",
        "usr/local/sbin",
        "var/log/kubernetes",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)

    containerd = root / "etc/containerd/config.toml"
    text = containerd.read_text()
    if 'registry.k8s.io/pause:3.10"' not in text:
        raise LabError("kind's containerd config names another pause image than expected: look at lablib/node.py")
    containerd.write_text(text.replace('registry.k8s.io/pause:3.10"', PAUSE + '"'))
    for name in ("containerd", "ctr", "containerd-shim-runc-v2"):
        _link(root / "usr/local/bin" / name, f"/usr/bin/{name}")
    if may_give_every_capability():
        _link(root / "usr/local/sbin/runc", "/usr/sbin/runc")
    else:
        shutil.copy(SOURCE / "node/runc-without-sys-resource", root / "usr/local/sbin/runc")
        for unit in [*root.glob("etc/systemd/system/*.service"), *root.glob("etc/systemd/system/*.d/*.conf")]:
            lines = unit.read_text().splitlines(keepends=True)
            unit.write_text("".join(line for line in lines if not line.startswith(LIMITS)))
    shutil.copytree(root / "usr/lib/cni", root / "opt/cni/bin", symlinks=True, dirs_exist_ok=True)
    shutil.copyfile(SOURCE / "node/10-lab.conflist", root / "etc/cni/net.d/10-lab.conflist")

    spec = json.loads(output(["chroot", root, "ctr", "oci", "spec"]))
    spec.setdefault("hooks", {}).setdefault("createContainer", []).append({"path": "/kind/bin/mount-product-files.sh"})
    spec["process"].pop("rlimits", None)
    (root / "etc/containerd/cri-base.json").write_text(json.dumps(spec))

    for wants in WANTS:
        for entry in (root / wants).glob("*"):
            entry.unlink()
    for pattern in ("*udev*", "*initctl*"):
        for entry in (root / "lib/systemd/system/sockets.target.wants").glob(pattern):
            entry.unlink()
    (root / "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service").unlink(missing_ok=True)
    with (root / "etc/systemd/journald.conf").open("a") as handle:
        handle.write("ReadKMsg=no\n")
    (root / "etc/machine-id").write_text("")
    shutil.copyfile(SOURCE / "node/lab-no-service-yet.service", root / "etc/systemd/system/lab-no-service-yet.service")
    output(
        [
            "chroot",
            root,
            "systemctl",
            "-q",
            "enable",
            "kubelet.service",
            "containerd.service",
            "undo-mount-hacks.service",
            "lab-no-service-yet.service",
        ]
    )
    output(["chroot", root, "systemctl", "-q", "mask", "systemd-binfmt.service"])

    for name in ("kubelet", "kubectl", "kubeadm"):
        shutil.copyfile(places.bin / name, root / "usr/bin" / name)
        (root / "usr/bin" / name).chmod(0o755)
    (root / "kind/version").write_text(f"v{KUBERNETES}\n")
    # The network is the conflist above, and there is no volume provisioner; kind applies what it finds here.
    (root / "kind/manifests/default-cni.yaml").write_text("")
    (root / "kind/manifests/default-storage.yaml").write_text(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: standard}\nprovisioner: lab.invalid/none\n"
    )


def _link(path: Path, to: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def _import_images(root: Path, places: Places, log: Path) -> None:
    """Put images into the node's containerd, in a mount and process namespace that ends with the import."""
    work = root / "lab-import"
    work.mkdir()
    (work / "config.toml").write_text(IMPORT_CONFIG)
    names = [part for name in ("node-images", "addon-images") for part in SETS[name][1]]
    for part in names:
        os.link(archive(places, part), work / f"{part}.tar")
        write(root / "kind/lab-images" / part, archive(places, part).with_suffix(".id").read_text())
    logged(
        [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "chroot",
            root,
            "sh",
            "-c",
            IMPORT,
        ],
        log,
        "importing images into the node image",
    )
    for leftover in ("run/containerd", "lab-import"):
        shutil.rmtree(root / leftover, ignore_errors=True)
    found = list((root / "var/lib/containerd/io.containerd.content.v1.content/blobs/sha256").glob("*"))
    if len(found) < 3 * len(names):
        raise LabError(f"the node image should hold {3 * len(names)} blobs and has {len(found)}", log)


def _make(places: Places, log: Path, tick: Tick) -> None:
    work = places.built / "work/node"
    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    root.mkdir(parents=True)
    folder(places).mkdir(parents=True, exist_ok=True)
    logged(
        ["tar", "-C", root, "--numeric-owner", "-xf", places.built / "rootfs.tar"], log, "unpacking Debian", tick=tick
    )
    _edit(root, places)
    _import_images(root, places, log)
    layer = folder(places) / "layer.tar"
    logged(
        ["tar", "-C", root, "--numeric-owner", "--sort=name", "--mtime=@0", "-cf", layer, "."],
        log,
        "packing the node image",
        tick=tick,
    )
    with layer.open("rb") as handle:
        diff = hashlib.file_digest(handle, "sha256").hexdigest()
    text = config([diff], ("/usr/local/bin/entrypoint", "/sbin/init"), ("container=docker",), stop_signal="SIGRTMIN+3")
    write(folder(places) / "config.json", text.decode())
    write(folder(places) / "id", hashlib.sha256(text).hexdigest())
    shutil.rmtree(work)


def node_steps(places: Places, logs: Path, keys: Mapping[str, str]) -> list[Step]:
    """The root file system and the node image. keys: of the steps before."""
    rootfs = digest(SUITE, *PACKAGES)
    key = digest(
        rootfs,
        keys["node-images"],
        keys["addon-images"],
        keys["kubernetes"],
        keys["kind"],
        Path(__file__).read_bytes(),
        digest_files(SOURCE / "node", ("*",)),
        str(may_give_every_capability()),
    )
    return [
        Step(
            "rootfs",
            "Debian for the node image",
            40,
            rootfs,
            (places.built / "rootfs.tar",),
            lambda tick: _root_file_system(places, logs / "rootfs.log", tick),
        ),
        Step(
            "node",
            "the node image",
            30,
            key,
            tuple(folder(places) / name for name in ("layer.tar", "config.json", "id")),
            lambda tick: _make(places, logs / "node.log", tick),
        ),
    ]


def loaded(places: Places) -> bool:
    """Whether the engine, running or not, has this node image: looked up in dockerd's own files."""
    return any((places.data / "docker/image").glob(f"*/imagedb/content/sha256/{identity(places)}"))


def load(places: Places, env: Mapping[str, str]) -> bool:
    """Load the node image into the engine, if it is not there; streamed, without another copy on disk."""
    name = tag(places)
    done = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", name],
        env=dict(env),
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if done.returncode == 0 and done.stdout.strip() == f"sha256:{identity(places)}":
        return False
    process = subprocess.Popen(
        ["docker", "load", "-q"], env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin
    assert process.stdout
    text = (folder(places) / "config.json").read_bytes()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    try:
        with tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.GNU_FORMAT) as tar:
            for part, data in (("config.json", text), ("manifest.json", json.dumps(manifest).encode())):
                add_bytes(tar, part, data)
            tar.add(folder(places) / "layer.tar", "layer.tar")
        process.stdin.close()
    except BrokenPipeError:
        pass
    answer = process.stdout.read().decode(errors="replace")
    if process.wait():
        raise LabError("docker load of the node image failed", answer)
    return True
