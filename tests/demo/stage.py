# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of the lab, seen from inside its network: its API, and the project's playbooks run as a user runs them.

Used by the demo, the soak and the bench. Everything but `enter` runs where `tests/lab/lab run` puts a command, so that
processes that are started here are really ansible-playbook and kubectl, and can be killed as such.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

CHECKOUT = Path(__file__).resolve().parents[2]
LAB = CHECKOUT / "tests" / "lab" / "lab"
EXAMPLE = CHECKOUT / "examples" / "hello.yml"
NAMESPACE, SERVICE = "namespace-1", "app-1"
RECORD = "progressive.istio/release"
Json: TypeAlias = "dict[str, Any]"

# What a user has set for other clusters must not reach this one, nor this one's commands theirs.
FOREIGN = ("K8S_AUTH_", "KUBE", "HELM_", "ANSIBLE_")
OURS = {"ANSIBLE_CONFIG": str(CHECKOUT / "tests" / "demo" / "ansible.cfg"), "PYTHONUNBUFFERED": "1"}
KEPT = ("ANSIBLE_COLLECTIONS_PATH",)
EVENT = re.compile(r"^\[[^\]]+\] \d\d:\d\d:\d\d  ")


def keep(name: str, output: Path | None, text: str, found: Json | None = None) -> None:
    """Write a result: ``docs/results/<name>-<date>.txt``, or where it is asked for; and its counts as JSON beside."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    path = output or CHECKOUT / "docs" / "results" / f"{name}-{day}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    if found is not None:
        path.with_suffix(".json").write_text(json.dumps(found, separators=(",", ":")) + "\n", "utf-8")


class StageError(Exception):
    """What was expected and is not there, on one line."""


def inside() -> str:
    """The cluster whose network this process is in; empty outside of any."""
    return os.environ.get("LAB_CLUSTER", "")


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what the user has set for clusters and for ansible, and with what these runs need."""
    kept = {k: v for k, v in environment.items() if k in KEPT or not k.startswith(FOREIGN)}
    return {**kept, **OURS}


def prepare(cluster: str, say: Callable[[str], None]) -> None:
    """Build the lab and bring the cluster up; both take a second or two when they are there. Raises StageError."""
    environment = clean(os.environ)
    for words in (["build"], ["--cluster", cluster, "up"]):
        began = time.monotonic()
        if subprocess.run([LAB, *words], env=environment, stdin=subprocess.DEVNULL, check=False).returncode:
            raise StageError(f"tests/lab/lab {' '.join(words)} failed; its last lines say why")
        say(f"tests/lab/lab {' '.join(words)}  {time.monotonic() - began:.0f} s")


def enter(cluster: str, module: str, arguments: Sequence[str]) -> NoReturn:
    """Become `python -m module` in the cluster's network."""
    words = [str(LAB), "--cluster", cluster, "run", sys.executable, "-B", "-m", module, *arguments]
    sys.stdout.flush()
    os.execve(words[0], words, clean(os.environ))


@dataclass(slots=True)
class Played:
    """A playbook that has run: exit code, seconds, all its lines, and those of its releases."""

    code: int
    seconds: float
    lines: list[str] = field(default_factory=list)

    @property
    def events(self) -> list[str]:
        """The live lines, without host and time."""
        return [EVENT.sub("", line) for line in self.lines if EVENT.match(line)]

    @property
    def recap(self) -> str:
        """`ok=.. changed=..` of the last host."""
        found = re.findall(r"^\S+ +: (ok=.*?) +unreachable=", "\n".join(self.lines), re.MULTILINE)
        return re.sub(r"\s+", " ", found[-1]) if found else ""

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        found = re.search(r"changed=(\d+)", self.recap)
        return int(found.group(1)) if found else -1


