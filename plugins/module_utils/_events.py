# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes Events on the Service, for who looks there and not at this run. Private to this collection.

They are a courtesy: what keeps them from being written never keeps a release from anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._cluster import ApiError, Cluster, NoAnswer

EVENTS = "events.k8s.io/v1"
CONTROLLER = "progressive.istio"
NOTE_BYTES = 1024  # as the API server takes
FORBIDDEN = (401, 403)


class EventWriter:
    """Of one service. ``service`` gives the object; ``say`` is told once where Events are forbidden."""

    def __init__(
        self, cluster: Cluster, service: Callable[[], Mapping[str, Any]], by: str, say: Callable[[str], None]
    ) -> None:
        self._cluster, self._service, self._by, self._say = cluster, service, by, say
        self._allowed = True

    def tell(self, reason: str, text: str, warning: bool = False) -> None:
        """Write one. ``reason`` is in CamelCase. Does not raise."""
        if not self._allowed:
            return
        meta = self._service()["metadata"]
        try:
            body = event(meta, reason, text, self._cluster.now(), self._by, warning)
            self._cluster.write("POST", EVENTS, meta["namespace"], "events", body)
        except ApiError as error:
            if error.status in FORBIDDEN:
                self._allowed = False
                self._say(f"not told as Kubernetes Events: {error}")
        except NoAnswer:
            pass  # the lines of this run tell the same


def event(meta: Mapping[str, Any], reason: str, text: str, now: float, by: str, warning: bool) -> dict[str, Any]:
    """The object: of a Service with this metadata, at ``now`` (seconds since the epoch), written ``by`` that run."""
    kind = {"apiVersion": "v1", "kind": "Service"}
    return {
        "apiVersion": EVENTS,
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{int(now * 1e9):x}", "namespace": meta["namespace"]},
        "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "action": "Release",
        "note": text.encode()[:NOTE_BYTES].decode(errors="ignore"),
        "reportingController": CONTROLLER,
        "reportingInstance": by[:128] or CONTROLLER,
        "regarding": {**kind, "namespace": meta["namespace"], "name": meta["name"], "uid": meta.get("uid", "")},
    }
