# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: the connection, errors as one line, options as dataclasses. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.progressive.istio.plugins.module_utils import _cluster
from ansible_collections.progressive.istio.plugins.module_utils._audience import parse
from ansible_collections.progressive.istio.plugins.module_utils._calendar import Calendar, CalendarError, calendar
from ansible_collections.progressive.istio.plugins.module_utils._checks_world import CHECK_SPEC, checks_of
from ansible_collections.progressive.istio.plugins.module_utils._counters_world import COUNTER_SPEC, counters_of
from ansible_collections.progressive.istio.plugins.module_utils._gate import Tolerance
from ansible_collections.progressive.istio.plugins.module_utils._plan import FLOORS, ReleaseError, Want, check_want
from ansible_collections.progressive.istio.plugins.module_utils._prometheus_http import PROMETHEUS_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._protocol import (
    Conflict,
    Lost,
    Orphaned,
    Stopped,
    Unreachable,
)
from ansible_collections.progressive.istio.plugins.module_utils._record import RecordError, Step
from ansible_collections.progressive.istio.plugins.module_utils._routes import RouteError
from ansible_collections.progressive.istio.plugins.module_utils._wish import Goal
from ansible_collections.progressive.istio.plugins.module_utils._world import Target

REASON_LENGTH = 300  # it becomes part of the record

ANALYSIS_SPEC: Mapping[str, Any] = {
    "source": {"type": "str", "choices": ["proxies", "prometheus"], "default": "proxies"},
    "prometheus": {"type": "dict", "options": dict(PROMETHEUS_SPEC)},
    "tolerance_ratio": {"type": "float", "default": 1.5},
    "tolerance_floor": {"type": "float", "default": 0.005},
    "alpha_fail": {"type": "float", "default": 0.01},
    "alpha_pass": {"type": "float", "default": 0.05, "no_log": False},
    "slo": {"type": "float"},
    "latency": {"type": "bool", "default": True},
    "latency_edge": {"type": "float", "default": 0.0},
    "latency_floor": {"type": "float", "default": 0.01},
    "warm_up": {"type": "float", "default": 10.0},
    "observe": {"type": "bool", "default": False},
    "min_coverage": {"type": "float", "default": 0.8},
    "capacity": {"type": "bool", "default": True},
    "counters": {"type": "list", "elements": "dict", "default": [], "options": dict(COUNTER_SPEC)},
    "checks": {"type": "list", "elements": "dict", "default": [], "options": dict(CHECK_SPEC)},
    "interval": {"type": "float", "default": 1.0},
    "max_wait": {"type": "float", "default": 1200.0},
    "max_hold": {"type": "float", "default": 3600.0},
    "on_inconclusive": {"type": "str", "choices": ["hold", "abort", "promote"], "default": "hold"},
}


RELEASE_SPEC: Mapping[str, Any] = {
    "namespace": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "canary_version": {"type": "str", "default": ""},
    "route_kind": {"type": "str", "choices": ["VirtualService", "HTTPRoute"], "default": "VirtualService"},
    "route_object": {"type": "str", "default": ""},
    "route": {"type": "str", "default": ""},
    "other_route_objects": {"type": "list", "elements": "str", "default": []},
    "analysis": {"type": "dict", "default": {}, "options": dict(ANALYSIS_SPEC)},
}


COOKIE_ATTRIBUTES = "Path=/; Max-Age=86400; HttpOnly; SameSite=Lax"
DEFAULT_STEPS = [{"weight": weight, "min_seconds": 60} for weight in (10, 25, 50, 100)]

STEP = ("weight", "min_seconds", "mirror", "pause")
# Of istio_canary alone.
CANARY_SPEC: Mapping[str, Any] = {
    "state": {
        "type": "str",
        "choices": ["promoted", "aborted", "paused", "approved", "rolled_back", "retired", "absent"],
        "default": "promoted",
    },
    "reason": {"type": "str", "default": ""},
    "stable_version": {"type": "str", "default": ""},
    "steps": {
        "type": "list",
        "elements": "dict",
        "default": DEFAULT_STEPS,
        "options": {
            "weight": {"type": "int", "required": True},
            "min_seconds": {"type": "int", "default": 0},
            "mirror": {"type": "int", "default": 0},
            "pause": {"type": "bool", "default": False},
        },
    },
    "cohort": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "headers": {"type": "dict", "default": {}},
            "cookies": {"type": "dict", "default": {}, "no_log": False},
            "source_labels": {"type": "dict", "default": {}},
        },
    },
    "sticky": {
        "type": "dict",
        "options": {
            "cookie": {"type": "str", "required": True, "no_log": False},
            "attributes": {"type": "str", "default": COOKIE_ATTRIBUTES},
        },
    },
    "verify_timeout": {"type": "float", "default": 30.0},
    "drain_timeout": {"type": "float", "default": 60.0},
    "approval_timeout": {"type": "float", "default": 0.0},
    "floors": {"type": "str", "choices": list(FLOORS), "default": "autoscalers"},
    "floors_timeout": {"type": "float", "default": 300.0},
    "retry": {"type": "bool", "default": False},
    "adopt": {"type": "bool", "default": False},
    "on_drift": {"type": "str", "choices": ["hold", "abort", "adopt"], "default": "hold"},
    "on_newer": {"type": "str", "choices": ["refuse", "supersede", "queue"], "default": "refuse"},
    "queue_timeout": {"type": "float", "default": 3600.0},
    "windows": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "days": {"type": "list", "elements": "str", "default": []},
            "from": {"type": "str", "required": True},
            "to": {"type": "str", "required": True},
            "timezone": {"type": "str", "default": "UTC"},
        },
    },
    "freezes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "from": {"type": "str", "required": True},
            "to": {"type": "str", "required": True},
            "reason": {"type": "str", "default": ""},
        },
    },
    "max_duration": {"type": "float", "default": 0.0},
    "preflight": {"type": "str", "choices": ["enforce", "warn"], "default": "enforce"},
    "goal": {
        "type": "dict",
        "options": {
            "failures": {"type": "int"},
            "minutes": {"type": "float"},
            "times": {"type": "int", "default": 5},
        },
    },
    "until_step": {"type": "int"},
    "on_orphan": {"type": "str", "choices": ["resume", "abort", "pause"]},
    "wait": {"type": "bool", "default": True},
}


