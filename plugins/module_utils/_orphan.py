# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that a run leaves on its Lease, and how whoever takes the release over comes by them. Private, pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError

STATES = {"resume": "promoted", "abort": "aborted", "pause": "paused"}
#: Not those of a run: what is to be done now, and what is said for one time only.
OWN = ("state", "reason", "retry", "adopt", "goal", "wait", "on_orphan", "run")


def kept(params: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as they were given, for a Lease that others may read; ``secrets`` names those that are left out."""
    names = [name for name in spec if name not in OWN]
    mine = {name: params[name] for name in names if params.get(name) is not None}
    return {
        "options": {name: _public(value, spec[name]) for name, value in mine.items()},
        "secrets": sorted(path for name in mine for path in _secrets(name, mine[name], spec[name])),
    }


def _public(value: Any, spec: Mapping[str, Any]) -> Any:
    if isinstance(value, list) and "options" in spec:
        return [_public(one, spec) for one in value]
    if not isinstance(value, Mapping) or "options" not in spec:
        return value
    inner = spec["options"]
    return {name: _public(one, inner[name]) for name, one in value.items() if not inner[name].get("no_log")}


def _secrets(path: str, value: Any, spec: Mapping[str, Any]) -> Iterator[str]:
    if spec.get("no_log") and value:
        yield path
    elif isinstance(value, list) and "options" in spec:
        for number, one in enumerate(value, 1):
            yield from _secrets(f"{path}[{number}]", one, spec)
    elif isinstance(value, Mapping) and "options" in spec:
        for name, one in value.items():
            yield from _secrets(f"{path}.{name}", one, spec["options"][name])


def as_begun(params: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run that has died, with what is to become of its release. Raises ReleaseError.

    Without any stored, as an older collection leaves it, they are those that were given.
    """
    policy = params["on_orphan"]
    secrets = stored.get("secrets") or []
    if secrets and policy == "resume":
        raise ReleaseError(
            f"on_orphan is resume, and {', '.join(secrets)} of the run that has died is not stored, as it is secret; "
            "run promote again, or use abort or pause"
        )
    reason = params["reason"] or "its run had died"
    mine = {"state": STATES[policy], "reason": "" if policy == "resume" else reason, "retry": False, "wait": False}
    given = {**params, **(stored.get("options") or {}), **mine}
    return {**given, "namespace": params["namespace"], "name": params["name"]}
