# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab on itself: an engine of the test's own, on what `lab build` made, beside whatever lab runs already.

A few minutes. Everything is asked of the machine, by census.py, and not of the lab.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import census
import pytest
from lablib import paths

LAB = Path(__file__).resolve().parent / "lab"
MAIN = paths.places()


@dataclass
class Own:
    """A lab with a cache of its own. home: the user's, with a kubeconfig that must stay as it is."""

    cache: Path
    home: Path
    name: str

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PROGRESSIVE_ISTIO_CACHE": str(self.cache),
            "LAB_BUILT": str(MAIN.built),
            "HOME": str(self.home),
            "KUBECONFIG": str(self.home / ".kube/config"),
        }

    def lab(self, *words: str, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(LAB), *words], env=self.env | (env or {}), text=True, check=False, capture_output=True, timeout=900
        )
        assert done.returncode == code, f"lab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def kubectl(self, *words: str) -> str:
        return self.lab("run", "kubectl", *words).stdout

    def pid(self, daemon: str) -> int:
        return int(Path("/run", self.name, f"{daemon}.pid").read_text().split()[0])

    def state(self) -> dict[str, list[str]]:
        return census.state(self.name, MAIN.data, self.home)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """The test's own lab; removed at the end whatever happens."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "home/.kube").mkdir(parents=True)
    (folder / "home/.kube/config").write_text("apiVersion: v1\nkind: Config\ncurrent-context: the-user-s-own\n")
    os.environ["PROGRESSIVE_ISTIO_CACHE"], before = str(folder / "cache"), os.environ.get("PROGRESSIVE_ISTIO_CACHE")
    name = paths.places().name
    if before is None:
        del os.environ["PROGRESSIVE_ISTIO_CACHE"]
    else:
        os.environ["PROGRESSIVE_ISTIO_CACHE"] = before
    lab = Own(folder / "cache", folder / "home", name)
    assert name != MAIN.name, "the test must not meet the user's lab"
    try:
        yield lab
    finally:
        lab.lab("down", "--all")


@pytest.fixture
def nothing_left(own: Own) -> Iterator[None]:
    """Take a census before and after the test, which has to end with `down`."""
    before, processes, sockets = own.state(), census.processes(), census.shim_sockets()
    yield
    after, left = own.state(), census.new_processes(processes, own.name, own.cache, MAIN.data)
    if left:  # what has just been started by somebody else ends soon
        time.sleep(3)
        left = [one for one in census.new_processes(processes, own.name, own.cache, MAIN.data) if one in left]
    assert left == []
    for what, lines in before.items():
        assert sorted(set(after[what]) - set(lines)) == [], f"{what}: left behind"
        assert sorted(set(lines) - set(after[what])) == [], f"{what}: gone"
    # The folder of sockets is shared with other labs: theirs are in use, one that is left has no process at its end.
    assert census.shim_sockets() - sockets - census.unix_sockets() == set()


def _versions(own: Own) -> dict[str, str]:
    """Of every object that `up` makes: what any write changes, but not its status, which changes by itself."""
    kinds = "deployments,services,configmaps,clusterroles,clusterrolebindings,serviceaccounts"
    items = json.loads(own.kubectl("get", kinds, "-A", "-l", "!kubernetes.io/bootstrapping", "-o", "json"))["items"]
    return {
        f"{one['kind']}/{one['metadata']['name']}": str(
            one["metadata"].get("generation", one["metadata"]["resourceVersion"])
        )
        for one in items
        if one["metadata"].get("namespace", "monitoring") in ("monitoring", "kube-system")
    }


# When `up` is killed: a file that has just come, below the lab's run folder or its cache.
MOMENTS = {
    "dockerd starts": "/run/{name}/dockerd.pid",
    "kubeadm works": "{cache}/lab/clusters/lab/create.log:Starting control-plane",
    "kind is done": "{cache}/lab/clusters/lab/made",
}


def _killed_up(own: Own, moment: str) -> None:
    """Start `up` and kill it at a moment. What it said is lost; that it was at work is asserted."""
    file, _, text = MOMENTS[moment].format(name=own.name, cache=own.cache).partition(":")
    process = subprocess.Popen([str(LAB), "up"], env=own.env, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not (Path(file).exists() and text in Path(file).read_text()):
        assert process.poll() is None, "`up` ended by itself"
        assert time.monotonic() < end, f"{file} did not come"
        time.sleep(0.02)
    assert process.poll() is None, "`up` ended by itself"
    process.kill()
    process.wait()


def test_build_a_second_time_takes_a_second() -> None:
    began = time.monotonic()
    done = subprocess.run([str(LAB), "build"], text=True, check=True, capture_output=True)
    assert "everything is built" in done.stderr
    assert time.monotonic() - began < 5  # on a busy machine; a second on an idle one


@pytest.mark.usefixtures("nothing_left")
def test_up_run_down(own: Own) -> None:
    """A cluster is complete, a second `up` writes nothing, two live side by side, and `down` leaves nothing."""
    own.lab("up")
    assert own.kubectl("get", "--raw", "/readyz") == "ok"
    assert json.loads(own.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"))["items"]
    query = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query?query=up"
    assert json.loads(own.kubectl("get", "--raw", query))["status"] == "success"
    before = _versions(own)
    assert len(before) > 10
    assert "as it should be" in own.lab("up").stderr
    assert _versions(own) == before

    told = own.lab(
        "run", "sh", "-c", "echo $KUBECONFIG; echo $K8S_AUTH_KUBECONFIG; echo $LAB_VARS; exit 7", code=7
    ).stdout
    one, two, variables = told.split()
    assert one == two != str(own.home / ".kube/config")
    facts = json.loads(Path(variables).read_text().removeprefix("---\n"))
    assert (Path(facts["istio_charts"]) / "istiod/Chart.yaml").exists()

    own.kubectl("create", "configmap", "written")
    own.kubectl("create", "configmap", "dry", "--dry-run=server")
    log = [json.loads(line) for line in own.lab("audit").stdout.splitlines()]
    mine = [
        line for line in log if line["user"]["username"] == "kubernetes-admin" and "configmaps" in line["requestURI"]
    ]
    mine = [line for line in mine if line["objectRef"]["namespace"] == "default"]
    assert [(line["verb"], "dryRun=All" in line["requestURI"]) for line in mine] == [
        ("create", False),
        ("create", True),
    ]
    assert not [line for line in log if line["verb"] in ("get", "list", "watch")]

    own.lab("--cluster", "second", "up", "--istio")
    done = own.lab(
        "--cluster", "second", "run", "kubectl", "-n", "istio-system", "get", "deployment", "istiod", "-o", "name"
    )
    assert done.stdout.strip() == "deployment.apps/istiod"
    own.lab("status")
    own.lab("--cluster", "second", "down")
    assert own.kubectl("get", "configmap", "written", "-o", "name").strip() == "configmap/written"
    own.lab("down")
    own.lab("down")
    own.lab("status", code=1)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("moment", MOMENTS)
def test_down_after_a_kill_of_up(own: Own, moment: str) -> None:
    """SIGKILL of `up` alone, so that its children live on. `down` clears all."""
    _killed_up(own, moment)
    own.lab("down")


@pytest.mark.usefixtures("nothing_left")
def test_up_repairs(own: Own) -> None:
    """After a killed `up`, a stopped node, a killed engine: `up` again, and what was in the cluster is there."""
    _killed_up(own, "kubeadm works")
    assert "half made" in own.lab("up").stderr
    own.kubectl("create", "configmap", "mine")
    own.lab("run", "docker", "stop", "-t", "5", "lab-control-plane")
    own.lab("up")
    assert own.kubectl("get", "configmap", "mine", "-o", "name").strip() == "configmap/mine"
    for daemon in ("dockerd", "containerd"):
        os.kill(own.pid(daemon), signal.SIGKILL)
    assert "half dead" in own.lab("status", code=1).stdout
    assert "half dead" in own.lab("up").stderr
    assert own.kubectl("get", "configmap", "mine", "-o", "name").strip() == "configmap/mine"
    # And without a repair: the daemons are dead, the containers live.
    for daemon in ("dockerd", "containerd"):
        os.kill(own.pid(daemon), signal.SIGKILL)
    own.lab("down", "--all")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "true"), "cluster lab is not up: `lab --cluster lab up`"),
        (("audit",), "cluster lab is not up: `lab --cluster lab up`"),
        (("--cluster", "No", "up"), "--cluster: expected lower-case letters, digits and hyphens, 32 at most, got 'No'"),
    ],
)
def test_errors_are_one_line(own: Own, words: tuple[str, ...], message: str) -> None:
    done = own.lab(*words, code=1)
    assert done.stderr.strip() == f"lab: {message}"
    assert done.stdout == ""


def test_without_root(own: Own) -> None:
    """One line where it cannot work. The copy is for a user who may not look into root's folders."""
    copy = own.cache.parent / "copy"
    subprocess.run(["cp", "-r", str(LAB.parent), str(copy)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
    folder = copy
    while folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o011)
        folder = folder.parent
        if folder == Path("/tmp"):
            break
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(copy / "lab"), "--mode", "made", "build"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nowhere", "PROGRESSIVE_ISTIO_CACHE": "/nowhere"},
        text=True, check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "lab: the lab needs root (network namespaces, an engine of its own): run it with sudo\n"
