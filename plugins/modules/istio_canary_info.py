#!/usr/bin/python
# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_canary_info
short_description: What a release is doing, and why; or which releases there are
version_added: 0.1.0
author: The progressive.istio authors (@progressive-istio)
description:
  - Reads the record of a release, its evidence and lease, and the weights four times. What the plan says (intended),
    what the route object says (applied), what the proxies run (programmed), and where the requests went (observed).
  - Without O(name) it lists the releases of a namespace or of the cluster.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - progressive.istio.common
  - progressive.istio.common.read_only
  - progressive.istio.common.release
options:
  namespace:
    description: Namespace of the service. Without it, and without O(name), all are meant.
    type: str
    default: ''
  name:
    description: Name of the Service. Without it, RV(releases) is all there is in the result.
    type: str
    default: ''
  canary_version:
    description: Only to find the right C(http) route where no release is on record.
    type: str
    default: ''
  seconds:
    description: How long the requests are counted for the observed weights, in seconds.
    type: float
    default: 2.0
"""

EXAMPLES = r"""
- name: Look at a release
  progressive.istio.istio_canary_info:
    namespace: namespace-1
    name: app-1
  register: release

- name: All releases of the cluster
  progressive.istio.istio_canary_info:
  register: all
"""

RETURN = r"""
releases:
  description:
    - Every service that a release was run for, found by its Lease, in the order of namespace and name.
  returned: without O(name)
  type: list
  elements: dict
  contains:
    namespace:
      description: Of the service.
      type: str
    name:
      description: Of the service.
      type: str
    phase:
      description: As in RV(phase), or V(unknown) where RV(releases[].reason) says why it cannot be read.
      type: str
    reason:
      description: Why it is held or was taken back.
      type: str
    stable:
      description: The version that has, or had, the traffic.
      type: str
    canary:
      description: The version that gets it.
      type: str
    weight:
      description: The canary's, in percent.
      type: int
    step:
      description: The present one; 1 is the first.
      type: int
    steps:
      description: How many there are.
      type: int
    lease:
      description:
        - Who runs it (C(holder), empty for nobody), how many seconds ago that one was last heard of (C(age)), and
          whether that is too long (C(late)), so the run may have died.
      type: dict
exists:
  description: Whether a release is on record.
  returned: success
  type: bool
queries:
  description:
    - What was asked for evidence, or would be. PromQL with O(analysis.source=prometheus), else the paths that are asked
      of each proxy.
  returned: success
  type: list
  elements: str
routed:
  description: Whether the service has a route object. Without one, only RV(versions) tells something.
  returned: success
  type: bool
phase:
  description: V(progressing), V(held), V(waiting), V(aborted), V(promoted), V(rolled_back), or V(none).
  returned: success
  type: str
weights:
  description: Intended and applied weights by version, how many proxies run them, and each version's share of requests.
  returned: success
  type: dict
coverage:
  description:
    - Of the requests that the versions' own proxies C(served) while it looked, how many the clients' proxies were
      C(seen) to send, and the C(share) of them (0..1), None if too few came in to tell.
  returned: success
  type: dict
  contains:
    seen:
      description: Requests that the clients' proxies counted.
      type: int
    served:
      description: Requests that the versions' proxies counted.
      type: int
    share:
      description: The former by the latter, at most 1.
      type: float
requests_per_second:
  description: Requests to all versions while it looked.
  returned: success
  type: float
versions:
  description:
    - Pods of each version, ready ones, and the hash of their template.
    - C(proxies) is who knows the service. How many were C(asked), how many have a C(healthy) endpoint of the version,
      and who is C(without) one. A route that sends to the version is answered with 503 there.
  returned: success
  type: dict
evidence:
  description:
    - The windows (step, weight, seconds, n_c, x_c, n_b, x_b), the verdict on them by O(analysis), and the same for a
      person, three lines at the most (C(lines)).
  returned: success
  type: dict
lease:
  description: Who runs the release, and since when the lease was not renewed. None without one.
  returned: success
  type: dict
findings:
  description: What would keep the weights from the clients, refusals first, as in M(progressive.istio.istio_canary).
  returned: success
  type: list
  elements: dict
  contains:
    refuse:
      description: Whether it keeps a release from beginning.
      type: bool
    text:
      description: What is expected, what is there, and what to do.
      type: str
record:
  description:
    - The record. None without one.
    - C(approvals) is who has approved which step. C(floors) are the floors that it has set, and what they were before.
    - C(begun) is false while its first weight waits for pods.
    - C(previous) is how the release before it ended (C(id), C(stable), C(canary), C(phase), C(at), C(by), C(reason)),
      and after it older ones whose canary is refused still.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ACCESS_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._fleet import releases
from ansible_collections.progressive.istio.plugins.module_utils._module import (
    RELEASE_SPEC,
    connect,
    one_line_errors,
    target,
    tolerance,
)
from ansible_collections.progressive.istio.plugins.module_utils._plan import ReleaseError, Want
from ansible_collections.progressive.istio.plugins.module_utils._run import Run
from ansible_collections.progressive.istio.plugins.module_utils._sampled_world import queries, world_of
from ansible_collections.progressive.istio.plugins.module_utils._status import info


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ACCESS_SPEC,
            **RELEASE_SPEC,
            "namespace": {"type": "str", "default": ""},
            "name": {"type": "str", "default": ""},
            "seconds": {"type": "float", "default": 2.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    with one_line_errors(module):
        if not params["name"]:
            module.exit_json(failed=False, changed=False, releases=releases(connect(module), params["namespace"]))
        if not params["namespace"]:
            raise ReleaseError("namespace is empty, and name is not; say in which namespace the Service is")
        analysis = params["analysis"]
        wish = Want(params["canary_version"], tolerance=tolerance(analysis), max_wait=analysis["max_wait"])
        world = world_of(connect(module), target(params), Run(), module.warn, analysis)
        found = info(world, wish, params["seconds"])
        module.exit_json(failed=False, changed=False, queries=queries(world), **found)


if __name__ == "__main__":
    main()
