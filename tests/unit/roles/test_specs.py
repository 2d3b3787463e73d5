# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every variable of a role has a default and a description, and the two agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.progressive.istio.plugins.doc_fragments.common import ModuleDocFragment
from ansible_collections.progressive.istio.plugins.doc_fragments.plan import ModuleDocFragment as PlanFragment

ROOT = Path(__file__).parents[3]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def _specs(role: str) -> dict[str, Any]:
    specs: dict[str, Any] = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())
    return specs["argument_specs"]  # type: ignore[no-any-return]


def _defaults(role: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text())  # type: ignore[no-any-return]


def test_roles_are_there() -> None:
    assert ROLES == ["app", "canary", "istio", "load", "namespace"]


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_specs_agree(role: str) -> None:
    defaults = _defaults(role)
    options = {name: option for entry in _specs(role).values() for name, option in entry["options"].items()}
    options |= _specs(role)["main"]["options"]
    assert set(defaults) == {name for name, option in options.items() if not option.get("required")}
    for name, value in defaults.items():
        assert name.startswith(f"{role}_")
        if isinstance(value, str) and "{{" in value:
            assert "default" not in options[name], f"{name}: its default is worked out, describe it in words"
        else:
            assert options[name].get("default") == value, name


def _options(options: dict[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, option in options.items():
        found.append((f"{where}.{name}", option))
        found += _options(option.get("options", {}), f"{where}.{name}")
    return found


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described(role: str) -> None:
    for entry, spec in _specs(role).items():
        assert spec["short_description"]
        for name, option in _options(spec["options"], entry):
            assert option.get("description"), name
            assert option.get("type"), name
            assert option["type"] != "list" or option.get("elements"), name


def test_canary_hands_on_every_option_of_the_module() -> None:
    module = (ROOT / "plugins" / "modules" / "istio_canary.py").read_text()
    options = yaml.safe_load(module.split('DOCUMENTATION = r"""')[1].split('"""')[0])["options"]
    for fragment in (ModuleDocFragment.RELEASE, ModuleDocFragment.AUDIENCE):
        options |= yaml.safe_load(fragment)["options"]
    options |= yaml.safe_load(PlanFragment.DOCUMENTATION)["options"]
    (task,) = yaml.safe_load((ROOT / "roles" / "canary" / "tasks" / "release.yml").read_text())
    assert set(task["progressive.istio.istio_canary"]) == set(options) - {"run", "on_orphan"}
    ours = _specs("canary")["main"]["options"]
    for role_option, module_option in (("canary_analysis", "analysis"), ("canary_steps", "steps")):
        assert set(ours[role_option]["options"]) == set(options[module_option]["suboptions"])
