# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Lease that says who runs a release. Private to this collection.

Advisory: what keeps two runs apart is the record in every write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster
from ansible_collections.progressive.istio.plugins.module_utils._record import OURS
from ansible_collections.progressive.istio.plugins.module_utils._run import Run

LEASES = "coordination.k8s.io/v1"
LEASE_SECONDS = 15
PROCESS = "progressive.istio/process"


def metadata_of(namespace: str, name: str) -> dict[str, Any]:
    """Of an object that is this collection's own."""
    return {"name": name, "namespace": namespace, "labels": dict(OURS)}


class Lease:
    """One release's Lease, as one run sees it. Every method may raise ApiError and NoAnswer."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, run: Run, say: Callable[[str], None]) -> None:
        self.cluster, self.namespace, self.name, self.run, self.say = cluster, namespace, name, run, say
        self._held: dict[str, Any] | None = None

    def acquire(self) -> str:
        """Take it; the empty string, or who has it. Waits as long as it takes to know that a holder is dead."""
        lease = self._read()
        if lease is None:
            return self._write("POST", {"metadata": metadata_of(self.namespace, self.name), "spec": {}})
        holder = lease["spec"].get("holderIdentity") or ""
        if holder in ("", self.run.id) or self._process_is_gone(lease):
            return self._write("PUT", lease)
        return self._wait_for(lease, holder)

    def renew(self) -> bool:
        """Keep it; False when somebody else has taken it."""
        return self._held is None or not self._write("PUT", self._held)

    def release(self) -> None:
        """Give it back."""
        if self._held is not None:
            self._write("PUT", self._held, holder="")
            self._held = None

    def describe(self) -> dict[str, Any] | None:
        """Who holds it, since when, and for how long; None without one."""
        found = self._read()
        if found is None:
            return None
        spec = found["spec"]
        keys = {"holder": "holderIdentity", "renewed": "renewTime", "seconds": "leaseDurationSeconds"}
        return {ours: spec.get(theirs) for ours, theirs in keys.items()}

    def _read(self) -> dict[str, Any] | None:
        return self.cluster.get(LEASES, self.namespace, "leases", self.name)

    def _wait_for(self, lease: dict[str, Any], holder: str) -> str:
        """Take the lease over when it was not renewed for its whole duration, as seen from here: clocks may differ."""
        duration = lease["spec"].get("leaseDurationSeconds") or LEASE_SECONDS
        self.say(f"waits up to {duration} s for the lease of {holder}")
        since = time.monotonic()
        while time.monotonic() - since < duration + 1:
            time.sleep(1)
            now = self._read()
            if now is None or not now["spec"].get("holderIdentity"):
                return self.acquire()
            if now["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
                return str(now["spec"]["holderIdentity"])
        return self._write("PUT", lease)

    def _process_is_gone(self, lease: Mapping[str, Any]) -> bool:
        text = (lease["metadata"].get("annotations") or {}).get(PROCESS)
        try:
            return text is not None and self.run.knows_dead(json.loads(text))
        except (ValueError, TypeError, KeyError):
            return False

    def _write(self, method: str, lease: dict[str, Any], holder: str | None = None) -> str:
        """Empty when the lease is ours now; else who was quicker."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(self.cluster.now()))
        spec = dict(lease.get("spec") or {})
        mine = self.run.id if holder is None else holder
        if spec.get("holderIdentity") != mine:
            spec["acquireTime"], spec["leaseTransitions"] = stamp, (spec.get("leaseTransitions") or 0) + 1
        spec.update(holderIdentity=mine, renewTime=stamp, leaseDurationSeconds=LEASE_SECONDS)
        metadata = {**lease["metadata"], "annotations": {PROCESS: json.dumps(self.run.process)}}
        try:
            self._held = self.cluster.write(
                method, LEASES, self.namespace, "leases", {"metadata": metadata, "spec": spec}
            )
        except ApiError as error:
            if error.status not in (409, 422):
                raise
            now = self._read() or {"spec": {}}
            if now["spec"].get("holderIdentity") != self.run.id:
                return now["spec"].get("holderIdentity") or "another run"
            self._held = now  # the answer to our last renewal was lost, the renewal was not
        return ""
