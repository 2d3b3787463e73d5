# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images made of files of this machine: no registry, no builder, one layer, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .host import find_envoy
from .paths import ISTIO, KUBERNETES, REGISTRY, Places
from .programs import module_folder
from .shell import LabError, output, system_env, write
from .steps import Step, Tick, digest

PATH_IN_IMAGE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KUBE_REGISTRY = "registry.k8s.io"
PAUSE = f"{KUBE_REGISTRY}/pause:3.10.2"
# The tags that kubeadm 1.36 asks for.
COREDNS = f"{KUBE_REGISTRY}/coredns/coredns:v1.14.2"
ETCD = f"{KUBE_REGISTRY}/etcd:3.6.8-0"


@dataclass(frozen=True)
class Image:
    """What an image holds. files: path in the image -> path here (the libraries that it loads come along)."""

    name: str
    files: Mapping[str, Path]
    entrypoint: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ("tmp",)
    user: str = ""
    env: tuple[str, ...] = field(default=())


def libraries(program: Path) -> set[Path]:
    """The shared libraries of a program, by ldd; none for a static one."""
    done = subprocess.run(
        ["ldd", str(program)],
        env=system_env(),
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return {Path(path) for path in re.findall(r"(/\S+)", done.stdout)} if done.returncode == 0 else set()


def _layer(image: Image) -> bytes:
    """The image's file system as a tar archive."""
    todo = dict(image.files)
    for source in image.files.values():
        for library in libraries(source):
            todo.setdefault(str(library), library)
    buffer = io.BytesIO()
    folders: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def folder(path: str) -> None:
            parts = [part for part in path.split("/") if part]
            for end in range(1, len(parts) + 1):
                name = "/".join(parts[:end])
                if name not in folders:
                    folders.add(name)
                    info = tarfile.TarInfo(name)
                    info.type = tarfile.DIRTYPE
                    info.mode = 0o1777 if name == "tmp" else 0o755
                    tar.addfile(info)

        for name in image.folders:
            folder(name)
        for target, source in sorted(todo.items()):
            folder(target.rpartition("/")[0])
            real = source.resolve()
            info = tarfile.TarInfo(target.strip("/"))
            info.size, info.mode = real.stat().st_size, real.stat().st_mode & 0o777
            with real.open("rb") as handle:
                tar.addfile(info, handle)
        for target, to in image.links:
            folder(target.rpartition("/")[0])
            info = tarfile.TarInfo(target.strip("/"))
            info.type, info.linkname = tarfile.SYMTYPE, to
            tar.addfile(info)
    return buffer.getvalue()


def config(
    layers: Iterable[str], entrypoint: Iterable[str], env: Iterable[str] = (), user: str = "", stop_signal: str = ""
) -> bytes:
    """The config of an image. layers: sha256 of each uncompressed layer."""
    inner: dict[str, object] = {
        "Entrypoint": list(entrypoint),
        "Env": [PATH_IN_IMAGE, *env],
        "User": user,
        "WorkingDir": "/",
    }
    if stop_signal:
        inner["StopSignal"] = stop_signal
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": inner,
            "created": "1970-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in layers]},
        }
    ).encode()


def add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_image(path: Path, image: Image) -> None:
    """Write a docker archive; beside it PATH.id with the hash of its config, the image's identity."""
    layer = _layer(image)
    text = config([hashlib.sha256(layer).hexdigest()], image.entrypoint, image.env, image.user)
    identity = hashlib.sha256(text).hexdigest()
    beside = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(beside, "w", format=tarfile.GNU_FORMAT) as tar:
        add_bytes(tar, f"{identity}.json", text)
        add_bytes(tar, "layer.tar", layer)
        manifest = [{"Config": f"{identity}.json", "RepoTags": [image.name], "Layers": ["layer.tar"]}]
        add_bytes(tar, "manifest.json", json.dumps(manifest).encode())
    beside.replace(path)
    write(path.with_suffix(".id"), identity)


def _iptables() -> tuple[dict[str, Path], tuple[tuple[str, str], ...]]:
    """nftables' iptables of this machine with its extensions, and the names it is called by."""
    program = Path("/usr/sbin/xtables-nft-multi")
    extensions = sorted(Path("/usr/lib/x86_64-linux-gnu/xtables").glob("*.so"))
    if not program.exists() or not extensions:
        raise LabError(
            "/usr/sbin/xtables-nft-multi or its extensions are not there: apt-get install --reinstall iptables"
        )
    links = tuple(
        (f"/usr/sbin/{name}{end}", "xtables-nft-multi")
        for name in ("iptables", "ip6tables", "iptables-nft", "ip6tables-nft")
        for end in ("", "-save", "-restore")
    )
    return {str(path): path for path in (program, *extensions)}, links


