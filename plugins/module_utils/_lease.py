# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Lease that says who runs a release, and with which options. Private to this collection.

Advisory: what keeps two runs apart is the record in every write. A run that ends gives it back. One that runs out has
lost its run, and whoever looks for such leases can go on from the options that stand on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster
from ansible_collections.progressive.istio.plugins.module_utils._find import own_name, reading
from ansible_collections.progressive.istio.plugins.module_utils._objects import seconds_of
from ansible_collections.progressive.istio.plugins.module_utils._protocol import NOBODY
from ansible_collections.progressive.istio.plugins.module_utils._record import OURS
from ansible_collections.progressive.istio.plugins.module_utils._run import Run
from ansible_collections.progressive.istio.plugins.module_utils._writes import RENEW_SECONDS

LEASES = "coordination.k8s.io/v1"
LEASE_SECONDS = 15
LATE_SECONDS = RENEW_SECONDS + 1.0  # a run that lives has renewed its lease by then
NAME = own_name("")  # and the service's name
PROCESS = "progressive.istio/process"
OPTIONS = "progressive.istio/options"


def metadata_of(namespace: str, name: str) -> dict[str, Any]:
    """Of an object that is this collection's own."""
    return {"name": name, "namespace": namespace, "labels": dict(OURS)}


@dataclass(frozen=True, slots=True)
class Holding:
    """What a Lease says. ``holder`` is empty when it was given back; ``age``: seconds since it was renewed."""

    holder: str
    age: float
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until it has run out, a second of doubt included."""
        return self.seconds + 1.0 - self.age

    @property
    def late(self) -> bool:
        """Whether its run may have died."""
        return bool(self.holder) and self.age > LATE_SECONDS


def holding(lease: Mapping[str, Any], now: float) -> Holding:
    """Of the object. One that somebody has edited counts as renewed just now."""
    spec, annotations = lease.get("spec") or {}, lease["metadata"].get("annotations") or {}
    seconds = spec.get("leaseDurationSeconds") or LEASE_SECONDS
    try:
        age = max(0.0, now - seconds_of(spec["renewTime"]))
    except (KeyError, ValueError, AttributeError):
        age = 0.0
    try:
        options = json.loads(annotations.get(OPTIONS) or "{}")
    except ValueError:
        options = {}
    return Holding(spec.get("holderIdentity") or "", age, seconds, options if isinstance(options, dict) else {})


def leases(cluster: Cluster, namespace: str) -> list[tuple[str, str, Holding]]:
    """Namespace, service and what its Lease says, of all in a namespace or, if that is empty, in the cluster."""
    selector = ",".join(f"{key}={value}" for key, value in OURS.items())
    found = [(lease["metadata"], lease) for lease in cluster.select(LEASES, namespace, "leases", selector)]
    now = cluster.now()
    return [
        (meta["namespace"], meta["name"].removeprefix(NAME), holding(lease, now))
        for meta, lease in found
        if meta["name"].startswith(NAME)
    ]


def stored_options(cluster: Cluster, namespace: str, service: str) -> Mapping[str, Any]:
    """Those of the run that had a service's Lease last."""
    lease = cluster.get(LEASES, namespace, "leases", own_name(service))
    return holding(lease, cluster.now()).options if lease else {}


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

    def inherit(self) -> str:
        """Take it only from a run that has died; the empty string, or who has it. Waits where a run may have died."""
        lease = self._read()
        found = holding(lease, self.cluster.now()) if lease else None
        if lease is None or found is None or not found.holder:
            return NOBODY
        if self._process_is_gone(lease):
            return self._write("PUT", lease)
        return self._wait_for(lease, found.holder, left=True) if found.late else found.holder

    def renew(self) -> bool:
        """Keep it; False when somebody else has taken it."""
        return self._held is None or not self._write("PUT", self._held)

    def release(self) -> None:
        """Give it back."""
        if self._held is not None:
            self._write("PUT", self._held, holder="")
            self._held = None

    def version(self) -> str:
        """The resourceVersion that it had when this run wrote it last; empty when this run does not hold it."""
        return str(self._held["metadata"].get("resourceVersion", "")) if self._held else ""

    def describe(self) -> dict[str, Any] | None:
        """Who holds it, since when, and for how long; None without one."""
        lease = self._read()
        if lease is None:
            return None
        found = holding(lease, self.cluster.now())
        renewed = lease["spec"].get("renewTime")
        return {"holder": found.holder, "renewed": renewed, "seconds": found.seconds, "late": found.late}

    def _read(self) -> dict[str, Any] | None:
        return self.cluster.get(LEASES, self.namespace, "leases", self.name)

    def _wait_for(self, lease: dict[str, Any], holder: str, left: bool = False) -> str:
        """Take it over when it has run out by the API server's clock, which all runs go by, and stays as it is."""
        seconds = min(max(1.0, holding(lease, self.cluster.now()).left), LEASE_SECONDS + 1.0)
        self.say(f"waits up to {seconds:.0f} s for the lease of {holder}")
        since = time.monotonic()
        while time.monotonic() - since < seconds:
            time.sleep(1)
            now = self._read()
            if now is None or not now["spec"].get("holderIdentity"):
                return NOBODY if left else self.acquire()
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
        told = {PROCESS: json.dumps(self.run.process), OPTIONS: json.dumps(self.run.options)}
        metadata = {**lease["metadata"], "annotations": {**(lease["metadata"].get("annotations") or {}), **told}}
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


class Leasing:
    """What a World does with its Lease beside taking it. Errors are those of `reading`."""

    _lease: Lease

    def renew(self) -> bool:
        with reading():
            return self._lease.renew()

    def release_lease(self) -> None:
        with reading():
            self._lease.release()

    def lease(self) -> dict[str, Any] | None:
        with reading():
            return self._lease.describe()
