# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One kind cluster: make it, repair it, fill it, take it away."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import engine, leftovers, mesh, node, plain
from .images import SETS, archive
from .paths import SOURCE, Places
from .shell import LabError, locked, logged, output, say, succeeds, system_env, wait_for, write

MANIFESTS = ("metrics-server", "prometheus")
ROLLOUTS = (("kube-system", "coredns"), ("kube-system", "metrics-server"), ("monitoring", "prometheus"))


@dataclass(frozen=True)
class Cluster:
    """A cluster of a lab. mode: `made` (our engine, our images) or `plain` (the user's Docker, published images)."""

    places: Places
    name: str
    mode: str

    @property
    def folder(self) -> Path:
        return self.places.cluster(self.name)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def variables(self) -> Path:
        return self.folder / "vars.yml"

    @property
    def node(self) -> str:
        return f"{self.name}-control-plane"

    @property
    def prefix(self) -> list[str]:
        return engine.inside(self.places) if self.mode == "made" else []

    @property
    def env(self) -> dict[str, str]:
        """For kubectl, helm, kind: nothing of the user's is read or written."""
        base = engine.docker_env(self.places) if self.mode == "made" else plain.docker_env(self.places)
        return {
            **base,
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl"),
            "HELM_CACHE_HOME": str(self.folder / "helm"),
            "HELM_CONFIG_HOME": str(self.folder / "helm"),
            "HELM_DATA_HOME": str(self.folder / "helm"),
            leftovers.UP_MARK: f"{self.places.run}/{self.name}",
        }

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        return output([*self.prefix, "kubectl", *words], env=self.env, stdin=stdin, timeout=timeout)

    def in_node(self, *words: str) -> list[str]:
        return ["docker", "exec", "-i", self.node, *words]

    def answers(self) -> bool:
        return self.kubeconfig.exists() and succeeds(
            [*self.prefix, "kubectl", "get", "--raw", "/readyz"], env=self.env, timeout=8
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with locked(self.places.cache / "locks" / f"cluster-{self.name}", f"it works on cluster {self.name}"):
            yield


def _kind_config(cluster: Cluster) -> str:
    """kind's configuration as JSON (which is YAML): audit log, quick autoscalers, and what this machine needs."""
    policy = "/etc/kubernetes/lab-audit-policy.yaml"
    logs = "/var/log/kubernetes"
    api = {
        "extraArgs": [
            {"name": "audit-policy-file", "value": policy},
            {"name": "audit-log-path", "value": f"{logs}/audit.log"},
            {"name": "audit-log-maxsize", "value": "200"},
            {"name": "audit-log-maxbackup", "value": "1"},
        ],
        "extraVolumes": [
            {"name": "audit-policy", "hostPath": policy, "mountPath": policy, "readOnly": True, "pathType": "File"},
            {"name": "audit-log", "hostPath": logs, "mountPath": logs, "pathType": "DirectoryOrCreate"},
        ],
    }
    manager = {"extraArgs": [{"name": "horizontal-pod-autoscaler-sync-period", "value": "5s"}]}
    patches = [
        {"kind": "ClusterConfiguration", "apiServer": api, "controllerManager": manager},
        {"kind": "KubeletConfiguration", "failCgroupV1": False},
    ]
    config: dict[str, object] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "kubeadmConfigPatches": [json.dumps(patch) for patch in patches],
        "nodes": [
            {
                "role": "control-plane",
                "extraMounts": [
                    {"hostPath": str(cluster.folder / "audit-policy.yaml"), "containerPath": policy, "readOnly": True}
                ],
            }
        ],
    }
    if cluster.mode == "made":
        config["networking"] = {"disableDefaultCNI": True}
    return json.dumps(config, indent=1)


def _node_state(cluster: Cluster) -> str:
    """docker's word for the node's container: running, exited, created ...; empty if there is none."""
    done = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Status}}", cluster.node],
        env=cluster.env,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _delete(cluster: Cluster) -> None:
    output(["kind", "delete", "cluster", "--name", cluster.name, "--kubeconfig", cluster.kubeconfig], env=cluster.env)
    shutil.rmtree(cluster.folder, ignore_errors=True)