def target(params: Mapping[str, Any]) -> Target:
    """Which service the options of RELEASE_SPEC mean."""
    names = ("namespace", "name", "canary_version", "route_kind", "route_object", "route", "other_route_objects")
    return Target(*(params[name] for name in names))


def connect(module: AnsibleModule) -> _cluster.Cluster:
    """The cluster of the access options; ends the module when the Python packages for it are missing."""
    if _cluster.IMPORT_ERROR:
        module.fail_json(msg=f"{missing_required_lib('kubernetes')} ({_cluster.IMPORT_ERROR})")
    return _cluster.Cluster(module)


@contextmanager
def one_line_errors(module: AnsibleModule, **more: Any) -> Iterator[None]:
    """Ends the module with the text of an error that is meant for a person, and ``more``. Others keep a traceback."""
    try:
        yield
    except (ReleaseError, RouteError, RecordError, Stopped, Conflict, Lost) as error:
        module.fail_json(msg=str(error), **more)
    except Orphaned:
        module.fail_json(msg="the process that this run works for is gone; nothing more was written", **more)
    except _cluster.ApiError as error:
        module.fail_json(msg=str(error), **more)
    except (Unreachable, _cluster.NoAnswer) as error:
        module.fail_json(msg=f"{error}; mend host or kubeconfig, or run it again when it answers", **more)


def tolerance(analysis: Mapping[str, Any]) -> Tolerance:
    """The gate's tolerance from option ``analysis``. Raises ReleaseError."""
    names = {
        "tolerance_ratio": "ratio",
        "tolerance_floor": "floor",
        "alpha_fail": "alpha_fail",
        "alpha_pass": "alpha_pass",
        "slo": "slo",
    }
    found = Tolerance(**{field: analysis[option] for option, field in names.items()})
    try:
        found.check()
    except ValueError as error:
        raise ReleaseError(f"analysis.{error}") from None
    return found


def slowness(analysis: Mapping[str, Any]) -> Tolerance | None:
    """The tolerance for slow requests from option ``analysis``; None: they are not judged. Raises ReleaseError."""
    if not analysis["latency"]:
        return None
    found = Tolerance(analysis["tolerance_ratio"], analysis["latency_floor"])
    if not 1e-6 <= found.floor <= 0.5:
        raise ReleaseError(f"analysis.latency_floor: expected a number from 1e-06 to 0.5, got {found.floor}")
    return found


def _calendar(params: Mapping[str, Any]) -> Calendar:
    """The change windows and freezes of the options. Raises ReleaseError."""
    try:
        return calendar(params["windows"], params["freezes"])
    except CalendarError as error:
        raise ReleaseError(str(error)) from None


def want(params: Mapping[str, Any]) -> Want:
    """Option values of istio_canary as a checked wish. Raises ReleaseError."""
    analysis = params["analysis"]
    wish = Want(
        canary=params["canary_version"],
        stable=params["stable_version"],
        steps=tuple(Step(*(step[key] for key in STEP)) for step in params["steps"]),
        state=params["state"],
        reason=" ".join(params["reason"].split())[:REASON_LENGTH],
        tolerance=tolerance(analysis),
        min_coverage=analysis["min_coverage"],
        capacity=analysis["capacity"],
        checks=checks_of(analysis),
        counters=counters_of(analysis),
        latency=slowness(analysis),
        edge=analysis["latency_edge"],
        warm_up=analysis["warm_up"],
        observe=analysis["observe"],
        interval=analysis["interval"],
        max_wait=analysis["max_wait"],
        max_hold=analysis["max_hold"],
        on_inconclusive=analysis["on_inconclusive"],
        on_drift=params["on_drift"],
        on_newer=params["on_newer"],
        queue_timeout=params["queue_timeout"],
        calendar=_calendar(params),
        max_duration=params["max_duration"],
        verify_timeout=params["verify_timeout"],
        retry=params["retry"],
        adopt=params["adopt"],
        until_step=params["until_step"],
        preflight=params["preflight"],
        audience=parse(params["cohort"], params["sticky"]),
        drain_timeout=params["drain_timeout"],
        approval_timeout=params["approval_timeout"],
        floors=params["floors"],
        floors_timeout=params["floors_timeout"],
        goal=Goal(**(params["goal"] or {})),
        orphan=bool(params["on_orphan"]),
    )
    check_want(wish)
    return wish
