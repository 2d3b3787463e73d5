#!/usr/bin/python
# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_gate
short_description: Judge a canary on evidence
version_added: 0.1.0
author: The progressive.istio authors (@progressive-istio)
description:
  - Says whether a canary is proven worse than the stable version beyond the tolerance (V(fail)), proven within it
    (V(pass)), neither (V(wait)), or why the canary cannot be judged. There is nothing to judge (V(no_data)), the share
    of the requests contradicts the weight (V(routing)), or the stable version fails by itself (V(environment)). With
    every number that led to it.
  - The evidence is given in O(windows), read from what a release has stored, or found in a Prometheus for a time in the
    past, also of a service that was never released. The verdict is a pure function of it, so it can be had again at any
    time. Reads only; it never fails a task by itself.
  - The method is an e-process, valid at every look; see the guide on judging.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - progressive.istio.common
  - progressive.istio.common.prometheus
  - progressive.istio.common.read_only
options:
  namespace:
    description: Namespace of the service whose stored evidence is to be judged.
    type: str
  name:
    description: Name of that Service. Needs O(namespace).
    type: str
  windows:
    description: Counts per window, oldest first. Instead of O(name).
    type: list
    elements: dict
    suboptions:
      step:
        description: Number of the step that the window belongs to. A pass counts only windows of the last one.
        type: int
        default: 0
      weight:
        description: The canary's weight in percent. At 100 the stable version has no traffic to compare with.
        type: int
        required: true
      seconds:
        description: Length of the window.
        type: float
        default: 0.0
      n_c:
        description: Requests to the canary.
        type: int
        required: true
      x_c:
        description: Bad requests to the canary.
        type: int
        required: true
      n_b:
        description: Requests to the stable version.
        type: int
        required: true
      x_b:
        description: Bad requests to the stable version.
        type: int
        required: true
      metric:
        description:
          - What is counted as bad in this window. All metrics have to pass, and any may fail.
          - V(errors) are bad answers, V(unanswered) requests that ended without any, V(latency) slow ones.
        type: str
        choices: [errors, unanswered, latency]
        default: errors
      by_weight:
        description:
          - Whether the weight alone has decided which version got a request, so that another share means V(routing).
        type: bool
        default: false
  past:
    description:
      - What the gate would have said in a span of time, by the samples that O(prometheus) has of it. Needs O(name).
      - Either two versions are compared, or with V(halves) one service with itself, by two halves of its pods. Both
        halves run the same, so a V(fail) there is a good version blamed, or a pod that differs from the others.
      - A V(fail) ends it, as it would have ended a release. The span counts as one step.
    type: dict
    suboptions:
      begin:
        description: When it begins, a time (C(2026-11-27T10:00:00Z)) or how long ago (C(90m), C(24h), C(7d)).
        type: str
        required: true
      end:
        description: When it ends. The default is now.
        type: str
      window:
        description: Seconds in one window, the interval of the scrapes or more.
        type: float
        default: 60.0
      halves:
        description: Compare two halves of the pods, whatever their versions, dealt in turn by their names.
        type: bool
        default: false
      canary:
        description: The version to judge. Needs O(past.stable).
        type: str
      stable:
        description: The version to compare it with.
        type: str
  analysis:
    description: How it is judged.
    type: dict
    default: {}
    suboptions:
      tolerance_ratio:
        description: The canary may have up to this many times the stable version's rate of bad requests.
        type: float
        default: 1.5
      tolerance_floor:
        description: Below this rate of bad requests a canary is good enough, whatever the stable version does.
        type: float
        default: 0.005
      alpha_fail:
        description: Probability, over all windows, that a canary within the tolerance fails.
        type: float
        default: 0.01
      alpha_pass:
        description: Probability that a canary beyond the tolerance passes the step.
        type: float
        default: 0.05
      slo:
        description: The rate of bad requests that the stable version itself may have; beyond it, V(environment).
        type: float
      latency_floor:
        description: Below this rate of slow requests a canary is good enough, whatever the stable version does.
        type: float
        default: 0.01
"""

EXAMPLES = r"""
- name: Would this have passed?
  progressive.istio.istio_gate:
    windows:
      - {weight: 10, n_c: 900, x_c: 0, n_b: 8100, x_b: 9}
  register: gate

- name: What would this gate have said yesterday, of a version against itself?
  progressive.istio.istio_gate:
    namespace: namespace-1
    name: app-1
    prometheus: {service: "monitoring/prometheus:9090"}
    past:
      begin: 24h
      halves: true
  register: gate
  failed_when: gate.verdict == 'fail'

- name: Judge the evidence of the last release again
  progressive.istio.istio_gate:
    namespace: namespace-1
    name: app-1
"""

RETURN = r"""
verdict:
  description: The verdict's kind.
  returned: success
  type: str
  sample: pass
reason:
  description: The verdict in words, counts first.
  returned: success
  type: str
details:
  description: Every number that led to it.
  returned: success
  type: dict
history:
  description: Each verdict that differed in kind from the one before it, of O(past).
  returned: with O(past)
  type: list
  elements: dict
  contains:
    time:
      description: When it was reached.
      type: str
      sample: "2026-11-27T10:00:00Z"
    verdict:
      description: Its kind.
      type: str
    reason:
      description: The verdict in words.
      type: str
