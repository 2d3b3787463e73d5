# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of plugins/: imports go downwards only, one file knows Kubernetes, and what is pure stays pure.

Modules and action plugins stand on top. Of the files in module_utils those in OUTSIDE touch the world outside; every
other one is pure: it imports none of them, and of the standard library only what computes.
"""

from __future__ import annotations

import ast

import pytest
from environment import CHECKOUT

PLUGINS = CHECKOUT / "plugins"
PACKAGE = "ansible_collections.progressive.istio.plugins."
SEAM = "module_utils/_cluster"
OUTSIDE = {
    f"module_utils/{name}"
    for name in (
        "_capacity_world",
        "_checks_world",
        "_cluster",
        "_counters_world",
        "_events",
        "_find",
        "_floors_world",
        "_forget_world",
        "_fleet",
        "_lease",
        "_past_world",
        "_mesh",
        "_module",
        "_preview",
        "_prometheus_http",
        "_report",
        "_retire_world",
        "_rights",
        "_roots",
        "_run",
        "_sampled_world",
        "_status",
        "_weight",
        "_world",
    )
}
COMPUTES = {
    "__future__",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "math",
}
COMPUTES |= {"bisect", "datetime", "enum", "fractions", "operator", "re", "statistics", "typing", "urllib.parse"}
ALSO = {
    "module_utils/_calendar": {"zoneinfo"},  # of the host; what it says of them is computed
    "module_utils/_begin": {"secrets"},  # a release has a random identifier
    "module_utils/_trial": {"random"},  # with a seed, it computes
}
ACCESS = "ansible_collections.kubernetes.core.plugins.action"  # the base class that finds kubeconfig files
KUBERNETES = ("kubernetes", "ansible_collections.kubernetes", "urllib3", "websocket")


def sources() -> dict[str, ast.Module]:
    """Every plugin as `folder/name`."""
    paths = sorted(PLUGINS.rglob("*.py"))
    return {p.relative_to(PLUGINS).with_suffix("").as_posix(): ast.parse(p.read_text("utf-8")) for p in paths}


def imported(name: str, tree: ast.Module) -> set[str]:
    """Dotted names of all that a file imports, also inside functions; relative imports are spelled out."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = PACKAGE + name.rpartition("/")[0].replace("/", ".")
            base = ".".join(filter(None, (folder, node.module))) if node.level == 1 else node.module or ""
            assert node.level <= 1, f"{name}: import from further up"
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def ours(name: str, tree: ast.Module) -> set[str]:
    """Those plugins of this collection that a file imports, as `folder/name`."""
    parts = [found.removeprefix(PACKAGE).split(".") for found in imported(name, tree) if found.startswith(PACKAGE)]
    return {"/".join(part[:2]) for part in parts}


TREES = sources()
UTILS = sorted(name for name in TREES if name.startswith("module_utils/"))
PURE = [name for name in UTILS if name not in OUTSIDE]


def matches(found: str, module: str) -> bool:
    return found == module or found.startswith(f"{module}.")


def test_there_is_something_to_look_at() -> None:
    assert SEAM in UTILS
    assert len(PURE) > 4
    assert {"action", "modules", "module_utils"} <= {name.partition("/")[0] for name in TREES}


@pytest.mark.parametrize("name", [name for name in TREES if name != SEAM])
def test_only_the_seam_knows_kubernetes(name: str) -> None:
    found = {one for one in imported(name, TREES[name]) if any(matches(one, module) for module in KUBERNETES)}
    if name.startswith("action/"):
        found = {one for one in found if not matches(one, ACCESS)}
    assert found == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_files_compute_only(name: str) -> None:
    allowed = COMPUTES | ALSO.get(name, set())
    others = {found for found in imported(name, TREES[name]) if not found.startswith(PACKAGE)}
    assert {found for found in others if not any(matches(found, module) for module in allowed)} == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_files_import_pure_files(name: str) -> None:
    assert ours(name, TREES[name]) & OUTSIDE == set()


@pytest.mark.parametrize("name", UTILS)
def test_shared_code_does_not_know_what_stands_on_it(name: str) -> None:
    assert [found for found in ours(name, TREES[name]) if not found.startswith("module_utils/")] == []


def test_the_seam_imports_no_file_that_stands_on_it() -> None:
    assert ours(SEAM, TREES[SEAM]) & OUTSIDE == set()


def test_imports_have_no_cycle() -> None:
    waiting = {name: ours(name, TREES[name]) & TREES.keys() - {name} for name in TREES}
    while free := [name for name, needs in waiting.items() if not needs]:
        waiting = {name: needs - set(free) for name, needs in waiting.items() if name not in free}
    assert waiting == {}


@pytest.mark.parametrize("name", UTILS)
def test_shared_code_is_private_and_says_so(name: str) -> None:
    assert name.rpartition("/")[2].startswith("_")
    assert "Private" in (ast.get_docstring(TREES[name]) or "")


def below(name: str) -> set[str]:
    """All that a file imports of ours, directly or through others."""
    reached: set[str] = set()
    waiting = {name}
    while waiting:
        found = {found for one in waiting for found in ours(one, TREES[one]) & TREES.keys()}
        waiting = found - reached
        reached |= found
    return reached


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("action/")])
def test_action_plugins_stay_out_of_the_cluster(name: str) -> None:
    assert SEAM not in below(name)


def test_what_is_said_to_touch_the_outside_does() -> None:
    idle = [name for name in OUTSIDE & TREES.keys() if not reaches_out(name)]
    assert idle == []


def reaches_out(name: str) -> bool:
    """Whether a file uses the seam, or more of the standard library than what computes."""
    others = {found for found in imported(name, TREES[name]) if not found.startswith(PACKAGE)}
    plain = all(any(matches(found, module) for module in COMPUTES) for found in others)
    return SEAM in below(name) or not plain
