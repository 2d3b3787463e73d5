# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls the module istio_weight as kubernetes.core calls its own: kubeconfig files are found and decrypted here."""

from __future__ import annotations

from ansible_collections.kubernetes.core.plugins.action.k8s_info import ActionModule as KubernetesAction


class ActionModule(KubernetesAction):
    """A class of its own and no redirect: to module_defaults all modules that share an action plugin are one."""
