# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation of a release says of its plan: which steps, and when."""

from __future__ import annotations


class ModuleDocFragment:
    """Use it as C(progressive.istio.plan), after C(progressive.istio.common.release)."""

    DOCUMENTATION = r"""
options:
  steps:
    description: The plan. Weights must rise and end at 100. A release that has begun keeps the plan that it began with.
    type: list
    elements: dict
    default:
      - {weight: 10, min_seconds: 60}
      - {weight: 25, min_seconds: 60}
      - {weight: 50, min_seconds: 60}
      - {weight: 100, min_seconds: 60}
    suboptions:
      weight:
        description:
          - The canary's share of the requests, in percent. V(0) needs a O(steps[].mirror) or a O(cohort) that the step
            can be judged by.
        type: int
        required: true
      min_seconds:
        description: Least time at this weight, in seconds; shorter than O(analysis.max_wait), or it could not pass.
        type: int
        default: 0
      mirror:
        description:
          - Percent of the requests that are sent to the canary as well. Nobody gets its answers, and they are judged
            like others. What a request writes is written twice.
        type: int
        default: 0
      pause:
        description:
          - Wait for approval before this step, whatever the evidence says. Not with the first one.
          - The task ends with RV(phase=waiting) then, and has not failed. With O(state=approved), or the annotation
            C(progressive.istio/approve) with release and step on the route object (the C(kubectl) line is printed), the
            next run goes on. An approval for another release or step has no effect.
          - It waits as long as it takes. Whenever a run is at it, a proven V(fail) takes the release back.
        type: bool
        default: false
  until_step:
    description:
      - Stop after this step (1 is the first) has passed, or after the present one if that is a later one. The next run
        goes on from there. After the last step the release is over only with the next run.
    type: int
  goal:
    description:
      - A wish for the plan. In check mode it is said whether O(steps) meet it in 9 of 10 releases. If not, steps that
        do are proposed, or it is said why none do, and what would help. Without check mode it means nothing.
    type: dict
    suboptions:
      failures:
        description: So many failures users may see at most, of a canary that is O(goal.times) as bad from the start.
        type: int
      minutes:
        description: Time in which a canary that is as good as the stable version has to be promoted.
        type: float
      times:
        description:
          - How many times the stable version's rate of bad requests the canary of O(goal.failures) has. Where the
            stable version has none, how many times O(analysis.tolerance_floor).
        type: int
        default: 5
  windows:
    description:
      - Change windows. Outside of them no release begins, and no step raises the weight. A release on its way stays at
        its weight, says when it may go on, is judged meanwhile, and is taken back at once when it is proven bad.
        To abort, pause or roll back is possible at any time. Without any, it is always open.
      - A release that would not end inside its window by O(steps[].min_seconds) alone does not begin.
      - O(analysis.max_wait) does not run outside. Time is the API server's.
    type: list
    elements: dict
    default: []
    suboptions:
      days:
        description: Days on which it begins, as C(mon), or C(mon-thu). Every day without any.
        type: list
        elements: str
        default: []
      from:
        description: Time of the day at which it begins, such as C("09:00"). In quotes, as YAML reads a number else.
        type: str
        required: true
      to:
        description: Time at which it ends, up to C("24:00"). On the next day, if it is before O(windows[].from).
        type: str
        required: true
      timezone:
        description: Name of the IANA database, such as C(Europe/Berlin).
        type: str
        default: UTC
  freezes:
    description: Times in which nothing begins and nothing rises, whatever O(windows) say.
    type: list
    elements: dict
    default: []
    suboptions:
      from:
        description: When it begins, with the distance from UTC, such as C("2026-12-20T00:00:00+01:00").
        type: str
        required: true
      to:
        description: When it ends, in the same way.
        type: str
        required: true
      reason:
        description: Why; it is said with it.
        type: str
        default: ''
  max_duration:
    description:
      - How long a release may take in all, in seconds, with the time outside O(windows). V(0) is as long as it takes.
        After that O(analysis.on_inconclusive) decides, V(hold) or V(abort); V(promote) holds it, too.
    type: float
    default: 0.0
  floors:
    description:
      - Whose least number of pods is raised, before each step to what the canary needs there, and for the stable
        version to its size at the start. The values that were there are given back at the end, unless somebody else has
        changed them since.
      - V(autoscalers) raises C(minReplicas) of a version's HorizontalPodAutoscaler. A version without one is left as it
        is, and so are all where the account may not patch them. What KEDA sets is not touched, and waited for.
      - V(workloads) also raises C(replicas) of the canary's Deployment or StatefulSet where it has no autoscaler. After
        a promotion they stay.
      - V(none) raises nothing, and no step waits for pods.
    type: str
    choices: [autoscalers, workloads, none]
    default: autoscalers
  floors_timeout:
    description:
      - How long the pods that a step needs may take to be ready, in seconds. After that, or at once where the
        autoscaler's C(maxReplicas) is less, O(analysis.on_inconclusive) says what happens. Before the first weight the
        release is refused or taken back; it may be tried again without O(retry).
    type: float
    default: 300.0
"""
