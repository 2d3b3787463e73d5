# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the metadata says is what is there: versions, action group, redirects, variables of the roles."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from environment import CHECKOUT

MODULES = sorted(path.stem for path in (CHECKOUT / "plugins" / "modules").glob("*.py"))
ACTIONS = sorted(path.stem for path in (CHECKOUT / "plugins" / "action").glob("*.py"))
ROLES = sorted(path.name for path in (CHECKOUT / "roles").glob("*") if path.is_dir())


def load(*parts: str) -> Any:
    return yaml.safe_load(CHECKOUT.joinpath(*parts).read_text("utf-8"))


def options(role: str) -> dict[str, dict[str, Any]]:
    """Options of all entry points of a role."""
    specs = load("roles", role, "meta", "argument_specs.yml")["argument_specs"]
    return {name: option for spec in specs.values() for name, option in spec.get("options", {}).items()}


def defaults(role: str) -> dict[str, Any]:
    found: dict[str, Any] = load("roles", role, "defaults", "main.yml") or {}
    return found


def test_there_are_modules_and_roles() -> None:
    assert MODULES
    assert ROLES


def test_the_changelog_is_of_this_version() -> None:
    releases = load("changelogs", "changelog.yaml")["releases"]
    newest = max(releases, key=lambda version: tuple(int(part) for part in version.split(".")))
    assert load("galaxy.yml")["version"] == newest
    assert f"\nv{newest}\n" in (CHECKOUT / "CHANGELOG.rst").read_text("utf-8")


def test_the_changelog_names_every_module() -> None:
    releases = load("changelogs", "changelog.yaml")["releases"].values()
    assert sorted(module["name"] for release in releases for module in release.get("modules", [])) == MODULES


def test_the_action_group_lists_every_module() -> None:
    group = load("meta", "runtime.yml")["action_groups"]["istio"]
    assert sorted(member for member in group if isinstance(member, str)) == MODULES
    assert [member for member in group if not isinstance(member, str)] == [
        {"metadata": {"extend_group": ["kubernetes.core.k8s"]}}
    ]


def test_every_module_has_an_action_plugin_of_its_own() -> None:
    """One that is redirected would share its module_defaults with every other module that is."""
    assert ACTIONS == MODULES
    assert "plugin_routing" not in load("meta", "runtime.yml")


@pytest.mark.parametrize("module", MODULES)
def test_modules_share_their_documentation(module: str) -> None:
    source = (CHECKOUT / "plugins" / "modules" / f"{module}.py").read_text("utf-8")
    documentation = yaml.safe_load(source.partition('DOCUMENTATION = r"""')[2].partition('"""')[0])
    assert documentation["module"] == module
    assert "kubernetes.core.k8s_auth_options" in documentation["extends_documentation_fragment"]


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_name_the_same_variables(role: str) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    assert set(defaults(role)) == set(options(role)) - required


@pytest.mark.parametrize("role", ROLES)
def test_documented_defaults_are_the_defaults(role: str) -> None:
    documented = {name: option["default"] for name, option in options(role).items() if "default" in option}
    real = defaults(role)
    assert {name: value for name, value in documented.items() if value != real.get(name)} == {}


@pytest.mark.parametrize("role", ROLES)
def test_options_are_described(role: str) -> None:
    assert [
        name for name, option in options(role).items() if not option.get("description") or "type" not in option
    ] == []


@pytest.mark.parametrize("role", ROLES)
def test_variables_begin_with_the_name_of_the_role(role: str) -> None:
    assert [name for name in defaults(role) if not name.startswith(f"{role}_")] == []


def test_the_shipped_rights_are_those_of_the_documentation() -> None:
    """Every verb and resource of docs/rbac.yml stands in a row of the table in docs/traffic.md."""
    text = (CHECKOUT / "docs" / "traffic.md").read_text("utf-8")
    table = text.partition("## Permissions")[2].partition("\n## ")[0]
    roles = load("docs", "rbac.yml")["items"]
    names = {role["metadata"]["name"].removeprefix("progressive-istio-") for role in roles}
    assert names == {
        "mesh",
        "statistics",
        "istiod",
        "prometheus",
        "jobs",
        "workloads",
        "reconcile",
        "release",
        "forget",
    }
    for rule in (rule for role in roles for rule in role["rules"]):
        for resource in rule["resources"]:
            lines = [line for line in table.splitlines() if re.search(rf"\b{resource}\b", line)]
            assert any(set(rule["verbs"]) <= set(re.findall(r"[a-z]+", line)) for line in lines), (resource, rule)