def _explain(cluster: Cluster) -> str:
    """What the node says when its cluster does not come up."""
    asked = (
        ("kubelet", cluster.in_node("journalctl", "-u", "kubelet", "-n", "4", "--no-pager", "-o", "cat")),
        (
            "containers",
            cluster.in_node(
                "sh",
                "-c",
                "ls -t /var/log/containers | head -3; cd /var/log/containers && "
                "tail -qn 1 $(ls -t *apiserver* *etcd* | head -2)",
            ),
        ),
    )
    lines = []
    for what, command in asked:
        done = subprocess.run(
            command,
            env=cluster.env,
            text=True,
            errors="replace",
            check=False,
            timeout=20,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        lines += [f"{what}: {line}" for line in done.stdout.splitlines() if line.strip()]
    return "\n".join(lines)


def _create(cluster: Cluster) -> None:
    shutil.rmtree(cluster.folder, ignore_errors=True)
    cluster.folder.mkdir(parents=True)
    shutil.copyfile(SOURCE / "manifests/audit-policy.yaml", cluster.folder / "audit-policy.yaml")
    write(cluster.folder / "kind.json", _kind_config(cluster))
    image = node.tag(cluster.places) if cluster.mode == "made" else plain.NODE
    log = cluster.folder / "create.log"
    try:
        logged(
            [
                *cluster.prefix,
                "kind",
                "create",
                "cluster",
                "--name",
                cluster.name,
                "--config",
                cluster.folder / "kind.json",
                "--image",
                image,
                "--kubeconfig",
                cluster.kubeconfig,
                "--retain",
            ],
            log,
            f"kind create cluster {cluster.name}",
            env=cluster.env,
            timeout=300,
        )
    except LabError as exc:
        raise LabError(
            f"{exc}; `lab --cluster {cluster.name} down` removes it", log.read_text() + _explain(cluster), 14
        ) from exc
    write(cluster.folder / "made", cluster.mode)


def _running(cluster: Cluster) -> bool:
    """Make the cluster run, from whatever state it is in. Returns whether it is new."""
    left = leftovers.orphans(cluster.places, cluster.name)
    if left:
        say(f"ending what a killed `up` left: {len(left)} processes")
        leftovers.kill(left)
    state = _node_state(cluster)
    made = (cluster.folder / "made").exists()
    if state and not made:
        say(f"cluster {cluster.name} is half made: removing it")
        _delete(cluster)
        state = ""
    if not state:
        say(f"kind create cluster {cluster.name}")
        _create(cluster)
        return True
    if state != "running":
        say(f"the node of cluster {cluster.name} is {state}: starting it")
        output(["docker", "start", cluster.node], env=cluster.env)
    if not cluster.kubeconfig.exists():
        output(
            [
                *cluster.prefix,
                "kind",
                "export",
                "kubeconfig",
                "--name",
                cluster.name,
                "--kubeconfig",
                cluster.kubeconfig,
            ],
            env=cluster.env,
        )
    if not wait_for(cluster.answers, 5 if state == "running" else 90, 0.5):
        if state == "running":
            say(f"the API server of cluster {cluster.name} does not answer: starting the node again")
            output(["docker", "restart", "-t", "20", cluster.node], env=cluster.env)
        if not wait_for(cluster.answers, 90, 0.5):
            raise LabError(
                f"cluster {cluster.name} does not come back: `lab --cluster {cluster.name} down`, then up",
                _explain(cluster),
            )
    return False


def load(cluster: Cluster, path: Path, name: str) -> bool:
    """Import an image archive into the node's containerd, unless it has just this one already."""
    identity = path.with_suffix(".id").read_text()
    mark = f"/kind/lab-images/{name}"
    done = subprocess.run(
        cluster.in_node("cat", mark),
        env=cluster.env,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if done.stdout.strip() == identity:
        return False
    import_archive(cluster, path)
    output(cluster.in_node("sh", "-c", f"mkdir -p /kind/lab-images && cat >{mark}"), env=cluster.env, stdin=identity)
    return True


def import_archive(cluster: Cluster, path: Path) -> None:
    with path.open("rb") as stream:
        logged(
            cluster.in_node("ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-"),
            cluster.folder / "images.log",
            f"loading {path.name} into {cluster.name}",
            env=cluster.env,
            stdin=stream,
        )


def _load_images(cluster: Cluster) -> None:
    sets = ("addon-images", "app-images") if cluster.mode == "made" else ("app-images",)
    loaded = [part for name in sets for part in SETS[name][1] if load(cluster, archive(cluster.places, part), part)]
    if cluster.mode == "plain":
        loaded += plain.load_images(cluster.name, cluster.env, cluster.in_node)
    if loaded:
        say(f"images loaded: {', '.join(loaded)}")


def _addons(cluster: Cluster) -> None:
    """metrics-server and Prometheus, by server-side apply: a second time it changes nothing."""
    for name in MANIFESTS:
        cluster.kubectl(
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=lab",
            "-f",
            str(SOURCE / "manifests" / f"{name}.yaml"),
        )


def _rollouts(cluster: Cluster, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    for namespace, name in ROLLOUTS:
        left = max(end - time.monotonic(), 1)
        try:
            cluster.kubectl(
                "-n", namespace, "rollout", "status", f"deployment/{name}", f"--timeout={left:.0f}s", timeout=left + 10
            )
        except LabError as exc:
            told = cluster.kubectl("-n", namespace, "get", "pods,events", "--sort-by=.metadata.creationTimestamp")
            raise LabError(f"{namespace}/{name} is not ready after {seconds:.0f} s", told) from exc
    if not wait_for(
        lambda: succeeds(
            [*cluster.prefix, "kubectl", "get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"], env=cluster.env
        ),
        max(end - time.monotonic(), 1),
        0.5,
    ):
        raise LabError(
            "the metrics API does not answer",
            cluster.kubectl("get", "apiservice", "v1beta1.metrics.k8s.io", "-o", "yaml"),
        )


def up(cluster: Cluster, *, istio: bool) -> None:
    """Make what is missing, repair what is half dead. Idempotent."""
    with (
        cluster.lock(),
        locked(engine.lock_file(cluster.places).with_name("users"), "it stops the engine", shared=True),
    ):
        if cluster.mode == "made":
            engine.ensure(cluster.places)
        new = _running(cluster)
        if cluster.mode == "made":
            engine.favour(cluster.places)
        _load_images(cluster)
        _addons(cluster)
        write(cluster.variables, mesh.variables(cluster.places, cluster.mode))
        if istio:
            mesh.install(cluster.places, cluster.prefix, cluster.env, cluster.folder / "istio.log", cluster.mode)
        _rollouts(cluster)
        say(f"cluster {cluster.name} is {'up' if new else 'as it should be'}")


def names(places: Places, mode: str, env: Mapping[str, str]) -> list[str]:
    """All clusters of this engine, half-made ones too."""
    if mode == "made" and not engine.answers(places):
        return sorted(entry.name for entry in (places.cache / "clusters").glob("*"))
    known = output(["kind", "get", "clusters", "-q"], env=env).split()
    mine = [entry.name for entry in (places.cache / "clusters").glob("*")]
    return sorted({*known, *mine}) if mode == "made" else sorted(set(known) & set(mine))


def down(cluster: Cluster) -> None:
    """Remove the cluster, and the engine with the last one. Nothing to do is no error."""
    places = cluster.places
    with cluster.lock():
        leftovers.kill(leftovers.orphans(places, cluster.name))
        if cluster.mode == "plain":
            if cluster.folder.exists():
                _delete(cluster)
            return
        if engine.answers(places):
            existed = bool(_node_state(cluster)) or cluster.folder.exists()
            _delete(cluster)
            leftovers.remove_cgroups(places, frozenset(engine.containers(places, everything=True).values()))
            if existed:
                say(f"cluster {cluster.name} removed")
        shutil.rmtree(cluster.folder, ignore_errors=True)
    _down_unused(places)


def _remove_engine(places: Places) -> None:
    existed = places.run.exists()
    engine.remove(places)
    if existed:
        say("engine removed")


def prime(places: Places) -> None:
    """Load the node image into the engine now, so that `up` need not; the engine stays only if it was there."""
    say("loading the node image into the engine: about 0:25")
    with locked(engine.lock_file(places).with_name("users"), "it stops the engine", shared=True):
        before = places.run.exists()
        engine.ensure(places)
    if not before:
        _down_unused(places)


def _down_unused(places: Places) -> None:
    """Remove the engine unless it has clusters or somebody is making one."""
    others = names(places, "made", engine.docker_env(places))
    with locked(engine.lock_file(places).with_name("users"), "", wait=False) as alone:
        if alone and not others:
            with locked(engine.lock_file(places), "it starts or stops the engine"):
                _remove_engine(places)


def down_all(places: Places, mode: str) -> None:
    """Remove every cluster and the engine, also when all of it is half dead."""
    env = engine.docker_env(places) if mode == "made" else plain.docker_env(places)
    for name in names(places, mode, env):
        down(Cluster(places, name, mode))
    if mode == "made":
        with (
            locked(engine.lock_file(places).with_name("users"), "it makes a cluster"),
            locked(engine.lock_file(places), "it starts or stops the engine"),
        ):
            _remove_engine(places)
    shutil.rmtree(places.cache / "clusters", ignore_errors=True)


def audit(cluster: Cluster) -> str:
    """The API server's audit log: one JSON object a line."""
    return output(cluster.in_node("cat", "/var/log/kubernetes/audit.log"), env={**system_env(), **cluster.env})
