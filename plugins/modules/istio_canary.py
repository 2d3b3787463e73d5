#!/usr/bin/python
# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_canary
short_description: Release a version of a service step by step, and take it back when it is worse
version_added: 0.1.0
author: The progressive.istio authors (@progressive-istio)
description:
  - Moves the weight of a service's route from its stable version to O(canary_version), step by step. A step is done
    when the client proxies run its weight, its least time is over, and the requests seen there prove that the canary
    is not worse than the stable version beyond the tolerance.
  - When they prove that it is, all weight goes back to the stable version within the same call, and the task fails.
    When they prove neither within O(analysis.max_wait), the release is held (or what O(analysis.on_inconclusive)
    says), and the task fails.
  - The state of a release is an annotation of its route object, written in the same patch as the weight. A run that
    was killed is taken up by the next one, from any machine. A second run after the end changes nothing.
  - The objects may be anybody's. What is needed is a Service, a DestinationRule with a subset for each version, and a
    VirtualService with an C(http) route to it; or an HTTPRoute, and one Service more for each version.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - progressive.istio.common
  - progressive.istio.common.release
  - progressive.istio.common.audience
  - progressive.istio.plan
options:
  namespace:
    description: Namespace of the service.
    type: str
    required: true
  name:
    description: Name of the Service that both versions are behind.
    type: str
    required: true
  state:
    description:
      - V(promoted) releases O(canary_version), and goes on with a release that is under way, held, or approved. To go
        on with one, O(canary_version) need not be named.
      - V(approved) lets a release that waits for approval go on to its next step. It only writes that down, and by
        whom. The run that is at the release takes it up, or the next one with V(promoted).
      - V(aborted) takes a running release back. Without one it does nothing.
      - V(rolled_back) does the same with a running release. After V(promoted) it gives all traffic back to the version
        that had it before, at once and in one patch, and waits until the proxies run that. The version rolled back from
        is refused until it has changed, or with O(retry). It is refused where the old version is retired, has changed
        since, or has fewer ready pods than the version with the traffic (unless O(preflight=warn)).
      - V(paused) holds a running release at its present weight, until it is promoted or aborted. The next run with
        V(promoted) goes on where the evidence allows it. Nobody looks at the canary in between.
      - V(retired) takes a version without traffic out. First its destination out of all route objects, until no proxy
        routes there; then it waits until no request to it is under way in any client's proxy; then its subset out of
        the DestinationRules of the namespace. After that its workload may be scaled down or deleted. It is the version
        that a promoted release has left behind, or O(stable_version).
      - V(absent) forgets the release that is over. It deletes the record and an approval from the route object, the
        evidence (a ConfigMap) and the Lease, and touches no traffic. A version that was taken back may be released
        again then, as nobody knows of that any more. It is refused while a release runs, is held or waits. Needs the
        rights of the cluster role C(progressive-istio-forget) of C(docs/rbac.yml).
    type: str
    choices: [promoted, aborted, paused, approved, rolled_back, retired, absent]
    default: promoted
  reason:
    description:
      - Why, with V(aborted), V(approved), V(paused) and V(rolled_back) of O(state). It is in the record and in the
        result.
    type: str
    default: ''
  canary_version:
    description: The version to release, see O(route_kind). Needed to begin one.
    type: str
    default: ''
  stable_version:
    description:
      - The version that has the traffic now. Found by its weight; if given, it has to be the same.
      - With O(state=retired) the version to retire. Needed where no promoted release is on record.
    type: str
    default: ''
  verify_timeout:
    description: How long the proxies may take to run a weight before they are named, in seconds.
    type: float
    default: 30.0
  drain_timeout:
    description:
      - With O(state=retired), how long requests to the version may be under way after the last proxy has left it, in
        seconds. After that the task fails and names them; the subset stays. It waits 5 seconds at least.
    type: float
    default: 60.0
  approval_timeout:
    description:
      - How long after it has begun to wait for approval (O(steps[].pause)) a run stays at a release, judges it, and
        goes on by itself when it is approved, in seconds. V(0) ends the task at once.
    type: float
    default: 0.0
  retry:
    description: Release a version that was taken back although it has not changed, and go on with a held release.
    type: bool
    default: false
  adopt:
    description:
      - Take over a canary that somebody else has given weight to. A weight that O(steps) do not have becomes a step.
    type: bool
    default: false
  preflight:
    description:
      - Before it begins, a release looks for what would keep its weights from the clients, such as another
        VirtualService for the same host, or a client's DestinationRule without the canary's subset.
      - With V(enforce) it is refused where weights would certainly not do what they say, and warns of the rest.
      - With V(warn) it only warns. The whole list is in the guide on traffic.
    type: str
    choices: [enforce, warn]
    default: enforce
  on_drift:
    description:
      - What to do when somebody else has changed the weights of a running release. Both weights and the field manager
        that wrote last are said in any case. A proven V(fail) goes to the stable version whatever is there.
      - V(hold) leaves them as they are, and waits for a person. V(abort) takes the release back.
      - V(adopt) goes on from there. A weight that the plan does not have becomes a step of it, so that no more is
        given without a pass. A canary whose weight was set to 0 is taken back.
    type: str
    choices: [hold, abort, adopt]
    default: hold
  on_newer:
    description:
      - What to do when another version is to be released while a release runs, is held or waits.
      - With V(refuse) that is refused. With V(supersede) the release that is under way is taken back first, all weight
        to the stable version, until the proxies run that; then the newer version is released by the same call. When
        that one could not begin, as its pods are not ready, it was rejected before, or the preflight refuses it,
        nothing is taken back. A superseded version is not rejected. Weights that somebody else has set are left.
      - With V(queue) the task waits until the other release is over, and begins from whatever version is stable then.
      - A new pod template of the canary itself is a newer version, too. It takes the release back at once, and with
        V(supersede) the same call then releases the new template, from the first step, when its rollout is complete.
    type: str
    choices: [refuse, supersede, queue]
    default: refuse
  queue_timeout:
    description:
      - How long a task waits with O(on_newer=queue), or for a rollout with O(on_newer=supersede), in seconds. Then it
        fails, and nothing was begun. With O(wait=false) whoever calls it again says how long.
    type: float
    default: 3600.0
  on_orphan:
    description:
      - What to do with a release whose run has died, and with nothing else. Such a release has a Lease that nobody
        renews and that was not given back. V(resume) does what is due now, as with O(wait=false), and leaves the Lease
        for the next time. V(abort) takes the release back, and V(pause) holds it.
      - All other options but O(namespace), O(name) and O(reason) are those of the run that has died. It has left them
        in the Lease, without secrets. A release that needs one cannot be resumed so.
      - For a task on a schedule that looks after all releases; see the playbook C(reconcile).
    type: str
    choices: [resume, abort, pause]
  wait:
    description:
      - With V(true) the task ends when the release does, and prints a line for every event while it runs.
      - With V(false) it does what is due now, and returns. Call it again until RV(finished).
    type: bool
    default: true
  run:
    description: Set by the action plugin of this name. Not for playbooks.
    type: dict