class Playing:
    """A playbook that runs, in a session of its own; every line goes to `show` as it comes."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], show: Callable[[str], None]) -> None:
        self.began = time.monotonic()
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            words,
            cwd=CHECKOUT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._follow, args=(show,), daemon=True)
        self._thread.start()

    def _follow(self, show: Callable[[str], None]) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip("\n"))
            show(self.lines[-1])

    def wait_for(self, pattern: str, seconds: float) -> float:
        """The time (epoch) at which a line matches. Raises StageError when none does, or the playbook ends before."""
        until, seen = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            lines = self.lines[seen:]
            seen += len(lines)
            if any(re.search(pattern, line) for line in lines):
                return time.time()
            if self.process.poll() is not None and not self._thread.is_alive() and seen == len(self.lines):
                raise StageError(f"the playbook ended with {self.process.returncode} before a line like {pattern!r}")
            time.sleep(0.05)
        raise StageError(f"no line like {pattern!r} within {seconds:.0f} s; the last was {self.lines[-1:]}")

    def end(self, seconds: float = 900.0) -> Played:
        """Wait for its end. Ends it when that takes longer (StageError) and when the wait is interrupted."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StageError(f"the playbook did not end within {seconds:.0f} s: {self.lines[-1:]}") from None
        finally:
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait()
        self._thread.join(5.0)
        return Played(self.process.returncode, time.monotonic() - self.began, self.lines)


