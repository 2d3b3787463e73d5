# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a release, kill it (SIGKILL) in the middle of a step, and watch what is left of it.

Usage: kill.py main|tree NAMESPACE SERVICE STEP COMMAND...   (STEP counts from 1)
Prints JSON: killed and left (numbers of processes), seconds until the last of those left was gone, and the
resourceVersions of the VirtualService and of the evidence right after the kill and some seconds later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RECORD = "progressive.istio/release"
START_SECONDS, LEFT_SECONDS, WATCH_SECONDS = 300.0, 30.0, 3.0


def get(namespace: str, kind: str, name: str) -> dict[str, Any]:
    """An object, or nothing while it is missing."""
    words = ["kubectl", "get", kind, name, f"--namespace={namespace}", "--output=json", "--ignore-not-found"]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output or "{}")
    return found


def versions(namespace: str, service: str) -> dict[str, str]:
    """resourceVersion of each object that a release writes in every step."""
    kinds = {"virtualservice": service, "configmap": f"progressive-istio-{service}"}
    return {kind: get(namespace, kind, name)["metadata"]["resourceVersion"] for kind, name in kinds.items()}


def step(namespace: str, service: str) -> int:
    """The step that the release on record is at, from 1; 0 without one."""
    text = get(namespace, "virtualservice", service)["metadata"].get("annotations", {}).get(RECORD, "")
    record = json.loads(text) if text else {}
    return int(record["step"]) + 1 if record.get("phase") == "progressing" else 0


def fields(pid: int) -> list[str]:
    """State, parent and so on of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return []


def tree(pid: int) -> list[int]:
    """The process and all its descendants, whatever sessions they are in."""
    parents = {int(path.name): fields(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = [pid]
    for parent in found:
        found += [child for child, stat in parents.items() if stat and int(stat[1]) == parent]
    return found


def running(pids: list[int]) -> list[int]:
    """Those of them that are neither gone nor zombies."""
    return [pid for pid in pids if (stat := fields(pid)) and stat[0] != "Z"]


def main() -> int:
    how, namespace, service, at, *command = sys.argv[1:]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        until = time.monotonic() + START_SECONDS
        while step(namespace, service) < int(at):
            if run.poll() is not None or time.monotonic() > until:
                run.kill()
                print(f"the release came to its end, or not to step {at}, before it could be killed", file=sys.stderr)
                return 1
            time.sleep(0.2)
        family = tree(run.pid)
        for pid in family if how == "tree" else family[:1]:
            os.kill(pid, signal.SIGKILL)
        run.wait()
    killed = time.monotonic()
    right_after = versions(namespace, service)
    left = running(family)
    count = len(left)
    while left and time.monotonic() - killed < LEFT_SECONDS:
        time.sleep(0.1)
        left = running(left)
    gone = time.monotonic() - killed
    time.sleep(WATCH_SECONDS)
    later = versions(namespace, service)
    told = {"family": len(family), "left": count, "stay": len(left), "gone_after": round(gone, 1)}
    print(json.dumps({**told, "right_after": right_after, "later": later, "step": step(namespace, service)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
