# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the account that runs a release has to be allowed, and all that it lacks, named together. Private."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ansible_collections.progressive.istio.plugins.module_utils import _routes
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError

Right = tuple[bool, str, str, str]  # in all namespaces, verb, group, plural
READS: Sequence[Right] = (
    (False, "get", "", "services"),
    (False, "list", "networking.istio.io", "destinationrules"),
    (False, "list", "", "pods"),
    (True, "list", "", "pods"),
    (False, "get", "", "pods/portforward"),
    (False, "create", "", "pods/portforward"),
)
WRITES: Sequence[Right] = (
    (False, "create", "", "configmaps"),
    (False, "update", "", "configmaps"),
    (False, "create", "coordination.k8s.io", "leases"),
    (False, "update", "coordination.k8s.io", "leases"),
)
FORGET: Sequence[Right] = (
    (False, "delete", "", "configmaps"),
    (False, "delete", "coordination.k8s.io", "leases"),
)
RETIRE: Sequence[Right] = ((False, "patch", "networking.istio.io", "destinationrules"),)


@contextmanager
def all_that_is_missing(cluster: Cluster, kind: str, namespace: str, others: Sequence[str]) -> Iterator[None]:
    """The first read that is forbidden names whatever else is: nobody wants to grant rights one run at a time.

    ``kind`` of the route objects, ``others``: those that move along, ``namespace/name``.
    """
    try:
        yield
    except ApiError as error:
        missing = _missing(cluster, kind, namespace, others, READS, "get", "list") if error.status == 403 else []
        every = f". In all it lacks: {', '.join(missing)}" if len(missing) > 1 else ""
        raise ApiError(error.status, f"{error}{every}") from None


def require_writes(
    cluster: Cluster, kind: str, namespace: str, others: Sequence[str], more: Sequence[Right] = ()
) -> None:
    """Before the first write: all that a release writes, and ``more``. Otherwise it would fail after half of it."""
    missing = _missing(cluster, kind, namespace, others, (*WRITES, *more), "patch")
    if missing:
        raise ReleaseError(
            f"in namespace {namespace} the account that runs this may not {', '.join(missing)}; "
            "nothing was written. Grant it that"
        )


def _missing(
    cluster: Cluster, kind: str, namespace: str, others: Sequence[str], rights: Sequence[Right], *verbs: str
) -> list[str]:
    """Which of these rights the account lacks, and which of these verbs on the route objects, in words."""
    api, route_objects = _routes.RESOURCES[kind]
    group_of_routes = api.partition("/")[0]
    at = (namespace, *(key.partition("/")[0] for key in others))
    wanted = [(where, verb, group_of_routes, route_objects) for where in at for verb in verbs]
    wanted += [("" if wide else namespace, verb, group, plural) for wide, verb, group, plural in rights]
    places = {namespace: "", "": " in all namespaces"}
    return [
        f"{verb} {plural}" + (f".{group}" if group else "") + places.get(where, f" in {where}")
        for where, verb, group, plural in dict.fromkeys(wanted)
        if not cluster.may(verb, group, plural, where)
    ]