attributes:
  check_mode:
    description: Returns the plan and the patch of every write, with the queries evaluated now. Writes nothing.
    support: full
  diff_mode:
    description: Shows the next write as a difference of the VirtualService.
    support: full
  async:
    description: A release runs in the foreground. For a background run use O(wait=false) in a loop or on a schedule.
    support: none
"""

EXAMPLES = r"""
- name: Release v2
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    canary_version: v2
    steps:
      - {weight: 10, min_seconds: 60}
      - {weight: 50, min_seconds: 60}
      - {weight: 100, min_seconds: 120}

- name: Mirror first, testers always get v2, and users who got it stay
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    canary_version: v2
    steps:
      - {weight: 0, mirror: 20, min_seconds: 60}
      - {weight: 10, min_seconds: 60}
      - {weight: 100, min_seconds: 60}
    cohort:
      - headers: {x-tester: "yes"}
      - source_labels: {team: checkout}
    sticky: {cookie: app-1-release}

- name: Blue/green, all traffic at once after the requests with this header were answered well enough
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    canary_version: green
    steps:
      - {weight: 0}
      - {weight: 100, min_seconds: 60}
    cohort:
      - headers: {x-slot: green}

- name: A plan by which a good release takes half an hour at most, and a bad one is seen by few
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    canary_version: v2
    goal: {minutes: 30, failures: 100}
  check_mode: true

- name: Take it back
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    state: aborted

