# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By which objects the proxies of a cluster run a route: for a delegate, its roots as last listed. Private."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer
from ansible_collections.progressive.istio.plugins.module_utils._delegates import Carrier, carriers, is_delegate
from ansible_collections.progressive.istio.plugins.module_utils._mesh import NETWORKING
from ansible_collections.progressive.istio.plugins.module_utils._objects import namespace_of
from ansible_collections.progressive.istio.plugins.module_utils._routes import Object, Route

LIST_SECONDS = 2.0  # roots are listed at most this often, and only where a route object is a delegate


class Roots:
    """The VirtualServices of a cluster; where they may not be listed, those of the delegate's namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, Sequence[Object]] = {}  # by namespace of the delegate
        self._listed_at: dict[str, float] = {}

    def carriers(self, obj: Object, route: Route, ports: Sequence[int]) -> list[Carrier]:
        """See ``_delegates.carriers``. Raises ApiError, and NoAnswer if there never was one."""
        known = self._around(namespace_of(obj)) if is_delegate(obj) else ()
        return carriers(obj, route, known, ports)

    def _around(self, namespace: str) -> Sequence[Object]:
        now = time.monotonic()
        if now - self._listed_at.get(namespace, float("-inf")) >= LIST_SECONDS:
            try:
                self._known[namespace] = self._list(namespace)
                self._listed_at[namespace] = now
            except NoAnswer:
                if namespace not in self._known:
                    raise
        return self._known[namespace]

    def _list(self, namespace: str) -> Sequence[Object]:
        try:
            return self._cluster.select(NETWORKING, "", "virtualservices")
        except ApiError as error:
            if error.status != 403:
                raise
            return self._cluster.select(NETWORKING, namespace, "virtualservices")
