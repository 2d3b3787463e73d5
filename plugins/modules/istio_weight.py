#!/usr/bin/python
# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_weight
short_description: Set the weights of one Istio route, and see them in the proxies
version_added: 0.1.0
author: The progressive.istio authors (@progressive-istio)
description:
  - Sets the weights of one route of a VirtualService (C(http), C(tcp) or C(tls)), or of one rule of an HTTPRoute, with
    a JSON Patch that touches nothing else. Other routes, matches, retries, mirrors, labels and annotations stay as they
    are, whoever wrote them.
  - Then reads the route back from the Envoy proxies that carry it. The task is done when all of them run the weights.
    It fails, and names the proxies, when one does not within O(verify_timeout).
  - When the object changes between reading and writing, it is read and decided again, five times at the most.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - progressive.istio.common
  - progressive.istio.common.writes
options:
  namespace:
    description: Namespace of the route object.
    type: str
    required: true
  name:
    description:
      - Name of the route object. For weights that stand in a delegate (a VirtualService without hosts), the delegate's.
        It is verified by the roots that delegate to it.
    type: str
    required: true
  kind:
    description: Kind of the route object.
    type: str
    choices: [VirtualService, HTTPRoute]
    default: VirtualService
  route:
    description:
      - Name of the route, as in C(spec.http[].name), or of the rule. Routes of C(tcp) and C(tls) have no names.
      - Without it, the one route that has exactly the destinations of O(weights), first among C(http), then C(tcp),
        then C(tls). More than one such route is an error.
    type: str
    default: ''
  weights:
    description:
      - Weight of each destination, whole numbers from 0 up, not all 0. One gets its weight divided by the sum of all.
      - Destinations of a VirtualService go by their subset, backends of an HTTPRoute by the name of their Service.
      - With O(route), destinations that are not named here keep their weight.
    type: dict
    required: true
  verify:
    description:
      - V(proxies) reads the route from the proxies of the mesh that have it, by port-forward to their admin port. Of
        more than 32 it reads the gateways and a sample, and takes istiod's word for the others.
      - V(istiod) takes istiod's word for all of them (C(/debug/syncz) of every replica). It tells who has not
        acknowledged or has rejected what was sent, not what is in it.
      - V(none) trusts the API server.
    type: str
    choices: [proxies, istiod, none]
    default: proxies
  verify_timeout:
    description: How long all proxies may take, in seconds.
    type: float
    default: 30.0
"""

EXAMPLES = r"""
- name: Give v2 a tenth of the traffic
  progressive.istio.istio_weight:
    namespace: namespace-1
    name: app-1
    weights:
      v1: 90
      v2: 10

- name: All traffic back to v1, in the route named "main"
  progressive.istio.istio_weight:
    namespace: namespace-1
    name: app-1
    route: main
    weights: {v1: 100, v2: 0}

- name: The same by the Gateway API, where each version is a Service
  progressive.istio.istio_weight:
    namespace: namespace-1
    name: app-1
    kind: HTTPRoute
    weights: {app-1-v1: 100, app-1-v2: 0}
"""

RETURN = r"""
before:
  description: Effective weights of the route before, by subset.
  returned: success
  type: dict
  sample: {v1: 100, v2: 0}
after:
  description: Effective weights of the route afterwards, by subset.
  returned: success
  type: dict
  sample: {v1: 90, v2: 10}
proxies:
  description:
    - How many of those that were read have the route, and how many run the weights; and of how many others istiod says
      that they have all it sent (C(by_istiod)). All 0 in check mode and with O(verify=none).
    - Where no port can be forwarded, the change is seen in what proxies send (C(by_requests)), and a warning says so.
  returned: success
  type: dict
  sample: {asked: 5, programmed: 5, lagging: [], by_istiod: 0, by_requests: 0}
seconds:
  description: Time from the first read until the last proxy ran the weights.
  returned: success
  type: float
  sample: 0.31
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.progressive.istio.plugins.module_utils._cluster import ACCESS_SPEC
from ansible_collections.progressive.istio.plugins.module_utils._module import connect, one_line_errors
from ansible_collections.progressive.istio.plugins.module_utils._weight import Wish, set_weights, whole_weights


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ACCESS_SPEC,
            "namespace": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["VirtualService", "HTTPRoute"], "default": "VirtualService"},
            "route": {"type": "str", "default": ""},
            "weights": {"type": "dict", "required": True},
            "verify": {"type": "str", "choices": ["proxies", "istiod", "none"], "default": "proxies"},
            "verify_timeout": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    with one_line_errors(module):
        wish = Wish(
            module.params["namespace"],
            module.params["name"],
            module.params["kind"],
            module.params["route"],
            whole_weights(module.params["weights"], module.params["kind"]),
            module.params["verify"],
            module.params["verify_timeout"],
        )
        result = set_weights(connect(module), wish, module.check_mode)
        for warning in result.pop("warnings_"):
            module.warn(warning)
        module.exit_json(failed=False, **result)


if __name__ == "__main__":
    main()
