# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Istio on a lab cluster: the variables that tell a playbook what this lab has, and a quick install for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import plain
from .paths import ISTIO, REGISTRY, Places
from .shell import logged, write


def values(mode: str) -> dict[str, object]:
    """Helm values. Stock Envoy has none of Istio's filters, so istiod must not send them; the rest is as it comes."""
    common: dict[str, object] = {
        "global": {
            "imagePullPolicy": "IfNotPresent",
            "proxy": {"resources": {"requests": {"cpu": "10m", "memory": "40Mi"}}},
        },
        "pilot": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}, "autoscaleEnabled": False},
    }
    if mode == "plain":
        return common
    return {
        **common,
        "telemetry": {"enabled": False},
        "pilot": {
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
            "autoscaleEnabled": False,
            "env": {
                "PILOT_ENABLE_METADATA_EXCHANGE": "false",
                "PILOT_ENABLE_ALPN_FILTER": "false",
                "PILOT_DISABLE_MX_ALPN": "true",
            },
        },
        "meshConfig": {
            "enableAutoMtls": True,
            "defaultConfig": {"proxyStatsMatcher": {"inclusionPrefixes": ["cluster.outbound", "cluster.inbound"]}},
        },
    }


def hub(mode: str) -> str:
    return f"{REGISTRY}/istio" if mode == "made" else plain.ISTIO_HUB


def variables(places: Places, mode: str) -> str:
    """The istio_* variables that fit this lab, as a YAML file (JSON is YAML)."""
    facts = {
        "istio_method": "helm",
        "istio_version": ISTIO,
        "istio_hub": hub(mode),
        "istio_tag": ISTIO,
        "istio_charts": str(places.built / "charts"),
        "istio_istioctl": str(places.bin / "istioctl"),
        "istio_helm": str(places.bin / "helm"),
        "istio_values": values(mode),
        "lab_gateway_api": str(places.gateway_api),
    }
    return "---\n" + json.dumps(facts, indent=2) + "\n"


def install(places: Places, prefix: Sequence[str], env: Mapping[str, str], log: Path, mode: str) -> None:
    """Istio by its charts, base and istiod; about 10 s. A second time it is an upgrade that changes nothing."""
    chosen = values(mode)
    base = chosen["global"]
    assert isinstance(base, dict)
    chosen["global"] = {**base, "hub": hub(mode), "tag": ISTIO}
    file = log.with_name("istio-values.yml")
    write(file, json.dumps(chosen))
    for release, chart, arguments in (
        ("istio-base", "base", ["--set", "defaultRevision=default"]),
        ("istiod", "istiod", ["-f", str(file), "--wait", "--timeout", "120s"]),
    ):
        logged(
            [
                *prefix,
                "helm",
                "upgrade",
                "--install",
                release,
                places.built / "charts" / chart,
                "-n",
                "istio-system",
                "--create-namespace",
                *arguments,
            ],
            log,
            f"helm install of {release}",
            env=env,
            timeout=150,
        )