- name: Ask somebody before half of the traffic goes there
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    canary_version: v2
    steps:
      - {weight: 10, min_seconds: 60}
      - {weight: 50, min_seconds: 60, pause: true}
      - {weight: 100, min_seconds: 60}

- name: Approve that
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    state: approved

- name: Back to the version before, although the release is over
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    state: rolled_back
    reason: wrong prices

- name: Forget the last release, and touch no traffic
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    state: absent

- name: Take the version that a promoted release has left behind out of routes and rules
  progressive.istio.istio_canary:
    namespace: namespace-1
    name: app-1
    state: retired
"""

RETURN = r"""
phase:
  description:
    - V(progressing), V(held), V(waiting) (for approval), V(aborted), V(promoted), V(rolled_back), or V(refused).
    - With O(state=retired) V(retired), or V(retiring) where it is not over and has failed for now.
    - V(queued) while it waits until it may begin (O(on_newer)).
    - V(planned) in check mode, V(none) without a release, and with O(state=absent).
  returned: always
  type: str
  sample: promoted
retired:
  description: The version that is retired.
  returned: with O(state=retired)
  type: str
  sample: v1
queries:
  description:
    - What was asked for evidence, or would be. PromQL with O(analysis.source=prometheus), else the paths that are asked
      of each proxy. Then the selectors of O(analysis.counters).
  returned: when it is known which service it is, and not with O(state=retired) or O(state=absent)
  type: list
  elements: str
finished:
  description: Whether nothing more will happen by calling again.
  returned: always
  type: bool
weight:
  description: The canary's weight in percent.
  returned: success
  type: int
step:
  description: The step that the release is at, from 1.
  returned: when there is a release
  type: int
release_id:
  description: Identifies the release.
  returned: when there is a release
  type: str
  sample: 9f3c21ab
checks:
  description: The last answer of each of O(analysis.checks) in the present step. In check mode, the answer now.
  returned: when there are any
  type: list
  elements: dict
  contains:
    name:
      description: Of the check.
      type: str
    state:
      description: V(ok), V(failed), V(unknown) where it could not be answered, or V(running) for a Job.
      type: str
    text:
      description: The exact query, URL or Job, what it answered, and what it has to be.
      type: str
    failures:
      description: How many times in a row it has failed.
      type: int
counters:
  description: What each of O(analysis.counters) has counted so far. In a release they are in RV(verdict).
  returned: in check mode, when there are any
  type: list
  elements: dict
  contains:
    name:
      description: Of the counter.
      type: str
    queries:
      description: What is asked, for each version the total and the bad ones.
      type: list
      elements: str
    text:
      description: What both versions have counted, or why that is not known.
      type: str
      sample: v2 has no series of it yet, v1 14 bad of 5,210
verdict:
  description: The last verdict with every number that led to it. C(also) has that of each metric beside errors.
  returned: when the release was judged
  type: dict
events:
  description: What happened, oldest first.
  returned: always
  type: list
  elements: dict
  sample: [{time: "13:37:01", text: "step 1/3  10 %  weight 10 % in 5 of 5 proxies after 0.14 s"}]
findings:
  description:
    - What the preflight found, refusals first.
    - Without check mode, RV(events) that begin with WARNING, or C(msg), say the same.
  returned: in check mode, before a release has begun
  type: list
  elements: dict
  contains:
    refuse:
      description: Whether it keeps a release from beginning.
      type: bool
    text:
      description: What is expected, what is there, and what to do.
      type: str
plan:
  description: Every write to come, with its weights, its patch, and what its step needs to pass, also as C(text).
  returned: in check mode
  type: list
  elements: dict
  contains:
    pass:
      description:
        - Of a canary as good as the stable version. C(share) of the releases (0..1) that pass the step within
          O(analysis.max_wait), and the canary's C(requests) and the C(seconds) that it takes.
        - Both as C(median) and C(most), what half and 9 of 10 of the releases need; null where so many do not pass.
      type: dict
      sample: {share: 1.0, requests: {median: 850, most: 850}, seconds: {median: 85, most: 85}}
    catches:
      description:
        - Of a canary that is 2, 5 and 10 C(times) as bad from this step on. Its C(rate), C(within) for one that the
          tolerance allows, the C(share) that is proven in this step, and C(requests), C(seconds) and C(failures) that
          users see until then, each as C(median) and C(most).
      type: list
      elements: dict