queries:
  description: What O(prometheus) was asked first.
  returned: with O(past)
  type: list
  elements: str
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.progressive.istio.plugins.module_utils import _evidence
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ACCESS_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._find import stored_evidence
from ansible_collections.progressive.istio.plugins.module_utils._metrics import tolerances
from ansible_collections.progressive.istio.plugins.module_utils._module import (
    ANALYSIS_SPEC,
    connect,
    one_line_errors,
    slowness,
    tolerance,
)
from ansible_collections.progressive.istio.plugins.module_utils._panel import Panel
from ansible_collections.progressive.istio.plugins.module_utils._past_world import PastWish, judge_past
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError
from ansible_collections.progressive.istio.plugins.module_utils._prometheus_http import PROMETHEUS_SPEC, access
from ansible_collections.progressive.istio.plugins.module_utils._verdict import (
    ERRORS,
    LATENCY,
    UNANSWERED,
    Tolerance,
    Verdict,
    Window,
)

PAST_SPEC = {
    "begin": {"type": "str", "required": True},
    "end": {"type": "str"},
    "window": {"type": "float", "default": 60.0},
    "halves": {"type": "bool", "default": False},
    "canary": {"type": "str"},
    "stable": {"type": "str"},
}
GATE_OPTIONS = ("tolerance_ratio", "tolerance_floor", "alpha_fail", "alpha_pass", "slo", "latency_floor")


def result_of(verdict: Verdict) -> dict[str, object]:
    return {"verdict": verdict.kind, "reason": verdict.reason, "details": verdict.to_dict()}


def of_the_past(module: AnsibleModule, limits: Tolerance) -> tuple[Verdict, dict[str, object]]:
    """The verdict for ``past``, and how it came to that. Raises ReleaseError."""
    wish = PastWish(module.params["namespace"], module.params["name"], **module.params["past"])
    past = judge_past(wish, access(module.params["prometheus"], "prometheus"), lambda: connect(module), limits)
    history = [{"time": when(one.time), "verdict": one.verdict.kind, "reason": one.verdict.reason} for one in past.said]
    return past.verdict, {"history": history, "queries": [past.query]}


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def verdict_of(module: AnsibleModule, limits: Tolerance, latency: Tolerance | None) -> Verdict:
    """On the windows that are given, or on what is stored. Raises ReleaseError and EvidenceError."""
    if module.params["windows"] is None:
        evidence = stored_evidence(connect(module), module.params["namespace"], module.params["name"])
        if evidence is None:
            raise ReleaseError(
                f"no release of {module.params['namespace']}/{module.params['name']} has stored evidence"
            )
        return _evidence.judge_again(evidence, limits, latency)
    windows: dict[str, list[Window]] = {ERRORS: []}
    for number, given in enumerate(module.params["windows"], 1):
        window = Window(**{name: value for name, value in given.items() if name != "metric"})
        try:
            window.check()
        except ValueError as error:
            raise ReleaseError(f"windows[{number}]: {error}") from None
        windows.setdefault(given["metric"], []).append(window)
    also = {name: found for name, found in windows.items() if name != ERRORS}
    panel = Panel(tolerances(tuple(also), limits, latency))
    panel.replay(windows[ERRORS], also)
    return panel.verdict(min_over=True)


def main() -> None:
    counts = {name: {"type": "int", "required": True} for name in ("weight", "n_c", "x_c", "n_b", "x_b")}
    module = AnsibleModule(
        argument_spec={
            **ACCESS_SPEC,
            "namespace": {"type": "str"},
            "name": {"type": "str"},
            "windows": {
                "type": "list",
                "elements": "dict",
                "options": {
                    **counts,
                    "step": {"type": "int", "default": 0},
                    "seconds": {"type": "float", "default": 0.0},
                    "metric": {"type": "str", "choices": [ERRORS, UNANSWERED, LATENCY], "default": ERRORS},
                    "by_weight": {"type": "bool", "default": False},
                },
            },
            "past": {"type": "dict", "options": PAST_SPEC},
            "prometheus": {"type": "dict", "options": dict(PROMETHEUS_SPEC)},
            "analysis": {
                "type": "dict",
                "default": {},
                "options": {name: ANALYSIS_SPEC[name] for name in GATE_OPTIONS},
            },
        },
        required_together=[("namespace", "name"), ("past", "prometheus")],
        required_one_of=[("windows", "name")],
        mutually_exclusive=[("windows", "name")],
        required_by={"past": ["name"]},
        supports_check_mode=True,
    )
    with one_line_errors(module):
        analysis = module.params["analysis"] or {}
        analysis = {name: analysis.get(name, ANALYSIS_SPEC[name].get("default")) for name in GATE_OPTIONS}
        more: dict[str, object] = {}
        try:
            if module.params["past"]:
                verdict, more = of_the_past(module, tolerance(analysis))
            else:
                verdict = verdict_of(module, tolerance(analysis), slowness({"latency": True, **analysis}))
        except _evidence.EvidenceError as error:
            raise ReleaseError(str(error)) from None
        module.exit_json(failed=False, changed=False, **result_of(verdict), **more)


if __name__ == "__main__":
    main()