def node_images(places: Places) -> dict[str, Image]:
    """The images that kubeadm wants, for inside the node image."""

    def program(name: str) -> dict[str, Path]:
        return {f"/usr/local/bin/{name}": places.bin / name}

    tables, links = _iptables()
    images = {
        name: Image(f"{KUBE_REGISTRY}/{name}:v{KUBERNETES}", program(name), ())
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    }
    more = {"/usr/sbin/conntrack": Path("/usr/sbin/conntrack"), "/usr/sbin/nft": Path("/usr/sbin/nft")}
    images["kube-proxy"] = Image(
        f"{KUBE_REGISTRY}/kube-proxy:v{KUBERNETES}", {**program("kube-proxy"), **more, **tables}, (), links
    )
    images["etcd"] = Image(ETCD, program("etcd"), ())
    images["coredns"] = Image(COREDNS, {"/coredns": places.bin / "coredns"}, ("/coredns",))
    images["pause"] = Image(PAUSE, {"/pause": places.bin / "pause"}, ("/pause",))
    return images


def addon_images(places: Places) -> dict[str, Image]:
    """What a cluster needs beside Kubernetes and what seldom changes: these are in the node image, too."""

    def one(name: str, path: str) -> Image:
        return Image(f"{REGISTRY}/{name}:1", {path: places.bin / name}, (path,))

    applets = output(["/bin/busybox", "--list"]).split()
    tables, links = _iptables()
    envoy = find_envoy(places)
    if not envoy:
        raise LabError("Envoy is not there although it was installed: remove the stamp folder and build again")
    template = module_folder(places, "istio", "istio.io/istio") / "tools/packaging/common/envoy_bootstrap.json"
    return {
        "fortio": one("fortio", "/usr/bin/fortio"),
        "metrics-server": one("metrics-server", "/metrics-server"),
        "prometheus": one("prometheus", "/usr/bin/prometheus"),
        "busybox": Image(
            f"{REGISTRY}/busybox:1",
            {"/bin/busybox": Path("/bin/busybox")},
            ("/bin/sh",),
            tuple((f"/bin/{name}", "busybox") for name in applets if name != "busybox"),
        ),
        "pilot": Image(
            f"{REGISTRY}/istio/pilot:{ISTIO}",
            {"/usr/local/bin/pilot-discovery": places.bin / "pilot-discovery"},
            ("/usr/local/bin/pilot-discovery",),
            folders=("tmp", "etc/istio/config", "var/run/secrets"),
            user="1337:1337",
        ),
        "proxyv2": Image(
            f"{REGISTRY}/istio/proxyv2:{ISTIO}",
            {
                "/usr/local/bin/pilot-agent": places.bin / "pilot-agent",
                "/usr/local/bin/envoy": envoy,
                "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": template,
                **tables,
            },
            ("/usr/local/bin/pilot-agent",),
            links,
            user="1337:1337",
            folders=("tmp", "etc/istio/proxy", "var/run/secrets", "run", "var/lib/istio/data"),
        ),
    }


def app_images(places: Places) -> dict[str, Image]:
    """The images whose source is here and changes: loaded into each cluster by `up`."""
    return {
        name: Image(
            f"{REGISTRY}/{name}:1",
            {f"/{name}": places.bin / name, "/bin/busybox": Path("/bin/busybox")},
            (f"/{name}",),
            tuple((f"/bin/{applet}", "busybox") for applet in ("sh", "cat", "wget", "sleep")),
        )
        for name in ("hello", "client")
    }


def archive(places: Places, name: str) -> Path:
    return places.built / "images" / f"{name}.tar"


Sets = dict[str, tuple[Callable[[Places], dict[str, Image]], tuple[str, ...], float]]
SETS: Sets = {
    "node-images": (
        node_images,
        ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd", "coredns", "pause"),
        6,
    ),
    "addon-images": (addon_images, ("fortio", "metrics-server", "prometheus", "busybox", "pilot", "proxyv2"), 6),
    "app-images": (app_images, ("hello", "client"), 1),
}


def image_steps(places: Places, programs: Mapping[str, str]) -> list[Step]:
    """One step for each set of images. programs: name of a build step -> its key."""
    needs = {
        "node-images": ("kubernetes", "etcd", "coredns", "pause"),
        "app-images": ("hello",),
        "addon-images": ("fortio", "metrics-server", "prometheus", "istio", "istio-agent", "envoy"),
    }
    definition = Path(__file__).read_bytes()

    def make(name: str, _: Tick) -> None:
        for part, image in SETS[name][0](places).items():
            write_image(archive(places, part), image)

    return [
        Step(
            name,
            f"images: {', '.join(parts)}",
            seconds,
            digest(definition, *(programs[need] for need in needs[name])),
            tuple(archive(places, part) for part in parts),
            partial(make, name),
        )
        for name, (_, parts, seconds) in SETS.items()
    ]