forecast:
  description: By simulation (C(runs) of each kind), how releases go at the traffic of now (C(requests_per_second)).
  returned: in check mode, unless a release would end
  type: dict
  contains:
    metrics:
      description:
        - What is judged, with the stable version's C(rate). Beside it C(not_judged), by name, why something is not.
      type: list
      elements: dict
    endings:
      description:
        - Whole releases of a canary that is 1, 2, 5 and 10 C(times) as bad from its first request. Which part of them
          is C(promoted), C(aborted) and C(held), after how many C(seconds), and how many C(failures) users see.
      type: list
      elements: dict
plan_warnings:
  description: What the plan cannot decide, and what to do.
  returned: in check mode, unless a release would end
  type: list
  elements: str
goal:
  description: The answer to O(goal).
  returned: in check mode, before a release has begun, with O(goal)
  type: dict
  contains:
    met:
      description: Whether O(steps) meet it (C(text) is the wish in words).
      type: bool
    proposal:
      description: C(steps) that meet it, and how releases of a C(good) and of the C(bad) canary end by them; or null.
      type: dict
    levers:
      description: What would help where no steps meet it.
      type: list
      elements: str
floors:
  description: Which floors would be raised, and the pods that each step needs, a line each.
  returned: in check mode, unless a release would end
  type: list
  elements: str
lines:
  description: All of the plan for a person.
  returned: in check mode
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ACCESS_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._forget_world import ForgettingLiveWorld, forget
from ansible_collections.progressive.istio.plugins.module_utils._lease import stored_options
from ansible_collections.progressive.istio.plugins.module_utils._module import (
    CANARY_SPEC,
    RELEASE_SPEC,
    connect,
    one_line_errors,
    target,
    want,
)
from ansible_collections.progressive.istio.plugins.module_utils._orphan import as_begun, kept
from ansible_collections.progressive.istio.plugins.module_utils._preview import preview
from ansible_collections.progressive.istio.plugins.module_utils._release import Release
from ansible_collections.progressive.istio.plugins.module_utils._report import Journal, result_of
from ansible_collections.progressive.istio.plugins.module_utils._retire_world import RetiringLiveWorld, retire
from ansible_collections.progressive.istio.plugins.module_utils._run import Run
from ansible_collections.progressive.istio.plugins.module_utils._sampled_world import queries, world_of


def main() -> None:
    spec = {**ACCESS_SPEC, **RELEASE_SPEC, **CANARY_SPEC, "run": {"type": "dict"}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    params = module.params
    given = params["run"] or {}
    journal = Journal(given.get("journal", ""))
    with one_line_errors(module, phase="refused", finished=True, events=journal.events):
        if params["on_orphan"]:
            params = as_begun(params, stored_options(connect(module), params["namespace"], params["name"]))
        wish = want(params)
        run = Run(given.get("identity"), kept(params, {**RELEASE_SPEC, **CANARY_SPEC}))
        if wish.state == "retired":
            leaving = RetiringLiveWorld(connect(module), target(params), run, journal.say, wish.stable)
            module.exit_json(**retire(leaving, wish, journal, module.check_mode))
        if wish.state == "absent":
            forgetful = ForgettingLiveWorld(connect(module), target(params), run, journal.say)
            module.exit_json(**forget(forgetful, wish, journal, module.check_mode))
        world = world_of(connect(module), target(params), run, journal.say, params["analysis"])
        own = [selector for counter in wish.counters for selector in (counter.total, counter.bad)]
        if module.check_mode:
            result = {"failed": False, "finished": True, **preview(world, wish)}
            asked = [f"check {one['name']}: {one['state']}: {one['text']}" for one in result.get("checks", [])]
            asked += [f"counter {one['name']}: {one['text']}" for one in result.get("counters", [])]
            for text in (result["msg"], *result.get("lines", ()), *asked):
                journal.say(text)
            module.exit_json(events=journal.events, queries=[*queries(world), *own], **result)
        journal.clock = world.now
        before = (given.get("calls", 0) > 0, given.get("release", ""), given.get("elapsed", 0.0))
        release = Release(world, wish, journal.say, *before)
        outcome = release.run(given.get("budget", 0.0))
        module.exit_json(**result_of(outcome, journal.events), queries=[*queries(world), *own])


if __name__ == "__main__":
    main()