class Stage:
    """The cluster that this process is in the network of. One `kubectl proxy` carries every question to its API."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self.namespace = namespace  # of the service that is looked at
        if not inside():
            raise StageError("this has to run in the network of a cluster: tests/lab/lab run")
        # `lab run` has set KUBECONFIG and K8S_AUTH_KUBECONFIG after `enter` took the user's away.
        self.environment = {**os.environ, **OURS}
        self._proxy = subprocess.Popen(
            ["kubectl", "proxy", "--port=0"], env=self.environment, stdout=subprocess.PIPE, text=True
        )
        said = self._proxy.stdout.readline() if self._proxy.stdout else ""
        address = re.search(r"127\.0\.0\.1:\d+", said)
        if address is None:
            raise StageError(f"kubectl proxy did not start: {said.strip() or 'no word of it'}")
        self.url = f"http://{address.group()}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_error: object) -> None:
        self._proxy.terminate()
        self._proxy.wait(10)

    # ------------------------------------------------------------ the API

    def call(self, path: str, method: str = "GET", body: Any = None, kind: str = "application/json") -> Any:
        """One request to the API server; JSON comes back. Raises StageError with its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind}, method=method)
        try:
            with self._opener.open(request, timeout=20) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise StageError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:300]}") from None
        except (OSError, ValueError) as error:
            raise StageError(f"{method} {path}: {error}") from None

    def route(self) -> Json:
        """The VirtualService of the example."""
        found: Json = self.call(f"/apis/networking.istio.io/v1/namespaces/{self.namespace}/virtualservices/{SERVICE}")
        return found

    def weights(self) -> dict[str, int]:
        """Weight by subset in the first route."""
        routes = self.route()["spec"]["http"][0]["route"]
        return {r["destination"]["subset"]: r.get("weight", 100 if len(routes) == 1 else 0) for r in routes}

    def record(self) -> Json:
        """The release on record; empty without one."""
        text = (self.route()["metadata"].get("annotations") or {}).get(RECORD)
        return json.loads(text) if text else {}

    def evidence(self) -> Json:
        """What the release has stored."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/progressive-istio-{SERVICE}"
        found: Json = json.loads(self.call(path)["data"]["evidence"])
        return found

    def pods(self, selector: str) -> list[Json]:
        """Pods of the example's namespace, without those on their way out."""
        items = self.call(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}")["items"]
        return [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]

    def ready(self, selector: str, count: int, seconds: float = 120.0) -> list[Json]:
        """Wait until exactly that many pods are there, and ready. Raises StageError."""
        until = time.monotonic() + seconds
        while True:
            pods = self.pods(selector)
            if len(pods) == count and all(map(is_ready, pods)):
                return pods
            if time.monotonic() > until:
                states = {p["metadata"]["name"]: is_ready(p) for p in pods}
                raise StageError(f"{count} ready pods with {selector} expected within {seconds:.0f} s: {states}")
            time.sleep(0.5)

    def kubectl(self, *words: str, stdin: str | None = None, seconds: float = 180.0) -> str:
        """Run kubectl; its output. Raises StageError."""
        done = subprocess.run(
            ["kubectl", *words],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise StageError(f"kubectl {' '.join(words)}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def apply(self, *objects: Json) -> None:
        """kubectl apply of these objects at once, as a person would."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "-f", "-", stdin=text)

    def faults(self, version: str, **values: object) -> int:
        """Tell every pod of a version to be bad in some way (see hello); how many were told."""
        pods = self.pods(f"app={SERVICE},version={version}")
        query = "&".join(f"{name}={value}" for name, value in values.items())
        for pod in pods:
            name = pod["metadata"]["name"]
            self.call(f"/api/v1/namespaces/{self.namespace}/pods/{name}:8081/proxy/faults?{query}", "PUT")
        return len(pods)

    def tell(self, version: str, faults: Mapping[str, object], seconds: float = 60.0) -> None:
        """The same, as soon as its pods listen."""
        until = time.monotonic() + seconds
        while True:
            try:
                if self.faults(version, **faults):
                    return
            except StageError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.5)

    def reset(self, live: str = "v1", **shares: int) -> None:
        """All traffic on one version (or as `shares` says), and no release on record: where every case begins."""
        route = self.route()
        for entry in route["spec"]["http"][0]["route"]:
            name = entry["destination"]["subset"]
            entry["weight"] = shares.get(name, 0) if shares else 100 * (name == live)
        patch = {"metadata": {"annotations": {RECORD: None}}, "spec": {"http": route["spec"]["http"]}}
        path = f"/apis/networking.istio.io/v1/namespaces/{self.namespace}/virtualservices/{SERVICE}"
        self.call(path, "PATCH", patch, "application/merge-patch+json")

    def audit(self, since: float) -> list[Json]:
        """Writes in the example's namespace from a time on (epoch), by the API server's audit log, without dry runs.

        Each with `at` (epoch), `verb`, `resource`, `name`, `agent`, `user`.
        """
        command = [str(LAB), "--cluster", inside(), "audit"]
        log = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout
        found = []
        for line in log.splitlines():
            entry = json.loads(line)
            at = datetime.fromisoformat(entry["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp()
            what = entry.get("objectRef") or {}
            if at >= since and what.get("namespace") == self.namespace and "dryRun" not in entry["requestURI"]:
                found.append(
                    {
                        "at": at,
                        "verb": entry["verb"],
                        "resource": what.get("resource", ""),
                        "name": what.get("name", ""),
                        "agent": entry.get("userAgent", ""),
                        "user": entry["user"].get("username", ""),
                    }
                )
        return found

    # ------------------------------------------------------------ playbooks

    def play(self, name: str, *words: str, show: Callable[[str], None] = lambda _line: None) -> Playing:
        """Start one of the project's playbooks with the example's variables, then `words`."""
        return Playing(
            ["ansible-playbook", f"playbooks/{name}.yml", "-e", f"@{EXAMPLE}", *words], self.environment, show
        )

    def played(self, name: str, *words: str) -> Played:
        """Run a playbook that has to end well. Raises StageError with its last lines."""
        done = self.play(name, *words).end()
        if done.code:
            said = [line for line in done.lines if line.startswith(("[ERROR]", "fatal:"))] or done.lines[-6:]
            raise StageError(f"playbooks/{name}.yml ended with {done.code}: " + " | ".join(said)[:600])
        return done


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether Kubernetes calls the pod ready."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


@contextmanager
def entered(namespace: str = NAMESPACE) -> Iterator[Stage]:
    """The stage, put away at the end whatever happens."""
    with Stage(namespace) as stage:
        yield stage


def machine() -> str:
    """The size of this machine, and how busy it is, on one line."""
    memory = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text("ascii"))
    gigabytes = int(memory.group(1)) / 1024**2 if memory else 0.0
    return f"{os.cpu_count()} cores, {gigabytes:.0f} GB, load average {os.getloadavg()[0]:.1f}"


def versions(stage: Stage) -> str:
    """What the run is made of, on one line."""
    import ansible  # there only in the environment of tests/env/setup

    release = re.search(r"^version: *(\S+)", (CHECKOUT / "galaxy.yml").read_text("utf-8"), re.MULTILINE)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    ).stdout.strip()
    kubernetes = stage.call("/version")["gitVersion"]
    images = [
        c["image"]
        for pod in stage.call("/api/v1/namespaces/istio-system/pods?labelSelector=app=istiod")["items"]
        for c in pod["spec"]["containers"]
    ]
    istio = images[0].rpartition(":")[2] if images else "not installed"
    core = getattr(ansible, "__version__", "") or __import__("ansible.release", fromlist=["x"]).__version__
    return (
        f"progressive.istio {release.group(1) if release else '?'} ({commit or 'no commit'}), ansible-core {core}, "
        f"Kubernetes {kubernetes}, Istio {istio}"
    )
