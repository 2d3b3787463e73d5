# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of a release's plan beside its steps: what it is to achieve, and the pods for it."""

from __future__ import annotations


class ModuleDocFragment:
    """For istio_canary."""

    DOCUMENTATION = r"""
options:
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
