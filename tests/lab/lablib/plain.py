# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The other way: plain kind on the user's own Docker, with published images. Not tried."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from .host import docker_answers
from .paths import KUBERNETES, REGISTRY, Places
from .shell import SYSTEM_PATH, LabError, output

NODE = f"kindest/node:v{KUBERNETES}"
ISTIO_HUB = "registry.istio.io/release"
# Published image -> the name that the lab's manifests and tests use.
PUBLISHED = {
    "registry.k8s.io/metrics-server/metrics-server:v0.9.0": f"{REGISTRY}/metrics-server:1",
    "quay.io/prometheus/prometheus:v3.16.0": f"{REGISTRY}/prometheus:1",
    "docker.io/fortio/fortio:1.66.5": f"{REGISTRY}/fortio:1",
    "docker.io/library/busybox:1.37": f"{REGISTRY}/busybox:1",
}
PROGRAMS = ("hello", "kind", "istio", "helm", "fortio", "kubectl")


def docker_env(places: Places) -> dict[str, str]:
    """The user's Docker as he has it (context, proxies), and a kubeconfig that is not his."""
    return {**os.environ, "PATH": f"{places.tools}:{os.environ.get('PATH', SYSTEM_PATH)}"}


def possible() -> bool:
    """Whether Docker answers and the node image can be had: asks the registry, pulls nothing."""
    if not docker_answers():
        return False
    for command in (["docker", "image", "inspect", NODE], ["docker", "manifest", "inspect", NODE]):
        try:
            done = subprocess.run(
                command, check=False, timeout=20, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return True
    return False


def load_images(cluster: str, env: Mapping[str, str], in_node: Callable[..., list[str]]) -> list[str]:
    """Pull the published images, give them the lab's names, load what the node has not."""
    present = output(in_node("ctr", "-n", "k8s.io", "images", "ls", "-q"), env=env)
    loaded = []
    for published, name in PUBLISHED.items():
        if name in present:
            continue
        try:
            output(["docker", "image", "inspect", published], env=env)
        except LabError:
            output(["docker", "pull", "-q", published], env=env, timeout=600)
        output(["docker", "tag", published, name], env=env)
        output(["kind", "load", "docker-image", name, "--name", cluster], env=env, timeout=300)
        loaded.append(Path(name).name)
    return loaded
