# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real World of a release that is forgotten, and what that would write. Private to this collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils import _routes
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer, path_of
from ansible_collections.progressive.istio.plugins.module_utils._find import (
    SERVER_ERROR,
    NoRouteObject,
    find_route_object,
    own_name,
    reading,
)
from ansible_collections.progressive.istio.plugins.module_utils._forget import (
    NONE,
    REFUSED,
    Forgetting,
    Remains,
    refusal,
    unfinished,
)
from ansible_collections.progressive.istio.plugins.module_utils._lease import LEASES
from ansible_collections.progressive.istio.plugins.module_utils._objects import annotations_of, record_of
from ansible_collections.progressive.istio.plugins.module_utils._patches import quiet
from ansible_collections.progressive.istio.plugins.module_utils._plan import State, Want
from ansible_collections.progressive.istio.plugins.module_utils._protocol import Lost
from ansible_collections.progressive.istio.plugins.module_utils._record import ANNOTATION, APPROVE
from ansible_collections.progressive.istio.plugins.module_utils._report import Journal, result_of
from ansible_collections.progressive.istio.plugins.module_utils._rights import FORGET, require_writes
from ansible_collections.progressive.istio.plugins.module_utils._run import Run
from ansible_collections.progressive.istio.plugins.module_utils._world import LiveWorld, Target


class ForgettingLiveWorld(LiveWorld):
    """A service whose release is forgotten, also where the service is gone. Implements ``ForgettingWorld``."""

    def __init__(self, cluster: Cluster, target: Target, run: Run, say: Callable[[str], None]) -> None:
        # What moves along is what the record says: an option that is left over must not keep it from being forgotten.
        super().__init__(cluster, replace(target, others=()), run, say)

    def remains(self) -> Remains:
        host = _routes.full_host(self.name, self.namespace)
        with reading():
            try:
                obj = find_route_object(self.cluster, self.kind, self.namespace, host, self.route_object)
            except NoRouteObject:
                there = Remains()
            else:
                there = self._on(obj, host)
            own = f"{self.namespace}/{self.own_name}"
            if self.cluster.get("v1", self.namespace, "configmaps", self.own_name):
                there = replace(there, evidence=f"ConfigMap {own}")
            if self._lease.describe():
                there = replace(there, lease=f"Lease {own}")
        return there

    def _on(self, obj: Mapping[str, Any], host: str) -> Remains:
        """What stands on the route object."""
        where, record = _routes.describe(obj), record_of(obj)
        marks = tuple(mark for mark in (ANNOTATION, APPROVE) if mark in annotations_of(obj))
        left: tuple[str, ...] = ()
        if record:
            others = self._others(record, host, record.canary.name)
            left = unfinished(State(where, host, record.uid, {}, record, "", {}, others=others))
        return Remains(where, record, marks, unfinished=left, token=obj)

    def patch(self, remains: Remains) -> list[dict[str, Any]]:
        """The JSON Patch that ``unmark`` would send."""
        paths = [f"/metadata/annotations/{mark.replace('/', '~1')}" for mark in remains.marks]
        return [_routes.pinned(route_object(remains)), *({"op": "remove", "path": path} for path in paths)]

    def unmark(self, remains: Remains) -> None:
        self._patch(*_routes.RESOURCES[self.kind], route_object(remains), self.patch(remains))

    def drop_evidence(self) -> None:
        self._delete("v1", "configmaps")

    def drop_lease(self) -> None:
        self._delete(LEASES, "leases", self._lease.version())

    def _delete(self, api: str, plural: str, version: str = "") -> None:
        """``version``: the resourceVersion that it still has to have."""
        body = {"preconditions": {"resourceVersion": version}} if version else None
        try:
            self.cluster.request("DELETE", path_of(api, self.namespace, plural, self.own_name), body)
        except NoAnswer as error:
            raise Lost(str(error)) from None
        except ApiError as error:
            if error.status >= SERVER_ERROR:
                raise Lost(str(error)) from None
            if error.status not in (404, 409):  # gone, or another run's by now
                raise

    def require_writes(self) -> None:
        require_writes(self.cluster, self.kind, self.namespace, (), FORGET)


def route_object(remains: Remains) -> Mapping[str, Any]:
    """The route object as it was read."""
    if not isinstance(remains.token, Mapping):
        raise TypeError("this does not come from a cluster")
    return remains.token


def _difference(world: ForgettingLiveWorld, there: Remains) -> list[dict[str, Any]]:
    diffs: list[dict[str, Any]] = []
    if there.marks:
        obj = route_object(there)
        after = quiet(_routes.apply_patch(obj, world.patch(there)))
        diffs.append({"before": quiet(obj), "after": after, "before_header": there.where, "after_header": there.where})
    meta = {"name": own_name(world.name), "namespace": world.namespace}
    return diffs + [
        {"before": {"metadata": meta}, "after": "", "before_header": where, "after_header": where}
        for where in (there.evidence, there.lease)
        if where
    ]


def preview_forgetting(world: ForgettingLiveWorld) -> dict[str, Any]:
    """Result of istio_canary in check mode: all that would be deleted. Writes nothing."""
    there = world.remains()
    if text := refusal(there):
        return {"phase": REFUSED, "failed": True, "changed": False, "msg": text, "plan": []}
    return {
        "phase": "planned" if there.names else NONE,
        "changed": bool(there.names),
        "msg": f"would forget {', '.join(there.names)}"
        if there.names
        else "there is no record, evidence or lease of a release",
        "plan": [{"object": name, "text": f"{name}: deleted"} for name in there.names],
        "diff": _difference(world, there),
    }


def forget(world: ForgettingLiveWorld, wish: Want, journal: Journal, check_mode: bool) -> dict[str, Any]:
    """The module's result for a release that is forgotten, in one call."""
    if check_mode:
        result = preview_forgetting(world)
        for text in (result["msg"], *(f"plan  {line['text']}" for line in result["plan"])):
            journal.say(text)
        return {"failed": False, "finished": True, "events": journal.events, **result}
    journal.clock = world.now
    return result_of(Forgetting(world, wish.interval, journal.say).run(), journal.events)
