# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation of all modules of this collection has in common. The access options are kubernetes.core's."""

from __future__ import annotations


class ModuleDocFragment:
    """Use it as C(progressive.istio.common), after C(kubernetes.core.k8s_auth_options)."""

    # Requirements, notes and the attributes that are the same for every module.
    DOCUMENTATION = r"""
requirements:
  - kubernetes >= 29.0.0
notes:
  - The module talks to the API server from the host that runs the task, in most cases the controller itself.
  - Access options that C(module_defaults) sets for the action group C(kubernetes.core.k8s) count here as well.
attributes:
  action_group:
    description: Use C(group/progressive.istio.istio) in C(module_defaults) to set the access options once for all.
    support: full
    membership:
      - progressive.istio.istio
  platform:
    description: The systems on which the module runs.
    support: full
    platforms: posix
"""

    # For modules that only read.
    READ_ONLY = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it returns otherwise.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would change, in diff mode.
    support: none
    details:
      - The module changes nothing.
"""

    # For modules that write. A module whose check mode is more than a prediction says so in its own C(attributes).
    WRITES = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it would change, without a write.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would change, in diff mode.
    support: full
"""
